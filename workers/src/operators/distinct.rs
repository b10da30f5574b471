//! Keeps one event of each key.
//!
//! # Semantics
//! For every key the event with the least (epoch, partition, offset) is in the output, at its
//! epoch, with diff `+1`; no other event is. The order of the output within an epoch is (key
//! group, partition, offset). Other events of a key that is remembered are duplicates, and go to an
//! output of their own if the next operator wants to look at them, in the same order.
//!
//! A key is remembered in the bucket of its event's time, or of its arrival, which is its epoch,
//! until the expiry clock is further than the horizon. By event time, an event older than that
//! cannot be told from a retry and becomes a dead letter, as does one too far in the future.
//!
//! # Routing
//! By key: each event goes to the worker that owns its key group. This is the one exchange in the
//! path of the events.
//!
//! # Capabilities
//! One for each output and epoch that has events and is not yet closed; dropped when the epoch is
//! processed.
//!
//! # State
//! The set of all keys that are remembered, 8 or 16 bytes a key by at most 1.4
//! (`state::BucketRing`); beyond a limit, older buckets are on disk. The events of epochs that are
//! still open, bounded by `max_in_flight_bytes`.
//!
//! # Recovery
//! The set begins as the newest checkpoint has it, and checkpoints are made of what it gains. The
//! output of an epoch is a function of its events, its expiry clock, and of the epochs before it,
//! not of the order in which batches arrived nor of the number of workers: batches are put in
//! order of origin before the set is asked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use crate::Rows;
use crate::batch::{Batch, ByOwner, Gather, Keys, RowIndex};
use crate::checkpoint::{Admitted, KeyRun};
use crate::clock::{Clocks, EventTime, latest_ms, odd_unit};
use crate::key::{KEY_GROUPS, Ownership, key_group};
use crate::operators::{Letters, SharedCounts, Whole};
use crate::ports::{Counts, reason};
use crate::state::{BucketRing, Buckets};

/// New keys, as the operator and the step loop share them.
pub type SharedAdmitted = Rc<RefCell<Admitted>>;

/// The keys that are remembered, as the operator and the step loop share them.
pub type SharedKeys = Rc<RefCell<BucketRing>>;

/// How duplicates are found.
#[derive(Clone, Debug)]
pub struct Distinct {
    /// Where an event has its time, if it has one.
    pub time: Option<EventTime>,
    /// Whether keys are remembered by the arrival of their events: a retry may have another time.
    pub by_arrival: bool,
    /// How long a key is remembered.
    pub horizon_ms: u64,
    /// An event later than its epoch by more than this is a dead letter.
    pub future_ms: u64,
    /// Whether duplicates are wanted by the next operator.
    pub duplicates: bool,
    /// Whether to look for retries that have another time, where the same is relied on.
    pub detect_conflicts: bool,
}

/// Streams of `distinct`: events of new keys, duplicates, and dead letters.
pub(crate) type Told<'scope> = (Rows<'scope>, Rows<'scope>, Rows<'scope>);

/// What has come of the rows of an epoch.
#[derive(Debug, Default)]
struct Judged {
    kept: Vec<RowIndex>,
    /// The bucket of each row that is kept.
    buckets: Vec<i64>,
    duplicates: Vec<RowIndex>,
    late: Vec<RowIndex>,
    future: Vec<RowIndex>,
    /// How many are new only because their time is another.
    moved: u64,
    /// Whether it was said that the unit of times looks wrong.
    said: bool,
}

/// The distinct events, of keys that are not in `seen`. New keys go to `admitted` as well.
pub(crate) fn distinct<'scope>(
    events: Rows<'scope>,
    ownership: Ownership,
    (settings, letters): (Distinct, Letters),
    seen: SharedKeys,
    admitted: Option<SharedAdmitted>,
    (clocks, counts): (Clocks, SharedCounts),
) -> Told<'scope> {
    let mut builder = OperatorBuilder::new("Distinct".to_owned(), events.scope());
    let route = DistributorPact(move |peers| ByOwner::new(ownership, peers));
    let mut input = builder.new_input(events, route);
    builder.set_notify_for(0, FrontierInterest::IfCapability);
    let (outputs, streams): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let (output, stream) = builder.new_output::<Batch>();
            (OutputBuilder::<u64, Whole>::from(output), stream)
        })
        .unzip();
    let mut outputs: [_; 3] = outputs.try_into().unwrap_or_else(|_| unreachable!("three"));

    builder.build(move |_| {
        let mut open: BTreeMap<u64, ([Capability<u64>; 3], Gather)> = BTreeMap::new();
        let mut order = Order::default();
        let mut judged = Judged::default();
        move |frontiers| {
            input.for_each(|capability, batch| {
                let held = [0, 1, 2].map(|output| capability.retain_least(output));
                let [Some(events), Some(duplicates), Some(dead)] = held else {
                    return;
                };
                let epoch = *events.time();
                let held = [events, duplicates, dead];
                let (_, batches) = open.entry(epoch).or_insert((held, Gather::default()));
                batches.push(std::mem::take(batch));
            });
            while let Some(entry) = open.first_entry()
                && !frontiers[0].less_equal(entry.key())
            {
                let (capabilities, batches) = entry.remove();
                let epoch = *capabilities[0].time();
                let now_ms = match settings.by_arrival {
                    true => Some(epoch.cast_signed()),
                    false => clocks.at(epoch),
                };
                let rows = order.rows(batches.batches());
                let seen = &mut *seen.borrow_mut();
                judged.judge(&settings, &batches, rows, (epoch, now_ms), seen);
                if let Some(admitted) = &admitted {
                    let mut admitted = admitted.borrow_mut();
                    for (bucket, keys) in judged.admitted(batches.batches()) {
                        admitted.push(epoch, bucket, keys);
                    }
                }
                let dead = judged.letters(&settings, &letters, &batches, now_ms);
                for (index, rows) in [&judged.kept, &judged.duplicates].into_iter().enumerate() {
                    let mut output = outputs[index].activate();
                    let mut session = output.session_with_builder(&capabilities[index]);
                    for mut batch in batches.batches_of(rows) {
                        session.give_container(&mut batch);
                    }
                }
                let mut output = outputs[2].activate();
                let mut session = output.session_with_builder(&capabilities[2]);
                for mut batch in dead {
                    session.give_container(&mut batch);
                }
                judged.count(&counts, rows.len(), seen);
            }
        }
    });
    let mut streams = streams.into_iter();
    let mut stream = || streams.next().expect("there are three");
    (stream(), stream(), stream())
}

impl Judged {
    /// Judges the rows of an epoch, in their order.
    fn judge(
        &mut self,
        settings: &Distinct,
        batches: &Gather,
        rows: &[RowIndex],
        (epoch, now_ms): (u64, Option<i64>),
        seen: &mut BucketRing,
    ) {
        self.clear();
        let batches = batches.batches();
        let buckets = Buckets::new(settings.horizon_ms);
        let oldest = buckets.oldest(now_ms);
        seen.forget_before(oldest);
        let latest_ms = latest_ms(epoch, settings.future_ms);
        let times: Option<Vec<&[i64]>> = settings
            .time
            .map(|time| batches.iter().map(|batch| time.values(batch)).collect());
        let unit = settings.time.map(|time| time.unit);
        let arrival = buckets.of(epoch.cast_signed());
        self.look_at_unit(settings, batches, rows, epoch);
        for (batch, row) in rows {
            let keys = batches[*batch].keys();
            let at_ms = match (&times, unit) {
                (Some(times), Some(unit)) => Some(unit.to_ms(times[*batch][*row])),
                _ => None,
            };
            if at_ms.is_some_and(|at_ms| at_ms > latest_ms) {
                self.future.push((*batch, *row));
                continue;
            }
            let (bucket, new) = match at_ms.filter(|_| !settings.by_arrival) {
                None => (arrival, seen.insert_if_nowhere(arrival, keys, *row)),
                Some(at_ms) => {
                    let bucket = buckets.of(at_ms);
                    if bucket < oldest {
                        self.late.push((*batch, *row));
                        continue;
                    }
                    (bucket, seen.insert(bucket, keys, *row))
                }
            };
            if new {
                let moved = settings.detect_conflicts && !settings.by_arrival;
                self.moved += u64::from(moved && seen.is_elsewhere(bucket, keys, *row));
                self.kept.push((*batch, *row));
                self.buckets.push(bucket);
            } else if settings.duplicates {
                self.duplicates.push((*batch, *row));
            }
        }
    }

    /// Looks at the first event of an epoch, and says once if its time looks odd.
    fn look_at_unit(
        &mut self,
        settings: &Distinct,
        batches: &[Batch],
        rows: &[RowIndex],
        epoch: u64,
    ) {
        let (Some(time), Some((batch, row)), false) = (settings.time, rows.first(), self.said)
        else {
            return;
        };
        if let Some(hint) = odd_unit(time.of(&batches[*batch], *row), epoch) {
            self.said = true;
            let value = time.values(&batches[*batch])[*row];
            tracing::warn!(value, epoch, "the time of an event looks odd: {hint}");
        }
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.buckets.clear();
        self.duplicates.clear();
        self.late.clear();
        self.future.clear();
        self.moved = 0;
    }

    /// The keys of the rows that are kept, by bucket.
    fn admitted(&self, batches: &[Batch]) -> BTreeMap<i64, KeyRun> {
        if let [first, ..] = self.buckets[..]
            && self.buckets.iter().all(|bucket| *bucket == first)
        {
            // As it mostly is.
            return BTreeMap::from([(first, keys_of(batches, &self.kept))]);
        }
        let mut rows: BTreeMap<i64, Vec<RowIndex>> = BTreeMap::new();
        for (row, bucket) in self.kept.iter().zip(&self.buckets) {
            rows.entry(*bucket).or_default().push(*row);
        }
        let rows = rows.into_iter();
        rows.map(|(bucket, rows)| (bucket, keys_of(batches, &rows)))
            .collect()
    }

    /// Dead letters for events that are too old or too far in the future.
    fn letters(
        &self,
        settings: &Distinct,
        letters: &Letters,
        batches: &Gather,
        now_ms: Option<i64>,
    ) -> Vec<Batch> {
        let Some(time) = settings.time else {
            return Vec::new();
        };
        let now = now_ms.map_or_else(String::new, |now_ms| now_ms.to_string());
        let horizon = settings.horizon_ms;
        let future = settings.future_ms;
        let late = format!("more than the horizon ({horizon} ms) before the clock ({now} ms)");
        let future = format!("later than its epoch by more than \"future\" ({future} ms)");
        let all = [
            (&self.late, reason::LATE, late),
            (&self.future, reason::FUTURE, future),
        ];
        let all = all.iter().filter(|(rows, ..)| !rows.is_empty());
        all.flat_map(|(rows, reason, why)| {
            batches.batches_of(rows).map(move |events| {
                let name = &events.schema().schema.columns[time.column].name;
                let values = time.values(&events);
                let told = (0..events.len()).map(|row| {
                    let value = values[row];
                    (
                        row,
                        *reason,
                        format!("the event's \"{name}\" ({value}) is {why}"),
                    )
                });
                letters.of(&events, told)
            })
        })
        .collect()
    }

    fn count(&self, counts: &SharedCounts, rows: usize, seen: &BucketRing) {
        let mut counts = counts.borrow_mut();
        let (late, future) = (self.late.len(), self.future.len());
        counts.distinct += self.kept.len() as u64;
        counts.duplicates += (rows - self.kept.len() - late - future) as u64;
        counts.conflicts += self.moved;
        counts.late += late as u64;
        counts.future += future as u64;
        counts.dead_letters += (late + future) as u64;
        count_keys(&mut counts, seen);
    }
}

/// Counts the keys that are remembered.
pub(crate) fn count_keys(counts: &mut Counts, seen: &BucketRing) {
    counts.keys = seen.len();
    counts.key_bytes = seen.bytes();
    counts.cold_keys = seen.cold_len();
    counts.buckets = seen.buckets() as u64;
    let asked = seen.asked();
    counts.cold_probes = asked.probes;
    counts.cold_reads = asked.reads;
    counts.cold_found = asked.found;
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
