//! Encodes rows, gives them to librdkafka in batches and counts what comes back, on a thread of
//! its own.
//!
//! It is apart from `sink` because it waits: for rows, for acknowledgements, for room.
//!
//! # Invariants
//! * A row leaves the ledger when it is acknowledged or was told to `on_rejected`, never otherwise.
//! * Rows of a partition are produced in the order in which they were given, but for those that
//!   the broker refused together and that are sent again one by one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use deltajoin_workers::batch::Batch;
use deltajoin_workers::ports::reason;
use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::warn;

use crate::codec::{BatchEncoder, Format};
use crate::config::Partitioner;
use crate::connectors::kafka::error::place;
use crate::connectors::kafka::ffi::{PollWaker, Producer};
use crate::connectors::kafka::fit::shortened;
use crate::connectors::kafka::ledger::Ledger;
use crate::connectors::kafka::messages::Outgoing;
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::sink::{Command, Destination, Shared};
use crate::connectors::kafka::{Error, OnRejected, Rejected, partitioner, settings};

/// Rows encoded before they are produced: enough for each partition to get a good batch.
const CHUNK_ROWS: usize = 4096;
/// A chunk ends when its rows have this many bytes, so that large rows do not add up.
const CHUNK_BYTES: usize = 1 << 20;
/// How long an idle writer sleeps; it is woken when there is something to do.
const IDLE: Duration = Duration::from_secs(1);
/// Waiting for acknowledgements; each one ends it.
const WAIT: Duration = Duration::from_millis(100);
/// What a message takes in a request beside key and value, at most: headers of batch and record.
const MESSAGE_OVERHEAD: usize = 128;

/// Writes the rows of one sink.
pub(super) struct Writer {
    destination: Arc<Destination>,
    on_rejected: OnRejected,
    shared: Arc<Shared>,
    producer: Producer,
    /// Where in `chunk` the rows of each partition are.
    chunk: Chunk,
    delivery: Delivery,
    patience: Patience,
}

/// What is under way.
#[derive(Debug, Default)]
struct Delivery {
    ledger: Ledger,
    /// Messages that the producer holds.
    in_flight: usize,
    /// Rows that the broker refused as too large, perhaps only for the company they were in.
    suspects: VecDeque<usize>,
    /// An error that no waiting cures.
    failure: Option<(Code, String)>,
    /// Room for what `produce` refuses.
    refused: Vec<(usize, Code)>,
}

/// Encoded rows, before they are given to the producer.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    rows: Vec<Encoded>,
    /// Indexes of `rows`, by partition.
    order: Vec<u32>,
    /// Where each partition begins in `order`.
    begins: Vec<usize>,
}

/// Where a row's bytes are in its chunk.
#[derive(Clone, Copy, Debug)]
struct Encoded {
    partition: u32,
    key: u32,
    value: u32,
    end: u32,
    /// A retraction: the key's row is removed.
    tombstone: bool,
    token: usize,
}

impl Writer {
    pub(super) fn new(
        destination: Arc<Destination>,
        on_rejected: OnRejected,
        shared: Arc<Shared>,
    ) -> Result<Self, Error> {
        let topic = &destination.options.topic;
        let config = settings::producer(topic, destination.message_bytes_max)?;
        let producer = Producer::new(&config, &topic.topic);
        Ok(Self {
            patience: Patience::later(topic),
            producer: producer.map_err(|error| Error::from_client(error, topic))?,
            chunk: Chunk::default(),
            delivery: Delivery::default(),
            shared,
            destination,
            on_rejected,
        })
    }

    /// What ends the writer's sleep.
    pub(super) fn waker(&self) -> PollWaker {
        self.producer.handle().waker()
    }

    /// Writes until it is stopped.
    pub(super) fn run(&mut self) -> Result<(), Error> {
        let result = self.write_all();
        // A stop comes when all is written, or when nothing matters any more.
        self.producer.purge();
        result
    }

    fn write_all(&mut self) -> Result<(), Error> {
        let mut commands = VecDeque::new();
        while !self.stopping() {
            self.shared
                .take(&mut commands, !self.delivery.ledger.idle());
            let wait = if commands.is_empty() {
                IDLE
            } else {
                Duration::ZERO
            };
            for command in commands.drain(..) {
                match command {
                    Command::Rows(rows) => self.write(rows)?,
                    Command::Close(epoch) => self.delivery.ledger.close(epoch),
                }
            }
            self.shared.publish(self.delivery.ledger.written());
            self.serve(wait)?;
            self.settle_suspects()?;
        }
        Ok(())
    }

    fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    fn write(&mut self, batch: Batch) -> Result<(), Error> {
        let token = self.delivery.ledger.push(batch.clone());
        let destination = Arc::clone(&self.destination);
        let encoder = destination.options.format.of(&batch);
        let mut row = 0;
        while row < batch.len() {
            self.chunk.clear();
            let mut too_large = Vec::new();
            while row < batch.len() && !self.chunk.full() {
                if !self
                    .chunk
                    .push(&destination, &encoder, (&batch, row), token + row)
                {
                    too_large.push(token + row);
                }
                row += 1;
            }
            self.produce_chunk()?;
            for token in too_large {
                self.write_large(token, destination.message_bytes_max)?;
            }
        }
        Ok(())
    }

    fn produce_chunk(&mut self) -> Result<(), Error> {
        self.chunk.sort(self.destination.partitions);
        for partition in 0..self.destination.partitions {
            let run = self.chunk.begins[partition]..self.chunk.begins[partition + 1];
            let mut next = run.start;
            while next < run.end {
                let chunk = &self.chunk;
                let messages = chunk.order[next..run.end]
                    .iter()
                    .map(|row| chunk.message(*row));
                let number = i32::try_from(partition).expect("Kafka counts them in 32 bits");
                let refused = &mut self.delivery.refused;
                let dealt = self.producer.produce(number, messages, refused);
                self.delivery.accepted(dealt);
                next += dealt;
                if next < run.end {
                    if self.stopping() {
                        return Ok(());
                    }
                    self.serve(WAIT)?;
                }
            }
        }
        Ok(())
    }

    /// Serves acknowledgements and errors: waits for one, then takes what is there.
    fn serve(&mut self, timeout: Duration) -> Result<(), Error> {
        let before = self.delivery.in_flight;
        let delivery = &mut self.delivery;
        self.patience
            .serve(self.producer.handle(), timeout, |token, result| {
                delivery.reported(token, result);
            })?;
        if let Some((code, reason)) = self.delivery.failure.take() {
            return Err(self.failure(code, reason));
        }
        if self.delivery.in_flight < before {
            self.patience.back();
        }
        self.shared.publish(self.delivery.ledger.written());
        Ok(())
    }

    fn failure(&self, code: Code, reason: String) -> Error {
        let topic = &self.destination.options.topic;
        match code {
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                let place = place(topic);
                Error::NotAuthorized { place, reason }
            }
            Code::UnknownTopic | Code::UnknownTopicOrPartition => Error::UnknownTopic {
                topic: topic.topic.clone(),
                brokers: topic.brokers.clone(),
                similar: Vec::new(),
            },
            _ => Error::failed(topic, &reason),
        }
    }

    /// Sends rows again, each alone, that the broker refused as too large: it refuses a batch as
    /// a whole, and most of its rows are innocent.
    fn settle_suspects(&mut self) -> Result<(), Error> {
        while let Some(token) = self.delivery.suspects.pop_front() {
            self.wait_for_all()?;
            self.write_large(token, usize::MAX)?;
            if self.stopping() {
                break;
            }
        }
        Ok(())
    }

    fn wait_for_all(&mut self) -> Result<(), Error> {
        while self.delivery.in_flight > 0 && !self.stopping() {
            self.serve(WAIT)?;
        }
        Ok(())
    }

    /// Writes one row that may be too large: a dead letter is cut until it is taken, a result is
    /// told to `on_rejected`.
    fn write_large(&mut self, token: usize, mut bytes_max: usize) -> Result<(), Error> {
        let destination = Arc::clone(&self.destination);
        let (batch, row) = self.delivery.ledger.row(token);
        let (mut batch, mut row) = (batch.clone(), row);
        loop {
            self.chunk.clear();
            let encoder = destination.options.format.of(&batch);
            self.chunk
                .encode(&destination, &encoder, (&batch, row), token);
            let bytes = self.chunk.bytes.len() + MESSAGE_OVERHEAD;
            if bytes <= bytes_max {
                // Alone, so that nothing else is refused with it.
                self.wait_for_all()?;
                let suspects = self.delivery.suspects.len();
                self.produce_chunk()?;
                self.wait_for_all()?;
                if self.stopping() || self.delivery.suspects.len() == suspects {
                    return Ok(());
                }
                self.delivery.suspects.pop_back();
                bytes_max = bytes / 2;
            }
            let is_letter = matches!(destination.options.format, Format::DeadLetters);
            match is_letter
                .then(|| shortened((&batch, row), bytes, bytes_max))
                .flatten()
            {
                Some(shorter) => (batch, row) = (shorter, 0),
                None => {
                    self.reject(token, bytes);
                    return Ok(());
                }
            }
        }
    }

    /// Gives up a row that no message can hold.
    fn reject(&mut self, token: usize, bytes: usize) {
        let (batch, row) = self.delivery.ledger.row(token);
        let options = &self.destination.options;
        let mut raw = Vec::new();
        options.format.of(batch).key(row, &mut raw);
        let (topic, origin) = (&options.topic.topic, batch.origin(row));
        let key = String::from_utf8_lossy(&raw);
        let (partition, offset) = (origin.partition, origin.offset);
        let error = format!("row of {bytes} bytes is too large for topic {topic:?}");
        warn!(topic, partition, offset, %key, error, "left a row out");
        (self.on_rejected)(Rejected {
            topic: topic.clone(),
            origin,
            reason: reason::TOO_LARGE,
            error,
            raw,
        });
        self.delivery.ledger.acknowledge(token);
    }
}

impl Delivery {
    /// Of `dealt` messages all are under way but those that were refused.
    fn accepted(&mut self, dealt: usize) {
        self.in_flight += dealt;
        for (token, code) in std::mem::take(&mut self.refused) {
            self.reported(token, Err(code));
        }
    }

    #[inline]
    fn reported(&mut self, token: usize, result: Result<(), Code>) {
        self.in_flight -= 1;
        match result {
            Ok(()) => {
                self.ledger.acknowledge(token);
            }
            Err(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                self.suspects.push_back(token);
            }
            Err(Code::PurgeQueue | Code::PurgeInflight) => {}
            Err(code) => self.failure = Some((code, code.to_string())),
        }
    }
}

impl Chunk {
    fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
    }

    fn full(&self) -> bool {
        self.rows.len() >= CHUNK_ROWS || self.bytes.len() >= CHUNK_BYTES
    }

    /// Encodes a row, unless it is too large (false).
    fn push(
        &mut self,
        destination: &Destination,
        encoder: &BatchEncoder<'_>,
        row: (&Batch, usize),
        token: usize,
    ) -> bool {
        let start = self.bytes.len();
        self.encode(destination, encoder, row, token);
        let bytes = self.bytes.len() - start + MESSAGE_OVERHEAD;
        let fits = bytes <= destination.message_bytes_max;
        if !fits {
            self.bytes.truncate(start);
            self.rows.pop();
        }
        fits
    }

    fn encode(
        &mut self,
        destination: &Destination,
        encoder: &BatchEncoder<'_>,
        (batch, row): (&Batch, usize),
        token: usize,
    ) {
        let place = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a chunk is far below 4 GiB");
        let key = place(&self.bytes);
        encoder.key(row, &mut self.bytes);
        let value = place(&self.bytes);
        let tombstone = batch.diffs()[row] < 0;
        if !tombstone {
            encoder.value(row, &mut self.bytes);
        }
        let partitions = destination.partitions;
        let partition = match (encoder, destination.options.partitioner) {
            (BatchEncoder::DeadLetters(_), _) => {
                batch.origin(row).partition.unsigned_abs() as usize % partitions
            }
            (_, Partitioner::KeyGroup) => {
                partitioner::by_key_group(batch.keys().high()[row], partitions)
            }
            (_, Partitioner::Murmur2) => {
                partitioner::by_murmur2(&self.bytes[key as usize..value as usize], partitions)
            }
        };
        self.rows.push(Encoded {
            partition: u32::try_from(partition).expect("Kafka counts them in 32 bits"),
            key,
            value,
            end: place(&self.bytes),
            tombstone,
            token,
        });
    }

    /// Orders the rows by partition, and within one as they came.
    fn sort(&mut self, partitions: usize) {
        self.begins.clear();
        self.begins.resize(partitions + 1, 0);
        for row in &self.rows {
            self.begins[row.partition as usize + 1] += 1;
        }
        for partition in 0..partitions {
            self.begins[partition + 1] += self.begins[partition];
        }
        self.order.clear();
        self.order.resize(self.rows.len(), 0);
        for (index, row) in (0..).zip(&self.rows) {
            let place = &mut self.begins[row.partition as usize];
            self.order[*place] = index;
            *place += 1;
        }
        // Each beginning has moved to its partition's end, which is where the next one begins.
        self.begins.rotate_right(1);
        self.begins[0] = 0;
    }

    fn message(&self, row: u32) -> Outgoing<'_> {
        let row = &self.rows[row as usize];
        let value = &self.bytes[row.value as usize..row.end as usize];
        Outgoing {
            key: Some(&self.bytes[row.key as usize..row.value as usize]),
            value: (!row.tombstone).then_some(value),
            token: row.token,
        }
    }
}
