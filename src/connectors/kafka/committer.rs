//! Writes the rows of all sinks of a process in transactions, on a thread of its own.
//!
//! It is apart from `transactions` because it waits: for epochs, for acknowledgements, for commits.
//!
//! # Invariants
//! * Only whole epochs enter a transaction, so it can be committed between any two of them.
//! * Rows are kept until they are committed, so a transaction can be written again.
//! * A commit of which the outcome is unknown is called again, and never answered by an abort.
//! * `written` grows only by a commit, but for epochs without rows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deltajoin_workers::batch::Batch;
use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::warn;

use crate::codec::Format;
use crate::connectors::kafka::error::reason;
use crate::connectors::kafka::ffi::{Producer, Topic};
use crate::connectors::kafka::messages::TransactionFault;
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::progress::{ProgressRecord, encode};
use crate::connectors::kafka::routes::Routes;
use crate::connectors::kafka::sink::Command;
use crate::connectors::kafka::transactions::{Opened, Registered, TransactionOptions};
use crate::connectors::kafka::writer::{CHUNK_ROWS, IDLE, WAIT, WAITING_BYTES_MAX};
use crate::connectors::kafka::{Error, Rejected};
use crate::fault_point;

/// How long the progress of a sink without rows may be behind that of others.
const BEHIND: Duration = Duration::from_secs(1);
/// How long one call of a commit may take before it is said that it is waited for.
const COMMIT: Duration = Duration::from_secs(1);
/// How long one call of an abort may take before reports are served, on which it waits.
const ABORT: Duration = Duration::from_millis(20);
/// How often a transaction is written again when the client does not say why it cannot go on. It
/// does so once after a row that was too large, whose place in the sequence is empty.
const REWRITES_MAX: usize = 5;
/// How long a stop waits for the last commit: a stop comes when all is written, or when something
/// else has failed.
const LAST: Duration = Duration::from_secs(5);

/// Writes and commits.
pub(super) struct Committer {
    options: TransactionOptions,
    registered: Arc<Registered>,
    ports: Vec<Opened>,
    routes: Routes,
    /// The route of dead letters, if they are written here.
    letters: Option<usize>,
    progress: Topic,
    producer: Producer,
    patience: Patience,
    open: Option<Transaction>,
    committed_at: Instant,
    /// How often the open transaction was written again for no reason that is known.
    rewrites: usize,
}

/// A transaction that has begun.
struct Transaction {
    since: Instant,
    /// What was encoded for it.
    bytes: usize,
    /// Its rows, their epochs, and the routes that they take.
    rows: Vec<(usize, u64, Batch)>,
    /// Rows that no message can hold, and their routes.
    rejected: Vec<(usize, Rejected)>,
    /// How many of the first of them have become dead letters here.
    lettered: usize,
}

impl Committer {
    pub(super) fn new(
        options: TransactionOptions,
        registered: Arc<Registered>,
        producer: Producer,
    ) -> Result<Self, Error> {
        let topic = &options.progress;
        let progress = producer.topic(&topic.topic);
        Ok(Self {
            registered,
            ports: Vec::new(),
            routes: Routes::new(topic.clone()),
            letters: None,
            progress: progress.map_err(|error| Error::from_client(error, topic))?,
            producer,
            patience: Patience::later(topic),
            open: None,
            committed_at: Instant::now(),
            rewrites: 0,
            options,
        })
    }

    /// Writes until it is stopped.
    pub(super) fn run(mut self) {
        if let Err(error) = self.write_all() {
            let error = self.named(error);
            if self.open.is_some() {
                // Spares readers the time until the broker gives the transaction up. If it cannot
                // be aborted, that is no news beside the error.
                self.abort(Some(Instant::now() + LAST)).unwrap_or_default();
            }
            match error {
                Error::Stopped => warn!("stopped before all rows were committed"),
                error => (self.options.fail)(error),
            }
        }
        self.producer.purge();
    }

    fn write_all(&mut self) -> Result<(), Error> {
        let progress = self.options.progress.topic.clone();
        self.wait_for_topic(&progress)?;
        loop {
            // Before taking, so that all that was closed before the stop is taken.
            let stopped = self.registered.stopped().is_some();
            self.admit()?;
            let idle = !self.take();
            for port in 0..self.ports.len() {
                while let Some((epoch, rows)) = self.ports[port].waiting.pop_front() {
                    self.write(port, epoch, rows)?;
                    if self.due().is_zero() {
                        self.commit()?;
                    }
                }
            }
            if stopped {
                return if self.open.is_some() {
                    self.commit()
                } else {
                    Ok(())
                };
            }
            if self.due().is_zero() {
                self.commit()?;
            } else if idle {
                self.step(self.due())?;
            }
        }
    }

    /// Takes in the sinks that are new.
    fn admit(&mut self) -> Result<(), Error> {
        for port in self.registered.new_ports() {
            let route = match self.routes.find(&port.destination) {
                Some(route) => route,
                None => {
                    let topic = &port.destination.options.topic;
                    let native = self.producer.topic(&topic.topic);
                    let native = native.map_err(|error| Error::from_client(error, topic))?;
                    self.wait_for_topic(&topic.topic)?;
                    self.patience.look_for(&topic.topic);
                    self.routes.add(Arc::clone(&port.destination), native)
                }
            };
            let format = &port.destination.options.format;
            if matches!(format, Format::DeadLetters) {
                self.letters = Some(route);
            }
            self.ports.push(Opened::new(port, route));
        }
        Ok(())
    }

    /// Makes the topic's partitions known to the client: a transaction fails with rows for
    /// partitions that it does not know.
    fn wait_for_topic(&mut self, topic: &str) -> Result<(), Error> {
        loop {
            let client = self.producer.handle().client();
            match client.fetch_metadata(Some(topic), COMMIT) {
                Ok(_) => break,
                Err(error) => self.patience.away(client, &reason(&error)),
            }
            self.serve(Duration::ZERO)?;
            self.check_stop()?;
        }
        self.patience.back();
        Ok(())
    }

    /// Takes what the workers have handed over. Returns whether there was anything.
    fn take(&mut self) -> bool {
        let mut commands = VecDeque::new();
        let mut any = false;
        for opened in &mut self.ports {
            let busy = opened.in_transaction || !opened.rows.is_empty();
            opened.port.shared.take(&mut commands, busy);
            any |= !commands.is_empty();
            for command in commands.drain(..) {
                match command {
                    Command::Rows(_, rows) => opened.rows.push(rows),
                    Command::Close(epoch) => {
                        let rows = std::mem::take(&mut opened.rows);
                        opened.waiting.push_back((epoch, rows));
                    }
                }
            }
        }
        any
    }

    /// How long it may take until the next commit.
    fn due(&self) -> Duration {
        match &self.open {
            Some(open) if open.bytes >= self.options.bytes_max => Duration::ZERO,
            Some(open) => {
                let interval = self.options.commit_interval;
                interval.saturating_sub(open.since.elapsed())
            }
            None if self.behind() => BEHIND.saturating_sub(self.committed_at.elapsed()),
            None => IDLE,
        }
    }

    /// Whether a sink's progress is behind that of others, though it has closed their epochs.
    fn behind(&self) -> bool {
        let recorded = self.ports.iter().map(|opened| opened.recorded);
        let greatest = recorded.max().unwrap_or(0);
        let mut ports = self.ports.iter();
        ports.any(|opened| opened.recorded < greatest && opened.epoch() > opened.recorded)
    }

    /// Adds an epoch of one sink to the transaction.
    fn write(&mut self, port: usize, epoch: u64, rows: Vec<Batch>) -> Result<(), Error> {
        let opened = &mut self.ports[port];
        let route = opened.route;
        opened.closed = epoch;
        if rows.is_empty() {
            if !opened.in_transaction {
                opened.port.shared.publish(epoch + 1);
            }
            return Ok(());
        }
        opened.in_transaction = true;
        if self.open.is_none() {
            self.begin()?;
        }
        for batch in rows {
            let open = self.open.as_mut().expect("it has begun");
            open.rows.push((route, epoch, batch.clone()));
            self.push(route, epoch, &batch)?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Error> {
        let begun = self.producer.begin_transaction();
        begun.map_err(|fault| self.failed(fault))?;
        self.open = Some(Transaction {
            since: Instant::now(),
            bytes: 0,
            rows: Vec::new(),
            rejected: Vec::new(),
            lettered: 0,
        });
        Ok(())
    }

    /// Encodes a batch and gives what the lanes have room for. Once the transaction is halted,
    /// what is left is written when it is written again.
    fn push(&mut self, route: usize, epoch: u64, batch: &Batch) -> Result<(), Error> {
        fault_point::reach("rows.send");
        for start in (0..batch.len()).step_by(CHUNK_ROWS) {
            if self.routes.halted() {
                return Ok(());
            }
            let rows = start..batch.len().min(start + CHUNK_ROWS);
            let open = self.open.as_mut().expect("it has begun");
            open.bytes += self
                .routes
                .push(route, (epoch, batch), rows, &mut open.rejected);
            self.write_letters();
            self.step(Duration::ZERO)?;
            while self.routes.bytes() > WAITING_BYTES_MAX && !self.routes.halted() {
                self.check_stop()?;
                self.step(WAIT)?;
            }
        }
        Ok(())
    }

    /// Makes dead letters of the rows that no message can hold, if they are written here too: they
    /// are committed with the rows around them, or not at all.
    fn write_letters(&mut self) {
        let open = self.open.as_mut().expect("it has begun");
        let Some(letters) = self.letters else { return };
        while let Some((route, rejected)) = open.rejected.get(open.lettered) {
            let letter = (self.routes.destination(*route).options.letter_of)(rejected);
            open.lettered += 1;
            let rows = 0..letter.len();
            open.bytes += self
                .routes
                .push(letters, (0, &letter), rows, &mut open.rejected);
        }
    }

    /// Gives what the lanes have room for, and waits for a report.
    fn step(&mut self, timeout: Duration) -> Result<(), Error> {
        self.routes.give(&mut self.producer);
        self.serve(timeout)?;
        self.routes.give(&mut self.producer);
        self.routes.take_failure().map_or(Ok(()), Err)
    }

    fn serve(&mut self, timeout: Duration) -> Result<(), Error> {
        let before = self.routes.in_flight();
        // Librdkafka counts in milliseconds: a fraction of one must not become a busy loop.
        let timeout = Duration::from_millis(timeout.as_micros().div_ceil(1000) as u64);
        let routes = &mut self.routes;
        let reported = |report| routes.reported(report);
        let handle = self.producer.handle();
        self.patience.serve(handle, timeout, reported)?;
        if self.routes.in_flight() < before {
            self.patience.back();
        }
        Ok(())
    }

    /// Commits the open transaction, or one of nothing but progress, and tells that it is done.
    fn commit(&mut self) -> Result<(), Error> {
        if self.open.is_none() {
            self.begin()?;
        }
        while !self.try_flush()? {
            self.write_again()?;
        }
        fault_point::reach("transaction.commit");
        while let Err(fault) = self.producer.commit_transaction(COMMIT) {
            if !fault.retriable {
                return Err(self.failed(fault));
            }
            let client = self.producer.handle().client();
            self.patience.away(client, &fault.reason);
            self.serve(Duration::ZERO)?;
            self.check_stop()?;
        }
        fault_point::reach("transaction.committed");
        self.patience.back();
        self.committed_at = Instant::now();
        self.rewrites = 0;
        let open = self.open.take().expect("it was committed");
        for (index, (route, rejected)) in open.rejected.into_iter().enumerate() {
            if index >= open.lettered {
                (self.routes.destination(route).options.on_rejected)(rejected);
            } else if let Some(opened) = self.ports.iter().find(|port| port.route == route) {
                opened.port.shared.add_dead_letters(1);
            }
        }
        for opened in &mut self.ports {
            opened.recorded = opened.recording;
            if std::mem::take(&mut opened.in_transaction) {
                opened.port.shared.publish(opened.closed + 1);
            }
        }
        Ok(())
    }

    /// Waits until the transaction's rows, and the progress that they are, are acknowledged.
    /// Returns whether they are: if not, it must be written again.
    fn try_flush(&mut self) -> Result<bool, Error> {
        while self.routes.bytes() > 0 && !self.routes.halted() {
            self.check_stop()?;
            self.step(WAIT)?;
        }
        for index in 0..self.ports.len() {
            let opened = &mut self.ports[index];
            opened.recording = opened.epoch();
            if opened.recording <= opened.recorded {
                continue;
            }
            let record = ProgressRecord {
                shards: opened.port.shards.clone(),
                epoch: opened.recording,
                generation: self.options.generation,
            };
            let (key, value) = encode(&opened.port.sink, &record);
            while !self.routes.halted() {
                let message = (&key[..], &value[..]);
                let producer = &mut self.producer;
                if self.routes.give_beside(producer, &self.progress, message) {
                    break;
                }
                self.check_stop()?;
                self.step(WAIT)?;
            }
        }
        while self.routes.in_flight() > 0 && !self.routes.halted() {
            self.check_stop()?;
            self.step(WAIT)?;
        }
        self.routes.take_failure().map_or(Ok(()), Err)?;
        Ok(!self.routes.halted())
    }

    /// Aborts the transaction and writes it again, within the limits that have shown themselves.
    fn write_again(&mut self) -> Result<(), Error> {
        self.abort(None)?;
        let too_large = self.routes.too_large();
        if !too_large {
            self.rewrites += 1;
            let failure = self.routes.take_failure();
            if let Some(error) =
                failure.or_else(|| (self.rewrites > REWRITES_MAX).then(|| self.stuck()))
            {
                return Err(error);
            }
        }
        warn!(
            topic = self.options.progress.topic,
            too_large, "a transaction was refused, and is written again"
        );
        self.routes.clear();
        let rows = self.open.take().map(|open| open.rows).unwrap_or_default();
        self.begin()?;
        for (route, epoch, batch) in &rows {
            self.push(*route, *epoch, batch)?;
        }
        let open = self.open.as_mut().expect("it has begun again");
        open.rows = rows;
        Ok(())
    }

    /// Aborts the transaction, and waits until all that was given is reported.
    fn abort(&mut self, until: Option<Instant>) -> Result<(), Error> {
        let mut aborted = false;
        while !aborted || self.routes.in_flight() > 0 {
            if !aborted {
                match self.producer.abort_transaction(ABORT) {
                    Ok(()) => aborted = true,
                    Err(fault) if fault.retriable => {}
                    Err(fault) => return Err(self.failed(fault)),
                }
            }
            self.serve(if aborted { WAIT } else { Duration::ZERO })?;
            self.check_stop()?;
            if until.is_some_and(|until| Instant::now() > until) {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }

    fn stuck(&self) -> Error {
        self.failed(TransactionFault {
            code: Code::Fail,
            retriable: false,
            reason: format!("a transaction was refused {REWRITES_MAX} times"),
        })
    }

    fn failed(&self, fault: TransactionFault) -> Error {
        let TransactionOptions {
            progress,
            transactional_id,
            ..
        } = &self.options;
        Error::transaction(transactional_id, progress, fault)
    }

    /// What has really happened, if the client has failed for good: any call may notice it.
    fn named(&self, error: Error) -> Error {
        let client = self.producer.handle().client();
        let error = match client.fatal_error() {
            None => error,
            Some((code, reason)) => self.failed(TransactionFault {
                code,
                retriable: false,
                reason,
            }),
        };
        match error {
            Error::Stopped => error,
            error => self.patience.gone(client).unwrap_or(error),
        }
    }

    /// Ends what would go on for ever while a stop waits.
    fn check_stop(&self) -> Result<(), Error> {
        let stopped = self.registered.stopped();
        if stopped.is_some_and(|since| since.elapsed() > LAST) {
            return Err(Error::Stopped);
        }
        Ok(())
    }
}
