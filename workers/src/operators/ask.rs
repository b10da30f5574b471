//! Asks the owners of join keys for the reference rows that an epoch is joined with.
//!
//! It is there only if the reference is partitioned.
//!
//! # Semantics
//! For each epoch, the join keys of which `join` needs the rows, each once; what they are is found
//! out by `questions`.
//!
//! # Picture
//! ```text
//! events (distinct) --+--> ask --> questions
//! duplicates ---------+
//! ```
//! # Routing
//! None of its own: it looks at the rows where `join` does. A question goes to the owner of the
//! join key.
//!
//! # Capabilities
//! One for each epoch that has rows and is still open; dropped when its questions are asked.
//!
//! # State
//! That of `join`, which it looks at; the rows of epochs that are still open.
//!
//! # Recovery
//! Nothing is asked of the rows of the window that the checkpoint has, before an epoch needs it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use crate::Rows;
use crate::batch::Batch;
use crate::operators::Joiner;

/// Asks for the reference row of a join key.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Question {
    /// The worker that asks.
    pub(crate) asker: u32,
    /// The halves of the mixed key.
    pub(crate) key: (u64, u64),
}

/// An epoch that is still open: its events and its duplicates.
type Open = BTreeMap<u64, (Capability<u64>, [Vec<Batch>; 2])>;

/// The questions of this worker.
pub(crate) fn ask<'scope>(
    events: Rows<'scope>,
    duplicates: Rows<'scope>,
    joiner: Rc<RefCell<Joiner>>,
) -> StreamVec<'scope, u64, Question> {
    let asker = u32::try_from(events.scope().index()).expect("at most 1024 workers");
    let mut builder = OperatorBuilder::new("Ask".to_owned(), events.scope());
    let mut inputs = [events, duplicates].map(|rows| builder.new_input(rows, Pipeline));
    for input in 0..inputs.len() {
        builder.set_notify_for(input, FrontierInterest::IfCapability);
    }
    let (output, questions) = builder.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Question>>>::from(output);

    builder.build(move |_| {
        let mut open = Open::new();
        move |frontiers| {
            for (index, input) in inputs.iter_mut().enumerate() {
                input.for_each(|capability, batch| {
                    if let Some(capability) = capability.retain_least(0) {
                        let epoch = *capability.time();
                        let (_, rows) = open
                            .entry(epoch)
                            .or_insert_with(|| (capability, Default::default()));
                        rows[index].push(std::mem::take(batch));
                    }
                });
            }
            let mut output = output.activate();
            while let Some(entry) = open.first_entry()
                && !frontiers
                    .iter()
                    .any(|frontier| frontier.less_equal(entry.key()))
            {
                let (capability, [events, duplicates]) = entry.remove();
                let epoch = *capability.time();
                let keys = joiner.borrow_mut().questions(epoch, events, duplicates);
                let questions = keys.into_iter().map(|key| Question {
                    asker,
                    key: ((key >> 64) as u64, key as u64),
                });
                output.session(&capability).give_iterator(questions);
            }
        }
    });
    questions
}
