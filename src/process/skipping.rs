//! Leaves out rows that a sink has committed before: what makes a replay write nothing twice.
//!
//! It is apart from the sinks because what they have committed is told in the same way by all of
//! them: by shard, an epoch.
//!
//! # Invariants
//! * A row of an epoch that its shard has committed is not written again; every other row is.
//! * An epoch that all shards have committed is written as soon as it is closed.

use std::ops::Range;

use deltajoin_workers::batch::{Batch, Gather};
use deltajoin_workers::key::{Ownership, key_group};
use deltajoin_workers::ports::Sink;
use deltajoin_workers::queue::Waker;

/// A sink of one worker that gets only what it does not have.
pub struct Skipping<S> {
    sink: S,
    ownership: Ownership,
    /// The first shard of the worker.
    first: usize,
    /// The last epoch that each of the worker's shards has committed.
    committed: Vec<u64>,
    /// The least of those.
    least: u64,
    /// The greatest of those.
    greatest: u64,
    skipped: u64,
    waker: Option<Waker>,
}

impl<S: Sink> Skipping<S> {
    /// Wraps the sink of the worker that owns `shards`, which have `committed` so far.
    ///
    /// # Panics
    /// If there is not one number for each shard.
    pub fn new(sink: S, ownership: Ownership, shards: Range<usize>, committed: Vec<u64>) -> Self {
        assert_eq!(shards.len(), committed.len(), "every shard has its own");
        Self {
            sink,
            ownership,
            first: shards.start,
            least: committed.iter().copied().min().unwrap_or(0),
            greatest: committed.iter().copied().max().unwrap_or(0),
            committed,
            skipped: 0,
            waker: None,
        }
    }

    /// The rows of shards that have not committed `epoch`.
    fn missing(&self, epoch: u64, rows: Batch) -> Batch {
        let shard = |high: &u64| self.ownership.shard(key_group(*high)) - self.first;
        let missing = |high: &u64| self.committed[shard(high)] < epoch;
        let highs = rows.keys().high().iter().enumerate();
        let kept: Vec<_> = highs
            .filter(|(_, high)| missing(high))
            .map(|(row, _)| (0, row))
            .collect();
        if kept.len() == rows.len() {
            return rows;
        }
        let mut gather = Gather::default();
        gather.push(rows);
        gather.rows(&kept)
    }
}

impl<S: Sink> Sink for Skipping<S> {
    fn write(&mut self, epoch: u64, rows: Batch) {
        if epoch <= self.least {
            return;
        }
        let rows = if epoch <= self.greatest {
            self.missing(epoch, rows)
        } else {
            rows
        };
        if !rows.is_empty() {
            self.sink.write(epoch, rows);
        }
    }

    fn close(&mut self, epoch: u64) {
        if epoch > self.least {
            self.sink.close(epoch);
            return;
        }
        self.skipped = epoch + 1;
        if let Some(waker) = &self.waker {
            waker();
        }
    }

    fn written(&self) -> u64 {
        self.sink.written().max(self.skipped)
    }

    fn wake_by(&mut self, waker: Waker) {
        self.sink.wake_by(Waker::clone(&waker));
        self.waker = Some(waker);
    }

    fn rejected(&mut self) -> Batch {
        self.sink.rejected()
    }

    fn written_dead_letters(&mut self) -> u64 {
        self.sink.written_dead_letters()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use deltajoin_workers::batch::{BatchBuilder, BatchSchema, Origin, Slot};
    use deltajoin_workers::key::mix64;
    use deltajoin_workers::schema::{Column, ColumnType, Schema};

    use super::*;

    /// Keeps the ids that it is given; what is closed is written.
    #[derive(Default)]
    struct Kept {
        ids: Vec<(u64, i64)>,
        written: u64,
    }

    impl Sink for Kept {
        fn write(&mut self, epoch: u64, rows: Batch) {
            assert!(!rows.is_empty(), "nothing is not written");
            self.ids.extend((0..rows.len()).map(|row| {
                let Slot::Int64(id) = rows.slot(0, row) else {
                    panic!("ids are integers")
                };
                (epoch, id)
            }));
        }

        fn close(&mut self, epoch: u64) {
            self.written = epoch + 1;
        }

        fn written(&self) -> u64 {
            self.written
        }

        fn wake_by(&mut self, _waker: Waker) {}
    }

    fn batch(ids: &[i64]) -> Batch {
        let column = Column::new("id", ColumnType::Int64);
        let schema = BatchSchema::register(Schema::new(vec![column], vec![0]));
        let mut builder = BatchBuilder::new(schema);
        for id in ids {
            builder.push(&[Slot::Int64(*id)], Origin::default(), 1);
        }
        builder.finish()
    }

    fn shard(ownership: &Ownership, id: i64) -> usize {
        ownership.shard(key_group(mix64(id.cast_unsigned())))
    }

    #[test]
    fn rows_are_left_out_by_what_their_shard_has_committed() {
        let ownership = Ownership::new(4, 2);
        let own = ownership.shards_of(1);
        assert_eq!(own, 2..4);
        let ids: Vec<_> = (0..100)
            .filter(|id| own.contains(&shard(&ownership, *id)))
            .collect();
        let mut sink = Skipping::new(Kept::default(), ownership.clone(), own, vec![3, 5]);
        for epoch in 1..=7 {
            sink.write(epoch, batch(&ids));
            sink.close(epoch);
            assert_eq!(sink.written(), epoch + 1);
        }
        let expected = (1..=7).flat_map(|epoch| {
            let committed = |id: &i64| if shard(&ownership, *id) == 2 { 3 } else { 5 };
            let ids = ids.iter().filter(move |id| committed(id) < epoch);
            ids.map(move |id| (epoch, *id)).collect::<Vec<_>>()
        });
        assert_eq!(sink.sink.ids, expected.collect::<Vec<_>>());
        assert_eq!(sink.sink.written, 8);
    }

    #[test]
    fn epochs_that_are_committed_count_as_written_at_once() {
        let woken = Arc::new(AtomicU64::new(0));
        let mut sink = Skipping::new(Kept::default(), Ownership::new(2, 1), 0..2, vec![9, 9]);
        let counter = Arc::clone(&woken);
        sink.wake_by(Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        sink.write(9, batch(&[1, 2, 3]));
        assert_eq!(sink.written(), 0);
        sink.close(9);
        assert_eq!((sink.written(), woken.load(Ordering::Relaxed)), (10, 1));
        assert_eq!((sink.sink.ids.len(), sink.sink.written), (0, 0));
    }
}
