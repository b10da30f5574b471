//! Gathers rows of some batches, in a given order, into one new batch.
//!
//! This is the one place where rows are copied: to route them, to drop duplicates, to order
//! them. A gathered batch owns its memory, so it never pins the message that rows came in.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, UInt32Array};
use arrow_buffer::{ArrowNativeType, ScalarBuffer};
use arrow_select::interleave::interleave;
use arrow_select::take::take;

use crate::batch::{Batch, Keys};

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

    /// Forgets the batches.
    pub fn clear(&mut self) {
        self.batches.clear();
    }

    /// The given rows as one batch, in the given order.
    ///
    /// # Panics
    /// If a row does not exist, or the batches have different schemas.
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
