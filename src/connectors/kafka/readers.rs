//! The threads of the events' topic: those that read, and one that looks at what the topic has
//! become meanwhile.
//!
//! They are apart from `source`, which resolves where they start, because partitions that are found
//! while the job runs get readers in the same way as those that were there.
//!
//! # Invariants
//! * A partition has one reader, which hands over to one worker.
//! * A partition that was not there at the start is read from offset 0.
//! * Another topic of the same name ends the job: its records are never those of the one before.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deltajoin_workers::ports::Block;
use deltajoin_workers::queue::Sender;

use crate::codec::json::Decoder;
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::missing::Expected;
use crate::connectors::kafka::reader::{self, Reader};
use crate::connectors::kafka::{Error, Fail, Lag, SourceOptions};

/// How often the topic is looked at: one small request, and seldom enough to be no load.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// How late an end of the job is noticed meanwhile.
const IDLE: Duration = Duration::from_millis(100);

/// Which worker of this process reads a partition, by its place among those of the process; none if
/// another process reads it.
pub type Owner = Arc<dyn Fn(i32) -> Option<usize> + Send + Sync>;

/// Starts readers.
pub(super) struct Starter {
    pub(super) options: SourceOptions,
    /// The queues of this process's workers.
    pub(super) senders: Vec<Sender<Block>>,
    pub(super) owner: Owner,
    pub(super) lag: Arc<Lag>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) fail: Fail,
    pub(super) expected: Expected,
}

impl Starter {
    /// Starts to read what this process reads of `ranges`. The queue of a worker is finished once
    /// all its ranges have come to their ends.
    pub(super) fn start(&self, ranges: &[reader::Range]) -> Result<Vec<JoinHandle<()>>, Error> {
        let mut threads = Vec::new();
        for (worker, sender) in self.senders.iter().enumerate() {
            let owned = |range: &&reader::Range| (self.owner)(range.partition) == Some(worker);
            let own: Vec<_> = ranges.iter().filter(owned).copied().collect();
            for range in &own {
                self.lag.set_next(range.partition, range.next);
            }
            self.start_for(own, sender, &mut threads)?;
        }
        Ok(threads)
    }

    fn start_for(
        &self,
        mut ranges: Vec<reader::Range>,
        sender: &Sender<Block>,
        threads: &mut Vec<JoinHandle<()>>,
    ) -> Result<(), Error> {
        ranges.retain(|range| range.next < range.end);
        if ranges.is_empty() {
            if self.options.until_end {
                sender.finish();
            }
            return Ok(());
        }
        let count = self.options.readers_per_worker.clamp(1, ranges.len());
        let reading = Arc::new(AtomicUsize::new(count));
        for index in 0..count {
            let own: Vec<_> = ranges.iter().skip(index).step_by(count).copied().collect();
            let name = format!("reader-{}", own[0].partition);
            let decoder = Decoder::new(
                Arc::clone(&self.options.schema),
                self.options.record_bytes_max,
            );
            let mut reader = Reader::new(
                &self.options,
                own,
                decoder,
                sender.clone(),
                &self.lag,
                self.expected.clone(),
            )?;
            let (stop, fail) = (Arc::clone(&self.stop), Arc::clone(&self.fail));
            let (reading, sender) = (Arc::clone(&reading), sender.clone());
            let run = move || match reader.run(&stop) {
                Ok(true) => {
                    if reading.fetch_sub(1, Ordering::AcqRel) == 1 {
                        sender.finish();
                    }
                }
                Ok(false) => {}
                Err(error) => fail(error),
            };
            threads.push(self.thread(name, run)?);
        }
        Ok(())
    }

    fn thread(
        &self,
        name: String,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<JoinHandle<()>, Error> {
        let thread = std::thread::Builder::new().name(name).spawn(run);
        thread.map_err(|error| {
            Error::failed(&self.options.topic, &format!("no thread for it: {error}"))
        })
    }

    /// Looks at the topic now and then, from now on: it had so many partitions.
    pub(super) fn watch(
        self,
        connection: Connection,
        partitions: i32,
    ) -> Result<JoinHandle<()>, Error> {
        let topic = self.options.topic.clone();
        let watch = Watch {
            starter: self,
            connection,
            partitions,
            found: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("topic".to_owned())
            .spawn(move || watch.run());
        thread.map_err(|error| Error::failed(&topic, &format!("no thread for it: {error}")))
    }
}

/// Looks for what has become of the topic.
struct Watch {
    starter: Starter,
    connection: Connection,
    /// The partitions that are known.
    partitions: i32,
    /// Readers of partitions that were found.
    found: Vec<JoinHandle<()>>,
}

impl Watch {
    fn run(mut self) {
        while self.pause() {
            if let Err(error) = self.look() {
                (self.starter.fail)(error);
                break;
            }
        }
        join(self.found.drain(..));
    }

    /// Waits until it is time to look; false at the end of the job.
    fn pause(&self) -> bool {
        let since = Instant::now();
        loop {
            let Starter { senders, stop, .. } = &self.starter;
            if stop.load(Ordering::Relaxed) || senders.iter().all(Sender::closed) {
                return false;
            }
            if since.elapsed() >= LOOK {
                return true;
            }
            std::thread::sleep(IDLE);
        }
    }

    fn look(&mut self) -> Result<(), Error> {
        let SourceOptions {
            topic, until_end, ..
        } = &self.starter.options;
        let now = match self.connection.look() {
            Ok(now) => now,
            // Whoever reads tells what is wrong, or waits.
            Err(error) => {
                tracing::debug!(%error, topic = topic.topic, "could not look at the topic");
                return Ok(());
            }
        };
        self.starter.expected.is(now.id.as_deref())?;
        let partitions = i32::try_from(now.partitions).expect("Kafka counts them in 32 bits");
        if partitions > self.partitions && !until_end {
            let new = self.partitions..partitions;
            tracing::info!(topic = topic.topic, partitions = ?new, "found new partitions");
            self.partitions = partitions;
            self.read(new)?;
        }
        Ok(())
    }

    /// Reads partitions that are new, from their beginning.
    fn read(&mut self, new: Range<i32>) -> Result<(), Error> {
        self.starter.lag.grow(new.end);
        let from_beginning = |partition| reader::Range {
            partition,
            next: 0,
            bound: 0,
            end: i64::MAX,
        };
        let ranges: Vec<_> = new.map(from_beginning).collect();
        self.found.extend(self.starter.start(&ranges)?);
        Ok(())
    }
}

/// The threads of the topic.
#[derive(Debug)]
pub struct Readers {
    pub(super) stop: Arc<AtomicBool>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) watch: Option<JoinHandle<()>>,
}

impl Readers {
    /// Asks the readers to end. One that waits for room in its queue ends when the worker closes
    /// the queue.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until all readers have ended.
    pub fn join(&mut self) {
        join(self.threads.drain(..));
        self.stop();
        join(self.watch.take());
    }
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
