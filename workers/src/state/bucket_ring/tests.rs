//! Tests of keys in buckets, on what is no disk.

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
    let all = keys(&(0..120_000).collect::<Vec<_>>());
    let ring = |bytes| {
        let keys_min = 50_000;
        BucketRing::new(true).limited(Limit { bytes, keys_min })
    };
    // An event ahead of its time makes the open bucket an older one.
    let mut small = ring(800_000);
    (0..100_000).for_each(|row| assert!(small.insert(1, &all, row)));
    assert!(small.insert(2, &all, 100_000));
    let needed = |ring: &BucketRing| ring.above_limit(0).unwrap_or(0);
    assert!(needed(&small) > 1_000_000, "while it is in memory");
    let frozen = small.freeze(0, |_| KeyRun::none(true));
    small.frozen(1, Some(Fake::of(&frozen[0])));
    assert!(small.bytes() < 200_000);
    assert!(needed(&small) > 1_000_000, "when it is not");
    // Two buckets do not fit together, but one may leave.
    let mut enough = ring(1_000_000);
    (0..60_000).for_each(|row| assert!(enough.insert(1, &all, row)));
    (60_000..120_000).for_each(|row| assert!(enough.insert(2, &all, row)));
    assert!(enough.bytes() > 1_000_000);
    assert_eq!(enough.above_limit(0), None);
    assert!(enough.above_limit(500_000).is_some(), "rows must fit too");
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
