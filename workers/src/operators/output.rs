//! Rows of one epoch on their way out, some of which take others back.
//!
//! # Invariants
//! * The order is that of where rows stand: key group, partition, offset; there, a retraction comes
//!   before the row that takes its place.
//! * The two are in one batch.

use crate::batch::{Batch, Gather, Origin, RowIndex};
use crate::key::key_group;
use crate::operators::ROWS_MAX;

/// Rows, and where each stands.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pieces: Gather,
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
        let batch = self.pieces.batches().len();
        for (row, origin) in origins.into_iter().enumerate() {
            let group = key_group(rows.keys().high()[row]);
            let stays = rows.diffs()[row] > 0;
            self.rows.push(((group, origin, stays), (batch, row)));
        }
        self.pieces.push(rows);
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
        while from < rows.len() {
            let mut to = (from + ROWS_MAX).min(rows.len());
            let (group, origin, stays) = self.rows[to - 1].0;
            let successor = |(at, _): &(Standing, RowIndex)| *at == (group, origin, true);
            if !stays && self.rows.get(to).is_some_and(successor) {
                to += 1;
            }
            batches.push(self.pieces.rows(&rows[from..to]));
            from = to;
        }
        batches
    }
}
