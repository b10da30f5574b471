//! Encodes rows, gives them to librdkafka in batches and counts what comes back, on a thread of
//! its own.
//!
//! It is apart from `sink` because it waits: for rows, for acknowledgements, for room.
//!
//! # Invariants
//! * A row leaves the ledger when it is acknowledged or was told to `on_rejected`, never otherwise.
//! * Rows of a partition are produced in the order in which they were given, but for those that
//!   the broker refused together and that are sent again one by one. Those have no headers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use deltajoin_workers::batch::Batch;
use deltajoin_workers::key::{Ownership, key_group};
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::codec::Format;
use crate::connectors::kafka::ffi::{Handle, Producer, Topic};
use crate::connectors::kafka::fit::shortened;
use crate::connectors::kafka::lanes::Lanes;
use crate::connectors::kafka::ledger::Ledger;
use crate::connectors::kafka::messages::{Mark, Report};
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::settings::Linger;
use crate::connectors::kafka::sink::{Command, Destination, Shared};
use crate::connectors::kafka::{Error, settings};
use crate::fault_point;

/// Rows between two looks at what has been acknowledged.
pub(super) const CHUNK_ROWS: usize = 4096;
/// Encoded rows that may wait for the requests before them: a few requests' worth a partition,
/// little beside `max_in_flight_bytes`.
pub(super) const WAITING_BYTES_MAX: usize = 8 << 20;
/// The largest request for one partition: what is larger only waits longer for its turn.
const REQUEST_BYTES_MAX: usize = 1_000_000;
/// How long an idle writer sleeps; it is woken when there is something to do.
pub(super) const IDLE: Duration = Duration::from_secs(1);
/// Waiting for acknowledgements; each one ends it.
pub(super) const WAIT: Duration = Duration::from_millis(100);

/// A partition's rows go in bulk from so many bytes on: what takes librdkafka longer to take than a
/// broker to answer the first of them.
const BULK_BYTES: usize = 64 << 10;
/// Waiting for acknowledgements of rows in bulk, which do not wake those who wait for others.
const BULK_WAIT: Duration = Duration::from_millis(5);

/// Writes the rows of one sink.
pub(super) struct Writer {
    destination: Arc<Destination>,
    shared: Arc<Shared>,
    /// Sends at once what it is given.
    prompt: Outlet,
    /// Sends what it is given together, a millisecond later; there once it has been needed.
    ///
    /// A producer that sends at once sends the first rows of many alone, and then the others, for
    /// which its thread spins until the first are acknowledged: a seventh of all the CPU of a
    /// catch-up. Librdkafka's setting is one for the whole client.
    bulk: Option<Outlet>,
    /// The most that is given to the producer at a time, for one partition.
    request_bytes: usize,
    /// Counts rows, if they are to have headers.
    numbering: Option<Numbering>,
    delivery: Delivery,
    patience: Patience,
}

/// A producer, and the topic that it writes to.
struct Outlet {
    topic: Topic,
    producer: Producer,
    /// Messages that the producer holds.
    in_flight: usize,
}

/// What is under way.
#[derive(Debug)]
struct Delivery {
    lanes: Lanes,
    ledger: Ledger,
    /// Messages that the producers hold.
    in_flight: usize,
    /// Rows that the broker refused as too large, perhaps only for the company they were in.
    suspects: VecDeque<usize>,
    /// An error that no waiting cures.
    failure: Option<Code>,
    /// Room for what `produce` refuses.
    refused: Vec<(usize, Code)>,
}

impl Writer {
    pub(super) fn new(
        destination: Arc<Destination>,
        shared: Arc<Shared>,
        numbering: Option<Ownership>,
    ) -> Result<Self, Error> {
        let options = &destination.options;
        let topic = &options.topic;
        Ok(Self {
            patience: Patience::later(topic),
            prompt: Outlet::open(&destination, Linger::None)?,
            bulk: None,
            request_bytes: request_bytes(destination.message_bytes_max),
            numbering: numbering.map(Numbering::new),
            delivery: Delivery {
                lanes: Lanes::new(destination.partitions, options.partitioner),
                ledger: Ledger::default(),
                in_flight: 0,
                suspects: VecDeque::new(),
                failure: None,
                refused: Vec::new(),
            },
            shared,
            destination,
        })
    }

    /// The client, to be woken when there is something to do.
    pub(super) fn handle(&self) -> Handle {
        self.prompt.producer.handle().share()
    }

    /// Writes until it is stopped.
    pub(super) fn run(&mut self) -> Result<(), Error> {
        let result = self.write_all();
        // A stop comes when all is written, or when nothing matters any more.
        for outlet in self.bulk.iter().chain([&self.prompt]) {
            outlet.producer.purge();
        }
        result
    }

    fn write_all(&mut self) -> Result<(), Error> {
        let mut commands = VecDeque::new();
        while !self.stopping() {
            self.shared
                .take(&mut commands, !self.delivery.ledger.idle());
            let idle = commands.is_empty();
            for command in commands.drain(..) {
                match command {
                    Command::Rows(epoch, rows) => self.write(epoch, rows)?,
                    Command::Close(epoch) => self.delivery.ledger.close(epoch),
                }
            }
            self.give()?;
            self.serve(if idle { IDLE } else { Duration::ZERO })?;
            self.settle_suspects()?;
        }
        Ok(())
    }

    fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    fn write(&mut self, epoch: u64, batch: Batch) -> Result<(), Error> {
        fault_point::reach("rows.send");
        let first = self.delivery.ledger.push(batch.clone(), epoch);
        let destination = Arc::clone(&self.destination);
        let bytes_max = destination.message_bytes_max;
        let encoder = destination.options.format.of(&batch, epoch);
        let mut too_large = Vec::new();
        for row in 0..batch.len() {
            if encoder.told_by_next(row) {
                self.delivery.ledger.acknowledge(first + row);
                continue;
            }
            let high = batch.keys().high()[row];
            let mark = self.numbering.as_mut();
            let mark = mark.map(|numbering| numbering.next(epoch, high));
            let lanes = &mut self.delivery.lanes;
            let bytes = lanes.push(&encoder, (&batch, row), (first + row, mark), bytes_max);
            if bytes > bytes_max {
                too_large.push(first + row);
            }
            if lanes.bytes() > WAITING_BYTES_MAX {
                self.wait_for_room()?;
            } else if row % CHUNK_ROWS == CHUNK_ROWS - 1 {
                self.serve(Duration::ZERO)?;
                self.give()?;
            }
        }
        for token in too_large {
            self.write_large(token, bytes_max)?;
        }
        Ok(())
    }

    /// Gives the next request of each lane to a producer.
    fn give(&mut self) -> Result<(), Error> {
        for partition in 0..self.delivery.lanes.len() {
            let outlet = if self.delivery.lanes.waiting(partition) < BULK_BYTES {
                &mut self.prompt
            } else if let Some(bulk) = &mut self.bulk {
                bulk
            } else {
                let bulk = Outlet::open(&self.destination, Linger::Batches)?;
                self.bulk.insert(bulk)
            };
            let delivery = &mut self.delivery;
            let messages = delivery.lanes.request(partition, self.request_bytes);
            let (producer, topic) = (&mut outlet.producer, &outlet.topic);
            let (number, refused) = (number(partition), &mut delivery.refused);
            let dealt = match self.numbering {
                None => producer.produce(topic, number, messages, refused),
                Some(_) => producer.produce_marked(topic, number, messages, refused),
            };
            let before = delivery.in_flight;
            delivery.given(partition, dealt);
            outlet.in_flight += delivery.in_flight - before;
        }
        self.check()
    }

    fn wait_for_room(&mut self) -> Result<(), Error> {
        self.give()?;
        while self.delivery.lanes.bytes() > WAITING_BYTES_MAX && !self.stopping() {
            self.serve(WAIT)?;
            self.give()?;
        }
        Ok(())
    }

    fn wait_for_all(&mut self) -> Result<(), Error> {
        self.give()?;
        while self.delivery.in_flight + self.delivery.lanes.bytes() > 0 && !self.stopping() {
            self.serve(WAIT)?;
            self.give()?;
        }
        Ok(())
    }

    /// Serves acknowledgements and errors: waits for one, then takes what is there.
    fn serve(&mut self, mut timeout: Duration) -> Result<(), Error> {
        let before = self.delivery.in_flight;
        if let Some(bulk) = &mut self.bulk
            && bulk.in_flight > 0
        {
            let wait = timeout.min(BULK_WAIT);
            bulk.serve(wait, &mut self.patience, &mut self.delivery)?;
            timeout = Duration::ZERO;
        }
        let prompt = &mut self.prompt;
        prompt.serve(timeout, &mut self.patience, &mut self.delivery)?;
        if self.delivery.in_flight < before {
            self.patience.back();
        } else if self.delivery.in_flight == 0 {
            self.patience.rest();
        }
        self.shared.publish(self.delivery.ledger.written());
        self.check()
    }

    /// Ends with what cannot be cured.
    fn check(&self) -> Result<(), Error> {
        let Some(code) = self.delivery.failure else {
            return Ok(());
        };
        Err(Error::delivery(&self.destination.options.topic, code))
    }

    /// Sends rows again, each alone, that the broker refused as too large: it refuses a batch as
    /// a whole, and most of its rows are innocent.
    fn settle_suspects(&mut self) -> Result<(), Error> {
        while !self.stopping()
            && let Some(token) = self.delivery.suspects.pop_front()
        {
            self.write_large(token, usize::MAX)?;
        }
        Ok(())
    }

    /// Writes one row that may be too large: a dead letter is cut until it is taken, a result is
    /// told to `on_rejected`.
    fn write_large(&mut self, token: usize, mut bytes_max: usize) -> Result<(), Error> {
        let destination = Arc::clone(&self.destination);
        let epoch = self.delivery.ledger.epoch(token);
        let (batch, row) = self.delivery.ledger.row(token);
        let (mut batch, mut row) = (batch.clone(), row);
        loop {
            // Alone, so that nothing else is refused with it.
            self.wait_for_all()?;
            let encoder = destination.options.format.of(&batch, epoch);
            let lanes = &mut self.delivery.lanes;
            // Rows behind it may be there already: a reader that goes by marks must not drop it.
            let bytes = lanes.push(&encoder, (&batch, row), (token, None), bytes_max);
            if bytes <= bytes_max {
                let suspects = self.delivery.suspects.len();
                self.wait_for_all()?;
                if self.stopping() || self.delivery.suspects.len() == suspects {
                    return Ok(());
                }
                self.delivery.suspects.pop_back();
                bytes_max = bytes / 2;
            }
            let shorter = match destination.options.format {
                Format::Rows(..) => None,
                Format::DeadLetters => shortened((&batch, row), bytes, bytes_max),
            };
            match shorter {
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
        let options = &self.destination.options;
        let rejected = options.too_large(self.delivery.ledger.row(token), bytes);
        (options.on_rejected)(rejected);
        self.delivery.ledger.acknowledge(token);
    }
}

impl Outlet {
    fn open(destination: &Destination, linger: Linger) -> Result<Self, Error> {
        let topic = &destination.options.topic;
        let config = settings::producer(topic, destination.message_bytes_max, linger)?;
        let failed = |error| Error::from_client(error, topic);
        let producer = Producer::new(&config).map_err(failed)?;
        Ok(Self {
            topic: producer.topic(&topic.topic).map_err(failed)?,
            producer,
            in_flight: 0,
        })
    }

    fn serve(
        &mut self,
        timeout: Duration,
        patience: &mut Patience,
        delivery: &mut Delivery,
    ) -> Result<(), Error> {
        let before = delivery.in_flight;
        let handle = self.producer.handle();
        let served = patience.serve(handle, timeout, |report| delivery.reported(report));
        self.in_flight -= before - delivery.in_flight;
        served
    }
}

/// Counts the rows of each shard in an epoch: the same for any number of workers, and on every
/// repeat, because a shard's rows come in one order, and all of an epoch or none.
#[derive(Debug)]
struct Numbering {
    ownership: Ownership,
    epoch: u64,
    /// For each shard, how many rows of the epoch have come.
    counts: Vec<u32>,
}

impl Numbering {
    fn new(ownership: Ownership) -> Self {
        Self {
            counts: vec![0; ownership.shards()],
            ownership,
            epoch: 0,
        }
    }

    /// The mark of the next row, by its key.
    fn next(&mut self, epoch: u64, high: u64) -> Mark {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.counts.fill(0);
        }
        let shard = self.ownership.shard(key_group(high));
        let count = &mut self.counts[shard];
        let seq = *count;
        *count += 1;
        let shard = u32::try_from(shard).expect("there are at most 1024");
        Mark { epoch, shard, seq }
    }
}

impl Delivery {
    /// Of a partition's messages `count` are under way, but for those that were refused.
    fn given(&mut self, partition: usize, count: usize) {
        self.lanes.given(partition, count);
        self.in_flight += count;
        for (token, code) in self.refused.split_off(0) {
            self.reported(Report {
                offset: None,
                partition: number(partition),
                token,
                result: Err(code),
            });
        }
    }

    #[inline]
    fn reported(&mut self, report: Report) {
        let partition = usize::try_from(report.partition).expect("as it was produced");
        self.lanes.reported(partition);
        self.in_flight -= 1;
        match report.result {
            Ok(()) => {
                self.ledger.acknowledge(report.token);
            }
            Err(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                self.suspects.push_back(report.token);
            }
            Err(Code::PurgeQueue | Code::PurgeInflight) => {}
            Err(code) => self.failure = Some(code),
        }
    }
}

/// The most that is given to a producer at a time, for one partition of a topic that takes messages
/// of so many bytes. A tenth is left for what librdkafka adds.
pub(super) const fn request_bytes(message_bytes_max: usize) -> usize {
    let bytes = if message_bytes_max < REQUEST_BYTES_MAX {
        message_bytes_max
    } else {
        REQUEST_BYTES_MAX
    };
    bytes * 9 / 10
}

/// A partition as Kafka counts them.
pub(super) fn number(partition: usize) -> i32 {
    i32::try_from(partition).expect("Kafka counts them in 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_shard_are_counted_in_each_epoch_whatever_stands_between_them() {
        // Of four shards: the first two bits of a key.
        let mut numbering = Numbering::new(Ownership::new(4, 1));
        let mut next = |epoch, shard: u64| {
            let mark = numbering.next(epoch, shard << 62);
            assert_eq!((mark.epoch, u64::from(mark.shard)), (epoch, shard));
            mark.seq
        };
        let seqs = [0, 0, 1, 3, 1, 0].map(|shard| next(7, shard));
        assert_eq!(seqs, [0, 1, 0, 0, 1, 2]);
        let seqs = [1, 1, 0].map(|shard| next(9, shard));
        assert_eq!(seqs, [0, 1, 0]);
    }
}
