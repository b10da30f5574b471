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

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deltajoin_workers::batch::Batch;
use deltajoin_workers::checkpoint::{Checkpoints, KeyRun, Part};
use deltajoin_workers::ports::{Clock, Stop};
use deltajoin_workers::queue::Waker;
use deltajoin_workers::state::{ColdRun, Freeze};
use serde::{Deserialize, Serialize};

use crate::bindings::Appended;
use crate::checkpoint::{
    ColdFolder, Error, Groups, LogPosition, Manifest, Merging, RowsEntry, RunEntry, Store, clean,
    next_merge, put_manifest, rows_name, run_name, write_reference, write_rows, write_run,
};
use crate::failure::Failure;
use crate::fault_point;
use crate::process::ledger::{Bound, Ledger};
use crate::process::memory::Memory;

/// How soon what has failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a clean stop waits for the last checkpoint. What it lacks is replayed.
const LAST: Duration = Duration::from_secs(20);

/// What is kept where, and how often.
pub(super) struct Options {
    pub(super) store: Arc<Store>,
    /// Where keys go that leave memory.
    pub(super) cold: Arc<ColdFolder>,
    /// Ends what the store tries again.
    pub(super) store_stop: Arc<Stop>,
    pub(super) generation: u64,
    pub(super) interval: Duration,
    /// How many workers this process has.
    pub(super) workers: usize,
    pub(super) memory: Memory,
    pub(super) fatal: fn(&Failure) -> !,
    /// On process 0: what it publishes with.
    pub(super) publishing: Option<Publishing>,
}

/// What a worker's part of a checkpoint is made of.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    runs: Vec<RunEntry>,
    rows: Vec<RowsEntry>,
    /// Buckets of which a run has all keys: it takes the place of those before.
    replaced: Vec<i64>,
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
    /// The rows of the newest checkpoint.
    pub(super) rows: Vec<RowsEntry>,
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

/// A bucket, and its keys if they have left memory.
type Frozen = (i64, Option<Arc<dyn ColdRun>>);

#[derive(Default)]
struct State {
    work: VecDeque<Work>,
    /// Durable parts, for each worker of this process.
    durable: Vec<VecDeque<(u64, Vec<u8>)>>,
    /// What has become of keys that were to leave memory, for each of those workers.
    frozen: Vec<VecDeque<Frozen>>,
    wakers: Vec<Waker>,
    settled: u64,
    /// Since when the last checkpoint is waited for.
    waiting: Option<Instant>,
    ending: bool,
}

enum Work {
    Part(usize, Part),
    Publish(u64, Option<i64>, Vec<Vec<u8>>),
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
        shared.lock().frozen = vec![VecDeque::new(); options.workers];
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

    fn frozen(&mut self) -> Option<Frozen> {
        self.shared.lock().frozen[self.local].pop_front()
    }

    fn publish(&mut self, epoch: u64, clock_ms: Option<i64>, parts: Vec<Vec<u8>>) {
        self.shared.give(Work::Publish(epoch, clock_ms, parts));
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
                Work::Publish(epoch, clock_ms, parts) => self.publish((epoch, clock_ms), &parts),
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
        let Part {
            epoch,
            keys,
            rows,
            frozen,
        } = part;
        let Options {
            store,
            generation,
            memory,
            ..
        } = &self.options;
        let mut written = Written::default();
        for freeze in frozen {
            let Some(run) = self.freeze(local, &freeze) else {
                return;
            };
            if let Some(run) = run {
                written.runs.push(run);
                written.replaced.push(freeze.bucket);
            }
        }
        let new = |(bucket, _): &(i64, KeyRun)| !written.replaced.contains(bucket);
        let keys = keys.into_iter().filter(new).collect();
        for (bucket, keys) in sorted(keys) {
            let write = || write_run(store, (&run_name(*generation), bucket), &keys);
            let Some(run) = self.insist("could not write new keys", write) else {
                return;
            };
            written.runs.extend(run);
        }
        let name = || rows_name(*generation);
        let at_ms = |epoch, rows: &Batch, row| memory.at_ms(epoch, rows, row);
        let write = || write_rows(store, name, &rows, at_ms);
        let Some(rows) = self.insist("could not write new rows", write) else {
            return;
        };
        written.rows = rows;
        fault_point::reach("checkpoint.part");
        let description = serde_json::to_vec(&written).expect("plain values are always JSON");
        self.shared
            .tell(|state| state.durable[local].push_back((epoch, description)));
    }

    /// Moves the keys of a bucket to disk, and makes the same run durable. None when the end comes
    /// before; no run if they stay in memory.
    fn freeze(&self, local: usize, freeze: &Freeze) -> Option<Option<RunEntry>> {
        let Options {
            store,
            cold,
            generation,
            ..
        } = &self.options;
        let file = match cold.freeze(freeze) {
            Ok(file) => Some(file),
            Err(error) => {
                let detail = error.detail();
                tracing::error!(%error, detail, "could not write to state.dir; keys stay in memory");
                None
            }
        };
        let run = file.clone().map(|file| file as Arc<dyn ColdRun>);
        self.shared
            .tell(|state| state.frozen[local].push_back((freeze.bucket, run)));
        fault_point::reach("checkpoint.frozen");
        let Some(file) = file else {
            return Some(None);
        };
        let upload = || cold.upload(&file, store, &run_name(*generation));
        self.insist("could not write keys that left memory", upload)
            .map(Some)
    }

    /// Publishes a checkpoint of which all parts are durable.
    fn publish(&mut self, (epoch, clock_ms): (u64, Option<i64>), parts: &[Vec<u8>]) {
        self.take_merged();
        let publishing = self.options.publishing.as_mut();
        let publishing = publishing.expect("only process 0 publishes");
        for (description, groups) in parts.iter().zip(&publishing.groups) {
            let written = serde_json::from_slice(description);
            let written = written.expect("a worker of this build has made it");
            let Written {
                runs,
                rows,
                replaced,
            } = written;
            publishing.runs.retain(|run| {
                !(replaced.contains(&run.bucket) && groups.contains(run.first_group))
            });
            publishing.runs.extend(runs);
            publishing.rows.extend(rows);
        }
        let Bound { ends, reference } = publishing.ledger.fold(epoch);
        let (memory, now) = (self.options.memory, (epoch, clock_ms));
        publishing.runs.retain(|run| memory.has_run(run, now));
        publishing.rows.retain(|rows| memory.has_rows(rows, now));
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
                clock_ms,
                runs: publishing.runs.clone(),
                rows: publishing.rows.clone(),
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
        let mut by_worker: BTreeMap<(usize, i64), Vec<RunEntry>> = BTreeMap::new();
        for run in &publishing.runs {
            let own = |groups: &Groups| groups.contains(run.first_group);
            let worker = publishing.groups.iter().position(own);
            let worker = worker.expect("each key group has an owner");
            let runs = by_worker.entry((worker, run.bucket)).or_default();
            runs.push(run.clone());
        }
        for ((worker, _), runs) in by_worker {
            let groups = &publishing.groups[worker];
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
                if !merged.iter().all(|run| publishing.runs.contains(run)) {
                    // A run that has all keys of the bucket has taken their place.
                    return;
                }
                publishing.runs.retain(|run| !merged.contains(run));
                publishing.runs.extend(run);
            }
            Err(error) => tracing::error!(%error, "could not merge runs; tried again later"),
        }
    }
}

/// The keys of each bucket, in order.
fn sorted(runs: Vec<(i64, KeyRun)>) -> BTreeMap<i64, KeyRun> {
    let mut sorted: BTreeMap<i64, KeyRun> = BTreeMap::new();
    for (bucket, run) in runs {
        match (sorted.get_mut(&bucket), run) {
            (None, run) => drop(sorted.insert(bucket, run)),
            (Some(KeyRun::Narrow(all)), KeyRun::Narrow(keys)) => all.extend(keys),
            (Some(KeyRun::Wide(all)), KeyRun::Wide(keys)) => all.extend(keys),
            _ => unreachable!("a job has keys of one width"),
        }
    }
    for run in sorted.values_mut() {
        match run {
            KeyRun::Narrow(keys) => keys.sort_unstable(),
            KeyRun::Wide(keys) => keys.sort_unstable(),
        }
    }
    sorted
}
