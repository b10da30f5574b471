//! What a sink has been given and what of it is acknowledged.
//!
//! It is apart from the writer because it decides `Sink::written`, on which durability rests, and
//! can be tested without a broker.
//!
//! # Invariants
//! * An epoch is written when it is closed and every row of it, and of all epochs before it, is
//!   acknowledged.
//! * A batch is kept until all its rows are acknowledged, so that a row can be sent again.

use std::collections::VecDeque;

use deltajoin_workers::batch::Batch;

/// Bits of a token that name the row in its batch; the others name the batch.
const ROW_BITS: u32 = 24;
/// The largest batch: the core's batches have far fewer rows.
const ROWS_MAX: usize = 1 << ROW_BITS;
/// Batch numbers come round after this many, far more than can be under way at once.
const NUMBERS: u64 = 1 << (usize::BITS - ROW_BITS);

/// A sink's rows on their way.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Batches with rows that are not acknowledged, and what came after them.
    batches: VecDeque<Entry>,
    /// The number of the first of them; numbers never come round here.
    first: u64,
    /// Closed epochs that are not written, each with the number after that of its last batch.
    closed: VecDeque<(u64, u64)>,
    written: u64,
}

#[derive(Debug)]
struct Entry {
    rows: Batch,
    epoch: u64,
    outstanding: usize,
}

impl Ledger {
    /// Takes a batch of an epoch and returns the token of its first row; the others' follow.
    ///
    /// # Panics
    /// If the batch has more than 16 million rows.
    pub(super) fn push(&mut self, rows: Batch, epoch: u64) -> usize {
        assert!(rows.len() <= ROWS_MAX, "a batch has far fewer rows");
        let number = self.next() % NUMBERS;
        let outstanding = rows.len();
        self.batches.push_back(Entry {
            rows,
            epoch,
            outstanding,
        });
        let token = number << ROW_BITS;
        usize::try_from(token).expect("a token has as many bits as a usize")
    }

    /// Says that `epoch` has no more rows.
    pub(super) fn close(&mut self, epoch: u64) {
        self.closed.push_back((epoch, self.next()));
        self.advance();
    }

    /// Says that a row needs no more care. Returns whether `written` has grown.
    pub(super) fn acknowledge(&mut self, token: usize) -> bool {
        let (index, _) = self.place(token);
        let entry = &mut self.batches[index];
        let outstanding = entry.outstanding.checked_sub(1);
        entry.outstanding = outstanding.expect("a row is acknowledged once");
        entry.outstanding == 0 && index == 0 && self.advance()
    }

    /// The epoch of a token's row.
    pub(super) fn epoch(&self, token: usize) -> u64 {
        let (index, _) = self.place(token);
        self.batches[index].epoch
    }

    /// The row of a token.
    pub(super) fn row(&self, token: usize) -> (&Batch, usize) {
        let (index, row) = self.place(token);
        (&self.batches[index].rows, row)
    }

    /// The first epoch that may still have rows that are not written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether everything that was given is written.
    pub(super) fn idle(&self) -> bool {
        self.batches.is_empty() && self.closed.is_empty()
    }

    /// The number of the next batch.
    fn next(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    fn place(&self, token: usize) -> (usize, usize) {
        let number = (token >> ROW_BITS) as u64;
        let index = number.wrapping_sub(self.first) % NUMBERS;
        let index = usize::try_from(index).expect("batches under way are few");
        (index, token & (ROWS_MAX - 1))
    }

    fn advance(&mut self) -> bool {
        while self
            .batches
            .front()
            .is_some_and(|entry| entry.outstanding == 0)
        {
            self.batches.pop_front();
            self.first += 1;
        }
        let before = self.written;
        while let Some((epoch, end)) = self.closed.front()
            && *end <= self.first
        {
            self.written = epoch + 1;
            self.closed.pop_front();
        }
        self.written != before
    }
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::batch::{BatchBuilder, BatchSchema, Origin, Slot};
    use deltajoin_workers::schema::{Column, ColumnType, Schema};

    use super::*;

    fn batch(rows: i64) -> Batch {
        let column = Column::new("id", ColumnType::Int64);
        let schema = BatchSchema::register(Schema::new(vec![column], vec![0]));
        let mut builder = BatchBuilder::new(schema);
        for id in 0..rows {
            builder.push(&[Slot::Int64(id)], Origin::default(), 1);
        }
        builder.finish()
    }

    #[test]
    fn an_epoch_is_written_when_all_before_it_are() {
        let mut ledger = Ledger::default();
        let first = ledger.push(batch(2), 5);
        ledger.close(10);
        let second = ledger.push(batch(1), 5);
        let third = ledger.push(batch(1), 5);
        ledger.close(11);
        assert!(!ledger.acknowledge(second));
        assert!(!ledger.acknowledge(first + 1));
        assert_eq!(ledger.written(), 0);
        assert!(ledger.acknowledge(first));
        assert_eq!(ledger.written(), 11);
        assert_eq!(ledger.row(third).1, 0);
        assert!(ledger.acknowledge(third));
        assert_eq!(ledger.written(), 12);
        assert!(ledger.idle());
    }

    #[test]
    fn an_open_epoch_is_not_written_though_all_its_rows_are() {
        let mut ledger = Ledger::default();
        let token = ledger.push(batch(1), 5);
        assert!(!ledger.acknowledge(token));
        assert_eq!(ledger.written(), 0);
        ledger.close(5);
        assert_eq!(ledger.written(), 6);
    }

    #[test]
    fn epochs_without_rows_wait_for_those_before_them() {
        let mut ledger = Ledger::default();
        ledger.close(1);
        assert_eq!(ledger.written(), 2);
        let token = ledger.push(batch(1), 5);
        ledger.close(2);
        ledger.close(3);
        assert_eq!(ledger.written(), 2);
        assert!(ledger.acknowledge(token));
        assert_eq!(ledger.written(), 4);
    }

    #[test]
    fn tokens_stay_right_when_batch_numbers_come_round() {
        let mut ledger = Ledger {
            first: NUMBERS - 1,
            ..Ledger::default()
        };
        let tokens: Vec<_> = (0..3).map(|_| ledger.push(batch(3), 5)).collect();
        ledger.close(9);
        for token in tokens.into_iter().rev() {
            for row in 0..3 {
                assert_eq!(ledger.row(token + row).1, row);
                ledger.acknowledge(token + row);
            }
        }
        assert_eq!(ledger.written(), 10);
    }
}
