//! Mints epochs: decides on worker 0 when one is closed, and what it is called.
//!
//! An epoch is a `u64`: the milliseconds since 1970 at which it was minted, made strictly
//! increasing, so that it can be read by a person.
//!
//! # Invariants
//! * An epoch is minted at most once a tick, and only when every worker has closed the one before:
//!   under load, epochs grow by themselves instead of becoming many.
//! * When nothing waits, one is minted every `IDLE_EPOCH`, so frontiers move, the mesh is never
//!   silent, and "no data" can be told from "stuck".

use std::sync::Arc;
use std::time::Duration;

use crate::ports::{Clock, IDLE_EPOCH};

/// When to mint, and what.
pub struct Minter {
    clock: Arc<dyn Clock>,
    tick_us: u64,
    /// The newest epoch that was minted; 0 before the first.
    last: u64,
    minted_us: u64,
    /// Whether a worker has records waiting.
    asked: bool,
}

impl Minter {
    /// A minter whose first epoch is after `last`.
    pub fn new(clock: Arc<dyn Clock>, tick: Duration, last: u64) -> Self {
        let tick_us = u64::try_from(tick.as_micros()).expect("a tick is short");
        Self {
            clock,
            tick_us,
            last,
            minted_us: 0,
            asked: false,
        }
    }

    /// Notes that records wait for an epoch.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// The newest epoch that was minted.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The epoch to mint now, if one is due.
    pub fn due(&mut self) -> Option<u64> {
        let now_us = self.clock.now_us();
        if now_us < self.due_us() {
            return None;
        }
        self.minted_us = now_us;
        self.asked = false;
        self.last = (now_us / 1000).max(self.last + 1);
        Some(self.last)
    }

    /// How long until one is due, if nobody asks meanwhile.
    pub fn wait(&self) -> Duration {
        Duration::from_micros(self.due_us().saturating_sub(self.clock.now_us()))
    }

    fn due_us(&self) -> u64 {
        let idle_us = u64::try_from(IDLE_EPOCH.as_micros()).expect("a constant");
        self.minted_us + if self.asked { self.tick_us } else { idle_us }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct At(AtomicU64);

    impl Clock for At {
        fn now_us(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn epochs_are_read_as_time_and_never_repeat() {
        let clock = Arc::new(At(AtomicU64::new(5_000_000)));
        let at: Arc<dyn Clock> = Arc::<At>::clone(&clock);
        let mut minter = Minter::new(at, Duration::from_millis(1), 0);
        assert_eq!(minter.due(), Some(5_000));
        assert_eq!(minter.due(), None);
        minter.ask();
        clock.0.store(5_000_999, Ordering::Relaxed);
        assert_eq!(minter.due(), None, "not twice a tick");
        clock.0.store(5_001_000, Ordering::Relaxed);
        assert_eq!(minter.due(), Some(5_001));
        clock.0.store(5_100_999, Ordering::Relaxed);
        assert_eq!(minter.due(), None, "nobody asked");
        clock.0.store(5_101_000, Ordering::Relaxed);
        assert_eq!(minter.due(), Some(5_101));
        clock.0.store(1_000, Ordering::Relaxed);
        minter.ask();
        assert_eq!(
            minter.due(),
            None,
            "a clock that stepped back mints nothing"
        );
    }
}
