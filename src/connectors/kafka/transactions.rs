//! Exactly-once: the one transactional producer of a process at a cluster, and the sinks that
//! write through it.
//!
//! It is apart from `committer`, which does the work on a thread of its own, because here a start
//! is waited for: the id is taken from whoever had it.
//!
//! # Invariants
//! * The id is taken once, at `connect`; a producer that loses it never takes it back.
//! * A row is visible to readers of committed records if and only if the progress of its epoch is.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deltajoin_workers::batch::Batch;
use deltajoin_workers::ports::Stop;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::config::KafkaTopic;
use crate::connectors::kafka::committer::Committer;
use crate::connectors::kafka::ffi::{Handle, Producer};
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::sink::{Destination, KafkaSink, Shared};
use crate::connectors::kafka::{Error, Fail, progress, settings};
use crate::fault_point;

/// How long a transaction may stay open: a broker may be away for so long before the job must
/// start again.
const TRANSACTION: Duration = Duration::from_secs(600);
/// What is asked for at least, when the broker allows less.
const TRANSACTION_LEAST: Duration = Duration::from_secs(10);
/// How long one try of taking the id takes, between two looks whether to stop.
const STEP: Duration = Duration::from_secs(1);
/// How long taking it is nothing to speak of.
const QUIET: Duration = Duration::from_secs(2);

/// What transactions are about, and who is told.
#[derive(Clone)]
pub struct TransactionOptions {
    /// The topic of sinks' progress, at the cluster of all the sinks.
    pub progress: KafkaTopic,
    /// How many replicas that topic has when it is made; 0 for the broker's default.
    pub replicas: u16,
    /// The producer's name at the broker, this process's alone.
    pub transactional_id: String,
    /// Is told in the records of progress.
    pub generation: u64,
    /// How long rows wait for others at most, before all are committed.
    pub commit_interval: Duration,
    /// Encoded bytes after which a transaction is committed at once: readers stop when too much
    /// is not yet written, so it must be less than what may be in flight.
    pub bytes_max: usize,
    /// Told when writing has failed for good.
    pub fail: Fail,
}

/// The transactions of a process at one cluster.
pub struct Transactions {
    poll: Handle,
    registered: Arc<Registered>,
    thread: Option<JoinHandle<()>>,
}

/// What the threads of workers and the committer's share.
#[derive(Default)]
pub(super) struct Registered {
    ports: Mutex<Vec<Port>>,
    stopped: OnceLock<Instant>,
}

/// Where one worker hands over the rows of one sink.
pub(super) struct Port {
    pub(super) destination: Arc<Destination>,
    pub(super) sink: String,
    pub(super) shards: Range<usize>,
    pub(super) shared: Arc<Shared>,
}

/// A port, and what has come through it.
pub(super) struct Opened {
    pub(super) port: Port,
    pub(super) route: usize,
    /// Rows of the epoch that is not closed.
    pub(super) rows: Vec<Batch>,
    /// Closed epochs with rows that no transaction has taken yet.
    pub(super) waiting: VecDeque<(u64, Vec<Batch>)>,
    /// The last epoch that the open transaction has all rows of.
    pub(super) closed: u64,
    /// Whether the open transaction has rows from here.
    pub(super) in_transaction: bool,
    /// The progress that is committed.
    pub(super) recorded: u64,
    /// The progress that the open transaction commits.
    pub(super) recording: u64,
}

impl Opened {
    /// A port through which nothing has come.
    pub(super) fn new(port: Port, route: usize) -> Self {
        Self {
            port,
            route,
            rows: Vec::new(),
            waiting: VecDeque::new(),
            closed: 0,
            in_transaction: false,
            recorded: 0,
            recording: 0,
        }
    }

    /// The last epoch of which all rows are committed, once the open transaction is.
    pub(super) fn epoch(&self) -> u64 {
        // Epochs without rows may have been counted as written without coming here.
        self.closed
            .max(self.port.shared.written().saturating_sub(1))
    }
}

impl Registered {
    /// Takes the ports that are new.
    pub(super) fn new_ports(&self) -> Vec<Port> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut ports)
    }

    /// Since when no more rows come.
    pub(super) fn stopped(&self) -> Option<Instant> {
        self.stopped.get().copied()
    }
}

impl Transactions {
    /// Makes the topic of progress when it is missing, and takes the transactional id: from then
    /// on, nobody who had it can commit. Waits for a broker that is away.
    ///
    /// # Errors
    /// If the topic of progress would forget, or Kafka refuses; or if `stop` is set.
    pub fn connect(options: TransactionOptions, stop: &Stop) -> Result<Self, Error> {
        progress::TOPIC.open(&options.progress, options.replicas, stop)?;
        fault_point::reach("transactions.init");
        let producer = take_id(&options.progress, &options.transactional_id, stop)?;
        fault_point::reach("transactions.initialized");
        let poll = producer.handle().share();
        let registered = Arc::new(Registered::default());
        let topic = options.progress.clone();
        let committer = Committer::new(options, Arc::clone(&registered), producer)?;
        let thread = std::thread::Builder::new()
            .name("transactions".to_owned())
            .spawn(move || committer.run())
            .map_err(|error| Error::failed(&topic, &format!("no thread for it: {error}")))?;
        Ok(Self {
            poll,
            registered,
            thread: Some(thread),
        })
    }

    /// Takes transactional ids that this generation does not use, so that whoever has them can
    /// commit nothing any more, and gives them up. Waits for a broker that is away.
    ///
    /// # Errors
    /// If Kafka refuses, or `stop` is set.
    pub fn fence(topic: &KafkaTopic, ids: &[String], stop: &Stop) -> Result<(), Error> {
        for id in ids {
            drop(take_id(topic, id, stop)?);
        }
        Ok(())
    }
}

impl Drop for Transactions {
    fn drop(&mut self) {
        self.registered.stopped.get_or_init(Instant::now);
        self.poll.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of transactions has panicked");
        }
    }
}

impl Destination {
    /// A sink to this topic for one worker, which owns these shards: its rows are committed
    /// together with those of all sinks that are opened in the same transactions. The topic must be
    /// at the cluster of the transactions.
    ///
    /// # Panics
    /// If the worker owns no shard.
    pub fn open_in(
        self: &Arc<Self>,
        transactions: &Transactions,
        sink: &str,
        shards: Range<usize>,
    ) -> KafkaSink {
        assert!(!shards.is_empty(), "a worker owns a shard at least");
        let shared = Arc::new(Shared::default());
        let registered = &transactions.registered;
        let mut ports = registered
            .ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ports.push(Port {
            destination: Arc::clone(self),
            sink: sink.to_owned(),
            shards,
            shared: Arc::clone(&shared),
        });
        drop(ports);
        let poll = transactions.poll.share();
        poll.wake();
        KafkaSink::new(shared, poll, None)
    }
}

/// A producer that has taken its id: the transaction that was open under it is aborted.
fn take_id(topic: &KafkaTopic, id: &str, stop: &Stop) -> Result<Producer, Error> {
    let mut timeout = TRANSACTION;
    let mut patience = Patience::at_start(topic);
    let began = Instant::now();
    loop {
        let config = settings::transactional(topic, id, timeout)?;
        let producer = Producer::new(&config).map_err(|error| Error::from_client(error, topic))?;
        // A client that is not connected yet would look for its coordinator half a second later.
        // If it cannot be, taking the id says so.
        let client = producer.handle().client();
        client.fetch_metadata(Some(&topic.topic), STEP).ok();
        loop {
            let Err(fault) = producer.init_transactions(STEP) else {
                patience.back();
                return Ok(producer);
            };
            if fault.code == Code::InvalidTransactionTimeout && timeout / 2 >= TRANSACTION_LEAST {
                timeout /= 2;
                break;
            }
            if !fault.retriable {
                return Err(Error::transaction(id, topic, fault));
            }
            // The transaction of whoever had the id is ended first.
            if began.elapsed() > QUIET {
                patience.away(producer.handle().client(), &fault.reason);
            }
            patience.serve(producer.handle(), Duration::ZERO, |_| {})?;
            if stop.asked() {
                return Err(Error::Stopped);
            }
        }
    }
}
