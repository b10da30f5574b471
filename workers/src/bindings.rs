//! Bindings: which records and which reference changes an epoch is made of, for good.
//!
//! A result may be seen only when the binding of its epoch is durable. After a crash the same
//! bindings are read back, so every epoch is made again of the same records, and what a sink has
//! committed is skipped instead of written twice.
//!
//! # Invariants
//! * Bindings are appended in the order of their epochs. An epoch without records and without
//!   reference changes has none.
//! * "The binding of e is durable" means that all bindings up to e are.

use std::collections::VecDeque;

use crate::batch::Batch;
use crate::queue::Waker;

/// For each of some partitions the offset after the last record of it.
pub type Ends = Vec<(i32, i64)>;

/// Moves the end of a partition on.
pub(crate) fn advance(ends: &mut Ends, partition: i32, end: i64) {
    // Records of a partition stand together, so the last one is mostly the right one.
    match ends.iter_mut().rev().find(|(known, _)| *known == partition) {
        Some((_, known)) => *known = end.max(*known),
        None => ends.push((partition, end)),
    }
}

/// What one epoch is made of.
#[derive(Clone, Debug, Default)]
pub struct Binding {
    /// The epoch.
    pub epoch: u64,
    /// For each partition with records in the epoch, the offset after the last of them, by
    /// partition; the first of them is where the binding before it ended.
    pub ends: Ends,
    /// Changes of the reference table, in order: a row with diff `+1` replaces the row of its
    /// key, one with diff `-1` removes it.
    pub reference: Vec<Batch>,
}

/// What was bound before this start, on worker 0.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// The bindings that are not yet in the state that the workers start from, in order.
    pub bindings: VecDeque<Binding>,
    /// New epochs are greater than this one: no less than any bound or written epoch.
    pub newest: u64,
}

/// Where bindings are kept. Calls come from worker 0's thread and must not block.
pub trait BindingLog: Send {
    /// Takes the next binding.
    fn append(&mut self, binding: Binding);

    /// How many of the bindings taken so far are durable: the first so many.
    fn durable(&self) -> u64;

    /// Sets what must be called whenever `durable` has grown.
    fn wake_by(&mut self, waker: Waker);
}
