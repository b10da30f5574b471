//! Joins each distinct event with the reference row of its key, and keeps recent results right.
//!
//! # Semantics
//! An event of epoch `e` is joined with the row that its key has in the reference table at `e`,
//! changes of `e` included; the result has epoch `e` and the event's key, origin and diff. An
//! event without a row follows `unmatched`: it is a result with nulls, no result, or no result
//! and a dead letter. A null in a join column equals nothing.
//!
//! A result whose event is in the window may be revised: at the epoch of a change of its reference
//! row, if `revise` says so, and at the epoch of a duplicate that is better, by `keep`. Then the
//! result as it was has diff `-1`, and the one that takes its place, if any, comes right behind it
//! with `+1`. The window is cut by the expiry clock, or by the epoch if events have no time.
//!
//! # Picture
//! ```text
//! events (distinct) ------+
//! duplicates -------------+--> join --+--> joined
//! reference changes ------+           +--> dead letters
//! answers (partitioned) --+
//! ```
//! # Routing
//! Events stay where `distinct` put them. Broadcast, every worker has the whole table, and changes
//! come to all of them. Partitioned, the table of an epoch is made of answers (see `look_up`), and
//! changes come to all only if results are revised.
//!
//! # Capabilities
//! One for each output and epoch that has events or changes and is still open; dropped when the
//! epoch is joined.
//!
//! # State
//! The reference table (`state::ReferenceTable`), partitioned that of one epoch at a time; the rows
//! of the window (`state::RecentRows`); events, changes and answers of epochs that are still open.
//!
//! # Recovery
//! The rows of the window begin as the newest checkpoint has them, and checkpoints are made of what
//! comes to them. The output is a function of the events, of the table and of the clock at their
//! epoch, and of the epochs before it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::operate::FrontierInterest;

use crate::Rows;
use crate::batch::{Batch, BatchSchema, ToAsker, ToEach};
use crate::clock::EventTime;
use crate::operators::Whole;
use crate::operators::joiner::{Joiner, Work};
use crate::state::{RecentRows, RowLimit, Wanted};

/// What becomes of an event without a reference row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// It is a result whose reference columns are null.
    Keep,
    /// It is no result.
    Drop,
    /// It goes to the dead letters.
    DeadLetter,
}

/// Where the reference table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// All of it on every worker.
    #[default]
    Broadcast,
    /// Each row on the worker that owns its key.
    Partitioned,
}

/// Which event of a key is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The first to arrive.
    First,
    /// That of the least event time, and of those the first to arrive.
    Earliest,
    /// That of the greatest event time, and of those the first to arrive.
    Latest,
}

/// How events meet the reference table.
#[derive(Clone, Debug)]
pub struct Join {
    /// For each key column of the reference, in its order, the events' column that must equal it.
    pub event_columns: Vec<usize>,
    /// Where the reference table is.
    pub strategy: Strategy,
    /// What becomes of an event without a reference row.
    pub unmatched: Unmatched,
    /// Whether a change of the reference revises results of the window.
    pub revise: bool,
    /// Which event of a key is kept.
    pub keep: Keep,
    /// Whether duplicates are compared with what they repeat.
    pub detect_conflicts: bool,
    /// How far an event may be behind the clock and still be revised.
    pub window_ms: u64,
    /// Where an event has its time, if it has one.
    pub time: Option<EventTime>,
    /// The schema of reference updates.
    pub reference: Arc<BatchSchema>,
    /// The schema of results: the events' columns, then the reference's without its key.
    pub joined: Arc<BatchSchema>,
}

impl Join {
    /// Whether rows are held that may be revised.
    pub fn holds_recent(&self) -> bool {
        self.revise || self.compares()
    }

    /// Whether duplicates are looked at.
    pub fn compares(&self) -> bool {
        self.keep != Keep::First || self.detect_conflicts
    }

    /// Whether what is held are results, as they were written, and not events: without `revise`
    /// the table does not tell any more what they were joined with.
    pub fn holds_results(&self) -> bool {
        !self.revise
    }

    /// The rows that may be revised: none yet. With a limit, what is too much of them goes to disk.
    pub fn recent_rows(&self, limit: Option<RowLimit>) -> RecentRows {
        let wanted = Wanted {
            by_key: self.compares(),
            by_join_key: self.revise.then(|| self.event_columns.clone()),
            time: self.time,
        };
        RecentRows::new(wanted, limit)
    }

    /// Whether each worker has only a part of the table.
    pub(crate) fn is_partitioned(&self) -> bool {
        self.strategy == Strategy::Partitioned
    }
}

/// Epochs that are still open: capabilities for both outputs, and what has come.
type Open = BTreeMap<u64, (Capability<u64>, Capability<u64>, Work)>;

/// The joined rows, and the dead letters among the events. There are `answers` if no worker has
/// the whole reference.
pub(crate) fn join<'scope>(
    events: Rows<'scope>,
    duplicates: Rows<'scope>,
    (reference, answers): (Rows<'scope>, Option<Rows<'scope>>),
    joiner: Rc<RefCell<Joiner>>,
) -> (Rows<'scope>, Rows<'scope>) {
    let mut builder = OperatorBuilder::new("Join".to_owned(), events.scope());
    let mut events = builder.new_input(events, Pipeline);
    let mut duplicates = builder.new_input(duplicates, Pipeline);
    let mut updates = builder.new_input(reference, DistributorPact(|_| ToEach::default()));
    let route = || DistributorPact(|_| ToAsker);
    let mut answers = answers.map(|answers| builder.new_input(answers, route()));
    for input in 0..3 + usize::from(answers.is_some()) {
        builder.set_notify_for(input, FrontierInterest::IfCapability);
    }
    let (joined_output, joined) = builder.new_output::<Batch>();
    let (dead_output, dead_letters) = builder.new_output::<Batch>();
    let mut joined_output = OutputBuilder::<u64, Whole>::from(joined_output);
    let mut dead_output = OutputBuilder::<u64, Whole>::from(dead_output);

    builder.build(move |_| {
        let mut open = Open::new();
        move |frontiers| {
            // STEP 1. Take what has come.
            events.for_each(|capability, batch| {
                take(&mut open, &capability, |work| {
                    work.events.push(std::mem::take(batch))
                });
            });
            duplicates.for_each(|capability, batch| {
                take(&mut open, &capability, |work| {
                    work.duplicates.push(std::mem::take(batch))
                });
            });
            updates.for_each(|capability, batch| {
                take(&mut open, &capability, |work| {
                    work.changes.push(std::mem::take(batch))
                });
            });
            if let Some(answers) = &mut answers {
                answers.for_each(|capability, batch| {
                    take(&mut open, &capability, |work| {
                        work.answers.push(std::mem::take(batch))
                    });
                });
            }
            // STEP 2. Join epochs that are closed on all sides, in order, each with the table as
            // of that epoch.
            let mut joined_output = joined_output.activate();
            let mut dead_output = dead_output.activate();
            while let Some(entry) = open.first_entry()
                && !frontiers
                    .iter()
                    .any(|frontier| frontier.less_equal(entry.key()))
            {
                let (joined_capability, dead_capability, work) = entry.remove();
                let done = joiner.borrow_mut().epoch(*joined_capability.time(), work);
                let mut session = joined_output.session_with_builder(&joined_capability);
                for mut rows in done.rows {
                    session.give_container(&mut rows);
                }
                let mut session = dead_output.session_with_builder(&dead_capability);
                for mut letters in done.dead_letters {
                    session.give_container(&mut letters);
                }
            }
        }
    });
    (joined, dead_letters)
}

/// Notes what has come of an epoch.
fn take(open: &mut Open, capability: &InputCapability<u64>, note: impl FnOnce(&mut Work)) {
    if let (Some(joined), Some(dead)) = (capability.retain_least(0), capability.retain_least(1)) {
        let epoch = *joined.time();
        let entry = open.entry(epoch).or_insert((joined, dead, Work::default()));
        note(&mut entry.2);
    }
}
