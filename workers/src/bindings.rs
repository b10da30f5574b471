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

use crate::batch::Batch;
use crate::queue::Waker;

/// What one epoch is made of.
#[derive(Clone, Debug, Default)]
pub struct Binding {
    /// The epoch.
    pub epoch: u64,
    /// For each partition with records in the epoch, the offset after the last of them, by
    /// partition; the first of them is where the binding before it ended.
    pub ends: Vec<(i32, i64)>,
    /// Changes of the reference table, in order: a row with diff `+1` replaces the row of its
    /// key, one with diff `-1` removes it.
    pub reference: Vec<Batch>,
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
