//! What an audit reads: topics and files as they stand, as records with origins.
//!
//! It is apart so that what is judged does not depend on where it was read.
//!
//! # Invariants
//! * Every reading of a source sees the same records, partition by partition.

use std::path::Path;

use deltajoin_workers::batch::Origin;
#[cfg(feature = "kafka")]
use deltajoin_workers::ports::Stop;

use crate::config::{EventSource, Start, Target};
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;

/// The largest line of an output that is taken for a row: more than any job writes.
const ROW_BYTES_MAX: usize = 256 << 20;

/// A record as the source holds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) origin: Origin,
    /// Its key; a line of a file has none.
    pub(super) key: Option<&'a [u8]>,
    /// Its value; a tombstone has none.
    pub(super) value: Option<&'a [u8]>,
}

/// A topic or a file.
#[derive(Debug)]
pub(super) enum Source {
    File(file::Scan),
    #[cfg(feature = "kafka")]
    Kafka(kafka::Scan),
}

impl Source {
    /// The events, up to the end that they have now.
    pub(super) fn of_events(source: &EventSource, bytes_max: usize) -> Result<Self, Failure> {
        match source {
            EventSource::File { path } => Self::of_file(path, bytes_max),
            EventSource::Kafka {
                start: Start::Latest,
                ..
            } => Err(
                Failure::usage("cannot audit a job whose events.start is \"latest\"")
                    .detail("Where the job began to read is not known any more.")
                    .hint("Name the time of its start: --set events.start=2026-01-31T12:00:00Z"),
            ),
            #[cfg(feature = "kafka")]
            EventSource::Kafka { topic, start, .. } => {
                let scan = kafka::Scan::connect(topic, *start, &Stop::default())?;
                Ok(Self::Kafka(scan))
            }
            #[cfg(not(feature = "kafka"))]
            EventSource::Kafka { .. } => Err(without_kafka("[events]")),
        }
    }

    /// What a sink has written, up to the end that it has now; of a job that goes on where it has
    /// ended, a file only as far as that is recorded.
    pub(super) fn of_sink(target: &Target, goes_on: bool) -> Result<Self, Failure> {
        match target {
            Target::JsonLines { path } => {
                let recorded = if goes_on { file::recorded(path)? } else { None };
                let bytes = recorded.map_or(u64::MAX, |(_, bytes)| bytes);
                Ok(Self::File(file::Scan::open_part(
                    path,
                    ROW_BYTES_MAX,
                    bytes,
                )?))
            }
            #[cfg(feature = "kafka")]
            Target::Kafka { topic, .. } => {
                let start = Start::Earliest;
                let scan = kafka::Scan::connect_settled(topic, start, &Stop::default())?;
                Ok(Self::Kafka(scan))
            }
            #[cfg(not(feature = "kafka"))]
            Target::Kafka { .. } => Err(without_kafka("a sink")),
        }
    }

    fn of_file(path: &Path, bytes_max: usize) -> Result<Self, Failure> {
        Ok(Self::File(file::Scan::open(path, bytes_max)?))
    }

    /// How many records there are at most.
    pub(super) fn records_max(&self) -> u64 {
        match self {
            Self::File(scan) => scan.lines(),
            #[cfg(feature = "kafka")]
            Self::Kafka(scan) => scan.records_max(),
        }
    }

    /// Whether records have keys, and a later one takes the place of an earlier one.
    pub(super) fn is_keyed(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    /// Gives each record, until `visit` wants no more.
    pub(super) fn scan(&self, mut visit: impl FnMut(Record<'_>) -> bool) -> Result<(), Failure> {
        match self {
            Self::File(scan) => scan.run(|number, line| visit(of_line(number, line)))?,
            #[cfg(feature = "kafka")]
            Self::Kafka(scan) => {
                scan.run(&Stop::default(), |scanned| visit(of_topic(scanned)))?;
            }
        }
        Ok(())
    }

    /// Gives the records at these places, as far as they are still there.
    pub(super) fn get(
        &self,
        origins: &[Origin],
        mut visit: impl FnMut(Record<'_>),
    ) -> Result<(), Failure> {
        match self {
            Self::File(scan) => {
                let mut left = origins.len();
                if left > 0 {
                    scan.run(|number, line| {
                        let record = of_line(number, line);
                        if origins.contains(&record.origin) {
                            visit(record);
                            left -= 1;
                        }
                        left > 0
                    })?;
                }
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(scan) => {
                scan.get(origins, &Stop::default(), |scanned| {
                    visit(of_topic(scanned))
                })?;
            }
        }
        Ok(())
    }

    /// Names the source.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(scan) => format!("file {}", scan.path().display()),
            #[cfg(feature = "kafka")]
            Self::Kafka(scan) => format!("topic {}", scan.topic().topic),
        }
    }

    /// Names the place of a record.
    pub(super) fn place(&self, origin: Origin) -> String {
        match self {
            Self::File(scan) => format!("{}:{}", scan.path().display(), origin.offset),
            #[cfg(feature = "kafka")]
            Self::Kafka(scan) => {
                let Origin { partition, offset } = origin;
                format!("{}[{partition}]@{offset}", scan.topic().topic)
            }
        }
    }
}

fn of_line(number: u64, line: &[u8]) -> Record<'_> {
    Record {
        origin: Origin {
            partition: 0,
            offset: i64::try_from(number).expect("no file has so many lines"),
        },
        key: None,
        value: Some(line),
    }
}

#[cfg(feature = "kafka")]
fn of_topic(scanned: kafka::Scanned<'_>) -> Record<'_> {
    let kafka::Scanned { origin, key, value } = scanned;
    Record { origin, key, value }
}

/// This build cannot read what the configuration names.
#[cfg(not(feature = "kafka"))]
pub(super) fn without_kafka(table: &str) -> Failure {
    Failure::usage(format!(
        "{table} has type = \"kafka\", and this build is without Kafka"
    ))
    .hint("Build with the feature \"kafka\", which is on by default.")
}
