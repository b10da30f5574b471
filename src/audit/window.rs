//! How long keys are remembered and results revised: the definition, once more.
//!
//! It is apart from `expected`, which makes rows of events, because here is all that is reckoned
//! with times. It shares nothing with the core's buckets and clock.
//!
//! # Invariants
//! * What is told of an event depends on it, its epoch and the bound clocks alone.

use deltajoin_workers::batch::{Batch, Slot};

use crate::config::{Config, EventTime, TimeUnit};

/// A horizon is cut into so many buckets.
const BUCKETS: i64 = 24;

/// The settings that say what is too late, forgotten, or out of the window.
#[derive(Clone, Debug)]
pub(super) struct Times {
    time: Option<EventTime>,
    by_arrival: bool,
    horizon_ms: i64,
    future_ms: i64,
    /// None if no result is revised.
    window_ms: Option<i64>,
}

impl Times {
    pub(super) fn new(config: &Config) -> Self {
        let ms = |span: std::time::Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let join = &config.join;
        Self {
            time: config.events.time.clone(),
            by_arrival: config.distinct.by_arrival,
            horizon_ms: ms(config.distinct.horizon),
            future_ms: ms(config.distinct.future),
            window_ms: join.revise.then(|| ms(join.revise_window)),
        }
    }

    /// Whether results are revised.
    pub(super) fn revises(&self) -> bool {
        self.window_ms.is_some()
    }

    /// The time of an event in milliseconds, if events have one.
    pub(super) fn of(&self, events: &Batch, row: usize) -> Option<i64> {
        let EventTime { column, unit } = self.time.as_ref()?;
        let (Slot::Int64(value) | Slot::Timestamp(value)) = events.slot(*column, row) else {
            return None;
        };
        Some(match unit {
            TimeUnit::Seconds => value.saturating_mul(1_000),
            TimeUnit::Milliseconds => value,
            TimeUnit::Microseconds => value.div_euclid(1_000),
        })
    }

    /// Whether an event is too far in the future of its epoch.
    pub(super) fn is_future(&self, at_ms: Option<i64>, epoch: u64) -> bool {
        at_ms.is_some_and(|at_ms| at_ms > signed(epoch).saturating_add(self.future_ms))
    }

    /// The bucket in which a key is remembered by the time of its event; none if it is by arrival.
    pub(super) fn bucket_of(&self, at_ms: Option<i64>) -> Option<i64> {
        let at_ms = at_ms.filter(|_| !self.by_arrival)?;
        Some(self.bucket(at_ms))
    }

    /// The oldest bucket of event times that is remembered when the clock stands there.
    pub(super) fn oldest(&self, clock_ms: Option<i64>) -> i64 {
        let oldest_ms = clock_ms.and_then(|now_ms| now_ms.checked_sub(self.horizon_ms));
        oldest_ms.map_or(i64::MIN, |oldest_ms| self.bucket(oldest_ms))
    }

    /// Of keys that are remembered by arrival: a number that two epochs have in common if and only
    /// if an event of the second repeats one of the first, whatever came before both. It is 0 for
    /// all keys that are remembered by the time of their events.
    pub(super) fn stretch(&self, epoch: u64) -> i64 {
        if !self.by_arrival {
            return 0;
        }
        let bucket = self.bucket(signed(epoch));
        // Within a bucket, the oldest that is remembered changes once at most.
        let oldest = self.oldest(Some(signed(epoch)));
        bucket
            .wrapping_mul(2)
            .wrapping_add(bucket.wrapping_sub(oldest) & 1)
    }

    /// Whether keys are remembered by the arrival of their events.
    pub(super) fn remembers_arrivals(&self) -> bool {
        self.by_arrival
    }

    /// Whether a key that was remembered at an epoch is forgotten at a later one.
    pub(super) fn is_forgotten(&self, first: u64, later: u64) -> bool {
        self.by_arrival && self.bucket(signed(first)) < self.oldest(Some(signed(later)))
    }

    /// What a change of the reference table revises: events later than this.
    pub(super) fn floor(&self, epoch: u64, clock_ms: Option<i64>) -> i64 {
        let now_ms = match self.time {
            Some(_) => clock_ms,
            None => Some(signed(epoch)),
        };
        let window_ms = self.window_ms.unwrap_or(0);
        now_ms.map_or(i64::MIN, |now_ms| now_ms.saturating_sub(window_ms))
    }

    /// The last epoch of which no event is revised any more after one with this clock.
    pub(super) fn settled(&self, epoch: u64, clock_ms: Option<i64>) -> u64 {
        if !self.revises() {
            return u64::MAX;
        }
        let ahead_ms = if self.time.is_some() {
            self.future_ms
        } else {
            0
        };
        let settled = self.floor(epoch, clock_ms).saturating_sub(ahead_ms);
        u64::try_from(settled).map_or(0, |settled| settled.saturating_sub(1))
    }

    /// What is compared with the floor of a change.
    pub(super) fn window_time(&self, at_ms: Option<i64>, epoch: u64) -> i64 {
        at_ms.unwrap_or(signed(epoch))
    }

    fn bucket(&self, at_ms: i64) -> i64 {
        at_ms.div_euclid((self.horizon_ms / BUCKETS).max(1))
    }
}

/// Times of tests: keys by arrival or by event time; a window, if results are revised.
#[cfg(test)]
pub(super) fn sample(by_arrival: bool) -> Times {
    Times {
        time: (!by_arrival).then_some(EventTime {
            column: 0,
            unit: TimeUnit::Milliseconds,
        }),
        by_arrival,
        horizon_ms: 2_410,
        future_ms: 50,
        window_ms: Some(300),
    }
}

#[cfg(test)]
impl Times {
    /// The same, and no result is revised.
    pub(super) fn without_window(self) -> Self {
        Self {
            window_ms: None,
            ..self
        }
    }
}

fn signed(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_stretch_repeat_one_another_whatever_came_before() {
        let times = sample(true);
        for first in 5_000..5_120 {
            for later in first..5_120 {
                let same = (2_300..2_900).all(|before| {
                    times.is_forgotten(before, first) == times.is_forgotten(before, later)
                });
                let alike = times.stretch(first) == times.stretch(later);
                let one_bucket = first / 100 == later / 100;
                assert_eq!(alike, same && one_bucket, "{first} {later}");
            }
        }
    }

    #[test]
    fn windows_are_cut_by_the_clock_or_by_the_epoch() {
        let by_time = sample(false);
        assert_eq!(by_time.floor(9_000, Some(1_000)), 700);
        assert_eq!(by_time.floor(9_000, None), i64::MIN);
        assert_eq!(by_time.settled(9_000, Some(1_000)), 649);
        assert_eq!(by_time.settled(9_000, None), 0);
        assert_eq!(by_time.oldest(Some(2_409)), -1);
        assert_eq!(by_time.oldest(Some(2_410)), 0);
        assert_eq!(by_time.oldest(None), i64::MIN);
        assert!(by_time.is_future(Some(151), 100) && !by_time.is_future(Some(150), 100));
        assert_eq!(sample(true).floor(9_000, Some(1_000)), 8_700);
    }
}
