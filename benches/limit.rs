//! The limit: the same job by hand, for this one case alone. A loop around ordinary librdkafka
//! calls, typed parsing, a hash set and a hash map; at least once, no recovery, one thread.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Event<'a> {
    geographical_location_oid: i64,
    video_camera_oid: i64,
    detection_oid: i64,
    #[serde(borrow)]
    item_name: Cow<'a, str>,
    timestamp_detected: i64,
}

#[derive(Serialize)]
struct Joined<'a> {
    geographical_location_oid: i64,
    video_camera_oid: i64,
    detection_oid: i64,
    item_name: &'a str,
    timestamp_detected: i64,
    geographical_location: Option<&'a str>,
}

/// `limit BROKERS INPUT OUTPUT REFERENCE COUNT`: ends after COUNT records; 0 goes on.
pub(crate) fn main(arguments: &[String]) {
    let [brokers, input, output, reference, count] = arguments else {
        panic!("limit BROKERS INPUT OUTPUT REFERENCE COUNT");
    };
    let count: u64 = count.parse().expect("COUNT is a number");
    let mut table = HashMap::new();
    let mut rows = csv::Reader::from_path(reference).expect("the reference can be read");
    for row in rows.deserialize() {
        let (key, name): (i64, String) = row.expect("a row has a key and a name");
        table.insert(key, name);
    }
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "limit")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "2")
        .set("queued.min.messages", "400000")
        .set("queued.max.messages.kbytes", "65536")
        .set("fetch.message.max.bytes", "1048576")
        .set("fetch.wait.max.ms", "100")
        .create()
        .expect("a consumer can be made");
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", if count == 0 { "0" } else { "5" })
        .set("batch.size", "1000000")
        .set("batch.num.messages", "100000")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "65536")
        .set("acks", "all")
        .create()
        .expect("a producer can be made");
    let mut partitions = TopicPartitionList::new();
    for partition in 0..4 {
        partitions
            .add_partition_offset(input, partition, Offset::Beginning)
            .expect("a partition has a beginning");
    }
    consumer
        .assign(&partitions)
        .expect("the topic has four partitions");
    run(&consumer, &producer, output, &table, count);
}

fn run(
    consumer: &BaseConsumer,
    producer: &BaseProducer,
    output: &str,
    table: &HashMap<i64, String>,
    count: u64,
) {
    let mut seen: HashSet<i64> = HashSet::new();
    let (mut records, mut value, mut key) = (0, Vec::new(), Vec::new());
    while count == 0 || records < count {
        producer.poll(Duration::ZERO);
        let Some(message) = consumer.poll(Duration::from_millis(10)) else {
            continue;
        };
        let message = message.expect("the topic can be read");
        records += 1;
        let Ok(event) = serde_json::from_slice::<Event<'_>>(message.payload().unwrap_or_default())
        else {
            continue;
        };
        if !seen.insert(event.detection_oid) {
            continue;
        }
        let joined = Joined {
            geographical_location_oid: event.geographical_location_oid,
            video_camera_oid: event.video_camera_oid,
            detection_oid: event.detection_oid,
            item_name: &event.item_name,
            timestamp_detected: event.timestamp_detected,
            geographical_location: table
                .get(&event.geographical_location_oid)
                .map(String::as_str),
        };
        value.clear();
        serde_json::to_writer(&mut value, &joined).expect("memory takes all");
        key.clear();
        key.extend_from_slice(event.detection_oid.to_string().as_bytes());
        let mut record = BaseRecord::to(output)
            .partition(message.partition())
            .key(&key)
            .payload(&value);
        while let Err((error, refused)) = producer.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            assert_eq!(error, full, "the topic can be written");
            record = refused;
            std::thread::sleep(Duration::from_micros(500));
            producer.poll(Duration::ZERO);
        }
    }
    producer
        .flush(Duration::from_secs(60))
        .expect("the topic can be written");
}
