//! Keeps the stream at its rate: so many records are due by now, checked at each tick.
//!
//! Apart from where records go, because file and topic need the same. What could not be written
//! in time is caught up with, as a real publisher does after a reconnect.
//!
//! # Invariants
//! * Over any second that the destination keeps up with, the rate is met to within one tick.
//! * The wait ends within a tick of a stop.

use std::sync::Arc;
use std::time::Duration;

use deltajoin_workers::ports::{Clock, Stop};

/// How fast to write, and until when.
#[derive(Clone)]
pub struct Pace {
    /// Tells how much is due, and stamps records.
    pub clock: Arc<dyn Clock>,
    /// Ends the stream early.
    pub stop: Arc<Stop>,
    /// Between two looks at the clock: 1 to 10 ms is useful.
    pub tick: Duration,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// The records that are looked at as one when the rate is unlimited: the clock is asked once.
const UNLIMITED_RUN: u64 = 1_000;

/// A stream that is being written.
pub(super) struct Pacer<'a> {
    pace: &'a Pace,
    rate: u64,
    started_ms: u64,
    /// Handed out so far.
    records: u64,
}

impl<'a> Pacer<'a> {
    /// Starts the clock for `rate` records a second.
    pub(super) fn start(pace: &'a Pace, rate: u64) -> Self {
        Self {
            pace,
            rate,
            started_ms: pace.clock.now_ms(),
            records: 0,
        }
    }

    /// Waits until records are due, and says how many and what time it is; `None` after a stop.
    pub(super) fn due(&mut self) -> Option<(u64, u64)> {
        loop {
            if self.pace.stop.asked() {
                return None;
            }
            let now_ms = self.pace.clock.now_ms();
            let due = if self.rate == 0 {
                UNLIMITED_RUN
            } else {
                // One tick ahead of the time that has passed, so that the first records do not
                // wait.
                let elapsed_ms = u128::from(now_ms.saturating_sub(self.started_ms));
                let total = (elapsed_ms + self.pace.tick.as_millis()) * u128::from(self.rate);
                u64::try_from(total / 1_000)
                    .unwrap_or(u64::MAX)
                    .saturating_sub(self.records)
            };
            if due > 0 {
                self.records += due;
                return Some((due, now_ms));
            }
            std::thread::sleep(self.pace.tick);
        }
    }

    /// How long it has taken so far.
    pub(super) fn elapsed_ms(&self) -> u64 {
        self.pace.clock.now_ms().saturating_sub(self.started_ms)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A clock that advances by a millisecond whenever it is asked.
    #[derive(Default)]
    pub(in crate::generate) struct StepClock(AtomicU64);

    impl Clock for StepClock {
        fn now_us(&self) -> u64 {
            1_000 * self.0.fetch_add(1, Ordering::Relaxed)
        }
    }

    pub(in crate::generate) fn pace() -> Pace {
        Pace {
            clock: Arc::new(StepClock::default()),
            stop: Arc::new(Stop::default()),
            tick: Duration::from_millis(1),
        }
    }

    #[test]
    fn records_are_due_as_the_clock_goes_on() {
        let pace = pace();
        let mut pacer = Pacer::start(&pace, 2_500);
        let due: Vec<u64> = (0..4).map(|_| pacer.due().unwrap().0).collect();
        assert_eq!(due, [5, 2, 3, 2]);
    }

    #[test]
    fn a_slow_rate_waits_for_its_next_record() {
        let pace = pace();
        let mut pacer = Pacer::start(&pace, 100);
        let times: Vec<u64> = (0..3).map(|_| pacer.due().unwrap().1).collect();
        assert_eq!(times, [9, 19, 29]);
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let pace = pace();
        let mut pacer = Pacer::start(&pace, 0);
        assert!(pacer.due().is_some());
        pace.stop.ask();
        assert!(pacer.due().is_none());
    }
}
