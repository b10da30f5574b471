//! Reads a topic as it stands, as often as one likes: for audits, and what the job has written for
//! itself.
//!
//! It is apart from `reader`, which decodes into a worker's queue and goes on for as long as the
//! job: here raw records are given to whoever asks, and all partitions have an end.
//!
//! # Invariants
//! * Every reading sees the same records: start and end are resolved once. Compaction and
//!   retention may still take some away; what retention takes is an error.
//! * Partitions come one after the other, each in the order of its offsets.

use std::ops::Range;
use std::time::{Duration, Instant};

use deltajoin_workers::batch::Origin;
use deltajoin_workers::ports::Stop;
use tracing::warn;

use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::ffi::Consumer;
use crate::connectors::kafka::messages::Item;
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::{Error, settings};

/// Enough records to spread what a batch costs.
const BATCH_RECORDS_MAX: usize = 2_000;
/// How late an error of the client is noticed.
const IDLE: Duration = Duration::from_millis(100);
/// How long transactions are waited for: far longer than any job leaves one open.
const SETTLED: Duration = Duration::from_secs(5);

/// A record as the topic holds it.
#[derive(Clone, Copy, Debug)]
pub struct Scanned<'a> {
    /// Where it stands.
    pub origin: Origin,
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its value; a tombstone has none.
    pub value: Option<&'a [u8]>,
}

/// A topic, to be read more than once, from start to end.
#[derive(Debug)]
pub struct Scan {
    topic: KafkaTopic,
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl Scan {
    /// Asks Kafka for the topic's partitions and offsets; waits for a broker that is away.
    ///
    /// # Errors
    /// If there is no such topic, or Kafka refuses; or if `stop` is set.
    pub fn connect(topic: &KafkaTopic, start: Start, stop: &Stop) -> Result<Self, Error> {
        let mut connection = Connection::open(topic)?;
        let partitions = connection.partitions(stop)?;
        Ok(Self {
            starts: connection.starts(partitions, start, stop)?,
            ends: connection.ends(partitions, stop)?,
            topic: topic.clone(),
        })
    }

    /// A topic of one partition, from the offset `from` on.
    ///
    /// # Errors
    /// As for `connect`.
    pub(super) fn of_rest(
        connection: &mut Connection,
        from: i64,
        stop: &Stop,
    ) -> Result<Self, Error> {
        let start = connection.starts(1, Start::Earliest, stop)?[0];
        Ok(Self {
            starts: vec![start.max(from)],
            ends: connection.ends(1, stop)?,
            topic: connection.topic().clone(),
        })
    }

    /// The same for records that are committed, whatever the topic's settings ask for.
    ///
    /// # Errors
    /// As for `connect`.
    pub fn connect_committed(topic: &KafkaTopic, start: Start, stop: &Stop) -> Result<Self, Error> {
        let mut topic = topic.clone();
        let committed = "read_committed".to_owned();
        topic
            .properties
            .insert("isolation.level".to_owned(), committed);
        Self::connect(&topic, start, stop)
    }

    /// The same, and waits a moment for transactions that are under way: what was written before
    /// this is called is then to be read, if it is committed.
    ///
    /// # Errors
    /// As for `connect`.
    pub fn connect_settled(topic: &KafkaTopic, start: Start, stop: &Stop) -> Result<Self, Error> {
        let mut uncommitted = topic.clone();
        let level = "read_uncommitted".to_owned();
        uncommitted
            .properties
            .insert("isolation.level".to_owned(), level);
        let written = Self::connect(&uncommitted, start, stop)?.ends;
        let deadline = Instant::now() + SETTLED;
        loop {
            let scan = Self::connect_committed(topic, start, stop)?;
            let mut ends = (0..).zip(scan.ends.iter().zip(&written));
            let Some((partition, (offset, _))) = ends.find(|(_, (end, written))| end < written)
            else {
                return Ok(scan);
            };
            if Instant::now() > deadline {
                let topic = &topic.topic;
                warn!("a transaction is open: {topic}[{partition}] is read up to {offset}");
                return Ok(scan);
            }
            std::thread::sleep(IDLE);
        }
    }

    /// Only these ranges of its partitions.
    ///
    /// # Errors
    /// If there are records missing of a range.
    pub fn only(&self, ranges: impl Iterator<Item = (i32, Range<i64>)>) -> Result<Self, Error> {
        let nothing = vec![0; self.starts.len()];
        let mut scan = Self {
            starts: nothing.clone(),
            ends: nothing,
            topic: self.topic.clone(),
        };
        for (partition, range) in ranges {
            let index = usize::try_from(partition).unwrap_or(usize::MAX);
            let end = self.ends.get(index).copied().unwrap_or(0);
            if end < range.end {
                return Err(Error::BoundGone {
                    topic: self.topic.topic.clone(),
                    partition,
                    end,
                    bound: range.end,
                });
            }
            let first = self.starts[index];
            if first > range.start && !range.is_empty() {
                return Err(Error::OffsetGone {
                    topic: self.topic.topic.clone(),
                    partition,
                    offset: range.start,
                    reason: format!("The partition begins at offset {first}."),
                });
            }
            (scan.starts[index], scan.ends[index]) = (range.start, range.end);
        }
        Ok(scan)
    }

    /// The topic.
    pub fn topic(&self) -> &KafkaTopic {
        &self.topic
    }

    /// Where each partition begins.
    pub fn starts(&self) -> impl Iterator<Item = (i32, i64)> {
        (0..).zip(self.starts.iter().copied())
    }

    /// Whether what is read next of each partition is not deleted.
    ///
    /// # Errors
    /// `Error::EventsGone` for the first one of which it is.
    pub fn begins_before(&self, next: impl Iterator<Item = (i32, i64)>) -> Result<(), Error> {
        let first = |partition: i32| self.starts.get(usize::try_from(partition).ok()?);
        for (partition, offset) in next {
            if let Some(first) = first(partition).filter(|first| **first > offset) {
                return Err(Error::EventsGone {
                    topic: self.topic.topic.clone(),
                    partition,
                    offset,
                    reason: format!("The partition begins at offset {first}."),
                });
            }
        }
        Ok(())
    }

    /// How many records there are at most: transactions and compaction leave holes.
    pub fn records_max(&self) -> u64 {
        let ranges = self.starts.iter().zip(&self.ends);
        ranges
            .map(|(start, end)| (end - start).max(0).unsigned_abs())
            .sum()
    }

    /// Gives each record, until `visit` wants no more.
    ///
    /// # Errors
    /// If the topic cannot be read, for a reason that waiting does not cure; or if `stop` is set.
    pub fn run(
        &self,
        stop: &Stop,
        mut visit: impl FnMut(Scanned<'_>) -> bool,
    ) -> Result<(), Error> {
        if self.records_max() == 0 {
            return Ok(());
        }
        let mut reading = Reading::new(&self.topic, stop)?;
        for (partition, (start, end)) in (0..).zip(self.starts.iter().zip(&self.ends)) {
            if !reading.partition(partition, *start..*end, &mut visit)? {
                break;
            }
        }
        Ok(())
    }

    /// Gives the records at these places, as far as they are still there.
    ///
    /// # Errors
    /// As for `run`.
    pub fn get(
        &self,
        origins: &[Origin],
        stop: &Stop,
        mut visit: impl FnMut(Scanned<'_>),
    ) -> Result<(), Error> {
        if origins.is_empty() {
            return Ok(());
        }
        let mut reading = Reading::new(&self.topic, stop)?;
        for Origin { partition, offset } in origins {
            let only = *offset..offset + 1;
            reading.partition(*partition, only, &mut |record| {
                visit(record);
                true
            })?;
        }
        Ok(())
    }
}

/// One reading of a topic.
struct Reading<'a> {
    consumer: Consumer,
    stop: &'a Stop,
    patience: Patience,
    topic: KafkaTopic,
}

impl<'a> Reading<'a> {
    fn new(topic: &KafkaTopic, stop: &'a Stop) -> Result<Self, Error> {
        let mut config = settings::consumer(topic)?;
        // The end is known when a request finds nothing: it must not wait for more.
        config.set("fetch.wait.max.ms", "5");
        let consumer = Consumer::new(&config, &topic.topic, BATCH_RECORDS_MAX);
        Ok(Self {
            consumer: consumer.map_err(|error| Error::from_client(error, topic))?,
            stop,
            patience: Patience::later(topic),
            topic: topic.clone(),
        })
    }

    /// Reads a range of one partition; false if `visit` wants no more.
    fn partition(
        &mut self,
        partition: i32,
        range: Range<i64>,
        visit: &mut impl FnMut(Scanned<'_>) -> bool,
    ) -> Result<bool, Error> {
        let (mut next, end) = (range.start, range.end);
        if next >= end {
            return Ok(true);
        }
        let started = self.consumer.start(partition, next);
        started.map_err(|code| Error::failed(&self.topic, &code.to_string()))?;
        let mut wanted = true;
        while next < end && wanted {
            if self.stop.asked() {
                return Err(Error::Stopped);
            }
            let came = self.consumer.fill(IDLE) > 0;
            let mut faulty = false;
            for item in self.consumer.batch() {
                match item {
                    // What is left of another partition, or of an earlier reading, is passed over.
                    Item::Record(record) if record.partition() == partition => {
                        let offset = record.offset();
                        if wanted && (next..end).contains(&offset) {
                            wanted = visit(Scanned {
                                origin: Origin { partition, offset },
                                key: record.key(),
                                value: record.value(),
                            });
                        }
                        next = next.max(offset + 1);
                    }
                    Item::End {
                        partition: ended,
                        offset,
                    } if ended == partition => next = next.max(offset),
                    Item::Fault {
                        partition: faulted,
                        code,
                        reason,
                    } if faulted == partition => {
                        let at = (partition, next);
                        self.patience
                            .fault(self.consumer.handle(), at, code, &reason)?;
                        faulty = true;
                    }
                    _ => {}
                }
            }
            if came && !faulty {
                self.patience.back();
            }
            self.patience
                .serve(self.consumer.handle(), Duration::ZERO, |_| {})?;
        }
        self.consumer.stop(partition);
        Ok(wanted)
    }
}
