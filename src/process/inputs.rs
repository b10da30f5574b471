//! Events and reference, connected and then read into the workers' queues.
//!
//! # Invariants
//! * Partitions are dealt to all workers of the job by number: partition `p` is read for worker
//!   `p` modulo the number of workers, and by nobody else.
//! * The reference is read by process 0 alone.

use std::collections::VecDeque;
use std::sync::Arc;
#[cfg(feature = "kafka")]
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::{Binding, Ends};
#[cfg(feature = "kafka")]
use deltajoin_workers::dataflow::reader;
use deltajoin_workers::ports::{Clock, Stop};

use crate::config::{EventSource, ReferenceSource};
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;
#[cfg(feature = "kafka")]
use crate::process::following::Following;
use crate::process::outputs::Rejected;
use crate::process::promises::outlives;
use crate::process::recovery::Ranges;
use crate::process::reloading::Reloading;
use crate::process::{Process, Senders, durable};
use crate::telemetry::{Monitor, State, WallClock};

/// Cores beyond which one more reader for each worker is worth a thread.
#[cfg(feature = "kafka")]
const CORES_PER_READER: usize = 4;

/// What a process reads.
pub(super) struct Inputs {
    events: Events,
    reference: Option<Reference>,
    #[cfg(feature = "kafka")]
    threads: usize,
    #[cfg(feature = "kafka")]
    first_worker: usize,
    #[cfg(feature = "kafka")]
    workers: usize,
    fatal: fn(&Failure) -> !,
    clock: Arc<WallClock>,
    schema: Arc<BatchSchema>,
    record_bytes_max: usize,
}

enum Events {
    /// A file, on process 0; nothing on others.
    File(Option<EventFile>),
    #[cfg(feature = "kafka")]
    Kafka(kafka::Source),
}

struct EventFile {
    events: file::Events,
    /// What tells it from another of the same name, if the job can go on behind what it has read.
    id: Option<String>,
}

enum Reference {
    File(Reloading),
    #[cfg(feature = "kafka")]
    Kafka(Following),
}

/// Readers that run.
pub(super) struct Readers {
    stop: Arc<AtomicBool>,
    #[cfg(feature = "kafka")]
    kafka: Option<kafka::Readers>,
}

impl Readers {
    /// Ends the readers' threads; those that wait for Kafka end within a moment.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        #[cfg(feature = "kafka")]
        if let Some(readers) = &self.kafka {
            readers.stop();
        }
    }
}

impl Inputs {
    pub(super) fn connect(
        process: &Process,
        rejected: &Rejected,
        (clock, monitor): (&Arc<WallClock>, &Monitor),
    ) -> Result<Self, Failure> {
        let Process { config, index, .. } = process;
        let schema = BatchSchema::register(config.events.schema.clone());
        let record_bytes_max = config.limits.max_record_bytes;
        let events = match &config.events.source {
            EventSource::File { path } => {
                let open = || {
                    let events = file::Events::open(path)?;
                    let id = match outlives(config) {
                        true => events.first_line()?,
                        false => None,
                    };
                    Ok::<_, file::Error>(EventFile { events, id })
                };
                Events::File((*index == 0).then(open).transpose()?)
            }
            #[cfg(feature = "kafka")]
            EventSource::Kafka {
                topic,
                start,
                on_missing,
            } => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                let options = kafka::SourceOptions {
                    topic: topic.clone(),
                    start: *start,
                    on_missing: *on_missing,
                    until_end: process.until_end,
                    schema: Arc::clone(&schema),
                    record_bytes_max,
                    readers_per_worker: (cores / CORES_PER_READER / config.cluster.threads).max(1),
                };
                Events::Kafka(kafka::Source::connect(options, &process.stop)?)
            }
            #[cfg(not(feature = "kafka"))]
            EventSource::Kafka { .. } => return Err(without_kafka("[events]")),
        };
        let reference = (*index == 0)
            .then(|| connect_reference(process, rejected, monitor))
            .transpose()?;
        Ok(Self {
            events,
            reference,
            #[cfg(feature = "kafka")]
            threads: config.cluster.threads,
            #[cfg(feature = "kafka")]
            first_worker: index * config.cluster.threads,
            #[cfg(feature = "kafka")]
            workers: config.cluster.workers(),
            fatal: process.fatal,
            clock: Arc::clone(clock),
            schema,
            record_bytes_max,
        })
    }

    /// Where reading starts.
    pub(super) fn starts(&self) -> Ends {
        match &self.events {
            Events::File(_) => vec![(0, file::FIRST_LINE)],
            #[cfg(feature = "kafka")]
            Events::Kafka(source) => source.starts(),
        }
    }

    /// What tells the events' topic or file from another of the same name, if it is known.
    pub(super) fn id(&self) -> Option<&str> {
        match &self.events {
            Events::File(file) => file.as_ref()?.id.as_deref(),
            #[cfg(feature = "kafka")]
            Events::Kafka(source) => source.id(),
        }
    }

    /// Has reading start where it is bound to, and waits for what is bound behind that.
    pub(super) fn resume(
        &mut self,
        ranges: &Ranges,
        bindings: &VecDeque<Binding>,
        stop: &Stop,
    ) -> Result<(), Failure> {
        match &mut self.events {
            Events::File(None) => Ok(()),
            Events::File(Some(file)) => {
                let from = ranges.get(&0).map_or(file::FIRST_LINE, |(from, _)| *from);
                let ends = bindings.iter().flat_map(|binding| &binding.ends);
                let ends: Vec<i64> = ends.map(|(_, end)| *end).collect();
                Ok(file.events.resume(from, &ends, stop)?)
            }
            #[cfg(feature = "kafka")]
            Events::Kafka(source) => Ok(source.resume(ranges, stop)?),
        }
    }

    /// Refuses to go on if the reference table cannot be read and `senders` has none: nothing of
    /// it is bound.
    pub(super) fn check_reference(&mut self, senders: &Senders) -> Result<(), Failure> {
        let way = senders.reference.as_ref();
        self.needs_reference(way.is_some_and(|way| way.bound.len() == 0))
    }

    /// As `check_reference`, of a job that begins or goes on.
    pub(super) fn needs_reference(&mut self, begins: bool) -> Result<(), Failure> {
        match &mut self.reference {
            Some(Reference::File(file)) => file.needed(begins),
            _ => Ok(()),
        }
    }

    /// Starts to read.
    pub(super) fn start(
        self,
        senders: Senders,
        monitor: &Arc<Monitor>,
    ) -> Result<Readers, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        if let (Some(reference), Some(way)) = (self.reference, senders.reference) {
            match reference {
                Reference::File(file) => file.spawn(way, monitor, &stop)?,
                #[cfg(feature = "kafka")]
                Reference::Kafka(topic) => {
                    topic.spawn(way, monitor, &stop, kafka_fatal(self.fatal))?;
                }
            }
        }
        match self.events {
            Events::File(file) => {
                let mut senders = senders.events.into_iter();
                if let Some(file) = file {
                    let sender = senders.next().expect("a process has a worker");
                    let fatal = self.fatal;
                    let fatal: file::Fatal = Arc::new(move |error| fatal(&error.into()));
                    let clock: Arc<dyn Clock> = self.clock;
                    let events = file.events;
                    events.read(self.schema, self.record_bytes_max, sender, clock, fatal);
                }
                // The other workers have nothing to read.
                senders.for_each(|sender| sender.finish());
                Ok(Readers {
                    stop,
                    #[cfg(feature = "kafka")]
                    kafka: None,
                })
            }
            #[cfg(feature = "kafka")]
            Events::Kafka(source) => {
                let lag = Arc::clone(source.lag());
                monitor.measure_lag(Arc::new(move || lag.records()));
                let (workers, threads) = (self.workers, self.threads);
                let first = self.first_worker;
                let owner = move |partition| {
                    let local = reader(partition, workers).checked_sub(first);
                    local.filter(|local| *local < threads)
                };
                let fail = kafka_fatal(self.fatal);
                let readers = source.spawn(senders.events, Arc::new(owner), &fail)?;
                Ok(Readers {
                    stop,
                    kafka: Some(readers),
                })
            }
        }
    }
}

fn connect_reference(
    process: &Process,
    rejected: &Rejected,
    monitor: &Monitor,
) -> Result<Reference, Failure> {
    let Process { config, .. } = process;
    match &config.reference.source {
        ReferenceSource::File { path } => {
            monitor.enter(State::Loading);
            let mut file = Reloading::new(path, config, process.until_end, &process.reload);
            // What follows is connecting again.
            monitor.enter(State::Starting);
            file.needed(process.until_end || !durable::goes_on(process))?;
            Ok(Reference::File(file))
        }
        #[cfg(feature = "kafka")]
        ReferenceSource::Kafka { topic } => {
            let options = kafka::ReferenceOptions {
                topic: topic.clone(),
                schema: config.reference.schema.clone(),
                record_bytes_max: config.limits.max_record_bytes,
                until_end: process.until_end,
            };
            Ok(Reference::Kafka(Following {
                topic: kafka::Reference::connect(options, &process.stop)?,
                until_end: process.until_end,
                on_rejected: collect_reference(rejected),
            }))
        }
        #[cfg(not(feature = "kafka"))]
        ReferenceSource::Kafka { .. } => {
            let _ = rejected;
            Err(without_kafka("[reference]"))
        }
    }
}

/// Makes dead letters of changes of the reference that cannot be read; the job goes on with the
/// rows that it has.
#[cfg(feature = "kafka")]
fn collect_reference(rejected: &Rejected) -> kafka::OnRejected {
    let rejected = Arc::clone(rejected);
    Arc::new(move |record: kafka::Rejected| {
        let mut rejected = rejected.lock().unwrap_or_else(PoisonError::into_inner);
        let kafka::Rejected {
            topic,
            origin,
            reason,
            error,
            raw,
        } = record;
        rejected.push(&topic, origin, None, reason, &error, &raw);
    })
}

/// Ends the process for an error of Kafka, unless the job is being stopped anyway.
#[cfg(feature = "kafka")]
pub(super) fn kafka_fatal(fatal: fn(&Failure) -> !) -> kafka::Fail {
    Arc::new(move |error| {
        if error != kafka::Error::Stopped {
            fatal(&error.into());
        }
    })
}

/// This build cannot do what the configuration asks for.
#[cfg(not(feature = "kafka"))]
pub(super) fn without_kafka(table: &str) -> Failure {
    Failure::usage(format!(
        "{table} has type = \"kafka\", and this build is without Kafka"
    ))
    .hint("Build with the feature \"kafka\", which is on by default.")
}
