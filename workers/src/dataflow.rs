//! The picture: every operator of the job, and how they hang together.
//!
//! ```text
//!                    mints (worker 0 -> all)
//!                      |             |
//!   reader threads --> Source     Reference <-- reference table (worker 0)
//!                      |    \        |
//!          by key group|     \       | a copy to every worker
//!                      v      \      v
//!                   Distinct --------> Join  (events, and duplicates that may replace them)
//!                          \    \    /    \
//!                late, future|    \  /      | joined rows, and those that are taken back
//!                            \     \/       v
//!                              Sink:dead <- Sink:<name> ... (rows that a sink could not take)
//!                                   |
//!                                written (probe): what all sinks of all workers have written
//!
//!   If the reference is partitioned, between Reference, Distinct and Join on each worker:
//!   Distinct --> Ask --by join key--> LookUp (changes by their key) --> Join (answers, changes)
//!
//!   Source (ends), Reference (changes) --> Bind (worker 0) --> durable: what sinks may be given
//!   Source (times) --> expiry clock (worker 0) --> the next mint
//! ```
//!
//! The exchange between `Source` and `Distinct` is the only one in the path of the events, and
//! those from `Ask` to `LookUp` and back, if they are there.
//! `docs/dataflow.md` says what the result is; `textbook` says it in Differential's own operators.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::{Concatenate, Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle, Scope};

use crate::Rows;
use crate::batch::{ByOwner, ToWorker};
use crate::bindings::{Binding, BindingLog, Ends, Replay};
use crate::checkpoint::{Checkpoints, Told};
use crate::clock::{Clocks, ExpiryClock, SharedClock};
use crate::key::Ownership;
use crate::operators::{
    BoundChanges, Distinct, Durable, Join, Joiner, Letters, Mint, SharedAdmitted, SharedCounts,
    SharedKeys, Take, Timing, Unwritten, ask, bind, distinct, join, look_up, reference, sink,
    source,
};
use crate::ports::{Events, ReferenceBlock, Sink};
use crate::queue::Receiver;
use crate::state::{BucketRing, RecentRows};
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
    /// How duplicates are found.
    pub distinct: Distinct,
    /// How events meet the reference.
    pub join: Join,
    /// What dead letters say of events.
    pub letters: Letters,
}

impl Plan {
    /// Whether reference rows are looked up on other workers. The textbook engine divides
    /// everything by its keys, whatever the strategy.
    fn looks_up(&self) -> bool {
        self.engine == Engine::Production && self.join.is_partitioned()
    }
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
    /// The expiry clock as it stands before what is replayed, on worker 0.
    pub clock: ExpiryClock,
    /// The keys that this worker owns of those that were seen before what is replayed.
    pub keys: BucketRing,
    /// The rows of the window that this worker owns, as they were at the end of this epoch, that of
    /// the checkpoint; 0 without one. The settings that say how rows are held are still the same.
    pub recent: (u64, RecentRows),
    /// How many conflicts of the key groups that this worker owns had become dead letters by then,
    /// in the minute of that epoch.
    pub told: Told,
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
    /// What this worker's state has gained, and handed over to no checkpoint.
    pub(crate) admitted: SharedAdmitted,
    /// The keys that it remembers.
    pub(crate) keys: SharedKeys,
    /// The expiry clock; only that of worker 0 is told anything.
    pub clock: SharedClock,
    /// The clocks of epochs that are not written everywhere.
    pub(crate) clocks: Clocks,
    bound_changes: BoundChanges,
}

impl Dataflow {
    /// Mints an epoch: tells every worker to close it. Only worker 0 does. Returns its clock.
    pub fn mint(&mut self, epoch: u64, release: bool, checkpoint: bool) -> Option<i64> {
        let take = if release {
            Take::Waiting
        } else {
            Take::Nothing
        };
        let clock_ms = self.clock.borrow_mut().advance();
        self.tell((epoch, clock_ms), checkpoint, |_| take.clone());
        clock_ms
    }

    /// Mints a bound epoch again. Partition `p` is read by worker `p` modulo their number.
    pub fn replay(&mut self, binding: Binding) {
        let peers = self.peers;
        self.bound_changes.borrow_mut().push_back(binding.reference);
        self.clock.borrow_mut().replay(binding.clock_ms);
        self.tell((binding.epoch, binding.clock_ms), false, |worker| {
            let own = |(partition, _): &&(i32, i64)| reader(*partition, peers) == worker;
            Take::Bound(binding.ends.iter().filter(own).copied().collect::<Ends>())
        });
    }

    fn tell(
        &mut self,
        (epoch, clock_ms): (u64, Option<i64>),
        checkpoint: bool,
        take: impl Fn(usize) -> Take,
    ) {
        self.mints.advance_to(epoch);
        for worker in 0..self.peers {
            let take = take(worker);
            self.mints.send(Mint {
                worker,
                take,
                checkpoint,
                clock_ms,
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
    let admitted = SharedAdmitted::default();
    let keys: SharedKeys = Rc::new(RefCell::new(ports.keys));
    let clock: SharedClock = Rc::new(RefCell::new(ports.clock));
    let clocks = Clocks::default();
    let timing = Timing {
        time: plan.distinct.time,
        future_ms: plan.distinct.future_ms,
        clocks: clocks.clone(),
    };

    let (mints, minted) = scope.new_input_with_builder();
    let (events, undecoded, ends) = source(
        minted.clone(),
        ports.events,
        ports.epoch_bytes_max,
        Rc::clone(&unwritten),
        Rc::clone(&admitted),
        timing,
        counts(),
    );
    let undecoded = undecoded.probe_with(&closed);
    let bound_changes = BoundChanges::default();
    let copies = if plan.looks_up() { 1 } else { scope.peers() };
    let (reference, changes) = reference(
        minted,
        ports.reference,
        Rc::clone(&bound_changes),
        Rc::clone(&complete),
        (Arc::clone(&plan.join.reference), copies),
    );
    let told = (Rc::clone(&clock), clocks.clone());
    let durable = bind(ends, changes, ports.bindings, told);

    let state = State {
        ownership: ownership.clone(),
        keys: Rc::clone(&keys),
        recent: (ports.recent, ports.told),
        admitted: ports.checkpoints.is_some().then(|| Rc::clone(&admitted)),
        clocks: clocks.clone(),
    };
    let (joined, mut dead_letters) = results(events, reference, plan, state, counts());
    dead_letters.push(undecoded);

    // What a sink cannot take becomes a dead letter, so the sink of dead letters is behind all
    // others, and the frontier behind it is what is written everywhere.
    for port in ports.sinks {
        dead_letters.push(write(joined.clone(), durable.clone(), port, counts()));
    }
    let dead_letters = scope.concatenate(dead_letters);
    let route = (!ports.dead_letters.single_writer).then_some(ownership);
    let port = ports.dead_letters;
    write_letters(dead_letters, route, durable, port, counts()).probe_with(&written);
    Dataflow {
        peers: scope.peers(),
        mints,
        closed,
        written,
        unwritten,
        complete,
        checkpoints: ports.checkpoints,
        admitted,
        keys,
        clock,
        clocks,
        bound_changes,
    }
}

/// What the operators that make results begin with.
struct State {
    ownership: Ownership,
    keys: SharedKeys,
    recent: ((u64, RecentRows), Told),
    admitted: Option<SharedAdmitted>,
    clocks: Clocks,
}

/// The joined rows, and the dead letters among the events.
fn results<'scope>(
    events: Rows<'scope>,
    reference: Rows<'scope>,
    plan: Plan,
    state: State,
    counts: SharedCounts,
) -> (Rows<'scope>, Vec<Rows<'scope>>) {
    let (letters, first) = (plan.letters, events.scope().index() == 0);
    if plan.engine == Engine::Textbook {
        let (joined, unmatched) = textbook(events, reference, (plan.join, letters), counts);
        return (joined, vec![unmatched]);
    }
    let (events, duplicates, judged) = distinct(
        events,
        state.ownership.clone(),
        (plan.distinct, letters.clone()),
        state.keys,
        state.admitted.clone(),
        (state.clocks.clone(), SharedCounts::clone(&counts)),
    );
    let settings = plan.join.clone();
    let restored = state.recent.0.0;
    let told = (state.clocks, SharedCounts::clone(&counts), first);
    let joiner = Joiner::new(plan.join, letters, state.recent, state.admitted, told);
    let joiner = Rc::new(RefCell::new(joiner));
    let (mut reference, mut answers) = (reference, None);
    if settings.is_partitioned() {
        let questions = ask(events.clone(), duplicates.clone(), Rc::clone(&joiner));
        let with = (&settings, restored);
        let (rows, changes) = look_up(questions, reference, state.ownership, with, counts);
        (reference, answers) = (changes, Some(rows));
    }
    let (joined, unmatched) = join(events, duplicates, (reference, answers), joiner);
    (joined, vec![judged, unmatched])
}

/// By their source's name, so that they too have an owner when workers come and go, or to the one
/// who writes.
fn write_letters<'scope>(
    letters: Rows<'scope>,
    ownership: Option<Ownership>,
    durable: Durable<'scope>,
    port: SinkPort,
    counts: SharedCounts,
) -> Rows<'scope> {
    let Some(ownership) = ownership else {
        return write(letters, durable, port, counts);
    };
    let route = DistributorPact(move |peers| ByOwner::new(ownership, peers));
    sink(letters, route, durable, &port.name, port.sink, counts)
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
