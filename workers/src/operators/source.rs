//! Stamps records with the epoch that is being minted.
//!
//! # Semantics
//! Every record of a source belongs to exactly one epoch. On a live mint of `e` a worker takes what
//! its readers have handed over, stamps it with `e`, and thereby closes `e`: nothing else will ever
//! be stamped with it here. A worker without records closes the epoch as well, by saying nothing.
//! The mint of a bound epoch names the offsets at which it ends, and the epoch is closed here when
//! exactly the records up to there have been stamped, however long their reading takes; or what is
//! left of them, if the partition goes on behind the last of them.
//!
//! # Picture
//! ```text
//! mints (addressed) --+--> source --+--> events
//! blocks (queue) -----+             +--> dead letters (records that could not be decoded)
//!                                   +--> what a live epoch takes of each partition
//! ```
//! # Routing
//! A mint for each worker comes from worker 0. Events leave as they were read; the next operator
//! routes them.
//!
//! # Capabilities
//! The one that comes with a mint: while the operator runs for a live epoch, so that the epoch is
//! closed when all workers have seen its mint, whatever their readers do; for a bound one until
//! its last record is there.
//!
//! # State
//! For each epoch that is not yet written everywhere, how much it holds (`Unwritten`): a few
//! numbers an epoch, bounded because reading stops at `max_in_flight_bytes`. An epoch takes at
//! most a quarter of that from a process, so that one is written while the next is processed. In a
//! replay also blocks of which only a part is bound to the epoch.
//!
//! # Recovery
//! Bound epochs are minted again, with the same ends; see `bindings`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::batch::{Batch, Gather};
use crate::bindings::{Ends, Skipped, advance};
use crate::clock::{Clocks, EventTime, Seen, latest_ms, seen_in};
use crate::operators::{SharedAdmitted, SharedCounts, Whole};
use crate::ports::{Block, Events};

/// How long a source that waits for the records of a bound epoch sleeps.
const STARVED: Duration = Duration::from_micros(500);

/// Tells every worker to close an epoch, which is the message's time.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mint {
    /// Whom it tells.
    pub worker: usize,
    /// What the epoch is made of.
    pub take: Take,
    /// Whether a checkpoint is made of the state at the end of the epoch.
    pub checkpoint: bool,
    /// The expiry clock of the epoch.
    pub clock_ms: Option<i64>,
}

/// What an epoch takes of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Taken {
    /// Everything of a partition before an offset.
    Before((i32, i64)),
    /// Nothing, as that was not there any more.
    Skipped(Skipped),
    /// All of it: a checkpoint is made of the state at its end.
    Checkpoint,
    /// How far it has come in time; told of bound epochs as well.
    Seen(Seen),
}

/// How the time of events is told to the expiry clock.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Where an event has its time; without one there is nothing to tell.
    pub time: Option<EventTime>,
    /// A time later than its epoch by more than this does not count.
    pub future_ms: u64,
    /// What others ask for the clock of an epoch.
    pub clocks: Clocks,
}

/// What a worker stamps with an epoch.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Take {
    /// No events: the reference table is not complete.
    Nothing,
    /// What is there.
    Waiting,
    /// The records before these offsets, by partition: the epoch is bound.
    Bound(Ends),
}

/// What a worker has stamped and not all sinks have written.
#[derive(Debug, Default)]
pub struct Unwritten {
    epochs: VecDeque<Stamped>,
    /// Whether events are being stamped, as the reference table is complete.
    pub live: bool,
    /// Whether records wait here that were read with those of a bound epoch, and no epoch has.
    pub left_over: bool,
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

/// What is taken is told one by one.
type Each = CapacityContainerBuilder<Vec<Taken>>;

/// Streams of a source: events, records that could not be decoded, and where live epochs end.
pub type Sourced<'scope> = (
    Stream<'scope, u64, Batch>,
    Stream<'scope, u64, Batch>,
    StreamVec<'scope, u64, Taken>,
);

/// The events of this worker's readers, and what else is known of them.
pub fn source<'scope>(
    mints: StreamVec<'scope, u64, Mint>,
    queue: Rc<Events>,
    epoch_bytes_max: usize,
    unwritten: Rc<RefCell<Unwritten>>,
    admitted: SharedAdmitted,
    timing: Timing,
    counts: SharedCounts,
) -> Sourced<'scope> {
    let worker = mints.scope().worker();
    let mut builder = OperatorBuilder::new("Source".to_owned(), mints.scope());
    let activator = worker.activator_for(builder.operator_info().address);
    let mut mints = builder.new_input(mints, Exchange::new(|mint: &Mint| mint.worker as u64));
    builder.set_notify_for(0, FrontierInterest::Never);
    let (events_output, events) = builder.new_output::<Batch>();
    let (dead_output, dead_letters) = builder.new_output::<Batch>();
    let (ends_output, ends) = builder.new_output::<Vec<Taken>>();
    let mut events_output = OutputBuilder::<u64, Whole>::from(events_output);
    let mut dead_output = OutputBuilder::<u64, Whole>::from(dead_output);
    let mut ends_output = OutputBuilder::<u64, Each>::from(ends_output);

    builder.build(move |_| {
        let mut open: VecDeque<Open> = VecDeque::new();
        let mut waiting = Waiting::new(queue);
        move |_frontiers| {
            mints.for_each(|capability, mints| {
                let epoch = *capability.least().expect("a mint has an epoch");
                for mint in mints.drain(..) {
                    if mint.checkpoint {
                        admitted.borrow_mut().request(epoch);
                    }
                    timing.clocks.tell(epoch, mint.clock_ms);
                    open.extend(Open::new(&capability, mint));
                }
            });
            let mut events_output = events_output.activate();
            let mut dead_output = dead_output.activate();
            let mut ends_output = ends_output.activate();
            while let Some(epoch) = open.front_mut() {
                let [events, dead_letters, ends] = &epoch.capabilities;
                let (take, reached) = (&epoch.take, &mut epoch.reached);
                while let Some((mut block, bytes)) =
                    waiting.next(take, reached, epoch.stamped.bytes < epoch_bytes_max)
                {
                    epoch.stamped.add(&block, bytes, &counts);
                    epoch.skipped.append(&mut block.skipped);
                    let mut session = ends_output.session_with_builder(ends);
                    session.give_iterator(timing.seen(&block, epoch.stamped.epoch));
                    if let Some(batch) = some(&mut block.events) {
                        let mut session = events_output.session_with_builder(events);
                        session.give_container(batch);
                    }
                    if let Some(batch) = some(&mut block.dead_letters) {
                        let mut session = dead_output.session_with_builder(dead_letters);
                        session.give_container(batch);
                    }
                }
                let mut unwritten = unwritten.borrow_mut();
                unwritten.left_over = !waiting.left_over.is_empty();
                unwritten.live |= epoch.take != Take::Nothing;
                if !take.complete(reached) {
                    waiting.queue.need(true);
                    activator.activate_after(STARVED);
                    break;
                }
                waiting.queue.need(false);
                let told = epoch.tell();
                let ends = &epoch.capabilities[2];
                ends_output.session_with_builder(ends).give_iterator(told);
                if epoch.stamped.records > 0 {
                    unwritten.epochs.push_back(epoch.stamped);
                }
                open.pop_front();
            }
        }
    });
    (events, dead_letters, ends)
}

impl Timing {
    /// What a block tells of its partitions' place in time.
    fn seen(&self, block: &Block, epoch: u64) -> impl Iterator<Item = Taken> {
        let latest_ms = latest_ms(epoch, self.future_ms);
        let times = self
            .time
            .map(|time| seen_in(&block.events, time, latest_ms));
        let lags = block.lags.iter().map(|(partition, lags)| Seen {
            partition: *partition,
            greatest_ms: None,
            lags: Some(*lags),
        });
        let lags: Vec<Seen> = if times.is_some() {
            lags.collect()
        } else {
            Vec::new()
        };
        times.into_iter().flatten().chain(lags).map(Taken::Seen)
    }
}

/// A batch, if it has rows: timely refuses empty ones.
fn some(batch: &mut Batch) -> Option<&mut Batch> {
    Some(batch).filter(|batch| !batch.is_empty())
}

fn count(block: &Block, counts: &SharedCounts) {
    let mut counts = counts.borrow_mut();
    counts.records += block.records;
    counts.events += block.events.len() as u64;
    counts.missing_offsets += block.skipped.iter().map(Skipped::offsets).sum::<u64>();
    counts.dead_letters += block.dead_letters.len() as u64;
}

/// An epoch that is minted and not closed here.
struct Open {
    /// For events, dead letters and ends.
    capabilities: [Capability<u64>; 3],
    take: Take,
    checkpoint: bool,
    /// How far its records go.
    reached: Ends,
    /// What a live one goes on without.
    skipped: Vec<Skipped>,
    stamped: Stamped,
}

impl Open {
    fn new(capability: &InputCapability<u64>, mint: Mint) -> Option<Self> {
        let retain = |output| capability.retain_least(output);
        let capabilities = [retain(0)?, retain(1)?, retain(2)?];
        let stamped = Stamped {
            epoch: *capabilities[0].time(),
            bytes: 0,
            records: 0,
            published_ms: u64::MAX,
        };
        Some(Self {
            capabilities,
            take: mint.take,
            checkpoint: mint.checkpoint,
            reached: Ends::new(),
            skipped: Vec::new(),
            stamped,
        })
    }
}

impl Open {
    /// What is to be bound of it, once it is closed.
    fn tell(&mut self) -> impl Iterator<Item = Taken> + use<> {
        let (skipped, reached) = match self.take {
            Take::Waiting => (
                std::mem::take(&mut self.skipped),
                std::mem::take(&mut self.reached),
            ),
            Take::Nothing | Take::Bound(_) => Default::default(),
        };
        let skipped = skipped.into_iter().map(Taken::Skipped);
        let reached = reached.into_iter().map(Taken::Before);
        let checkpoint = self.checkpoint.then_some(Taken::Checkpoint);
        skipped.chain(reached).chain(checkpoint)
    }
}

impl Take {
    /// Whether nothing more belongs to an epoch whose records go so far.
    fn complete(&self, reached: &Ends) -> bool {
        match self {
            Self::Bound(ends) => ends.iter().all(|end| reached.contains(end)),
            Self::Nothing | Self::Waiting => true,
        }
    }
}

impl Stamped {
    fn add(&mut self, block: &Block, bytes: usize, counts: &SharedCounts) {
        count(block, counts);
        self.bytes += bytes;
        self.records += block.records;
        self.published_ms = self.published_ms.min(block.published_ms);
    }
}

/// Records that no epoch has: in the queue, and left over of blocks of which a part was bound.
struct Waiting {
    queue: Rc<Events>,
    left_over: VecDeque<(Block, usize)>,
    /// How many of those were looked at for the epoch that is open.
    looked_at: usize,
}

impl Waiting {
    fn new(queue: Rc<Events>) -> Self {
        Self {
            queue,
            left_over: VecDeque::new(),
            looked_at: 0,
        }
    }

    /// The next records of an epoch that goes as far as `reached`, and the bytes that they are
    /// charged with; a live epoch takes them only while it has room.
    fn next(&mut self, take: &Take, reached: &mut Ends, room: bool) -> Option<(Block, usize)> {
        match take {
            Take::Nothing => None,
            Take::Waiting => {
                let next = || self.left_over.pop_front().or_else(|| self.queue.pop());
                let (block, bytes) = room.then(next).flatten()?;
                block.reach(reached);
                Some((block, bytes))
            }
            Take::Bound(ends) => loop {
                if take.complete(reached) {
                    self.looked_at = 0;
                    return None;
                }
                if self.looked_at == self.left_over.len() {
                    self.left_over.push_back(self.queue.pop()?);
                }
                let (block, bytes) = &mut self.left_over[self.looked_at];
                let taken = block.split(ends);
                taken.reach(reached);
                block.pass(ends, reached);
                // What was not there is no part of a bound epoch.
                if block.records == 0 && block.skipped.is_empty() {
                    let bytes = *bytes;
                    let rest = self.left_over.remove(self.looked_at);
                    let lags = rest.map_or_else(Vec::new, |(rest, _)| rest.lags);
                    return Some((Block { lags, ..taken }, bytes));
                }
                self.looked_at += 1;
                if taken.records > 0 {
                    return Some((taken, 0));
                }
            },
        }
    }
}

impl Block {
    /// Takes out the records before the ends of their partitions.
    fn split(&mut self, ends: &Ends) -> Self {
        let events = split(&mut self.events, ends);
        let dead_letters = split(&mut self.dead_letters, ends);
        let records = (events.len() + dead_letters.len()) as u64;
        self.records -= records;
        Self {
            events,
            dead_letters,
            records,
            skipped: Vec::new(),
            lags: Vec::new(),
            published_ms: self.published_ms,
        }
    }

    /// Advances `reached` to those of `ends` behind which this block goes on. The last record of a
    /// bound epoch may be gone, by compaction: it will never come, and nothing must wait for it.
    fn pass(&self, ends: &Ends, reached: &mut Ends) {
        let mut last = None;
        let batches = [&self.events, &self.dead_letters];
        for partition in batches.iter().flat_map(|batch| batch.partitions()) {
            if last.replace(*partition) == Some(*partition) {
                continue;
            }
            let bound = ends.iter().find(|(known, _)| known == partition);
            if let Some((_, end)) = bound.filter(|bound| !reached.contains(bound)) {
                tracing::warn!(
                    partition,
                    end,
                    "records before this offset are bound, and not in the topic any more; going on \
                     without them"
                );
                advance(reached, *partition, *end);
            }
        }
    }

    /// Advances `ends` to behind the records of this block.
    fn reach(&self, ends: &mut Ends) {
        for skipped in &self.skipped {
            advance(ends, skipped.partition, skipped.to);
        }
        for batch in [&self.events, &self.dead_letters] {
            for (partition, offset) in batch.partitions().iter().zip(batch.offsets()) {
                advance(ends, *partition, offset + 1);
            }
        }
    }
}

fn split(batch: &mut Batch, ends: &Ends) -> Batch {
    let mut last = (i32::MIN, i64::MIN);
    let before = |row: &usize| {
        let partition = batch.partitions()[*row];
        if last.0 != partition {
            let end = ends.iter().find(|(known, _)| *known == partition);
            last = (partition, end.map_or(i64::MIN, |(_, end)| *end));
        }
        batch.offsets()[*row] < last.1
    };
    let (taken, rest): (Vec<_>, Vec<_>) = (0..batch.len()).partition(before);
    if rest.is_empty() {
        return std::mem::take(batch);
    }
    if taken.is_empty() {
        return Batch::default();
    }
    let mut gather = Gather::default();
    gather.push(std::mem::take(batch));
    let rows = |rows: Vec<usize>| rows.into_iter().map(|row| (0, row)).collect::<Vec<_>>();
    *batch = gather.rows(&rows(rest));
    gather.rows(&rows(taken))
}

#[cfg(test)]
mod tests;
