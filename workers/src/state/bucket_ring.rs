//! The keys that have been seen, in buckets of time: what is too old is forgotten a bucket at a
//! time.
//!
//! # Invariants
//! * A key is in one bucket at most of those that are remembered.
//! * Answers are exact, wherever keys are.
//! * A bucket is forgotten when all of it is older than the horizon, so a key is remembered for as
//!   long as the horizon at least, and a bucket's width longer at most.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::batch::Keys;
use crate::checkpoint::KeyRun;
use crate::state::KeySet;
use crate::state::cold::{Asked, ColdRun, ColdRuns, Freeze, Limit};

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

/// The keys on disk of a bucket are written again when those in memory are as many as this part.
const REWRITTEN: u64 = 8;

/// Keys in buckets.
#[derive(Debug)]
pub struct BucketRing {
    narrow: bool,
    limit: Limit,
    /// By number, the oldest first.
    buckets: Vec<Bucket>,
    asked: Asked,
}

/// The keys of one bucket. A key is in one of the sets or runs.
#[derive(Debug)]
struct Bucket {
    number: i64,
    /// Where new keys go.
    set: KeySet,
    /// What is to leave memory.
    leaving: Vec<Arc<KeySet>>,
    /// Whether that is under way.
    under_way: bool,
    /// How many keys are in two of these sets.
    twice: u64,
    cold: ColdRuns,
}

impl Bucket {
    fn new(number: i64, set: KeySet, cold: ColdRuns) -> Self {
        Self {
            number,
            set,
            leaving: Vec::new(),
            under_way: false,
            twice: 0,
            cold,
        }
    }

    /// Whether all its keys are in one set.
    #[inline]
    fn is_plain(&self) -> bool {
        self.leaving.is_empty() && self.cold.is_empty()
    }

    /// Whether it has the key of one row elsewhere than in the set of new keys.
    fn is_below(&self, keys: &Keys, row: usize, asked: &mut Asked) -> bool {
        let mut leaving = self.leaving.iter();
        let mut cold = self.cold.iter();
        leaving.any(|set| set.contains(keys, row))
            || cold.any(|run| asked.count(run.find(keys.get(row))))
    }

    fn contains(&self, keys: &Keys, row: usize, asked: &mut Asked) -> bool {
        self.set.contains(keys, row) || (!self.is_plain() && self.is_below(keys, row, asked))
    }

    fn insert(&mut self, keys: &Keys, row: usize, asked: &mut Asked) -> bool {
        (self.is_plain() || !self.is_below(keys, row, asked)) && self.set.insert(keys, row)
    }

    /// The keys in memory, and their bytes.
    fn warm(&self) -> (u64, u64) {
        let leaving = self.leaving.iter().map(|set| (set.len(), set.bytes()));
        let (keys, bytes) = leaving.fold((self.set.len(), self.set.bytes()), plus);
        (keys - self.twice, bytes)
    }

    fn cold(&self) -> (u64, u64) {
        let runs = self.cold.iter().map(|run| (run.len(), run.bytes()));
        runs.fold((0, 0), plus)
    }

    /// Whether its keys in memory are worth being written.
    fn may_leave(&self, limit: Limit) -> bool {
        let (keys, _) = self.warm();
        !self.under_way && keys >= limit.keys_min && keys * REWRITTEN >= self.cold().0
    }
}

/// About the bytes that a key takes in memory.
pub fn bytes_of_key(narrow: bool) -> u64 {
    if narrow { 11 } else { 22 }
}

fn plus(sum: (u64, u64), next: (u64, u64)) -> (u64, u64) {
    (sum.0 + next.0, sum.1 + next.1)
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
    pub fn of(narrow: bool, sets: Vec<(i64, KeySet)>) -> Self {
        let with_none = |(number, set)| (number, set, Vec::new());
        Self::partly_cold(narrow, sets.into_iter().map(with_none).collect())
    }

    /// The keys of some buckets, in memory and on disk; each key is in one place.
    ///
    /// # Panics
    /// If the keys of one are of another width.
    pub fn partly_cold(narrow: bool, buckets: Vec<(i64, KeySet, ColdRuns)>) -> Self {
        let buckets = buckets.into_iter().map(|(number, set, cold)| {
            assert!(set.is_narrow() == narrow, "all keys are of one width");
            Bucket::new(number, set, cold)
        });
        let mut buckets: Vec<Bucket> = buckets.collect();
        buckets.sort_unstable_by_key(|bucket| bucket.number);
        Self {
            narrow,
            limit: Limit::NONE,
            buckets,
            asked: Asked::default(),
        }
    }

    /// The same, but keys leave memory when they are too many.
    #[must_use]
    pub fn limited(self, limit: Limit) -> Self {
        Self { limit, ..self }
    }

    /// Forgets the buckets before this one.
    pub fn forget_before(&mut self, oldest: i64) {
        let first = self.buckets.partition_point(|one| one.number < oldest);
        let forgotten = self.buckets.drain(..first);
        forgotten
            .flat_map(|one| one.cold)
            .for_each(|run| run.retire());
    }

    /// Adds the key of one row to a bucket; returns whether it was not in that bucket.
    #[inline]
    pub fn insert(&mut self, bucket: i64, keys: &Keys, row: usize) -> bool {
        // Most events are of the newest bucket.
        let place = match self.buckets.last() {
            Some(newest) if newest.number == bucket => self.buckets.len() - 1,
            _ => self.place(bucket),
        };
        self.buckets[place].insert(keys, row, &mut self.asked)
    }

    /// Whether the key of one row is in a bucket other than this one.
    pub fn is_elsewhere(&mut self, bucket: i64, keys: &Keys, row: usize) -> bool {
        // The newest first: most retries come soon.
        let others = self.buckets.iter().rev();
        let mut others = others.filter(|other| other.number != bucket);
        others.any(|other| other.contains(keys, row, &mut self.asked))
    }

    /// Adds the key of one row if it is in no bucket; returns whether it was added.
    pub fn insert_if_nowhere(&mut self, bucket: i64, keys: &Keys, row: usize) -> bool {
        !self.is_elsewhere(bucket, keys, row) && self.insert(bucket, keys, row)
    }

    fn place(&mut self, bucket: i64) -> usize {
        let found = self.buckets.binary_search_by_key(&bucket, |one| one.number);
        found.unwrap_or_else(|place| {
            let new = Bucket::new(bucket, KeySet::new(self.narrow), Vec::new());
            self.buckets.insert(place, new);
            place
        })
    }

    /// What must leave memory now, beside `others` bytes that are in memory too. `later` are the
    /// keys that came after the epoch of a checkpoint, by bucket. The newest bucket stays.
    pub fn freeze(&mut self, others: u64, later: impl Fn(i64) -> KeyRun) -> Vec<Freeze> {
        // A quarter is room for what comes while keys are on their way.
        let limit = self.limit.bytes / 4 * 3;
        let leaving = self.buckets.iter().filter(|bucket| bucket.under_way);
        let leaving: u64 = leaving.map(|bucket| bucket.warm().1).sum();
        let mut bytes = (self.bytes() + others).saturating_sub(leaving);
        let Some((_, older)) = self.buckets.split_last_mut() else {
            return Vec::new();
        };
        let may = older.iter_mut().filter(|one| one.may_leave(self.limit));
        let mut may: Vec<&mut Bucket> = may.collect();
        may.sort_by_key(|one| Reverse(one.warm().1));
        let mut frozen = Vec::new();
        for most in may {
            if bytes <= limit {
                break;
            }
            let (keys, warm) = most.warm();
            let later = later(most.number);
            if keys - (later.len() as u64) < self.limit.keys_min {
                continue;
            }
            bytes = bytes.saturating_sub(warm);
            let set = std::mem::replace(&mut most.set, KeySet::new(self.narrow));
            most.twice += later.len() as u64;
            most.set.extend(&later);
            most.leaving.push(Arc::new(set));
            most.under_way = true;
            frozen.push(Freeze {
                bucket: most.number,
                sets: most.leaving.clone(),
                later,
                cold: most.cold.clone(),
            });
        }
        frozen
    }

    /// Takes in what has become of keys that were to leave memory; none if they could not.
    pub fn frozen(&mut self, bucket: i64, run: Option<Arc<dyn ColdRun>>) {
        let found = self.buckets.binary_search_by_key(&bucket, |one| one.number);
        match (found, run) {
            (Ok(place), Some(run)) => {
                let bucket = &mut self.buckets[place];
                bucket.under_way = false;
                bucket.leaving.clear();
                bucket.twice = 0;
                let before = std::mem::replace(&mut bucket.cold, vec![run]);
                before.iter().for_each(|run| run.retire());
            }
            // It is tried again, with what came since.
            (Ok(place), None) => self.buckets[place].under_way = false,
            (Err(_), Some(run)) => run.retire(),
            (Err(_), None) => {}
        }
    }

    /// Whether more than the limit is needed, with `others` in memory too: the bytes. It must hold
    /// what cannot leave, and the largest bucket as a whole: that is open, or was. One event of a
    /// later time makes an open bucket an older one, which leaves, and gets new keys all the same.
    pub fn above_limit(&self, others: u64) -> Option<u64> {
        let leaves = |one: &Bucket| one.under_way || one.may_leave(self.limit);
        let older = self
            .buckets
            .split_last()
            .map_or(&[][..], |(_, older)| older);
        let stays = match older.iter().any(leaves) {
            true => 0,
            false => self.bytes(),
        };
        let whole = |one: &Bucket| one.warm().1 + one.cold().0 * bytes_of_key(self.narrow);
        let largest = self.buckets.iter().map(whole).max();
        let needed = stays.max(largest.unwrap_or(0)) + others;
        (needed > self.limit.bytes).then_some(needed)
    }

    /// Whether its keys are of one integer each.
    pub fn is_narrow(&self) -> bool {
        self.narrow
    }

    /// The bytes of memory above which keys leave it.
    pub fn limit(&self) -> u64 {
        self.limit.bytes
    }

    /// How many keys it holds.
    pub fn len(&self) -> u64 {
        let keys = |one: &Bucket| one.warm().0 + one.cold().0;
        self.buckets.iter().map(keys).sum()
    }

    /// How many of them are on disk.
    pub fn cold_len(&self) -> u64 {
        self.buckets.iter().map(|one| one.cold().0).sum()
    }

    /// Whether it holds no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of memory that it takes.
    pub fn bytes(&self) -> u64 {
        let bytes = |one: &Bucket| one.warm().1 + one.cold().1;
        self.buckets.iter().map(bytes).sum()
    }

    /// How many buckets have keys.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// How keys on disk were asked.
    pub fn asked(&self) -> Asked {
        self.asked
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use arrow_buffer::ScalarBuffer;

    use super::*;
    use crate::key::KEY_GROUPS;
    use crate::state::Found;

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

    /// Keys on disk that are not.
    #[derive(Debug)]
    struct Fake {
        keys: BTreeSet<u128>,
        retired: AtomicBool,
    }

    impl Fake {
        fn of(freeze: &Freeze) -> Arc<Self> {
            let mut keys = BTreeSet::new();
            for set in &freeze.sets {
                keys.extend((0..KEY_GROUPS).flat_map(|group| set.group(group)));
            }
            let KeyRun::Narrow(later) = &freeze.later else {
                panic!("keys are narrow here");
            };
            keys.retain(|key| !later.contains(&((key >> 64) as u64)));
            Arc::new(Self {
                keys,
                retired: AtomicBool::new(false),
            })
        }
    }

    impl ColdRun for Fake {
        fn find(&self, key: u128) -> Found {
            match self.keys.contains(&key) {
                true => Found::Yes,
                false => Found::NoAfterReading,
            }
        }

        fn len(&self) -> u64 {
            self.keys.len() as u64
        }

        fn bytes(&self) -> u64 {
            1
        }

        fn retire(&self) {
            self.retired.store(true, Relaxed);
        }
    }

    #[test]
    fn a_limit_that_does_not_hold_the_largest_bucket_is_told_wherever_its_keys_are() {
        let all = keys(&(0..1200).collect::<Vec<_>>());
        let ring = |bytes| {
            let keys_min = 500;
            BucketRing::new(true).limited(Limit { bytes, keys_min })
        };
        // An event ahead of its time makes the open bucket an older one.
        let mut small = ring(8_000);
        (0..1000).for_each(|row| assert!(small.insert(1, &all, row)));
        assert!(small.insert(2, &all, 1000));
        assert!(small.above_limit(0).is_some_and(|needed| needed > 10_000));
        let frozen = small.freeze(0, |_| KeyRun::none(true));
        small.frozen(1, Some(Fake::of(&frozen[0])));
        assert!(small.bytes() < 8_000);
        assert!(small.above_limit(0).is_some_and(|needed| needed >= 11_000));
        // Two buckets do not fit together, but one may leave.
        let mut enough = ring(10_000);
        (0..600).for_each(|row| assert!(enough.insert(1, &all, row)));
        (600..1200).for_each(|row| assert!(enough.insert(2, &all, row)));
        assert!(enough.bytes() > 10_000);
        assert_eq!(enough.above_limit(0), None);
        assert!(enough.above_limit(5_000).is_some(), "rows must fit as well");
    }

    #[test]
    fn keys_that_leave_memory_are_known_before_meanwhile_and_after() {
        let limit = Limit {
            bytes: 4,
            keys_min: 2,
        };
        let mut ring = BucketRing::new(true).limited(limit);
        let all = keys(&(0..20).collect::<Vec<_>>());
        let none = |_| KeyRun::none(true);
        for row in 0..6 {
            assert!(ring.insert(1, &all, row));
        }
        assert!(ring.insert(2, &all, 6) && ring.insert(3, &all, 7));
        // Rows 4 and 5 came after the checkpoint; bucket 2 has few keys, and 3 is the newest.
        let later = KeyRun::Narrow(all.high()[4..6].to_vec());
        let most = KeyRun::Narrow(all.high()[1..6].to_vec());
        assert!(
            ring.freeze(0, |_| most.clone()).is_empty(),
            "one key is few"
        );
        let frozen = ring.freeze(0, |bucket| {
            assert_eq!(bucket, 1);
            later.clone()
        });
        let [freeze] = &frozen[..] else {
            panic!("one bucket leaves: {frozen:?}");
        };
        let known = |ring: &mut BucketRing| {
            assert!((0..6).all(|row| !ring.insert(1, &all, row)));
            assert!((0..8).all(|row| !ring.insert_if_nowhere(9, &all, row)));
        };
        known(&mut ring);
        assert_eq!((ring.len(), ring.cold_len()), (8, 0));
        assert!(ring.freeze(0, none).is_empty(), "it is under way");
        // It fails, and is tried again with what came since.
        ring.frozen(1, None);
        assert!(ring.insert(1, &all, 8));
        let [again] = &ring.freeze(0, none)[..] else {
            panic!("it is tried again");
        };
        assert_eq!((again.sets.len(), again.cold.len()), (2, 0));
        assert_eq!(Fake::of(freeze).len(), 4);
        let first = Fake::of(again);
        assert_eq!(first.len(), 7);
        ring.frozen(1, Some(Arc::<Fake>::clone(&first)));
        known(&mut ring);
        assert_eq!((ring.len(), ring.cold_len()), (9, 7));
        assert!(ring.above_limit(0).is_some(), "the rest stays");
        assert!(!ring.is_elsewhere(9, &all, 15));
        let Asked {
            probes,
            reads,
            found,
        } = ring.asked();
        assert!(found > 0 && reads == found + 1 && probes == reads);

        // New keys of a bucket on disk are in memory, until they leave it too.
        assert!(ring.insert(1, &all, 9) && ring.insert(1, &all, 10));
        let [more] = &ring.freeze(0, none)[..] else {
            panic!("two keys are enough");
        };
        assert_eq!((more.sets.len(), more.cold.len()), (1, 1));
        let second = Fake::of(more);
        ring.frozen(1, Some(Arc::<Fake>::clone(&second)));
        assert!(first.retired.load(Relaxed) && !second.retired.load(Relaxed));
        ring.forget_before(2);
        assert!(second.retired.load(Relaxed));
        assert_eq!(ring.len(), 2);
        // What comes back after its bucket is forgotten is not needed.
        let third = Fake::of(more);
        ring.frozen(1, Some(Arc::<Fake>::clone(&third)));
        assert!(third.retired.load(Relaxed));
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
