//! Operators, in the order of the data.

mod bind;
mod distinct;
mod join;
mod reference;
mod sink;
mod source;

pub use bind::{Durable, bind};
pub use distinct::{SharedAdmitted, distinct};
pub(crate) use join::unmatched_letters;
pub use join::{Join, RowText, Unmatched, join};
pub use reference::{BoundChanges, reference};
pub use sink::sink;
pub use source::{Mint, Requested, Sourced, Stamped, Take, Unwritten, source};

use std::cell::RefCell;
use std::rc::Rc;

use timely::container::NoopBuilder;

use crate::batch::Batch;
use crate::ports::Counts;

/// What a worker counts; its operators and its step loop share it.
pub type SharedCounts = Rc<RefCell<Counts>>;

/// Operators emit whole batches, never single rows.
pub(crate) type Whole = NoopBuilder<Batch>;

/// Rows that an operator gathers into one batch at most: enough that a row costs little, few
/// enough that what an epoch emits is not held twice.
pub(crate) const ROWS_MAX: usize = 8192;
