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
//! 3. When all have, process 0 reads the log once more: is there no newer marker? Then all read
//!    how far each sink has come, and set where they read from. (`Joining::load`)
//!
//! # Invariants
//! * Nothing is read of the events, and nothing written to a sink, before all of this is done.
//! * What is bound is never resolved again: neither the first offset nor any end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::{Binding, Replay};
use deltajoin_workers::dataflow::Engine;
use deltajoin_workers::key::Ownership;
use deltajoin_workers::ports::{Clock, Stop};
use deltajoin_workers::state::KeySet;

use crate::bindings::{self, Appender, Marker, TransactionalId};
use crate::checkpoint::{Groups, Manifest, Options, Start, Store, read_start, write_start};
use crate::codec::reference_schema;
use crate::config::{EventSource, KafkaTopic};
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
use crate::process::promises::Settings;
use crate::process::recording::{self, NewestBound, Noting};
use crate::process::{Process, recovery, verdict};
use crate::telemetry::{Monitor, WallClock};

/// The epoch of the binding that says where reading starts: before any epoch of the clock.
const FIRST_EPOCH: u64 = 1;

/// How often the log is trimmed, at most.
const TRIM_EVERY_MS: u64 = 60_000;
/// How long the others wait for what process 0 writes where checkpoints are kept.
const SHARED: Duration = Duration::from_secs(30);

/// The log with the marker of this generation: process 0 has it.
type Claim = bindings::Claim<BindingTopic>;

/// Where a start goes on from.
struct Found {
    checkpoint: Option<Manifest>,
    /// The number of the next one.
    number: u64,
    /// What is bound before everything that is replayed.
    first: Binding,
    /// What is replayed.
    bindings: VecDeque<Binding>,
    /// By partition where it is read from, and how far it is bound.
    ranges: BTreeMap<i32, (i64, i64)>,
    /// On process 0, the log for more bindings, and the generation's marker in it.
    log: Option<(Appender, Marker)>,
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
    /// On process 0.
    claim: Option<Claim>,
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
        let Some(settings) = Settings::of(config) else {
            return Ok(None);
        };
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
        let mut claim = None;
        if let Some(producer) = prepared {
            let place = recovery::place(&store)?;
            let goes_on = place.is_some();
            let log = producer.open(settings.replicas(), stop)?;
            let marker = settings.marker(clock, inputs.topic_id());
            let schema = Arc::clone(&reference);
            let claimed = bindings::claim(log, marker, schema, place, stop);
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
        Ok(Some(Self {
            process,
            settings,
            clock: Arc::clone(clock),
            reference,
            store: Arc::new(store),
            store_stop,
            generation: claim.as_ref().map_or(0, Claim::generation),
            claim,
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

    /// Reads what is bound and written, and has the events read from there. `written` is what files
    /// have, at most.
    pub(super) fn load(
        mut self,
        inputs: &mut Inputs,
        written: u64,
        monitor: &Arc<Monitor>,
    ) -> Result<Durable, Failure> {
        let Process { config, stop, .. } = self.process;
        let mut found = match self.claim.take() {
            Some(claim) => self.settle(claim)?,
            None => self.find()?,
        };
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
        let ownership = Ownership::new(config.limits.shards, config.cluster.workers());
        let (keys, keeper) = self.keep(&found, &ledger, &ownership)?;
        let newest_bound = NewestBound::new(newest_bound.into());
        let mut recorders = Vec::new();
        if found.log.is_some() {
            let (settings, generation) = (&self.settings, self.generation);
            let fail = kafka_fatal(self.process.fatal);
            let bound = &newest_bound;
            recorders = recording::start(settings, generation, &progress, bound, monitor, &fail)?;
        }
        let log = found.log.take().map(|(log, _)| Noting {
            log,
            newest: newest_bound,
            ledger,
        });
        let with_keys = found.checkpoint.as_ref();
        let with_keys = with_keys.filter(|manifest| manifest.keys() > 0);
        let begins_behind = with_keys.map(|manifest| manifest.epoch);
        let bindings = found.replayed();
        Ok(Durable {
            replay: Mutex::new(Replay { bindings, newest }),
            log: Mutex::new(log),
            reference: self.reference,
            transactions: self.transactions,
            recorders,
            progress,
            ownership,
            keys: Mutex::new(keys),
            keeper,
            begins_behind,
        })
    }

    /// The state in the checkpoint that is gone on from, and the thread that makes the next ones.
    fn keep(
        &self,
        found: &Found,
        ledger: &Ledger,
        ownership: &Ownership,
    ) -> Result<(Vec<Option<KeySet>>, Keeper), Failure> {
        let Process { config, index, .. } = self.process;
        let threads = config.cluster.threads;
        let groups = recovery::groups(ownership, config.cluster.workers());
        let own = &groups[index * threads..][..threads];
        let keys = self.keys(found.checkpoint.as_ref(), own)?;
        let publishing = found.log.as_ref().map(|log| {
            let checkpoint = (found.checkpoint.clone(), found.number);
            self.publishing(log, ledger, checkpoint, groups.clone())
        });
        let keeper = Keeper::start(checkpoints::Options {
            store: Arc::clone(&self.store),
            store_stop: Arc::clone(&self.store_stop),
            generation: self.generation,
            interval: config.checkpoint.interval,
            workers: threads,
            fatal: self.process.fatal,
            publishing: publishing.transpose()?,
        })?;
        Ok((keys, keeper))
    }

    /// What process 0 publishes checkpoints with.
    fn publishing(
        &self,
        (log, marker): &(Appender, Marker),
        ledger: &Ledger,
        (newest, number): (Option<Manifest>, u64),
        groups: Vec<Groups>,
    ) -> Result<Publishing, Failure> {
        let marker = serde_json::from_slice(&marker.encode());
        let runs = match &newest {
            Some(manifest) => recovery::runs(&self.store, manifest, &groups)?,
            None => Vec::new(),
        };
        Ok(Publishing {
            job: self.process.config.job.clone(),
            marker: marker.expect("a marker is JSON"),
            ledger: ledger.clone(),
            appended: log.appended(),
            clock: Arc::<WallClock>::clone(&self.clock),
            groups,
            runs,
            newest,
            number,
            published: self.published(),
        })
    }

    /// The keys of some workers, read side by side.
    fn keys(
        &self,
        checkpoint: Option<&Manifest>,
        groups: &[Groups],
    ) -> Result<Vec<Option<KeySet>>, Failure> {
        let narrow = self.process.config.events.schema.key_is_narrow();
        let Some(manifest) = checkpoint else {
            return Ok(groups.iter().map(|_| Some(KeySet::new(narrow))).collect());
        };
        let store = &self.store;
        std::thread::scope(|scope| {
            let of_worker = |groups: &Groups| {
                scope.spawn({
                    let groups = *groups;
                    move || recovery::keys(store, manifest, groups, narrow)
                })
            };
            let readers: Vec<_> = groups.iter().map(of_worker).collect();
            let sets = readers.into_iter().map(|reader| match reader.join() {
                Ok(set) => Ok(Some(set?)),
                Err(panic) => std::panic::resume_unwind(panic),
            });
            sets.collect()
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

    /// Chooses the checkpoint, and tells the other processes; all bindings behind it, and the log
    /// for more, if no newer generation has begun.
    fn settle(&self, claim: Claim) -> Result<Found, Failure> {
        let opened = claim.settle(&self.process.stop)?;
        let (checkpoint, number) = recovery::choose(&self.store)?;
        let fatal = self.process.fatal;
        let marker = opened.marker.clone();
        let (history, log) = opened.start(Arc::new(move |error| {
            if error != bindings::Error::Stopped {
                fatal(&error.into());
            }
        }));
        let mut bindings = VecDeque::from(history.bindings);
        let first = match &checkpoint {
            Some(manifest) => {
                bindings.retain(|binding| binding.epoch > manifest.epoch);
                recovery::bound(&self.store, manifest, &self.reference)?
            }
            None => bindings.pop_front().ok_or_else(nothing_bound)?,
        };
        let start = Start {
            checkpoint: checkpoint.as_ref().map(|manifest| manifest.number),
            ranges: recovery::ranges(&first.ends, &bindings),
        };
        write_start(&self.store, self.generation, &start)?;
        Ok(Found {
            ranges: start.ranges,
            checkpoint,
            number,
            first,
            bindings,
            log: Some((log, marker)),
        })
    }

    /// What process 0 has chosen, for the others: they need no bindings.
    fn find(&self) -> Result<Found, Failure> {
        let stop = &self.process.stop;
        let (start, checkpoint) = read_start(&self.store, self.generation, SHARED, stop)?;
        Ok(Found {
            checkpoint,
            number: 0,
            first: Binding::default(),
            bindings: VecDeque::new(),
            ranges: start.ranges,
            log: None,
        })
    }
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
