//! Stamps changes of the reference table with an epoch and copies them to every worker.
//!
//! # Semantics
//! The reference table is read by worker 0 alone, which is also where mints are made. On `Mint(e)`
//! the changes that wait are stamped with `e`, so all workers see the same table at the same epoch.
//!
//! # Routing
//! Each batch is emitted once for every worker (`ToEach`): the table is small, and a copy on every
//! worker keeps the events where they are, however hot one location is.
//!
//! # Capabilities
//! Only the one that comes with a mint, while the operator runs.
//!
//! # State
//! None; whether the initial content is complete is told to the one who mints, who lets no event
//! go before.
//!
//! # Recovery
//! The table is read whole at every start.

use std::cell::Cell;
use std::rc::Rc;

use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{Stream, StreamVec};

use crate::batch::Batch;
use crate::operators::{Mint, Whole};
use crate::ports::ReferenceBlock;
use crate::queue::Receiver;

/// The changes of the reference table, on all workers; `queue` is there on worker 0 alone.
///
/// `complete` is set once the initial content has been emitted.
pub fn reference<'scope>(
    mints: StreamVec<'scope, u64, Mint>,
    queue: Option<Rc<Receiver<ReferenceBlock>>>,
    complete: Rc<Cell<bool>>,
) -> Stream<'scope, u64, Batch> {
    let peers = mints.scope().peers();
    mints.unary::<Whole, _, _, _>(Pipeline, "Reference", move |_, _| {
        move |mints, output| {
            mints.for_each(|capability, _| {
                let Some(queue) = &queue else { return };
                let mut session = output.session_with_builder(&capability);
                while let Some((block, bytes)) = queue.pop() {
                    // The rows stay in memory for good, so they are not in flight any more.
                    queue.release(bytes);
                    if !block.updates.is_empty() {
                        for _ in 0..peers {
                            session.give_container(&mut block.updates.clone());
                        }
                    }
                    complete.set(complete.get() || block.complete);
                }
            });
        }
    })
}
