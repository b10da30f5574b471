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
//! 3. When all have, process 0 reads the log once more: is there no newer marker? Then it tells
//!    which checkpoint is loaded, and all load it; if one finds a fault in it, the one before.
//!    (`Joining::choose`, `Joining::load`)
//! 4. When all have, they read how far each sink has come, and set where they read from.
//!    (`Joining::take_over`)
//!
//! # Invariants
//! * Nothing is read of the events, and nothing written to a sink, before all of this is done.
//! * What is bound is never resolved again: neither the first offset nor any end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::{Binding, Replay};
use deltajoin_workers::clock::ExpiryClock;
use deltajoin_workers::key::Ownership;
use deltajoin_workers::ports::Stop;

use crate::bindings::{self, Appender, History, Log, Marker};
use crate::checkpoint::{self, Options, Store};
use crate::config::Config;
use crate::failure::Failure;
use crate::fault_point;
use crate::process::checkpoints::{self, Keeper, Publishing};
use crate::process::cold::Cold;
use crate::process::durable::{self, Durable};
use crate::process::inputs::Inputs;
use crate::process::ledger::{Ledger, NewestBound, Noting};
use crate::process::log::{self, Prepared};
use crate::process::memory::Memory;
use crate::process::outputs::Outputs;
use crate::process::plan;
use crate::process::promises::{self, Settings};
use crate::process::recovery::{Loaded, Loading, Ranges, RowSettings};
use crate::process::state;
use crate::process::topics::{self, Topics};
use crate::process::{Process, recovery};
use crate::telemetry::{Monitor, WallClock};

/// The epoch of the binding that says where reading starts: before any epoch of the clock.
pub(super) const FIRST_EPOCH: u64 = 1;

/// The log with the marker of this generation: process 0 has it.
type Claim = bindings::Claim<Box<dyn Log>>;

/// The log when its history is known.
type Opened = bindings::Opened<Box<dyn Log>>;

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
    store: Arc<Store>,
    /// Ends what the store tries again: not a clean stop, which needs it for a while.
    store_stop: Arc<Stop>,
    cold: Cold,
    loading: Loading,
    /// On process 0, until the log is read for the last time, and then what it holds.
    claim: Option<Claim>,
    opened: Option<Opened>,
    generation: u64,
    /// What it has at the clusters of sinks.
    topics: Topics,
}

impl<'a> Joining<'a> {
    /// What takes a while to be ready for `begin`, on process 0.
    pub(super) fn prepare(process: &Process) -> Result<Option<Prepared>, Failure> {
        let prepares = process.index == 0 && durable::goes_on(process);
        let bindings = prepares.then(|| process.config.bindings());
        bindings.as_ref().map(Prepared::new).transpose()
    }

    /// Claims the log, on process 0. None if nothing of the job outlives a restart.
    pub(super) fn begin(
        process: &'a Process,
        prepared: Option<Prepared>,
        (inputs, outputs): (&mut Inputs, &Outputs),
        clock: &Arc<WallClock>,
    ) -> Result<Option<Self>, Failure> {
        let Process { config, stop, .. } = process;
        let mut settings = Settings::of(config);
        if !durable::goes_on(process) {
            return settings.refuse_exactly_once(process.engine).map(|()| None);
        }
        settings.events_id = inputs.id().map(str::to_owned);
        settings.found = outputs.found();
        let reference = plan::reference_schema(config);
        let store_stop = Arc::new(Stop::default());
        let store = Store::open(
            &config.checkpoint.location,
            &config.job,
            Options::default(),
            Arc::clone(&store_stop),
        )?;
        let store = Arc::new(store);
        let cold = Cold::open(process, &store_stop)?;
        let (mut claim, mut reaches) = (None, None);
        if let Some(prepared) = prepared {
            let mut log = prepared.open(settings.replicas(), stop)?;
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
                state::refuse_rows(&settings, stop)?;
                inputs.needs_reference(true)?;
                let first = Binding {
                    epoch: FIRST_EPOCH,
                    ends: inputs.starts(),
                    ..Binding::default()
                };
                claimed.append(&first, stop)?;
            }
            topics::fence_earlier(&settings, claimed.earlier(), stop)?;
            claim = Some(claimed);
        }
        let threads = config.cluster.threads;
        let ownership = Ownership::new(config.limits.shards, config.cluster.workers());
        let groups = recovery::groups(&ownership, config.cluster.workers());
        let own = process.index * threads..(process.index + 1) * threads;
        let loading = Loading::new(
            (Arc::clone(&store), cold.clone()),
            Arc::clone(&reference),
            rows_held(config, &settings.lasting().settings),
            (groups, own),
            reaches,
        );
        Ok(Some(Self {
            process,
            settings,
            clock: Arc::clone(clock),
            store,
            store_stop,
            cold,
            loading,
            generation: claim.as_ref().map_or(0, Claim::generation),
            claim,
            opened: None,
            topics: Topics::default(),
        }))
    }

    /// The generation that process 0 hands out.
    pub(super) fn generation(&self) -> Option<u64> {
        self.claim.as_ref().map(Claim::generation)
    }

    /// Takes the transactional ids away from older generations.
    pub(super) fn fence(&mut self, generation: u64) -> Result<(), Failure> {
        self.generation = generation;
        self.topics = Topics::fence(self.process, &self.settings, generation)?;
        Ok(())
    }

    /// On process 0, reads the log for the last time, and tells which checkpoint is loaded: the
    /// newest at first, and the one before each time that it is called again.
    pub(super) fn choose(&mut self) -> Result<(), Failure> {
        if let Some(claim) = self.claim.take() {
            self.opened = Some(claim.settle(&self.process.stop)?);
        }
        let Some(opened) = &self.opened else {
            // Process 0 has the log, unless it was stopped while it read it.
            return Err(checkpoint::Error::Stopped.into());
        };
        self.loading.choose(self.generation, &opened.history)
    }

    /// Loads the state of this process's workers, from the checkpoint that is told. Returns whether
    /// it has found no fault.
    pub(super) fn load(&mut self) -> Result<bool, Failure> {
        let good = self.loading.attempt(self.generation, &self.process.stop)?;
        if let (Some(opened), Some(loaded)) = (&self.opened, &self.loading.loaded) {
            // Further back, there is more to be made again.
            let made = loaded.checkpoint.as_ref();
            let made = made.map_or(FIRST_EPOCH, |manifest| manifest.epoch);
            let log = log::name(&self.settings.bindings);
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
        let written = self.topics.read(&self.settings, stop)?.max(written);
        fault_point::reach("progress.read");
        inputs.resume(&found.ranges, &found.bindings, stop)?;
        let newest_bound = found.newest();
        let newest = newest_bound.max(written);
        let (from, replayed) = (found.first.epoch, found.bindings.len());
        tracing::debug!(from, replayed, newest, "took the job over");
        self.clock.tell_behind(newest);

        let ledger = found.ledger();
        let begins_behind = loaded.checkpoint.as_ref();
        let begins_behind = begins_behind.filter(|manifest| manifest.keys() > 0);
        let begins_behind = begins_behind.map(|manifest| manifest.epoch);
        let state = std::mem::take(&mut loaded.state);
        let recorded = std::mem::take(&mut loaded.recorded);
        let clock_ms = found.first.clock_ms;
        let clock = ExpiryClock::new(clock_ms, found.ranges.keys().copied());
        let restored = loaded
            .checkpoint
            .as_ref()
            .map_or(0, |manifest| manifest.epoch);
        let keeper = self.keep(loaded, &ledger, log.as_ref())?;
        if let Some((log, _)) = &log {
            let appended = log.appended();
            let newest: NewestBound = Arc::new(move || appended.newest().max(newest_bound));
            let bound = (newest, monitor);
            let topics = &mut self.topics;
            topics.record(self.process, &self.settings, self.generation, bound)?;
        }
        let log = log.map(|(log, _)| Noting { log, ledger });
        let bindings = found.replayed();
        Ok(Durable {
            replay: Mutex::new(Replay { bindings, newest }),
            log: Mutex::new(log),
            topics: self.topics,
            recorded,
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
                rows: loaded.rows,
                newest: loaded.checkpoint,
                number: self.loading.number,
                published: topics::published(&self.settings, &self.clock, &self.store_stop),
            }
        });
        if let Err(error) = self.cold.folder.clean() {
            tracing::warn!(%error, "could not delete what is not needed in state.dir");
        }
        Keeper::start(checkpoints::Options {
            store: Arc::clone(&self.store),
            cold: Arc::clone(&self.cold.folder),
            store_stop: Arc::clone(&self.store_stop),
            generation: self.generation,
            bindings: self.settings.bindings.clone(),
            interval: config.checkpoint.interval,
            workers: config.cluster.threads,
            memory: Memory::of(config),
            fatal: self.process.fatal,
            publishing,
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

/// Settings by which rows of the window are held: which of them, and as events or as results. With
/// others they stay as they are, as nothing tells any more what was given out of them.
const OF_HELD: [&str; 8] = [
    "distinct.detect_conflicts",
    "distinct.keep",
    "events.columns",
    promises::TIME_COLUMN,
    "join.on",
    "join.on_reference_change",
    "join.revise_window",
    "join.unmatched",
];

/// What the rows of the window must be, so that they can be revised.
fn rows_held(config: &Config, settings: &BTreeMap<String, String>) -> RowSettings {
    let events = BatchSchema::register(config.events.schema.clone());
    let join = plan::join(config);
    let of_held = |(name, _): &(&String, &String)| OF_HELD.contains(&&***name);
    let settings = settings.iter().filter(of_held);
    RowSettings {
        schema: match join.holds_results() {
            true => Arc::clone(&join.joined),
            false => events,
        },
        join,
        settings: settings
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}

/// A start binds where reading starts before anything else.
fn nothing_bound() -> Failure {
    Failure::failed("the binding log does not say where reading starts")
}
