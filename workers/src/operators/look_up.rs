//! A part of the reference table, and the answers that it gives.
//!
//! It is there only if the reference is partitioned.
//!
//! # Semantics
//! Each row of the table is on the worker that owns its key. A question of epoch `e` is answered
//! with the row that the table has at `e`, changes of `e` included, and not at all if there is
//! none. If results are revised, changes of rows are told as well: the row before a change has diff
//! `-1`, the one after it `+1`, and all of the first come before all of the others.
//!
//! # Picture
//! ```text
//! questions ----------+--> look up --+--> answers
//! reference changes --+              +--> changes, to every worker
//! ```
//! # Routing
//! Questions and changes come to the owner of their key. Answers go to who has asked. Changes are
//! emitted once for every worker (`ToEach`), as any may have joined a row of its window with them;
//! but not before anybody has asked for a row of this part, since then no window has such rows. So
//! the content that a table begins with goes nowhere else.
//!
//! # Capabilities
//! One for each output and epoch that has questions or changes and is still open; dropped when the
//! questions are answered.
//!
//! # State
//! The part of the table (`state::ReferenceTable`); changes and questions of epochs that are still
//! open.
//!
//! # Recovery
//! The table of the checkpoint comes as changes of its epoch, and revises nothing; those of later
//! epochs do, for rows of the window that the checkpoint has.

use std::collections::BTreeMap;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{DistributorPact, Exchange};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use crate::Rows;
use crate::batch::{Batch, ByOwner};
use crate::key::{Ownership, key_group};
use crate::operators::{Join, Question, SharedCounts, Whole};
use crate::state::ReferenceTable;

/// Epochs that are still open: capabilities for both outputs, and what has come.
type Open = BTreeMap<u64, (Capability<u64>, Capability<u64>, Vec<Question>, Vec<Batch>)>;

/// The rows that were asked for, and changes that rows of windows may be joined with. The table of
/// the checkpoint has the epoch `restored`, which is 0 without one.
pub(crate) fn look_up<'scope>(
    questions: StreamVec<'scope, u64, Question>,
    changes: Rows<'scope>,
    ownership: Ownership,
    (join, restored): (&Join, u64),
    counts: SharedCounts,
) -> (Rows<'scope>, Rows<'scope>) {
    let peers = changes.scope().peers();
    let mut builder = OperatorBuilder::new("LookUp".to_owned(), changes.scope());
    let owners = ownership.clone();
    let to_owner = move |question: &Question| owners.worker(key_group(question.key.0)) as u64;
    let mut questions = builder.new_input(questions, Exchange::new(to_owner));
    let by_owner = DistributorPact(move |peers| ByOwner::new(ownership, peers));
    let mut changes = builder.new_input(changes, by_owner);
    for input in [0, 1] {
        builder.set_notify_for(input, FrontierInterest::IfCapability);
    }
    let (answers_output, answers) = builder.new_output::<Batch>();
    let (told_output, told) = builder.new_output::<Batch>();
    let mut answers_output = OutputBuilder::<u64, Whole>::from(answers_output);
    let mut told_output = OutputBuilder::<u64, Whole>::from(told_output);
    let mut part = Part {
        table: ReferenceTable::new(&join.reference),
        tells: join.revise,
        was_asked: restored > 0,
        restored,
    };

    builder.build(move |_| {
        let mut open = Open::new();
        move |frontiers| {
            questions.for_each(|capability, new| {
                let held = (capability.retain_least(0), capability.retain_least(1));
                if let (Some(answers), Some(told)) = held {
                    let entry = open.entry(*answers.time());
                    let entry = entry.or_insert((answers, told, Vec::new(), Vec::new()));
                    entry.2.append(new);
                }
            });
            changes.for_each(|capability, batch| {
                let held = (capability.retain_least(0), capability.retain_least(1));
                if let (Some(answers), Some(told)) = held {
                    let entry = open.entry(*answers.time());
                    let entry = entry.or_insert((answers, told, Vec::new(), Vec::new()));
                    entry.3.push(std::mem::take(batch));
                }
            });
            let mut answers_output = answers_output.activate();
            let mut told_output = told_output.activate();
            while let Some(entry) = open.first_entry()
                && !frontiers
                    .iter()
                    .any(|frontier| frontier.less_equal(entry.key()))
            {
                let (answers, told, questions, changes) = entry.remove();
                let mut session = told_output.session_with_builder(&told);
                for batch in part.change(*told.time(), changes) {
                    for _ in 0..peers {
                        session.give_container(&mut batch.clone());
                    }
                }
                let mut session = answers_output.session_with_builder(&answers);
                for mut batch in part.answers(&questions) {
                    session.give_container(&mut batch);
                }
                counts.borrow_mut().reference_rows = part.table.len() as u64;
            }
        }
    });
    (answers, told)
}

/// What a worker has of the reference.
struct Part {
    table: ReferenceTable,
    /// Whether changes revise results.
    tells: bool,
    /// Whether a window may have a row that is joined with one of this part.
    was_asked: bool,
    restored: u64,
}

impl Part {
    /// Makes the changes of an epoch, and returns what is to be told of them.
    fn change(&mut self, epoch: u64, changes: Vec<Batch>) -> Vec<Batch> {
        if !(self.tells && self.was_asked && epoch > self.restored) || changes.is_empty() {
            self.table.apply(changes);
            return Vec::new();
        }
        let keys = self.table.differing(&changes);
        let before = self.table.rows_of(keys.iter().copied());
        self.table.apply(changes);
        let after = self.table.rows_of(keys);
        let before = before.into_iter().map(|rows| rows.with_diff(-1));
        before.chain(after).collect()
    }

    /// The rows that are asked for, each batch for one worker.
    fn answers(&mut self, questions: &[Question]) -> Vec<Batch> {
        self.was_asked |= !questions.is_empty();
        let mut keys: BTreeMap<u32, Vec<u128>> = BTreeMap::new();
        for Question { asker, key } in questions {
            let key = u128::from(key.0) << 64 | u128::from(key.1);
            keys.entry(*asker).or_default().push(key);
        }
        let mut answers = Vec::new();
        for (asker, keys) in keys {
            let rows = self.table.rows_of(keys).into_iter();
            answers.extend(rows.map(|rows| rows.for_worker(asker)));
        }
        answers
    }
}
