//! Reads a few of a topic's newest records, to tell whether they have the declared types.
//!
//! It is apart from `reader` because it makes no results, commits nothing and stops soon.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use deltajoin_workers::batch::{BatchSchema, Origin};
use deltajoin_workers::ports::Stop;
use deltajoin_workers::schema::Schema;

use crate::codec::json::Decoder;
use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::ffi::Consumer;
use crate::connectors::kafka::messages::Item;
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::{Error, settings};

/// Newest records of each partition that are looked at.
const RECORDS_MAX: i64 = 50;
/// Records taken at a time.
const BATCH_RECORDS_MAX: usize = 1_000;
/// How late a stop is noticed.
const STEP: Duration = Duration::from_millis(100);
/// How long the records may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the newest records of a topic are like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The topic's partitions.
    pub partitions: usize,
    /// How many records were looked at.
    pub records: usize,
    /// How many of them could not be decoded.
    pub rejected: usize,
    /// The first that could not be, and why.
    pub first: Option<(Origin, String)>,
}

/// Looks at the newest records of a topic of events.
///
/// # Errors
/// If the topic does not exist or cannot be read.
pub fn sample(
    topic: &KafkaTopic,
    schema: &Schema,
    record_bytes_max: usize,
    stop: &Stop,
) -> Result<Sample, Error> {
    let mut connection = Connection::open(topic)?;
    let partitions = connection.partitions(stop)?;
    let starts = connection.starts(partitions, Start::Earliest, stop)?;
    let ends = connection.ends(partitions, stop)?;
    let consumer = Consumer::new(&settings::consumer(topic)?, &topic.topic, BATCH_RECORDS_MAX);
    let mut consumer = consumer.map_err(|error| Error::from_client(error, topic))?;
    let mut patience = Patience::later(topic);
    // Partitions whose newest records are still to come.
    let mut unread = BTreeSet::new();
    for (partition, (start, end)) in (0..).zip(starts.iter().zip(&ends)) {
        let from = (end - RECORDS_MAX).max(*start);
        if from < *end {
            let started = consumer.start(partition, from);
            started.map_err(|code| Error::failed(topic, &code.to_string()))?;
            unread.insert(partition);
        }
    }
    let mut sample = Sample {
        partitions,
        ..Sample::default()
    };
    let mut decoder = Decoder::new(BatchSchema::register(schema.clone()), record_bytes_max);
    let until = Instant::now() + PATIENCE;
    while !unread.is_empty() && Instant::now() < until && !stop.asked() {
        consumer.fill(STEP);
        for item in consumer.batch() {
            match item {
                Item::Record(record) => {
                    let origin = Origin {
                        partition: record.partition(),
                        offset: record.offset(),
                    };
                    let end = ends[origin.partition.unsigned_abs() as usize];
                    if unread.contains(&origin.partition) {
                        sample.look(&mut decoder, record.value(), origin);
                    }
                    if origin.offset + 1 >= end {
                        unread.remove(&origin.partition);
                    }
                }
                Item::End { partition, .. } => {
                    unread.remove(&partition);
                }
                Item::Fault {
                    partition,
                    code,
                    reason,
                } => {
                    let at = (partition, starts[partition.unsigned_abs() as usize]);
                    patience.fault(consumer.handle(), at, code, &reason)?;
                }
            }
        }
        patience.serve(consumer.handle(), Duration::ZERO, |_| {})?;
    }
    Ok(sample)
}

impl Sample {
    fn look(&mut self, decoder: &mut Decoder, value: Option<&[u8]>, origin: Origin) {
        self.records += 1;
        if let Err(reject) = decoder.decode(value, origin) {
            self.rejected += 1;
            self.first.get_or_insert((origin, reject.error));
        }
        // Only whether they decode matters.
        drop(decoder.finish());
    }
}
