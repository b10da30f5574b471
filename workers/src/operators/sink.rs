//! Hands the rows of closed and bound epochs to a sink, in order, and tells when they are written.
//!
//! # Semantics
//! This is the gate: the sink is given every epoch whole, one after the other, and only once it is
//! closed on all workers and its binding is durable. The output is a dead letter for each row that
//! the sink could not take; its frontier says which epochs are written.
//!
//! # Routing
//! A sink that every worker writes to takes the rows where they are. One with a single writer,
//! such as a file, takes them on worker 0.
//!
//! # Capabilities
//! One for each epoch that has rows, held until the sink says that the epoch is written. So the
//! frontier behind all sinks is what is written everywhere, on all processes, by timely's own
//! progress tracking.
//!
//! # State
//! Rows of epochs that are still open or not yet durable, bounded by `max_in_flight_bytes`; a
//! capability for each epoch that is being written.
//!
//! # Recovery
//! Bound epochs are computed again, and the sink skips what it has committed; one that commits
//! nothing writes them again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use crate::batch::Batch;
use crate::operators::{Durable, SharedCounts, Whole};
use crate::ports::Sink;

/// Writes `rows` to `sink`, which is there on the workers that write.
pub fn sink<'scope, P>(
    rows: Stream<'scope, u64, Batch>,
    route: P,
    durable: Durable<'scope>,
    name: &str,
    mut sink: Option<Box<dyn Sink>>,
    counts: SharedCounts,
) -> Stream<'scope, u64, Batch>
where
    P: ParallelizationContract<u64, Batch>,
{
    let worker = rows.scope().worker();
    let mut builder = OperatorBuilder::new(format!("Sink:{name}"), rows.scope());
    let activator = worker.sync_activator_for(builder.operator_info().address.to_vec());
    if let Some(sink) = &mut sink {
        sink.wake_by(Arc::new(move || {
            // It fails only when the worker has ended, and then nobody waits.
            activator.activate().unwrap_or_default();
        }));
    }
    let mut input = builder.new_input(rows, route);
    let mut durable = builder.new_input(durable, Pipeline);
    builder.set_notify_for(0, FrontierInterest::IfCapability);
    builder.set_notify_for(1, FrontierInterest::IfCapability);
    let (output, rejected) = builder.new_output::<Batch>();
    let mut output = OutputBuilder::<u64, Whole>::from(output);

    builder.build(move |_| {
        let mut open: BTreeMap<u64, (Capability<u64>, Vec<Batch>)> = BTreeMap::new();
        let mut writing: VecDeque<Capability<u64>> = VecDeque::new();
        move |frontiers| {
            input.for_each(|capability, batch| {
                let Some(capability) = capability.retain_least(0) else {
                    return;
                };
                let epoch = *capability.time();
                let entry = open.entry(epoch).or_insert((capability, Vec::new()));
                entry.1.push(std::mem::take(batch));
            });
            durable.for_each(|_, _| {});
            let Some(sink) = &mut sink else {
                assert!(open.is_empty(), "rows are routed to workers that write");
                return;
            };
            let mut tell = |capability: &Capability<u64>, mut letters: Batch| {
                if letters.is_empty() {
                    return;
                }
                counts.borrow_mut().dead_letters += letters.len() as u64;
                let mut output = output.activate();
                let mut session = output.session_with_builder(capability);
                session.give_container(&mut letters);
            };
            while let Some(entry) = open.first_entry()
                && !frontiers
                    .iter()
                    .any(|frontier| frontier.less_equal(entry.key()))
            {
                let (capability, batches) = entry.remove();
                let epoch = *capability.time();
                for mut batch in batches {
                    tell(&capability, sink.leave_out(epoch, &mut batch));
                    if !batch.is_empty() {
                        sink.write(epoch, batch);
                    }
                }
                sink.close(epoch);
                writing.push_back(capability);
            }
            // Rejected rows of an epoch are at hand before the epoch is written: ask in this order.
            let written = sink.written();
            counts.borrow_mut().dead_letters += sink.written_dead_letters();
            if let Some(capability) = writing.front() {
                tell(capability, sink.rejected());
            }
            while writing
                .front()
                .is_some_and(|capability| *capability.time() < written)
            {
                writing.pop_front();
            }
        }
    });
    rejected
}
