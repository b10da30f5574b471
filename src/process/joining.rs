//! What outlives a restart: claims the job's log of bindings, takes the transactional ids of sinks
//! that are exactly-once, and learns where earlier generations have come.
//!
//! It is apart from `inputs` and `outputs` because the order matters, across both of them:
//!
//! 1. Process 0 appends its marker: whatever an older generation binds from here on counts for
//!    nobody. If nothing is bound yet, it binds the offsets where reading starts. Then it takes the
//!    transactional ids that only older generations use; before anyone takes one that this one
//!    uses, as a cluster may go by another name now. (`Joining::begin`)
//! 2. All processes take their transactional ids: from here on, an older one can commit nothing. To
//!    sinks that write at least once it can still write, but only rows that are bound.
//!    (`Joining::fence`)
//! 3. When all have, process 0 reads the log once more: is there no newer marker? Then all load the
//!    newest checkpoint; if one finds a fault in it, the one before. (`Joining::load`)
//! 4. When all have, they read how far each sink has come, and set where they read from.
//!    (`Joining::take_over`)
//!
//! # Invariants
//! * Nothing is read of the events, and nothing written to a sink, before all of this is done.
//! * What is bound is never resolved again: neither the first offset nor any end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::{Binding, Replay};
use deltajoin_workers::clock::ExpiryClock;
use deltajoin_workers::dataflow::Engine;
use deltajoin_workers::key::Ownership;
use deltajoin_workers::ports::{Clock, Stop};

use crate::bindings::{self, Appender, History, Marker, TransactionalId};
use crate::checkpoint::{self, Options, Store};
use crate::codec::reference_schema;
use crate::config::{Config, EventSource, KafkaTopic};
use crate::connectors::kafka::{
    BindingProducer, BindingTopic, GroupOffsets, Progress, Recorder, TransactionOptions,
    Transactions, read_progress, trim_bindings,
};
use crate::failure::Failure;
use crate::fault_point;
use crate::process::checkpoints::{self, Keeper, Published, Publishing};
use crate::process::durable::Durable;
use crate::process::inputs::{Inputs, kafka_fatal};
use crate::process::ledger::Ledger;
use crate::process::memory::Memory;
use crate::process::plan::joined_schema;
use crate::process::promises::Settings;
use crate::process::recording::{self, NewestBound, Noting};
use crate::process::recovery::{Loaded, Loading, Ranges};
use crate::process::{Process, recovery, verdict};
use crate::telemetry::{Monitor, WallClock};

/// The epoch of the binding that says where reading starts: before any epoch of the clock.
pub(super) const FIRST_EPOCH: u64 = 1;

/// How often the log is trimmed, at most.
const TRIM_EVERY_MS: u64 = 60_000;

/// The log with the marker of this generation: process 0 has it.
type Claim = bindings::Claim<BindingTopic>;

/// The log when its history is known.
type Opened = bindings::Opened<BindingTopic>;

/// What is made again.
struct Found {
    /// What is bound before everything that is replayed.
    first: Binding,
    /// What is replayed.
    bindings: VecDeque<Binding>,
    /// By partition where it is read from, and how far it is bound.
    ranges: Ranges,
}

impl Found {
    /// The newest epoch that is bound.
    fn newest(&self) -> u64 {
        let last = self.bindings.back();
        last.map_or(self.first.epoch, |last| last.epoch)
    }

    fn ledger(&self) -> Ledger {
        let ledger = Ledger::default();
        let all = std::iter::once(&self.first).chain(&self.bindings);
        all.for_each(|binding| ledger.push(binding.clone()));
        ledger
    }

    /// What worker 0 replays: before all else the reference table of the checkpoint.
    fn replayed(self) -> VecDeque<Binding> {
        let mut bindings = self.bindings;
        for binding in &mut bindings {
            // Where nothing was left there are no records to wait for.
            let has_records = |(partition, end): &(i32, i64)| self.ranges[partition].0 < *end;
            binding.ends.retain(has_records);
        }
        if !self.first.reference.is_empty() {
            bindings.push_front(Binding {
                ends: Vec::new(),
                ..self.first
            });
        }
        bindings
    }
}

/// A process of a job that does not know yet where it goes on.
pub(super) struct Joining<'a> {
    process: &'a Process,
    settings: Settings<'a>,
    clock: Arc<WallClock>,
    reference: Arc<BatchSchema>,
    store: Arc<Store>,
    /// Ends what the store tries again: not a clean stop, which needs it for a while.
    store_stop: Arc<Stop>,
    loading: Loading,
    /// On process 0, until the log is read for the last time, and then what it holds.
    claim: Option<Claim>,
    opened: Option<Opened>,
    generation: u64,
    transactions: Vec<(Vec<String>, Transactions)>,
}

impl<'a> Joining<'a> {
    /// What takes a while to be ready for `begin`, on process 0.
    pub(super) fn prepare(process: &Process) -> Result<Option<BindingProducer>, Failure> {
        let settings = Settings::of(&process.config).filter(|_| process.index == 0);
        let producer = settings.map(|settings| BindingProducer::new(&settings.bindings));
        Ok(producer.transpose()?)
    }

    /// Claims the log, on process 0. None if nothing of the job outlives a restart.
    pub(super) fn begin(
        process: &'a Process,
        prepared: Option<BindingProducer>,
        inputs: &Inputs,
        clock: &Arc<WallClock>,
    ) -> Result<Option<Self>, Failure> {
        let Process { config, stop, .. } = process;
        let Some(mut settings) = Settings::of(config) else {
            return Ok(None);
        };
        settings.topic_id = inputs.topic_id().map(str::to_owned);
        if process.engine == Engine::Textbook {
            if settings.exactly_once.is_empty() {
                return Ok(None);
            }
            return Err(Failure::usage("the textbook engine is not exactly-once")
                .hint("Set delivery = \"at-least-once\" in every sink and in [dead_letters]."));
        }
        let reference = reference_schema(&config.reference.schema);
        let store_stop = Arc::new(Stop::default());
        let store = Store::open(
            &config.checkpoint.location,
            &config.job,
            Options::default(),
            Arc::clone(&store_stop),
        )?;
        let store = Arc::new(store);
        let (mut claim, mut reaches) = (None, None);
        if let Some(producer) = prepared {
            let mut log = producer.open(settings.replicas(), stop)?;
            let place = recovery::place(&store, log.first(stop)?)?;
            let goes_on = place.is_some();
            reaches = Some(place.as_ref().map_or(0, |place| place.next));
            let marker = settings.marker(clock);
            let schema = Arc::clone(&reference);
            let made = recovery::made(&store)?.max(FIRST_EPOCH);
            let lasting = settings.lasting();
            let claimed = bindings::claim(log, marker, schema, place, (&lasting, made), stop);
            let mut claimed = claimed.map_err(|error| settings.refused(error))?;
            if !goes_on && claimed.is_new() {
                let first = Binding {
                    epoch: FIRST_EPOCH,
                    ends: inputs.starts(),
                    ..Binding::default()
                };
                claimed.append(&first, stop)?;
            }
            fence_earlier(&settings, claimed.earlier(), stop)?;
            claim = Some(claimed);
        }
        let threads = config.cluster.threads;
        let ownership = Ownership::new(config.limits.shards, config.cluster.workers());
        let groups = recovery::groups(&ownership, config.cluster.workers());
        let own = process.index * threads..(process.index + 1) * threads;
        let loading = Loading::new(
            Arc::clone(&store),
            Arc::clone(&reference),
            rows_held(config),
            (groups, own),
            reaches,
        );
        Ok(Some(Self {
            process,
            settings,
            clock: Arc::clone(clock),
            reference,
            store,
            store_stop,
            loading,
            generation: claim.as_ref().map_or(0, Claim::generation),
            claim,
            opened: None,
            transactions: Vec::new(),
        }))
    }

    /// The generation that process 0 hands out.
    pub(super) fn generation(&self) -> Option<u64> {
        self.claim.as_ref().map(Claim::generation)
    }

    /// Takes the transactional ids away from older generations.
    pub(super) fn fence(&mut self, generation: u64) -> Result<(), Failure> {
        self.generation = generation;
        let Self {
            process, settings, ..
        } = self;
        if process.index == 0 {
            for cluster in settings.at_least_once.keys() {
                let topic = &settings.progress[cluster];
                Recorder::prepare(topic, settings.replicas(), &process.stop)?;
            }
        }
        for (number, cluster) in settings.exactly_once.iter().enumerate() {
            let options = TransactionOptions {
                progress: cluster.progress.clone(),
                replicas: settings.replicas(),
                transactional_id: settings.transactional_id(process.index, number),
                generation,
                commit_interval: cluster.commit_interval,
                bytes_max: process.config.limits.max_in_flight_bytes / 4,
                fail: verdict::on_kafka(process, settings, generation),
            };
            let brokers = cluster.brokers.iter().map(|list| (*list).to_owned());
            let transactions = Transactions::connect(options, &process.stop)?;
            self.transactions.push((brokers.collect(), transactions));
        }
        Ok(())
    }

    /// Loads the state of this process's workers, from the newest checkpoint at first, and from
    /// the one before each time that it is called again. Returns whether it has found no fault.
    pub(super) fn load(&mut self) -> Result<bool, Failure> {
        let stop = &self.process.stop;
        if let Some(claim) = self.claim.take() {
            self.opened = Some(claim.settle(stop)?);
        }
        let history = self.opened.as_ref().map(|opened| &opened.history);
        let good = self.loading.attempt(self.generation, history, stop)?;
        if let (Some(opened), Some(loaded)) = (&self.opened, &self.loading.loaded) {
            // Further back, there is more to be made again.
            let made = loaded.checkpoint.as_ref();
            let made = made.map_or(FIRST_EPOCH, |manifest| manifest.epoch);
            let log = format!("topic {:?}", self.settings.bindings.topic);
            let lasting = self.settings.lasting();
            let checked = lasting.check(&opened.history, made, &log);
            checked.map_err(|error| self.settings.refused(error))?;
        }
        Ok(good)
    }

    /// Reads what is bound and written behind what is loaded, and has the events read from there.
    /// `written` is what files have, at most.
    pub(super) fn take_over(
        mut self,
        inputs: &mut Inputs,
        written: u64,
        monitor: &Arc<Monitor>,
    ) -> Result<Durable, Failure> {
        let Process { config, stop, .. } = self.process;
        let Some(mut loaded) = self.loading.loaded.take() else {
            // All have loaded, or this one was stopped while it did.
            return Err(checkpoint::Error::Stopped.into());
        };
        let log = self.opened.take().map(|opened| self.start_log(opened));
        let (history, log) = log.unzip();
        let found = self.find(&mut loaded, history)?;
        let mut progress = Progress::default();
        for topic in self.settings.progress.values() {
            progress.merge(read_progress(topic, stop)?);
        }
        fault_point::reach("progress.read");
        inputs.resume(&found.ranges, stop)?;
        let newest_bound = found.newest();
        let newest = newest_bound.max(progress.newest()).max(written);
        let (from, replayed) = (found.first.epoch, found.bindings.len());
        tracing::debug!(from, replayed, newest, "took the job over");
        self.clock.tell_behind(newest);

        let ledger = found.ledger();
        let begins_behind = loaded.checkpoint.as_ref();
        let begins_behind = begins_behind.filter(|manifest| manifest.keys() > 0);
        let begins_behind = begins_behind.map(|manifest| manifest.epoch);
        let state = std::mem::take(&mut loaded.state);
        let clock_ms = found.first.clock_ms;
        let clock = ExpiryClock::new(clock_ms, found.ranges.keys().copied());
        let restored = found.first.epoch;
        let keeper = self.keep(loaded, &ledger, log.as_ref())?;
        let newest_bound = NewestBound::new(newest_bound.into());
        let mut recorders = Vec::new();
        if log.is_some() {
            let (settings, generation) = (&self.settings, self.generation);
            let fail = kafka_fatal(self.process.fatal);
            let bound = &newest_bound;
            recorders = recording::start(settings, generation, &progress, bound, monitor, &fail)?;
        }
        let log = log.map(|(log, _)| Noting {
            log,
            newest: newest_bound,
            ledger,
        });
        let bindings = found.replayed();
        Ok(Durable {
            replay: Mutex::new(Replay { bindings, newest }),
            log: Mutex::new(log),
            reference: self.reference,
            transactions: self.transactions,
            recorders,
            progress,
            ownership: Ownership::new(config.limits.shards, config.cluster.workers()),
            clock: Mutex::new(clock),
            state: Mutex::new(state),
            restored,
            keeper,
            begins_behind,
        })
    }

    /// The thread that makes the next checkpoints.
    fn keep(
        &self,
        loaded: Loaded,
        ledger: &Ledger,
        log: Option<&(Appender, Marker)>,
    ) -> Result<Keeper, Failure> {
        let Process { config, .. } = self.process;
        let publishing = log.map(|(log, marker)| {
            let marker = serde_json::from_slice(&marker.encode());
            Publishing {
                job: config.job.clone(),
                marker: marker.expect("a marker is JSON"),
                ledger: ledger.clone(),
                appended: log.appended(),
                clock: Arc::<WallClock>::clone(&self.clock),
                groups: self.loading.groups().to_vec(),
                runs: loaded.runs,
                rows: loaded
                    .checkpoint
                    .as_ref()
                    .map_or_else(Vec::new, |manifest| manifest.rows.clone()),
                newest: loaded.checkpoint,
                number: self.loading.number,
                published: self.published(),
            }
        });
        Keeper::start(checkpoints::Options {
            store: Arc::clone(&self.store),
            store_stop: Arc::clone(&self.store_stop),
            generation: self.generation,
            interval: config.checkpoint.interval,
            workers: config.cluster.threads,
            memory: Memory::of(config),
            fatal: self.process.fatal,
            publishing,
        })
    }

    /// What is done when a checkpoint is published: monitors of lag are told, and what it makes
    /// needless of the log is removed.
    fn published(&self) -> Published {
        let config = &self.process.config;
        let EventSource::Kafka { topic, .. } = &config.events.source else {
            return Box::new(|_, _| {});
        };
        let retention_ms = config.checkpoint.bindings_retention.as_millis();
        let retention_ms = u64::try_from(retention_ms).unwrap_or(u64::MAX);
        let group = GroupOffsets::new(topic, &config.job);
        let commit = config.checkpoint.commit_group_offsets;
        let (bindings, clock) = (self.settings.bindings.clone(), Arc::clone(&self.clock));
        let stop = Arc::clone(&self.store_stop);
        let mut trimmed_ms = clock.now_ms();
        Box::new(move |manifest, before| {
            let offsets = manifest.offsets.iter();
            let ends = offsets.map(|(partition, end)| (*partition, *end)).collect();
            if commit && let Err(error) = group.commit(&ends) {
                tracing::warn!(%error, "could not commit offsets for monitors of lag");
            }
            let now_ms = clock.now_ms();
            let Some(before) = before.filter(|_| now_ms > trimmed_ms + TRIM_EVERY_MS) else {
                return;
            };
            trimmed_ms = now_ms;
            let oldest_ms = now_ms.saturating_sub(retention_ms);
            if let Err(error) = trim_bindings(&bindings, before.log.next, oldest_ms, &stop) {
                tracing::warn!(%error, "could not trim the binding log; tried again later");
            }
        })
    }

    /// Begins to append to the log.
    fn start_log(&self, opened: Opened) -> (History, (Appender, Marker)) {
        let fatal = self.process.fatal;
        let marker = opened.marker.clone();
        let (history, log) = opened.start(Arc::new(move |error| {
            if error != bindings::Error::Stopped {
                fatal(&error.into());
            }
        }));
        (history, (log, marker))
    }

    /// What is made again: on process 0 all bindings behind the checkpoint. The others need none.
    fn find(&self, loaded: &mut Loaded, history: Option<History>) -> Result<Found, Failure> {
        let is_first = history.is_some();
        let bindings = history.map_or_else(Vec::new, |history| history.bindings);
        let mut bindings = VecDeque::from(bindings);
        let first = match loaded.bound.take() {
            Some(bound) => {
                bindings.retain(|binding| binding.epoch > bound.epoch);
                bound
            }
            None if is_first => bindings.pop_front().ok_or_else(nothing_bound)?,
            None => Binding::default(),
        };
        let reference = if is_first {
            first.reference
        } else {
            Vec::new()
        };
        Ok(Found {
            first: Binding { reference, ..first },
            bindings,
            ranges: std::mem::take(&mut loaded.ranges),
        })
    }
}

/// The schemas that the rows of the window may have: events', and results'.
fn rows_held(config: &Config) -> [Arc<BatchSchema>; 2] {
    let events = BatchSchema::register(config.events.schema.clone());
    [events, BatchSchema::register(joined_schema(config))]
}

/// A start binds where reading starts before anything else.
fn nothing_bound() -> Failure {
    Failure::failed("the binding log does not say where reading starts")
}

/// Fences the ids that earlier generations named and this one does not use.
fn fence_earlier<'a>(
    settings: &Settings<'_>,
    earlier: impl Iterator<Item = &'a Marker>,
    stop: &Stop,
) -> Result<(), Failure> {
    let used = settings.producers();
    let producers = earlier.flat_map(|marker| &marker.producers);
    let mut unused: Vec<_> = producers
        .filter(|producer| !used.contains(producer))
        .collect();
    unused.sort_by_key(|producer| (&producer.brokers, &producer.id));
    unused.dedup();
    for TransactionalId { brokers, id } in unused {
        let topic = settings.progress.get(&**brokers).cloned();
        let topic = topic.unwrap_or_else(|| KafkaTopic {
            brokers: brokers.clone(),
            ..settings.bindings.clone()
        });
        Transactions::fence(&topic, std::slice::from_ref(id), stop)?;
    }
    Ok(())
}
