//! Reads a few of a topic's newest records, to tell whether they have the declared types.
//!
//! It is apart from `reader` and `reference` because it makes no results, commits nothing and stops
//! soon.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use deltajoin_workers::batch::Origin;
use deltajoin_workers::ports::Stop;
use deltajoin_workers::schema::Schema;

use crate::codec::json;
use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::changes::{Changes, place};
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::ffi::{Consumer, Record};
use crate::connectors::kafka::messages::Item;
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::{Error, ReferenceOptions, settings};

/// Newest records of each partition that are looked at.
const RECORDS_MAX: i64 = 50;
/// Records taken at a time.
const BATCH_RECORDS_MAX: usize = 1_000;
/// How late a stop is noticed.
const STEP: Duration = Duration::from_millis(100);
/// How long the records may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at the newest records of a topic of events; gives the number of its partitions as well.
///
/// # Errors
/// If the topic does not exist or cannot be read.
pub fn sample(
    topic: &KafkaTopic,
    schema: &Schema,
    record_bytes_max: usize,
    stop: &Stop,
) -> Result<(usize, json::Sample), Error> {
    let mut sample = json::Sample::new(schema, record_bytes_max);
    let ends = read_newest(topic, stop, &mut |record| {
        let origin = origin(record);
        let Origin { partition, offset } = origin;
        let place = format!("{}[{partition}]@{offset}", topic.topic);
        sample.look(record.value(), origin, |reject| {
            format!("{place}: {}", reject.error)
        });
    })?;
    Ok((ends.partitions, sample))
}

/// Looks at the newest records of a reference topic; gives the number of its partitions, and how
/// many records there were.
///
/// # Errors
/// If the topic does not exist or cannot be read, or if one of the records would end a start.
pub fn sample_reference(
    topic: &KafkaTopic,
    schema: &Schema,
    record_bytes_max: usize,
    stop: &Stop,
) -> Result<(usize, usize), Error> {
    let mut changes = Changes::new(&ReferenceOptions {
        topic: topic.clone(),
        schema: schema.clone(),
        record_bytes_max,
        until_end: true,
    });
    let mut records = 0;
    let ends = read_newest(topic, stop, &mut |record| {
        records += 1;
        changes.take(record);
    })?;
    drop(changes.finish());
    // A later record of the same key makes good, and all that are later must be known for that.
    if let (true, Some(bad)) = (ends.reached, changes.first_bad(&ends.offsets)) {
        return Err(Error::BadReference {
            place: place(bad),
            reason: bad.error.clone(),
        });
    }
    Ok((ends.partitions, records))
}

fn origin(record: Record<'_>) -> Origin {
    Origin {
        partition: record.partition(),
        offset: record.offset(),
    }
}

/// Where a topic ends.
struct Ends {
    partitions: usize,
    offsets: Vec<i64>,
    /// Whether all partitions were read so far.
    reached: bool,
}

/// Reads the newest records of each partition.
fn read_newest(
    topic: &KafkaTopic,
    stop: &Stop,
    look: &mut dyn FnMut(Record<'_>),
) -> Result<Ends, Error> {
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
    let until = Instant::now() + PATIENCE;
    while !unread.is_empty() && Instant::now() < until && !stop.asked() {
        consumer.fill(STEP);
        for item in consumer.batch() {
            match item {
                Item::Record(record) => {
                    let Origin { partition, offset } = origin(record);
                    let end = ends[partition.unsigned_abs() as usize];
                    if unread.contains(&partition) {
                        look(record);
                    }
                    if offset + 1 >= end {
                        unread.remove(&partition);
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
    Ok(Ends {
        partitions,
        offsets: ends,
        reached: unread.is_empty(),
    })
}
