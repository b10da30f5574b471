//! The reference table in a compacted topic: its whole content first, then every change.
//!
//! It is apart from the events' source because it is small, must be complete before anything is
//! joined, and cannot leave bad records out in silence: a missing row makes wrong results.
//!
//! # Invariants
//! * The initial content is what the topic holds up to the ends that it had at the start. If a
//!   record of it is bad, whoever has a row for its key keeps that; else the job ends.
//! * Changes of one key come in the order of their offsets: a key is in one partition.
//! * A bad record that comes later changes nothing: the row of its key stays as it was.
//! * A partition that was not there at the start is read from offset 0.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deltajoin_workers::ports::{ReferenceBlock, Stop};
use deltajoin_workers::queue::Sender;
use deltajoin_workers::schema::Schema;
use tracing::{debug, error, info};

use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::changes::{Changes, index, place};
use crate::connectors::kafka::client::{Connection, describe};
use crate::connectors::kafka::ffi::Consumer;
use crate::connectors::kafka::messages::Item;
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::readers::LOOK;
use crate::connectors::kafka::{Error, Fail, Rejected, settings};

/// Enough records to spread what a block costs.
const BLOCK_RECORDS_MAX: usize = 2_000;
/// How late a stop is noticed.
const IDLE: Duration = Duration::from_millis(100);

/// What is read.
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
}

/// Who has the table. Calls come from the thread that reads the topic.
pub trait Holder: Send {
    /// The initial content is read but for the newest records of these keys, which are bad: whether
    /// there is a table whose rows stand in for them.
    fn stands_in(&mut self, keys: Vec<u128>) -> bool;

    /// A bad record changes nothing.
    fn rejected(&mut self, record: Rejected);

    /// What is wrong from now on with the newest record of a key; nothing if none is bad.
    fn fault(&mut self, fault: Option<&str>);
}

/// Nobody has a table yet, and all of it must be good.
impl Holder for () {
    fn stands_in(&mut self, _: Vec<u128>) -> bool {
        false
    }

    fn rejected(&mut self, _: Rejected) {}

    fn fault(&mut self, _: Option<&str>) {}
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
        holder: Box<dyn Holder>,
        stop: Arc<AtomicBool>,
        fail: Fail,
    ) -> Result<std::thread::JoinHandle<()>, Error> {
        let topic = self.options.topic.clone();
        let mut reading = Reading::new(self, sender, holder)?;
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
    holder: Box<dyn Holder>,
    consumer: Consumer,
    patience: Patience,
    /// The offset that is read next, of each partition.
    next: Vec<i64>,
    /// Where the initial content ends, of each partition.
    ends: Vec<i64>,
    complete: bool,
    changes: Changes,
    /// When the topic was last asked for its partitions.
    looked: Instant,
}

impl Reading {
    fn new(
        reference: Reference,
        sender: Sender<ReferenceBlock>,
        holder: Box<dyn Holder>,
    ) -> Result<Self, Error> {
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
            looked: Instant::now(),
            options: reference.options,
            sender,
            holder,
        })
    }

    fn run(&mut self, stop: &AtomicBool) -> Result<(), Error> {
        for (partition, start) in (0..).zip(self.next.clone()) {
            self.start(partition, start)?;
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
            if self.complete && self.looked.elapsed() >= LOOK {
                self.look()?;
            }
        }
        Ok(())
    }

    fn start(&mut self, partition: i32, offset: i64) -> Result<(), Error> {
        let started = self.consumer.start(partition, offset);
        started.map_err(|code| Error::failed(&self.options.topic, &code.to_string()))
    }

    /// Reads partitions that are new, from their beginning.
    fn look(&mut self) -> Result<(), Error> {
        let topic = self.options.topic.topic.clone();
        let found = describe(self.consumer.handle(), &topic);
        self.looked = Instant::now();
        let partitions = match found {
            Ok(found) => found.partitions,
            // Reading tells what is wrong, or waits.
            Err(error) => {
                debug!(%error, topic, "could not look at the topic");
                return Ok(());
            }
        };
        while self.next.len() < partitions {
            let partition = self.next.len();
            info!(topic, partition, "found a new partition");
            self.next.push(0);
            self.ends.push(0);
            let partition = i32::try_from(partition).expect("Kafka counts them in 32 bits");
            self.start(partition, 0)?;
        }
        Ok(())
    }

    /// Says that the initial content is complete. Returns false if nobody listens any more.
    fn complete(&mut self) -> Result<bool, Error> {
        let stands_in = self.holder.stands_in(self.changes.bad_keys());
        if let Some(bad) = self.changes.first_bad(&self.ends)
            && !stands_in
        {
            return Err(Error::BadReference {
                place: place(bad),
                reason: bad.error.clone(),
            });
        }
        self.complete = true;
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
        } else {
            self.changes.forget_outdated();
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

    /// Tells of bad records, which change nothing, and of what is bad now.
    fn tell_bad(&mut self) {
        for bad in self.changes.untold() {
            let (place, reason) = (place(&bad), &bad.error);
            error!("bad reference record {place}; the row of its key stays as it was: {reason}");
            self.holder.rejected(bad);
        }
        self.holder.fault(self.changes.fault());
    }
}
