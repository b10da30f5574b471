//! The events' topic: resolves where reading starts and ends, and starts the readers.
//!
//! It is apart from `readers` because this happens once, while someone waits at the terminal, and
//! that goes on for as long as the job.
//!
//! # Invariants
//! * Start and end offsets are resolved once, before anything is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::Ends;
use deltajoin_workers::ports::{Block, Stop};
use deltajoin_workers::queue::Sender;

use crate::config::{KafkaTopic, OnMissing, Start};
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::missing::Expected;
use crate::connectors::kafka::reader::Range;
use crate::connectors::kafka::readers::{Owner, Readers, Starter};
use crate::connectors::kafka::{Error, Fail, Lag};

/// How long records are waited for that were there before: brokers may still be starting.
const BOUND: Duration = Duration::from_secs(15);
/// How often they are looked for.
const BOUND_PAUSE: Duration = Duration::from_secs(1);

/// What is read, and how.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The topic.
    pub topic: KafkaTopic,
    /// Where reading starts.
    pub start: Start,
    /// What is done without records that were deleted before they were read.
    pub on_missing: OnMissing,
    /// Whether reading ends where the topic ended at the start.
    pub until_end: bool,
    /// The events' schema.
    pub schema: Arc<BatchSchema>,
    /// The largest record that is decoded.
    pub record_bytes_max: usize,
    /// How many threads read for one worker; at most one a partition.
    pub readers_per_worker: usize,
}

/// The events' topic, ready to be read.
#[derive(Debug)]
pub struct Source {
    options: SourceOptions,
    id: Option<String>,
    starts: Vec<i64>,
    /// What is before these offsets is bound.
    bound: Vec<i64>,
    ends: Vec<i64>,
    lag: Arc<Lag>,
}

impl Source {
    /// Asks Kafka for the topic's partitions and offsets; waits for a broker that is away.
    ///
    /// # Errors
    /// If there is no such topic, or Kafka refuses; or if `stop` is set.
    pub fn connect(options: SourceOptions, stop: &Stop) -> Result<Self, Error> {
        let mut connection = Connection::open(&options.topic)?;
        let partitions = connection.partitions(stop)?;
        let id = connection.id(stop)?;
        let starts = connection.starts(partitions, options.start, stop)?;
        let ends = connection.ends(partitions, stop)?;
        let lag = Lag::new();
        Ok(Self {
            options,
            id,
            starts,
            bound: Vec::new(),
            ends,
            lag,
        })
    }

    /// What tells the topic from another of the same name, if the broker can tell.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The topic's partitions.
    pub fn partitions(&self) -> std::ops::Range<i32> {
        0..i32::try_from(self.starts.len()).expect("Kafka counts them in 32 bits")
    }

    /// Where reading of each partition starts.
    pub fn starts(&self) -> Ends {
        self.partitions().zip(self.starts.iter().copied()).collect()
    }

    /// Has reading start where it is bound to: `ranges` tells for each partition where it is read
    /// from, and how far it is bound. A partition that is not among them has come since then, and
    /// is read from offset 0. Waits a while for what is bound.
    ///
    /// # Errors
    /// If records that are bound do not come, if records are gone without which the job does not
    /// go on, or Kafka refuses; or if `stop` is set.
    pub fn resume(&mut self, ranges: &BTreeMap<i32, (i64, i64)>, stop: &Stop) -> Result<(), Error> {
        let mut connection = Connection::open(&self.options.topic)?;
        let deadline = Instant::now() + BOUND;
        while let Some(gone) = self.gone(ranges) {
            if Instant::now() > deadline {
                return Err(gone);
            }
            tracing::warn!(missing = %gone, "waiting for records");
            std::thread::sleep(BOUND_PAUSE);
            let partitions = connection.partitions(stop)?;
            self.ends = connection.ends(partitions, stop)?;
        }
        let count = self.ends.len();
        (self.starts, self.bound) = (vec![0; count], vec![0; count]);
        for (partition, (start, bound)) in ranges {
            let index = usize::try_from(*partition).expect("it was looked for");
            (self.starts[index], self.bound[index]) = (*start, *bound);
        }
        // A reader would find out, but only when peers and sinks are there.
        let lows = connection.starts(count, Start::Earliest, stop)?;
        for (partition, (low, high)) in self.partitions().zip(lows.into_iter().zip(&self.ends)) {
            let range = self.range(partition);
            if low > range.next {
                self.expected().goes_on(range, (low, *high))?;
            }
        }
        Ok(())
    }

    fn expected(&self) -> Expected {
        Expected {
            topic: self.options.topic.topic.clone(),
            id: self.id.clone(),
            on_missing: self.options.on_missing,
        }
    }

    /// The first partition that ends before it is bound to.
    fn gone(&self, ranges: &BTreeMap<i32, (i64, i64)>) -> Option<Error> {
        let end = |partition: i32| {
            let index = usize::try_from(partition).ok()?;
            self.ends.get(index).copied()
        };
        let mut bound = ranges
            .iter()
            .map(|(partition, (_, bound))| (*partition, *bound));
        let (partition, bound) =
            bound.find(|(partition, bound)| end(*partition).unwrap_or(0) < *bound)?;
        Some(Error::BoundGone {
            topic: self.options.topic.topic.clone(),
            partition,
            end: end(partition).unwrap_or(0),
            bound,
        })
    }

    /// How far reading is behind.
    pub fn lag(&self) -> &Arc<Lag> {
        &self.lag
    }

    /// Starts to read: `senders` are the queues of this process's workers. Each is finished once
    /// all its partitions are at their end, with `until_end`; never otherwise, as partitions that
    /// are added to the topic are then read as well.
    ///
    /// # Errors
    /// If a client cannot be made.
    pub fn spawn(
        &self,
        senders: Vec<Sender<Block>>,
        owner: Owner,
        fail: &Fail,
    ) -> Result<Readers, Error> {
        let stop = Arc::<AtomicBool>::default();
        let starter = Starter {
            options: self.options.clone(),
            senders,
            owner,
            lag: Arc::clone(&self.lag),
            stop: Arc::clone(&stop),
            fail: Arc::clone(fail),
            expected: self.expected(),
        };
        let partitions = self.partitions();
        self.lag.grow(partitions.end);
        let ranges: Vec<_> = partitions.clone().map(|one| self.range(one)).collect();
        for (partition, end) in partitions.clone().zip(&self.ends) {
            self.lag.set_end(partition, *end);
        }
        let threads = starter.start(&ranges)?;
        let connection = Connection::open(&self.options.topic)?;
        let watch = starter.watch(connection, partitions.end)?;
        Ok(Readers {
            stop,
            threads,
            watch: Some(watch),
        })
    }

    fn range(&self, partition: i32) -> Range {
        let index = usize::try_from(partition).expect("partitions are counted from 0");
        let (next, end) = (self.starts[index], self.ends[index]);
        Range {
            partition,
            next,
            bound: self.bound.get(index).copied().unwrap_or(next),
            end: if self.options.until_end {
                end
            } else {
                i64::MAX
            },
        }
    }
}
