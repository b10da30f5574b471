//! Routes batches between workers: to the owners of their keys, to everyone, to who has asked, or
//! to one worker.
//!
//! Batches of one epoch are gathered until timely flushes the epoch or enough rows are at hand,
//! so small epochs cost one message a worker. If all rows of a batch have one owner, as is always
//! so on a single worker, the batch passes as it is.

use timely::communication::Push;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::progress::Stamp;

use crate::batch::{Batch, Gather, RowIndex};
use crate::key::{self, Ownership};

/// Rows that are gathered at most before messages go out: enough that a row costs little, few
/// enough that a message stays well below timely's slabs of 1 MiB.
const ROWS_MAX: usize = 4096;
/// Bytes that are gathered at most, for rows that are large.
const BYTES_MAX: usize = 1 << 20;

/// Sends each row to the worker that owns its key group.
#[derive(Debug)]
pub struct ByOwner {
    ownership: Ownership,
    pending: Gather,
    pending_bytes: usize,
    rows: Vec<Vec<RowIndex>>,
}

impl ByOwner {
    /// A distributor for one channel.
    pub fn new(ownership: Ownership, peers: usize) -> Self {
        Self {
            ownership,
            pending: Gather::default(),
            pending_bytes: 0,
            rows: vec![Vec::new(); peers],
        }
    }

    fn emit<T: Clone, P: Push<Message<T, Batch>>>(&mut self, stamp: &Stamp<T>, pushers: &mut [P]) {
        for (rows, pusher) in self.rows.iter_mut().zip(pushers) {
            if rows.is_empty() {
                continue;
            }
            let mut batch = match self.pending.batches() {
                [only] if only.len() == rows.len() => only.clone(),
                _ => self.pending.rows(rows),
            };
            rows.clear();
            Message::push_at(&mut batch, stamp.clone(), pusher);
        }
        self.pending.clear();
        self.pending_bytes = 0;
    }
}

impl Distributor<Batch> for ByOwner {
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(
        &mut self,
        container: &mut Batch,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        if let [only] = pushers {
            Message::push_at(&mut std::mem::take(container), stamp.clone(), only);
            return;
        }
        let batch = std::mem::take(container);
        self.pending_bytes += batch.bytes();
        let index = self.pending.batches().len();
        for (row, high) in batch.keys().high().iter().enumerate() {
            let worker = self.ownership.worker(key::key_group(*high));
            self.rows[worker].push((index, row));
        }
        self.pending.push(batch);
        let rows: usize = self.rows.iter().map(Vec::len).sum();
        if rows >= ROWS_MAX || self.pending_bytes >= BYTES_MAX {
            self.emit(stamp, pushers);
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, stamp: &Stamp<T>, pushers: &mut [P]) {
        self.emit(stamp, pushers);
    }
}

/// Sends the first batch to worker 0, the next to worker 1, and so on around.
///
/// This is how a batch is broadcast: the operator before it emits one copy for each worker. A
/// distributor itself must keep the count of records, so it cannot make the copies.
#[derive(Debug, Default)]
pub struct ToEach {
    next: usize,
}

impl Distributor<Batch> for ToEach {
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(
        &mut self,
        container: &mut Batch,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        Message::push_at(
            &mut std::mem::take(container),
            stamp.clone(),
            &mut pushers[self.next],
        );
        self.next = (self.next + 1) % pushers.len();
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _: &Stamp<T>, _: &mut [P]) {}
}

/// Sends every batch to the worker that its rows name as their partition.
#[derive(Clone, Copy, Debug)]
pub struct ToAsker;

impl Distributor<Batch> for ToAsker {
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(
        &mut self,
        container: &mut Batch,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let worker = container.partitions()[0].unsigned_abs() as usize;
        Message::push_at(
            &mut std::mem::take(container),
            stamp.clone(),
            &mut pushers[worker],
        );
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _: &Stamp<T>, _: &mut [P]) {}
}

/// Sends every batch to one worker.
#[derive(Clone, Copy, Debug)]
pub struct ToWorker(
    /// The worker's index.
    pub usize,
);

impl Distributor<Batch> for ToWorker {
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(
        &mut self,
        container: &mut Batch,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        Message::push_at(
            &mut std::mem::take(container),
            stamp.clone(),
            &mut pushers[self.0],
        );
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _: &Stamp<T>, _: &mut [P]) {}
}
