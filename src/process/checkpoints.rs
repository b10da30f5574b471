//! Makes the checkpoints of this process's workers, on a thread of its own; on process 0 also
//! publishes those of the job.
//!
//! It is apart from `checkpoint`, which knows objects and manifests, because here they meet the
//! workers and the binding log.
//!
//! # Invariants
//! * No worker ever waits for this thread, but the last epoch of a clean stop does.
//! * A store that fails costs checkpoints, never results: it is tried again, loudly, and the log
//!   of bindings is kept until it works.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deltajoin_workers::checkpoint::{Checkpoints, KeyRun, Part};
use deltajoin_workers::ports::{Clock, Stop};
use deltajoin_workers::queue::Waker;

use crate::bindings::Appended;
use crate::checkpoint::{
    Error, Groups, LogPosition, Manifest, Merging, RunEntry, Store, clean, next_merge,
    put_manifest, run_name, write_reference, write_run,
};
use crate::failure::Failure;
use crate::fault_point;
use crate::process::ledger::{Bound, Ledger};

/// How soon what has failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a clean stop waits for the last checkpoint. What it lacks is replayed.
const LAST: Duration = Duration::from_secs(20);

/// What is kept where, and how often.
pub(super) struct Options {
    pub(super) store: Arc<Store>,
    /// Ends what the store tries again.
    pub(super) store_stop: Arc<Stop>,
    pub(super) generation: u64,
    pub(super) interval: Duration,
    /// How many workers this process has.
    pub(super) workers: usize,
    pub(super) fatal: fn(&Failure) -> !,
    /// On process 0: what it publishes with.
    pub(super) publishing: Option<Publishing>,
}

/// Told of each checkpoint that is published, and of the one before it.
pub(super) type Published = Box<dyn FnMut(&Manifest, Option<&Manifest>) + Send>;

/// What process 0 knows of the whole job.
pub(super) struct Publishing {
    pub(super) job: String,
    /// The generation's marker, as it stands in the log.
    pub(super) marker: serde_json::Value,
    pub(super) ledger: Ledger,
    pub(super) appended: Appended,
    pub(super) clock: Arc<dyn Clock>,
    /// The key groups of each worker of the job.
    pub(super) groups: Vec<Groups>,
    /// The runs of the newest checkpoint, each in one worker's key groups.
    pub(super) runs: Vec<RunEntry>,
    /// The newest checkpoint.
    pub(super) newest: Option<Manifest>,
    /// The number of the next one.
    pub(super) number: u64,
    /// Told of each checkpoint that is published, and of the one before it.
    pub(super) published: Published,
}

/// The thread that makes checkpoints, from outside.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    store_stop: Arc<Stop>,
    interval: Duration,
    ledger: Option<Ledger>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    work: VecDeque<Work>,
    /// Durable parts, for each worker of this process.
    durable: Vec<VecDeque<(u64, Vec<u8>)>>,
    wakers: Vec<Waker>,
    settled: u64,
    /// Since when the last checkpoint is waited for.
    waiting: Option<Instant>,
    ending: bool,
}

enum Work {
    Part(usize, Part),
    Publish(u64, Vec<Vec<u8>>),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, work: Work) {
        self.lock().work.push_back(work);
        self.changed.notify_one();
    }

    /// The next work; none when no more is wanted.
    fn take(&self) -> Option<Work> {
        let mut state = self.lock();
        while !state.ending {
            if let Some(work) = state.work.pop_front() {
                return Some(work);
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// Waits, unless the end comes. Returns whether to go on.
    fn pause(&self) -> bool {
        let state = self.lock();
        let ending = |state: &mut State| !state.ending;
        let waited = self.changed.wait_timeout_while(state, AGAIN, ending);
        !waited.unwrap_or_else(PoisonError::into_inner).0.ending
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wakers = state.wakers.clone();
        drop(state);
        wakers.iter().for_each(|waker| waker());
    }
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(options: Options) -> Result<Self, Failure> {
        let shared = Arc::new(Shared::default());
        shared.lock().durable = vec![VecDeque::new(); options.workers];
        let store_stop = Arc::clone(&options.store_stop);
        let interval = options.interval;
        let publishing = options.publishing.as_ref();
        let ledger = publishing.map(|publishing| publishing.ledger.clone());
        let mut making = Making {
            shared: Arc::clone(&shared),
            options,
            merging: None,
        };
        let thread = std::thread::Builder::new()
            .name("checkpoints".to_owned())
            .spawn(move || making.run())
            .map_err(|error| Failure::failed(format!("could not start a thread: {error}")))?;
        Ok(Self {
            shared,
            store_stop,
            interval,
            ledger,
            thread: Some(thread),
        })
    }

    /// What one worker of this process hands its parts to.
    pub(super) fn of_worker(&self, local: usize) -> Box<dyn Checkpoints> {
        Box::new(OfWorker {
            shared: Arc::clone(&self.shared),
            local,
            interval: self.interval,
            due_at: Instant::now() + self.interval,
            ledger: self.ledger.clone(),
            asked: None,
        })
    }

    /// Ends the thread; what is not published is not needed.
    pub(super) fn end(mut self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_one();
        self.store_stop.ask();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of checkpoints has panicked");
        }
    }
}

/// The port of one worker.
struct OfWorker {
    shared: Arc<Shared>,
    local: usize,
    interval: Duration,
    due_at: Instant,
    /// On process 0: without anything bound there is nothing to keep.
    ledger: Option<Ledger>,
    /// What was settled when a checkpoint was asked for last.
    asked: Option<u64>,
}

impl Checkpoints for OfWorker {
    fn due(&mut self) -> bool {
        let now = Instant::now();
        let more = self.ledger.as_ref().is_some_and(Ledger::has_more);
        if now < self.due_at || !more {
            return false;
        }
        let settled = self.shared.lock().settled;
        if self.asked.is_some_and(|before| before == settled) {
            return false;
        }
        self.asked = Some(settled);
        self.due_at = now + self.interval;
        true
    }

    fn freeze(&mut self, part: Part) {
        self.shared.give(Work::Part(self.local, part));
    }

    fn durable(&mut self) -> Option<(u64, Vec<u8>)> {
        self.shared.lock().durable[self.local].pop_front()
    }

    fn publish(&mut self, epoch: u64, parts: Vec<Vec<u8>>) {
        self.shared.give(Work::Publish(epoch, parts));
    }

    fn settled(&self) -> u64 {
        let mut state = self.shared.lock();
        let since = *state.waiting.get_or_insert_with(Instant::now);
        if since.elapsed() < LAST {
            return state.settled;
        }
        tracing::error!("no last checkpoint could be made: the next start replays more");
        u64::MAX
    }

    fn wake_by(&mut self, waker: Waker) {
        self.shared.lock().wakers.push(waker);
    }
}

/// The thread itself.
struct Making {
    shared: Arc<Shared>,
    options: Options,
    /// A merge that is under way.
    merging: Option<Merging>,
}

impl Making {
    fn run(&mut self) {
        while let Some(work) = self.shared.take() {
            match work {
                Work::Part(local, part) => self.keep(local, part),
                Work::Publish(epoch, parts) => self.publish(epoch, &parts),
            }
        }
    }

    /// Tries until it succeeds; none when the end comes before.
    fn insist<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T, Error>) -> Option<T> {
        loop {
            let error = match attempt() {
                Ok(done) => return Some(done),
                Err(superseded @ Error::Superseded { .. }) => {
                    (self.options.fatal)(&superseded.into())
                }
                Err(error) => error,
            };
            if self.shared.lock().ending {
                return None;
            }
            let (detail, hint) = (error.detail(), error.hint());
            tracing::error!(%error, detail, hint, "{what}; the job goes on without checkpoints");
            if !self.shared.pause() {
                return None;
            }
        }
    }

    /// Makes a worker's part durable.
    fn keep(&self, local: usize, part: Part) {
        let epoch = part.epoch;
        let keys = sorted(part.keys);
        let Options {
            store, generation, ..
        } = &self.options;
        let written = self.insist("could not write new keys", || match &keys {
            Some(keys) => write_run(store, &run_name(*generation), keys),
            None => Ok(None),
        });
        let Some(run) = written else { return };
        fault_point::reach("checkpoint.part");
        let description = serde_json::to_vec(&run).expect("plain values are always JSON");
        self.shared
            .tell(|state| state.durable[local].push_back((epoch, description)));
    }

    /// Publishes a checkpoint of which all parts are durable.
    fn publish(&mut self, epoch: u64, parts: &[Vec<u8>]) {
        self.take_merged();
        let publishing = self.options.publishing.as_mut();
        let publishing = publishing.expect("only process 0 publishes");
        let runs = parts.iter().filter_map(|description| {
            let run: Option<RunEntry> =
                serde_json::from_slice(description).expect("a worker of this build has made it");
            run
        });
        publishing.runs.extend(runs);
        let Bound { ends, reference } = publishing.ledger.fold(epoch);
        let next = publishing.appended.next(epoch);

        let publishing = self.options.publishing.as_ref();
        let publishing = publishing.expect("only process 0 publishes");
        let before = publishing.newest.as_ref();
        let (store, generation) = (&self.options.store, self.options.generation);
        let put = || {
            let before = before.and_then(|manifest| manifest.reference.as_ref());
            let reference = match &reference {
                Some(rows) => write_reference(store, generation, rows, before)?,
                None => before.cloned(),
            };
            let mut manifest = Manifest {
                job: publishing.job.clone(),
                number: publishing.number,
                generation,
                epoch,
                written_ms: publishing.clock.now_ms(),
                log: LogPosition {
                    marker: publishing.marker.clone(),
                    next,
                },
                offsets: ends.clone(),
                runs: publishing.runs.clone(),
                reference,
            };
            fault_point::reach("manifest.put");
            put_manifest(store, &mut manifest)?;
            Ok(manifest)
        };
        let Some(manifest) = self.insist("could not publish a checkpoint", put) else {
            return;
        };
        tracing::debug!(
            epoch,
            number = manifest.number,
            keys = manifest.keys(),
            "published a checkpoint"
        );
        fault_point::reach("manifest.published");
        self.shared.tell(|state| state.settled = epoch);
        self.after(manifest);
    }

    /// What need not be done before a checkpoint counts.
    fn after(&mut self, manifest: Manifest) {
        let publishing = self.options.publishing.as_mut();
        let publishing = publishing.expect("only process 0 publishes");
        publishing.number = manifest.number + 1;
        (publishing.published)(&manifest, publishing.newest.as_ref());
        publishing.newest = Some(manifest);
        let (store, generation) = (&self.options.store, self.options.generation);
        if let Err(error) = clean(store, generation) {
            tracing::warn!(%error, "could not delete what no checkpoint needs; tried again later");
        }
        if self.merging.is_some() {
            return;
        }
        for groups in &publishing.groups {
            let own = |run: &&RunEntry| groups.contains(run.first_group);
            let runs: Vec<RunEntry> = publishing.runs.iter().filter(own).cloned().collect();
            if let Some(chosen) = next_merge(&runs) {
                let chosen = chosen.into_iter().map(|index| runs[index].clone());
                let (store, name) = (Arc::clone(store), run_name(generation));
                self.merging = Some(Merging::start(store, chosen.collect(), *groups, name));
                return;
            }
        }
    }

    /// Puts a merged run in the place of those that it is made of.
    fn take_merged(&mut self) {
        let Some(merging) = self.merging.take_if(|merging| merging.is_finished()) else {
            return;
        };
        let merged = merging.runs.clone();
        match merging.finish() {
            Ok(run) => {
                let publishing = self.options.publishing.as_mut();
                let publishing = publishing.expect("only process 0 merges");
                publishing.runs.retain(|run| !merged.contains(run));
                publishing.runs.extend(run);
            }
            Err(error) => tracing::error!(%error, "could not merge runs; tried again later"),
        }
    }
}

/// All keys in order; none if there are none.
fn sorted(runs: Vec<KeyRun>) -> Option<KeyRun> {
    let (mut narrow, mut wide) = (Vec::new(), Vec::new());
    for run in runs {
        match run {
            KeyRun::Narrow(keys) => narrow.extend(keys),
            KeyRun::Wide(keys) => wide.extend(keys),
        }
    }
    narrow.sort_unstable();
    wide.sort_unstable();
    match (narrow.is_empty(), wide.is_empty()) {
        (false, _) => Some(KeyRun::Narrow(narrow)),
        (true, false) => Some(KeyRun::Wide(wide)),
        (true, true) => None,
    }
}
