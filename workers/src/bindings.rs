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

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::queue::Waker;

/// For each of some partitions the offset after the last record of it.
pub type Ends = Vec<(i32, i64)>;

/// Offsets that a partition did not have any more when they were to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skipped {
    /// The partition.
    pub partition: i32,
    /// The first of them.
    pub from: i64,
    /// The offset after the last of them.
    pub to: i64,
}

impl Skipped {
    /// How many they are; no fewer than the records that are gone.
    pub fn offsets(&self) -> u64 {
        (self.to - self.from).unsigned_abs()
    }
}

/// Moves the end of a partition on.
pub fn advance(ends: &mut Ends, partition: i32, end: i64) {
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
    /// partition; the first of them is where the binding before it ended. What was skipped counts
    /// as records here.
    pub ends: Ends,
    /// Changes of the reference table, in order: a row with diff `+1` replaces the row of its
    /// key, one with diff `-1` removes it.
    pub reference: Vec<Batch>,
    /// What was gone on without, in order: reading went on at its end.
    pub skipped: Vec<Skipped>,
    /// The expiry clock of the epoch, in milliseconds since 1970, if it stands anywhere.
    pub clock_ms: Option<i64>,
}

impl Binding {
    /// Whether nothing is bound: it is there for a checkpoint.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.reference.is_empty() && self.skipped.is_empty()
    }
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
