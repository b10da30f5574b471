//! Reads some partitions of the events' topic, on a thread of its own, into blocks.
//!
//! It is apart from `source` because it is the hot path: what is done here is done for each record.
//!
//! # Invariants
//! * Records of a partition are handed over in the order of their offsets, each once.
//! * What has been read is handed over at once: a block waits for no other record.
//! * What is gone on without, because it was deleted before it was read, is told to the worker
//!   before what follows.
//! * A partition with an end is done when a record at or beyond it comes, or the partition's own
//!   end is at or beyond it: transactions leave holes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deltajoin_workers::batch::Origin;
use deltajoin_workers::bindings::Skipped;
use deltajoin_workers::ports::Block;
use deltajoin_workers::queue::Sender;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::codec::dead_letter::DeadLetters;
use crate::codec::json::Decoder;
use crate::config::KafkaTopic;
use crate::connectors::kafka::ffi::{Consumer, Record};
use crate::connectors::kafka::fit::{cut_note, start_of};
use crate::connectors::kafka::messages::Item;
use crate::connectors::kafka::missing::Expected;
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::{Error, Lag, SourceOptions, settings};

/// A block has at most this many records: enough to spread what a batch costs, few enough that
/// the worker begins while the next ones are read.
const BLOCK_RECORDS_MAX: usize = 2_000;
/// A block is handed over when its records have this many bytes: it fits into a core's cache.
const BLOCK_BYTES_MAX: usize = 256 * 1024;
/// How long an idle reader sleeps: how late it notices a stop, and an error of its client.
const IDLE: Duration = Duration::from_millis(100);
/// How often the ends of the partitions are looked up, from what the client knows.
const LAG_INTERVAL: Duration = Duration::from_millis(500);

/// What is to be read of a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The partition.
    pub(super) partition: i32,
    /// The offset that is read next.
    pub(super) next: i64,
    /// What is before this offset is bound: it must be read.
    pub(super) bound: i64,
    /// The offset at which reading ends; `i64::MAX` when it does not.
    pub(super) end: i64,
}

/// Reads some partitions.
pub(super) struct Reader {
    consumer: Consumer,
    block: Assembly,
    topic: KafkaTopic,
    expected: Expected,
    /// Partitions of which the next record was not there.
    lost: Vec<i32>,
    patience: Patience,
    lag: Arc<Lag>,
    lag_set: Instant,
}

impl Reader {
    pub(super) fn new(
        options: &SourceOptions,
        ranges: Vec<Range>,
        decoder: Decoder,
        sender: Sender<Block>,
        lag: &Arc<Lag>,
        expected: Expected,
    ) -> Result<Self, Error> {
        let topic = &options.topic;
        let config = settings::consumer(topic)?;
        let consumer = Consumer::new(&config, &topic.topic, BLOCK_RECORDS_MAX);
        let consumer = consumer.map_err(|error| Error::from_client(error, topic))?;
        Ok(Self {
            consumer,
            block: Assembly::new(options, ranges, decoder, sender),
            topic: topic.clone(),
            expected,
            lost: Vec::new(),
            patience: Patience::later(topic),
            lag: Arc::clone(lag),
            lag_set: Instant::now(),
        })
    }

    /// Reads until all partitions are at their end (true), or a stop is asked for, or the worker
    /// wants no more (false).
    pub(super) fn run(&mut self, stop: &AtomicBool) -> Result<bool, Error> {
        for range in self.block.ranges.iter().flatten() {
            let started = self.consumer.start(range.partition, range.next);
            started.map_err(|code| Error::failed(&self.topic, &code.to_string()))?;
        }
        while !stop.load(Ordering::Relaxed) && !self.block.sender.closed() {
            if self.consumer.fill(IDLE) > 0 && !self.take_batch()? {
                return Ok(false);
            }
            if !self.find_lost()? {
                return Ok(false);
            }
            self.patience
                .serve(self.consumer.handle(), Duration::ZERO, |_| {})?;
            self.set_lag();
            if self.block.reading == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hands the records of the current batch over. Returns false if the worker wants no more.
    fn take_batch(&mut self) -> Result<bool, Error> {
        let mut faulty = false;
        for item in self.consumer.batch() {
            match item {
                Item::Record(record) => {
                    self.block.take(record);
                    if self.block.raw_bytes >= BLOCK_BYTES_MAX && !self.block.hand_over() {
                        return Ok(false);
                    }
                }
                Item::End { partition, offset } => {
                    self.block.at_end(partition);
                    self.block.reached(partition, offset);
                }
                Item::Fault {
                    partition,
                    code: Code::AutoOffsetReset | Code::OffsetOutOfRange,
                    ..
                } => self.lost.push(partition),
                Item::Fault {
                    partition,
                    code,
                    reason,
                } => {
                    let at = (partition, self.block.next(partition));
                    self.patience
                        .fault(self.consumer.handle(), at, code, &reason)?;
                    faulty = true;
                }
            }
        }
        if !faulty {
            self.patience.back();
        }
        if !self.block.hand_over() {
            return Ok(false);
        }
        while let Some(partition) = self.block.done.pop() {
            self.lag.set_next(partition, self.block.ended_at(partition));
            self.consumer.stop(partition);
        }
        for range in self.block.ranges.iter().flatten() {
            self.lag.set_next(range.partition, range.next);
        }
        Ok(true)
    }

    /// Goes on with partitions of which the next record was not there, as far as Kafka tells where.
    /// Returns false if the worker wants no more.
    fn find_lost(&mut self) -> Result<bool, Error> {
        while let Some(partition) = self.lost.last().copied() {
            if let Some(range) = self.block.ranges[index(partition)] {
                match self.expected.find(self.consumer.handle(), range)? {
                    Err(code) => {
                        let client = self.consumer.handle().client();
                        self.patience.away(client, &code.to_string());
                        break;
                    }
                    Ok(to) => {
                        if !self.block.skip(partition, to) {
                            return Ok(false);
                        }
                        self.go_on(partition, to)?;
                    }
                }
            }
            self.lost.pop();
        }
        Ok(true)
    }

    /// Reads a partition from another offset on.
    fn go_on(&mut self, partition: i32, offset: i64) -> Result<(), Error> {
        self.consumer.stop(partition);
        self.lag.set_next(partition, offset);
        if self.block.ranges[index(partition)].is_some() {
            let started = self.consumer.start(partition, offset);
            started.map_err(|code| Error::failed(&self.topic, &code.to_string()))?;
        }
        Ok(())
    }

    fn set_lag(&mut self) {
        if self.lag_set.elapsed() < LAG_INTERVAL {
            return;
        }
        self.lag_set = Instant::now();
        for range in self.block.ranges.iter().flatten() {
            if let Some(end) = self.consumer.high_watermark(range.partition) {
                self.lag.set_end(range.partition, end.min(range.end));
            }
        }
    }
}

/// Records on their way to becoming a block.
struct Assembly {
    topic: String,
    record_bytes_max: usize,
    sender: Sender<Block>,
    decoder: Decoder,
    dead_letters: DeadLetters,
    /// What is to be read of each partition; none where another reader reads, or all is read.
    ranges: Vec<Option<Range>>,
    /// How many partitions are being read.
    reading: usize,
    /// Partitions that are done and not yet stopped.
    done: Vec<i32>,
    /// Ends of partitions that are done, by partition.
    ends: Vec<i64>,
    /// Whether a partition has records that were not read, as it was told last; by partition.
    lagging: Vec<bool>,
    /// What is to be told of that.
    lags: Vec<(i32, bool)>,
    records: u64,
    raw_bytes: usize,
    oldest_ms: i64,
}

impl Assembly {
    fn new(
        options: &SourceOptions,
        ranges: Vec<Range>,
        decoder: Decoder,
        sender: Sender<Block>,
    ) -> Self {
        let reading = ranges.len();
        let last = ranges.iter().map(|range| index(range.partition)).max();
        let mut by_partition = vec![None; last.map_or(0, |last| last + 1)];
        let ends = vec![0; by_partition.len()];
        let lagging = vec![true; by_partition.len()];
        for range in ranges {
            by_partition[index(range.partition)] = Some(range);
        }
        Self {
            topic: options.topic.topic.clone(),
            record_bytes_max: options.record_bytes_max,
            sender,
            decoder,
            dead_letters: DeadLetters::default(),
            ranges: by_partition,
            reading,
            done: Vec::new(),
            ends,
            lagging,
            lags: Vec::new(),
            records: 0,
            raw_bytes: 0,
            oldest_ms: i64::MAX,
        }
    }

    /// The offset that is read next of a partition.
    fn next(&self, partition: i32) -> i64 {
        self.ranges[index(partition)].map_or(self.ends[index(partition)], |range| range.next)
    }

    /// The end of a partition that is done.
    fn ended_at(&self, partition: i32) -> i64 {
        self.ends[index(partition)]
    }

    #[inline]
    fn take(&mut self, record: Record<'_>) {
        let (partition, offset) = (record.partition(), record.offset());
        let Some(range) = &mut self.ranges[index(partition)] else {
            return;
        };
        let end = range.end;
        if offset < end {
            range.next = offset + 1;
            if !std::mem::replace(&mut self.lagging[index(partition)], true) {
                self.lags.push((partition, true));
            }
            self.decode(record);
        }
        if offset + 1 >= end {
            self.reached(partition, end);
        }
    }

    /// There is nothing behind what was read of a partition.
    fn at_end(&mut self, partition: i32) {
        if std::mem::take(&mut self.lagging[index(partition)]) {
            self.lags.push((partition, false));
        }
    }

    /// Leaves out what is before `to` and not in the topic, and says so to the worker. Returns
    /// false if that wants no more.
    fn skip(&mut self, partition: i32, to: i64) -> bool {
        let skipped = Skipped {
            partition,
            from: self.next(partition),
            to,
        };
        tracing::warn!(
            topic = self.topic,
            partition,
            from = skipped.from,
            to,
            offsets = skipped.offsets(),
            "records were deleted before they were read; going on behind them"
        );
        self.reached(partition, to);
        // It stops here by itself.
        self.done.retain(|done| *done != partition);
        let block = Block {
            skipped: vec![skipped],
            published_ms: now_ms(),
            ..Block::default()
        };
        self.sender.send(block, 0)
    }

    fn decode(&mut self, record: Record<'_>) {
        let origin = Origin {
            partition: record.partition(),
            offset: record.offset(),
        };
        let (value, timestamp_ms) = (record.value(), record.timestamp_ms());
        self.records += 1;
        self.raw_bytes += value.map_or(0, <[u8]>::len);
        if let Some(timestamp_ms) = timestamp_ms {
            self.oldest_ms = self.oldest_ms.min(timestamp_ms);
        }
        if let Err(reject) = self.decoder.decode(value, origin) {
            let whole = value.unwrap_or_default();
            let raw = start_of(whole, self.record_bytes_max);
            let mut error = reject.error;
            if raw.len() < whole.len() {
                error = cut_note(&error, raw.len(), whole.len());
            }
            let topic = &self.topic;
            let reason = reject.reason;
            self.dead_letters
                .push(topic, origin, timestamp_ms, reason, &error, raw);
        }
    }

    /// No record of the partition below `offset` is still to come, for now.
    fn reached(&mut self, partition: i32, offset: i64) {
        let place = &mut self.ranges[index(partition)];
        let Some(range) = place else {
            return;
        };
        range.next = range.next.max(offset);
        if range.next >= range.end {
            self.ends[index(partition)] = range.end;
            *place = None;
            self.at_end(partition);
            self.reading -= 1;
            self.done.push(partition);
        }
    }

    /// Sends what has gathered. Returns false if the worker wants no more.
    fn hand_over(&mut self) -> bool {
        if self.records == 0 && self.lags.is_empty() {
            return true;
        }
        let bytes = self.decoder.bytes().max(self.raw_bytes) + self.dead_letters.bytes();
        let oldest_ms = u64::try_from(self.oldest_ms).unwrap_or(0);
        let known = self.oldest_ms < i64::MAX;
        let block = Block {
            events: self.decoder.finish(),
            dead_letters: self.dead_letters.finish(),
            records: self.records,
            skipped: Vec::new(),
            lags: std::mem::take(&mut self.lags),
            published_ms: if known { oldest_ms } else { now_ms() },
        };
        self.records = 0;
        self.raw_bytes = 0;
        self.oldest_ms = i64::MAX;
        self.sender.send(block, bytes)
    }
}

fn index(partition: i32) -> usize {
    usize::try_from(partition).expect("partitions are counted from 0")
}

/// The time of day, in milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    #[allow(
        clippy::disallowed_methods,
        reason = "it is the time of publication, or stands in for it, which is a time of day"
    )]
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
