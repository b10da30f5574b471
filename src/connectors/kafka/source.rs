//! The events' topic: resolves where reading starts and ends, and starts the readers.
//!
//! It is apart from `reader` because this happens once, while someone waits at the terminal, and
//! that goes on for as long as the job.
//!
//! # Invariants
//! * Start and end offsets are resolved once, before anything is read.
//! * A partition has one reader, which hands over to one worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::Ends;
use deltajoin_workers::ports::{Block, Stop};
use deltajoin_workers::queue::Sender;

use crate::codec::json::Decoder;
use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::reader::{Range, Reader};
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
    /// Whether reading ends where the topic ended at the start.
    pub until_end: bool,
    /// The events' schema.
    pub schema: Arc<BatchSchema>,
    /// The largest record that is decoded.
    pub record_bytes_max: usize,
    /// How many threads read for one worker; at most one a partition.
    pub readers_per_worker: usize,
}

/// Partitions whose records go to one worker.
pub struct Assignment {
    /// The partitions.
    pub partitions: Vec<i32>,
    /// The worker's queue.
    pub sender: Sender<Block>,
}

/// The events' topic, ready to be read.
#[derive(Debug)]
pub struct Source {
    options: SourceOptions,
    starts: Vec<i64>,
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
        let starts = connection.starts(partitions, options.start, stop)?;
        let ends = connection.ends(partitions, stop)?;
        let lag = Lag::new(partitions);
        Ok(Self {
            options,
            starts,
            ends,
            lag,
        })
    }

    /// The topic's partitions.
    pub fn partitions(&self) -> std::ops::Range<i32> {
        0..i32::try_from(self.starts.len()).expect("Kafka counts them in 32 bits")
    }

    /// Where reading of each partition starts.
    pub fn starts(&self) -> Ends {
        self.partitions().zip(self.starts.iter().copied()).collect()
    }

    /// Has reading start at other offsets, where it was bound to; a partition that is not among
    /// them starts at its beginning. Waits a while for what is `bound`, the end of each partition.
    ///
    /// # Errors
    /// If records that are bound do not come, or Kafka refuses; or if `stop` is set.
    pub fn resume(&mut self, starts: &Ends, bound: &Ends, stop: &Stop) -> Result<(), Error> {
        let mut connection = Connection::open(&self.options.topic)?;
        let partitions = self.starts.len();
        self.starts = connection.starts(partitions, Start::Earliest, stop)?;
        let deadline = Instant::now() + BOUND;
        while let Some(gone) = self.gone(starts.iter().chain(bound)) {
            if Instant::now() > deadline {
                return Err(gone);
            }
            tracing::warn!(missing = %gone, "waiting for records");
            std::thread::sleep(BOUND_PAUSE);
            self.ends = connection.ends(partitions, stop)?;
        }
        for (partition, start) in starts {
            let index = usize::try_from(*partition).expect("it was looked for");
            self.starts[index] = *start;
        }
        Ok(())
    }

    /// The first partition that ends before it is bound to.
    fn gone<'a>(&self, mut bound: impl Iterator<Item = &'a (i32, i64)>) -> Option<Error> {
        let end = |partition: i32| {
            let index = usize::try_from(partition).ok()?;
            self.ends.get(index).copied()
        };
        let short = |(partition, bound): &&(i32, i64)| end(*partition).unwrap_or(0) < *bound;
        let (partition, bound) = *bound.find(short)?;
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

    /// Starts to read. Each worker's queue is finished once all its partitions are at their end,
    /// with `until_end`; never otherwise.
    ///
    /// # Errors
    /// If a client cannot be made.
    ///
    /// # Panics
    /// If a partition does not exist.
    pub fn spawn(&self, assignments: Vec<Assignment>, fail: &Fail) -> Result<Readers, Error> {
        let mut readers = Readers {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for assignment in assignments {
            self.spawn_for(assignment, fail, &mut readers)?;
        }
        Ok(readers)
    }

    fn spawn_for(
        &self,
        assignment: Assignment,
        fail: &Fail,
        readers: &mut Readers,
    ) -> Result<(), Error> {
        let mut ranges: Vec<_> = assignment
            .partitions
            .into_iter()
            .map(|partition| self.range(partition))
            .collect();
        ranges.retain(|range| range.next < range.end);
        if ranges.is_empty() {
            if self.options.until_end {
                assignment.sender.finish();
            }
            return Ok(());
        }
        let count = self.options.readers_per_worker.clamp(1, ranges.len());
        let reading = Arc::new(AtomicUsize::new(count));
        for index in 0..count {
            let own = ranges.iter().skip(index).step_by(count).copied().collect();
            let decoder = Decoder::new(
                Arc::clone(&self.options.schema),
                self.options.record_bytes_max,
            );
            let sender = assignment.sender.clone();
            let mut reader = Reader::new(&self.options, own, decoder, sender, &self.lag)?;
            let (stop, fail) = (Arc::clone(&readers.stop), Arc::clone(fail));
            let (reading, sender) = (Arc::clone(&reading), assignment.sender.clone());
            let name = format!("reader-{}", readers.threads.len());
            let thread =
                std::thread::Builder::new()
                    .name(name)
                    .spawn(move || match reader.run(&stop) {
                        Ok(true) => {
                            if reading.fetch_sub(1, Ordering::AcqRel) == 1 {
                                sender.finish();
                            }
                        }
                        Ok(false) => {}
                        Err(error) => fail(error),
                    });
            let thread = thread.map_err(|error| {
                Error::failed(&self.options.topic, &format!("no thread for it: {error}"))
            })?;
            readers.threads.push(thread);
        }
        Ok(())
    }

    fn range(&self, partition: i32) -> Range {
        let index = usize::try_from(partition).expect("partitions are counted from 0");
        let (next, end) = (self.starts[index], self.ends[index]);
        self.lag.set_next(partition, next);
        self.lag.set_end(partition, end);
        Range {
            partition,
            next,
            end: if self.options.until_end {
                end
            } else {
                i64::MAX
            },
        }
    }
}

/// The threads that read.
#[derive(Debug)]
pub struct Readers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Asks the readers to end. One that waits for room in its queue ends when the worker closes
    /// the queue.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until all readers have ended.
    pub fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}
