//! What is in memory of keys on disk: filters that tell most of what is not there, and where the
//! rest is to be read.
//!
//! A filter is a binary fuse filter (Graf and Lemire, *Binary Fuse Filters*, 2022) of 8 bits, for
//! keys of neighbouring key groups: about 9 bits a key, and one key in 256 that is not there is
//! not told. The run is read in pages; of each the first key and the checksum are known.
//!
//! | part of the file | content, all numbers little-endian |
//! |---|---|
//! | header, 16 bytes | `DJFILTER`, version `u32`, bytes of the description `u32` |
//! | description | JSON: the run, and the key groups and parameters of each filter |
//! | pages, 24 bytes each | first key `u128`, in the high half if narrow; xxh3-64 of it all `u64` |
//! | filters | the fingerprints of all |
//! | footer, 8 bytes | xxh3-64 of everything before |
//!
//! # Invariants
//! * A key that was put in is told to be possible.
//! * Whatever the bytes are, the outcome is what was written or an error; never a panic.

use deltajoin_workers::key::KEY_GROUPS;
use serde::{Deserialize, Serialize};
use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable, Filter, FilterRef};
use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::RunEntry;
use crate::checkpoint::layout::VERSION;
use crate::checkpoint::run::Key;

const MAGIC: [u8; 8] = *b"DJFILTER";
const HEADER_BYTES: usize = 16;
const PAGE_BYTES: usize = 24;
const FOOTER_BYTES: usize = 8;
/// Keys of a page: what is read to find one.
pub(super) const PAGE_KEYS: usize = 512;
/// A filter has so many keys at least, unless there are no more: fewer would take more bits each,
/// and to build one takes up to 40 bytes a key.
const FILTER_KEYS: usize = 1 << 18;

/// A key as filters and pages have it.
pub(super) trait ColdKey: Key {
    /// Its bits, in the high half if it is narrow.
    fn wide(self) -> u128;
    /// The key of these bits.
    fn of(wide: u128) -> Self;
    /// What it is in a filter.
    fn hash(self) -> u64;
}

impl ColdKey for u64 {
    fn wide(self) -> u128 {
        u128::from(self) << 64
    }

    fn of(wide: u128) -> Self {
        (wide >> 64) as u64
    }

    fn hash(self) -> u64 {
        self
    }
}

impl ColdKey for u128 {
    fn wide(self) -> u128 {
        self
    }

    fn of(wide: u128) -> Self {
        wide
    }

    fn hash(self) -> u64 {
        self as u64
    }
}

/// What is said of a filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    first_group: u16,
    last_group: u16,
    descriptor: Vec<u8>,
    bytes: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    run: RunEntry,
    filters: Vec<About>,
}

/// Filters and pages of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Index {
    filters: Vec<About>,
    /// Where the fingerprints of each filter begin.
    begins: Vec<usize>,
    /// For each key group its filter, if it has keys.
    of_group: Vec<Option<u16>>,
    /// The first key of each page.
    firsts: Vec<u128>,
    checksums: Vec<u64>,
    fingerprints: Vec<u8>,
}

impl Index {
    fn new(
        filters: Vec<About>,
        (firsts, checksums): (Vec<u128>, Vec<u64>),
        fingerprints: Vec<u8>,
    ) -> Self {
        let mut begins = Vec::new();
        let mut of_group = vec![None; KEY_GROUPS];
        let mut begin = 0;
        for (index, filter) in filters.iter().enumerate() {
            begins.push(begin);
            begin += filter.bytes;
            let groups = usize::from(filter.first_group)..=usize::from(filter.last_group);
            of_group[groups].fill(u16::try_from(index).ok());
        }
        Self {
            filters,
            begins,
            of_group,
            firsts,
            checksums,
            fingerprints,
        }
    }

    /// Whether a key may be there.
    pub(super) fn may_have(&self, group: usize, hash: u64) -> bool {
        let Some(index) = self.of_group[group].map(usize::from) else {
            return false;
        };
        let (about, begin) = (&self.filters[index], self.begins[index]);
        let fingerprints = &self.fingerprints[begin..begin + about.bytes];
        BinaryFuse8Ref::from_dma(&about.descriptor, fingerprints).contains(&hash)
    }

    /// The page that a key is on, if it is there, and its checksum.
    pub(super) fn page(&self, key: u128) -> Option<(usize, u64)> {
        let after = self.firsts.partition_point(|first| *first <= key);
        let page = after.checked_sub(1)?;
        Some((page, self.checksums[page]))
    }

    /// The bytes of memory that it takes.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = self.fingerprints.capacity() + self.firsts.capacity() * PAGE_BYTES;
        bytes as u64
    }

    /// As a file, of this run.
    pub(super) fn encode(&self, run: &RunEntry) -> Vec<u8> {
        let description = Description {
            run: run.clone(),
            filters: self.filters.clone(),
        };
        let description = serde_json::to_vec(&description).expect("plain values are always JSON");
        let length = u32::try_from(description.len()).expect("a filter takes 200 bytes of it");
        let mut out = Vec::with_capacity(
            HEADER_BYTES
                + description.len()
                + self.firsts.len() * PAGE_BYTES
                + self.fingerprints.len()
                + FOOTER_BYTES,
        );
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&description);
        for (first, checksum) in self.firsts.iter().zip(&self.checksums) {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&checksum.to_le_bytes());
        }
        out.extend_from_slice(&self.fingerprints);
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a file: the run, and what is known of it.
    pub(super) fn decode(bytes: &[u8]) -> Result<(RunEntry, Self), String> {
        let short = || "it is too short".to_owned();
        let (all, footer) = bytes.split_last_chunk::<FOOTER_BYTES>().ok_or_else(short)?;
        let (header, rest) = all.split_first_chunk::<HEADER_BYTES>().ok_or_else(short)?;
        if header[..8] != MAGIC {
            return Err("it does not begin as filters do".to_owned());
        }
        if header[8..12] != VERSION.to_le_bytes() {
            return Err("it has another version".to_owned());
        }
        if xxh3_64(all).to_le_bytes() != *footer {
            return Err("its checksum is another".to_owned());
        }
        let length = header[12..].first_chunk().ok_or_else(short)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (description, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        let description: Description =
            serde_json::from_slice(description).map_err(|error| error.to_string())?;
        let Description { run, filters } = description;
        let count = usize::try_from(run.keys.div_ceil(PAGE_KEYS as u64));
        let count = count.map_err(|error| error.to_string())?;
        let bytes = count.checked_mul(PAGE_BYTES).ok_or_else(short)?;
        let (pages, fingerprints) = rest.split_at_checked(bytes).ok_or_else(short)?;
        let (pages, _) = pages.as_chunks::<PAGE_BYTES>();
        let first = |page: &[u8; PAGE_BYTES]| {
            let (first, _) = page.split_first_chunk().expect("a page has 24 bytes");
            u128::from_le_bytes(*first)
        };
        let checksum = |page: &[u8; PAGE_BYTES]| {
            let (_, checksum) = page.split_last_chunk().expect("a page has 24 bytes");
            u64::from_le_bytes(*checksum)
        };
        let pages = (
            pages.iter().map(first).collect(),
            pages.iter().map(checksum).collect(),
        );
        let fits = filters.iter().map(|filter| filter.bytes).sum::<usize>() == fingerprints.len()
            && filters.iter().all(|filter| {
                filter.first_group <= filter.last_group
                    && usize::from(filter.last_group) < KEY_GROUPS
                    && filter.descriptor.len() == BinaryFuse8::DESCRIPTOR_LEN
            });
        if !fits {
            return Err("its filters do not fit its size".to_owned());
        }
        let index = Self::new(filters, pages, fingerprints.to_vec());
        Ok((run, index))
    }
}

/// Makes an index while keys come, in order.
#[derive(Debug, Default)]
pub(super) struct Builder {
    filters: Vec<About>,
    fingerprints: Vec<u8>,
    firsts: Vec<u128>,
    checksums: Vec<u64>,
    /// The bytes of the page that is open.
    page: Vec<u8>,
    page_keys: usize,
    /// The keys of the filter that is open.
    hashes: Vec<u64>,
    groups: Option<(u16, u16)>,
}

impl Builder {
    /// Takes in a key, greater than those before.
    pub(super) fn push<K: ColdKey>(&mut self, key: K) -> Result<(), String> {
        if self.page_keys == PAGE_KEYS {
            self.close_page();
        }
        if self.page_keys == 0 {
            self.firsts.push(key.wide());
        }
        key.put(&mut self.page);
        self.page_keys += 1;
        let group = key.group();
        let full = self.hashes.len() >= FILTER_KEYS;
        self.groups = match self.groups {
            Some((first, last)) if !full || last == group => Some((first, group)),
            Some(_) => {
                self.close_filter()?;
                Some((group, group))
            }
            None => Some((group, group)),
        };
        self.hashes.push(key.hash());
        Ok(())
    }

    fn close_page(&mut self) {
        self.checksums.push(xxh3_64(&self.page));
        self.page.clear();
        self.page_keys = 0;
    }

    fn close_filter(&mut self) -> Result<(), String> {
        let Some((first_group, last_group)) = self.groups.take() else {
            return Ok(());
        };
        // Keys of two numbers may have one hash; a filter needs them once.
        self.hashes.sort_unstable();
        self.hashes.dedup();
        let filter = BinaryFuse8::try_from(&self.hashes[..])?;
        self.hashes.clear();
        let mut descriptor = vec![0; BinaryFuse8::DESCRIPTOR_LEN];
        filter.dma_copy_descriptor_to(&mut descriptor);
        let fingerprints = filter.dma_fingerprints();
        self.filters.push(About {
            first_group,
            last_group,
            descriptor,
            bytes: fingerprints.len(),
        });
        self.fingerprints.extend_from_slice(fingerprints);
        Ok(())
    }

    /// The index of all keys.
    pub(super) fn finish(mut self) -> Result<Index, String> {
        self.close_filter()?;
        if self.page_keys > 0 {
            self.close_page();
        }
        self.fingerprints.shrink_to_fit();
        let pages = (self.firsts, self.checksums);
        Ok(Index::new(self.filters, pages, self.fingerprints))
    }
}
