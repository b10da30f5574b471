//! Appends bindings to their log, and lets results pass when their binding is durable.
//!
//! # Semantics
//! When an epoch is closed everywhere, worker 0 knows where it ends in each partition and which
//! changes of the reference are in it: its binding. The output never has data; its frontier says
//! which epochs are durable, and sinks are given only those.
//!
//! # Routing
//! Ends go to worker 0. Changes of the reference are made there.
//!
//! # Capabilities
//! One for each epoch with records or changes, or of which a checkpoint is made, held until the log
//! says that its binding is durable. So "durable" reaches all workers by timely's own progress
//! tracking. Any other epoch has no binding and holds none.
//!
//! # State
//! Bindings of open epochs; a capability for each that is being appended.
//!
//! # Recovery
//! Bound epochs report no ends and no changes, so nothing is appended twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::batch::Batch;
use crate::bindings::{Binding, BindingLog, advance};
use crate::clock::{Clocks, SharedClock};
use crate::operators::source::Taken;

/// A stream without data, whose frontier tells which epochs are durable.
pub type Durable<'scope> = StreamVec<'scope, u64, ()>;

/// Epochs with something to be bound.
type Open = BTreeMap<u64, (Capability<u64>, Binding)>;

/// Binds epochs; `log` is there on worker 0, and without one every closed epoch counts as durable.
pub fn bind<'scope>(
    taken: StreamVec<'scope, u64, Taken>,
    changes: Stream<'scope, u64, Batch>,
    mut log: Option<Box<dyn BindingLog>>,
    (clock, clocks): (SharedClock, Clocks),
) -> Durable<'scope> {
    let worker = taken.scope().worker();
    let mut builder = OperatorBuilder::new("Bind".to_owned(), taken.scope());
    let activator = worker.sync_activator_for(builder.operator_info().address.to_vec());
    if let Some(log) = &mut log {
        log.wake_by(Arc::new(move || {
            // It fails only when the worker has ended, and then nobody waits.
            activator.activate().unwrap_or_default();
        }));
    }
    let mut taken = builder.new_input(taken, Exchange::new(|_: &Taken| 0));
    let mut changes = builder.new_input(changes, Pipeline);
    builder.set_notify_for(0, FrontierInterest::IfCapability);
    builder.set_notify_for(1, FrontierInterest::IfCapability);
    let (output, durable) = builder.new_output::<Vec<()>>();
    let _output = OutputBuilder::<u64, CapacityContainerBuilder<Vec<()>>>::from(output);

    builder.build(move |_| {
        let mut open = Open::new();
        let mut appended: VecDeque<Capability<u64>> = VecDeque::new();
        let mut durable = 0;
        move |frontiers| {
            taken.for_each(|capability, taken| {
                let Some(capability) = capability.retain_least(0) else {
                    return;
                };
                for taken in taken.drain(..) {
                    match taken {
                        Taken::Before((partition, end)) => {
                            let binding = binding(&mut open, &capability);
                            advance(&mut binding.ends, partition, end);
                        }
                        Taken::Skipped(skipped) => {
                            binding(&mut open, &capability).skipped.push(skipped);
                        }
                        Taken::Checkpoint => {
                            binding(&mut open, &capability);
                        }
                        Taken::Seen(seen) => clock.borrow_mut().observe(seen),
                    }
                }
            });
            changes.for_each(|capability, changes| {
                let Some(capability) = capability.retain_least(0) else {
                    return;
                };
                let binding = binding(&mut open, &capability);
                binding.reference.push(std::mem::take(changes));
            });
            let Some(log) = &mut log else {
                open.retain(|epoch, _| frontiers.iter().any(|frontier| frontier.less_equal(epoch)));
                return;
            };
            while let Some(entry) = open.first_entry()
                && !frontiers
                    .iter()
                    .any(|frontier| frontier.less_equal(entry.key()))
            {
                let (capability, mut binding) = entry.remove();
                binding.ends.sort_unstable();
                binding.skipped.sort_unstable();
                binding.clock_ms = clocks.at(binding.epoch);
                log.append(binding);
                appended.push_back(capability);
            }
            while durable < log.durable() {
                durable += 1;
                appended.pop_front();
            }
        }
    });
    durable
}

fn binding<'a>(open: &'a mut Open, capability: &Capability<u64>) -> &'a mut Binding {
    let epoch = *capability.time();
    let new = || (capability.clone(), Binding::of(epoch));
    &mut open.entry(epoch).or_insert_with(new).1
}

impl Binding {
    fn of(epoch: u64) -> Self {
        Self {
            epoch,
            ..Self::default()
        }
    }
}
