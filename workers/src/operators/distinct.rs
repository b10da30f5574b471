//! Keeps one event of each key.
//!
//! # Semantics
//! For every key the event with the least (epoch, partition, offset) is in the output, at its
//! epoch, with diff `+1`; no other event is. The order of the output within an epoch is (key
//! group, partition, offset).
//!
//! # Routing
//! By key: each event goes to the worker that owns its key group. This is the one exchange in the
//! path of the events.
//!
//! # Capabilities
//! One for each epoch that has events and is not yet closed; dropped when the epoch is processed.
//!
//! # State
//! The set of all keys seen, 8 or 16 bytes a key by at most 1.4 (`state::KeySet`); it grows with
//! the number of keys. The events of epochs that are still open, bounded by
//! `max_in_flight_bytes`.
//!
//! # Recovery
//! The set begins as the newest checkpoint has it, and checkpoints are made of what it gains. The
//! output of an epoch is a function of the events of that epoch and of the epochs before it,
//! not of the order in which batches arrived nor of the number of workers: batches are put in
//! order of origin before the set is asked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use timely::dataflow::Stream;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use crate::batch::{Batch, ByOwner, Gather, Keys, RowIndex};
use crate::checkpoint::{Admitted, KeyRun};
use crate::key::{KEY_GROUPS, Ownership, key_group};
use crate::operators::{ROWS_MAX, SharedCounts, Whole};
use crate::state::KeySet;

/// New keys, as the operator and the step loop share them.
pub type SharedAdmitted = Rc<RefCell<Admitted>>;

/// The distinct events, of keys that are not in `seen`. New keys go to `admitted` as well.
pub fn distinct<'scope>(
    events: Stream<'scope, u64, Batch>,
    ownership: Ownership,
    mut seen: KeySet,
    admitted: Option<SharedAdmitted>,
    counts: SharedCounts,
) -> Stream<'scope, u64, Batch> {
    let mut builder = OperatorBuilder::new("Distinct".to_owned(), events.scope());
    let route = DistributorPact(move |peers| ByOwner::new(ownership, peers));
    let mut input = builder.new_input(events, route);
    builder.set_notify_for(0, FrontierInterest::IfCapability);
    let (output, distinct) = builder.new_output::<Batch>();
    let mut output = OutputBuilder::<u64, Whole>::from(output);

    builder.build(move |_| {
        let mut open: BTreeMap<u64, (Capability<u64>, Gather)> = BTreeMap::new();
        let mut order = Order::default();
        let mut kept = Vec::new();
        move |frontiers| {
            input.for_each(|capability, batch| {
                let Some(capability) = capability.retain_least(0) else {
                    return;
                };
                let epoch = *capability.time();
                let (_, batches) = open.entry(epoch).or_insert((capability, Gather::default()));
                batches.push(std::mem::take(batch));
            });
            let mut output = output.activate();
            while let Some(entry) = open.first_entry()
                && !frontiers[0].less_equal(entry.key())
            {
                let (capability, batches) = entry.remove();
                let rows = order.rows(batches.batches());
                kept.clear();
                kept.extend(
                    rows.iter()
                        .copied()
                        .filter(|(batch, row)| seen.insert(batches.batches()[*batch].keys(), *row)),
                );
                if let Some(admitted) = &admitted {
                    let keys = keys_of(batches.batches(), &kept);
                    admitted.borrow_mut().push(*capability.time(), keys);
                }
                let mut session = output.session_with_builder(&capability);
                for rows in kept.chunks(ROWS_MAX) {
                    session.give_container(&mut batches.rows(rows));
                }
                let mut counts = counts.borrow_mut();
                counts.distinct += kept.len() as u64;
                counts.duplicates += (rows.len() - kept.len()) as u64;
                counts.keys = seen.len();
                counts.key_bytes = seen.bytes();
            }
        }
    });
    distinct
}

/// The keys of some rows.
fn keys_of(batches: &[Batch], rows: &[RowIndex]) -> KeyRun {
    let narrow = batches
        .iter()
        .all(|batch| matches!(batch.keys(), Keys::Narrow(_)));
    if narrow {
        let key = |(batch, row): &RowIndex| batches[*batch].keys().high()[*row];
        KeyRun::Narrow(rows.iter().map(key).collect())
    } else {
        let key = |(batch, row): &RowIndex| batches[*batch].keys().get(*row);
        KeyRun::Wide(rows.iter().map(key).collect())
    }
}

/// Puts the rows of an epoch in the order (key group, partition, offset).
#[derive(Debug, Default)]
struct Order {
    runs: Vec<Run>,
    /// For each key group, where its next row goes.
    next: Vec<usize>,
    rows: Vec<RowIndex>,
}

/// Rows of one partition that stand together in a batch, in the order of their offsets.
#[derive(Clone, Copy, Debug)]
struct Run {
    partition: i32,
    offset: i64,
    batch: usize,
    start: usize,
    end: usize,
}

impl Order {
    fn rows(&mut self, batches: &[Batch]) -> &[RowIndex] {
        // STEP 1. A reader hands a partition's records over in order, so batches are made of runs,
        // and runs of one partition do not overlap: putting runs in order puts rows in order.
        self.runs.clear();
        for (index, batch) in batches.iter().enumerate() {
            self.find_runs(index, batch);
        }
        self.runs
            .sort_unstable_by_key(|run| (run.partition, run.offset));
        // STEP 2. A counting sort by key group, which is stable, and lets the set be asked group
        // by group: a group's table stays in the cache.
        self.next.clear();
        self.next.resize(KEY_GROUPS, 0);
        for high in batches.iter().flat_map(|batch| batch.keys().high()) {
            self.next[key_group(*high)] += 1;
        }
        let mut total = 0;
        for next in &mut self.next {
            total += std::mem::replace(next, total);
        }
        self.rows.clear();
        self.rows.resize(total, (0, 0));
        for run in &self.runs {
            let keys = batches[run.batch].keys().high();
            for (row, high) in keys.iter().enumerate().take(run.end).skip(run.start) {
                let next = &mut self.next[key_group(*high)];
                self.rows[*next] = (run.batch, row);
                *next += 1;
            }
        }
        &self.rows
    }

    fn find_runs(&mut self, index: usize, batch: &Batch) {
        let (partitions, offsets) = (batch.partitions(), batch.offsets());
        let mut start = 0;
        for row in 1..=batch.len() {
            let goes_on = row < batch.len()
                && partitions[row] == partitions[row - 1]
                && offsets[row] > offsets[row - 1];
            if !goes_on {
                let (partition, offset) = (partitions[start], offsets[start]);
                self.runs.push(Run {
                    partition,
                    offset,
                    batch: index,
                    start,
                    end: row,
                });
                start = row;
            }
        }
    }
}
