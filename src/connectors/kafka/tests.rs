//! Source, sink and reference table against librdkafka's mock of a cluster: the ways of memory and
//! the counting of rows.
//!
//! What a broker really does is tested with a real one, in `tests/kafka`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deltajoin_workers::batch::{Batch, BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::ports::{Block, Sink as _, Stop, reason};
use deltajoin_workers::queue::{InFlight, Receiver, Sender, queue};
use deltajoin_workers::schema::{Column, ColumnType, Schema};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::ffi::{Consumer, Producer, Topic};
use super::messages::{Item, Outgoing};
use super::*;
use crate::codec::dead_letter::DeadLetters;
use crate::codec::{Envelope, Format};
use crate::config::{KafkaTopic, OnMissing, Partitioner, Start};

type Cluster = MockCluster<'static, DefaultProducerContext>;

const DEADLINE: Duration = Duration::from_secs(30);

fn cluster(topic: &str, partitions: i32) -> (Cluster, KafkaTopic) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, partitions, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    (cluster, topic_at(brokers, topic))
}

fn topic_at(brokers: String, topic: &str) -> KafkaTopic {
    KafkaTopic {
        brokers,
        topic: topic.to_owned(),
        properties: BTreeMap::new(),
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

fn producer(topic: &KafkaTopic) -> (Producer, Topic) {
    let producer =
        Producer::new(&settings::producer(topic, 1_000_000, settings::Linger::None).unwrap())
            .unwrap();
    let topic = producer.topic(&topic.topic).unwrap();
    (producer, topic)
}

/// Produces values to one partition and waits for all acknowledgements.
fn produce(topic: &KafkaTopic, partition: i32, values: &[Option<&[u8]>]) {
    let (mut producer, native) = producer(topic);
    let messages = values.iter().enumerate().map(|(token, value)| Outgoing {
        key: Some(b"key"),
        value: *value,
        token,
        mark: None,
    });
    let mut refused = Vec::new();
    assert_eq!(
        producer.produce(&native, partition, messages, &mut refused),
        values.len()
    );
    assert_eq!(refused, []);
    let mut reported = vec![0; values.len()];
    until("all is acknowledged", || {
        let handle = producer.handle();
        handle.poll(Duration::from_millis(10), |report| {
            assert_eq!((report.partition, report.result), (partition, Ok(())));
            reported[report.token] += 1;
        });
        reported.iter().all(|count| *count == 1)
    });
}

fn schema() -> Schema {
    let columns = vec![
        Column::new("id", ColumnType::Int64),
        Column::new("name", ColumnType::String),
    ];
    Schema::new(columns, vec![0])
}

fn fail() -> Fail {
    Arc::new(|error| panic!("no failure is expected: {error}: {:?}", error.detail()))
}

fn nothing_rejected() -> OnRejected {
    Arc::new(|rejected| panic!("nothing is too large: {rejected:?}"))
}

fn source(topic: &KafkaTopic, start: Start, until_end: bool) -> Source {
    let options = SourceOptions {
        topic: topic.clone(),
        start,
        on_missing: OnMissing::Fail,
        until_end,
        schema: BatchSchema::register(schema()),
        record_bytes_max: 100,
        readers_per_worker: 2,
    };
    Source::connect(options, &Stop::default()).unwrap()
}

/// Reads what a source gives until it is finished.
fn read_all(receiver: &Receiver<Block>) -> Vec<Block> {
    let mut blocks = Vec::new();
    until("the source is finished", || {
        while let Some((block, bytes)) = receiver.pop() {
            receiver.release(bytes);
            blocks.push(block);
        }
        receiver.finished()
    });
    blocks
}

/// Reads all partitions for one worker.
fn spawn(source: &Source, sender: Sender<Block>) -> Readers {
    let all: Owner = Arc::new(|_| Some(0));
    source.spawn(vec![sender], all, &fail()).unwrap()
}

fn read_to_end(topic: &KafkaTopic) -> Vec<Block> {
    let source = source(topic, Start::Earliest, true);
    let (sender, receiver) = queue(InFlight::new(1 << 20));
    let mut readers = spawn(&source, sender);
    let blocks = read_all(&receiver);
    readers.join();
    assert_eq!(source.lag().records(), 0);
    blocks
}

fn sink(options: SinkOptions) -> KafkaSink {
    Destination::connect(options, &Stop::default())
        .unwrap()
        .open(None)
        .unwrap()
}

fn rows(topic: &KafkaTopic) -> SinkOptions {
    SinkOptions {
        topic: topic.clone(),
        partitioner: Partitioner::KeyGroup,
        format: Format::rows(&schema(), Envelope::Upsert),
        on_rejected: nothing_rejected(),
        letter_of: Arc::new(|row| panic!("no dead letters: {row:?}")),
        fail: fail(),
    }
}

fn batch(ids: std::ops::Range<i64>, name: &str) -> Batch {
    let mut builder = BatchBuilder::new(BatchSchema::register(schema()));
    for id in ids {
        let slots = [Slot::Int64(id), Slot::String(name.into())];
        builder.push(&slots, Origin::default(), 1);
    }
    builder.finish()
}

#[test]
fn a_batch_is_read_whole_and_its_bytes_live_until_the_next() {
    let (_cluster, topic) = cluster("ffi", 1);
    let values: Vec<_> = (0..100_u8).map(|value| vec![value; 50]).collect();
    let mut borrowed: Vec<_> = values.iter().map(|value| Some(&value[..])).collect();
    borrowed.push(None);
    borrowed.push(Some(b""));
    produce(&topic, 0, &borrowed);

    let config = settings::consumer(&topic).unwrap();
    let mut consumer = Consumer::new(&config, &topic.topic, 40).unwrap();
    consumer.start(0, 3).unwrap();
    let mut next = 3;
    let mut end = None;
    until("the end of the partition", || {
        consumer.fill(Duration::from_millis(100));
        let batch: Vec<_> = consumer.batch().collect();
        for item in &batch {
            match item {
                Item::Record(record) => {
                    assert_eq!((record.partition(), record.offset()), (0, next));
                    assert_eq!(record.key(), Some(&b"key"[..]));
                    assert_eq!(record.value(), borrowed[next as usize]);
                    assert!(record.timestamp_ms().is_some());
                    next += 1;
                }
                Item::End { offset, .. } => end = Some(*offset),
                Item::Fault { reason, .. } => panic!("{reason}"),
            }
        }
        end.is_some()
    });
    assert_eq!((next, end), (102, Some(102)));
    assert_eq!(consumer.high_watermark(0), Some(102));
    // A consumer may be dropped with a batch, and with partitions that are being read.
    consumer.stop(0);
    consumer.start(0, 0).unwrap();
    until("a batch", || consumer.fill(Duration::from_millis(100)) > 0);
}

#[test]
fn what_finds_no_room_is_told_and_nothing_waits_at_the_end() {
    let (cluster, mut topic) = cluster("full", 1);
    cluster.broker_down(1).unwrap();
    let room = ("queue.buffering.max.messages".to_owned(), "10".to_owned());
    topic.properties.extend([room]);
    let (mut producer, native) = producer(&topic);
    let message = |token| Outgoing {
        key: None,
        value: Some(b"value"),
        token,
        mark: None,
    };
    let mut refused = Vec::new();
    assert_eq!(
        producer.produce(&native, 0, (0..25).map(message), &mut refused),
        10
    );
    let large = vec![0; 2_000_000];
    let large = Outgoing {
        value: Some(&large),
        ..message(7)
    };
    assert_eq!(
        producer.produce(&native, 0, [large].into_iter(), &mut refused),
        1
    );
    assert_eq!(refused, [(7, RDKafkaErrorCode::MessageSizeTooLarge)]);
    producer.purge();
    let mut purged = 0;
    until("all is purged", || {
        let handle = producer.handle();
        handle.poll(Duration::from_millis(10), |report| {
            assert_eq!(report.result, Err(RDKafkaErrorCode::PurgeQueue));
            purged += 1;
        });
        purged == 10
    });
}

#[test]
fn a_wake_ends_the_current_poll_or_the_next() {
    let (_cluster, topic) = cluster("wake", 1);
    let (producer, _native) = producer(&topic);
    producer.handle().share().wake();
    let start = Instant::now();
    producer.handle().poll(DEADLINE, |_| {});
    assert!(start.elapsed() < DEADLINE / 2);
}

#[test]
fn rows_that_are_written_are_read_back_each_once_and_in_order() {
    let (_cluster, topic) = cluster("rows", 4);
    let mut sink = sink(rows(&topic));
    let woken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&woken);
    sink.wake_by(Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    sink.close(4);
    assert_eq!(
        sink.written(),
        5,
        "an epoch without rows is written at once"
    );
    sink.write(5, batch(0..6000, "a"));
    sink.write(5, batch(6000..6001, "b"));
    sink.close(5);
    sink.close(6);
    until("all is written", || sink.written() == 7);
    until("the waker is called", || woken.load(Ordering::Relaxed) >= 2);
    drop(sink);

    let blocks = read_to_end(&topic);
    let mut ids = Vec::new();
    let mut last = BTreeMap::new();
    for block in &blocks {
        assert!(block.dead_letters.is_empty());
        assert_eq!(block.records, block.events.len() as u64);
        assert!(block.published_ms > 1_600_000_000_000);
        for row in 0..block.events.len() {
            let Origin { partition, offset } = block.events.origin(row);
            assert!(
                last.insert(partition, offset)
                    .is_none_or(|last| last < offset)
            );
            let Slot::Int64(id) = block.events.slot(0, row) else {
                panic!("ids are integers")
            };
            ids.push(id);
        }
    }
    assert_eq!(last.len(), 4, "every partition has rows");
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..6001));
}

#[test]
fn an_epoch_is_not_written_while_the_broker_is_away() {
    let (cluster, topic) = cluster("away", 2);
    let mut sink = sink(rows(&topic));
    cluster.broker_down(1).unwrap();
    sink.write(1, batch(0..10, "a"));
    sink.close(1);
    assert_eq!(sink.written(), 0);
    cluster.broker_up(1).unwrap();
    until("the broker is back", || sink.written() == 2);
    // A sink can be dropped at any time, also with rows that nobody takes.
    cluster.broker_down(1).unwrap();
    sink.write(2, batch(0..10, "a"));
    sink.close(2);
    drop(sink);
}

#[test]
fn rows_refused_for_their_company_are_written_and_only_large_ones_rejected() {
    let (cluster, topic) = cluster("large", 1);
    let rejected = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&rejected);
    let mut sink = sink(SinkOptions {
        on_rejected: Arc::new(move |row| seen.lock().unwrap().push(row)),
        letter_of: Arc::new(|row| panic!("no dead letters: {row:?}")),
        ..rows(&topic)
    });
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
    sink.write(1, batch(0..100, "a"));
    sink.write(1, batch(100..101, &"x".repeat(1_100_000)));
    sink.close(1);
    until("all is written or rejected", || sink.written() == 2);
    drop(sink);
    let rejected = rejected.lock().unwrap();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].reason, reason::TOO_LARGE);
    assert_eq!(rejected[0].raw, br#"{"id":100}"#);
    let events: usize = read_to_end(&topic)
        .iter()
        .map(|block| block.events.len())
        .sum();
    assert_eq!(events, 100);
}

#[test]
fn bad_records_become_dead_letters_and_large_ones_are_cut() {
    let (_cluster, topic) = cluster("bad", 1);
    let long = vec![b'x'; 500];
    let good = br#"{"id":1,"name":"a"}"#;
    produce(
        &topic,
        0,
        &[Some(good), Some(b"junk"), None, Some(&long), Some(good)],
    );
    let blocks = read_to_end(&topic);
    assert_eq!(blocks.iter().map(|block| block.records).sum::<u64>(), 5);
    let letters = &blocks[0].dead_letters;
    assert_eq!(letters.offsets(), [1, 2, 3]);
    let mut options = rows(&topic);
    options.format = Format::DeadLetters;
    let mut sink = sink(options);
    let mut large = DeadLetters::default();
    large.push(
        "bad",
        Origin::default(),
        None,
        reason::MALFORMED,
        "bad",
        &vec![0; 1_000_000],
    );
    sink.write(1, letters.clone());
    sink.write(1, large.finish());
    sink.close(1);
    until("dead letters are written", || sink.written() == 2);
    drop(sink);
    let records: u64 = read_to_end(&topic).iter().map(|block| block.records).sum();
    assert_eq!(records, 9, "none of them was left out");
}

#[test]
fn an_empty_topic_is_done_at_once_and_a_live_one_is_followed() {
    let (_cluster, topic) = cluster("live", 3);
    assert!(read_to_end(&topic).is_empty());
    let source = source(&topic, Start::Latest, false);
    let (sender, receiver) = queue(InFlight::new(1 << 20));
    let mut readers = spawn(&source, sender);
    produce(&topic, 2, &[Some(br#"{"id":1,"name":"a"}"#)]);
    until("the record comes", || receiver.pop().is_some());
    assert!(!receiver.finished());
    readers.stop();
    readers.join();
}

#[test]
fn a_missing_topic_and_a_refused_setting_are_clear_errors() {
    let (cluster, topic) = cluster("detections", 1);
    let missing = topic_at(topic.brokers.clone(), "detection");
    let mut connection = Connection::open(&missing).unwrap();
    // The mock makes topics as it is asked for them, so it must be told what to answer.
    let unknown = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    cluster.topic_error("detection", unknown).unwrap();
    let error = connection.partitions(&Stop::default()).unwrap_err();
    assert!(error.is_configuration());
    assert!(
        error
            .to_string()
            .starts_with("topic \"detection\" does not exist"),
        "{error}"
    );
    assert!(
        error.hint().unwrap().contains("\"detections\""),
        "{:?}",
        error.hint()
    );

    let mut wrong = topic;
    let setting = ("security.protocl".to_owned(), "ssl".to_owned());
    wrong.properties.extend([setting]);
    let error = Connection::open(&wrong).unwrap_err();
    assert!(
        matches!(&error, Error::Setting { key, .. } if key == "security.protocl"),
        "{error:?}"
    );
}

#[test]
fn waiting_for_a_broker_that_is_away_ends_with_a_stop() {
    let topic = topic_at("127.0.0.1:1".to_owned(), "events");
    let mut connection = Connection::open(&topic).unwrap();
    let stop = Stop::default();
    stop.ask();
    assert_eq!(connection.partitions(&stop), Err(Error::Stopped));
}

#[test]
fn a_reference_topic_is_complete_and_then_followed() {
    let (_cluster, topic) = cluster("places", 2);
    let options = ReferenceOptions {
        topic: topic.clone(),
        schema: schema(),
        record_bytes_max: 1000,
        until_end: false,
    };
    let send = |key: &str, value: &str| {
        let (mut producer, native) = producer(&topic);
        let message = Outgoing {
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            token: 0,
            mark: None,
        };
        producer.produce(&native, 0, [message].into_iter(), &mut Vec::new());
        let mut reported = false;
        until("it is acknowledged", || {
            producer
                .handle()
                .poll(Duration::from_millis(10), |_| reported = true);
            reported
        });
    };
    send(r#"{"id":1}"#, r#"{"id":1,"name":"a"}"#);
    let reference = Reference::connect(options, &Stop::default()).unwrap();
    let (sender, receiver) = queue(InFlight::new(1 << 20));
    let stop = Arc::new(AtomicBool::new(false));
    let thread = reference
        .spawn(sender, Box::new(()), Arc::clone(&stop), fail())
        .unwrap();
    let mut seen = Vec::new();
    let mut take = |count: usize| {
        until("the changes come", || {
            seen.extend(
                receiver
                    .pop()
                    .map(|(block, _)| (block.updates.len(), block.complete)),
            );
            seen.len() == count
        });
        seen[count - 1]
    };
    assert_eq!(take(1), (1, false));
    assert_eq!(take(2), (0, true));
    send(r#"{"id":1}"#, r#"{"id":1,"name":"b"}"#);
    assert_eq!(take(3), (1, false));
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}
