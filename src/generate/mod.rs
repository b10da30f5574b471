//! The case's events and reference table, generated: seeded, deterministic, endless if wanted.
//!
//! `deltajoin generate`, the demo, the tests and the benchmarks all publish the same stream, so
//! that a figure of one can be compared with another's. A record is a pure function of the seed
//! and of its position in the stream: a retry only names the position that it repeats, so memory
//! does not grow with the stream, and any part of it can be made again.
//!
//! # Layout, in the order of the data
//! * `plan`: what stands at each position.
//! * `record`: the bytes of each record, good or bad.
//! * `reference`: the table that events are joined with.
//! * `pace`, `lines`, `kafka`: where records go, and how fast.
//! * `expected`: what a correct job makes of it all, recomputed from the bytes.
//!
//! # Invariants
//! * Equal options give equal bytes, on every machine and in every release that says nothing else
//!   in the change log.
//! * What is expected is computed from published bytes alone, never from the plan.

mod expected;
#[cfg(feature = "kafka")]
mod kafka;
mod lines;
mod names;
mod pace;
mod plan;
mod record;
mod reference;

pub use expected::{Audit, Differences, Expected, ExpectedCounts, Row};
#[cfg(feature = "kafka")]
pub use kafka::{reference_to_kafka, to_kafka};
pub use lines::to_lines;
pub use pace::{Pace, Written};
pub use plan::{Fault, Kind};
pub use record::{Generator, Record};
pub use reference::{ReferenceRecord, reference_csv, reference_records};

/// What can be said of the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Another seed gives another stream.
    pub seed: u64,
    /// Records in all, retries and bad ones included; `u64::MAX` is a stream without end.
    pub count: u64,
    /// Records a second; 0 is as fast as possible. Event time follows it (10,000/s for 0).
    pub rate: u64,
    /// Partitions of the topic; every record names one of them, evenly.
    pub partitions: i32,
    /// The part of all records that repeat an earlier event.
    pub retry_share: f64,
    /// A retry comes at most this many records after the event.
    pub retry_distance: u64,
    /// The part of the retries that carry another `item_name` than the event did.
    pub changed_retry_share: f64,
    /// The part of all events that come from one location.
    pub hot_share: f64,
    /// The part of all events whose location the reference table does not have.
    pub orphan_share: f64,
    /// The part of all records that cannot be decoded; every `Fault` occurs.
    pub bad_share: f64,
    /// Rows of the reference table.
    pub reference_rows: u64,
    /// The event time of the first event, in milliseconds since 1970.
    pub start_ms: u64,
    /// Bytes added to every `item_name`: makes records of any size.
    pub padding: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            count: 1_000_000,
            rate: 0,
            partitions: 4,
            retry_share: 0.10,
            retry_distance: 50_000,
            changed_retry_share: 0.0,
            hot_share: 0.30,
            orphan_share: 0.01,
            bad_share: 0.0,
            reference_rows: 10_000,
            // The first moment of 2026 (UTC): a day of events lies in the past of every clock.
            start_ms: 1_767_225_600_000,
            padding: 0,
        }
    }
}

/// Why a stream cannot be made or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option is out of its range.
    #[error("option \"{name}\" is {value}, not {range}")]
    Option {
        /// The field of `Options`.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        range: &'static str,
    },
    /// Writing to the file failed.
    #[error("could not write record {position} of the stream")]
    Write {
        /// The record.
        position: u64,
        /// Why.
        source: std::io::Error,
    },
    /// The client of the broker refuses its settings.
    #[cfg(feature = "kafka")]
    #[error("cannot make a producer for topic \"{topic}\" at \"{brokers}\"")]
    Producer {
        /// The topic.
        topic: String,
        /// `bootstrap.servers`.
        brokers: String,
        /// Why.
        source: Box<rdkafka::error::KafkaError>,
    },
    /// No broker is there.
    #[cfg(feature = "kafka")]
    #[error("no broker at \"{brokers}\" has answered within {seconds} s")]
    Unreachable {
        /// `bootstrap.servers`.
        brokers: String,
        /// How long was waited.
        seconds: u64,
        /// Why.
        source: Box<rdkafka::error::KafkaError>,
    },
    /// The broker does not take a record.
    #[cfg(feature = "kafka")]
    #[error("could not publish to topic \"{topic}\" at \"{brokers}\"")]
    Publish {
        /// The topic.
        topic: String,
        /// `bootstrap.servers`.
        brokers: String,
        /// Why.
        source: Box<rdkafka::error::KafkaError>,
    },
}

impl Options {
    /// Refuses options from which no stream can be made.
    ///
    /// # Errors
    /// Names the first option that is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let shares = [
            ("retry_share", self.retry_share),
            ("changed_retry_share", self.changed_retry_share),
            ("hot_share", self.hot_share),
            ("orphan_share", self.orphan_share),
            ("bad_share", self.bad_share),
            ("retry_share + bad_share", self.retry_share + self.bad_share),
            (
                "hot_share + orphan_share",
                self.hot_share + self.orphan_share,
            ),
        ];
        for (name, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(out_of_range(name, share, "from 0 to 1"));
            }
        }
        // With more retries than that, most would find no event to repeat.
        if self.retry_share > 0.9 {
            return Err(out_of_range("retry_share", self.retry_share, "at most 0.9"));
        }
        if self.partitions < 1 {
            return Err(out_of_range("partitions", self.partitions, "at least 1"));
        }
        if self.reference_rows < 2 {
            return Err(out_of_range(
                "reference_rows",
                self.reference_rows,
                "at least 2",
            ));
        }
        if self.retry_distance < 1 {
            return Err(out_of_range(
                "retry_distance",
                self.retry_distance,
                "at least 1",
            ));
        }
        Ok(())
    }
}

fn out_of_range(name: &'static str, value: impl ToString, range: &'static str) -> Error {
    Error::Option {
        name,
        value: value.to_string(),
        range,
    }
}
