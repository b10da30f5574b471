//! The time of day, by which epochs are named and latencies told.
//!
//! It is apart from what is told of the job because the job asks it, and nothing else asks the
//! system.
//!
//! # Invariants
//! * It never goes back: a leap of the system's clock is told, and not followed.

use std::sync::Arc;
use std::time::Instant;

use deltajoin_workers::ports::Clock;

/// The time of day at the start, then monotonic: a system's clock that leaps later is not followed.
pub struct WallClock {
    started: Instant,
    started_us: u64,
}

/// A leap of the system's clock is told from so many milliseconds on.
const LEAP_MS: u64 = 1_000;

impl WallClock {
    /// A clock that is right now.
    pub fn start() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            started_us: system_us(),
        })
    }

    /// By how many milliseconds the system's clock is ahead of this one.
    fn system_ahead_ms(&self) -> i64 {
        (system_us() as i64 - self.now_us() as i64) / 1000
    }

    /// Tells when the system's clock has leapt since it was last told, when it was `told` ahead.
    pub(super) fn tell_leap(&self, told: &mut i64) {
        let ahead = self.system_ahead_ms();
        if ahead.abs_diff(*told) >= LEAP_MS {
            tracing::warn!(
                leap_ms = ahead - *told,
                "the system's clock has leapt; epochs do not follow it before the next start"
            );
            *told = ahead;
        }
    }

    /// Tells when the clock stands before what the job has seen already.
    pub fn tell_behind(&self, newest_epoch: u64) {
        let behind_ms = newest_epoch.saturating_sub(self.now_ms());
        if behind_ms >= LEAP_MS {
            tracing::warn!(
                behind_ms,
                "the system's clock is behind the job's newest epoch; epochs go on from that one"
            );
        }
    }
}

/// The system's clock, in microseconds since 1970.
#[allow(clippy::disallowed_methods)] // The one place that reads it.
fn system_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let us = since.unwrap_or_default().as_micros();
    u64::try_from(us).expect("the year is before 500,000")
}

impl Clock for WallClock {
    fn now_us(&self) -> u64 {
        self.started_us + u64::try_from(self.started.elapsed().as_micros()).expect("as above")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that was started when the system's clock stood otherwise.
    fn clock_from(started_us: u64) -> WallClock {
        WallClock {
            started: Instant::now(),
            started_us,
        }
    }

    #[test]
    fn a_leap_of_the_systems_clock_is_told_once_and_is_not_followed() {
        let forward = clock_from(system_us() - 10_000_000);
        let mut told = 0;
        forward.tell_leap(&mut told);
        assert!((9_000..11_000).contains(&told), "{told}");
        let once = told;
        forward.tell_leap(&mut told);
        assert_eq!(told, once);
        assert!(forward.now_us() < system_us() - 9_000_000);

        let back = clock_from(system_us() + 3_600_000_000);
        back.tell_leap(&mut told);
        assert!((-3_601_000..-3_599_000).contains(&told), "{told}");
        assert!(back.now_us() > system_us() + 3_599_000_000);

        let mut told = 0;
        WallClock::start().tell_leap(&mut told);
        assert_eq!(told, 0);
    }
}
