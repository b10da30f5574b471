//! Appends bindings, on a thread of its own: the port `BindingLog`, and the writer's rule.
//!
//! One append is under way at a time; what comes meanwhile goes into the next one, so a slow log
//! makes appends larger, not more.
//!
//! # Invariants
//! * No call blocks but `drop`.
//! * An append counts if no newer marker stands before it: if nothing does, or nothing but what an
//!   older generation has appended late. After any other outcome nothing is appended any more, and
//!   the log is read to learn why: superseded means that it holds a newer marker, and nothing else.
//! * A binding is durable when all its records are, and all bindings before it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use deltajoin_workers::bindings::{Binding, BindingLog};
use deltajoin_workers::ports::Stop;
use deltajoin_workers::queue::Waker;
use tracing::{debug, error};

use crate::bindings::record::BindingEncoder;
use crate::bindings::{Error, Log, superseded};
use crate::fault_point;

/// An append is closed to more when it has so many bytes: a request that a broker takes at once.
const APPEND_BYTES: usize = 900_000;

/// Told of the error that ends the job, from the appender's thread.
pub type Fatal = Arc<dyn Fn(Error) + Send + Sync>;

/// Appends the bindings of one generation.
pub struct Appender {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something has been added to `waiting`, or `ending` has been set.
    changed: Condvar,
}

/// How far the log goes, for checkpoints.
#[derive(Clone)]
pub struct Appended(Arc<Shared>);

impl Appended {
    /// The offset of the next record when all bindings up to `epoch` were appended, and perhaps
    /// some more; those of later epochs are behind it. Epochs must be asked for in order.
    pub fn next(&self, epoch: u64) -> u64 {
        let mut state = self.0.lock();
        while let Some((last, next)) = state.appends.front().copied()
            && last <= epoch
        {
            state.appends.pop_front();
            state.next = next;
        }
        state.next
    }

    /// The epoch of the last durable binding that binds anything; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.0.lock().newest
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Binding>,
    /// For each append behind `next` its last epoch, and the offset of the record behind it.
    appends: VecDeque<(u64, u64)>,
    next: u64,
    /// Whether anyone asks for those.
    told: bool,
    durable: u64,
    /// The epoch of the last of those that binds anything.
    newest: u64,
    ending: bool,
    waker: Option<Waker>,
}

impl Shared {
    /// A poisoned lock means that another thread has panicked: the process is ending anyway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next binding; none when no more are wanted.
    fn wait(&self) -> Option<Binding> {
        let mut state = self.lock();
        loop {
            if state.ending {
                return None;
            }
            if let Some(binding) = state.waiting.pop_front() {
                return Some(binding);
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next binding, if one waits.
    fn next(&self) -> Option<Binding> {
        self.lock().waiting.pop_front()
    }

    /// Notes that so many more bindings are durable, up to this epoch and this offset; `newest` is
    /// the last epoch with one that binds anything.
    fn note_durable(&self, count: u64, (epoch, newest): (u64, u64), next: u64) {
        let mut state = self.lock();
        state.durable += count;
        state.newest = state.newest.max(newest);
        if state.told {
            state.appends.push_back((epoch, next));
        }
        let waker = state.waker.clone();
        drop(state);
        if let Some(waker) = waker {
            waker();
        }
    }
}

impl Appender {
    pub(super) fn start<L: Log + 'static>(mut writing: Writing<L>, fatal: Fatal) -> Self {
        let shared = Arc::new(Shared::default());
        shared.lock().next = writing.tail.next;
        let stop = Arc::new(Stop::default());
        let thread = std::thread::Builder::new().name("bindings".to_owned());
        let thread = thread.spawn({
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            move || match writing.run(&shared, &stop) {
                Ok(()) | Err(Error::Stopped) => {}
                Err(error) => fatal(error),
            }
        });
        Self {
            shared,
            stop,
            thread: Some(thread.expect("the system has room for a thread")),
        }
    }

    /// How far the log goes, from now on.
    pub fn appended(&self) -> Appended {
        self.shared.lock().told = true;
        Appended(Arc::clone(&self.shared))
    }
}

impl BindingLog for Appender {
    fn append(&mut self, binding: Binding) {
        self.shared.lock().waiting.push_back(binding);
        self.shared.changed.notify_one();
    }

    fn durable(&self) -> u64 {
        self.shared.lock().durable
    }

    fn wake_by(&mut self, waker: Waker) {
        self.shared.lock().waker = Some(waker);
    }
}

impl Drop for Appender {
    /// Ends the append that is under way, also if it waits for a broker. What is not durable was
    /// never seen by anyone.
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_one();
        self.stop.ask();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread of the binding log has panicked");
        }
    }
}

/// The appender's thread.
pub(super) struct Writing<L> {
    pub(super) encoder: BindingEncoder,
    pub(super) tail: Tail<L>,
}

impl<L: Log> Writing<L> {
    fn run(&mut self, shared: &Shared, stop: &Stop) -> Result<(), Error> {
        let Self { encoder, tail } = self;
        while let Some(first) = shared.wait() {
            let (mut taken, mut epoch, mut newest) = (0, first.epoch, 0);
            let mut next = Some(first);
            while let Some(binding) = next {
                epoch = binding.epoch;
                newest = if binding.is_empty() { newest } else { epoch };
                encoder.encode(&binding, |record| tail.push(record, stop))?;
                taken += 1;
                next = if tail.full() { None } else { shared.next() };
            }
            tail.append(stop)?;
            shared.note_durable(taken, (epoch, newest), tail.next);
        }
        Ok(())
    }
}

/// The end of the log, to which the generation appends.
pub(super) struct Tail<L> {
    log: L,
    /// The offset of the generation's own marker.
    generation: u64,
    /// The next offset.
    next: u64,
    /// The records of the next append, and their bytes.
    records: Vec<Vec<u8>>,
    bytes: usize,
}

impl<L: Log> Tail<L> {
    pub(super) fn new(log: L, generation: u64, next: u64) -> Self {
        Self {
            log,
            generation,
            next,
            records: Vec::new(),
            bytes: 0,
        }
    }

    fn full(&self) -> bool {
        self.bytes >= APPEND_BYTES
    }

    /// Adds a record to the next append. The first records of a large binding are appended before
    /// its last are made.
    fn push(&mut self, record: Vec<u8>, stop: &Stop) -> Result<(), Error> {
        if self.full() {
            self.append(stop)?;
        }
        self.bytes += record.len();
        self.records.push(record);
        Ok(())
    }

    /// Appends what is gathered.
    fn append(&mut self, stop: &Stop) -> Result<(), Error> {
        fault_point::reach("bindings.append");
        let offsets = match self.log.append(&self.records, stop) {
            Ok(offsets) => offsets,
            Err(Error::Stopped) => return Err(Error::Stopped),
            Err(error) => return Err(self.decide(error, stop)),
        };
        fault_point::reach("bindings.appended");
        if offsets.start < self.next {
            return Err(Error::Shortened {
                log: self.log.name(),
                expected: self.next,
                found: offsets.start,
            });
        }
        if offsets != (self.next..self.next + self.records.len() as u64) {
            superseded(&mut self.log, self.generation, stop)?;
            debug!(
                ?offsets,
                next = self.next,
                "an older generation has appended late"
            );
        }
        self.next = offsets.end;
        self.records.clear();
        self.bytes = 0;
        Ok(())
    }

    /// Why an append did not count: a newer marker, or else `error`.
    fn decide(&mut self, error: Error, stop: &Stop) -> Error {
        match superseded(&mut self.log, self.generation, stop) {
            Ok(()) => error,
            Err(newer @ (Error::Superseded { .. } | Error::Stopped)) => newer,
            Err(unread) => {
                error!(error = %unread, "could not read the binding log for newer markers");
                error
            }
        }
    }
}

#[cfg(test)]
mod tests;
