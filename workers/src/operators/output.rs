//! Rows of one epoch on their way out, some of which take others back.
//!
//! # Invariants
//! * The order is that of where rows stand: key group, partition, offset; there, a retraction comes
//!   before the row that takes its place.
//! * The two are in one batch.

use crate::batch::{Batch, Gather, Origin, RowIndex};
use crate::key::key_group;

/// Rows, and where each stands.
#[derive(Debug, Default)]
pub(crate) struct Output {
    batches: Gather,
    rows: Vec<(Standing, RowIndex)>,
}

/// The key group, the origin, and whether it is a row that stays.
type Standing = (usize, Origin, bool);

impl Output {
    /// Adds rows that stand where their events do.
    pub(crate) fn push(&mut self, rows: Batch) {
        let origins = (0..rows.len()).map(|row| rows.origin(row)).collect();
        self.push_at(rows, origins);
    }

    /// Adds rows that stand where these events do.
    pub(crate) fn push_at(&mut self, rows: Batch, origins: Vec<Origin>) {
        if rows.is_empty() {
            return;
        }
        let batch = self.batches.batches().len();
        for (row, origin) in origins.into_iter().enumerate() {
            let group = key_group(rows.keys().high()[row]);
            let stays = rows.diffs()[row] > 0;
            self.rows.push(((group, origin, stays), (batch, row)));
        }
        self.batches.push(rows);
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// All rows, in order.
    pub(crate) fn finish(mut self) -> Vec<Batch> {
        self.rows.sort_unstable();
        let rows: Vec<RowIndex> = self.rows.iter().map(|(_, row)| *row).collect();
        let mut batches = Vec::new();
        let mut from = 0;
        while let Some(piece) = self.batches.pieces(&rows[from..]).next() {
            let mut to = from + piece.len();
            let (group, origin, stays) = self.rows[to - 1].0;
            let successor = |(at, _): &(Standing, RowIndex)| *at == (group, origin, true);
            if !stays && self.rows.get(to).is_some_and(successor) {
                to += 1;
            }
            batches.push(self.batches.rows(&rows[from..to]));
            from = to;
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::batch::{BATCH_BYTES_MAX, BatchBuilder, BatchSchema, Slot};
    use crate::schema::{Column, ColumnType, Schema};

    #[test]
    fn large_rows_leave_in_several_batches_and_each_with_the_one_that_it_takes_back() {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String),
        ];
        let schema = BatchSchema::register(Schema::new(columns, vec![0]));
        let name = "n".repeat(5 << 20);
        let mut output = Output::default();
        for diff in [-1, 1] {
            for id in 0..7 {
                let mut builder = BatchBuilder::new(Arc::clone(&schema));
                let slots = [Slot::Int64(id), Slot::String(name.as_str().into())];
                builder.push(&slots, Origin::default(), diff);
                output.push(builder.finish());
            }
        }
        let batches = output.finish();
        assert_eq!(batches.iter().map(Batch::len).sum::<usize>(), 14);
        for batch in batches {
            let row_bytes = batch.bytes() / batch.len();
            assert!(
                batch.bytes() <= BATCH_BYTES_MAX + row_bytes,
                "{}",
                batch.len()
            );
            for (row, diff) in batch.diffs().iter().enumerate() {
                assert_eq!(*diff, if row % 2 == 0 { -1 } else { 1 });
                assert_eq!(batch.keys().get(row), batch.keys().get(row - row % 2));
            }
        }
    }
}
