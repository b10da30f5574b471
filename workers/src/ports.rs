//! Ports: what the core needs of the outside world, as contracts that the shell's connectors
//! fulfil.
//!
//! The core decides results and touches nothing outside: no Kafka, no files, no clock. Events and
//! reference rows come in by queues (`crate::queue`), rows go out by `Sink`, time by `Clock`.
//!
//! # Invariants
//! * Nothing here blocks a worker's thread.
//! * The shell calls into the core only by queues and wakers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::batch::{Batch, BatchSchema};
use crate::bindings::Skipped;
use crate::queue::{Receiver, Waker};
use crate::schema::{Column, ColumnType, Schema};

/// Records read together by one reader, decoded: what a worker stamps with an epoch.
///
/// A reader must hand over the records of a partition in the order of their offsets, and a
/// partition must have one reader, which hands over to one worker.
#[derive(Debug, Default)]
pub struct Block {
    /// The events that could be decoded.
    pub events: Batch,
    /// A row of `dead_letter_schema` for each record that could not.
    pub dead_letters: Batch,
    /// How many records were read, decoded or not.
    pub records: u64,
    /// Offsets before these records that the source did not have any more.
    pub skipped: Vec<Skipped>,
    /// Partitions of which it is known now whether there are records behind these.
    pub lags: Vec<(i32, bool)>,
    /// When the oldest of the records was published, in milliseconds since 1970.
    pub published_ms: u64,
}

/// The events of one worker.
pub type Events = Receiver<Block>;

/// Changes of the reference table, on worker 0: a row with diff `+1` replaces the row of its key,
/// one with diff `-1` removes it. The queue's `finished` means that the table will not change any
/// more; `complete` of the last block of the initial content must be set. All changes of one block
/// are of one epoch.
///
/// The queue must have a budget of its own: events that wait for the table must not keep it out.
#[derive(Debug, Default)]
pub struct ReferenceBlock {
    /// The changes, in order, in as many batches as their size takes.
    pub updates: Vec<Batch>,
    /// Whether the initial content is complete with this block: from then on events may be
    /// released.
    pub complete: bool,
}

impl ReferenceBlock {
    /// The bytes of memory that its rows take.
    pub fn bytes(&self) -> usize {
        self.updates.iter().map(Batch::bytes).sum()
    }
}

/// Where rows of closed epochs go: one for each sink and worker that writes to it.
///
/// Calls come from the worker's thread and must not block: a sink that cannot write at once keeps
/// what it was given, which is bounded because readers stop when too much is in flight.
pub trait Sink {
    /// Takes out of the next rows what this sink can never take, as a row larger than any message
    /// of its topic, and returns a dead letter for each. That depends on nothing but the rows: a
    /// replay finds the same, whether they are written already or not.
    fn leave_out(&self, _epoch: u64, _rows: &mut Batch) -> Batch {
        Batch::default()
    }

    /// Takes rows of an epoch, of which there are some. Epochs come in order, and rows in the order
    /// in which they must be written.
    fn write(&mut self, epoch: u64, rows: Batch);

    /// Says that all rows of `epoch` and of the epochs before it have been given.
    fn close(&mut self, epoch: u64);

    /// The first epoch that may still have rows that are not written: all rows of epochs before
    /// it are where a crash of this process cannot lose them.
    fn written(&self) -> u64;

    /// Sets what must be called whenever `written` has grown.
    fn wake_by(&mut self, waker: Waker);

    /// Takes the dead letters for rows that turned out to be more than the sink can take. Those of
    /// an epoch must be here before `written` is beyond it.
    fn rejected(&mut self) -> Batch {
        Batch::default()
    }

    /// How many more of its rows have become dead letters that it has written itself.
    fn written_dead_letters(&mut self) -> u64 {
        0
    }
}

/// The time of day. Only worker 0 asks it, to name epochs; and every worker, to tell latencies.
pub trait Clock: Send + Sync {
    /// Microseconds since 1970. It follows the time of day at the start and never goes back.
    fn now_us(&self) -> u64;

    /// The same in milliseconds.
    fn now_ms(&self) -> u64 {
        self.now_us() / 1000
    }
}

/// Told what a worker has done; calls come from workers' threads and must be cheap.
pub trait Observer: Send + Sync {
    /// The reference table is complete, and the events of this process are being released.
    fn live(&self);

    /// `records` records, the oldest published at `published_ms`, are now written by every sink.
    fn written(&self, records: u64, published_ms: u64);

    /// All sinks of the job have written all epochs before `epoch`.
    fn settled(&self, epoch: u64) {
        let _ = epoch;
    }

    /// A worker needs so many bytes of memory for its largest bucket of keys and for rows that may
    /// be revised, of which these are `rows`; and it is to have `limit`. Told at each checkpoint.
    fn crowded(&self, needed: u64, rows: u64, limit: u64) {
        let _ = (needed, rows, limit);
    }

    /// How many records this process is behind its source.
    fn lag_records(&self) -> u64;

    /// What all workers of the job have done so far; called on process 0 about once a second, and
    /// once when all is done.
    fn progress(&self, progress: &Progress);
}

/// What the job stands at, over all its workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The sum of the counts of all workers.
    pub counts: Counts,
    /// The newest closed epoch; 0 before the first.
    pub epoch: u64,
}

/// What a worker has counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Records read from the events' source, decoded or not.
    pub records: u64,
    /// Records that could be decoded.
    pub events: u64,
    /// Events whose key had not been seen.
    pub distinct: u64,
    /// Events dropped because their key had been seen.
    pub duplicates: u64,
    /// Events older than what is remembered; they are among the dead letters.
    pub late: u64,
    /// Events too far in the future; they are among the dead letters.
    pub future: u64,
    /// Distinct events without a reference row.
    pub unmatched: u64,
    /// Duplicates whose columns differ from those of the event before them.
    pub conflicts: u64,
    /// Duplicates that came when the event before them was not in the window any more, and that
    /// may be better.
    pub late_winners: u64,
    /// Results that were taken back, to be replaced or for good.
    pub retracted: u64,
    /// Rows that may still be revised.
    pub recent_rows: u64,
    /// How many of them are on disk.
    pub cold_rows: u64,
    /// Bytes of memory that they and their indexes take.
    pub recent_bytes: u64,
    /// Records that went to the dead letters.
    pub dead_letters: u64,
    /// Rows handed to sinks: each counts once, however many sinks there are.
    pub rows_out: u64,
    /// Keys that are remembered.
    pub keys: u64,
    /// How many of them are on disk.
    pub cold_keys: u64,
    /// Buckets of time that have keys, added up over the workers.
    pub buckets: u64,
    /// How often a key was looked for in a bucket on disk.
    pub cold_probes: u64,
    /// How often that took a read.
    pub cold_reads: u64,
    /// How often it was there.
    pub cold_found: u64,
    /// Bytes of memory that the keys take.
    pub key_bytes: u64,
    /// Rows of the reference table: on worker 0 those of all of it, or on each those of its part.
    pub reference_rows: u64,
    /// Offsets that the source had deleted before they were read.
    pub missing_offsets: u64,
    /// Records that the source has and this process has not read.
    pub lag_records: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.events += other.events;
        self.distinct += other.distinct;
        self.duplicates += other.duplicates;
        self.late += other.late;
        self.future += other.future;
        self.unmatched += other.unmatched;
        self.conflicts += other.conflicts;
        self.late_winners += other.late_winners;
        self.retracted += other.retracted;
        self.recent_rows += other.recent_rows;
        self.cold_rows += other.cold_rows;
        self.recent_bytes += other.recent_bytes;
        self.dead_letters += other.dead_letters;
        self.rows_out += other.rows_out;
        self.keys += other.keys;
        self.cold_keys += other.cold_keys;
        self.buckets += other.buckets;
        self.cold_probes += other.cold_probes;
        self.cold_reads += other.cold_reads;
        self.cold_found += other.cold_found;
        self.key_bytes += other.key_bytes;
        self.reference_rows += other.reference_rows;
        self.missing_offsets += other.missing_offsets;
        self.lag_records += other.lag_records;
    }
}

/// Names a reason for which a record goes to the dead letters.
pub mod reason {
    /// Not a JSON object, or not UTF-8.
    pub const MALFORMED: &str = "malformed";
    /// A column is missing, null where it must not be, or of another type.
    pub const WRONG_TYPE: &str = "wrong-type";
    /// Larger than `max_record_bytes`.
    pub const TOO_LARGE: &str = "too-large";
    /// No reference row, with `unmatched = "dead-letter"`.
    pub const UNMATCHED: &str = "unmatched";
    /// Older than what is remembered, so it cannot be told from a retry.
    pub const LATE: &str = "late";
    /// Too far in the future.
    pub const FUTURE: &str = "future";
    /// Of the same key as another event, and with other values.
    pub const CONFLICT: &str = "conflict";
}

/// The schema of dead letters; their origin is the rows' own. The key is the topic: partition and
/// offset are beside it.
pub fn dead_letter_schema() -> std::sync::Arc<BatchSchema> {
    BatchSchema::register(Schema::new(
        vec![
            Column::new("topic", ColumnType::String),
            Column::new("timestamp", ColumnType::Timestamp).nullable(),
            Column::new("reason", ColumnType::String),
            Column::new("error", ColumnType::String),
            Column::new("raw", ColumnType::Bytes),
        ],
        vec![0],
    ))
}

/// How long an idle job waits before it mints an epoch all the same: it tells a stuck job from one
/// without data.
pub const IDLE_EPOCH: Duration = Duration::from_millis(100);

/// A flag that the shell sets to stop the job cleanly.
#[derive(Debug, Default)]
pub struct Stop(AtomicU64);

impl Stop {
    /// Asks for a stop; returns how often it has been asked for before.
    pub fn ask(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a stop is asked for.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}
