//! Joins each distinct event with the reference row of its key.
//!
//! # Semantics
//! An event of epoch `e` is joined with the row that its key has in the reference table at `e`,
//! changes of `e` included; the result has epoch `e` and the event's key, origin and diff. An
//! event without a row follows `unmatched`: it is a result with nulls, no result, or no result
//! and a dead letter. A null in a join column equals nothing. Later changes of the reference do
//! not touch earlier results.
//!
//! # Picture
//! ```text
//! events (distinct) ------+--> join --+--> joined
//! reference (everywhere) -+           +--> dead letters
//! ```
//! # Routing
//! None: events stay where `distinct` put them, and every worker has the whole table.
//!
//! # Capabilities
//! One for each output and epoch that has events or changes and is still open; dropped when the
//! epoch is joined.
//!
//! # State
//! The reference table (`state::ReferenceTable`), and changes of it that are stamped with epochs
//! still to come. Events wait for as long as an epoch's closing takes.
//!
//! # Recovery
//! The output is a function of the events and of the table at their epoch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use crate::batch::{Batch, BatchBuilder, BatchSchema, Gather, RowIndex, Slot, ToEach};
use crate::operators::{SharedCounts, Whole};
use crate::ports::{dead_letter_schema, reason};
use crate::state::ReferenceTable;

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

/// Writes a row as text, as the sinks would: for dead letters that the core makes.
pub type RowText = Arc<dyn Fn(&Batch, usize, &mut Vec<u8>) + Send + Sync>;

/// How events meet the reference table.
#[derive(Clone)]
pub struct Join {
    /// For each key column of the reference, in its order, the events' column that must equal it.
    pub event_columns: Vec<usize>,
    /// What becomes of an event without a reference row.
    pub unmatched: Unmatched,
    /// The schema of reference updates.
    pub reference: Arc<BatchSchema>,
    /// The schema of results: the events' columns, then the reference's without its key.
    pub joined: Arc<BatchSchema>,
    /// The name of the events' topic or file, for dead letters.
    pub source_name: Arc<str>,
    /// Writes an event as text.
    pub event_text: RowText,
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            event_columns,
            unmatched,
            ..
        } = self;
        write!(
            f,
            "Join {{ event_columns: {event_columns:?}, unmatched: {unmatched:?} }}"
        )
    }
}

/// Epochs that wait for the reference: both capabilities, and the events.
type Waiting = BTreeMap<u64, (Capability<u64>, Capability<u64>, Vec<Batch>)>;

/// Changes of the reference in epochs that are still open. Their capability is there so that the
/// operator is woken when the epoch is closed, also without events.
type Changes = BTreeMap<u64, (Capability<u64>, Vec<Batch>)>;

/// The joined rows, and the dead letters among the events.
pub fn join<'scope>(
    events: Stream<'scope, u64, Batch>,
    reference: Stream<'scope, u64, Batch>,
    join: Join,
    counts: SharedCounts,
) -> (Stream<'scope, u64, Batch>, Stream<'scope, u64, Batch>) {
    let first = events.scope().index() == 0;
    let mut builder = OperatorBuilder::new("Join".to_owned(), events.scope());
    let mut events = builder.new_input(events, Pipeline);
    let mut updates = builder.new_input(reference, DistributorPact(|_| ToEach::default()));
    for input in [0, 1] {
        builder.set_notify_for(input, FrontierInterest::IfCapability);
    }
    let (joined_output, joined) = builder.new_output::<Batch>();
    let (dead_output, dead_letters) = builder.new_output::<Batch>();
    let mut joined_output = OutputBuilder::<u64, Whole>::from(joined_output);
    let mut dead_output = OutputBuilder::<u64, Whole>::from(dead_output);

    builder.build(move |_| {
        let mut table = ReferenceTable::new(&join.reference);
        let mut changes = Changes::new();
        let mut waiting: Waiting = BTreeMap::new();
        move |frontiers| {
            // STEP 1. Take what has come.
            updates.for_each(|capability, batch| {
                let Some(capability) = capability.retain_least(0) else {
                    return;
                };
                let epoch = *capability.time();
                let entry = changes.entry(epoch).or_insert((capability, Vec::new()));
                entry.1.push(std::mem::take(batch));
            });
            events.for_each(|capability, batch| {
                let (Some(joined), Some(dead)) =
                    (capability.retain_least(0), capability.retain_least(1))
                else {
                    return;
                };
                let epoch = *joined.time();
                let entry = waiting.entry(epoch).or_insert((joined, dead, Vec::new()));
                entry.2.push(std::mem::take(batch));
            });
            // STEP 2. Join epochs that are closed on both sides, in order, each with the table as
            // of that epoch.
            let mut joined_output = joined_output.activate();
            let mut dead_output = dead_output.activate();
            while let Some(entry) = waiting.first_entry()
                && !frontiers[0].less_equal(entry.key())
                && !frontiers[1].less_equal(entry.key())
            {
                apply_until(&mut changes, *entry.key(), &mut table);
                let (joined_capability, dead_capability, batches) = entry.remove();
                for batch in batches {
                    let (mut rows, mut dead) = join_batch(&join, &table, batch, &counts);
                    if !rows.is_empty() {
                        let mut session = joined_output.session_with_builder(&joined_capability);
                        session.give_container(&mut rows);
                    }
                    if !dead.is_empty() {
                        let mut session = dead_output.session_with_builder(&dead_capability);
                        session.give_container(&mut dead);
                    }
                }
            }
            // STEP 3. Changes of closed epochs without events need not be kept apart. Only the
            // first epoch that may still come, on either side, bounds them.
            let open = frontiers
                .iter()
                .filter_map(|frontier| frontier.frontier().first().copied());
            let closed = open
                .chain(waiting.keys().copied())
                .min()
                .unwrap_or(u64::MAX);
            if let Some(last) = closed.checked_sub(1) {
                apply_until(&mut changes, last, &mut table);
            }
            if first {
                counts.borrow_mut().reference_rows = table.len() as u64;
            }
        }
    });
    (joined, dead_letters)
}

/// Applies the changes of all epochs up to `epoch`.
fn apply_until(changes: &mut Changes, epoch: u64, table: &mut ReferenceTable) {
    while let Some(entry) = changes.first_entry()
        && *entry.key() <= epoch
    {
        for batch in entry.remove().1 {
            table.apply(batch);
        }
    }
}

/// Joins one batch; gives the results and the dead letters.
fn join_batch(
    join: &Join,
    table: &ReferenceTable,
    events: Batch,
    counts: &SharedCounts,
) -> (Batch, Batch) {
    let mut scratch = Vec::new();
    let found: Vec<Option<RowIndex>> = (0..events.len())
        .map(|row| table.get(events.key_of(&join.event_columns, row, &mut scratch)?))
        .collect();
    let unmatched = found.iter().filter(|row| row.is_none()).count();
    let mut counts = counts.borrow_mut();
    counts.unmatched += unmatched as u64;
    if unmatched == 0 || join.unmatched == Unmatched::Keep {
        counts.rows_out += events.len() as u64;
        let columns = table.columns(&found);
        return (
            events.extended(Arc::clone(&join.joined), columns),
            Batch::default(),
        );
    }
    let mut dead_letters = Batch::default();
    if join.unmatched == Unmatched::DeadLetter {
        counts.dead_letters += unmatched as u64;
        dead_letters = unmatched_letters(join, &events, &found);
    }
    let kept: Vec<RowIndex> = (0..events.len())
        .filter(|row| found[*row].is_some())
        .map(|row| (0, row))
        .collect();
    let found: Vec<_> = found.into_iter().filter(Option::is_some).collect();
    counts.rows_out += kept.len() as u64;
    if kept.is_empty() {
        return (Batch::default(), dead_letters);
    }
    let mut gather = Gather::default();
    gather.push(events);
    let rows = gather.rows(&kept);
    (
        rows.extended(Arc::clone(&join.joined), table.columns(&found)),
        dead_letters,
    )
}

/// A dead letter for each event of the batch that has no reference row.
pub(crate) fn unmatched_letters(join: &Join, events: &Batch, found: &[Option<RowIndex>]) -> Batch {
    let mut letters = BatchBuilder::new(dead_letter_schema());
    for row in (0..events.len()).filter(|row| found[*row].is_none()) {
        let names = join
            .event_columns
            .iter()
            .map(|column| &events.schema().schema.columns[*column]);
        let names: Vec<_> = names.map(|column| format!("\"{}\"", column.name)).collect();
        let error = format!("no reference row for the event's {}", names.join(", "));
        let mut raw = Vec::new();
        (join.event_text)(events, row, &mut raw);
        let slots = [
            Slot::String((&*join.source_name).into()),
            Slot::Null,
            Slot::String(reason::UNMATCHED.into()),
            Slot::String(error.into()),
            Slot::Bytes(raw.into()),
        ];
        letters.push(&slots, events.origin(row), 1);
    }
    letters.finish()
}
