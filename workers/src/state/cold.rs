//! Keys that have left memory: what the ring of buckets asks of them, and what it hands over.
//!
//! Apart from `bucket_ring`, because those who keep keys on disk are outside of this crate.
//!
//! # Invariants
//! * Nothing waits for keys to leave memory: until they have, they are asked where they are.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use crate::checkpoint::KeyRun;
use crate::state::KeySet;

/// When keys leave memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Above this many bytes of memory some do.
    pub bytes: u64,
    /// Fewer keys of a bucket than these stay.
    pub keys_min: u64,
}

impl Limit {
    /// All keys stay.
    pub const NONE: Self = Self {
        bytes: u64::MAX,
        keys_min: u64::MAX,
    };
}

/// Whether a key is among those on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is not, and nothing was read to tell.
    No,
    /// It is not, but it took a read to tell.
    NoAfterReading,
    /// It is.
    Yes,
}

/// Keys of one bucket, on disk. Whoever made it knows it again by its type.
pub trait ColdRun: Any + Debug + Send + Sync {
    /// Looks for a key; a narrow one stands in the high half.
    fn find(&self, key: u128) -> Found;

    /// How many keys it has.
    fn len(&self) -> u64;

    /// Whether it has no key.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of memory that it takes.
    fn bytes(&self) -> u64;

    /// Says that nobody will need it again, also after a restart.
    fn retire(&self);
}

/// The keys of one bucket, on disk, each in one run.
pub type ColdRuns = Vec<Arc<dyn ColdRun>>;

/// Keys of one bucket that are to leave memory.
#[derive(Clone, Debug)]
pub struct Freeze {
    /// The bucket.
    pub bucket: i64,
    /// The keys in memory, each in one set.
    pub sets: Vec<Arc<KeySet>>,
    /// Those of them that came after the epoch of the checkpoint, and stay.
    pub later: KeyRun,
    /// Keys of the bucket that are on disk already, each in one run.
    pub cold: ColdRuns,
}

/// How keys on disk were asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// How often a key was looked for.
    pub probes: u64,
    /// How often that took a read.
    pub reads: u64,
    /// How often it was there.
    pub found: u64,
}

impl Asked {
    /// Counts an answer; returns whether the key is there.
    pub(super) fn count(&mut self, found: Found) -> bool {
        self.probes += 1;
        self.reads += u64::from(found != Found::No);
        self.found += u64::from(found == Found::Yes);
        found == Found::Yes
    }
}
