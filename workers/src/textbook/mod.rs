//! The same job written with Differential's own operators: the definition of the result, the
//! oracle of the tests, and `--engine textbook`.
//!
//! It is slow and forgets nothing: a horizon and a window, and what depends on them, are settings
//! of the production operators alone. It says in a few lines what the production operators must
//! equal at every closed epoch. What turns batches into updates and back is in `rows`; what is in
//! this file is the job.
//!
//! # Semantics
//! As in `operators::distinct` and `operators::join`.

#[cfg(feature = "abomonation")]
mod abomonated;
mod rows;

use differential_dataflow::VecCollection;
use timely::dataflow::Stream;

use crate::batch::Batch;
use crate::operators::{Join, Letters, SharedCounts};

/// A mixed key: its high and its low half.
pub(crate) type Key = (u64, u64);
/// A row, as it is written between processes.
pub(crate) type Row = Vec<u8>;
/// An event, the best first: its rank, and its origin; then its join key and its row.
pub(crate) type Event = (i64, Origin, Option<Key>, Row);
/// Epoch, partition and offset.
pub(crate) type Origin = (u64, i32, i64);
/// What the reference says of a key from an epoch on: the epoch, the change's place in it, and
/// the row, if the key has one from then on.
pub(crate) type Version = (u64, u64, Option<Row>);

/// One event of each key: the one with the least rank, and of those the one with the least origin.
fn distinct(events: VecCollection<'_, u64, (Key, Event)>) -> VecCollection<'_, u64, (Key, Event)> {
    events.reduce(|_key, events, output| output.push((events[0].0.clone(), 1)))
}

/// Each event with the row that the reference had for it at the event's epoch, or, if results are
/// revised, the row that it has now.
fn join<'scope>(
    events: VecCollection<'scope, u64, (Key, Event)>,
    versions: VecCollection<'scope, u64, (Key, Version)>,
    revise: bool,
) -> VecCollection<'scope, u64, ((Key, Event), Option<Row>)> {
    let matched = events
        .clone()
        .flat_map(|(key, event)| event.2.map(|join_key| (join_key, (key, event))))
        .arrange_by_key()
        .join_core(versions.arrange_by_key(), move |_, event, version| {
            (revise || version.0 <= event.1.1.0).then(|| (event.clone(), version.clone()))
        })
        .reduce(|_event, versions, output| {
            let (latest, _) = versions[versions.len() - 1];
            output.push((latest.2.clone(), 1));
        })
        .flat_map(|(event, row)| row.map(|row| (event, row)));
    let unmatched = events.concat(matched.clone().map(|(event, _)| event).negate());
    let matched = matched.map(|(event, row)| (event, Some(row)));
    matched.concat(unmatched.map(|event| (event, None)))
}

/// The joined rows, and the dead letters among the events.
pub fn textbook<'scope>(
    events: Stream<'scope, u64, Batch>,
    reference: Stream<'scope, u64, Batch>,
    (settings, letters): (Join, Letters),
    counts: SharedCounts,
) -> (Stream<'scope, u64, Batch>, Stream<'scope, u64, Batch>) {
    let events = rows::events(events, &settings);
    let versions = rows::versions(reference, SharedCounts::clone(&counts));
    let joined = join(distinct(events), versions, settings.revise).consolidate();
    rows::batches(joined, (settings, letters), counts)
}
