//! Writes runs: keys go in, in order, and an object comes out.
//!
//! Apart from reading, because a merge writes while it reads others.
//!
//! # Invariants
//! * Keys that are not strictly ascending are a broken invariant: a run would lose some of them.

use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::Error;
use crate::checkpoint::run::{
    BLOCK_KEYS, Block, HEADER_BYTES, Key, KeyRun, RunEntry, Tail, header,
};
use crate::checkpoint::store::{Put, Store, Writer};

/// Lays out a run; bytes come out as soon as a block is full.
struct Layout<K> {
    tail: Tail,
    /// The keys of the block that is open, as bytes.
    block: Vec<u8>,
    block_keys: u32,
    last: Option<K>,
    first_group: u16,
    bucket: i64,
}

impl<K: Key> Layout<K> {
    fn begin(bucket: i64, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&header(K::BYTES));
        Self {
            tail: Tail {
                key_bytes: K::BYTES,
                blocks: Vec::new(),
                keys: 0,
            },
            block: Vec::new(),
            block_keys: 0,
            last: None,
            first_group: 0,
            bucket,
        }
    }

    #[inline]
    fn push(&mut self, key: K, out: &mut Vec<u8>) {
        match self.last {
            None => self.first_group = key.group(),
            Some(last) => {
                assert!(last < key, "the keys of a run are strictly ascending");
                if self.block_keys == BLOCK_KEYS || last.group() != key.group() {
                    self.close(last.group(), out);
                }
            }
        }
        key.put(&mut self.block);
        self.block_keys += 1;
        self.last = Some(key);
    }

    fn close(&mut self, group: u16, out: &mut Vec<u8>) {
        self.tail.blocks.push(Block {
            group,
            keys: self.block_keys,
            checksum: xxh3_64(&self.block),
        });
        self.tail.keys += u64::from(self.block_keys);
        out.append(&mut self.block);
        self.block_keys = 0;
    }

    /// Ends the run. No entry if it has no keys.
    fn finish(mut self, name: &str, out: &mut Vec<u8>) -> Option<RunEntry> {
        let last_group = self.last.map(Key::group);
        if let Some(group) = last_group {
            self.close(group, out);
        }
        let (bytes, checksum) = self.tail.encode();
        out.extend_from_slice(&bytes);
        Some(RunEntry {
            name: name.to_owned(),
            bucket: self.bucket,
            first_group: self.first_group,
            last_group: last_group?,
            keys: self.tail.keys,
            bytes: HEADER_BYTES + self.tail.keys * u64::from(K::BYTES) + bytes.len() as u64,
            checksum,
        })
    }
}

/// A run of these keys, whole.
///
/// # Panics
/// If they are not strictly ascending.
pub fn encode(keys: &KeyRun) -> Vec<u8> {
    fn all<K: Key>(keys: &[K]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut layout = Layout::begin(0, &mut out);
        keys.iter().for_each(|key| layout.push(*key, &mut out));
        layout.finish("", &mut out);
        out
    }
    match keys {
        KeyRun::Narrow(keys) => all(keys),
        KeyRun::Wide(keys) => all(keys),
    }
}

/// Writes a run of these keys, of a bucket of time, under a new name, as `run_name` makes it.
/// Without keys there is no run.
///
/// # Errors
/// If it is not known to be there.
///
/// # Panics
/// If the keys are not strictly ascending.
pub fn write_run(
    store: &Store,
    (name, bucket): (&str, i64),
    keys: &KeyRun,
) -> Result<Option<RunEntry>, Error> {
    fn all<K: Key>(
        store: &Store,
        name: (&str, i64),
        keys: &[K],
    ) -> Result<Option<RunEntry>, Error> {
        let mut writer = RunWriter::begin(store, name);
        writer.write(keys)?;
        writer.finish()
    }
    match keys {
        KeyRun::Narrow(keys) => all(store, (name, bucket), keys),
        KeyRun::Wide(keys) => all(store, (name, bucket), keys),
    }
}

/// Writes a run as its keys come.
pub(in crate::checkpoint) struct RunWriter<'a, K> {
    writer: Writer<'a>,
    layout: Layout<K>,
    /// Bytes that are laid out and not yet given to the writer.
    ready: Vec<u8>,
}

/// Bytes are given to the writer in pieces of this size, or larger.
const READY_BYTES: usize = 1 << 18;

impl<'a, K: Key> RunWriter<'a, K> {
    /// Begins a run under a new name, as `run_name` makes it.
    pub(in crate::checkpoint) fn begin(store: &'a Store, (name, bucket): (&str, i64)) -> Self {
        let mut ready = Vec::new();
        Self {
            writer: store.writer(name),
            layout: Layout::begin(bucket, &mut ready),
            ready,
        }
    }

    /// Adds keys, all greater than those before.
    ///
    /// # Errors
    /// If they cannot be written.
    ///
    /// # Panics
    /// If they are not strictly ascending.
    pub(in crate::checkpoint) fn write(&mut self, keys: &[K]) -> Result<(), Error> {
        for key in keys {
            self.layout.push(*key, &mut self.ready);
            if self.ready.len() >= READY_BYTES {
                self.writer.write(&self.ready)?;
                self.ready.clear();
            }
        }
        Ok(())
    }

    /// Ends the run. Without keys there is none.
    ///
    /// # Errors
    /// If it is not known to be there.
    pub(in crate::checkpoint) fn finish(mut self) -> Result<Option<RunEntry>, Error> {
        let name = self.writer.name().to_owned();
        let entry = self.layout.finish(&name, &mut self.ready);
        if entry.is_none() {
            return Ok(None);
        }
        self.writer.write(&self.ready)?;
        match self.writer.finish()? {
            Put::Written => Ok(entry),
            Put::Taken => Err(Error::Taken { name }),
        }
    }
}

impl<K> std::fmt::Debug for RunWriter<'_, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunWriter")
            .field("writer", &self.writer)
            .finish_non_exhaustive()
    }
}
