//! Gathers rows of some batches, in a given order, into one new batch.
//!
//! This is the one place where rows are copied: to route them, to drop duplicates, to order
//! them. A gathered batch owns its memory, so it never pins the message that rows came in.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, UInt32Array};
use arrow_buffer::{ArrowNativeType, ScalarBuffer};
use arrow_select::interleave::interleave;
use arrow_select::take::take;

use crate::batch::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, Batch, Keys, Sizes};

/// A row: the batch that it is in, and its place there.
pub type RowIndex = (usize, usize);

/// Batches of one schema whose rows can be gathered.
#[derive(Debug, Default)]
pub struct Gather {
    batches: Vec<Batch>,
}

impl Gather {
    /// Adds a batch and returns its index.
    pub fn push(&mut self, batch: Batch) -> usize {
        self.batches.push(batch);
        self.batches.len() - 1
    }

    /// The batches, in the order in which they were pushed.
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// Forgets the batches behind the first so many.
    pub fn truncate(&mut self, batches: usize) {
        self.batches.truncate(batches);
    }

    /// Forgets the batches.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Some rows as batches, in the given order, none of them too large: so all can be asked for,
    /// however many and large they are.
    pub fn batches_of(&self, rows: &[RowIndex]) -> impl Iterator<Item = Batch> {
        self.pieces(rows).map(move |piece| self.rows(piece))
    }

    /// Some rows in pieces, each of which makes a batch that is not too large.
    pub fn pieces<'a>(&self, mut rows: &'a [RowIndex]) -> impl Iterator<Item = &'a [RowIndex]> {
        let sizes: Vec<Sizes<'_>> = self.batches.iter().map(Sizes::of).collect();
        std::iter::from_fn(move || {
            let mut bytes = 0;
            let fits = |(batch, row): &&RowIndex| {
                bytes += sizes[*batch].bytes(*row);
                bytes <= BATCH_BYTES_MAX
            };
            let fitting = rows.iter().take(BATCH_ROWS_MAX).take_while(fits).count();
            // A row that is larger than the limit is a piece of its own.
            let piece = rows.split_off(..fitting.max(1).min(rows.len()))?;
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// The given rows as one batch, in the given order: few, or those of a `piece`, or of one batch
    /// and each once.
    ///
    /// # Panics
    /// If a row does not exist, the batches have different schemas, or a column would have 2 GiB of
    /// text.
    pub fn rows(&self, rows: &[RowIndex]) -> Batch {
        let Some(first) = self.batches.first() else {
            return Batch::default();
        };
        if rows.is_empty() {
            return Batch::default();
        }
        let schema = first.schema();
        assert!(
            self.batches
                .iter()
                .all(|batch| batch.schema().id == schema.id),
            "only batches of one schema are gathered together"
        );
        let columns = match &self.batches[..] {
            [only] => take_columns(only, rows),
            several => interleave_columns(several, rows),
        };
        Batch {
            schema: Some(Arc::clone(schema)),
            keys: self.keys(rows),
            partitions: self.scalars(rows, |batch| &batch.partitions),
            offsets: self.scalars(rows, |batch| &batch.offsets),
            diffs: self.scalars(rows, |batch| &batch.diffs),
            columns,
        }
    }

    fn keys(&self, rows: &[RowIndex]) -> Keys {
        let high = self.scalars(rows, |batch| match &batch.keys {
            Keys::Narrow(keys) | Keys::Wide(keys, _) => keys,
        });
        if self
            .batches
            .iter()
            .all(|batch| matches!(batch.keys, Keys::Narrow(_)))
        {
            return Keys::Narrow(high);
        }
        let low = self.scalars(rows, |batch| match &batch.keys {
            Keys::Wide(_, low) => low,
            Keys::Narrow(_) => panic!("batches of one schema have keys of one width"),
        });
        Keys::Wide(high, low)
    }

    fn scalars<T: ArrowNativeType>(
        &self,
        rows: &[RowIndex],
        of: impl Fn(&Batch) -> &ScalarBuffer<T>,
    ) -> ScalarBuffer<T> {
        let slices: Vec<&[T]> = self.batches.iter().map(|batch| &of(batch)[..]).collect();
        let gathered: Vec<T> = match slices[..] {
            [only] => rows.iter().map(|(_, row)| only[*row]).collect(),
            _ => rows
                .iter()
                .map(|(batch, row)| slices[*batch][*row])
                .collect(),
        };
        ScalarBuffer::from(gathered)
    }
}

fn take_columns(batch: &Batch, rows: &[RowIndex]) -> Vec<ArrayRef> {
    let indices = UInt32Array::from_iter_values(
        rows.iter()
            .map(|(_, row)| u32::try_from(*row).expect("a batch has far fewer rows")),
    );
    let taken = batch
        .columns
        .iter()
        .map(|column| take(column, &indices, None));
    taken
        .map(|column| column.expect("the rows exist"))
        .collect()
}

fn interleave_columns(batches: &[Batch], rows: &[RowIndex]) -> Vec<ArrayRef> {
    let interleaved = (0..batches[0].columns.len()).map(|index| {
        let arrays: Vec<&dyn Array> = batches
            .iter()
            .map(|batch| &*batch.columns[index] as &dyn Array)
            .collect();
        interleave(&arrays, rows).expect("the rows exist and have one type")
    });
    interleaved.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, BatchSchema, Origin, Slot};
    use crate::schema::{Column, ColumnType, Schema};

    #[test]
    fn pieces_are_bounded_by_rows_and_by_bytes_and_a_row_that_is_larger_is_alone() {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String),
        ];
        let schema = BatchSchema::register(Schema::new(columns, vec![0]));
        let mut gather = Gather::default();
        let mut builder = BatchBuilder::new(schema);
        let mut rows = Vec::new();
        let larger = BATCH_BYTES_MAX + 1;
        let sizes = [larger, 1, 9 << 20, 6 << 20, 9 << 20, larger, larger];
        let few = std::iter::repeat_n(10, BATCH_ROWS_MAX + 10);
        for (id, size) in sizes.into_iter().chain(few).enumerate() {
            let name = "n".repeat(size);
            let slots = [Slot::Int64(id as i64), Slot::String(name.into())];
            builder.push(&slots, Origin::default(), 1);
            rows.push((gather.batches().len(), builder.len() - 1));
            if id % 3 == 0 || id + 1 == sizes.len() + BATCH_ROWS_MAX + 10 {
                gather.push(builder.finish());
            }
        }
        let pieces: Vec<&[RowIndex]> = gather.pieces(&rows).collect();
        let lengths: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
        assert_eq!(lengths, [1, 3, 1, 1, 1, BATCH_ROWS_MAX, 10]);
        assert_eq!(pieces.concat(), rows);
        let batches = gather.batches_of(&rows);
        assert!(batches.map(|batch| batch.len()).eq(lengths));
        assert_eq!(gather.pieces(&[]).count(), 0);
    }
}
