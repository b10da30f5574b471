//! Reads a few of a topic's newest records, to tell whether they have the declared types.
//!
//! It is apart from `reader` because it makes no results, commits nothing and stops soon.

use std::time::{Duration, Instant};

use deltajoin_workers::batch::{BatchSchema, Origin};
use deltajoin_workers::ports::Stop;
use deltajoin_workers::schema::Schema;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, Message};

use crate::codec::json::Decoder;
use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::{Error, settings};

/// Newest records of each partition that are looked at.
const RECORDS_MAX: i64 = 50;
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
    let mut list = TopicPartitionList::new();
    let mut unread = 0;
    for (partition, (start, end)) in (0..).zip(starts.iter().zip(&ends)) {
        let from = (end - RECORDS_MAX).max(*start);
        unread += end - from;
        if from < *end {
            list.add_partition_offset(&topic.topic, partition, Offset::Offset(from))
                .map_err(|error| Error::from_client(error, topic))?;
        }
    }
    let mut config: ClientConfig = settings::consumer(topic)?;
    // The ends of partitions are known already, and rdkafka gives them as errors.
    config.set("enable.partition.eof", "false");
    // librdkafka wants a name; nothing is joined or committed under it.
    config.set("group.id", "deltajoin-check");
    let consumer: BaseConsumer = config
        .create()
        .map_err(|error| Error::from_client(error, topic))?;
    consumer
        .assign(&list)
        .map_err(|error| Error::from_client(error, topic))?;
    let mut sample = Sample {
        partitions,
        ..Sample::default()
    };
    let mut decoder = Decoder::new(BatchSchema::register(schema.clone()), record_bytes_max);
    let until = Instant::now() + PATIENCE;
    while i64::try_from(sample.records).is_ok_and(|records| records < unread)
        && Instant::now() < until
        && !stop.asked()
    {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let origin = Origin {
            partition: message.partition(),
            offset: message.offset(),
        };
        sample.records += 1;
        if let Err(reject) = decoder.decode(message.payload(), origin) {
            sample.rejected += 1;
            sample.first.get_or_insert((origin, reject.error));
        }
        // Only whether they decode matters.
        drop(decoder.finish());
    }
    Ok(sample)
}
