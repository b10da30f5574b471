//! Bounded queues from the shell's threads to a worker, and the budget of bytes in flight.
//!
//! Reading is throttled by what is in flight: a reader that hands over a block waits until its
//! process holds less than `max_in_flight_bytes` that are read and not yet written by every sink.
//! A slow sink or worker therefore makes the job slow, never big.
//!
//! # Invariants
//! * `send` blocks the sender, never a worker; `pop` never blocks.
//! * A block that a bound epoch waits for passes: a bound epoch is always read to its end.
//! * A block that alone is larger than the budget passes when nothing else is in flight, so a
//!   small budget slows the job but cannot stop it.
//! * Bytes are charged once, when a block enters a queue, and released once, when the epoch that
//!   it was stamped with is written everywhere.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Wakes a worker's thread; may be called from any thread, and more often than needed.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// The budget of bytes that a process may hold between reading and writing.
#[derive(Debug)]
pub struct InFlight {
    bytes_max: usize,
    bytes: Mutex<usize>,
    released: Condvar,
}

/// A poisoned lock means that another thread has panicked: the process is ending anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InFlight {
    /// A budget of `bytes_max`.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            bytes: Mutex::new(0),
            released: Condvar::new(),
        })
    }

    /// The bytes in flight.
    pub fn bytes(&self) -> usize {
        *lock(&self.bytes)
    }

    /// Waits for room, or until `needed` is set, and charges `bytes`; gives up, and returns false,
    /// once `stop` is set.
    fn charge(&self, bytes: usize, needed: &AtomicBool, stop: &AtomicBool) -> bool {
        let mut held = lock(&self.bytes);
        while *held > 0 && *held + bytes > self.bytes_max && !needed.load(Ordering::Relaxed) {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            // The time-out bounds how late a stop is noticed.
            let wait = std::time::Duration::from_millis(100);
            let waited = self.released.wait_timeout(held, wait);
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *held += bytes;
        true
    }

    /// Gives bytes back.
    pub fn release(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut held = lock(&self.bytes);
        *held = held.checked_sub(bytes).expect("bytes are released once");
        drop(held);
        self.released.notify_all();
    }
}

struct Shared<T> {
    items: Mutex<VecDeque<(T, usize)>>,
    waker: Mutex<Option<Waker>>,
    /// Items are needed, whatever is in flight.
    needed: AtomicBool,
    /// No more items are wanted: senders give up.
    closed: AtomicBool,
    /// No more items will come.
    finished: AtomicBool,
    in_flight: Arc<InFlight>,
}

impl<T> Shared<T> {
    fn wake(&self) {
        if let Some(waker) = &*lock(&self.waker) {
            waker();
        }
    }
}

/// The shell's end of a queue; cloned for each thread that sends.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The worker's end of a queue.
pub struct Receiver<T>(Arc<Shared<T>>);

/// A queue whose items are charged to `in_flight`.
pub fn queue<T>(in_flight: Arc<InFlight>) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        items: Mutex::new(VecDeque::new()),
        waker: Mutex::new(None),
        needed: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        finished: AtomicBool::new(false),
        in_flight,
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Hands over an item that takes `bytes` of memory; waits while too much is in flight.
    ///
    /// Returns false if the worker wants no more: the sender must then end.
    #[must_use]
    pub fn send(&self, item: T, bytes: usize) -> bool {
        let Shared {
            in_flight,
            needed,
            closed,
            ..
        } = &*self.0;
        if self.closed() || !in_flight.charge(bytes, needed, closed) {
            return false;
        }
        let mut items = lock(&self.0.items);
        let was_empty = items.is_empty();
        items.push_back((item, bytes));
        drop(items);
        if was_empty {
            self.0.wake();
        }
        true
    }

    /// Says that no item will come any more, from this sender or another.
    pub fn finish(&self) {
        self.0.finished.store(true, Ordering::Release);
        self.0.wake();
    }

    /// Whether the worker wants no more.
    pub fn closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }
}

impl<T> Receiver<T> {
    /// Takes the next item and its bytes, which the caller must release in the end.
    pub fn pop(&self) -> Option<(T, usize)> {
        lock(&self.0.items).pop_front()
    }

    /// Whether an item waits.
    pub fn ready(&self) -> bool {
        !lock(&self.0.items).is_empty()
    }

    /// Whether nothing waits and nothing will come.
    pub fn finished(&self) -> bool {
        self.0.finished.load(Ordering::Acquire) && !self.ready()
    }

    /// Says whether the next item is needed, whatever is in flight: others wait for what it
    /// completes, and so give nothing back.
    pub fn need(&self, needed: bool) {
        if self.0.needed.swap(needed, Ordering::Relaxed) != needed && needed {
            // Under the lock, so that no sender misses it between its look and its sleep.
            let held = lock(&self.0.in_flight.bytes);
            self.0.in_flight.released.notify_all();
            drop(held);
        }
    }

    /// Gives the bytes of written items back.
    pub fn release(&self, bytes: usize) {
        self.0.in_flight.release(bytes);
    }

    /// Sets what is called when an item comes into the empty queue, or the queue is finished.
    pub fn wake_by(&self, waker: Waker) {
        *lock(&self.0.waker) = Some(waker);
    }

    /// Says that no more items are wanted.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_waits_for_room_and_a_large_item_passes_alone() {
        let (sender, receiver) = queue::<u32>(InFlight::new(100));
        assert!(sender.send(1, 60));
        let other = sender.clone();
        let waiting = std::thread::spawn(move || other.send(2, 500));
        assert_eq!(receiver.pop(), Some((1, 60)));
        assert!(receiver.pop().is_none());
        receiver.release(60);
        assert!(waiting.join().unwrap());
        assert_eq!(receiver.0.in_flight.bytes(), 500);
        assert_eq!(receiver.pop(), Some((2, 500)));
    }

    #[test]
    fn a_needed_item_passes() {
        let (sender, receiver) = queue::<u32>(InFlight::new(10));
        assert!(sender.send(1, 10));
        let waiting = std::thread::spawn(move || sender.send(2, 10));
        receiver.need(true);
        assert!(waiting.join().unwrap());
        assert_eq!(receiver.0.in_flight.bytes(), 20);
    }

    #[test]
    fn a_waiting_sender_ends_when_the_receiver_closes() {
        let (sender, receiver) = queue::<u32>(InFlight::new(10));
        assert!(sender.send(1, 10));
        let waiting = std::thread::spawn(move || sender.send(2, 10));
        receiver.close();
        assert!(!waiting.join().unwrap());
    }
}
