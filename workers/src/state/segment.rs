//! Rows of the window that came one after the other, in memory or on disk.
//!
//! It is apart from `recent_rows`, which finds rows by key and forgets them, because here is how
//! they are laid out.
//!
//! # Invariants
//! * A row has the same number wherever the segment is.
//! * On disk are the rows alone: what finds them, and what tells their time without event time,
//!   stays in memory.

use std::ops::Range;

use arrow_buffer::BooleanBufferBuilder;

use crate::batch::{Batch, Gather, Keys, RowIndex};
use crate::state::cold::{ColdRows, RowFolder};
use crate::state::recent_rows::Wanted;

/// Rows of a block on disk, all of which are read for one: tens of kilobytes.
const BLOCK_ROWS: usize = 256;

/// Rows that came one after the other.
#[derive(Debug)]
pub(super) struct Segment {
    rows: Rows,
    count: u32,
    /// Whether no more are added.
    is_full: bool,
    /// Epochs of the rows, if those are their times.
    epochs: Vec<u64>,
    /// The greatest time of a row.
    latest_ms: i64,
    /// Rows that were taken out.
    removed: BooleanBufferBuilder,
    /// The upper bits of each row's join key, and the row, in order; only of a full one.
    by_join_key: Vec<(u32, u32)>,
    /// The bytes of memory that it takes.
    bytes: usize,
}

/// Where the rows are.
#[derive(Debug)]
enum Rows {
    /// In batches, of which each begins with this row; one when the segment is full.
    Warm { batches: Gather, starts: Vec<u32> },
    /// On disk, in blocks; their keys are here, if rows are found by them.
    Cold {
        blocks: Box<dyn ColdRows>,
        keys: Option<Keys>,
    },
}

impl Default for Segment {
    fn default() -> Self {
        Self {
            rows: Rows::Warm {
                batches: Gather::default(),
                starts: Vec::new(),
            },
            count: 0,
            is_full: false,
            epochs: Vec::new(),
            latest_ms: i64::MIN,
            removed: BooleanBufferBuilder::new(0),
            by_join_key: Vec::new(),
            bytes: 0,
        }
    }
}

impl Segment {
    /// Adds rows of an epoch.
    pub(super) fn push(&mut self, rows: Batch, epoch: u64, wanted: &Wanted) {
        let count = rows.len();
        let latest_ms = match wanted.time {
            Some(time) => {
                let latest = time.values(&rows).iter().max();
                latest.map_or(i64::MIN, |latest| time.unit.to_ms(*latest))
            }
            None => {
                self.epochs.extend(std::iter::repeat_n(epoch, count));
                epoch.cast_signed()
            }
        };
        self.latest_ms = self.latest_ms.max(latest_ms);
        self.bytes += rows.bytes();
        self.removed.append_n(count, false);
        let Rows::Warm { batches, starts } = &mut self.rows else {
            unreachable!("only full segments are on disk");
        };
        starts.push(self.count);
        self.count += u32::try_from(count).expect("a batch has far fewer rows");
        batches.push(rows);
    }

    /// How many rows have been added.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether no more are added.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// The bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The greatest time of a row.
    pub(super) fn latest_ms(&self) -> i64 {
        self.latest_ms
    }

    /// The epoch of a row, if there is no event time.
    pub(super) fn epoch(&self, row: u32) -> u64 {
        self.epochs[row as usize]
    }

    /// How many rows were not taken out.
    pub(super) fn held(&self) -> u64 {
        let held = (0..self.count).filter(|row| !self.removed.get_bit(*row as usize));
        held.count() as u64
    }

    /// Takes a row out.
    pub(super) fn remove(&mut self, row: u32) {
        self.removed.set_bit(row as usize, true);
    }

    /// Makes one batch of its rows, to which no more are added, with an index by join key if that
    /// is wanted.
    pub(super) fn seal(&mut self, wanted: &Wanted) {
        let all: Vec<RowIndex> = (0..self.count).map(|row| self.index(row)).collect();
        let Rows::Warm { batches, starts } = &mut self.rows else {
            unreachable!("a segment is sealed before it leaves memory");
        };
        let rows = batches.rows(&all);
        self.bytes = rows.bytes();
        if let Some(columns) = &wanted.by_join_key {
            let mut scratch = Vec::new();
            let keys = (0..rows.len()).filter_map(|row| {
                let key = rows.key_of(columns, row, &mut scratch)?;
                Some((upper(key), row as u32))
            });
            self.by_join_key = keys.collect();
            self.by_join_key.sort_unstable();
            self.by_join_key.shrink_to_fit();
        }
        batches.clear();
        batches.push(rows);
        *starts = vec![0];
        self.is_full = true;
        self.bytes += self.index_bytes();
    }

    /// Writes the rows of a full segment to disk; returns whether it took them.
    pub(super) fn leave(&mut self, folder: &mut dyn RowFolder, by_key: bool) -> bool {
        let Rows::Warm { batches, .. } = &self.rows else {
            return true;
        };
        let block = |rows: Range<usize>| {
            let rows: Vec<RowIndex> = rows.map(|row| (0, row)).collect();
            batches.rows(&rows).to_bytes()
        };
        let count = self.count as usize;
        let starts = (0..count).step_by(BLOCK_ROWS);
        let blocks = starts.map(|start| block(start..count.min(start + BLOCK_ROWS)));
        let blocks: Vec<Vec<u8>> = blocks.collect();
        let Some(blocks) = folder.write(&blocks) else {
            return false;
        };
        let keys = by_key.then(|| batches.batches()[0].keys().clone());
        let bytes = keys.as_ref().map_or(0, Keys::bytes);
        self.bytes = bytes + self.index_bytes() + self.epochs.len() * size_of::<u64>();
        self.rows = Rows::Cold { blocks, keys };
        true
    }

    fn index_bytes(&self) -> usize {
        self.by_join_key.len() * size_of::<(u32, u32)>()
    }

    /// Whether its rows are on disk.
    pub(super) fn is_cold(&self) -> bool {
        matches!(self.rows, Rows::Cold { .. })
    }

    /// Which of its batches a row is in, or which block, and where there.
    pub(super) fn index(&self, row: u32) -> RowIndex {
        match &self.rows {
            Rows::Warm { starts, .. } => {
                let batch = starts.partition_point(|start| *start <= row) - 1;
                (batch, (row - starts[batch]) as usize)
            }
            Rows::Cold { .. } => (row as usize / BLOCK_ROWS, row as usize % BLOCK_ROWS),
        }
    }

    /// A batch of it that is in memory.
    pub(super) fn warm(&self, batch: usize) -> Option<&Batch> {
        match &self.rows {
            Rows::Warm { batches, .. } => Some(&batches.batches()[batch]),
            Rows::Cold { .. } => None,
        }
    }

    /// Reads a block of it from disk.
    pub(super) fn read(&self, block: usize) -> Batch {
        let Rows::Cold { blocks, .. } = &self.rows else {
            unreachable!("what is in memory is not read");
        };
        Batch::of_bytes(&blocks.read(block))
    }

    /// The key of a row; on disk only if rows are found by it.
    pub(super) fn key(&self, row: u32) -> u128 {
        match &self.rows {
            Rows::Warm { batches, .. } => {
                let (batch, row) = self.index(row);
                batches.batches()[batch].keys().get(row)
            }
            Rows::Cold { keys, .. } => {
                let keys = keys.as_ref().expect("rows are asked for by key");
                keys.get(row as usize)
            }
        }
    }

    /// The rows that may have a join key with one of these upper bits, in order.
    pub(super) fn candidates(&self, uppers: &[u32]) -> Vec<u32> {
        let mut rows: Vec<u32> = match self.is_full() {
            false => (0..self.count).collect(),
            true => {
                let of = |upper: &u32| {
                    let from = self.by_join_key.partition_point(|(known, _)| known < upper);
                    let upper = *upper;
                    let rows = self.by_join_key[from..].iter();
                    rows.take_while(move |(known, _)| *known == upper)
                        .map(|(_, row)| *row)
                };
                uppers.iter().flat_map(of).collect()
            }
        };
        rows.retain(|row| !self.removed.get_bit(*row as usize));
        // Each block is read once.
        rows.sort_unstable();
        rows
    }
}

/// The bits of a join key by which an index is in order.
pub(super) fn upper(key: u128) -> u32 {
    (key >> 96) as u32
}
