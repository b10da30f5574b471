//! What jobs write, read back: live, or as a whole and compared with what is expected.
//!
//! Apart from the test kit's readers, which know nothing of results and dead letters.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deltajoin::connectors::kafka::bootstrap_again;
use deltajoin::generate::{Differences, Expected};
use deltajoin_testkit::{Broker, TopicRecord, wait_until};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;

use crate::setup::LIMIT;

/// A record that could not become a result.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeadLetter {
    pub(crate) reason: String,
    pub(crate) error: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: Option<String>,
    raw: Option<String>,
    raw_base64: Option<String>,
}

impl DeadLetter {
    /// The record's bytes.
    pub(crate) fn raw(&self) -> Vec<u8> {
        match (&self.raw, &self.raw_base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(text)) => STANDARD.decode(text).expect("it is base64"),
            other => panic!("raw bytes stand there once: {other:?}"),
        }
    }
}

/// All dead letters of a topic by their origin; fails the test if one is there twice.
pub(crate) fn dead_letters(broker: &Broker, topic: &str) -> BTreeMap<(i32, i64), DeadLetter> {
    let mut letters = BTreeMap::new();
    for letter in all_dead_letters(broker, topic) {
        let before = letters.insert((letter.partition, letter.offset), letter);
        assert_eq!(before, None, "a dead letter is there twice");
    }
    letters
}

/// How many records have a dead letter in a topic; each may have several, but they are equal.
pub(crate) fn dead_lettered(broker: &Broker, topic: &str) -> u64 {
    let mut letters = BTreeMap::new();
    for letter in all_dead_letters(broker, topic) {
        let known = letters.entry((letter.partition, letter.offset));
        assert_eq!(*known.or_insert_with(|| letter.clone()), letter);
    }
    letters.len() as u64
}

fn all_dead_letters(broker: &Broker, topic: &str) -> Vec<DeadLetter> {
    let mut letters = Vec::new();
    broker.read(topic, |record| {
        let value = record.value.expect("a dead letter has a value");
        letters.push(serde_json::from_slice(&value).expect("a dead letter"));
    });
    letters
}

/// Compares a topic of results with what is expected.
pub(crate) fn differences(broker: &Broker, topic: &str, expected: &Expected) -> Differences {
    let mut audit = expected.audit();
    broker.read(topic, |record| {
        audit.row(&record.value.expect("a result has a value"));
    });
    audit.finish()
}

/// All values of a topic, in no order.
pub(crate) fn values(broker: &Broker, topic: &str) -> Vec<serde_json::Value> {
    let mut values = Vec::new();
    broker.read(topic, |record| {
        let value = record.value.expect("no tombstone");
        values.push(serde_json::from_slice(&value).expect("JSON"));
    });
    values
}

/// Publishes single records, and waits for their acknowledgement.
pub(crate) struct Publisher<'a> {
    producer: BaseProducer,
    topic: &'a str,
}

impl<'a> Publisher<'a> {
    pub(crate) fn new(broker: &Broker, topic: &'a str) -> Self {
        let producer = broker
            .client()
            .set("message.max.bytes", "10000000")
            .set("linger.ms", "0")
            .create()
            .expect("the settings are those of a producer");
        Self { producer, topic }
    }

    /// Adds a record to a partition.
    pub(crate) fn send(&self, partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.send_at(partition, key, value, None);
    }

    /// Adds a record that says when it was published.
    pub(crate) fn send_at(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: Option<i64>,
    ) {
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(self.topic).partition(partition);
        record.key = key;
        record.payload = value;
        record.timestamp = timestamp_ms;
        self.producer.send(record).expect("the queue has room");
    }

    /// How many are not acknowledged.
    pub(crate) fn waiting(&self) -> i32 {
        self.producer.in_flight_count()
    }

    /// Waits until all are acknowledged.
    pub(crate) fn flush(&self) {
        // The client's own `flush` takes a tenth of a second at least.
        wait_until("acknowledgements", LIMIT, || {
            self.producer.poll(Duration::ZERO);
            self.producer.in_flight_count() == 0
        });
    }
}

/// Reads a topic as it grows.
pub(crate) struct Tail {
    consumer: BaseConsumer,
    brokers: String,
    topic: String,
}

impl Tail {
    /// Reads all partitions from the beginning.
    pub(crate) fn new(broker: &Broker, topic: &str) -> Self {
        let consumer: BaseConsumer = broker
            .client()
            .set("group.id", "deltajoin-tests")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "20")
            .create()
            .expect("the settings are those of a consumer");
        let metadata = consumer
            .fetch_metadata(Some(topic), LIMIT)
            .expect("the broker answers");
        let mut all = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            all.add_partition_offset(topic, partition.id(), Offset::Beginning)
                .expect("a partition that the broker has named");
        }
        consumer.assign(&all).expect("partitions that exist");
        Self {
            consumer,
            brokers: broker.bootstrap(),
            topic: topic.to_owned(),
        }
    }

    /// The next record; panics if none comes within `limit`.
    pub(crate) fn next(&self, limit: Duration) -> TopicRecord {
        self.poll(limit)
            .unwrap_or_else(|| panic!("waited {limit:?} in vain for a record of {}", self.topic))
    }

    /// The next record, if one comes in time.
    pub(crate) fn poll(&self, limit: Duration) -> Option<TopicRecord> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let message = match self.consumer.poll(left.min(Duration::from_secs(1))) {
                Some(Ok(message)) => message,
                // Errors are those of a broker that is paused: it is waited for.
                None | Some(Err(_)) => {
                    bootstrap_again(self.consumer.client(), &self.brokers);
                    continue;
                }
            };
            return Some(TopicRecord {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                headers: Vec::new(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
            });
        }
    }

    /// The value of the next record, as JSON.
    pub(crate) fn next_value(&self, limit: Duration) -> serde_json::Value {
        let record = self.next(limit);
        serde_json::from_slice(&record.value.expect("no tombstone")).expect("JSON")
    }

    /// Reads until nothing expected is missing, and compares what has come.
    pub(crate) fn audit(&self, expected: &Expected, limit: Duration) -> Differences {
        let deadline = Instant::now() + limit;
        let mut audit = expected.audit();
        let mut missing: std::collections::HashSet<i64> = expected.keys().collect();
        while !missing.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(record) = self.poll(left) else { break };
            let value = record.value.expect("a result has a value");
            audit.row(&value);
            if let Ok(row) = serde_json::from_slice::<deltajoin::generate::Row>(&value) {
                missing.remove(&row.detection_oid);
            }
        }
        audit.finish()
    }
}

/// The value of an event; its camera and its item are always the same.
pub(crate) fn event(detection: i64, location: i64) -> Vec<u8> {
    event_of(detection, location, "car")
}

/// The value of an event that shows this item.
pub(crate) fn event_of(detection: i64, location: i64, item: &str) -> Vec<u8> {
    let value = serde_json::json!({
        "geographical_location_oid": location,
        "video_camera_oid": 7,
        "detection_oid": detection,
        "item_name": item,
        "timestamp_detected": 1_767_225_600_000_i64,
    });
    value.to_string().into_bytes()
}

/// The detections of rows, sorted.
pub(crate) fn detections(rows: &[serde_json::Value]) -> Vec<i64> {
    let detections = rows.iter().map(|row| row["detection_oid"].as_i64());
    let mut detections: Vec<_> = detections.map(|one| one.expect("a number")).collect();
    detections.sort_unstable();
    detections
}
