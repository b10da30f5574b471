//! How far reading is behind the end of its topic.
//!
//! It is apart because readers write it and the status reads it, at any time; they wait for each
//! other only while a new partition is added.
//!
//! # Invariants
//! * Lag is counted in offsets: transactions and compaction leave holes, so it is never less
//!   than the records that are still to come.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// The positions and ends of a topic's partitions, as far as this process reads them.
#[derive(Debug, Default)]
pub struct Lag(RwLock<Vec<PartitionLag>>);

#[derive(Debug)]
struct PartitionLag {
    /// The offset that is read next; -1 if another process reads the partition.
    next: AtomicI64,
    /// The end of the partition, as last seen.
    end: AtomicI64,
}

impl Lag {
    /// Of no partitions, as yet.
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The topic has so many partitions now.
    pub(super) fn grow(&self, partitions: i32) {
        let nothing = || PartitionLag {
            next: AtomicI64::new(-1),
            end: AtomicI64::new(-1),
        };
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let partitions = all.len().max(index(partitions));
        all.resize_with(partitions, nothing);
    }

    /// How many records of this process's partitions are still to be read.
    pub fn records(&self) -> u64 {
        let behind = |lag: &PartitionLag| {
            let next = lag.next.load(Ordering::Relaxed);
            let end = lag.end.load(Ordering::Relaxed);
            if next < 0 {
                0
            } else {
                (end - next).max(0).unsigned_abs()
            }
        };
        self.all().iter().map(behind).sum()
    }

    pub(super) fn set_next(&self, partition: i32, offset: i64) {
        self.all()[index(partition)]
            .next
            .store(offset, Ordering::Relaxed);
    }

    pub(super) fn set_end(&self, partition: i32, offset: i64) {
        self.all()[index(partition)]
            .end
            .store(offset, Ordering::Relaxed);
    }

    fn all(&self) -> RwLockReadGuard<'_, Vec<PartitionLag>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(partition: i32) -> usize {
    usize::try_from(partition).expect("partitions are counted from 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_summed_over_the_partitions_that_are_read_here() {
        let lag = Lag::new();
        lag.grow(3);
        assert_eq!(lag.records(), 0);
        lag.set_end(0, 100);
        lag.set_next(1, 10);
        lag.set_end(1, 15);
        lag.set_next(2, 7);
        lag.set_end(2, 5);
        assert_eq!(lag.records(), 5);
    }
}
