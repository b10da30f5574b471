//! Keys: how the key columns of a row become a number of fixed width, its key group and its shard.
//!
//! One integer column is kept exact in 64 bits, mixed by a bijection, so no two keys ever
//! collide. Anything else is hashed to 128 bits by XXH3 of the canonical encoding below; at a
//! billion live keys the chance that a new one is taken for an old one is about 3e-30.
//!
//! # Invariants
//! * The mapping is part of every durable format: it is fixed for ever, and a test pins it.
//! * The key group is the top 10 bits of the mixed key; a shard is a range of key groups; a
//!   worker owns whole shards. State, sink progress and rescaling all go by shard.

use xxhash_rust::xxh3::xxh3_128;

use crate::batch::Slot;

/// How many key groups there are: units of order and of state.
pub const KEY_GROUPS: usize = 1 << KEY_GROUP_BITS;
/// The top bits of a key that name its key group.
pub const KEY_GROUP_BITS: u32 = 10;

/// Mixes 64 bits by a bijection (the finalizer of MurmurHash3).
#[inline]
pub fn mix64(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// The key group of a key, from its high 64 bits.
#[inline]
pub fn key_group(high: u64) -> usize {
    (high >> (64 - KEY_GROUP_BITS)) as usize
}

/// Hashes several key columns, or one that is not an integer, to 128 bits.
///
/// Each slot is encoded as a type byte followed by its bytes; text is preceded by its length.
pub fn hash_slots<'a>(slots: impl Iterator<Item = &'a Slot<'a>>, scratch: &mut Vec<u8>) -> u128 {
    scratch.clear();
    for slot in slots {
        match slot {
            Slot::Null => scratch.push(0),
            Slot::Int64(value) | Slot::Timestamp(value) => {
                scratch.push(1);
                scratch.extend_from_slice(&value.to_le_bytes());
            }
            Slot::Float64(value) => {
                scratch.push(2);
                // Equal numbers have equal keys: -0.0 is 0.0.
                scratch.extend_from_slice(&(value + 0.0).to_bits().to_le_bytes());
            }
            Slot::String(text) => encode_bytes(3, text.as_bytes(), scratch),
            Slot::Bool(value) => scratch.extend_from_slice(&[4, u8::from(*value)]),
            Slot::Decimal(value) => {
                scratch.push(5);
                scratch.extend_from_slice(&value.to_le_bytes());
            }
            Slot::Bytes(bytes) => encode_bytes(6, bytes, scratch),
        }
    }
    xxh3_128(scratch)
}

fn encode_bytes(tag: u8, bytes: &[u8], scratch: &mut Vec<u8>) {
    scratch.push(tag);
    scratch.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    scratch.extend_from_slice(bytes);
}

/// Who owns which key group: fixed by the numbers of shards and workers.
#[derive(Clone, Debug)]
pub struct Ownership {
    shards: usize,
    peers: usize,
    worker_of_group: Vec<u16>,
}

impl Ownership {
    /// The ownership of `shards` shards among `peers` workers.
    ///
    /// # Panics
    /// If there are fewer shards than workers, or more than key groups: the configuration
    /// has refused both.
    pub fn new(shards: usize, peers: usize) -> Self {
        assert!(
            peers >= 1 && peers <= shards && shards <= KEY_GROUPS,
            "peers <= shards <= 1024"
        );
        let worker_of_group = (0..KEY_GROUPS)
            .map(|group| {
                let worker = group * shards / KEY_GROUPS * peers / shards;
                u16::try_from(worker).expect("at most 1024 workers")
            })
            .collect();
        Self {
            shards,
            peers,
            worker_of_group,
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// The worker that owns a key group.
    #[inline]
    pub fn worker(&self, group: usize) -> usize {
        usize::from(self.worker_of_group[group])
    }

    /// The shard of a key group.
    #[inline]
    pub fn shard(&self, group: usize) -> usize {
        group * self.shards / KEY_GROUPS
    }

    /// The shards that `worker` owns, a contiguous range.
    pub fn shards_of(&self, worker: usize) -> std::ops::Range<usize> {
        let first = |worker: usize| (worker * self.shards).div_ceil(self.peers);
        first(worker)..first(worker + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn the_published_mapping_never_changes() {
        assert_eq!(mix64(1), 0xb456_bcfc_34c2_cb2c);
        assert_eq!(mix64(u64::MAX), 0x64b5_720b_4b82_5f21);
        let slots = [
            Slot::Int64(7),
            Slot::String(Cow::Borrowed("seven")),
            Slot::Null,
        ];
        let mut scratch = Vec::new();
        assert_eq!(hash_slots(slots.iter(), &mut scratch), xxh3_128(&scratch));
        assert_eq!(scratch.len(), 9 + 9 + 5 + 1);
        assert_eq!(key_group(u64::MAX), KEY_GROUPS - 1);
    }

    #[test]
    fn every_worker_owns_a_contiguous_range_of_shards() {
        for (shards, peers) in [(64, 1), (64, 2), (64, 3), (64, 64), (7, 3), (1024, 5)] {
            let ownership = Ownership::new(shards, peers);
            let mut next = 0;
            for worker in 0..peers {
                let range = ownership.shards_of(worker);
                assert_eq!(range.start, next);
                assert!(!range.is_empty());
                next = range.end;
            }
            assert_eq!(next, shards);
            for group in 0..KEY_GROUPS {
                assert!(
                    ownership
                        .shards_of(ownership.worker(group))
                        .contains(&ownership.shard(group))
                );
            }
        }
    }
}
