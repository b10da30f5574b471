//! The step loop: what a timely worker does from start to end.
//!
//! Bound epochs of earlier runs are minted again first, as they were; then new ones by the clock.
//! Each turn steps the dataflow, gives back the bytes of epochs that are written, and tells worker
//! 0 what it must know. Worker 0 also mints epochs, adds up counts, and ends the job.
//!
//! # How a job ends
//! When all readers have come to their ends, or a stop is asked for, worker 0 mints a last epoch,
//! waits for the checkpoint of it, and closes the input. Every worker then sees the end in the same
//! way: the frontier behind all sinks is empty, because everything is written everywhere. Only then
//! does it leave, so a peer that closes its connection after that is no loss.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use timely::worker::Worker;

use crate::bindings::{Binding, Replay};
use crate::checkpoint::Checkpoints;
use crate::control::{Control, Message};
use crate::dataflow::{self, Dataflow, Engine, Plan, Ports};
use crate::epoch::{BUSY, Minter};
use crate::operators::{SharedCounts, count_keys};
use crate::ports::{Clock, Counts, Events, Observer, Progress, Stop};
use crate::queue::Waker;

/// How often counts are told to worker 0, and progress to the shell.
const REPORT_EVERY_US: u64 = 1_000_000;
/// A worker with records asks for epochs this often: it stays within the time for which one is
/// minted every tick.
const ASK_EVERY_US: u64 = BUSY.as_micros() as u64 / 2;
/// How long a worker that is not woken sleeps at most: it bounds how late a stop is seen.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// What a worker is given, beside its ports.
#[derive(Clone)]
pub struct Settings {
    /// The job.
    pub plan: Plan,
    /// Epochs are minted at most this often.
    pub tick: Duration,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Who is told what has been done.
    pub observer: Arc<dyn Observer>,
    /// Set when the job must stop.
    pub stop: Arc<Stop>,
}

/// Runs a worker until everything is written or, after a stop, everything that was read.
pub fn run(worker: &mut Worker, settings: Settings, mut ports: Ports) {
    let counts = SharedCounts::default();
    let control = Control::build(worker);
    let events = Rc::clone(&ports.events);
    let thread = std::thread::current();
    let waker: Waker = Arc::new(move || thread.unpark());
    events.wake_by(Arc::clone(&waker));
    if let Some(reference) = &ports.reference {
        reference.wake_by(Arc::clone(&waker));
    }
    if let Some(checkpoints) = &mut ports.checkpoints {
        checkpoints.wake_by(waker);
    }
    let first_here = ports.first_of_process;
    let plan = settings.plan.clone();
    let replay = std::mem::take(&mut ports.replay);
    let dataflow = worker.dataflow(|scope| dataflow::build(scope, plan, ports, &counts));
    let first = (worker.index() == 0).then(|| First::new(&settings, worker.peers(), replay));
    let mut this = This {
        first_here,
        settings,
        control,
        dataflow,
        events,
        counts,
        asked_us: 0,
        said_exhausted: false,
        said_stop: false,
        said_live: false,
        reported_us: 0,
    };
    match first {
        Some(first) => this.run_first(worker, first),
        None => this.run_other(worker),
    }
}

/// What a worker holds while it runs.
struct This {
    settings: Settings,
    control: Control,
    dataflow: Dataflow,
    events: Rc<Events>,
    counts: SharedCounts,
    /// Whether this is the first worker of its process, which speaks for it.
    first_here: bool,
    /// When worker 0 was last asked for epochs.
    asked_us: u64,
    said_exhausted: bool,
    said_stop: bool,
    said_live: bool,
    reported_us: u64,
}

impl This {
    fn run_first(&mut self, worker: &mut Worker, mut first: First) {
        while !self.dataflow.written.done() {
            worker.step_or_park(Some(first.wait(&self.dataflow)));
            self.turn();
            first.receive(&self.control);
            first.publish(&mut self.dataflow);
            first.mint(&mut self.dataflow, &self.settings);
        }
        self.settings.observer.settled(first.minted + 1);
        self.leave();
        while !self.control.all_left() {
            worker.step_or_park(Some(SLEEP_MAX));
        }
        first.receive(&self.control);
        first.report(&self.settings);
    }

    fn run_other(&mut self, worker: &mut Worker) {
        std::mem::take(&mut self.dataflow.mints).close();
        while !self.dataflow.written.done() {
            worker.step_or_park(Some(SLEEP_MAX));
            self.turn();
        }
        self.leave();
        while !self.control.all_left() {
            worker.step_or_park(Some(SLEEP_MAX));
        }
    }

    /// What every worker does in every turn.
    fn turn(&mut self) {
        self.release();
        self.keep();
        if self.first_here && !self.said_live && self.dataflow.unwritten.borrow().live {
            self.said_live = true;
            self.settings.observer.live();
        }
        let now_us = self.settings.clock.now_us();
        let left_over = self.dataflow.unwritten.borrow().left_over;
        if (self.events.ready() || left_over) && now_us >= self.asked_us + ASK_EVERY_US {
            self.asked_us = now_us;
            self.control.send(Message::Ask);
        }
        if self.events.finished() && !left_over && !self.said_exhausted {
            self.said_exhausted = true;
            self.control.send(Message::Exhausted);
        }
        if self.settings.stop.asked() && !self.said_stop {
            self.said_stop = true;
            self.control.send(Message::Stop);
        }
        if now_us >= self.reported_us + REPORT_EVERY_US {
            self.reported_us = now_us;
            self.tell_counts();
        }
    }

    /// Hands over parts of checkpoints whose epochs are written everywhere, and tells worker 0
    /// which are durable.
    fn keep(&mut self) {
        let Dataflow {
            checkpoints: Some(checkpoints),
            written,
            admitted,
            keys,
            ..
        } = &mut self.dataflow
        else {
            return;
        };
        let passed = |epoch| !written.less_equal(&epoch);
        while let Some(epoch) = { admitted.borrow_mut().next_request(passed) } {
            let mut part = admitted.borrow_mut().take(epoch);
            let mut keys = keys.borrow_mut();
            let rows = self.counts.borrow().recent_bytes;
            let narrow = keys.is_narrow();
            let later = |bucket| admitted.borrow().of_bucket(bucket, narrow);
            part.frozen = keys.freeze(rows, later);
            if let Some(needed) = keys.above_limit(rows) {
                self.settings.observer.crowded(needed, rows, keys.limit());
            }
            checkpoints.freeze(part);
        }
        while let Some((bucket, run)) = checkpoints.frozen() {
            let mut keys = keys.borrow_mut();
            keys.frozen(bucket, run);
            count_keys(&mut self.counts.borrow_mut(), &keys);
        }
        while let Some((epoch, description)) = checkpoints.durable() {
            self.control.send(Message::Part { epoch, description });
        }
    }

    fn tell_counts(&mut self) {
        let mut counts = *self.counts.borrow();
        if self.first_here {
            counts.lag_records = self.settings.observer.lag_records();
        }
        self.control.send(Message::Counts(counts));
    }

    /// Gives back the bytes of epochs that are written everywhere, and forgets their clocks, for
    /// which nobody asks any more: who does holds the epoch back.
    fn release(&self) {
        let dataflow = &self.dataflow;
        let frontier = dataflow
            .written
            .with_frontier(|frontier| frontier.first().copied());
        if let Some(epoch) = frontier {
            self.settings.observer.settled(epoch);
            dataflow.clocks.forget_before(epoch);
        }
        let mut unwritten = dataflow.unwritten.borrow_mut();
        while let Some(stamped) = unwritten.pop_before(frontier) {
            self.events.release(stamped.bytes);
            self.settings
                .observer
                .written(stamped.records, stamped.published_ms);
        }
    }

    fn leave(&mut self) {
        self.events.close();
        self.release();
        self.tell_counts();
        self.control.leave();
    }
}

/// What only worker 0 does.
struct First {
    minter: Minter,
    /// Bound epochs that are still to be minted again.
    bound: VecDeque<Binding>,
    counts: Vec<Counts>,
    /// Durable parts of checkpoints, by epoch and worker.
    parts: BTreeMap<u64, BTreeMap<usize, Vec<u8>>>,
    /// The expiry clocks of those epochs.
    clocks: BTreeMap<u64, Option<i64>>,
    /// The epoch of the last checkpoint, once it is minted.
    last: Option<u64>,
    running: BTreeSet<usize>,
    /// The newest epoch that was minted here; 0 before the first.
    minted: u64,
    stopping: bool,
    /// Whether the last epoch is minted and the input closed.
    closed: bool,
    live: bool,
    reported_us: u64,
}

impl First {
    fn new(settings: &Settings, peers: usize, replay: Replay) -> Self {
        Self {
            minter: Minter::new(Arc::clone(&settings.clock), settings.tick, replay.newest),
            bound: replay.bindings,
            minted: 0,
            counts: vec![Counts::default(); peers],
            parts: BTreeMap::new(),
            clocks: BTreeMap::new(),
            last: None,
            running: (0..peers).collect(),
            stopping: false,
            closed: false,
            live: false,
            reported_us: 0,
        }
    }

    /// Whether every worker has closed the newest epoch.
    fn all_closed(&self, dataflow: &Dataflow) -> bool {
        self.minted == 0 || !dataflow.closed.less_equal(&self.minted)
    }

    /// How long there is nothing to do but to wait for messages, which end the wait.
    fn wait(&self, dataflow: &Dataflow) -> Duration {
        if self.all_closed(dataflow) && !self.closed && self.last.is_none() {
            if !self.bound.is_empty() {
                return Duration::ZERO;
            }
            self.minter.wait().min(SLEEP_MAX)
        } else {
            SLEEP_MAX
        }
    }

    fn receive(&mut self, control: &Control) {
        while let Some((worker, message)) = control.receive() {
            match message {
                Message::Ask => self.minter.ask(),
                Message::Exhausted => {
                    self.running.remove(&worker);
                }
                Message::Stop => self.stopping = true,
                Message::Counts(counts) => self.counts[worker] = counts,
                Message::Part { epoch, description } => {
                    let parts = self.parts.entry(epoch).or_default();
                    parts.insert(worker, description);
                }
            }
        }
    }

    /// Publishes the checkpoints of which all parts are there.
    fn publish(&mut self, dataflow: &mut Dataflow) {
        let Some(checkpoints) = &mut dataflow.checkpoints else {
            return;
        };
        while let Some(entry) = self.parts.first_entry()
            && entry.get().len() == self.counts.len()
        {
            let (epoch, parts) = entry.remove_entry();
            let clock_ms = self.clocks.remove(&epoch).flatten();
            checkpoints.publish(epoch, clock_ms, parts.into_values().collect());
        }
    }

    /// Whether the state at the end is kept, or need not be.
    fn last_is_settled(&mut self, dataflow: &mut Dataflow) -> bool {
        let (Some(checkpoints), true) = (&dataflow.checkpoints, self.bound.is_empty()) else {
            return true;
        };
        match self.last {
            Some(epoch) => checkpoints.settled() >= epoch,
            None => {
                let epoch = self.minter.now();
                self.last = Some(epoch);
                self.minted = epoch;
                let clock_ms = dataflow.mint(epoch, false, true);
                self.clocks.insert(epoch, clock_ms);
                false
            }
        }
    }

    /// Mints an epoch if one is due and every worker has closed the one before; closes the input
    /// when nothing more is to come.
    fn mint(&mut self, dataflow: &mut Dataflow, settings: &Settings) {
        let now_us = settings.clock.now_us();
        if now_us >= self.reported_us + REPORT_EVERY_US {
            self.reported_us = now_us;
            self.report(settings);
        }
        if self.closed || !self.all_closed(dataflow) {
            return;
        }
        let ended = self.live && self.running.is_empty() && self.bound.is_empty();
        if self.stopping || ended {
            if self.last_is_settled(dataflow) {
                std::mem::take(&mut dataflow.mints).close();
                self.closed = true;
            }
        } else if let Some(binding) = self.bound.pop_front() {
            self.minted = binding.epoch;
            dataflow.replay(binding);
        } else if let Some(epoch) = self.minter.due() {
            self.live = dataflow.complete.get();
            self.minted = epoch;
            let due = |checkpoints: &mut Box<dyn Checkpoints>| checkpoints.due();
            let checkpoint = self.live && dataflow.checkpoints.as_mut().is_some_and(due);
            let clock_ms = dataflow.mint(epoch, self.live, checkpoint);
            if checkpoint {
                self.clocks.insert(epoch, clock_ms);
            }
        }
    }

    fn report(&self, settings: &Settings) {
        let mut total = Counts::default();
        for counts in &self.counts {
            total += *counts;
        }
        if settings.plan.engine == Engine::Textbook {
            // It does not see what it drops.
            total.duplicates = total.events.saturating_sub(total.distinct);
        }
        let progress = Progress {
            counts: total,
            epoch: self.minted,
        };
        settings.observer.progress(&progress);
    }
}

#[cfg(test)]
mod tests;
