//! The picture: every operator of the job, and how they hang together.
//!
//! ```text
//!                    mints (worker 0 -> all)
//!                      |             |
//!   reader threads --> Source     Reference <-- reference table (worker 0)
//!                      |    \        |
//!          by key group|     \       | a copy to every worker
//!                      v      \      v
//!                   Distinct --------> Join
//!                               \    /    \
//!                     undecodable \  /      | joined rows
//!                     records      \/       v
//!                              Sink:dead <- Sink:<name> ... (rows that a sink could not take)
//!                                   |
//!                                written (probe): what all sinks of all workers have written
//!
//!   Source (ends), Reference (changes) --> Bind (worker 0) --> durable: what sinks may be given
//! ```
//!
//! The exchange between `Source` and `Distinct` is the only one in the path of the events.
//! `docs/dataflow.md` says what the result is; `textbook` says it in Differential's own operators.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::{Concatenate, Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle, Scope};

use crate::Rows;
use crate::batch::{ByOwner, ToWorker};
use crate::bindings::{Binding, BindingLog, Ends, Replay};
use crate::checkpoint::Checkpoints;
use crate::key::Ownership;
use crate::operators::{
    BoundChanges, Durable, Join, Mint, Requested, SharedAdmitted, SharedCounts, Take, Unwritten,
    bind, distinct, join, reference, sink, source,
};
use crate::ports::{Events, ReferenceBlock, Sink};
use crate::queue::Receiver;
use crate::state::KeySet;
use crate::textbook::textbook;

/// Which operators compute the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Those of this crate.
    #[default]
    Production,
    /// Differential's own: slow, and the definition.
    Textbook,
}

/// What the job is; the same on every worker.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which operators compute the result.
    pub engine: Engine,
    /// Units of ownership; at least as many as workers.
    pub shards: usize,
    /// How events meet the reference.
    pub join: Join,
}

/// A sink as one worker sees it.
pub struct SinkPort {
    /// Its name, in the operator's name.
    pub name: String,
    /// Whether worker 0 writes for all.
    pub single_writer: bool,
    /// Where rows go; none on a worker that does not write.
    pub sink: Option<Box<dyn Sink>>,
}

/// What one worker has of the outside world.
pub struct Ports {
    /// Whether this worker is the first of its process.
    pub first_of_process: bool,
    /// Events that this worker reads.
    pub events: Rc<Events>,
    /// The bytes of events that an epoch takes at most from this worker.
    pub epoch_bytes_max: usize,
    /// Changes of the reference table, on worker 0.
    pub reference: Option<Rc<Receiver<ReferenceBlock>>>,
    /// What was bound before, on worker 0.
    pub replay: Replay,
    /// Where bindings are kept, on worker 0; without one, nothing can be replayed.
    pub bindings: Option<Box<dyn BindingLog>>,
    /// The keys that this worker owns of those that were seen before what is replayed.
    pub keys: KeySet,
    /// Where the state is kept; without it, all that was bound is replayed.
    pub checkpoints: Option<Box<dyn Checkpoints>>,
    /// Where results go.
    pub sinks: Vec<SinkPort>,
    /// Where records go that cannot become results.
    pub dead_letters: SinkPort,
}

/// What the step loop holds of a built dataflow.
pub struct Dataflow {
    peers: usize,
    /// Closes epochs; only worker 0 uses it.
    pub mints: InputHandle<u64, CapacityContainerBuilder<Vec<Mint>>>,
    /// Epochs that all workers have closed.
    pub closed: ProbeHandle<u64>,
    /// Epochs that all sinks of all workers have written.
    pub written: ProbeHandle<u64>,
    /// What this worker has stamped and not all sinks have written.
    pub unwritten: Rc<RefCell<Unwritten>>,
    /// Whether the reference table is complete; true on worker 0 alone.
    pub complete: Rc<Cell<bool>>,
    /// Where the state is kept.
    pub checkpoints: Option<Box<dyn Checkpoints>>,
    /// Epochs of which this worker must hand over a part, when they are written.
    pub(crate) requested: Requested,
    /// What its state has gained, and handed over to no checkpoint.
    pub(crate) admitted: SharedAdmitted,
    bound_changes: BoundChanges,
}

impl Dataflow {
    /// Mints an epoch: tells every worker to close it. Only worker 0 does.
    pub fn mint(&mut self, epoch: u64, release: bool, checkpoint: bool) {
        let take = if release {
            Take::Waiting
        } else {
            Take::Nothing
        };
        self.tell(epoch, checkpoint, |_| take.clone());
    }

    /// Mints a bound epoch again. Partition `p` is read by worker `p` modulo their number.
    pub fn replay(&mut self, binding: Binding) {
        let peers = self.peers;
        self.bound_changes.borrow_mut().push_back(binding.reference);
        self.tell(binding.epoch, false, |worker| {
            let own = |(partition, _): &&(i32, i64)| reader(*partition, peers) == worker;
            Take::Bound(binding.ends.iter().filter(own).copied().collect::<Ends>())
        });
    }

    fn tell(&mut self, epoch: u64, checkpoint: bool, take: impl Fn(usize) -> Take) {
        self.mints.advance_to(epoch);
        for worker in 0..self.peers {
            let take = take(worker);
            self.mints.send(Mint {
                worker,
                take,
                checkpoint,
            });
        }
        self.mints.advance_to(epoch + 1);
    }
}

/// The worker for which a partition is read.
pub fn reader(partition: i32, workers: usize) -> usize {
    partition.unsigned_abs() as usize % workers
}

/// Builds the job on one worker. All workers build the same operators in the same order; who owns
/// what is decided inside them.
pub fn build(scope: Scope<'_, u64>, plan: Plan, ports: Ports, counts: &SharedCounts) -> Dataflow {
    let counts = || SharedCounts::clone(counts);
    let ownership = Ownership::new(plan.shards, scope.peers());
    let (closed, written) = (ProbeHandle::new(), ProbeHandle::new());
    let unwritten = Rc::new(RefCell::new(Unwritten::default()));
    let complete = Rc::new(Cell::new(false));
    let (requested, admitted) = (Requested::default(), SharedAdmitted::default());

    let (mints, minted) = scope.new_input_with_builder();
    let (events, undecoded, ends) = source(
        minted.clone(),
        ports.events,
        ports.epoch_bytes_max,
        Rc::clone(&unwritten),
        Rc::clone(&requested),
        counts(),
    );
    let undecoded = undecoded.probe_with(&closed);
    let bound_changes = BoundChanges::default();
    let (reference, changes) = reference(
        minted,
        ports.reference,
        Rc::clone(&bound_changes),
        Rc::clone(&complete),
    );
    let durable = bind(ends, changes, ports.bindings);

    let (joined, unmatched) = match plan.engine {
        Engine::Production => {
            let kept = ports.checkpoints.is_some().then(|| Rc::clone(&admitted));
            let distinct = distinct(events, ownership.clone(), ports.keys, kept, counts());
            join(distinct, reference, plan.join, counts())
        }
        Engine::Textbook => textbook(events, reference, plan.join, counts()),
    };

    // What a sink cannot take becomes a dead letter, so the sink of dead letters is behind all
    // others, and the frontier behind it is what is written everywhere.
    let mut dead_letters = vec![undecoded, unmatched];
    for port in ports.sinks {
        dead_letters.push(write(joined.clone(), durable.clone(), port, counts()));
    }
    let dead_letters = scope.concatenate(dead_letters);
    let port = ports.dead_letters;
    let dead_letters = if port.single_writer {
        write(dead_letters, durable, port, counts())
    } else {
        // By their source's name, so that they too have an owner when workers come and go.
        let route = DistributorPact(move |peers| ByOwner::new(ownership, peers));
        sink(
            dead_letters,
            route,
            durable,
            &port.name,
            port.sink,
            counts(),
        )
    };
    dead_letters.probe_with(&written);
    Dataflow {
        peers: scope.peers(),
        mints,
        closed,
        written,
        unwritten,
        complete,
        checkpoints: ports.checkpoints,
        requested,
        admitted,
        bound_changes,
    }
}

fn write<'scope>(
    rows: Rows<'scope>,
    durable: Durable<'scope>,
    port: SinkPort,
    counts: SharedCounts,
) -> Rows<'scope> {
    if port.single_writer {
        let route = DistributorPact(|_| ToWorker(0));
        sink(rows, route, durable, &port.name, port.sink, counts)
    } else {
        sink(rows, Pipeline, durable, &port.name, port.sink, counts)
    }
}
