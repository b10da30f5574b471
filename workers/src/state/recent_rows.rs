//! The rows that may still be revised: those whose time is not further behind the clock than a
//! window, found by their key and by the key on which they are joined.
//!
//! Rows stay in the batches in which they came, until there are enough of them for a segment: one
//! batch, with an index by join key if that is wanted. A segment is dropped whole, so forgetting
//! costs next to nothing; which rows are in the window is told exactly, by their time.
//!
//! # Invariants
//! * A row has the same place for as long as it is held.
//! * Of the rows of one key, the one that was added last is found.
//! * A segment is held as long as one of its rows is in the window.

use std::collections::{HashSet, VecDeque};

use arrow_buffer::BooleanBufferBuilder;
use hashbrown::HashTable;

use crate::batch::{Batch, Gather, RowIndex};
use crate::clock::EventTime;
use crate::state::reference::MixedKeys;

/// Rows of a segment: few enough that one is made in a few milliseconds, and enough that there are
/// few to be asked.
const SEGMENT_ROWS: usize = 32_768;

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

/// Rows that came one after the other.
#[derive(Debug)]
struct Segment {
    /// Their batches; one when the segment is full.
    batches: Gather,
    /// The first row of each batch.
    starts: Vec<u32>,
    rows: u32,
    /// Epochs of the rows, if those are their times.
    epochs: Vec<u64>,
    /// The greatest time of a row.
    latest_ms: i64,
    /// Rows that were taken out.
    removed: BooleanBufferBuilder,
    /// The upper bits of each row's join key, and the row, in order; only of a full one.
    by_join_key: Vec<(u32, u32)>,
    bytes: usize,
}

impl Default for Segment {
    fn default() -> Self {
        Self {
            batches: Gather::default(),
            starts: Vec::new(),
            rows: 0,
            epochs: Vec::new(),
            latest_ms: i64::MIN,
            removed: BooleanBufferBuilder::new(0),
            by_join_key: Vec::new(),
            bytes: 0,
        }
    }
}

impl Segment {
    /// The batch of a row, and its place there.
    fn index(&self, row: u32) -> RowIndex {
        let batch = self.starts.partition_point(|start| *start <= row) - 1;
        (batch, (row - self.starts[batch]) as usize)
    }

    fn batch(&self, row: u32) -> (&Batch, usize) {
        let (batch, row) = self.index(row);
        (&self.batches.batches()[batch], row)
    }

    fn is_removed(&self, row: u32) -> bool {
        self.removed.get_bit(row as usize)
    }

    /// Rows that were not taken out.
    fn held(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.rows).filter(|row| !self.is_removed(*row))
    }
}

/// The rows that may still be revised.
#[derive(Debug)]
pub(crate) struct RecentRows {
    wanted: Wanted,
    /// Full ones, the oldest first, then the one that rows are added to.
    segments: VecDeque<Segment>,
    /// The number of the first of them.
    first: u32,
    by_key: HashTable<Place>,
    rows: u64,
    bytes: u64,
}

impl RecentRows {
    /// No rows yet.
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            segments: VecDeque::from([Segment::default()]),
            first: 0,
            by_key: HashTable::new(),
            rows: 0,
            bytes: 0,
        }
    }

    /// Adds the rows of a batch that are of an epoch, and returns the place of the first; those of
    /// the others follow. Call `seal` when places of new rows are not asked for any more.
    pub(crate) fn push(&mut self, rows: Batch, epoch: u64) -> Place {
        let wanted = &self.wanted;
        let number = self.first + u32::try_from(self.segments.len() - 1).expect("few segments");
        let segment = self.segments.back_mut().expect("one is being filled");
        let first = segment.rows;
        let count = rows.len();
        match wanted.time {
            Some(time) => {
                let latest = time.values(&rows).iter().max();
                let latest_ms = latest.map_or(i64::MIN, |latest| time.unit.to_ms(*latest));
                segment.latest_ms = segment.latest_ms.max(latest_ms);
            }
            None => {
                segment.epochs.extend(std::iter::repeat_n(epoch, count));
                segment.latest_ms = segment.latest_ms.max(epoch.cast_signed());
            }
        }
        let bytes = rows.bytes();
        segment.bytes += bytes;
        segment.removed.append_n(count, false);
        segment.starts.push(first);
        segment.rows += u32::try_from(count).expect("a batch has far fewer rows");
        segment.batches.push(rows);
        self.rows += count as u64;
        self.bytes += bytes as u64;
        let place = |row| Place {
            segment: number,
            row,
        };
        if self.wanted.by_key {
            let last = self
                .segments
                .back()
                .expect("it has just been added to")
                .rows;
            (first..last).for_each(|row| self.enter(place(row)));
        }
        place(first)
    }

    /// Makes a full segment of what was added, if there is enough of it.
    pub(crate) fn seal(&mut self) {
        let segment = self.segments.back_mut().expect("one is being filled");
        if (segment.rows as usize) < SEGMENT_ROWS {
            return;
        }
        let indexes: Vec<RowIndex> = (0..segment.rows).map(|row| segment.index(row)).collect();
        let rows = segment.batches.rows(&indexes);
        let before = segment.bytes;
        segment.bytes = rows.bytes();
        if let Some(columns) = &self.wanted.by_join_key {
            let mut scratch = Vec::new();
            let keys = (0..rows.len()).filter_map(|row| {
                let key = rows.key_of(columns, row, &mut scratch)?;
                Some((upper(key), row as u32))
            });
            segment.by_join_key = keys.collect();
            segment.by_join_key.sort_unstable();
            segment.by_join_key.shrink_to_fit();
            segment.bytes += segment.by_join_key.len() * size_of::<(u32, u32)>();
        }
        segment.batches.clear();
        segment.batches.push(rows);
        segment.starts = vec![0];
        self.bytes = self.bytes + segment.bytes as u64 - before as u64;
        self.segments.push_back(Segment::default());
    }

    /// Forgets segments of which all rows are at `oldest_ms` or before.
    pub(crate) fn forget_until(&mut self, oldest_ms: i64) {
        while let Some(segment) = self.segments.front()
            && segment.rows > 0
            && segment.latest_ms <= oldest_ms
        {
            if self.wanted.by_key {
                for row in 0..segment.rows {
                    let place = Place {
                        segment: self.first,
                        row,
                    };
                    let hash = hash(self.key(place));
                    if let Ok(entry) = self.by_key.find_entry(hash, |known| *known == place) {
                        entry.remove();
                    }
                }
            }
            let Some(segment) = self.segments.pop_front() else {
                return;
            };
            self.rows -= segment.held().count() as u64;
            self.bytes -= segment.bytes as u64;
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
        segment.removed.set_bit(place.row as usize, true);
        self.rows -= 1;
    }

    /// The row of a key.
    pub(crate) fn find(&self, key: u128) -> Option<Place> {
        let found = self.by_key.find(hash(key), |place| self.key(*place) == key);
        found.copied()
    }

    /// The rows that are joined on one of these keys, in no order.
    pub(crate) fn joined_on(&self, keys: &HashSet<u128, MixedKeys>) -> Vec<Place> {
        let Some(columns) = &self.wanted.by_join_key else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let mut scratch = Vec::new();
        for (number, segment) in (self.first..).zip(&self.segments) {
            let mut check = |row: u32| {
                let (batch, index) = segment.batch(row);
                let key = batch.key_of(columns, index, &mut scratch);
                if key.is_some_and(|key| keys.contains(&key)) && !segment.is_removed(row) {
                    found.push(Place {
                        segment: number,
                        row,
                    });
                }
            };
            if segment.rows as usize >= SEGMENT_ROWS {
                let index = &segment.by_join_key;
                let mut uppers: Vec<u32> = keys.iter().map(|key| upper(*key)).collect();
                uppers.sort_unstable();
                uppers.dedup();
                for upper in uppers {
                    let from = index.partition_point(|(known, _)| *known < upper);
                    let rows = index[from..]
                        .iter()
                        .take_while(|(known, _)| *known == upper);
                    rows.for_each(|(_, row)| check(*row));
                }
            } else {
                (0..segment.rows).for_each(check);
            }
        }
        found
    }

    /// A row, as a row of a batch.
    pub(crate) fn row(&self, place: Place) -> (&Batch, usize) {
        self.segments[(place.segment - self.first) as usize].batch(place.row)
    }

    /// Rows as one batch, in the given order.
    pub(crate) fn rows(&self, places: &[Place]) -> Batch {
        let mut gather = Gather::default();
        let mut at: Vec<((u32, usize), usize)> = Vec::new();
        let rows: Vec<RowIndex> = places
            .iter()
            .map(|place| {
                let segment = &self.segments[(place.segment - self.first) as usize];
                let (batch, row) = segment.index(place.row);
                let from = (place.segment, batch);
                let known = match at.binary_search_by_key(&from, |(from, _)| *from) {
                    Ok(known) => at[known].1,
                    Err(next) => {
                        let index = gather.push(segment.batches.batches()[batch].clone());
                        at.insert(next, (from, index));
                        index
                    }
                };
                (known, row)
            })
            .collect();
        gather.rows(&rows)
    }

    /// The time of a row.
    pub(crate) fn at_ms(&self, place: Place) -> i64 {
        let segment = &self.segments[(place.segment - self.first) as usize];
        match self.wanted.time {
            Some(time) => {
                let (batch, row) = segment.batch(place.row);
                time.of(batch, row)
            }
            None => segment.epochs[place.row as usize].cast_signed(),
        }
    }

    /// How many rows are held.
    pub(crate) fn len(&self) -> u64 {
        self.rows
    }

    /// The bytes of memory that they take, the index by key included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + (self.by_key.capacity() * (size_of::<Place>() + 1)) as u64
    }

    fn key(&self, place: Place) -> u128 {
        let (batch, row) = self.row(place);
        batch.keys().get(row)
    }

    /// Makes a row the one that is found by its key.
    fn enter(&mut self, place: Place) {
        let key = self.key(place);
        let (segments, first) = (&self.segments, self.first);
        let key_of = |place: &Place| {
            let segment = &segments[(place.segment - first) as usize];
            let (batch, row) = segment.batch(place.row);
            batch.keys().get(row)
        };
        let same = |known: &Place| key_of(known) == key;
        match self
            .by_key
            .entry(hash(key), same, |known| hash(key_of(known)))
        {
            hashbrown::hash_table::Entry::Occupied(mut entry) => *entry.get_mut() = place,
            hashbrown::hash_table::Entry::Vacant(entry) => {
                entry.insert(place);
            }
        }
    }
}

/// Keys are mixed; but those of one worker have their first bits in common.
fn hash(key: u128) -> u64 {
    ((key >> 64) as u64).rotate_left(32) ^ key as u64
}

/// The bits of a join key by which an index is in order.
fn upper(key: u128) -> u32 {
    (key >> 96) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::batch::{BatchBuilder, BatchSchema, Origin, Slot};
    use crate::clock::TimeUnit;
    use crate::key::mix64;
    use crate::schema::{Column, ColumnType, Schema};

    fn schema() -> Arc<BatchSchema> {
        let columns = ["id", "place", "at"].map(|name| Column::new(name, ColumnType::Int64));
        BatchSchema::register(Schema::new(columns.to_vec(), vec![0]))
    }

    fn batch(rows: &[(i64, i64, i64)]) -> Batch {
        let mut builder = BatchBuilder::new(schema());
        for (id, place, at) in rows {
            let slots = [*id, *place, *at].map(Slot::Int64);
            builder.push(&slots, Origin::default(), 1);
        }
        builder.finish()
    }

    fn key(id: i64) -> u128 {
        u128::from(mix64(id.cast_unsigned())) << 64
    }

    fn by_time(by_time: bool) -> Wanted {
        let time = EventTime {
            column: 2,
            unit: TimeUnit::Seconds,
        };
        Wanted {
            by_key: true,
            by_join_key: Some(vec![1]),
            time: by_time.then_some(time),
        }
    }

    fn told(recent: &RecentRows, place: Place) -> (i64, i64) {
        let (batch, row) = recent.row(place);
        let of = |column| match batch.slot(column, row) {
            Slot::Int64(value) => value,
            other => panic!("{other:?}"),
        };
        (of(0), of(1))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_holds_the_last_row_of_each_key_and_finds_all_by_join_key(
            batches in prop::collection::vec(
                prop::collection::vec((0i64..40, 0i64..6), 1..30), 1..30),
            times in any::<bool>(),
            large in any::<bool>(),
        ) {
            let mut recent = RecentRows::new(by_time(times));
            // By id, join key and number of its batch.
            let mut model: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
            for (number, rows) in (1i64..).zip(&batches) {
                let mut unique: BTreeMap<i64, i64> = BTreeMap::new();
                unique.extend(rows.iter().copied());
                let mut new: Vec<(i64, i64, i64)> = unique.into_iter()
                    .map(|(id, place)| (id, place, number))
                    .collect();
                for (id, place, _) in &new {
                    if let Some(before) = recent.find(key(*id)) {
                        recent.remove(before);
                    }
                    model.insert(*id, (*place, number));
                }
                if large && number % 5 == 0 {
                    // Enough for a segment, of keys and places that are not asked for.
                    let ids = (0..SEGMENT_ROWS as i64).map(|n| 1000 + number * 100_000 + n);
                    new.extend(ids.map(|id| (id, 100, number)));
                }
                recent.push(batch(&new), number.cast_unsigned());
                recent.seal();
                // A window of ten batches, in seconds or in epochs.
                let oldest = number - 10;
                recent.forget_until(if times { oldest * 1000 } else { oldest });
                let held = |place: Place| {
                    let at = recent.at_ms(place);
                    at > if times { oldest * 1000 } else { oldest }
                };
                for id in 0..40 {
                    let found = recent.find(key(id)).filter(|place| held(*place));
                    let known = model.get(&id).filter(|(_, at)| *at > oldest);
                    let found = found.map(|place| told(&recent, place).1);
                    prop_assert_eq!(found, known.map(|(place, _)| *place));
                }
                let asked: HashSet<u128, MixedKeys> = [key(1), key(4)].into_iter().collect();
                let mut found = recent.joined_on(&asked);
                found.retain(|place| held(*place));
                let gathered = recent.rows(&found);
                prop_assert_eq!(gathered.len(), found.len());
                let mut found: Vec<_> = found.iter().map(|place| told(&recent, *place)).collect();
                found.sort_unstable();
                let expected = model.iter()
                    .filter(|(_, (place, at))| [1, 4].contains(place) && *at > oldest);
                let expected: Vec<_> = expected.map(|(id, (place, _))| (*id, *place)).collect();
                prop_assert_eq!(found, expected);
            }
            recent.forget_until(i64::MAX);
            prop_assert_eq!((recent.len(), recent.bytes), (0, 0));
            prop_assert!(recent.by_key.is_empty());
        }
    }
}
