//! Keys and rows that have left memory: what is asked of them, and what is handed over.
//!
//! Apart from `bucket_ring` and `recent_rows`, because those who keep them on disk are outside of
//! this crate.
//!
//! # Invariants
//! * Nothing waits for keys to leave memory: until they have, they are asked where they are.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use crate::checkpoint::KeyRun;
use crate::state::KeySet;
use crate::state::recent_rows::SEGMENT_ROWS;

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

/// When rows of the window leave memory, and where they go.
#[derive(Debug)]
pub struct RowLimit {
    /// Above this many bytes of memory some do.
    pub bytes: u64,
    /// So many go together.
    pub segment_rows: u32,
    /// Where they go.
    pub folder: Box<dyn RowFolder>,
}

impl RowLimit {
    /// The default of `segment_rows`.
    pub const SEGMENT_ROWS: u32 = SEGMENT_ROWS;
}

/// Keeps rows on a local disk for as long as the process runs.
pub trait RowFolder: Debug + Send + Sync {
    /// Writes blocks of rows, from the page cache of which they are read again; none if the disk
    /// does not take them, which is told there.
    fn write(&mut self, blocks: &[Vec<u8>]) -> Option<Box<dyn ColdRows>>;
}

/// Blocks of rows on disk; dropped when nobody needs them.
pub trait ColdRows: Debug + Send + Sync {
    /// A block as it was written. The process ends if it cannot be read.
    fn read(&self, block: usize) -> Vec<u8>;
}
