//! Runs the dataflow over a scripted input: which records and which changes of the reference fall
//! into which epoch is given, so that runs on different engines and workers can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use deltajoin_workers::batch::{BATCH_BYTES_MAX, Batch, BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::bindings::Replay;
use deltajoin_workers::clock::ExpiryClock;
use deltajoin_workers::dataflow::{self, Ports, SinkPort};
use deltajoin_workers::operators::SharedCounts;
use deltajoin_workers::ports::{Block, Counts, ReferenceBlock, Sink, dead_letter_schema, reason};
use deltajoin_workers::queue::{InFlight, Sender, Waker, queue};
use deltajoin_workers::schema::ColumnType;
use deltajoin_workers::state::BucketRing;

use crate::disk::row_limit;
use crate::setup::{Setup, reference_schema};

/// An event: key, join column, payload. The epoch and the partition are where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) id: i64,
    pub(crate) location: Option<i64>,
    pub(crate) item: String,
    /// In the unit of its setup.
    pub(crate) at: i64,
}

/// What comes in one epoch: records by partition, `None` being one that cannot be decoded; and
/// changes of the reference, `None` being a removal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Epoch {
    pub(crate) records: BTreeMap<i32, Vec<Option<Event>>>,
    pub(crate) reference: Vec<(i64, Option<String>)>,
    /// Partitions of which it is known with these records whether they lag.
    pub(crate) lags: Vec<(i32, bool)>,
    /// The epoch, and its expiry clock: told by a run, or by bindings.
    pub(crate) time: (u64, Option<i64>),
}

/// What a sink was given: by epoch, the rows as text with their diffs, sorted.
pub(crate) type Output = BTreeMap<u64, Vec<(String, i64)>>;

/// What came of a run.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) rows: Output,
    pub(crate) dead_letters: Output,
    pub(crate) counts: Counts,
    /// The expiry clock of each epoch.
    pub(crate) clocks: Vec<Option<i64>>,
}

/// A row as text: its columns, then its origin.
pub(crate) fn text(batch: &Batch, row: usize) -> String {
    let slots: Vec<String> = (0..batch.columns().len())
        .map(|column| match batch.slot(column, row) {
            Slot::Null => "null".to_owned(),
            Slot::Int64(value) | Slot::Timestamp(value) => value.to_string(),
            Slot::String(value) => value.into_owned(),
            Slot::Bytes(bytes) => String::from_utf8(bytes.into_owned()).unwrap(),
            other => format!("{other:?}"),
        })
        .collect();
    let Origin { partition, offset } = batch.origin(row);
    format!("{} @{partition}/{offset}", slots.join(","))
}

/// A block of a partition's records, from `offset` on.
pub(crate) fn block(
    schema: &Arc<BatchSchema>,
    partition: i32,
    offset: i64,
    records: &[Option<Event>],
) -> Block {
    let mut events = BatchBuilder::new(Arc::clone(schema));
    let mut dead_letters = BatchBuilder::new(dead_letter_schema());
    let at = match schema.schema.columns[3].column_type {
        ColumnType::Timestamp => Slot::Timestamp,
        _ => Slot::Int64,
    };
    for (index, record) in records.iter().enumerate() {
        let origin = Origin {
            partition,
            offset: offset + index as i64,
        };
        match record {
            Some(event) => events.push(
                &[
                    Slot::Int64(event.id),
                    event.location.map_or(Slot::Null, Slot::Int64),
                    Slot::String(event.item.as_str().into()),
                    at(event.at),
                ],
                origin,
                1,
            ),
            None => dead_letters.push(
                &[
                    Slot::String("events".into()),
                    Slot::Null,
                    Slot::String(reason::MALFORMED.into()),
                    Slot::String("not an event".into()),
                    Slot::Bytes(b"raw".as_slice().into()),
                ],
                origin,
                1,
            ),
        }
    }
    Block {
        events: events.finish(),
        dead_letters: dead_letters.finish(),
        records: records.len() as u64,
        skipped: Vec::new(),
        lags: Vec::new(),
        published_ms: 0,
    }
}

/// Changes of the reference as it is read.
pub(crate) fn reference_block(changes: &[(i64, Option<String>)], complete: bool) -> ReferenceBlock {
    let mut updates = BatchBuilder::new(reference_schema(false));
    for (location, name) in changes {
        let slot = name
            .as_ref()
            .map_or(Slot::Null, |name| Slot::String(name.as_str().into()));
        let diff = if name.is_some() { 1 } else { -1 };
        updates.push(&[Slot::Int64(*location), slot], Origin::default(), diff);
    }
    ReferenceBlock {
        updates: vec![updates.finish()],
        complete,
    }
}

/// Collects what it is given; epochs must come in order, and closed.
#[derive(Clone)]
pub(crate) struct Collect {
    pub(crate) rows: Arc<Mutex<Output>>,
    pub(crate) open: Option<u64>,
    pub(crate) written: u64,
}

impl Collect {
    pub(crate) fn new(rows: &Arc<Mutex<Output>>) -> Self {
        Self {
            rows: Arc::clone(rows),
            open: None,
            written: 0,
        }
    }
}

impl Sink for Collect {
    fn write(&mut self, epoch: u64, rows: Batch) {
        assert!(epoch >= self.written && self.open.is_none_or(|open| open == epoch));
        assert!(!rows.is_empty(), "no empty batches");
        // A row alone may be as large as it is, and so may two of which one takes back the other;
        // a result is an event and a reference row.
        let is_bounded = rows.len() <= 2 || rows.bytes() <= 2 * BATCH_BYTES_MAX;
        assert!(is_bounded, "no batches that are too large");
        self.open = Some(epoch);
        let mut all = self.rows.lock().unwrap();
        for row in 0..rows.len() {
            let diff = i64::from(rows.diffs()[row]);
            all.entry(epoch).or_default().push((text(&rows, row), diff));
        }
    }

    fn close(&mut self, epoch: u64) {
        assert!(epoch >= self.written, "an epoch is closed once");
        self.open = None;
        self.written = epoch + 1;
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn wake_by(&mut self, _: Waker) {}
}

fn sink(name: &str, rows: &Arc<Mutex<Output>>) -> SinkPort {
    SinkPort {
        name: name.to_owned(),
        single_writer: false,
        sink: Some(Box::new(Collect::new(rows))),
    }
}

/// Takes an output, in an order that does not depend on the workers.
fn sorted(output: &Mutex<Output>) -> Output {
    let mut output = std::mem::take(&mut *output.lock().unwrap());
    output.values_mut().for_each(|rows| rows.sort_unstable());
    output
}

/// The epoch of a script's place, in milliseconds: a minute ends at the sixth.
pub(crate) fn time_of(index: usize) -> u64 {
    (index as u64 + 54) * 1000
}

/// All partitions of a script.
pub(crate) fn partitions(script: &[Epoch]) -> BTreeSet<i32> {
    let partitions = script.iter().flat_map(|epoch| epoch.records.keys());
    partitions.copied().collect()
}

/// Hands over what one worker reads of an epoch.
fn feed(
    setup: Setup,
    epoch: &Epoch,
    (worker, workers): (usize, usize),
    offsets: &mut BTreeMap<i32, i64>,
    sender: &Sender<Block>,
) {
    let schema = setup.events();
    for (partition, records) in &epoch.records {
        let offset = offsets.entry(*partition).or_default();
        if *partition as usize % workers == worker {
            for (part, chunk) in records.chunks(setup.block).enumerate() {
                let from = *offset + (part * setup.block) as i64;
                assert!(sender.send(block(&schema, *partition, from, chunk), 1));
            }
        }
        *offset += records.len() as i64;
    }
    if worker == 0 {
        let lags = epoch.lags.clone();
        let block = Block {
            lags,
            ..Block::default()
        };
        assert!(sender.send(block, 0));
    }
}

/// Runs a script: the epochs of the dataflow are those of `time_of`.
pub(crate) fn run(setup: Setup, script: &[Epoch]) -> Outcome {
    let rows = Arc::new(Mutex::new(Output::new()));
    let dead_letters = Arc::new(Mutex::new(Output::new()));
    let counts = Arc::new(Mutex::new(Counts::default()));
    let barrier = Arc::new(Barrier::new(setup.workers));
    let script: Arc<Vec<Epoch>> = Arc::new(script.to_vec());
    let clocks = Arc::new(Mutex::new(Vec::new()));
    let outputs = (Arc::clone(&rows), Arc::clone(&dead_letters));
    let (all_counts, all_clocks) = (Arc::clone(&counts), Arc::clone(&clocks));
    let guards = timely::execute(timely::Config::process(setup.workers), move |worker| {
        let (rows, dead_letters) = &outputs;
        let in_flight = InFlight::new(1 << 30);
        let (sender, events) = queue::<Block>(in_flight);
        let (reference_sender, reference) = queue::<ReferenceBlock>(InFlight::new(1 << 30));
        let at = (worker.index(), worker.peers());
        let first = at.0 == 0;
        let plan = setup.plan(64);
        let ports = Ports {
            first_of_process: first,
            events: Rc::new(events),
            epoch_bytes_max: usize::MAX,
            reference: first.then(|| Rc::new(reference)),
            replay: Replay::default(),
            bindings: None,
            clock: ExpiryClock::new(None, partitions(&script)),
            keys: BucketRing::new(!setup.wide),
            recent: (0, plan.join.recent_rows(setup.on_disk.then(row_limit))),
            told: BTreeMap::new(),
            checkpoints: None,
            sinks: vec![sink("rows", rows)],
            dead_letters: sink("dead", dead_letters),
        };
        let counts = SharedCounts::default();
        let mut job = worker.dataflow(|scope| dataflow::build(scope, plan, ports, &counts));
        let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
        for (index, epoch) in script.iter().enumerate() {
            let time = time_of(index);
            feed(setup, epoch, at, &mut offsets, &sender);
            if first {
                let changes = reference_block(&epoch.reference, index == 0);
                assert!(reference_sender.send(changes, 1));
            }
            barrier.wait();
            if first {
                let clock_ms = job.mint(time, true, false);
                all_clocks.lock().unwrap().push(clock_ms);
            } else {
                job.mints.advance_to(time + 1);
            }
            // Not only closed: then the next clock is known as well.
            while job.written.less_equal(&time) {
                worker.step_or_park(Some(Duration::from_millis(1)));
            }
            barrier.wait();
        }
        std::mem::take(&mut job.mints).close();
        while !job.written.done() {
            worker.step_or_park(Some(Duration::from_millis(1)));
        }
        *all_counts.lock().unwrap() += *counts.borrow();
    });
    drop(guards.unwrap());
    Outcome {
        rows: sorted(&rows),
        dead_letters: sorted(&dead_letters),
        counts: *counts.lock().unwrap(),
        clocks: std::mem::take(&mut *clocks.lock().unwrap()),
    }
}
