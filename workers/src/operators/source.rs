//! Stamps the records that wait with the epoch that is being minted.
//!
//! # Semantics
//! Every record of a source belongs to exactly one epoch. On `Mint(e)` a worker takes what its
//! readers have handed over, stamps it with `e`, and thereby closes `e`: nothing else will ever be
//! stamped with it here. A worker without records closes the epoch as well, by saying nothing.
//!
//! # Picture
//! ```text
//! mints (addressed) --+--> source --+--> events
//! blocks (queue) -----+             +--> dead letters (records that could not be decoded)
//! ```
//! # Routing
//! A mint for each worker comes from worker 0. Events leave as they were read; the next operator
//! routes them.
//!
//! # Capabilities
//! Only the one that comes with a mint, and only while the operator runs: the epoch is closed when
//! all workers have seen its mint, whatever their readers do.
//!
//! # State
//! For each epoch that is not yet written everywhere, how much it holds (`Unwritten`): a few
//! numbers an epoch, bounded because reading stops at `max_in_flight_bytes`. An epoch takes at
//! most a quarter of that from a process, so that one is written while the next is processed.
//!
//! # Recovery
//! None yet: a restart reads from the beginning.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::batch::Batch;
use crate::operators::{SharedCounts, Whole};
use crate::ports::Events;

/// Tells every worker to close an epoch, which is the message's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mint {
    /// Whom it tells.
    pub worker: usize,
    /// Whether events may be stamped: the reference table is complete.
    pub release: bool,
}

/// What a worker has stamped and not all sinks have written.
#[derive(Debug, Default)]
pub struct Unwritten {
    epochs: VecDeque<Stamped>,
    /// Whether events are being stamped, as the reference table is complete.
    pub live: bool,
}

/// What one worker has stamped with one epoch.
#[derive(Clone, Copy, Debug)]
pub struct Stamped {
    /// The epoch.
    pub epoch: u64,
    /// The bytes that its records are charged with.
    pub bytes: usize,
    /// How many records.
    pub records: u64,
    /// When the oldest of them was published.
    pub published_ms: u64,
}

impl Unwritten {
    /// Takes the oldest epoch if it is before `frontier`, or in any case if there is none.
    pub fn pop_before(&mut self, frontier: Option<u64>) -> Option<Stamped> {
        let oldest = self.epochs.front()?;
        let written = frontier.is_none_or(|frontier| oldest.epoch < frontier);
        if written {
            self.epochs.pop_front()
        } else {
            None
        }
    }
}

/// The events of this worker's readers, and the dead letters among them.
pub fn source<'scope>(
    mints: StreamVec<'scope, u64, Mint>,
    queue: Rc<Events>,
    epoch_bytes_max: usize,
    unwritten: Rc<RefCell<Unwritten>>,
    counts: SharedCounts,
) -> (Stream<'scope, u64, Batch>, Stream<'scope, u64, Batch>) {
    let mut builder = OperatorBuilder::new("Source".to_owned(), mints.scope());
    let mut mints = builder.new_input(mints, Exchange::new(|mint: &Mint| mint.worker as u64));
    builder.set_notify_for(0, FrontierInterest::Never);
    let (events_output, events) = builder.new_output::<Batch>();
    let (dead_output, dead_letters) = builder.new_output::<Batch>();
    let mut events_output = OutputBuilder::<u64, Whole>::from(events_output);
    let mut dead_output = OutputBuilder::<u64, Whole>::from(dead_output);

    builder.build(move |_| {
        move |_frontiers| {
            let mut events_output = events_output.activate();
            let mut dead_output = dead_output.activate();
            mints.for_each(|capability, mint| {
                let Some(epoch) = capability.least().copied() else {
                    return;
                };
                if !mint.iter().all(|mint| mint.release) {
                    return;
                }
                unwritten.borrow_mut().live = true;
                let mut stamped = Stamped {
                    epoch,
                    bytes: 0,
                    records: 0,
                    published_ms: u64::MAX,
                };
                while stamped.bytes < epoch_bytes_max
                    && let Some((mut block, bytes)) = queue.pop()
                {
                    stamped.bytes += bytes;
                    stamped.records += block.records;
                    stamped.published_ms = stamped.published_ms.min(block.published_ms);
                    let mut counts = counts.borrow_mut();
                    counts.records += block.records;
                    counts.events += block.events.len() as u64;
                    counts.dead_letters += block.dead_letters.len() as u64;
                    if !block.events.is_empty() {
                        let mut session = events_output.session_with_builder(&capability);
                        session.give_container(&mut block.events);
                    }
                    if !block.dead_letters.is_empty() {
                        let mut session = dead_output.session_with_builder(&capability);
                        session.give_container(&mut block.dead_letters);
                    }
                }
                if stamped.bytes > 0 {
                    unwritten.borrow_mut().epochs.push_back(stamped);
                }
            });
        }
    });
    (events, dead_letters)
}
