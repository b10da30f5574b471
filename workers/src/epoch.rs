//! Mints epochs: decides on worker 0 when one is closed, and what it is called.
//!
//! An epoch is a `u64`: the milliseconds since 1970 at which it was minted, made strictly
//! increasing, so that it can be read by a person.
//!
//! # Invariants
//! * An epoch is minted at most once a tick, and only when every worker has closed the one before:
//!   under load, epochs grow by themselves instead of becoming many.
//! * A worker that has records asks; for `BUSY` after that an epoch is minted every tick, so that a
//!   worker with a steady stream asks seldom.
//! * When nothing waits, one is minted every `IDLE_EPOCH`, so frontiers move, the mesh is never
//!   silent, and "no data" can be told from "stuck".

use std::sync::Arc;
use std::time::Duration;

use crate::ports::{Clock, IDLE_EPOCH};

/// For how long an epoch is minted every tick after someone asked. Workers that go on having
/// records ask again after half of it.
pub const BUSY: Duration = Duration::from_millis(20);

/// When to mint, and what.
pub struct Minter {
    clock: Arc<dyn Clock>,
    tick_us: u64,
    /// The newest epoch that was minted; 0 before the first.
    last: u64,
    minted_us: u64,
    /// Until when an epoch is minted every tick.
    busy_until_us: u64,
}

impl Minter {
    /// A minter whose first epoch is after `last`.
    pub fn new(clock: Arc<dyn Clock>, tick: Duration, last: u64) -> Self {
        let tick_us = micros(tick);
        Self {
            clock,
            tick_us,
            last,
            minted_us: 0,
            busy_until_us: 0,
        }
    }

    /// Notes that records wait for an epoch.
    pub fn ask(&mut self) {
        self.busy_until_us = self.clock.now_us() + micros(BUSY);
    }

    /// The epoch to mint now, if one is due.
    pub fn due(&mut self) -> Option<u64> {
        let now_us = self.clock.now_us();
        if now_us < self.due_us() {
            return None;
        }
        Some(self.now())
    }

    /// The epoch to mint now in any case.
    pub fn now(&mut self) -> u64 {
        let now_us = self.clock.now_us();
        self.minted_us = now_us;
        self.last = (now_us / 1000).max(self.last + 1);
        self.last
    }

    /// How long until one is due, if nobody asks meanwhile.
    pub fn wait(&self) -> Duration {
        Duration::from_micros(self.due_us().saturating_sub(self.clock.now_us()))
    }

    fn due_us(&self) -> u64 {
        let tick_us = self.minted_us + self.tick_us;
        let idle_us = self.minted_us + micros(IDLE_EPOCH);
        if tick_us < self.busy_until_us {
            tick_us
        } else {
            idle_us
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("it is short")
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
        clock.0.store(5_019_500, Ordering::Relaxed);
        assert_eq!(minter.due(), Some(5_019), "every tick for a while");
        clock.0.store(5_030_000, Ordering::Relaxed);
        assert_eq!(minter.due(), None, "nobody asked again");
        clock.0.store(5_119_500, Ordering::Relaxed);
        assert_eq!(minter.due(), Some(5_119));
        clock.0.store(1_000, Ordering::Relaxed);
        minter.ask();
        assert_eq!(
            minter.due(),
            None,
            "a clock that stepped back mints nothing"
        );
    }
}
