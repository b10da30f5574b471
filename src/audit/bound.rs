//! What the job has bound: which records each epoch is made of, the reference table as it was then,
//! and up to which epoch every sink has written. Nothing is made, claimed or written.
//!
//! It is apart from `source`, because for a job with a log of bindings this decides what is read.
//!
//! # Invariants
//! * How far sinks have come is read first, then where outputs end, and the log last: so each row
//!   that is read is bound, and each that is judged is written.
//! * What cannot be known is refused, with the epoch from which on it can: nothing is guessed.

#[cfg(feature = "kafka")]
use std::collections::BTreeMap;
use std::sync::Arc;

use deltajoin_workers::bindings::Binding;
use deltajoin_workers::ports::Stop;

use crate::audit::Options;
use crate::audit::epochs::{Epochs, Judged};
use crate::audit::reference::{Change, Changes};
use crate::audit::source::Source;
#[cfg(not(feature = "kafka"))]
use crate::audit::source::without_kafka;
use crate::audit::window::Times;
use crate::bindings::{Reader, Records};
use crate::checkpoint::{self, Manifest, Store, read_reference};
use crate::codec::versioned_schema;
use crate::config::{Bindings, Config, EventSource, Target};
#[cfg(feature = "kafka")]
use crate::config::{KafkaTopic, Start};
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka::{BindingReader, Error, Progress, Scan, read_progress};
use crate::failure::Failure;

/// Keys of events that are gone may have been seen in them.
const ALL_EVENTS: &str = "An audit needs all events of the job, also those before --from: \
    which of them are duplicates depends on all before.";

/// What is bound.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) epochs: Epochs,
    /// Changes of the reference table.
    pub(super) changes: Changes,
    /// Whether it is known where reading has started.
    begun: bool,
    /// The last epoch that is bound; 0 if none is.
    newest: u64,
}

/// A job's log of bindings, and how far its sinks had come before anything else was read.
pub(super) struct Log {
    reader: Box<dyn Records>,
    events: EventSource,
    checkpoints: Checkpoints,
    written: u64,
}

/// The checkpoints of the job, the oldest first; or why they cannot be read.
type Checkpoints = Result<(Store, Vec<Manifest>), checkpoint::Error>;

impl Log {
    /// Looks for the log; none if there is none.
    pub(super) fn open(config: &Config) -> Result<Option<Self>, Failure> {
        let Some(reader) = reader(&config.bindings())? else {
            return Ok(None);
        };
        let checkpoints = checkpoints(config);
        let newest = checkpoints.as_ref().ok().and_then(|(_, all)| all.last());
        // What is in a checkpoint is written by all sinks.
        let newest = newest.map_or(0, |manifest| manifest.epoch);
        Ok(Some(Self {
            reader,
            events: config.events.source.clone(),
            written: recorded(config)?.max(newest),
            checkpoints,
        }))
    }

    /// Reads the log.
    pub(super) fn read(mut self, config: &Config, options: &Options) -> Result<Bound, Failure> {
        let stop = Stop::default();
        let to = options.to.unwrap_or(u64::MAX).min(self.written);
        let from = options.from.unwrap_or(0);
        let mut bound = Bound {
            epochs: Epochs::new(Judged { from, to }, Times::new(config)),
            changes: Changes::default(),
            begun: false,
            newest: 0,
        };
        let version = config.join.version_column.as_deref();
        let schema = versioned_schema(&config.reference.schema, version);
        let first = self.reader.first(&stop)?;
        let mut place = None;
        if first > 0 {
            let (store, base) = self.base(first, config, options)?;
            place = Some(base.place()?);
            bound.begin(self.starts()?);
            bound.changes.trimmed = true;
            let reference = match &base.reference {
                Some(entry) => read_reference(store, entry, Arc::clone(&schema))?,
                None => Vec::new(),
            };
            let offsets = base.offsets.iter();
            bound.take(Binding {
                epoch: base.epoch,
                ends: offsets.map(|(partition, end)| (*partition, *end)).collect(),
                reference,
                skipped: Vec::new(),
                clock_ms: base.clock_ms,
            });
        }
        let next = place.as_ref().map_or(0, |place| place.next);
        let mut reader = Reader::new(schema, place);
        let read = self.reader.read(next, &stop, &mut |offset, bytes| {
            reader.take(offset, bytes)?;
            reader
                .take_bindings()
                .into_iter()
                .for_each(|binding| bound.take(binding));
            Ok(bound.epochs.bytes() <= options.memory_bytes / 2)
        });
        read?;
        bound.epochs.settle();
        bound.refuse(self.written, options)?;
        Ok(bound)
    }

    /// What stands for the records of the log that are trimmed.
    fn base(
        &self,
        first: u64,
        config: &Config,
        options: &Options,
    ) -> Result<(&Store, &Manifest), Failure> {
        let job = &config.job;
        let trimmed = format!("the binding log of job {job:?} has been trimmed");
        let (store, all) = self.checkpoints.as_ref().map_err(|error| {
            let detail = error.detail().unwrap_or_default();
            Failure::usage(format!("{trimmed}, and its checkpoints cannot be read"))
                .detail(format!("{error}: {detail}"))
                .hint("Audit where checkpoint.location can be read: it tells what came before.")
        })?;
        let mut reached = all.iter().filter(|manifest| manifest.log.next >= first);
        let base = reached.next().ok_or_else(|| {
            Failure::usage(format!(
                "{trimmed}, and no checkpoint tells what came before"
            ))
            .hint("Let the job make a checkpoint, and judge what comes after it.")
        })?;
        let judged = base.epoch + 1;
        if options.from.is_none_or(|from| from < judged) {
            return Err(Failure::usage(format!(
                "{trimmed}: epochs before {judged} cannot be judged"
            ))
            .detail("What they are made of is not known any more.")
            .hint(format!("Judge the epochs after that: --from {judged}")));
        }
        Ok((store, base))
    }

    /// Where reading has started, when the log does not tell it any more.
    fn starts(&self) -> Result<Vec<(i32, i64)>, Failure> {
        match &self.events {
            // Nobody trims a file.
            EventSource::File { .. } => Ok(vec![(0, file::FIRST_LINE)]),
            #[cfg(feature = "kafka")]
            EventSource::Kafka { topic, start, .. } => starts(topic, *start),
            #[cfg(not(feature = "kafka"))]
            EventSource::Kafka { .. } => Err(without_kafka("[events]")),
        }
    }
}

impl Bound {
    /// The records that are bound, to be read.
    pub(super) fn events(&self, config: &Config) -> Result<Source, Failure> {
        match &config.events.source {
            EventSource::File { path } => {
                // What stands behind the bound lines is of no epoch that is judged.
                let scan = file::Scan::open(path, config.limits.max_record_bytes)?;
                let end = self.epochs.ranges().map(|(_, range)| range.end).next();
                let last = end.unwrap_or(file::FIRST_LINE).unsigned_abs() - 1;
                if scan.last() < last {
                    let (path, line) = (path.clone(), last);
                    let gone = file::Error::LineGone { path, line };
                    return Err(Failure::from(gone).hint(ALL_EVENTS));
                }
                Ok(Source::File(scan))
            }
            #[cfg(feature = "kafka")]
            EventSource::Kafka { topic, .. } => {
                let whole = Scan::connect(topic, Start::Earliest, &Stop::default());
                let scan = whole.and_then(|whole| whole.only(self.epochs.ranges()));
                scan.map(Source::Kafka).map_err(|error| match error {
                    gone @ Error::OffsetGone { .. } => Failure::from(gone).hint(ALL_EVENTS),
                    error => error.into(),
                })
            }
            #[cfg(not(feature = "kafka"))]
            EventSource::Kafka { .. } => Err(without_kafka("[events]")),
        }
    }

    /// Says where reading has started.
    fn begin(&mut self, starts: impl IntoIterator<Item = (i32, i64)>) {
        self.begun = true;
        for (partition, start) in starts {
            self.epochs.begin(partition, start);
        }
    }

    /// Takes the next binding that counts.
    fn take(&mut self, binding: Binding) {
        let Binding {
            epoch,
            ends,
            reference,
            clock_ms,
            ..
        } = binding;
        if epoch <= self.newest {
            // The checkpoint that was begun with has it.
            return;
        }
        let times = &self.epochs.times;
        // What they revise behind the epochs that are judged may have been written.
        if epoch <= self.epochs.judged.to || times.revises() {
            let floor_ms = times.floor(epoch, clock_ms);
            let reference = reference.into_iter();
            self.changes.all.extend(reference.map(|rows| Change {
                epoch,
                floor_ms,
                rows,
            }));
        }
        if self.begun {
            self.newest = epoch;
            self.epochs.push(epoch, clock_ms, ends);
        } else {
            // The first binding of a job says where reading starts.
            self.begin(ends);
        }
    }

    /// Refuses what would say nothing, or take too much memory.
    fn refuse(&self, written: u64, options: &Options) -> Result<(), Failure> {
        let bytes = options.memory_bytes;
        if self.epochs.bytes() > bytes / 2 {
            return Err(Failure::usage(format!(
                "the bindings need more than half of {bytes} bytes"
            ))
            .hint("Give it more, as --memory 4GB; or judge fewer epochs, by --from and --to."));
        }
        let asked = options.from.or(options.to).is_some();
        if self.epochs.found.is_some() || self.newest == 0 && !asked {
            return Ok(());
        }
        let newest = self.newest;
        let primary = "no epoch that is asked for is bound and written by all sinks";
        Err(Failure::usage(primary)
            .detail(format!(
                "Epochs are bound up to {newest}, and all sinks have written up to {written}."
            ))
            .hint("`deltajoin state` shows how far each sink has come."))
    }
}

/// The records of a log; none if it is not there.
fn reader(bindings: &Bindings) -> Result<Option<Box<dyn Records>>, Failure> {
    match bindings {
        Bindings::File(path) => {
            let reader = file::BindingReader::open(path)?;
            Ok(reader.map(|reader| Box::new(reader) as _))
        }
        #[cfg(feature = "kafka")]
        Bindings::Topic(topic) => {
            let reader = BindingReader::open(topic, &Stop::default())?;
            Ok(reader.map(|reader| Box::new(reader) as _))
        }
        #[cfg(not(feature = "kafka"))]
        Bindings::Topic(_) => Err(without_kafka("[events]")),
    }
}

/// Where reading of a topic has started, when the log does not tell it any more.
#[cfg(feature = "kafka")]
fn starts(topic: &KafkaTopic, start: Start) -> Result<Vec<(i32, i64)>, Failure> {
    if start == Start::Latest {
        return Err(
            Failure::usage("where the job began to read is not known any more")
                .detail("Its events.start is \"latest\", and its binding log has been trimmed.")
                .hint("Name the time of its start: --set events.start=2026-01-31T12:00:00Z"),
        );
    }
    let stop = Stop::default();
    let earliest = Scan::connect(topic, Start::Earliest, &stop)?;
    let starts = Scan::connect(topic, start, &stop)?;
    for ((partition, first), (_, start)) in earliest.starts().zip(starts.starts()) {
        if first > 0 && start == first {
            let topic = &topic.topic;
            return Err(Failure::usage(format!(
                "there are no events before {topic}[{partition}]@{first}"
            ))
            .detail("The job may have read some: its binding log has been trimmed.")
            .hint(ALL_EVENTS));
        }
    }
    Ok(starts.starts().collect())
}

/// The least epoch up to which a sink says that it has written everything.
fn recorded(config: &Config) -> Result<u64, Failure> {
    #[cfg(feature = "kafka")]
    let mut topics: BTreeMap<&str, Progress> = BTreeMap::new();
    let mut least = u64::MAX;
    for sink in &config.sinks {
        let epoch = match &sink.target {
            Target::JsonLines { path } => file::recorded(path)?.map_or(0, |(epoch, _)| epoch),
            #[cfg(feature = "kafka")]
            Target::Kafka { topic, .. } => {
                if !topics.contains_key(&*topic.brokers) {
                    let progress = read_progress(&config.progress_topic(topic), &Stop::default());
                    let progress = match progress {
                        Err(Error::UnknownTopic { .. }) => Progress::default(),
                        progress => progress?,
                    };
                    topics.insert(&topic.brokers, progress);
                }
                let shards = topics[&*topic.brokers].of_shards(&sink.name, 0..config.limits.shards);
                shards.into_iter().min().unwrap_or(0)
            }
            #[cfg(not(feature = "kafka"))]
            Target::Kafka { .. } => return Err(without_kafka("a sink")),
        };
        least = least.min(epoch);
    }
    Ok(least)
}

fn checkpoints(config: &Config) -> Checkpoints {
    let store = Store::open_to_read(
        &config.checkpoint.location,
        &config.job,
        checkpoint::Options::default(),
        Arc::default(),
    )?;
    let all = checkpoint::list(&store)?;
    let good = all.into_iter().filter_map(|one| one.manifest.ok());
    let good = good.collect();
    Ok((store, good))
}
