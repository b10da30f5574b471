//! How workers reach the thread that makes checkpoints (`making`), which on process 0 also
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

use deltajoin_workers::checkpoint::{Checkpoints, Part};
use deltajoin_workers::ports::{Clock, Stop};
use deltajoin_workers::queue::Waker;
use deltajoin_workers::state::ColdRun;

use crate::bindings::Appended;
use crate::checkpoint::{ColdFolder, Groups, Manifest, RowsEntry, RunEntry, Store};
use crate::config::Bindings;
use crate::failure::Failure;
use crate::process::ledger::Ledger;
use crate::process::making::Making;
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
    /// Where it is bound which generation goes on.
    pub(super) bindings: Bindings,
    pub(super) interval: Duration,
    /// How many workers this process has.
    pub(super) workers: usize,
    pub(super) memory: Memory,
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
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A bucket, and its keys if they have left memory.
type Frozen = (i64, Option<Arc<dyn ColdRun>>);

#[derive(Default)]
pub(super) struct State {
    work: VecDeque<Work>,
    /// Durable parts, for each worker of this process.
    pub(super) durable: Vec<VecDeque<(u64, Vec<u8>)>>,
    /// What has become of keys that were to leave memory, for each of those workers.
    pub(super) frozen: Vec<VecDeque<Frozen>>,
    wakers: Vec<Waker>,
    pub(super) settled: u64,
    /// Since when the last checkpoint is waited for.
    waiting: Option<Instant>,
    pub(super) ending: bool,
}

pub(super) enum Work {
    Part(usize, Part),
    Publish(u64, Option<i64>, Vec<Vec<u8>>),
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, work: Work) {
        self.lock().work.push_back(work);
        self.changed.notify_one();
    }

    /// The next work; none when no more is wanted.
    pub(super) fn take(&self) -> Option<Work> {
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
    pub(super) fn pause(&self) -> bool {
        let state = self.lock();
        let ending = |state: &mut State| !state.ending;
        let waited = self.changed.wait_timeout_while(state, AGAIN, ending);
        !waited.unwrap_or_else(PoisonError::into_inner).0.ending
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut State)) {
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
        if let Some(ledger) = &self.ledger {
            ledger.ask();
        }
        true
    }

    fn freeze(&mut self, part: Part) {
        if let Some(ledger) = &self.ledger {
            ledger.asked(part.epoch);
        }
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
