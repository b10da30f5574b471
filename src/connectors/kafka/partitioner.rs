//! Which partition of an output topic a row goes to.
//!
//! It is apart because it is part of what readers of a topic may rely on: rows of one key are in
//! one partition, as long as the topic's number of partitions stays.
//!
//! # Invariants
//! * The partition depends on the row and the number of partitions alone.

use deltajoin_workers::key::{KEY_GROUPS, key_group};

/// The partition of a key group: ranges of key groups, so that a worker touches few partitions.
pub(super) fn by_key_group(key_high: u64, partitions: usize) -> usize {
    key_group(key_high) * partitions / KEY_GROUPS
}

/// The partition that Kafka's own clients give a record of this key.
pub(super) fn by_murmur2(key: &[u8], partitions: usize) -> usize {
    // Kafka makes the hash positive by dropping its sign bit.
    (murmur2(key) & 0x7fff_ffff) as usize % partitions
}

/// MurmurHash2 with Kafka's seed.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    // Kafka hashes the length modulo 2^32, which no key reaches.
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let word = u32::from_le_bytes(word.try_into().expect("a chunk has four bytes"));
        let word = word.wrapping_mul(M);
        let word = (word ^ (word >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_kafkas() {
        // The vectors of Kafka's own UtilsTest.testMurmur2.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
        assert_eq!(by_murmur2(b"abc", 10), 7);
    }

    #[test]
    fn key_groups_are_spread_in_ranges_over_all_partitions() {
        for partitions in [1, 3, 4, 64, 1500] {
            let of = |group: u64| by_key_group(group << 54, partitions);
            assert_eq!(of(0), 0);
            assert!((1..1024).all(|group| of(group - 1) <= of(group)));
            assert!(of(1023) < partitions);
            assert!(partitions > 1024 || of(1023) == partitions - 1);
        }
    }
}
