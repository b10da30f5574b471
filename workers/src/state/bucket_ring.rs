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
mod tests;
