//! The keys that have been seen, in buckets of time: what is too old is forgotten a bucket at a
//! time.
//!
//! # Invariants
//! * A key is in one bucket at most of those that are remembered.
//! * A bucket is forgotten when all of it is older than the horizon, so a key is remembered for as
//!   long as the horizon at least, and a bucket's width longer at most.

use crate::batch::Keys;
use crate::state::KeySet;

/// A horizon is cut into so many buckets.
const BUCKETS: u64 = 24;

/// How times fall into buckets, and how long those are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    horizon_ms: i64,
    width_ms: i64,
}

impl Buckets {
    /// Buckets for keys that are remembered for `horizon_ms`.
    pub fn new(horizon_ms: u64) -> Self {
        let whole = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        Self {
            horizon_ms: whole(horizon_ms),
            width_ms: whole((horizon_ms / BUCKETS).max(1)),
        }
    }

    /// The bucket of a time.
    #[inline]
    pub fn of(&self, at_ms: i64) -> i64 {
        at_ms.div_euclid(self.width_ms)
    }

    /// The oldest bucket that is remembered at a time; all are, as long as there is none.
    pub fn oldest(&self, now_ms: Option<i64>) -> i64 {
        match now_ms.and_then(|now_ms| now_ms.checked_sub(self.horizon_ms)) {
            Some(oldest_ms) => self.of(oldest_ms),
            None => i64::MIN,
        }
    }
}

/// Keys in buckets.
#[derive(Clone, Debug)]
pub struct BucketRing {
    narrow: bool,
    /// By bucket, the oldest first.
    sets: Vec<(i64, KeySet)>,
}

impl BucketRing {
    /// No keys yet, of this width.
    pub fn new(narrow: bool) -> Self {
        Self::of(narrow, Vec::new())
    }

    /// The keys of some buckets.
    ///
    /// # Panics
    /// If the keys of one are of another width.
    pub fn of(narrow: bool, mut sets: Vec<(i64, KeySet)>) -> Self {
        assert!(
            sets.iter().all(|(_, set)| set.is_narrow() == narrow),
            "all keys are of one width"
        );
        sets.sort_unstable_by_key(|(bucket, _)| *bucket);
        Self { narrow, sets }
    }

    /// Forgets the buckets before this one.
    pub fn forget_before(&mut self, oldest: i64) {
        let first = self.sets.partition_point(|(bucket, _)| *bucket < oldest);
        self.sets.drain(..first);
    }

    /// Adds the key of one row to a bucket; returns whether it was not in that bucket.
    #[inline]
    pub fn insert(&mut self, bucket: i64, keys: &Keys, row: usize) -> bool {
        // Most events are of the newest bucket.
        let place = match self.sets.last() {
            Some((newest, _)) if *newest == bucket => self.sets.len() - 1,
            _ => self.place(bucket),
        };
        self.sets[place].1.insert(keys, row)
    }

    /// Whether the key of one row is in a bucket other than this one.
    pub fn is_elsewhere(&self, bucket: i64, keys: &Keys, row: usize) -> bool {
        let mut others = self.sets.iter().filter(|(other, _)| *other != bucket);
        others.any(|(_, set)| set.contains(keys, row))
    }

    /// Adds the key of one row if it is in no bucket; returns whether it was added.
    pub fn insert_if_nowhere(&mut self, bucket: i64, keys: &Keys, row: usize) -> bool {
        !self.is_elsewhere(bucket, keys, row) && self.insert(bucket, keys, row)
    }

    fn place(&mut self, bucket: i64) -> usize {
        match self
            .sets
            .binary_search_by_key(&bucket, |(bucket, _)| *bucket)
        {
            Ok(place) => place,
            Err(place) => {
                self.sets.insert(place, (bucket, KeySet::new(self.narrow)));
                place
            }
        }
    }

    /// How many keys it holds.
    pub fn len(&self) -> u64 {
        self.sets.iter().map(|(_, set)| set.len()).sum()
    }

    /// Whether it holds no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.sets.iter().map(|(_, set)| set.bytes()).sum()
    }

    /// How many buckets have keys.
    pub fn buckets(&self) -> usize {
        self.sets.len()
    }
}

#[cfg(test)]
mod tests {
    use arrow_buffer::ScalarBuffer;

    use super::*;

    fn keys(ids: &[u64]) -> Keys {
        let mixed: Vec<u64> = ids.iter().map(|id| crate::key::mix64(*id)).collect();
        Keys::Narrow(ScalarBuffer::from(mixed))
    }

    #[test]
    fn a_bucket_is_forgotten_when_all_of_it_is_older_than_the_horizon() {
        let buckets = Buckets::new(2400);
        assert_eq!((buckets.of(-1), buckets.of(0), buckets.of(199)), (-1, 0, 1));
        assert_eq!(buckets.oldest(None), i64::MIN);
        assert_eq!(buckets.oldest(Some(i64::MIN)), i64::MIN);
        for (now, oldest) in [(2400, 0), (2499, 0), (2500, 1), (2399, -1)] {
            assert_eq!(buckets.oldest(Some(now)), oldest, "{now}");
        }
        assert_eq!(Buckets::new(1).of(7), 7);
    }

    #[test]
    fn keys_are_known_in_their_bucket_or_in_any_until_they_are_forgotten() {
        let mut ring = BucketRing::new(true);
        let all = keys(&[1, 2, 3]);
        assert!(ring.insert(5, &all, 0) && ring.insert(3, &all, 0));
        assert!(!ring.insert(5, &all, 0));
        assert!(ring.insert_if_nowhere(5, &all, 1) && !ring.insert_if_nowhere(9, &all, 1));
        assert!(!ring.insert_if_nowhere(3, &all, 1));
        assert_eq!(
            (ring.len(), ring.buckets()),
            (3, 2),
            "none was made for nothing"
        );
        ring.forget_before(4);
        assert_eq!((ring.len(), ring.buckets()), (2, 1));
        ring.forget_before(6);
        assert!(ring.is_empty() && ring.insert_if_nowhere(9, &all, 1));
    }
}
