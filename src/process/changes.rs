//! The reference table as it is now, told as a difference from the one that holds.
//!
//! After a restart the workers make the table anew from the bindings, and events of bound epochs
//! meet exactly the rows that they met before. What the file or topic holds now may differ: that is
//! a change of the first new epoch. A file that is read again is a change of a later one.
//!
//! # Invariants
//! * A row that is the same costs nothing; a row that is gone is removed.
//! * Of a key that cannot be read now, the bound row stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deltajoin_workers::batch::{Batch, BatchBuilder, BatchSchema, Gather, RowIndex, Slot};
use deltajoin_workers::bindings::Binding;
use deltajoin_workers::ports::ReferenceBlock;
use deltajoin_workers::queue::Sender;

/// The way of changes to worker 0, and what is there already.
pub(super) struct Way {
    pub(super) sender: Sender<ReferenceBlock>,
    /// The table that is bound.
    pub(super) bound: Table,
    /// The epoch up to which it was bound at the latest.
    pub(super) bound_ms: u64,
}

impl Way {
    /// Of a job with these bindings. The rows of `schema` have no version.
    pub(super) fn new<'a>(
        sender: Sender<ReferenceBlock>,
        bindings: impl IntoIterator<Item = &'a Binding>,
        schema: &Arc<BatchSchema>,
    ) -> Self {
        let (mut bound, mut bound_ms) = (Table::default(), 0);
        for binding in bindings {
            for changes in binding
                .reference
                .iter()
                .filter(|changes| !changes.is_empty())
            {
                bound.apply(changes.clone().prefix(schema));
                bound_ms = binding.epoch;
            }
        }
        Self {
            sender,
            bound,
            bound_ms,
        }
    }
}

/// Rows by key: where each of them is.
#[derive(Default)]
pub(super) struct Table {
    rows: BTreeMap<u128, RowIndex>,
    batches: Gather,
}

impl Table {
    /// The rows of these batches.
    pub(super) fn of(batches: Vec<Batch>) -> Self {
        let mut table = Self::default();
        batches.into_iter().for_each(|batch| table.apply(batch));
        table
    }

    /// How many rows it has.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Takes changes: a row with diff `+1` replaces that of its key, one with `-1` removes it.
    pub(super) fn apply(&mut self, changes: Batch) {
        if changes.is_empty() {
            return;
        }
        let index = self.batches.push(changes);
        let changes = &self.batches.batches()[index];
        for row in 0..changes.len() {
            let key = changes.keys().get(row);
            if changes.diffs()[row] > 0 {
                self.rows.insert(key, (index, row));
            } else {
                self.rows.remove(&key);
            }
        }
    }

    /// Takes the changes of one epoch. A row that they leave as it was keeps its version.
    pub(super) fn apply_epoch(&mut self, changes: Vec<Batch>) {
        let mut last: BTreeMap<u128, RowIndex> = BTreeMap::new();
        for changes in changes.into_iter().filter(|changes| !changes.is_empty()) {
            let index = self.batches.push(changes);
            let keys = self.batches.batches()[index].keys();
            let rows = 0..self.batches.batches()[index].len();
            last.extend(rows.map(|row| (keys.get(row), (index, row))));
        }
        for (key, place) in last {
            if self.batches.batches()[place.0].diffs()[place.1] <= 0 {
                self.rows.remove(&key);
            } else if self
                .rows
                .get(&key)
                .is_none_or(|known| self.differ(*known, place))
            {
                self.rows.insert(key, place);
            }
        }
    }

    /// Whether two rows differ in more than their versions.
    fn differ(&self, one: RowIndex, other: RowIndex) -> bool {
        let [(one, row), (other, other_row)] = [one, other];
        let (one, other) = (&self.batches.batches()[one], &self.batches.batches()[other]);
        let columns = one.columns().len() - usize::from(one.schema().versioned);
        (0..columns).any(|column| one.slot(column, row) != other.slot(column, other_row))
    }

    /// All rows, by key.
    pub(super) fn rows(&self) -> Vec<Batch> {
        let rows: Vec<RowIndex> = self.rows.values().copied().collect();
        self.batches.batches_of(&rows).collect()
    }

    fn slots(&self, key: u128) -> Option<Vec<Slot<'_>>> {
        let (batch, row) = *self.rows.get(&key)?;
        let batch = &self.batches.batches()[batch];
        let columns = 0..batch.columns().len();
        Some(columns.map(|column| batch.slot(column, row)).collect())
    }
}

/// What must be done to `bound` so that it becomes `now`: removals first. Of the keys `unread` it
/// keeps the rows that `now` lacks.
pub(super) fn difference(
    bound: &Table,
    (now, unread): (&Table, &BTreeSet<u128>),
    schema: &Arc<BatchSchema>,
) -> Vec<Batch> {
    let there = now.batches.batches();
    if bound.rows.is_empty() && now.len() == there.iter().map(Batch::len).sum::<usize>() {
        // As a job begins: a large table is not copied.
        return there.to_vec();
    }
    let mut changes = Vec::new();
    let mut removed = BatchBuilder::new(Arc::clone(schema));
    for (key, (batch, row)) in &bound.rows {
        if !now.rows.contains_key(key) && !unread.contains(key) {
            let origin = bound.batches.batches()[*batch].origin(*row);
            let mut slots = bound.slots(*key).expect("the row is there");
            for (column, slot) in slots.iter_mut().enumerate() {
                if !schema.schema.key.contains(&column) {
                    *slot = Slot::Null;
                }
            }
            removed.push(&slots, origin, -1);
            if removed.is_full() {
                changes.push(removed.finish());
            }
        }
    }
    if !removed.is_empty() {
        changes.push(removed.finish());
    }
    let changed = now
        .rows
        .iter()
        .filter(|(key, _)| bound.slots(**key) != now.slots(**key));
    let changed: Vec<RowIndex> = changed.map(|(_, row)| *row).collect();
    changes.extend(now.batches.batches_of(&changed));
    changes
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::batch::{BATCH_BYTES_MAX, Origin};
    use deltajoin_workers::schema::{Column, ColumnType, Schema};

    use super::*;
    use crate::codec::{reference_schema, versioned_schema};

    fn schema() -> Arc<BatchSchema> {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String),
        ];
        reference_schema(&Schema::new(columns, vec![0]))
    }

    /// A table whose rows are on these lines, so many in a batch.
    fn table(rows: &[(i64, &str)], count: usize) -> Table {
        let mut builder = BatchBuilder::new(schema());
        let batches = rows.chunks(count).map(|rows| {
            for (line, (id, name)) in (1..).zip(rows) {
                let origin = Origin {
                    partition: 0,
                    offset: line,
                };
                builder.push(&[Slot::Int64(*id), Slot::String((*name).into())], origin, 1);
            }
            builder.finish()
        });
        Table::of(batches.collect())
    }

    fn key_of(table: &Table, id: i64) -> u128 {
        let is = |key: &&u128| {
            table
                .slots(**key)
                .is_some_and(|slots| slots[0] == Slot::Int64(id))
        };
        *table.rows.keys().find(is).expect("the table has it")
    }

    #[test]
    fn all_that_differs_is_told_and_rows_that_stay_are_not() {
        let before = table(&[(1, "a"), (2, "b"), (3, "c"), (4, "d")], 2);
        let now = table(&[(5, "e"), (4, "d"), (3, "C"), (1, "a")], 3);
        let changes = difference(&before, (&now, &BTreeSet::new()), &schema());
        let mut shown = Vec::new();
        for batch in &changes {
            let slots = |row| (batch.diffs()[row], batch.slot(0, row), batch.slot(1, row));
            shown.extend((0..batch.len()).map(slots));
        }
        // Removals first; the others by their mixed keys.
        assert_eq!(shown[0], (-1, Slot::Int64(2), Slot::Null));
        shown[1..].sort_by_key(|(_, id, _)| format!("{id:?}"));
        let name = |name: &'static str| Slot::String(name.into());
        let expected = [
            (1, Slot::Int64(3), name("C")),
            (1, Slot::Int64(5), name("e")),
        ];
        assert_eq!(shown[1..], expected);
        assert!(difference(&now, (&now, &BTreeSet::new()), &schema()).is_empty());
        // A key that cannot be read keeps what it had; one that can has what is there.
        let unread = [2_i64, 3].map(|id| key_of(&before, id));
        let changes = difference(&before, (&now, &unread.into()), &schema());
        let diffs = changes.iter().flat_map(|batch| batch.diffs().to_vec());
        assert_eq!(diffs.collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn what_differs_is_told_in_batches_of_a_bounded_size_and_a_first_content_is_not_copied() {
        let names = ["a", "b"].map(|name| name.repeat(1 << 20));
        let content = |name: &str, count: i64| {
            let rows: Vec<(i64, &str)> = (0..count).map(|id| (id, name)).collect();
            table(&rows, 10)
        };
        let [before, now] = [content(&names[0], 41), content(&names[1], 40)];
        let nothing = BTreeSet::new();
        let first = difference(&Table::default(), (&before, &nothing), &schema());
        let address = |batch: &Batch| batch.keys().high().as_ptr();
        let there = before.batches.batches();
        assert!(first.iter().map(address).eq(there.iter().map(address)));
        let changes = difference(&before, (&now, &nothing), &schema());
        assert!(changes.iter().all(|batch| batch.bytes() <= BATCH_BYTES_MAX));
        assert_eq!(changes.iter().map(Batch::len).sum::<usize>(), 41);
        let rows = before.rows();
        assert!(rows.iter().all(|batch| batch.bytes() <= BATCH_BYTES_MAX));
        // Of two rows of a key the last is the first content.
        let twice = table(&[(1, "a"), (1, "b")], 2);
        let first = difference(&Table::default(), (&twice, &nothing), &schema());
        assert_eq!(first.iter().map(Batch::len).sum::<usize>(), 1);
    }

    #[test]
    fn a_row_that_an_epoch_leaves_as_it_was_keeps_its_version() {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String),
        ];
        let schema = versioned_schema(&Schema::new(columns, vec![0]), Some("since"));
        let changes = |version: i64, rows: &[(i64, Option<&'static str>)]| {
            let mut builder = BatchBuilder::new(Arc::clone(&schema));
            for (id, name) in rows {
                let (name, version, diff) = match name {
                    Some(name) => (Slot::String((*name).into()), Slot::Int64(version), 1),
                    None => (Slot::Null, Slot::Null, -1),
                };
                builder.push(&[Slot::Int64(*id), name, version], Origin::default(), diff);
            }
            builder.finish()
        };
        let mut table = Table::default();
        let first = [
            (1, Some("a")),
            (2, Some("b")),
            (3, Some("c")),
            (4, Some("d")),
        ];
        table.apply_epoch(vec![changes(10, &first)]);
        // Of the second there is another in between, the third goes and comes again later.
        let between = changes(20, &[(2, Some("x")), (3, None), (4, Some("D"))]);
        let last = changes(20, &[(1, Some("a")), (2, Some("b"))]);
        table.apply_epoch(vec![between, last]);
        table.apply_epoch(vec![changes(30, &[(3, Some("c"))])]);
        let mut versions = BTreeMap::new();
        for batch in table.rows() {
            for row in 0..batch.len() {
                let (Slot::Int64(id), Slot::Int64(since)) =
                    (batch.slot(0, row), batch.slot(2, row))
                else {
                    panic!("a row has a key and a version");
                };
                versions.insert(id, since);
            }
        }
        assert_eq!(
            versions.into_iter().collect::<Vec<_>>(),
            [(1, 10), (2, 10), (3, 30), (4, 20)]
        );
    }
}
