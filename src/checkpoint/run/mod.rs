//! Runs: the keys of one worker, in order, as one object that can be read by key group.
//!
//! | part | content, all numbers little-endian |
//! |---|---|
//! | header, 16 bytes | `DJKEYRUN`, version `u32`, bytes of a key `u32` (8 or 16) |
//! | blocks | keys, strictly ascending, `u64` or `u128`; in each at most 65,536 of one key group |
//! | index, 14 bytes a block | key group `u16`, keys `u32`, xxh3-64 of the block `u64` |
//! | footer, 40 bytes | blocks, keys, checksum `u64`; bytes of a key, version `u32`; `DJKEYRUN` |
//!
//! The checksum is the xxh3-64 of header, index, and the numbers of blocks and keys, so it covers
//! every byte by way of the checksums of blocks; the manifest repeats it. A reader begins at the
//! end, and then reads only the blocks of the key groups that it wants.
//!
//! # Invariants
//! * Equal keys make equal objects.
//! * No key is given out before the checksum of its block has been compared.
//! * Writing and reading hold a bounded part in memory, whatever the size of the run.

mod read;
mod write;

use std::ops::Range;

use deltajoin_workers::checkpoint::KeyRun;
use deltajoin_workers::key::{KEY_GROUP_BITS, KEY_GROUPS};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::checkpoint::hex;
use crate::checkpoint::layout::VERSION;

pub use read::{Pieces, Run};
pub(super) use write::RunWriter;
pub use write::{encode, write_run};

const MAGIC: [u8; 8] = *b"DJKEYRUN";
pub(super) const HEADER_BYTES: u64 = 16;
const ENTRY_BYTES: u64 = 14;
const FOOTER_BYTES: u64 = 40;
/// Keys of a block, at most: half a megabyte to a megabyte, which is what is held at least.
const BLOCK_KEYS: u32 = 1 << 16;

/// A key as it is stored.
pub(super) trait Key: Copy + Ord {
    /// Its bytes.
    const BYTES: u32;
    /// Its key group.
    fn group(self) -> u16;
    /// Appends its bytes.
    fn put(self, out: &mut Vec<u8>);
    /// The keys in bytes whose number fits.
    fn all(bytes: &[u8]) -> Vec<Self>;
    /// Keys as a run.
    fn run(keys: Vec<Self>) -> KeyRun;
    /// The keys of a run of this width.
    fn keys(run: KeyRun) -> Option<Vec<Self>>;
}

impl Key for u64 {
    const BYTES: u32 = 8;

    fn group(self) -> u16 {
        u16::try_from(self >> (64 - KEY_GROUP_BITS)).expect("the top 10 bits")
    }

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn all(bytes: &[u8]) -> Vec<Self> {
        let (keys, _) = bytes.as_chunks();
        keys.iter().map(|key| Self::from_le_bytes(*key)).collect()
    }

    fn run(keys: Vec<Self>) -> KeyRun {
        KeyRun::Narrow(keys)
    }

    fn keys(run: KeyRun) -> Option<Vec<Self>> {
        match run {
            KeyRun::Narrow(keys) => Some(keys),
            KeyRun::Wide(_) => None,
        }
    }
}

impl Key for u128 {
    const BYTES: u32 = 16;

    fn group(self) -> u16 {
        u16::try_from(self >> (128 - KEY_GROUP_BITS)).expect("the top 10 bits")
    }

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn all(bytes: &[u8]) -> Vec<Self> {
        let (keys, _) = bytes.as_chunks();
        keys.iter().map(|key| Self::from_le_bytes(*key)).collect()
    }

    fn run(keys: Vec<Self>) -> KeyRun {
        KeyRun::Wide(keys)
    }

    fn keys(run: KeyRun) -> Option<Vec<Self>> {
        match run {
            KeyRun::Wide(keys) => Some(keys),
            KeyRun::Narrow(_) => None,
        }
    }
}

/// A range of key groups, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Groups {
    /// All key groups.
    pub const ALL: Self = Self {
        first: 0,
        last: KEY_GROUPS as u16 - 1,
    };

    /// One key group.
    pub const fn only(group: u16) -> Self {
        Self {
            first: group,
            last: group,
        }
    }

    /// Whether it is a range of key groups that there are.
    pub(super) fn is_valid(self) -> bool {
        self.first <= self.last && usize::from(self.last) < KEY_GROUPS
    }

    /// What is in both ranges.
    #[must_use]
    pub fn overlap(self, other: Self) -> Option<Self> {
        let overlap = Self {
            first: self.first.max(other.first),
            last: self.last.min(other.last),
        };
        (overlap.first <= overlap.last).then_some(overlap)
    }

    /// Whether a key group is in the range.
    pub fn contains(self, group: u16) -> bool {
        (self.first..=self.last).contains(&group)
    }
}

/// A run, or some of its key groups, as manifests name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunEntry {
    /// The object.
    pub name: String,
    /// The bucket of time that its keys are in.
    pub bucket: i64,
    /// The first key group that counts.
    pub first_group: u16,
    /// The last key group that counts.
    pub last_group: u16,
    /// The keys of the key groups that count.
    pub keys: u64,
    /// The size of the object.
    pub bytes: u64,
    /// The checksum of the object.
    #[serde(with = "hex")]
    pub checksum: u64,
}

impl RunEntry {
    /// The key groups that count.
    pub fn groups(&self) -> Groups {
        Groups {
            first: self.first_group,
            last: self.last_group,
        }
    }
}

/// What the index says of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    group: u16,
    keys: u32,
    checksum: u64,
}

/// What stands behind the blocks.
#[derive(Clone, Debug)]
struct Tail {
    key_bytes: u32,
    blocks: Vec<Block>,
    keys: u64,
}

/// What is wrong with a run's bytes.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Damaged(String),
    Version(u32),
}

fn damaged(reason: &str) -> Fault {
    Fault::Damaged(reason.to_owned())
}

fn header(key_bytes: u32) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..].copy_from_slice(&key_bytes.to_le_bytes());
    header
}

impl Tail {
    /// As bytes, with the checksum that is in them.
    fn encode(&self) -> (Vec<u8>, u64) {
        let mut bytes = Vec::new();
        for block in &self.blocks {
            bytes.extend_from_slice(&block.group.to_le_bytes());
            bytes.extend_from_slice(&block.keys.to_le_bytes());
            bytes.extend_from_slice(&block.checksum.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.blocks.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.keys.to_le_bytes());
        let checksum = tail_checksum(self.key_bytes, &bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&self.key_bytes.to_le_bytes());
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&MAGIC);
        (bytes, checksum)
    }

    /// Reads index and footer, which are all of `bytes`, of a run of so many bytes in all.
    fn decode(bytes: &[u8], footer: &Footer, all_bytes: u64) -> Result<Self, Fault> {
        let numbers = bytes.len() - FOOTER_BYTES as usize + 16;
        if tail_checksum(footer.key_bytes, &bytes[..numbers]) != footer.checksum {
            return Err(damaged("the checksum of its index is another"));
        }
        let (entries, _) = bytes[..numbers - 16].as_chunks::<{ ENTRY_BYTES as usize }>();
        let block = |entry: &[u8; ENTRY_BYTES as usize]| Block {
            group: u16::from_le_bytes(*part(entry, 0)),
            keys: u32::from_le_bytes(*part(entry, 2)),
            checksum: u64::from_le_bytes(*part(entry, 6)),
        };
        let tail = Self {
            key_bytes: footer.key_bytes,
            blocks: entries.iter().map(block).collect(),
            keys: footer.keys,
        };
        let keys: u64 = tail.blocks.iter().map(|block| u64::from(block.keys)).sum();
        let in_order = tail.blocks.is_sorted_by_key(|block| block.group);
        let fits = HEADER_BYTES + keys * u64::from(tail.key_bytes) + bytes.len() as u64;
        if keys != tail.keys || !in_order || fits != all_bytes {
            return Err(damaged("its index does not fit its size"));
        }
        Ok(tail)
    }
}

fn tail_checksum(key_bytes: u32, index_and_numbers: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&header(key_bytes));
    hasher.update(index_and_numbers);
    hasher.digest()
}

/// The end of a run.
#[derive(Debug)]
struct Footer {
    blocks: u64,
    keys: u64,
    checksum: u64,
    key_bytes: u32,
}

impl Footer {
    fn decode(bytes: &[u8; FOOTER_BYTES as usize]) -> Result<Self, Fault> {
        if *part(bytes, 32) != MAGIC {
            return Err(damaged("it does not end as a run does"));
        }
        let version = u32::from_le_bytes(*part(bytes, 28));
        if version != VERSION {
            return Err(Fault::Version(version));
        }
        let footer = Self {
            blocks: u64::from_le_bytes(*part(bytes, 0)),
            keys: u64::from_le_bytes(*part(bytes, 8)),
            checksum: u64::from_le_bytes(*part(bytes, 16)),
            key_bytes: u32::from_le_bytes(*part(bytes, 24)),
        };
        if ![u64::BYTES, u128::BYTES].contains(&footer.key_bytes) {
            return Err(damaged("its keys have no known width"));
        }
        Ok(footer)
    }

    /// Where index and footer stand in a run of so many bytes in all.
    fn tail(&self, all_bytes: u64) -> Result<Range<u64>, Fault> {
        let index = self.blocks.checked_mul(ENTRY_BYTES);
        let tail = index.and_then(|index| index.checked_add(FOOTER_BYTES));
        let begin = tail.and_then(|tail| all_bytes.checked_sub(tail));
        match begin {
            Some(begin) if begin >= HEADER_BYTES => Ok(begin..all_bytes),
            _ => Err(damaged("its index does not fit its size")),
        }
    }
}

/// So many bytes from there on.
fn part<const N: usize>(bytes: &[u8], from: usize) -> &[u8; N] {
    bytes[from..].first_chunk().expect("the caller has them")
}

#[cfg(test)]
mod tests;
