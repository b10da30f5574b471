//! Which epoch each event belongs to, as far as an audit must know it: exactly for epochs that are
//! judged, and of all others whether they come before or after.
//!
//! It is apart from `bound`, which reads it from the log of bindings, because here is what an audit
//! keeps of that, and how much memory it takes.
//!
//! # Invariants
//! * Epochs are pushed in order, and the ends of a partition never go back.
//! * All epochs before those that are judged count as one, and so do all behind them.

use std::collections::BTreeMap;
use std::ops::Range;

use deltajoin_workers::batch::Origin;

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

    /// The epoch, or what stands for all before or behind.
    fn label(self, epoch: u64) -> u64 {
        epoch.clamp(self.from.saturating_sub(1), self.to.saturating_add(1))
    }
}

/// The epochs of a topic's records.
#[derive(Debug)]
pub(super) struct Epochs {
    pub(super) judged: Judged,
    partitions: BTreeMap<i32, Partition>,
    steps: usize,
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
    pub(super) fn new(judged: Judged) -> Self {
        Self {
            judged,
            partitions: BTreeMap::new(),
            steps: 0,
            found: None,
        }
    }

    /// Where the first epoch of a partition begins; at offset 0 if nothing is said.
    pub(super) fn begin(&mut self, partition: i32, start: i64) {
        self.partitions.entry(partition).or_default().start = start;
    }

    /// The next epoch: where it ends, in partitions that have records of it.
    pub(super) fn push(&mut self, epoch: u64, ends: impl IntoIterator<Item = (i32, i64)>) {
        let label = self.judged.label(epoch);
        for (partition, end) in ends {
            if self.judged.contains(epoch) {
                let (_, last) = self.found.get_or_insert((epoch, epoch));
                *last = epoch;
            }
            let steps = &mut self.partitions.entry(partition).or_default().steps;
            match steps.last_mut() {
                Some((last, known)) if *known == label => *last = end,
                _ => {
                    steps.push((end, label));
                    self.steps += 1;
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_has_the_epoch_that_it_is_bound_to() {
        let mut epochs = Epochs::new(Judged { from: 20, to: 30 });
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
            epochs.push(epoch, ends);
        }
        let of = |partition, offset| epochs.of(Origin { partition, offset });
        assert_eq!([5, 6, 7].map(|offset| of(0, offset)), [19; 3]);
        assert_eq!([8, 9, 10, 19].map(|offset| of(0, offset)), [20, 20, 31, 31]);
        assert_eq!([2, 3, 5].map(|offset| of(1, offset)), [19, 25, 25]);
        assert_eq!([0, 3, 4].map(|offset| of(2, offset)), [25, 25, 31]);
        let ranges: Vec<_> = epochs.ranges().collect();
        assert_eq!(ranges, [(0, 5..20), (1, 2..6), (2, 0..5)]);
        assert_eq!(epochs.found, Some((20, 25)));
        assert_eq!(epochs.steps, 7, "what is not judged is not told apart");
    }
}
