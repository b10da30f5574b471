//! The rows that may still be revised: those whose time is not further behind the clock than a
//! window, found by their key and by the key on which they are joined.
//!
//! Rows stay in the batches in which they came, until there are enough of them for a segment: one
//! batch, with an index by join key if that is wanted. When rows take too much memory, the oldest
//! segments go to disk. A segment is dropped whole, so forgetting costs next to nothing; which rows
//! are in the window is told exactly, by their time.
//!
//! # Invariants
//! * A row has the same place for as long as it is held.
//! * Of the rows of one key, the one that was added last is found.
//! * A segment is held as long as one of its rows is in the window.

#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::batch::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, Batch, Gather, RowIndex};
use crate::checkpoint::Kept;
use crate::clock::EventTime;
use crate::state::cold::RowLimit;
use crate::state::reference::MixedKeys;
use crate::state::segment::{Segment, upper};

/// Rows of a segment, if they are not large: few enough that one is made in a few milliseconds, and
/// enough that there are few to be asked.
pub(crate) const SEGMENT_ROWS: u32 = 32_768;

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    segment: u32,
    row: u32,
}

/// How rows are found, and when they are forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Whether rows are found by their key.
    pub(crate) by_key: bool,
    /// The columns of the join key by which rows are found, if they are.
    pub(crate) by_join_key: Option<Vec<usize>>,
    /// Where a row has its time; without one its epoch counts.
    pub(crate) time: Option<EventTime>,
}

/// The rows that may still be revised.
#[derive(Debug)]
pub struct RecentRows {
    wanted: Wanted,
    limit: Option<RowLimit>,
    /// Full ones, the oldest first, then the one that rows are added to.
    segments: VecDeque<Segment>,
    /// The number of the first of them.
    first: u32,
    by_key: HashTable<Place>,
    rows: u64,
    /// How many of them are on disk.
    cold: u64,
    bytes: u64,
}

impl RecentRows {
    /// No rows yet.
    pub(crate) fn new(wanted: Wanted, limit: Option<RowLimit>) -> Self {
        Self {
            wanted,
            limit,
            segments: VecDeque::from([Segment::default()]),
            first: 0,
            by_key: HashTable::new(),
            rows: 0,
            cold: 0,
            bytes: 0,
        }
    }

    /// Takes over rows as a checkpoint has them, behind those that it had before them.
    pub fn restore(&mut self, kept: Kept) {
        if kept.replaces {
            for row in 0..kept.rows.len() {
                if let Some(before) = self.find(kept.rows.keys().get(row)) {
                    self.remove(before);
                }
            }
        }
        self.push(kept.rows, kept.epoch);
    }

    /// Adds the rows of a batch that are of an epoch. Has the oldest segments leave memory if they
    /// take too much of it.
    pub(crate) fn push(&mut self, rows: Batch, epoch: u64) {
        let open = self.segments.back().expect("one is being filled");
        if open.count() > 0 && open.bytes() + rows.bytes() > BATCH_BYTES_MAX {
            self.seal();
        }
        let number = self.first + u32::try_from(self.segments.len() - 1).expect("few segments");
        let segment = self.segments.back_mut().expect("one is being filled");
        let (from, before) = (segment.count(), segment.bytes());
        self.rows += rows.len() as u64;
        segment.push(rows, epoch, &self.wanted);
        let count = segment.count();
        self.bytes += (segment.bytes() - before) as u64;
        if self.wanted.by_key {
            for row in from..count {
                self.enter(Place {
                    segment: number,
                    row,
                });
            }
        }
        let limit = self.limit.as_ref();
        if count >= limit.map_or(SEGMENT_ROWS, |limit| limit.segment_rows) {
            self.seal();
        }
    }

    /// Makes a full segment of the one that rows are added to.
    fn seal(&mut self) {
        let segment = self.segments.back_mut().expect("one is being filled");
        let before = segment.bytes();
        segment.seal(&self.wanted);
        self.bytes = self.bytes + segment.bytes() as u64 - before as u64;
        self.segments.push_back(Segment::default());
        self.leave();
    }

    fn leave(&mut self) {
        let beside = self.bytes() - self.bytes;
        let Some(RowLimit { bytes, folder, .. }) = &mut self.limit else {
            return;
        };
        let full = self.segments.iter_mut().filter(|one| one.is_full());
        for segment in full.filter(|one| !one.is_cold()) {
            if self.bytes + beside <= *bytes {
                break;
            }
            let before = segment.bytes() as u64;
            if !segment.leave(&mut **folder, self.wanted.by_key) {
                // It is tried again with the next segment.
                break;
            }
            self.bytes = self.bytes + segment.bytes() as u64 - before;
            self.cold += segment.held();
        }
    }

    /// Forgets segments of which all rows are at `oldest_ms` or before.
    pub(crate) fn forget_until(&mut self, oldest_ms: i64) {
        while let Some(segment) = self.segments.front()
            && segment.count() > 0
            && segment.latest_ms() <= oldest_ms
        {
            if self.wanted.by_key {
                for row in 0..segment.count() {
                    let place = Place {
                        segment: self.first,
                        row,
                    };
                    let hash = hash(segment.key(row));
                    if let Ok(entry) = self.by_key.find_entry(hash, |known| *known == place) {
                        entry.remove();
                    }
                }
            }
            let Some(segment) = self.segments.pop_front() else {
                return;
            };
            let held = segment.held();
            self.rows -= held;
            self.cold -= if segment.is_cold() { held } else { 0 };
            self.bytes -= segment.bytes() as u64;
            self.first += 1;
            if self.segments.is_empty() {
                self.segments.push_back(Segment::default());
            }
        }
    }

    /// Takes a row out.
    pub(crate) fn remove(&mut self, place: Place) {
        let hash = hash(self.key(place));
        if let Ok(entry) = self.by_key.find_entry(hash, |known| *known == place) {
            entry.remove();
        }
        let segment = &mut self.segments[(place.segment - self.first) as usize];
        segment.remove(place.row);
        self.cold -= u64::from(segment.is_cold());
        self.rows -= 1;
    }

    /// The row of a key.
    pub(crate) fn find(&self, key: u128) -> Option<Place> {
        let found = self.by_key.find(hash(key), |place| self.key(*place) == key);
        found.copied()
    }

    /// The rows behind `oldest_ms` that are joined on one of these keys, in the order of places.
    pub(crate) fn joined_on(&self, keys: &HashSet<u128, MixedKeys>, oldest_ms: i64) -> Vec<Place> {
        let Some(columns) = &self.wanted.by_join_key else {
            return Vec::new();
        };
        let mut uppers: Vec<u32> = keys.iter().map(|key| upper(*key)).collect();
        uppers.sort_unstable();
        uppers.dedup();
        let (mut found, mut scratch, mut reader) = (Vec::new(), Vec::new(), self.reader());
        for (number, segment) in (self.first..).zip(&self.segments) {
            for row in segment.candidates(&uppers) {
                let place = Place {
                    segment: number,
                    row,
                };
                let (batch, index) = reader.row(place);
                let key = batch.key_of(columns, index, &mut scratch);
                let at_ms = match self.wanted.time {
                    Some(time) => time.of(batch, index),
                    None => segment.epoch(row).cast_signed(),
                };
                if key.is_some_and(|key| keys.contains(&key)) && at_ms > oldest_ms {
                    found.push(place);
                }
            }
        }
        found
    }

    /// Reads single rows.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader {
            recent: self,
            block: None,
        }
    }

    /// Rows as batches, in the given order.
    pub(crate) fn rows(&self, places: &[Place]) -> impl Iterator<Item = Batch> {
        let parts = places.chunks(BATCH_ROWS_MAX);
        parts.flat_map(move |places| self.gathered(places))
    }

    fn gathered(&self, places: &[Place]) -> Vec<Batch> {
        let mut gather = Gather::default();
        let mut at: Vec<((u32, usize), usize)> = Vec::new();
        let mut rows: Vec<RowIndex> = Vec::with_capacity(places.len());
        let mut reader = self.reader();
        let batch = |place: &Place| (place.segment, self.segment(*place).index(place.row).0);
        for places in places.chunk_by(|one, next| batch(one) == batch(next)) {
            let segment = self.segment(places[0]);
            let from = batch(&places[0]);
            let indexes = places.iter().map(|place| segment.index(place.row).1);
            if segment.is_cold() {
                // Without the others of the block, which nobody wants.
                let (block, _) = reader.row(places[0]);
                let wanted = picked(block, indexes);
                let index = gather.push(wanted);
                rows.extend((0..places.len()).map(|row| (index, row)));
                continue;
            }
            let known = match at.binary_search_by_key(&from, |(from, _)| *from) {
                Ok(known) => at[known].1,
                Err(next) => {
                    let rows = segment.warm(from.1).expect("it is in memory");
                    let index = gather.push(rows.clone());
                    at.insert(next, (from, index));
                    index
                }
            };
            rows.extend(indexes.map(|row| (known, row)));
        }
        gather.batches_of(&rows).collect()
    }

    /// The epoch of a row, if events have no time.
    pub(crate) fn epoch(&self, place: Place) -> u64 {
        self.segment(place).epoch(place.row)
    }

    /// How many rows are held.
    pub(crate) fn len(&self) -> u64 {
        self.rows
    }

    /// How many of them are on disk.
    pub(crate) fn cold_len(&self) -> u64 {
        self.cold
    }

    /// The bytes of memory that they take, the index by key included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + (self.by_key.capacity() * (size_of::<Place>() + 1)) as u64
    }

    fn segment(&self, place: Place) -> &Segment {
        &self.segments[(place.segment - self.first) as usize]
    }

    fn key(&self, place: Place) -> u128 {
        self.segment(place).key(place.row)
    }

    /// Makes a row the one that is found by its key.
    fn enter(&mut self, place: Place) {
        let (segments, first) = (&self.segments, self.first);
        let key_of = |place: &Place| segments[(place.segment - first) as usize].key(place.row);
        let key = key_of(&place);
        let same = |known: &Place| key_of(known) == key;
        let again = |known: &Place| hash(key_of(known));
        match self.by_key.entry(hash(key), same, again) {
            Entry::Occupied(mut entry) => *entry.get_mut() = place,
            Entry::Vacant(entry) => drop(entry.insert(place)),
        }
    }
}

/// Reads single rows, and keeps the block of disk that was read last.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    recent: &'a RecentRows,
    block: Option<((u32, usize), Batch)>,
}

impl Reader<'_> {
    /// A row, as a row of a batch.
    pub(crate) fn row(&mut self, place: Place) -> (&Batch, usize) {
        let segment = self.recent.segment(place);
        let (batch, row) = segment.index(place.row);
        if let Some(rows) = segment.warm(batch) {
            return (rows, row);
        }
        let at = (place.segment, batch);
        if self.block.as_ref().is_none_or(|(known, _)| *known != at) {
            self.block = Some((at, segment.read(batch)));
        }
        let (_, rows) = self.block.as_ref().expect("it has just been read");
        (rows, row)
    }
}

fn picked(batch: &Batch, rows: impl Iterator<Item = usize>) -> Batch {
    let mut gather = Gather::default();
    gather.push(batch.clone());
    let rows: Vec<RowIndex> = rows.map(|row| (0, row)).collect();
    gather.rows(&rows)
}

/// Keys are mixed; but those of one worker have their first bits in common.
fn hash(key: u128) -> u64 {
    ((key >> 64) as u64).rotate_left(32) ^ key as u64
}
