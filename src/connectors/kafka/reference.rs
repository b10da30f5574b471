//! The reference table in a compacted topic: its whole content first, then every change.
//!
//! It is apart from the events' source because it is small, must be complete before anything is
//! joined, and cannot leave bad records out in silence: a missing row makes wrong results.
//!
//! # Invariants
//! * The initial content is what the topic holds up to the ends that it had at the start; it is
//!   complete or the job ends.
//! * Changes of one key come in the order of their offsets: a key is in one partition.
//! * A bad record that comes later changes nothing: the row of its key stays as it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deltajoin_workers::batch::{Batch, Gather, Origin};
use deltajoin_workers::ports::{ReferenceBlock, Stop, reason};
use deltajoin_workers::queue::Sender;
use deltajoin_workers::schema::Schema;
use tracing::{error, info};

use crate::codec::json::{Decoder, Reject};
use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::ffi::{Consumer, Record};
use crate::connectors::kafka::fit::start_of;
use crate::connectors::kafka::messages::Item;
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::{Error, Fail, OnRejected, Rejected, settings};

/// Enough records to spread what a block costs.
const BLOCK_RECORDS_MAX: usize = 2_000;
/// How late a stop is noticed.
const IDLE: Duration = Duration::from_millis(100);

/// What is read, and who is told.
#[derive(Clone)]
pub struct ReferenceOptions {
    /// The topic: keys are JSON objects of the key columns, values JSON rows or tombstones.
    pub topic: KafkaTopic,
    /// The reference table's schema. Blocks have `codec::reference_schema` of it: a tombstone
    /// becomes a row with diff -1 that has nothing but its key.
    pub schema: Schema,
    /// The largest record that is decoded.
    pub record_bytes_max: usize,
    /// Whether reading ends with the initial content.
    pub until_end: bool,
    /// Told of bad records that come after the initial content.
    pub on_rejected: OnRejected,
}

/// The reference topic, ready to be read.
pub struct Reference {
    options: ReferenceOptions,
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl Reference {
    /// Asks Kafka for the topic's partitions and offsets; waits for a broker that is away.
    ///
    /// # Errors
    /// If there is no such topic, or Kafka refuses; or if `stop` is set.
    pub fn connect(options: ReferenceOptions, stop: &Stop) -> Result<Self, Error> {
        let mut connection = Connection::open(&options.topic)?;
        let partitions = connection.partitions(stop)?;
        Ok(Self {
            starts: connection.starts(partitions, Start::Earliest, stop)?,
            ends: connection.ends(partitions, stop)?,
            options,
        })
    }

    /// The columns and key of the table.
    pub fn schema(&self) -> &Schema {
        &self.options.schema
    }

    /// Reads the topic on a thread of its own until `stop` is set or the queue is closed.
    ///
    /// # Errors
    /// If a client or a thread cannot be made.
    pub fn spawn(
        self,
        sender: Sender<ReferenceBlock>,
        stop: Arc<AtomicBool>,
        fail: Fail,
    ) -> Result<std::thread::JoinHandle<()>, Error> {
        let topic = self.options.topic.clone();
        let mut reading = Reading::new(self, sender)?;
        let thread = std::thread::Builder::new()
            .name("reference".to_owned())
            .spawn(move || {
                if let Err(error) = reading.run(&stop) {
                    fail(error);
                }
            });
        thread.map_err(|error| Error::failed(&topic, &format!("no thread for it: {error}")))
    }
}

/// The topic being read.
struct Reading {
    options: ReferenceOptions,
    sender: Sender<ReferenceBlock>,
    consumer: Consumer,
    patience: Patience,
    /// The offset that is read next, of each partition.
    next: Vec<i64>,
    /// Where the initial content ends, of each partition.
    ends: Vec<i64>,
    complete: bool,
    changes: Changes,
}

impl Reading {
    fn new(reference: Reference, sender: Sender<ReferenceBlock>) -> Result<Self, Error> {
        let topic = &reference.options.topic;
        let config = settings::consumer(topic)?;
        let consumer = Consumer::new(&config, &topic.topic, BLOCK_RECORDS_MAX);
        Ok(Self {
            consumer: consumer.map_err(|error| Error::from_client(error, topic))?,
            patience: Patience::later(topic),
            changes: Changes::new(&reference.options),
            next: reference.starts,
            ends: reference.ends,
            complete: false,
            options: reference.options,
            sender,
        })
    }

    fn run(&mut self, stop: &AtomicBool) -> Result<(), Error> {
        for (partition, start) in (0..).zip(&self.next) {
            let started = self.consumer.start(partition, *start);
            started.map_err(|code| Error::failed(&self.options.topic, &code.to_string()))?;
        }
        while !stop.load(Ordering::Relaxed) && !self.sender.closed() {
            let mut bounds = self.next.iter().zip(&self.ends);
            if !self.complete && bounds.all(|(next, end)| next >= end) {
                if !self.complete()? {
                    break;
                }
                if self.options.until_end {
                    self.sender.finish();
                    break;
                }
            }
            if self.consumer.fill(IDLE) > 0 && !self.take_batch()? {
                break;
            }
            self.patience
                .serve(self.consumer.handle(), Duration::ZERO, |_| {})?;
        }
        Ok(())
    }

    /// Says that the initial content is complete. Returns false if nobody listens any more.
    fn complete(&mut self) -> Result<bool, Error> {
        if let Some(bad) = self.changes.first_bad(&self.ends) {
            return Err(Error::BadReference {
                topic: bad.topic.clone(),
                partition: bad.origin.partition,
                offset: bad.origin.offset,
                reason: bad.error.clone(),
            });
        }
        self.complete = true;
        // Of records behind the initial content, some may have come with it.
        self.tell_bad();
        let last = ReferenceBlock {
            complete: true,
            ..ReferenceBlock::default()
        };
        info!(topic = self.options.topic.topic, "read the reference table");
        Ok(self.sender.send(last, 0))
    }

    /// Hands the changes of the current batch over. Returns false if no more are wanted.
    fn take_batch(&mut self) -> Result<bool, Error> {
        let mut raw_bytes = 0;
        for item in self.consumer.batch() {
            match item {
                Item::Record(record) => {
                    raw_bytes += record.value().map_or(0, <[u8]>::len);
                    self.changes.take(record);
                    self.next[index(record.partition())] = record.offset() + 1;
                }
                Item::End { partition, offset } => {
                    let next = &mut self.next[index(partition)];
                    *next = offset.max(*next);
                }
                Item::Fault {
                    partition,
                    code,
                    reason,
                } => {
                    let at = (partition, self.next[index(partition)]);
                    self.patience
                        .fault(self.consumer.handle(), at, code, &reason)?;
                }
            }
        }
        let updates = self.changes.finish();
        if self.complete {
            self.tell_bad();
        }
        if updates.is_empty() {
            return Ok(true);
        }
        self.patience.back();
        let bytes = updates.bytes().max(raw_bytes);
        let block = ReferenceBlock {
            updates: vec![updates],
            complete: false,
        };
        Ok(self.sender.send(block, bytes))
    }

    /// Tells of bad records that change nothing.
    fn tell_bad(&mut self) {
        for bad in self.changes.take_bad() {
            let Origin { partition, offset } = bad.origin;
            let (topic, reason) = (&bad.topic, &bad.error);
            error!(
                topic,
                partition, offset, reason, "bad reference record; the old row stays"
            );
            (self.options.on_rejected)(bad);
        }
    }
}

fn index(partition: i32) -> usize {
    usize::try_from(partition).expect("partitions are counted from 0")
}

/// Records on their way to becoming changes.
struct Changes {
    rows: Decoder,
    /// The keys of rows that are no tombstones, to be compared with those in the rows.
    keys: Decoder,
    steps: Vec<Step>,
    /// Bad records by key: a later record of the same key makes good.
    bad: BTreeMap<Vec<u8>, Rejected>,
    topic: String,
    record_bytes_max: usize,
}

/// One record.
struct Step {
    key: Vec<u8>,
    origin: Origin,
    raw: Vec<u8>,
    decoded: Result<Decoded, Reject>,
}

/// Where a record's row is.
enum Decoded {
    /// A row of `rows`, and its key's row of `keys`.
    Row { row: usize, key: usize },
    /// A removal in `rows`.
    Removal { row: usize },
    /// The removal of a key that no row can have.
    Nothing,
}

impl Changes {
    fn new(options: &ReferenceOptions) -> Self {
        let decoder = || Decoder::for_reference(&options.schema, options.record_bytes_max);
        Self {
            rows: decoder(),
            keys: decoder(),
            steps: Vec::new(),
            bad: BTreeMap::new(),
            topic: options.topic.topic.clone(),
            record_bytes_max: options.record_bytes_max,
        }
    }

    fn take(&mut self, record: Record<'_>) {
        let origin = Origin {
            partition: record.partition(),
            offset: record.offset(),
        };
        self.push(record.key(), record.value(), origin);
    }

    fn push(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, origin: Origin) {
        let decoded = match value {
            // A key that cannot be decoded has no row to remove.
            None => Ok(match self.rows.remove(key, origin) {
                Ok(()) => Decoded::Removal {
                    row: self.rows.rows() - 1,
                },
                Err(_) => Decoded::Nothing,
            }),
            Some(_) => self.push_row(key, value, origin),
        };
        self.steps.push(Step {
            key: key.unwrap_or_default().to_vec(),
            origin,
            raw: start_of(value.unwrap_or_default(), self.record_bytes_max).to_vec(),
            decoded,
        });
    }

    fn push_row(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        origin: Origin,
    ) -> Result<Decoded, Reject> {
        self.keys.remove(key, origin).map_err(|mut reject| {
            reject.error.insert_str(0, "key: ");
            reject
        })?;
        self.rows.decode(value, origin)?;
        Ok(Decoded::Row {
            row: self.rows.rows() - 1,
            key: self.keys.rows() - 1,
        })
    }

    /// Takes the changes, without bad records.
    fn finish(&mut self) -> Batch {
        let (rows, keys) = (self.rows.finish(), self.keys.finish());
        let mut kept = Vec::with_capacity(rows.len());
        for step in self.steps.drain(..) {
            let (reason, error) = match step.decoded {
                Ok(Decoded::Row { row, key }) if rows.keys().get(row) != keys.keys().get(key) => (
                    reason::MALFORMED,
                    "the key differs from the key columns".to_owned(),
                ),
                Ok(Decoded::Row { row, .. } | Decoded::Removal { row }) => {
                    kept.push((0, row));
                    self.bad.remove(&step.key);
                    continue;
                }
                Ok(Decoded::Nothing) => {
                    self.bad.remove(&step.key);
                    continue;
                }
                Err(reject) => (reject.reason, reject.error),
            };
            let topic = self.topic.clone();
            let bad = Rejected {
                topic,
                origin: step.origin,
                reason,
                error,
                raw: step.raw,
            };
            // The first of a key is kept: it says whether the initial content is bad.
            self.bad.entry(step.key).or_insert(bad);
        }
        if kept.len() == rows.len() {
            return rows;
        }
        let mut gather = Gather::default();
        gather.push(rows);
        gather.rows(&kept)
    }

    /// The first bad record below the ends of the partitions.
    fn first_bad(&self, ends: &[i64]) -> Option<&Rejected> {
        let is_below = |origin: Origin| origin.offset < ends[index(origin.partition)];
        let bad = self.bad.values().filter(|bad| is_below(bad.origin));
        bad.min_by_key(|bad| bad.origin)
    }

    /// Takes the bad records.
    fn take_bad(&mut self) -> impl Iterator<Item = Rejected> {
        std::mem::take(&mut self.bad).into_values()
    }
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::batch::Slot;
    use deltajoin_workers::schema::{Column, ColumnType};

    use super::*;

    fn changes() -> Changes {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String),
        ];
        Changes::new(&ReferenceOptions {
            topic: KafkaTopic {
                brokers: String::new(),
                topic: "places".to_owned(),
                properties: BTreeMap::default(),
            },
            schema: Schema::new(columns, vec![0]),
            record_bytes_max: 1000,
            until_end: false,
            on_rejected: Arc::new(|_| {}),
        })
    }

    fn push(changes: &mut Changes, offset: i64, key: &str, value: Option<&str>) {
        let origin = Origin {
            partition: 0,
            offset,
        };
        changes.push(Some(key.as_bytes()), value.map(str::as_bytes), origin);
    }

    #[test]
    fn a_tombstone_removes_and_a_bad_record_leaves_the_others_alone() {
        let mut changes = changes();
        push(
            &mut changes,
            0,
            r#"{"id":1}"#,
            Some(r#"{"id":1,"name":"a"}"#),
        );
        push(
            &mut changes,
            1,
            r#"{"id":2}"#,
            Some(r#"{"id":3,"name":"b"}"#),
        );
        push(&mut changes, 2, r#"{"id":4}"#, Some(r#"{"id":4}"#));
        push(&mut changes, 3, "x", Some(r#"{"id":5,"name":"c"}"#));
        push(&mut changes, 4, r#"{"id":1}"#, None);
        push(
            &mut changes,
            5,
            r#"{"id":6}"#,
            Some(r#"{"id":6,"name":"d"}"#),
        );
        let batch = changes.finish();
        assert_eq!(batch.diffs(), [1, -1, 1]);
        assert_eq!(batch.offsets(), [0, 4, 5]);
        assert_eq!(batch.slot(1, 1), Slot::Null);
        assert_eq!(
            changes.first_bad(&[i64::MAX]).map(|bad| bad.origin.offset),
            Some(1)
        );
        let mut bad: Vec<_> = changes.take_bad().collect();
        bad.sort_by_key(|bad| bad.origin);
        let errors: Vec<_> = bad.iter().map(|bad| &*bad.error).collect();
        assert_eq!(errors[0], "the key differs from the key columns");
        assert!(errors[1].contains("\"name\" is missing"), "{errors:?}");
        assert!(errors[2].starts_with("key: "), "{errors:?}");
    }

    #[test]
    fn what_comes_behind_the_initial_content_does_not_make_that_bad() {
        let mut changes = changes();
        push(&mut changes, 7, r#"{"id":1}"#, Some("junk"));
        push(&mut changes, 8, r#"{"id":1}"#, Some("more junk"));
        changes.finish();
        assert!(changes.first_bad(&[7]).is_none());
        assert_eq!(
            changes.first_bad(&[8]).map(|bad| bad.origin.offset),
            Some(7)
        );
    }

    #[test]
    fn a_later_record_of_the_same_key_makes_good() {
        let mut changes = changes();
        push(&mut changes, 0, r#"{"id":1}"#, Some("junk"));
        push(&mut changes, 1, "x", Some("junk"));
        changes.finish();
        assert!(changes.first_bad(&[i64::MAX]).is_some());
        push(
            &mut changes,
            2,
            r#"{"id":1}"#,
            Some(r#"{"id":1,"name":"a"}"#),
        );
        push(&mut changes, 3, "x", None);
        assert_eq!(changes.finish().len(), 1);
        assert!(changes.first_bad(&[i64::MAX]).is_none());
    }
}
