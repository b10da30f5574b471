//! The reference table as of one epoch, or what a worker has of it.
//!
//! Rows stay in the batches in which they came; an index by key says where each live row is. The
//! index holds the same mixed keys as everything else, so a look-up hashes nothing.
//!
//! # Invariants
//! * At most one live row a key: a later row replaces an earlier one, a removal takes it away.
//! * Rows that are no longer live are swept out once they outnumber the live ones, and small
//!   batches are merged once there are many, so memory and gathering follow the live rows. What is
//!   merged stays in batches of a bounded size.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use arrow_array::{Array, ArrayRef, new_null_array};
use arrow_select::interleave::interleave;

use crate::batch::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, Batch, BatchSchema, Gather, RowIndex};

/// Batches that are not full are merged beyond this number: gathering goes over all of them.
const BATCHES_MAX: usize = 32;

/// Passes mixed keys through: they are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MixedKeyHasher(u64);

impl Hasher for MixedKeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only mixed keys are hashed");
    }

    fn write_u128(&mut self, key: u128) {
        // Those of one worker have their first bits in common, by which tables compare.
        self.0 = ((key >> 64) as u64).rotate_left(32) ^ key as u64;
    }
}

/// Hashes mixed keys.
pub(crate) type MixedKeys = BuildHasherDefault<MixedKeyHasher>;

/// The live rows of the reference table.
#[derive(Debug)]
pub struct ReferenceTable {
    live: HashMap<u128, RowIndex, MixedKeys>,
    rows: Gather,
    rows_held: usize,
    /// The first so many batches are full: they are not merged with others.
    full: usize,
    /// The bytes of a row at most.
    row_bytes_max: usize,
    /// Columns that a look-up gives: those that are not the key.
    value_columns: Vec<usize>,
    /// How many of those make a row another one: not its version, which is the last.
    telling: usize,
    /// One null of each value column, for events without a reference row.
    nulls: Vec<ArrayRef>,
}

impl ReferenceTable {
    /// An empty table of rows of `schema`.
    pub fn new(schema: &BatchSchema) -> Self {
        let value_columns: Vec<usize> = (0..schema.schema.columns.len())
            .filter(|column| !schema.schema.key.contains(column))
            .collect();
        let null =
            |column: &usize| new_null_array(&schema.schema.columns[*column].column_type.arrow(), 1);
        Self {
            live: HashMap::default(),
            rows: Gather::default(),
            rows_held: 0,
            full: 0,
            row_bytes_max: 1,
            nulls: value_columns.iter().map(null).collect(),
            telling: value_columns.len() - usize::from(schema.versioned),
            value_columns,
        }
    }

    /// The keys whose rows are others after some changes, made in order: `+1` replaces the row of
    /// its key, `-1` removes it.
    pub(crate) fn differing(&self, changes: &[Batch]) -> HashSet<u128, MixedKeys> {
        let mut last: HashMap<u128, RowIndex, MixedKeys> = HashMap::default();
        for (index, batch) in changes.iter().enumerate() {
            last.extend((0..batch.len()).map(|row| (batch.keys().get(row), (index, row))));
        }
        let differs = |(key, (batch, row)): &(u128, RowIndex)| {
            let (batch, row) = (&changes[*batch], *row);
            match (self.get(*key), batch.diffs()[row] > 0) {
                (None, present) => present,
                (Some(_), false) => true,
                (Some((known, at)), true) => {
                    let known = &self.rows.batches()[known - 1];
                    let mut columns = self.value_columns[..self.telling].iter();
                    columns.any(|column| known.slot(*column, at) != batch.slot(*column, row))
                }
            }
        };
        let differing = last.into_iter().filter(differs);
        differing.map(|(key, _)| key).collect()
    }

    /// Makes changes, in order; those of keys whose rows stay as they were are left out.
    pub fn apply(&mut self, changes: Vec<Batch>) {
        let differing = self.differing(&changes);
        for batch in changes {
            self.apply_batch(batch, &differing);
        }
        if self.rows_held > 2 * self.live.len() + 1024 {
            self.merge(0);
        } else if self.rows.batches().len() > self.full + BATCHES_MAX {
            self.merge(self.full);
        }
    }

    /// Takes changes back that were made last. Rows that were there before them are among them,
    /// with diff -1, and all of those before any row with diff +1 of the same key.
    pub(crate) fn undo(&mut self, changes: &[Batch]) {
        for batch in changes.iter().rev() {
            let diffs: Vec<i8> = batch.diffs().iter().map(|diff| -diff).collect();
            self.apply(vec![batch.clone().with_diffs(diffs.into_iter())]);
        }
    }

    /// Forgets all rows.
    pub(crate) fn clear(&mut self) {
        self.live = HashMap::default();
        self.rows.clear();
        (self.rows_held, self.full, self.row_bytes_max) = (0, 0, 1);
    }

    /// The rows of those keys that have one, as they came.
    pub(crate) fn rows_of(&self, keys: impl IntoIterator<Item = u128>) -> Vec<Batch> {
        let places = keys.into_iter().filter_map(|key| self.get(key));
        let places: Vec<RowIndex> = places.map(|(batch, row)| (batch - 1, row)).collect();
        self.rows.batches_of(&places).collect()
    }

    fn apply_batch(&mut self, changes: Batch, differing: &HashSet<u128, MixedKeys>) {
        let rows = changes.len();
        // Batch 0 is the one of nulls.
        let batch = self.rows.batches().len() + 1;
        let mut taken = false;
        for row in 0..rows {
            let key = changes.keys().get(row);
            if !differing.contains(&key) {
                continue;
            }
            taken = true;
            if changes.diffs()[row] > 0 {
                self.live.insert(key, (batch, row));
            } else {
                self.live.remove(&key);
            }
        }
        if !taken {
            return;
        }
        self.rows_held += rows;
        self.row_bytes_max = self.row_bytes_max.max(changes.row_bytes_max());
        let is_full = rows >= BATCH_ROWS_MAX / 2 || changes.bytes() >= BATCH_BYTES_MAX / 2;
        if is_full && self.full == self.rows.batches().len() {
            self.full += 1;
        }
        self.rows.push(changes);
    }

    /// Copies the live rows of all batches but the first so many into as few as there can be.
    fn merge(&mut self, kept: usize) {
        let places = self.live.values_mut().filter(|place| place.0 > kept);
        let mut live: Vec<(&mut RowIndex, RowIndex)> = places
            .map(|place| {
                let from = (place.0 - 1, place.1);
                (place, from)
            })
            .collect();
        live.sort_unstable_by_key(|(_, from)| *from);
        let rows: Vec<RowIndex> = live.iter().map(|(_, from)| *from).collect();
        let merged: Vec<Batch> = self.rows.batches_of(&rows).collect();
        self.rows.truncate(kept);
        let mut live = live.into_iter();
        for batch in merged {
            let rows = batch.len();
            let index = self.rows.push(batch) + 1;
            for (row, (place, _)) in (0..rows).zip(&mut live) {
                *place = (index, row);
            }
        }
        let batches = self.rows.batches();
        self.rows_held = batches.iter().map(Batch::len).sum();
        // The last one takes what comes next.
        self.full = batches.len().saturating_sub(1).max(kept);
    }

    /// The row of a key, for `columns`; none if the key has no row.
    #[inline]
    pub fn get(&self, key: u128) -> Option<RowIndex> {
        self.live.get(&key).copied()
    }

    /// How many live rows there are.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// For how many rows `columns` can be asked for at once, so that they are not too large: many
    /// events may have one large row.
    pub(crate) fn columns_max(&self) -> usize {
        (BATCH_BYTES_MAX / self.row_bytes_max).max(1)
    }

    /// Whether there is no live row.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// The value columns of the given rows; `None` gives nulls.
    pub fn columns(&self, rows: &[Option<RowIndex>]) -> Vec<ArrayRef> {
        let rows: Vec<RowIndex> = rows.iter().map(|row| row.unwrap_or((0, 0))).collect();
        let gathered = self
            .value_columns
            .iter()
            .zip(&self.nulls)
            .map(|(column, null)| {
                let mut arrays: Vec<&dyn Array> = vec![null];
                arrays.extend(
                    self.rows
                        .batches()
                        .iter()
                        .map(|batch| &batch.columns()[*column] as &dyn Array),
                );
                interleave(&arrays, &rows).expect("the rows exist and have one type")
            });
        gathered.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{BatchBuilder, Origin, Slot};
    use crate::schema::{Column, ColumnType, Schema};

    proptest! {
        #[test]
        fn it_holds_the_last_row_of_each_key(
            batches in prop::collection::vec(
                prop::collection::vec((0i64..20, any::<bool>()), 1..60), 1..80),
        ) {
            let schema = BatchSchema::register(Schema::new(
                vec![
                    Column::new("id", ColumnType::Int64),
                    Column::new("name", ColumnType::String).nullable(),
                ],
                vec![0],
            ));
            let mut table = ReferenceTable::new(&schema);
            let mut model = BTreeMap::new();
            let mut builder = BatchBuilder::new(Arc::clone(&schema));
            for (number, batch) in batches.iter().enumerate() {
                for (row, (id, insert)) in batch.iter().enumerate() {
                    let name = format!("{number}.{row}");
                    let slots = [Slot::Int64(*id), Slot::String(name.clone().into())];
                    builder.push(&slots, Origin::default(), if *insert { 1 } else { -1 });
                    if *insert { model.insert(*id, name); } else { model.remove(id); }
                }
                table.apply(vec![builder.finish()]);
                prop_assert_eq!(table.len(), model.len());
                let keys: Vec<_> = (0..20i64)
                    .map(|id| table.get(u128::from(crate::key::mix64(id.cast_unsigned())) << 64))
                    .collect();
                let columns = table.columns(&keys);
                let names = columns[0].as_string::<i32>();
                for id in 0..20 {
                    let name = names.is_valid(id).then(|| names.value(id));
                    prop_assert_eq!(name, model.get(&(id as i64)).map(String::as_str));
                }
            }
        }
    }

    fn named() -> Arc<BatchSchema> {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String).nullable(),
        ];
        BatchSchema::register(Schema::new(columns, vec![0]))
    }

    fn rows(ids: std::ops::Range<i64>, name: &str) -> Batch {
        let mut builder = BatchBuilder::new(named());
        for id in ids {
            let slots = [Slot::Int64(id), Slot::String(name.into())];
            builder.push(&slots, Origin::default(), 1);
        }
        builder.finish()
    }

    #[test]
    fn large_rows_are_merged_into_batches_of_a_bounded_size() {
        let mut table = ReferenceTable::new(&named());
        let name = "n".repeat(1 << 20);
        for id in 0..40 {
            table.apply(vec![rows(id..id + 1, &name)]);
        }
        let batches = table.rows.batches();
        assert!(batches.len() < 20, "{} batches", batches.len());
        assert!(batches.iter().all(|batch| batch.bytes() <= BATCH_BYTES_MAX));
        let answers = table.rows_of((0..40).map(|id| u128::from(crate::key::mix64(id)) << 64));
        assert!(answers.iter().all(|batch| batch.bytes() <= BATCH_BYTES_MAX));
        assert_eq!(answers.iter().map(Batch::len).sum::<usize>(), 40);
        assert_eq!(table.columns_max(), 15);
    }

    #[test]
    fn full_batches_stay_where_they_are_while_small_changes_are_merged() {
        let mut table = ReferenceTable::new(&named());
        let count = BATCH_ROWS_MAX as i64;
        table.apply(vec![rows(0..count, "a"), rows(count..2 * count, "b")]);
        let address = |table: &ReferenceTable, batch: usize| {
            table.rows.batches()[batch].keys().high().as_ptr()
        };
        let before = [0, 1].map(|batch| address(&table, batch));
        for id in 0..100 {
            table.apply(vec![rows(id..id + 1, "c")]);
        }
        assert_eq!([0, 1].map(|batch| address(&table, batch)), before);
        assert!(table.rows.batches().len() <= 3 + BATCHES_MAX);
        // Once most rows are dead, all are swept.
        table.apply(vec![rows(0..2 * count, "d")]);
        table.apply(vec![rows(0..2 * count, "e")]);
        assert!(table.rows_held <= 2 * table.len() + 1024);
        let key = |id: i64| u128::from(crate::key::mix64(id.cast_unsigned())) << 64;
        for id in [0, 50, 99, 100, count, 2 * count - 1] {
            let columns = table.columns(&[table.get(key(id))]);
            assert_eq!(columns[0].as_string::<i32>().value(0), "e", "{id}");
        }
    }

    #[test]
    fn a_row_that_changes_leave_as_it_was_keeps_its_version() {
        let schema = BatchSchema::register_versioned(Schema::new(
            vec![
                Column::new("id", ColumnType::Int64),
                Column::new("name", ColumnType::String).nullable(),
                Column::new("since", ColumnType::Int64).nullable(),
            ],
            vec![0],
        ));
        let mut table = ReferenceTable::new(&schema);
        let mut builder = BatchBuilder::new(schema);
        for (since, name) in [(10, "a"), (20, "a"), (30, "b"), (40, "b")] {
            let slots = [
                Slot::Int64(1),
                Slot::String(name.into()),
                Slot::Int64(since),
            ];
            builder.push(&slots, Origin::default(), 1);
            table.apply(vec![builder.finish()]);
            let key = u128::from(crate::key::mix64(1)) << 64;
            let columns = table.columns(&[table.get(key)]);
            let version = columns[1].as_primitive::<Int64Type>().value(0);
            assert_eq!(version, if name == "a" { 10 } else { 30 });
        }
    }
}
