//! Tests of the test kit itself: what the broker, the readers and the generator promise.

use std::collections::HashMap;
use std::time::Duration;

use deltajoin::generate::{Error, Generator, Options, to_kafka};
use deltajoin_testkit::{Broker, Login, TopicRecord, Until};
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::{pace, publish, topic};

const LIMIT: Duration = Duration::from_secs(60);

/// Keys and values of each partition, in order.
type Partitions = HashMap<i32, Vec<(Vec<u8>, Vec<u8>)>>;

fn options(count: u64) -> Options {
    Options {
        count,
        bad_share: 0.02,
        ..Options::default()
    }
}

/// What a reader of all partitions must see, each partition in order.
fn published(options: &Options) -> Partitions {
    let mut partitions = Partitions::new();
    let mut generator = Generator::new(options.clone()).expect("the options are right");
    while let Some(record) = generator.next_record() {
        let partition = partitions.entry(record.partition).or_default();
        partition.push((record.key.to_vec(), record.value.to_vec()));
    }
    partitions
}

fn by_partition(records: impl Iterator<Item = TopicRecord>) -> Partitions {
    let mut partitions = Partitions::new();
    for record in records {
        let partition = partitions.entry(record.partition).or_default();
        assert_eq!(record.offset, partition.len() as i64);
        let key = record.key.expect("every record has a key");
        partition.push((key, record.value.expect("every record has a value")));
    }
    partitions
}

fn read(broker: &Broker, topic: &str) -> Vec<TopicRecord> {
    let mut records = Vec::new();
    broker.read(topic, |record| records.push(record));
    records
}

#[test]
fn published_events_are_read_back_equal_by_both_readers() {
    let broker = Broker::shared();
    broker.create_topic("kit-events", 4, &[]);
    let options = options(10_000);
    let written = publish(broker, "kit-events", &options);
    assert_eq!(written.records, 10_000);
    let expected = published(&options);
    let console = broker.console("kit-events", Until::Count(10_000));
    assert!(by_partition(console) == expected);
    assert!(by_partition(read(broker, "kit-events").into_iter()) == expected);
}

#[test]
fn both_readers_see_the_same_headers_nulls_and_bytes() {
    let broker = Broker::shared();
    broker.create_topic("kit-odd", 1, &[]);
    let producer: BaseProducer = broker.client().create().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header {
            key: "epoch",
            value: Some("17:18"),
        })
        .insert(Header {
            key: "none",
            value: None::<&str>,
        });
    let odd = b"a\nline, \xff\xfe \t and a \x1e\n".as_slice();
    let send = |record: BaseRecord<'_, [u8], [u8]>| producer.send(record).unwrap();
    send(
        BaseRecord::to("kit-odd")
            .key(b"k".as_slice())
            .payload(odd)
            .headers(headers)
            .timestamp(5),
    );
    send(
        BaseRecord::to("kit-odd")
            .key(b"tombstone".as_slice())
            .timestamp(6),
    );
    send(
        BaseRecord::to("kit-odd")
            .payload(b"null".as_slice())
            .timestamp(7),
    );
    send(
        BaseRecord::to("kit-odd")
            .key(b"".as_slice())
            .payload(b"".as_slice())
            .timestamp(8),
    );
    producer.flush(LIMIT).unwrap();
    let console: Vec<TopicRecord> = broker
        .console("kit-odd", Until::Quiet(Duration::from_secs(5)))
        .collect();
    assert_eq!(console[0].value.as_deref(), Some(odd));
    assert_eq!(
        console[0].headers[0],
        ("epoch".to_owned(), Some(b"17:18".to_vec()))
    );
    assert_eq!((&console[1].value, &console[2].key), (&None, &None));
    assert_eq!(console, read(broker, "kit-odd"));
}

#[test]
fn an_aborted_transaction_is_seen_by_no_reader() {
    let broker = Broker::shared();
    broker.create_topic("kit-aborted", 1, &[]);
    let producer: BaseProducer = broker
        .client()
        .set("transactional.id", "kit-aborted")
        .create()
        .unwrap();
    producer.init_transactions(LIMIT).unwrap();
    for (value, committed) in [("first", true), ("second", false), ("third", true)] {
        producer.begin_transaction().unwrap();
        let record: BaseRecord<'_, [u8], str> = BaseRecord::to("kit-aborted").payload(value);
        producer.send(record).unwrap();
        producer.flush(LIMIT).unwrap();
        if committed {
            producer.commit_transaction(LIMIT).unwrap();
        } else {
            producer.abort_transaction(LIMIT).unwrap();
        }
    }
    let values = |records: &mut dyn Iterator<Item = TopicRecord>| -> Vec<Vec<u8>> {
        records.map(|record| record.value.unwrap()).collect()
    };
    let committed = [b"first".to_vec(), b"third".to_vec()];
    let mut console = broker.console("kit-aborted", Until::Quiet(Duration::from_secs(5)));
    assert_eq!(values(&mut console), committed);
    assert_eq!(
        values(&mut read(broker, "kit-aborted").into_iter()),
        committed
    );
}

#[test]
fn a_killed_broker_loses_nothing_and_keeps_its_address() {
    let broker = Broker::start();
    broker.create_topic("events", 4, &[]);
    let options = options(5_000);
    publish(&broker, "events", &options);
    let (pid, bootstrap) = (broker.pid(), broker.bootstrap());
    broker.kill();
    broker.restart();
    assert_ne!(broker.pid(), pid);
    assert_eq!(broker.bootstrap(), bootstrap);
    assert!(by_partition(read(&broker, "events").into_iter()) == published(&options));
}

#[test]
fn a_paused_broker_answers_after_it_is_resumed() {
    let broker = Broker::start();
    broker.create_topic("events", 4, &[]);
    broker.pause();
    let options = options(5_000);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(&broker, "events", &options));
        let client = broker.client();
        scope
            .spawn(move || assert!(!answers(&client, Duration::from_secs(1))))
            .join()
            .unwrap();
        assert!(!publisher.is_finished());
        broker.resume();
        assert_eq!(publisher.join().unwrap().records, 5_000);
    });
    assert!(by_partition(read(&broker, "events").into_iter()) == published(&options));
}

fn answers(client: &ClientConfig, limit: Duration) -> bool {
    let producer: BaseProducer = client.create().expect("the settings are right");
    producer.client().fetch_metadata(None, limit).is_ok()
}

#[test]
fn a_secure_broker_takes_the_right_password_only() {
    let broker = Broker::start_secure();
    broker.create_topic("events", 4, &[]);
    let options = options(1_000);
    let write = |login: Login| {
        let generator = Generator::new(options.clone()).unwrap();
        to_kafka(generator, &topic(&broker, "events", login), &pace())
    };
    write(Login::Job).unwrap();
    let refusals = [
        (Login::WrongPassword, RDKafkaErrorCode::Authentication),
        (Login::Stranger, RDKafkaErrorCode::TopicAuthorizationFailed),
    ];
    for (login, refusal) in refusals {
        match write(login) {
            Err(Error::Publish { source, .. }) => {
                assert_eq!(source.rdkafka_error_code(), Some(refusal), "{login:?}");
            }
            other => panic!("{login:?}: {other:?}"),
        }
    }
    let console = broker.console("events", Until::Count(1_000));
    assert!(by_partition(console) == published(&options));
    // The job's user may also do what exactly-once needs.
    let mut client = ClientConfig::new();
    client.extend(broker.client_properties(Login::Job));
    client
        .set("bootstrap.servers", broker.bootstrap())
        .set("transactional.id", "any");
    let producer: BaseProducer = client.create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
}
