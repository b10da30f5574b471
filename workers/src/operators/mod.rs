//! Operators, in the order of the data.

mod ask;
mod bind;
mod distinct;
mod join;
mod joiner;
mod letters;
mod look_up;
mod output;
mod questions;
mod reference;
mod rivals;
mod sink;
mod source;

pub(crate) use ask::{Question, ask};
pub use bind::{Durable, bind};
pub use distinct::{Distinct, SharedAdmitted, SharedKeys};
pub(crate) use distinct::{count_keys, distinct};
pub(crate) use join::join;
pub use join::{Join, Keep, Strategy, Unmatched};
pub(crate) use joiner::{Joiner, unmatched_letters};
pub use letters::{Letters, RowText};
pub(crate) use look_up::look_up;
pub(crate) use output::Output;
pub use reference::{BoundChanges, reference};
pub use sink::sink;
pub use source::{Mint, Sourced, Stamped, Take, Timing, Unwritten, source};

use std::cell::RefCell;
use std::rc::Rc;

use timely::container::NoopBuilder;

use crate::batch::Batch;
use crate::ports::Counts;

/// What a worker counts; its operators and its step loop share it.
pub type SharedCounts = Rc<RefCell<Counts>>;

/// Operators emit whole batches, never single rows.
pub(crate) type Whole = NoopBuilder<Batch>;
