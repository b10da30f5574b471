//! The exactly-once sink: what is committed is there once, and what is not is not there.
//!
//! Apart from the tests of whole jobs: here a process ends in the middle of a transaction, at will.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deltajoin::codec::{Envelope, Format};
use deltajoin::config::{KafkaTopic, Partitioner};
use deltajoin::connectors::kafka::{
    Destination, Error, KafkaSink, Progress, SinkOptions, TransactionOptions, Transactions,
    read_progress,
};
use deltajoin::process::Skipping;
use deltajoin_testkit::{Broker, Login, Until, block_on, wait_until};
use deltajoin_workers::batch::{Batch, BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::key::{Ownership, key_group, mix64};
use deltajoin_workers::ports::{Sink, Stop};
use deltajoin_workers::schema::{Column, ColumnType, Schema};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::setup::LIMIT;
use crate::support::topic;

const SHARDS: usize = 8;
const SOON: Duration = Duration::from_millis(10);
/// A transaction of which the interval does not end by itself.
const NEVER: Duration = Duration::from_secs(3600);

/// How long a broker is silent: longer than one try of a commit.
const SILENCE: Duration = Duration::from_secs(4);

fn schema() -> Schema {
    let columns = vec![
        Column::new("id", ColumnType::Int64),
        Column::new("name", ColumnType::String),
    ];
    Schema::new(columns, vec![0])
}

fn batch(ids: impl IntoIterator<Item = i64>, name: &str) -> Batch {
    let mut builder = BatchBuilder::new(BatchSchema::register(schema()));
    for id in ids {
        let slots = [Slot::Int64(id), Slot::String(name.into())];
        builder.push(&slots, Origin::default(), 1);
    }
    builder.finish()
}

/// The ids of an epoch that are in some shards; those of all epochs are different.
fn ids(ownership: &Ownership, shards: Range<usize>, epoch: u64) -> Vec<i64> {
    let first = i64::try_from(epoch).expect("epochs are small here") * 1000;
    let shard = |id: i64| ownership.shard(key_group(mix64(id.cast_unsigned())));
    let all = first..first + 500;
    all.filter(|id| shards.contains(&shard(*id))).collect()
}

/// A process of a job, or what is left of it.
struct Process {
    transactions: Transactions,
    failures: Arc<Mutex<Vec<Error>>>,
}

fn progress_topic(broker: &Broker, job: &str) -> KafkaTopic {
    topic(broker, &format!("{job}.progress"), Login::Admin)
}

impl Process {
    fn start(broker: &Broker, job: &str, process: usize, commit_interval: Duration) -> Self {
        Self::bounded(broker, job, process, (commit_interval, 16 << 20))
    }

    /// One that commits at the latest when a transaction has so many bytes.
    fn bounded(
        broker: &Broker,
        job: &str,
        process: usize,
        (commit_interval, bytes_max): (Duration, usize),
    ) -> Self {
        let failures = Arc::new(Mutex::new(Vec::new()));
        let failed = Arc::clone(&failures);
        let options = TransactionOptions {
            progress: progress_topic(broker, job),
            replicas: 0,
            transactional_id: format!("{job}-{process}"),
            generation: 17,
            commit_interval,
            bytes_max,
            fail: Arc::new(move |error| failed.lock().unwrap().push(error)),
        };
        Self {
            transactions: Transactions::connect(options, &Stop::default()).unwrap(),
            failures,
        }
    }

    /// Ends it cleanly.
    fn end(self) {
        drop(self.transactions);
        assert_eq!(*self.failures.lock().unwrap(), []);
    }
}

/// Rejected rows are counted by their key.
type Refused = Arc<Mutex<Vec<Vec<u8>>>>;

fn destination(broker: &Broker, name: &str) -> (Arc<Destination>, Refused) {
    let refused = Refused::default();
    let seen = Arc::clone(&refused);
    let options = SinkOptions {
        topic: topic(broker, name, Login::Admin),
        partitioner: Partitioner::KeyGroup,
        format: Format::rows(&schema(), Envelope::Upsert),
        on_rejected: Arc::new(move |row| seen.lock().unwrap().push(row.raw)),
        letter_of: Arc::new(|row| panic!("there are no dead letters here: {row:?}")),
        fail: Arc::new(|error| panic!("at-least-once is not used: {error}")),
    };
    let destination = Destination::connect(options, &Stop::default()).unwrap();
    (destination, refused)
}

fn open(process: &Process, destination: &Arc<Destination>, shards: Range<usize>) -> KafkaSink {
    destination.open_in(&process.transactions, "joined", shards)
}

fn write(sink: &mut impl Sink, epochs: Range<u64>, ownership: &Ownership, shards: &Range<usize>) {
    for epoch in epochs {
        sink.write(epoch, batch(ids(ownership, shards.clone(), epoch), "row"));
        sink.close(epoch);
    }
}

fn wait_written(sink: &impl Sink, epoch: u64) {
    wait_until("the commit", LIMIT, || sink.written() > epoch);
}

fn progress(broker: &Broker, job: &str) -> Progress {
    read_progress(&progress_topic(broker, job), &Stop::default()).unwrap()
}

/// How often each id is there, for readers of committed records.
fn committed(broker: &Broker, name: &str) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    broker.read(name, |record| {
        let value: serde_json::Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        *counts.entry(value["id"].as_i64().unwrap()).or_default() += 1;
    });
    counts
}

fn each_once(ids: impl IntoIterator<Item = i64>) -> BTreeMap<i64, usize> {
    ids.into_iter().map(|id| (id, 1)).collect()
}

/// The sum of all partitions' ends, open transactions included.
fn ends(broker: &Broker, name: &str, partitions: i32) -> i64 {
    let mut config = broker.client();
    config.set("isolation.level", "read_uncommitted");
    let consumer: BaseConsumer = config.create().unwrap();
    let ends = (0..partitions).map(|one| consumer.fetch_watermarks(name, one, LIMIT).unwrap().1);
    ends.sum()
}

#[test]
fn a_process_that_ends_within_a_transaction_costs_nothing_and_doubles_nothing() {
    let broker = Broker::shared();
    broker.create_topic("torn", 4, &[]);
    let one = Ownership::new(SHARDS, 1);
    let (destination, _) = destination(broker, "torn");
    let first = Process::start(broker, "torn", 0, SOON);
    let mut sink = open(&first, &destination, 0..SHARDS);
    write(&mut sink, 1..4, &one, &(0..SHARDS));
    wait_written(&sink, 3);
    drop(sink);
    first.end();

    let torn = Process::start(broker, "torn", 0, NEVER);
    let mut torn_sink = open(&torn, &destination, 0..SHARDS);
    let before = ends(broker, "torn", 4);
    write(&mut torn_sink, 4..6, &one, &(0..SHARDS));
    wait_until("rows of an open transaction", LIMIT, || {
        ends(broker, "torn", 4) == before + 1000
    });
    let expected = (1..4).flat_map(|epoch| ids(&one, 0..SHARDS, epoch));
    assert_eq!(committed(broker, "torn"), each_once(expected));

    let second = Process::start(broker, "torn", 0, SOON);
    let found = progress(broker, "torn").of_shards("joined", 0..SHARDS);
    assert_eq!(found, [3; SHARDS]);
    let sink = open(&second, &destination, 0..SHARDS);
    let mut sink = Skipping::new(sink, one.clone(), 0..SHARDS, found);
    write(&mut sink, 1..8, &one, &(0..SHARDS));
    wait_written(&sink, 7);

    // The first one wakes up, and tries to commit what it had.
    drop((torn.transactions, torn_sink));
    let failures = torn.failures.lock().unwrap();
    assert!(
        matches!(&failures[..], [Error::Fenced { place, .. }] if place.contains("\"torn-0\"")),
        "{failures:?}"
    );
    // It has not taken the id back.
    write(&mut sink, 8..10, &one, &(0..SHARDS));
    wait_written(&sink, 9);
    second.end();
    let expected: Vec<_> = (1..10)
        .flat_map(|epoch| ids(&one, 0..SHARDS, epoch))
        .collect();
    assert_eq!(committed(broker, "torn"), each_once(expected.clone()));
    let console = broker.console("torn", Until::Count(expected.len() as u64));
    assert_eq!(console.count(), expected.len());
}

#[test]
fn progress_of_two_processes_is_gone_on_with_by_one() {
    let broker = Broker::shared();
    broker.create_topic("merged", 4, &[]);
    let two = Ownership::new(SHARDS, 2);
    let (destination, _) = destination(broker, "merged");
    for (process, epochs) in [(0, 1..4), (1, 1..6)] {
        let shards = two.shards_of(process);
        let running = Process::start(broker, "merged", process, SOON);
        let mut sink = open(&running, &destination, shards.clone());
        write(&mut sink, epochs, &two, &shards);
        // What is closed is committed before a clean end.
        running.end();
    }
    let stop = Stop::default();
    let topic = progress_topic(broker, "merged");
    let one = Ownership::new(SHARDS, 1);
    let running = Process::start(broker, "merged", 0, SOON);
    Transactions::fence(&topic, &["merged-1".to_owned()], &stop).unwrap();
    let found = progress(broker, "merged").of_shards("joined", 0..SHARDS);
    assert_eq!(found, [3, 3, 3, 3, 5, 5, 5, 5]);
    let sink = open(&running, &destination, 0..SHARDS);
    let mut sink = Skipping::new(sink, one.clone(), 0..SHARDS, found);
    write(&mut sink, 1..5, &one, &(0..SHARDS));
    running.end();
    let found = progress(broker, "merged").of_shards("joined", 0..SHARDS);
    assert_eq!(found, [4, 4, 4, 4, 5, 5, 5, 5]);

    // And by four, of which one does all the work.
    let four = Ownership::new(SHARDS, 4);
    let running = Process::start(broker, "merged", 3, SOON);
    for worker in 0..4 {
        let shards = four.shards_of(worker);
        let found = progress(broker, "merged").of_shards("joined", shards.clone());
        let sink = open(&running, &destination, shards.clone());
        let mut sink = Skipping::new(sink, four.clone(), shards.clone(), found);
        write(&mut sink, 1..7, &four, &shards);
        wait_written(&sink, 6);
    }
    running.end();
    let expected = (1..7).flat_map(|epoch| ids(&one, 0..SHARDS, epoch));
    assert_eq!(committed(broker, "merged"), each_once(expected));
}

#[test]
fn sinks_of_two_topics_are_committed_together_and_an_idle_job_commits_nothing() {
    let broker = Broker::shared();
    broker.create_topic("left", 1, &[]);
    broker.create_topic("right", 1, &[]);
    let ((left, _), (right, _)) = (destination(broker, "left"), destination(broker, "right"));
    let process = Process::start(broker, "pair", 0, NEVER);
    let transactions = &process.transactions;
    let mut left = left.open_in(transactions, "left", 0..SHARDS);
    let mut right = right.open_in(transactions, "right", 0..SHARDS);
    left.write(1, batch(0..10, "left"));
    right.write(1, batch(0..20, "right"));
    left.close(1);
    right.close(1);
    // An epoch without rows waits for those before it.
    left.close(2);
    wait_until("rows of an open transaction", LIMIT, || {
        ends(broker, "left", 1) + ends(broker, "right", 1) == 30
    });
    assert_eq!((left.written(), right.written()), (0, 0));
    assert_eq!(
        committed(broker, "left").len() + committed(broker, "right").len(),
        0
    );
    process.end();
    assert_eq!((left.written(), right.written()), (3, 2));
    assert_eq!(committed(broker, "left"), each_once(0..10));
    assert_eq!(committed(broker, "right"), each_once(0..20));
    let found = progress(broker, "pair");
    assert_eq!((found.of("left", 0), found.of("right", 7)), (2, 1));

    let process = Process::start(broker, "pair", 0, SOON);
    let transactions = &process.transactions;
    let (left_topic, right_topic) = (
        destination(broker, "left").0,
        destination(broker, "right").0,
    );
    let mut left = left_topic.open_in(transactions, "left", 0..SHARDS);
    let mut right = right_topic.open_in(transactions, "right", 0..SHARDS);
    left.write(5, batch(10..20, "left"));
    left.close(5);
    wait_written(&left, 5);
    for epoch in 5..20 {
        right.close(epoch);
        assert_eq!(right.written(), epoch + 1, "there was nothing to write");
    }
    wait_until("the progress of a sink without rows", LIMIT, || {
        progress(broker, "pair").of("right", 0) >= 5
    });
    for epoch in 6..20 {
        left.close(epoch);
    }
    assert_eq!(left.written(), 20);
    process.end();
    let mut records = 0;
    broker.read("pair.progress", |_| records += 1);
    assert_eq!(
        records, 4,
        "two of each sink, and none while nothing was written"
    );
}

/// Else what waits for the next one is taken for written when the process dies between the two.
#[test]
fn a_transaction_tells_no_epoch_that_waits_for_the_next_one() {
    let broker = Broker::shared();
    broker.create_topic("one-by-one", 1, &[]);
    let one = Ownership::new(SHARDS, 1);
    let (destination, _) = destination(broker, "one-by-one");
    // Each epoch fills a transaction, and nearly all come while the first is committed.
    let process = Process::bounded(broker, "one-by-one", 0, (NEVER, 1));
    let mut sink = open(&process, &destination, 0..SHARDS);
    write(&mut sink, 1..21, &one, &(0..SHARDS));
    wait_written(&sink, 20);
    process.end();
    let mut told = Vec::new();
    broker.read("one-by-one.progress", |record| {
        let value: serde_json::Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        told.push(value["epoch"].as_u64().unwrap());
    });
    assert_eq!(told, (1..21).collect::<Vec<_>>());
}

#[test]
fn a_row_too_large_for_its_topic_is_left_out_of_a_transaction_once() {
    let broker = Broker::shared();
    broker.create_topic("narrow", 2, &[("max.message.bytes", "3000")]);
    let (known, refused_at_once) = destination(broker, "narrow");
    broker.create_topic("narrowed", 2, &[]);
    let (surprised, refused_by_broker) = destination(broker, "narrowed");
    let change = AlterConfig::new(ResourceSpecifier::Topic("narrowed"));
    let change = change.set("max.message.bytes", "3000");
    block_on(
        broker
            .admin()
            .alter_configs([&change], &AdminOptions::new()),
    )
    .unwrap();

    let process = Process::start(broker, "narrow", 0, SOON);
    for (destination, refused) in [(known, refused_at_once), (surprised, refused_by_broker)] {
        let mut sink = open(&process, &destination, 0..SHARDS);
        sink.write(1, batch(0..200, "small"));
        sink.write(1, batch(200..203, &"x".repeat(4000)));
        sink.write(1, batch(203..400, "small"));
        sink.close(1);
        sink.write(2, batch(400..500, "small"));
        sink.close(2);
        wait_written(&sink, 2);
        let mut refused = refused.lock().unwrap().clone();
        refused.sort();
        let expected = (200..203).map(|id| format!("{{\"id\":{id}}}").into_bytes());
        assert_eq!(refused, expected.collect::<Vec<_>>());
    }
    process.end();
    for name in ["narrow", "narrowed"] {
        let written = (0..200).chain(203..500);
        assert_eq!(committed(broker, name), each_once(written), "{name}");
    }
}

#[test]
fn a_broker_that_is_silent_or_dies_within_a_transaction_is_waited_for() {
    let broker = Broker::start();
    broker.create_topic("patient", 4, &[]);
    let one = Ownership::new(SHARDS, 1);
    let (destination, _) = destination(&broker, "patient");
    let process = Process::start(&broker, "patient", 0, SOON);
    let mut sink = open(&process, &destination, 0..SHARDS);
    for round in 0..4 {
        let epochs = round * 10 + 1..round * 10 + 11;
        let last = epochs.end - 1;
        write(&mut sink, epochs.clone(), &one, &(0..SHARDS));
        match round {
            1 => {
                broker.pause();
                std::thread::sleep(SILENCE);
                broker.resume();
            }
            2 => broker.restart(),
            _ => {}
        }
        wait_written(&sink, last);
    }
    process.end();
    let expected = (1..41).flat_map(|epoch| ids(&one, 0..SHARDS, epoch));
    assert_eq!(committed(&broker, "patient"), each_once(expected));
    assert_eq!(progress(&broker, "patient").of("joined", 0), 40);
}

#[test]
fn a_topic_that_would_forget_progress_is_refused() {
    let broker = Broker::shared();
    broker.create_topic("forgetful.progress", 1, &[]);
    broker.create_topic("too-wide.progress", 2, &[("cleanup.policy", "compact")]);
    for (job, detail) in [
        (
            "forgetful",
            "Its setting cleanup.policy is \"delete\", and must be \"compact\".",
        ),
        ("too-wide", "It has 2 partitions, and needs 1."),
    ] {
        let options = TransactionOptions {
            progress: progress_topic(broker, job),
            replicas: 0,
            transactional_id: format!("{job}-0"),
            generation: 1,
            commit_interval: SOON,
            bytes_max: 1 << 20,
            fail: Arc::new(|error| panic!("nothing is written: {error}")),
        };
        let error = Transactions::connect(options, &Stop::default())
            .err()
            .unwrap();
        assert!(error.is_configuration());
        assert_eq!(error.detail(), Some(detail));
    }
}
