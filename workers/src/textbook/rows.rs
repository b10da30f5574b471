//! Batches to Differential's updates and back, for the textbook engine.
//!
//! It is apart so that the definition beside it is nothing but the definition. A row travels as
//! the bytes of a batch of one row.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_buffer::MutableBuffer;
use differential_dataflow::{AsCollection, VecCollection};
use timely::bytes::arc::BytesMut;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::ContainerBytes;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator, OutputBuilder};

use crate::batch::{Batch, BatchBuilder, Gather, Origin, Slot, ToEach};
use crate::key::key_group;
use crate::operators::{Join, Keep, Letters, SharedCounts, Unmatched, Whole, unmatched_letters};
use crate::textbook::{Event, Key, Row, Version};

type Updates<D> = CapacityContainerBuilder<Vec<(D, u64, isize)>>;

fn halves(key: u128) -> Key {
    ((key >> 64) as u64, key as u64)
}

fn encode(batches: &Gather, row: usize) -> Row {
    let mut bytes = Vec::new();
    batches.rows(&[(0, row)]).into_bytes(&mut bytes);
    bytes
}

fn decode(row: &Row) -> Batch {
    let mut aligned = MutableBuffer::new(row.len());
    aligned.extend_from_slice(row);
    Batch::from_bytes(BytesMut::from(aligned).extract_to(row.len()))
}

/// Events as updates, keyed by the event's key.
pub(crate) fn events<'scope>(
    events: Stream<'scope, u64, Batch>,
    settings: &Join,
) -> VecCollection<'scope, u64, (Key, Event)> {
    let (join_columns, keep, time) = (settings.event_columns.clone(), settings.keep, settings.time);
    let updates = events.unary::<Updates<(Key, Event)>, _, _, _>(Pipeline, "Rows", move |_, _| {
        move |input, output| {
            input.for_each(|capability, batch| {
                let Some(epoch) = capability.least().copied() else {
                    return;
                };
                let mut batches = Gather::default();
                batches.push(std::mem::take(batch));
                let batch = &batches.batches()[0];
                let mut scratch = Vec::new();
                let mut session = output.session(&capability);
                for row in 0..batch.len() {
                    let Origin { partition, offset } = batch.origin(row);
                    let join_key = batch.key_of(&join_columns, row, &mut scratch).map(halves);
                    let at = time.map_or(0, |time| time.values(batch)[row]);
                    let rank = match keep {
                        Keep::First => 0,
                        Keep::Earliest => at,
                        // The greatest first, without a negation that could overflow.
                        Keep::Latest => !at,
                    };
                    let origin = (epoch, partition, offset);
                    let event = (rank, origin, join_key, encode(&batches, row));
                    session.give(((halves(batch.keys().get(row)), event), epoch, 1));
                }
            });
        }
    });
    #[cfg(feature = "abomonation")]
    let updates = crate::textbook::abomonated::exchange(updates);
    updates.as_collection()
}

/// Reference changes as updates that are only ever added: what each key had from when on.
pub(crate) fn versions<'scope>(
    reference: Stream<'scope, u64, Batch>,
    counts: SharedCounts,
) -> VecCollection<'scope, u64, (Key, Version)> {
    let first = reference.scope().index() == 0;
    let route = DistributorPact(|_| ToEach::default());
    let mut place = 0;
    reference
        .unary::<Updates<(Key, Version)>, _, _, _>(route, "Versions", move |_, _| {
            move |input, output| {
                input.for_each(|capability, batch| {
                    let Some(epoch) = capability.least().copied() else {
                        return;
                    };
                    // Every worker gets a copy, and one is enough: Differential routes it.
                    if !first {
                        return;
                    }
                    let mut batches = Gather::default();
                    batches.push(std::mem::take(batch));
                    let batch = &batches.batches()[0];
                    let mut session = output.session(&capability);
                    for row in 0..batch.len() {
                        let present = (batch.diffs()[row] > 0).then(|| encode(&batches, row));
                        let version = (epoch, place, present);
                        place += 1;
                        session.give(((halves(batch.keys().get(row)), version), epoch, 1));
                    }
                    counts.borrow_mut().reference_rows += batch.len() as u64;
                });
            }
        })
        .as_collection()
}

type Joined = ((Key, Event), Option<Row>);

/// Joined updates as batches of results and of dead letters, in the order in which the production
/// engine emits them.
pub(crate) fn batches<'scope>(
    joined: VecCollection<'scope, u64, Joined>,
    (settings, letters): (Join, Letters),
    counts: SharedCounts,
) -> (Stream<'scope, u64, Batch>, Stream<'scope, u64, Batch>) {
    let mut builder = OperatorBuilder::new("Batches".to_owned(), joined.inner.scope());
    let mut input = builder.new_input(joined.inner, Pipeline);
    let (rows_output, rows) = builder.new_output::<Batch>();
    let (dead_output, dead_letters) = builder.new_output::<Batch>();
    let mut rows_output = OutputBuilder::<u64, Whole>::from(rows_output);
    let mut dead_output = OutputBuilder::<u64, Whole>::from(dead_output);
    builder.build(move |_| {
        type Open = (Capability<u64>, Capability<u64>, Vec<(Joined, isize)>);
        let mut open: BTreeMap<u64, Open> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|capability, updates| {
                for (data, epoch, diff) in updates.drain(..) {
                    let entry = open.entry(epoch).or_insert_with(|| {
                        let delayed = |port| capability.delayed(&epoch, port);
                        (delayed(0), delayed(1), Vec::new())
                    });
                    entry.2.push((data, diff));
                }
            });
            let mut rows_output = rows_output.activate();
            let mut dead_output = dead_output.activate();
            while let Some(entry) = open.first_entry()
                && !frontiers[0].less_equal(entry.key())
            {
                let (rows_capability, dead_capability, mut updates) = entry.remove();
                updates.sort_unstable_by_key(|(((key, event), _), diff)| {
                    (key_group(key.0), event.1, *diff)
                });
                let (rows, dead) = build((&settings, &letters), updates, &counts);
                let mut session = rows_output.session_with_builder(&rows_capability);
                for mut rows in rows {
                    session.give_container(&mut rows);
                }
                let mut session = dead_output.session_with_builder(&dead_capability);
                for mut dead in dead {
                    session.give_container(&mut dead);
                }
            }
        }
    });
    (rows, dead_letters)
}

fn build(
    (settings, letters): (&Join, &Letters),
    updates: Vec<(Joined, isize)>,
    counts: &SharedCounts,
) -> (Vec<Batch>, Vec<Batch>) {
    let mut rows = BatchBuilder::new(Arc::clone(&settings.joined));
    let (mut batches, mut before) = (Vec::new(), 1);
    let mut dead = Gather::default();
    let mut counts = counts.borrow_mut();
    for (((key, event), reference), diff) in updates {
        let diff = i8::try_from(diff).expect("one event a key, and one row a reference key");
        counts.distinct += 1;
        counts.unmatched += u64::from(reference.is_none());
        let event_row = decode(&event.3);
        if reference.is_none() && settings.unmatched != Unmatched::Keep {
            if settings.unmatched == Unmatched::DeadLetter && diff > 0 {
                counts.dead_letters += 1;
                let letter = unmatched_letters(settings, letters, &event_row, &[None]);
                dead.push(letter.expect("one event has no row"));
            }
            continue;
        }
        counts.rows_out += 1;
        let reference = reference.map(|row| decode(&row));
        let mut slots: Vec<Slot<'_>> = (0..event_row.columns().len())
            .map(|column| event_row.slot(column, 0))
            .collect();
        let schema = &settings.reference.schema;
        let values = (0..schema.columns.len()).filter(|column| !schema.key.contains(column));
        slots.extend(values.map(|column| match &reference {
            Some(row) => row.slot(column, 0),
            None => Slot::Null,
        }));
        let key = u128::from(key.0) << 64 | u128::from(key.1);
        // A row is in one batch with that which it takes the place of.
        if rows.is_full() && (before, diff) != (-1, 1) {
            batches.push(rows.finish());
        }
        rows.push_with_key(&slots, key, event_row.origin(0), diff);
        before = diff;
    }
    if !rows.is_empty() {
        batches.push(rows.finish());
    }
    let letters: Vec<_> = (0..dead.batches().len()).map(|batch| (batch, 0)).collect();
    (batches, dead.batches_of(&letters).collect())
}
