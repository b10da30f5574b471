//! Records how far sinks have come that write at least once, so that a restart repeats about a
//! second of rows.
//!
//! It is apart from `writer` because what is recorded is the job's: an epoch counts when every sink
//! of every process has it, the dead letters of rows that a topic could not take among them.
//!
//! # Invariants
//! * A record is written only after all rows of its epoch are acknowledged.
//! * What is recorded never steps back, and an idle job records nothing.
//! * Only epochs up to one that is bound are recorded: behind it, epochs may be those of a newer
//!   generation that this one has not heard of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;
use tracing::warn;

use crate::config::KafkaTopic;
use crate::connectors::kafka::delivery::deliver;
use crate::connectors::kafka::ffi::{Handle, Producer, Topic};
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::progress::{self, ProgressRecord, encode};
use crate::connectors::kafka::settings::Linger;
use crate::connectors::kafka::{Error, Fail, settings};
use crate::fault_point;

/// How often progress is recorded: a restart repeats the rows of so long.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a stop waits for the last record. Without it, a restart repeats some rows.
const LAST: Duration = Duration::from_secs(5);

/// An epoch that is asked for again and again.
pub type Watched = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Whose progress is recorded, and where.
pub struct RecorderOptions {
    /// The topic of progress, at the cluster of the sinks.
    pub progress: KafkaTopic,
    /// The sinks' names, and the greatest epoch that is recorded for any shard of each.
    pub sinks: Vec<(String, u64)>,
    /// How many shards the job has.
    pub shards: usize,
    /// Is told in the records.
    pub generation: u64,
    /// The last epoch that is bound for good: none behind it has anything to be written.
    pub newest: Watched,
    /// The first epoch that not all sinks have written.
    pub settled: Watched,
    /// Told when recording has failed for good.
    pub fail: Fail,
}

/// Records progress, on a thread of its own, until it is dropped.
pub struct Recorder {
    stopping: Arc<AtomicBool>,
    poll: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Makes the topic of progress when it is missing. Waits for a broker that is away.
    ///
    /// # Errors
    /// If the topic would forget, or Kafka refuses; or if `stop` is set.
    pub fn prepare(topic: &KafkaTopic, replicas: u16, stop: &Stop) -> Result<(), Error> {
        progress::TOPIC.open(topic, replicas, stop).map(|_| ())
    }

    /// Starts to record.
    ///
    /// # Errors
    /// If a client cannot be made.
    pub fn start(options: RecorderOptions) -> Result<Self, Error> {
        let topic = options.progress.clone();
        let failed = |error| Error::from_client(error, &topic);
        let config = settings::producer(&topic, settings::SMALL_MESSAGE_BYTES_MAX, Linger::None)?;
        let producer = Producer::new(&config).map_err(failed)?;
        let poll = producer.handle().share();
        let stopping = Arc::new(AtomicBool::new(false));
        let mut recording = Recording {
            native: producer.topic(&topic.topic).map_err(failed)?,
            producer,
            patience: Patience::later(&topic),
            stopping: Arc::clone(&stopping),
            ending: None,
            options,
        };
        let thread = std::thread::Builder::new().name("progress".to_owned());
        let thread = thread.spawn(move || recording.run());
        let thread =
            thread.map_err(|error| Error::failed(&topic, &format!("no thread for it: {error}")))?;
        Ok(Self {
            stopping,
            poll,
            thread: Some(thread),
        })
    }
}

impl Drop for Recorder {
    /// Records what is written by now.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.poll.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that records progress has panicked");
        }
    }
}

/// The recorder's thread.
struct Recording {
    options: RecorderOptions,
    native: Topic,
    producer: Producer,
    patience: Patience,
    stopping: Arc<AtomicBool>,
    /// Since when a stop waits.
    ending: Option<Instant>,
}

impl Recording {
    fn run(&mut self) {
        match self.record_all() {
            Ok(()) => {}
            Err(Error::Stopped) => {
                let topic = &self.options.progress.topic;
                warn!(
                    topic,
                    "stopped before the last progress was recorded: some rows will be repeated"
                );
            }
            Err(error) => (self.options.fail)(error),
        }
        self.producer.purge();
    }

    fn record_all(&mut self) -> Result<(), Error> {
        let mut due = Instant::now() + INTERVAL;
        loop {
            // Before recording, so that all that was written before the stop is recorded.
            let stopping = self.stopping.load(Ordering::Acquire);
            if stopping {
                self.ending.get_or_insert_with(Instant::now);
            }
            if stopping || Instant::now() >= due {
                self.record()?;
                due = Instant::now() + INTERVAL;
            }
            if stopping {
                return Ok(());
            }
            self.patience.rest();
            let wait = due.saturating_duration_since(Instant::now());
            self.patience.serve(self.producer.handle(), wait, |_| {})?;
        }
    }

    /// Records what is written by now, if it is more than what is recorded.
    fn record(&mut self) -> Result<(), Error> {
        // Epochs behind the newest that is bound may be a newer generation's, if there is one.
        let newest = (self.options.newest)();
        let epoch = (self.options.settled)().saturating_sub(1).min(newest);
        let record = ProgressRecord {
            shards: 0..self.options.shards,
            epoch,
            generation: self.options.generation,
        };
        let mut records = Vec::new();
        for (sink, recorded) in &mut self.options.sinks {
            if *recorded < epoch {
                records.push(encode(sink, &record));
                *recorded = epoch;
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        fault_point::reach("progress.append");
        self.deliver(&records)?;
        fault_point::reach("progress.appended");
        Ok(())
    }

    /// Gives the records to the producer, and waits until all are acknowledged.
    fn deliver(&mut self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Error> {
        let records = records.iter().map(|(key, value)| (Some(&**key), &**value));
        let (stopping, ending) = (&self.stopping, &mut self.ending);
        let given_up = || {
            stopping.load(Ordering::Acquire)
                && ending.get_or_insert_with(Instant::now).elapsed() > LAST
        };
        let to = (&mut self.producer, &self.native);
        let delivery = deliver(to, records, &mut self.patience, given_up)?;
        delivery.failure.map_or(Ok(()), |code| {
            Err(Error::delivery(&self.options.progress, code))
        })
    }
}
