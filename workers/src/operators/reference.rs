//! Stamps changes of the reference table with an epoch.
//!
//! # Semantics
//! The reference table is read by worker 0 alone, which is also where mints are made. On a live
//! mint of `e` the changes that wait are stamped with `e`, so all workers see the same table at the
//! same epoch. A block is never divided: its changes are of one epoch. A bound epoch takes the
//! changes of its binding and leaves those that wait.
//!
//! # Routing
//! Broadcast, each batch is emitted once for every worker (`ToEach`): a table that is small is best
//! everywhere. Partitioned, it is emitted once, and goes to the owners of its keys. The changes of
//! live epochs are emitted once more, to be bound.
//!
//! # Capabilities
//! Only the one that comes with a mint, while the operator runs.
//!
//! # State
//! None; whether the initial content is complete is told to the one who mints, who lets no event
//! go before.
//!
//! # Recovery
//! The changes of bound epochs come from their bindings. After them the table is read whole, and
//! the shell hands over only what differs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use arrow_array::Int64Array;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::batch::{Batch, BatchSchema};
use crate::operators::source::Take;
use crate::operators::{Mint, Whole};
use crate::ports::ReferenceBlock;
use crate::queue::Receiver;

/// The changes of bound epochs, each taken by the mint of its epoch.
pub type BoundChanges = Rc<RefCell<VecDeque<Vec<Batch>>>>;

/// The changes of the reference table, so many copies of each, and those of live epochs; all on
/// worker 0, where the `queue` is. They have `schema`; those in the queue lack its version.
///
/// `complete` is set once the initial content has been emitted.
pub fn reference<'scope>(
    mints: StreamVec<'scope, u64, Mint>,
    queue: Option<Rc<Receiver<ReferenceBlock>>>,
    bound: BoundChanges,
    complete: Rc<Cell<bool>>,
    (schema, copies_of_each): (Arc<BatchSchema>, usize),
) -> (Stream<'scope, u64, Batch>, Stream<'scope, u64, Batch>) {
    let mut builder = OperatorBuilder::new("Reference".to_owned(), mints.scope());
    let mut mints = builder.new_input(mints, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Never);
    let (copies_output, copies) = builder.new_output::<Batch>();
    let (changes_output, changes) = builder.new_output::<Batch>();
    let mut copies_output = OutputBuilder::<u64, Whole>::from(copies_output);
    let mut changes_output = OutputBuilder::<u64, Whole>::from(changes_output);

    builder.build(move |_| {
        move |_frontiers| {
            let mut copies_output = copies_output.activate();
            let mut changes_output = changes_output.activate();
            mints.for_each(|capability, mints| {
                let Some(queue) = &queue else { return };
                let mut copies = copies_output.session_with_builder(&capability);
                let mut copy = |updates: &Batch| {
                    for _ in 0..copies_of_each {
                        copies.give_container(&mut updates.clone());
                    }
                };
                // One mint an epoch goes to each worker, and each says the same.
                if let [
                    Mint {
                        take: Take::Bound(_),
                        ..
                    },
                    ..,
                ] = &mints[..]
                {
                    let changes = bound.borrow_mut().pop_front();
                    changes.iter().flatten().for_each(copy);
                    return;
                }
                let Some(&epoch) = capability.least() else {
                    return;
                };
                while let Some((block, bytes)) = queue.pop() {
                    // The rows stay in memory for good, so they are not in flight any more.
                    queue.release(bytes);
                    let updates = block.updates.into_iter();
                    for updates in updates.filter(|updates| !updates.is_empty()) {
                        let mut updates = stamped(updates, &schema, epoch);
                        copy(&updates);
                        let mut session = changes_output.session_with_builder(&capability);
                        session.give_container(&mut updates);
                    }
                    complete.set(complete.get() || block.complete);
                }
            });
        }
    });
    (copies, changes)
}

/// Changes with the version that they have in `schema`: their epoch.
fn stamped(updates: Batch, schema: &Arc<BatchSchema>, epoch: u64) -> Batch {
    if !schema.versioned {
        return updates;
    }
    let epoch = i64::try_from(epoch).expect("epochs are milliseconds since 1970");
    let versions = updates.diffs().iter();
    let versions: Int64Array = versions.map(|diff| (*diff > 0).then_some(epoch)).collect();
    updates.extended(Arc::clone(schema), vec![Arc::new(versions)])
}
