//! Exactly-once: claims the job's log of bindings, takes the transactional ids, and learns where
//! earlier generations have come.
//!
//! It is apart from `inputs` and `outputs` because the order matters, across both of them:
//!
//! 1. The marker. From here on, whatever an older generation binds counts for nobody.
//! 2. The transactional ids, also those that only older generations use. From here on, an older
//!    one can commit nothing.
//! 3. The bindings. They were all appended before 1, so none is missing.
//! 4. The progress of sinks. It was all committed before 2.
//! 5. At the first start of the job, a binding of the offsets where reading starts.
//!
//! # Invariants
//! * Nothing is read of the events, and nothing written to a sink, before all of this is done.
//! * What is bound is never resolved again: neither the first offset nor any end.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::{Binding, BindingLog, Ends, Replay};
use deltajoin_workers::dataflow::Engine;
use deltajoin_workers::key::Ownership;
use deltajoin_workers::ports::{Clock, ReferenceBlock, Sink, Stop};
use deltajoin_workers::queue::Sender;
use deltajoin_workers::schema::Schema;

use crate::bindings::{self, Appender, Marker, MarkerId, TransactionalId};
use crate::codec::reference_schema;
use crate::config::{Config, Delivery, EventSource, KafkaTopic, Target};
use crate::connectors::kafka::{
    BindingTopic, Destination, Error, Fail, Progress, TransactionOptions, Transactions,
    read_progress,
};
use crate::failure::Failure;
use crate::process::inputs::Inputs;
use crate::process::skipping::Skipping;
use crate::process::{Process, REFERENCE_BYTES_MAX, changes};
use crate::telemetry::WallClock;

/// The epoch of the binding that says where reading starts: before any epoch of the clock.
const FIRST_EPOCH: u64 = 1;
/// How often it is looked whether that binding is durable.
const PAUSE: Duration = Duration::from_millis(5);

/// What makes a process exactly-once.
pub(super) struct Durable {
    generation: u64,
    replay: Mutex<Replay>,
    log: Mutex<Option<Appender>>,
    reference: Arc<BatchSchema>,
    transactions: Transactions,
    progress: Progress,
    ownership: Ownership,
}

/// What the configuration says of it.
struct Settings<'a> {
    config: &'a Config,
    bindings: KafkaTopic,
    progress: KafkaTopic,
    commit_interval: Duration,
}

impl<'a> Settings<'a> {
    /// None if the job is not exactly-once.
    fn of(config: &'a Config) -> Option<Self> {
        let targets = config.sinks.iter().map(|sink| &sink.target);
        let promised = targets
            .chain([&config.dead_letters])
            .filter_map(|target| match target {
                Target::Kafka {
                    topic,
                    delivery: Delivery::ExactlyOnce { commit_interval },
                    ..
                } => Some((topic, *commit_interval)),
                _ => None,
            });
        let (first, commit_interval) = promised.min_by_key(|(_, interval)| *interval)?;
        let EventSource::Kafka { topic: events, .. } = &config.events.source else {
            return None;
        };
        let own = |like: &KafkaTopic, suffix| KafkaTopic {
            topic: format!("{}.{suffix}", config.job),
            ..like.clone()
        };
        Some(Self {
            config,
            bindings: own(events, "bindings"),
            progress: own(first, "progress"),
            commit_interval,
        })
    }

    fn replicas(&self) -> u16 {
        self.config.limits.topic_replication
    }

    /// The transactional id of one of the job's processes.
    fn transactional_id(&self, process: usize) -> String {
        format!("{}-{process}", self.config.job)
    }

    /// The marker of a new generation.
    fn marker(&self, clock: &WallClock) -> Marker {
        let producers = (0..self.config.cluster.processes).map(|process| TransactionalId {
            brokers: self.progress.brokers.clone(),
            id: self.transactional_id(process),
        });
        Marker {
            id: MarkerId::random(),
            started_ms: clock.now_ms(),
            holder: holder(),
            settings: lasting(self.config),
            producers: producers.collect(),
        }
    }
}

/// This process, for people.
fn holder() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    format!("process {} on {host}", std::process::id())
}

/// Settings that must not change as long as the job goes on from its bindings: what was bound and
/// committed is told in their terms.
fn lasting(config: &Config) -> BTreeMap<String, String> {
    let events = match &config.events.source {
        EventSource::Kafka { topic, .. } => topic.topic.clone(),
        EventSource::File { path } => path.display().to_string(),
    };
    let all = |schema: &Schema| columns(schema, 0..schema.columns.len());
    let key = |schema: &Schema| columns(schema, schema.key.iter().copied());
    let (events_schema, reference) = (&config.events.schema, &config.reference.schema);
    let settings = [
        ("events.topic", events),
        ("events.key", key(events_schema)),
        ("reference.key", key(reference)),
        ("reference.columns", all(reference)),
        ("limits.shards", config.limits.shards.to_string()),
    ];
    let settings = settings.into_iter();
    settings
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn columns(schema: &Schema, indexes: impl IntoIterator<Item = usize>) -> String {
    let columns = indexes.into_iter().map(|index| {
        let column = &schema.columns[index];
        format!("{}: {}", column.name, column.column_type)
    });
    columns.collect::<Vec<_>>().join(", ")
}

impl Durable {
    /// Takes over from earlier generations, and sets where the events are read from. None if the
    /// job is not exactly-once.
    pub(super) fn begin(
        process: &Process,
        inputs: &mut Inputs,
        clock: &WallClock,
    ) -> Result<Option<Self>, Failure> {
        let Process { config, stop, .. } = process;
        let Some(settings) = Settings::of(config) else {
            return Ok(None);
        };
        if process.engine == Engine::Textbook {
            return Err(Failure::usage("the textbook engine is not exactly-once")
                .hint("Set delivery = \"at-least-once\" in every sink and in [dead_letters]."));
        }
        let marker = settings.marker(clock);
        let id = marker.id;
        let reference = reference_schema(&config.reference.schema);
        let log = BindingTopic::open(&settings.bindings, settings.replicas(), stop)?;
        let claim = bindings::claim(log, marker, Arc::clone(&reference), stop)?;
        let generation = claim.generation();
        let whose = (id, generation);

        let transactions = transactions(process, &settings, whose)?;
        fence_earlier(&settings, claim.earlier(), stop)?;
        let opened = claim.settle(stop)?;
        let progress = read_progress(&settings.progress, stop)?;

        let fatal = process.fatal;
        let (history, mut log) = opened.start(Arc::new(move |error| {
            if error != bindings::Error::Stopped {
                fatal(&error.into());
            }
        }));
        let mut bindings = history.bindings;
        if bindings.is_empty() {
            let ends = inputs.starts();
            append(&mut log, FIRST_EPOCH, ends.clone(), stop)?;
            bindings.push(Binding {
                epoch: FIRST_EPOCH,
                ends,
                reference: Vec::new(),
            });
        }
        let first = bindings.remove(0);
        let (starts, bound) = ranges(first.ends, &bindings);
        inputs.resume(&starts, &bound, stop)?;
        let newest = bindings.last().map_or(FIRST_EPOCH, |last| last.epoch);
        tracing::info!(
            generation,
            bindings = bindings.len(),
            markers = history.markers.len(),
            newest,
            "took the job over"
        );
        Ok(Some(Self {
            generation,
            replay: Mutex::new(Replay {
                newest: newest.max(progress.newest()),
                bindings: bindings.into(),
            }),
            log: Mutex::new(Some(log)),
            reference,
            transactions,
            progress,
            ownership: Ownership::new(config.limits.shards, config.cluster.workers()),
        }))
    }

    /// The number of this generation.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// What was bound, and where it goes on; taken by worker 0.
    pub(super) fn bindings(&self) -> (Replay, Option<Box<dyn BindingLog>>) {
        let mut replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let log = log.take().map(|log| Box::new(log) as _);
        (std::mem::take(&mut *replay), log)
    }

    /// Where the reference table's content goes: on to `onward` comes what is not bound of it.
    pub(super) fn reference(
        &self,
        onward: Sender<ReferenceBlock>,
    ) -> Result<Sender<ReferenceBlock>, Failure> {
        let replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        let schema = Arc::clone(&self.reference);
        changes::since(&replay.bindings, schema, onward, REFERENCE_BYTES_MAX)
            .map_err(|error| Failure::failed(format!("could not start a thread: {error}")))
    }

    /// A sink of one worker, which gets what it has not committed.
    pub(super) fn sink(
        &self,
        name: &str,
        destination: &Arc<Destination>,
        worker: usize,
    ) -> Box<dyn Sink + Send> {
        let shards: Range<usize> = self.ownership.shards_of(worker);
        let sink = destination.open_in(&self.transactions, name, shards.clone());
        let committed = self.progress.of_shards(name, shards.clone());
        let ownership = self.ownership.clone();
        Box::new(Skipping::new(sink, ownership, shards, committed))
    }
}

impl Durable {
    /// Commits how far sinks without rows have come, now that all rows are committed.
    pub(super) fn end(self) {
        drop(self.transactions);
    }
}

/// The process's transactional producer, which has taken its id.
fn transactions(
    process: &Process,
    settings: &Settings<'_>,
    whose: (MarkerId, u64),
) -> Result<Transactions, Failure> {
    let options = TransactionOptions {
        progress: settings.progress.clone(),
        replicas: settings.replicas(),
        transactional_id: settings.transactional_id(process.index),
        generation: whose.1,
        commit_interval: settings.commit_interval,
        bytes_max: process.config.limits.max_in_flight_bytes / 4,
        fail: fail(process, settings, whose),
    };
    Ok(Transactions::connect(options, &process.stop)?)
}

/// Fences the ids that earlier generations named and this one does not use.
fn fence_earlier<'a>(
    settings: &Settings<'_>,
    earlier: impl Iterator<Item = &'a Marker>,
    stop: &Stop,
) -> Result<(), Failure> {
    let processes = 0..settings.config.cluster.processes;
    let used: Vec<_> = processes
        .map(|process| settings.transactional_id(process))
        .collect();
    let producers = earlier.flat_map(|marker| &marker.producers);
    let mut unused: Vec<_> = producers
        .filter(|producer| !used.contains(&producer.id))
        .map(|producer| (producer.brokers.clone(), producer.id.clone()))
        .collect();
    unused.sort();
    unused.dedup();
    for (brokers, id) in unused {
        let topic = KafkaTopic {
            brokers,
            ..settings.progress.clone()
        };
        Transactions::fence(&topic, &[id], stop)?;
    }
    Ok(())
}

/// Ends the process for an error of Kafka. What has fenced it, the log of bindings tells.
fn fail(process: &Process, settings: &Settings<'_>, whose: (MarkerId, u64)) -> Fail {
    let (fatal, replicas) = (process.fatal, settings.replicas());
    let topic = settings.bindings.clone();
    Arc::new(move |error| match error {
        Error::Stopped => {}
        Error::Fenced { .. } => {
            let stop = Stop::default();
            let newer = BindingTopic::open(&topic, replicas, &stop)
                .map_err(bindings::Error::from)
                .and_then(|mut log| bindings::superseded(&mut log, whose, &stop));
            match newer {
                Err(superseded @ bindings::Error::Superseded { .. }) => fatal(&superseded.into()),
                Err(unread) => {
                    tracing::error!(error = %unread, "could not read the binding log");
                    fatal(&error.into())
                }
                Ok(()) => fatal(&error.into()),
            }
        }
        error => fatal(&error.into()),
    })
}

/// Appends a binding and waits until it is durable.
fn append(log: &mut Appender, epoch: u64, ends: Ends, stop: &Stop) -> Result<(), Failure> {
    let since = Instant::now();
    log.append(Binding {
        epoch,
        ends,
        reference: Vec::new(),
    });
    while log.durable() == 0 {
        if stop.asked() {
            return Err(bindings::Error::Stopped.into());
        }
        std::thread::sleep(PAUSE);
    }
    tracing::debug!(took = ?since.elapsed(), "bound where reading starts");
    Ok(())
}

/// Where each partition is read from, and how far it is bound. One that came later is read from its
/// beginning.
fn ranges(first: Ends, later: &[Binding]) -> (Ends, Ends) {
    let mut starts: BTreeMap<i32, i64> = first.into_iter().collect();
    let mut bound = starts.clone();
    for (partition, end) in later.iter().flat_map(|binding| &binding.ends) {
        starts.entry(*partition).or_insert(0);
        bound.insert(*partition, *end);
    }
    (starts.into_iter().collect(), bound.into_iter().collect())
}
