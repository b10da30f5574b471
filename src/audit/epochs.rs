//! Which epoch each event belongs to, as far as an audit must know it: exactly for epochs that are
//! judged, and for those before them whose results may still be revised.
//!
//! It is apart from `bound`, which reads it from the log of bindings, because here is what an audit
//! keeps of that, and how much memory it takes.
//!
//! # Invariants
//! * Epochs are pushed in order, and the ends of a partition never go back.
//! * Neighbours are told apart if anything that is judged depends on it; else the later of both, or
//!   behind what is judged the earlier, stands for the two.

use std::collections::BTreeMap;
use std::ops::Range;

use deltajoin_workers::batch::Origin;

use crate::audit::window::Times;

/// So many epochs are told apart before those that need not be are put together again.
const STEPS_MIN: usize = 4096;

/// The epochs that are judged, the last one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Judged {
    pub(super) fn contains(self, epoch: u64) -> bool {
        (self.from..=self.to).contains(&epoch)
    }
}

/// The epochs of a topic's records.
#[derive(Debug)]
pub(super) struct Epochs {
    pub(super) judged: Judged,
    pub(super) times: Times,
    partitions: BTreeMap<i32, Partition>,
    steps: usize,
    /// How many are too many, so that one looks for those that need not be told apart.
    steps_max: usize,
    /// Events of epochs up to this one, before those that are judged, are not revised any more.
    settled: u64,
    /// Epochs from which on older events are too late, with the first bucket that is not.
    oldest: Vec<(u64, i64)>,
    /// The first epoch with records among those that are judged, and the last one.
    pub(super) found: Option<(u64, u64)>,
}

/// One partition: where it begins, and the end of each epoch.
#[derive(Debug, Default)]
struct Partition {
    start: i64,
    steps: Vec<(i64, u64)>,
}

impl Epochs {
    pub(super) fn new(judged: Judged, times: Times) -> Self {
        Self {
            judged,
            times,
            partitions: BTreeMap::new(),
            steps: 0,
            steps_max: STEPS_MIN,
            settled: 0,
            oldest: Vec::new(),
            found: None,
        }
    }

    /// Where the first epoch of a partition begins; at offset 0 if nothing is said.
    pub(super) fn begin(&mut self, partition: i32, start: i64) {
        self.partitions.entry(partition).or_default().start = start;
    }

    /// The next epoch, with its clock: where it ends, in partitions that have records of it.
    pub(super) fn push(
        &mut self,
        epoch: u64,
        clock_ms: Option<i64>,
        ends: impl IntoIterator<Item = (i32, i64)>,
    ) {
        let oldest = self.times.oldest(clock_ms);
        if oldest > self.oldest_at(epoch) {
            self.oldest.push((epoch, oldest));
        }
        if epoch < self.judged.from {
            self.settled = self.settled.max(self.times.settled(epoch, clock_ms));
        }
        let alike = Alike::of(self);
        for (partition, end) in ends {
            if self.judged.contains(epoch) {
                let (_, last) = self.found.get_or_insert((epoch, epoch));
                *last = epoch;
            }
            let steps = &mut self.partitions.entry(partition).or_default().steps;
            let before = steps.len();
            steps.push((end, epoch));
            alike.merge(steps, before.saturating_sub(1));
            self.steps += steps.len() - before;
        }
        if self.steps > self.steps_max {
            self.settle();
        }
    }

    /// Puts together what need not be told apart any more.
    pub(super) fn settle(&mut self) {
        let alike = Alike::of(self);
        for partition in self.partitions.values_mut() {
            alike.merge(&mut partition.steps, 0);
        }
        let steps = self.partitions.values().map(|known| known.steps.len());
        self.steps = steps.sum();
        self.steps_max = (2 * self.steps).max(STEPS_MIN);
    }

    /// The oldest bucket of event times that is not too late in an epoch.
    pub(super) fn oldest_at(&self, epoch: u64) -> i64 {
        let place = self.oldest.partition_point(|(since, _)| *since <= epoch);
        let last = place.checked_sub(1).map(|place| self.oldest[place].1);
        last.unwrap_or(i64::MIN)
    }

    /// What it takes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        // A vector that grows has room for twice as many.
        2 * self.steps * size_of::<(i64, u64)>()
    }

    /// The records that are bound.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (i32, Range<i64>)> {
        self.partitions.iter().map(|(partition, known)| {
            let end = known.steps.last().map_or(known.start, |(end, _)| *end);
            (*partition, known.start..end)
        })
    }

    /// The epoch of a record that is bound, or what stands for it.
    pub(super) fn of(&self, origin: Origin) -> u64 {
        let known = self.partitions.get(&origin.partition);
        let steps = known.map_or(&[][..], |known| &known.steps);
        let place = steps.partition_point(|(end, _)| *end <= origin.offset);
        steps.get(place).map_or(u64::MAX, |(_, epoch)| *epoch)
    }
}

/// Which epochs need not be told apart.
struct Alike {
    judged: Judged,
    settled: u64,
    times: Times,
}

impl Alike {
    fn of(epochs: &Epochs) -> Self {
        Self {
            judged: epochs.judged,
            settled: epochs.settled,
            times: epochs.times.clone(),
        }
    }

    fn are(&self, first: u64, later: u64) -> bool {
        let before = later < self.judged.from && later <= self.settled;
        let behind = first > self.judged.to;
        (before || behind) && self.times.stretch(first) == self.times.stretch(later)
    }

    /// Puts the steps from a place on together.
    fn merge(&self, steps: &mut Vec<(i64, u64)>, from: usize) {
        let mut kept = from;
        for next in from + 1..steps.len() {
            let ((_, first), (end, later)) = (steps[kept], steps[next]);
            if self.are(first, later) {
                let stands = if first > self.judged.to { first } else { later };
                steps[kept] = (end, stands);
            } else {
                kept += 1;
                steps[kept] = (end, later);
            }
        }
        steps.truncate(kept + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::window::sample;

    fn origin(partition: i32, offset: i64) -> Origin {
        Origin { partition, offset }
    }

    #[test]
    fn each_record_has_the_epoch_that_it_is_bound_to() {
        // Nothing is revised, and keys are remembered by the times of their events.
        let times = sample(false).without_window();
        let mut epochs = Epochs::new(Judged { from: 20, to: 30 }, times);
        epochs.begin(0, 5);
        epochs.begin(1, 2);
        for (epoch, ends) in [
            (10, vec![(0, 7)]),
            (15, vec![(0, 8), (1, 3)]),
            (20, vec![(0, 10)]),
            (25, vec![(1, 6), (2, 4)]),
            (31, vec![(0, 11)]),
            (40, vec![(0, 20), (2, 5)]),
        ] {
            epochs.push(epoch, None, ends);
        }
        let of = |partition, offset| epochs.of(origin(partition, offset));
        assert_eq!([5, 6, 7].map(|offset| of(0, offset)), [15; 3]);
        assert_eq!([8, 9, 10, 19].map(|offset| of(0, offset)), [20, 20, 31, 31]);
        assert_eq!([2, 3, 5].map(|offset| of(1, offset)), [15, 25, 25]);
        assert_eq!([0, 3, 4].map(|offset| of(2, offset)), [25, 25, 40]);
        let ranges: Vec<_> = epochs.ranges().collect();
        assert_eq!(ranges, [(0, 5..20), (1, 2..6), (2, 0..5)]);
        assert_eq!(epochs.found, Some((20, 25)));
        assert_eq!(epochs.steps, 7, "what is not judged is not told apart");
    }

    #[test]
    fn epochs_whose_events_may_be_revised_are_told_apart_before_those_that_are_judged() {
        let judged = Judged {
            from: 9_000,
            to: 9_999,
        };
        let mut epochs = Epochs::new(judged, sample(true));
        for (epoch, end) in [(8_001, 1), (8_002, 2), (8_691, 3), (8_692, 4), (8_992, 5)] {
            epochs.push(epoch, None, [(0, end)]);
        }
        epochs.settle();
        let known: Vec<u64> = (0..5).map(|offset| epochs.of(origin(0, offset))).collect();
        // One of 8,692 may be revised by one of 8,991; keys by arrival are of two stretches.
        assert_eq!(known, [8_002, 8_002, 8_691, 8_692, 8_992]);
        let mut epochs = Epochs::new(judged, sample(false));
        let clocks = [None, Some(7_000), Some(9_050), Some(9_051)];
        for (offset, clock_ms) in (0_i64..).zip(clocks) {
            epochs.push(8_700 + offset.unsigned_abs(), clock_ms, [(0, offset + 1)]);
        }
        epochs.settle();
        let known: Vec<u64> = (0..4).map(|offset| epochs.of(origin(0, offset))).collect();
        assert_eq!(known, [8_700, 8_701, 8_702, 8_703]);
        epochs.push(8_900, Some(9_053), [(0, 5)]);
        epochs.settle();
        // An event may be 50 ms later than its epoch, and is in the window for 300.
        let known: Vec<u64> = (0..4).map(|offset| epochs.of(origin(0, offset))).collect();
        assert_eq!(known, [8_702, 8_702, 8_702, 8_703]);
        assert_eq!(epochs.oldest_at(8_701), 45);
        assert_eq!(epochs.oldest_at(8_700), i64::MIN);
    }
}
