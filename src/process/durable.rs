//! What outlives a restart: claims the job's log of bindings, takes the transactional ids of sinks
//! that are exactly-once, and learns where earlier generations have come.
//!
//! It is apart from `inputs` and `outputs` because the order matters, across both of them:
//!
//! 1. Process 0 appends its marker: whatever an older generation binds from here on counts for
//!    nobody. If nothing is bound yet, it binds the offsets where reading starts. (`Claimed`)
//! 2. All processes take their transactional ids, and process 0 takes those that only older
//!    generations use: from here on, an older one can commit nothing. To sinks that write at least
//!    once it can still write, but only rows that are bound. (`Joining::fence`)
//! 3. When all have, process 0 reads the log once more: is there no newer marker? Then all read
//!    how far each sink has come, and set where they read from. (`Joining::load`)
//!
//! # Invariants
//! * Nothing is read of the events, and nothing written to a sink, before all of this is done.
//! * What is bound is never resolved again: neither the first offset nor any end.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::{Binding, BindingLog, Ends, Replay};
use deltajoin_workers::dataflow::Engine;
use deltajoin_workers::key::Ownership;
use deltajoin_workers::ports::{ReferenceBlock, Sink, Stop};
use deltajoin_workers::queue::Sender;

use crate::bindings::{self, Appender, Marker};
use crate::codec::reference_schema;
use crate::config::{Delivery, KafkaTopic};
use crate::connectors::file::JsonLines;
use crate::connectors::kafka::{
    BindingTopic, Destination, Error, Fail, Progress, Recorder, TransactionOptions, Transactions,
    read_progress,
};
use crate::failure::Failure;
use crate::process::inputs::{Inputs, kafka_fatal};
use crate::process::outputs::DEAD_LETTERS;
use crate::process::promises::Settings;
use crate::process::recording::{self, NewestBound, Noting};
use crate::process::skipping::Skipping;
use crate::process::{Process, REFERENCE_BYTES_MAX, changes};
use crate::telemetry::{Monitor, WallClock};

/// The epoch of the binding that says where reading starts: before any epoch of the clock.
const FIRST_EPOCH: u64 = 1;

/// The log with the marker of this generation: process 0 has it.
type Claim = bindings::Claim<BindingTopic>;

/// What makes a process go on where others have ended.
pub(super) struct Durable {
    /// What was bound; worker 0 takes it.
    replay: Mutex<Replay>,
    log: Mutex<Option<Noting>>,
    reference: Arc<BatchSchema>,
    /// Of sinks that are exactly-once, if there are any.
    transactions: Option<Transactions>,
    /// On process 0, of sinks that write at least once.
    recorders: Vec<Recorder>,
    progress: Progress,
    ownership: Ownership,
}

/// Whether the job goes on where it has ended. The textbook engine keeps no bindings.
pub(super) fn goes_on(process: &Process) -> bool {
    Settings::of(&process.config).is_some() && process.engine != Engine::Textbook
}

/// A process of a job that does not know yet where it goes on.
pub(super) struct Joining<'a> {
    process: &'a Process,
    settings: Settings<'a>,
    reference: Arc<BatchSchema>,
    /// On process 0.
    claim: Option<Claim>,
    transactions: Option<Transactions>,
}

impl<'a> Joining<'a> {
    /// Claims the log, on process 0. None if nothing of the job outlives a restart.
    pub(super) fn begin(
        process: &'a Process,
        inputs: &Inputs,
        clock: &WallClock,
    ) -> Result<Option<Self>, Failure> {
        let Process { config, stop, .. } = process;
        let Some(settings) = Settings::of(config) else {
            return Ok(None);
        };
        if process.engine == Engine::Textbook {
            if settings.exactly_once.is_none() {
                return Ok(None);
            }
            return Err(Failure::usage("the textbook engine is not exactly-once")
                .hint("Set delivery = \"at-least-once\" in every sink and in [dead_letters]."));
        }
        let reference = reference_schema(&config.reference.schema);
        let mut claim = None;
        if process.index == 0 {
            let log = BindingTopic::open(&settings.bindings, settings.replicas(), stop)?;
            let marker = settings.marker(clock);
            let mut claimed = bindings::claim(log, marker, Arc::clone(&reference), None, stop)?;
            if claimed.is_new() {
                let first = Binding {
                    epoch: FIRST_EPOCH,
                    ends: inputs.starts(),
                    reference: Vec::new(),
                };
                claimed.append(&first, stop)?;
            }
            claim = Some(claimed);
        }
        Ok(Some(Self {
            process,
            settings,
            reference,
            claim,
            transactions: None,
        }))
    }

    /// The generation that process 0 hands out.
    pub(super) fn generation(&self) -> Option<u64> {
        self.claim.as_ref().map(Claim::generation)
    }

    /// Takes the transactional ids away from older generations.
    pub(super) fn fence(&mut self, generation: u64) -> Result<(), Failure> {
        let Self {
            process, settings, ..
        } = self;
        if process.index == 0 {
            for cluster in settings.at_least_once.keys() {
                let topic = &settings.progress[cluster];
                Recorder::prepare(topic, settings.replicas(), &process.stop)?;
            }
        }
        if let Some(exactly_once) = &settings.exactly_once {
            let options = TransactionOptions {
                progress: exactly_once.progress.clone(),
                replicas: settings.replicas(),
                transactional_id: settings.transactional_id(process.index),
                generation,
                commit_interval: exactly_once.commit_interval,
                bytes_max: process.config.limits.max_in_flight_bytes / 4,
                fail: fail(process, settings, generation),
            };
            self.transactions = Some(Transactions::connect(options, &process.stop)?);
        }
        if let Some(claim) = &self.claim {
            fence_earlier(settings, claim.earlier(), &process.stop)?;
        }
        Ok(())
    }

    /// Reads what is bound and written, and has the events read from there. `written` is what files
    /// have, at most.
    pub(super) fn load(
        mut self,
        inputs: &mut Inputs,
        written: u64,
        monitor: &Arc<Monitor>,
    ) -> Result<Durable, Failure> {
        let Process { config, stop, .. } = self.process;
        let generation = self.generation();
        let (first, replay, log) = match self.claim.take() {
            Some(claim) => {
                let (bindings, log) = self.settle(claim)?;
                (bindings.0, bindings.1, Some(log))
            }
            None => (self.first_binding()?, Replay::default(), None),
        };
        let mut progress = Progress::default();
        for topic in self.settings.progress.values() {
            progress.merge(read_progress(topic, stop)?);
        }
        let (starts, bound) = ranges(first.ends, &replay.bindings);
        inputs.resume(&starts, &bound, stop)?;
        let bound = NewestBound::new(replay.newest.into());
        let newest = replay.newest.max(progress.newest()).max(written);
        tracing::debug!(
            bindings = replay.bindings.len(),
            newest,
            "took the job over"
        );
        let recorders = match generation {
            Some(generation) => {
                let fail = kafka_fatal(self.process.fatal);
                let settings = &self.settings;
                recording::start(settings, generation, &progress, &bound, monitor, &fail)?
            }
            None => Vec::new(),
        };
        let log = log.map(|log| Noting { log, newest: bound });
        Ok(Durable {
            replay: Mutex::new(Replay { newest, ..replay }),
            log: Mutex::new(log),
            reference: self.reference,
            transactions: self.transactions,
            recorders,
            progress,
            ownership: Ownership::new(config.limits.shards, config.cluster.workers()),
        })
    }

    /// All bindings, and the log for more, if no newer generation has begun.
    fn settle(&self, claim: Claim) -> Result<((Binding, Replay), Appender), Failure> {
        let opened = claim.settle(&self.process.stop)?;
        let fatal = self.process.fatal;
        let (history, log) = opened.start(Arc::new(move |error| {
            if error != bindings::Error::Stopped {
                fatal(&error.into());
            }
        }));
        let mut bindings = VecDeque::from(history.bindings);
        let first = bindings.pop_front().ok_or_else(nothing_bound)?;
        let newest = bindings.back().map_or(first.epoch, |last| last.epoch);
        Ok(((first, Replay { bindings, newest }), log))
    }

    /// What process 0 has found, or has bound itself.
    fn first_binding(&self) -> Result<Binding, Failure> {
        let (settings, stop) = (&self.settings, &self.process.stop);
        let mut log = BindingTopic::open(&settings.bindings, settings.replicas(), stop)?;
        let reference = Arc::clone(&self.reference);
        let first = bindings::first_binding(&mut log, reference, stop)?;
        first.ok_or_else(nothing_bound)
    }
}

/// Process 0 binds where reading starts before any other process knows the generation.
fn nothing_bound() -> Failure {
    Failure::failed("the binding log does not say where reading starts")
}

impl Durable {
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

    /// A sink of one worker to a topic, which gets what it does not have.
    pub(super) fn sink(
        &self,
        name: &str,
        destination: &Arc<Destination>,
        delivery: Delivery,
        worker: usize,
    ) -> Result<Box<dyn Sink + Send>, Failure> {
        let shards: Range<usize> = self.ownership.shards_of(worker);
        let sink = match (delivery, &self.transactions) {
            (Delivery::ExactlyOnce { .. }, Some(transactions)) => {
                destination.open_in(transactions, name, shards.clone())
            }
            // Dead letters are told apart by their keys: where their record stands.
            _ if name == DEAD_LETTERS => destination.open(None)?,
            _ => destination.open(Some(self.ownership.clone()))?,
        };
        let committed = self.progress.of_shards(name, shards.clone());
        let ownership = self.ownership.clone();
        Ok(Box::new(Skipping::new(sink, ownership, shards, committed)))
    }

    /// A sink to a file, on worker 0, which gets what it does not have: all epochs after `written`.
    pub(super) fn file(&self, sink: JsonLines, written: u64) -> Box<dyn Sink + Send> {
        let shards = self.ownership.shards();
        let ownership = self.ownership.clone();
        let committed = vec![written; shards];
        Box::new(Skipping::new(sink, ownership, 0..shards, committed))
    }

    /// Commits and records how far sinks have come, now that all rows are written.
    pub(super) fn end(self) {
        drop(self.transactions);
        drop(self.recorders);
    }
}

/// Fences the ids that earlier generations named and this one does not use.
fn fence_earlier<'a>(
    settings: &Settings<'_>,
    earlier: impl Iterator<Item = &'a Marker>,
    stop: &Stop,
) -> Result<(), Failure> {
    let processes = match settings.exactly_once {
        Some(_) => 0..settings.config.cluster.processes,
        None => 0..0,
    };
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
        let topic = settings.progress.get(&*brokers).cloned();
        let topic = topic.unwrap_or_else(|| KafkaTopic {
            brokers,
            ..settings.bindings.clone()
        });
        Transactions::fence(&topic, &[id], stop)?;
    }
    Ok(())
}

/// Ends the process for an error of Kafka. What has fenced it, the log of bindings tells.
fn fail(process: &Process, settings: &Settings<'_>, generation: u64) -> Fail {
    let (fatal, replicas) = (process.fatal, settings.replicas());
    let topic = settings.bindings.clone();
    Arc::new(move |error| match error {
        Error::Stopped => {}
        Error::Fenced { .. } => {
            let stop = Stop::default();
            let newer = BindingTopic::open(&topic, replicas, &stop)
                .map_err(bindings::Error::from)
                .and_then(|mut log| bindings::superseded(&mut log, generation, &stop));
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

/// Where each partition is read from, and how far it is bound. One that came later is read from its
/// beginning.
fn ranges(first: Ends, later: &VecDeque<Binding>) -> (Ends, Ends) {
    let mut starts: BTreeMap<i32, i64> = first.into_iter().collect();
    let mut bound = starts.clone();
    for (partition, end) in later.iter().flat_map(|binding| &binding.ends) {
        starts.entry(*partition).or_insert(0);
        bound.insert(*partition, *end);
    }
    (starts.into_iter().collect(), bound.into_iter().collect())
}
