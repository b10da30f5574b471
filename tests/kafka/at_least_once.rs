//! At-least-once jobs as a user runs them: killed, started again with other workers. What they
//! repeat, their headers tell.

use std::collections::BTreeMap;

use deltajoin::generate::{Expected, reference_csv};
use deltajoin_testkit::{Broker, Job, TopicRecord, wait_until};

use crate::setup::{LIMIT, Setup, assert_no_errors, quoted};
use crate::stops::{kill_after, lose_processes_and_rescale};
use crate::stream::{Stream, million};
use crate::topics::{Publisher, Tail, detections, differences, event, values};

/// A job that joins a million events in small epochs, so that most of its kills cut one.
fn at_least_once(setup: Setup, stream: &Stream) -> Setup {
    setup
        .set("[sinks]", "delivery", quoted("at-least-once"))
        .set("dead_letters", "delivery", quoted("at-least-once"))
        .set("limits", "shards", "16")
        .set("events", "topic", quoted(stream.topic))
        .set("limits", "max_in_flight_bytes", quoted("2MB"))
        .reference(&reference_csv(&stream.options))
}

fn start(setup: &Setup, threads: usize, arguments: &[&str]) -> Job {
    let threads = format!("cluster.threads={threads}");
    setup.start(&[&["--set", &threads], arguments].concat())
}

pub(crate) fn number(record: &TopicRecord, name: &str) -> u64 {
    let mut headers = record.headers.iter();
    let header = headers.find(|(header, _)| header == name);
    let (_, value) = header.unwrap_or_else(|| panic!("no header {name:?}: {record:?}"));
    let text = String::from_utf8(value.clone().expect("a header has a value"));
    text.expect("text").parse().expect("a number")
}

/// Reads as a user would who wants each row once: what is no greater than the greatest (epoch, seq)
/// of its partition and shard was there before. Then each expected row must have come, once.
/// Returns how many rows were dropped.
pub(crate) fn assert_once_by_headers(broker: &Broker, topic: &str, expected: &Expected) -> u64 {
    let mut audit = expected.audit();
    let mut greatest = BTreeMap::new();
    let mut dropped = 0;
    broker.read(topic, |record| {
        let place = (record.partition, number(&record, "shard"));
        let mark = (number(&record, "epoch"), number(&record, "seq"));
        // Epochs are times: the first row of a place is greater.
        let known = greatest.entry(place).or_insert((0, 0));
        if *known >= mark {
            dropped += 1;
            return;
        }
        *known = mark;
        audit.row(&record.value.expect("a result has a value"));
    });
    let found = audit.finish();
    assert!(found.is_clean(), "{found:#?}");
    dropped
}

#[test]
fn a_reader_that_goes_by_headers_holds_each_row_of_a_killed_job_once() {
    let (broker, stream) = (Broker::shared(), million());
    let setup = at_least_once(Setup::new(broker, "often"), stream);
    let tail = Tail::new(broker, &setup.joined());
    for (threads, rows) in [(1, 1), (2, 20_000), (4, 60_000), (1, 100_000), (3, 150_000)] {
        kill_after(start(&setup, threads, &[]), &tail, rows);
    }
    let outcome = start(&setup, 2, &["--until-end"]).wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
    let dropped = assert_once_by_headers(broker, &setup.joined(), &stream.expected);
    assert!(dropped > 0, "no kill has cut anything");
    let found = differences(broker, &setup.joined(), &stream.expected);
    assert_eq!((found.missing, found.wrong), (0, 0), "{found:#?}");

    // After a clean stop nothing is repeated, whatever the delivery is from then on.
    for delivery in ["at-least-once", "exactly-once"] {
        let setting = format!("dead_letters.delivery={delivery}");
        let again = ["--until-end", "--set", &setting];
        start(&setup, 4, &again).wait(LIMIT).assert_code(0);
        let repeated = assert_once_by_headers(broker, &setup.joined(), &stream.expected);
        assert_eq!(repeated, dropped);
    }
}

#[test]
fn a_reader_that_goes_by_headers_holds_each_row_once_through_clusters_of_any_size() {
    let (broker, stream) = (Broker::shared(), million());
    broker.create_topic("often-cluster-joined", 4, &[]);
    broker.create_topic("often-cluster-dead", 1, &[]);
    let tail = Tail::new(broker, "often-cluster-joined");
    let state = tempfile::tempdir().unwrap();
    let setup = |processes: usize| {
        let setup = Setup::without_topics(broker, "often-cluster").processes(processes);
        at_least_once(setup, stream).state(state.path())
    };
    lose_processes_and_rescale(setup, &tail);
    assert_once_by_headers(broker, "often-cluster-joined", &stream.expected);
}

#[test]
fn a_killed_job_repeats_nothing_that_is_recorded_and_an_idle_one_records_nothing() {
    let broker = Broker::shared();
    broker.create_topic("recorded", 2, &[]);
    let setup = Setup::new(broker, "recorded")
        .set("[sinks]", "delivery", quoted("at-least-once"))
        .set("dead_letters", "delivery", quoted("at-least-once"));
    let publisher = Publisher::new(broker, "recorded");
    for detection in 1..=100 {
        publisher.send((detection % 2) as i32, None, Some(&event(detection, 1)));
    }
    publisher.flush();
    let mut job = setup.start_live();
    let tail = Tail::new(broker, &setup.joined());
    for _ in 0..100 {
        tail.next(LIMIT);
    }
    let mut last = 0;
    broker.read(&setup.joined(), |record| {
        last = last.max(number(&record, "epoch"))
    });
    let records = || {
        let mut epochs = Vec::new();
        broker.read("recorded.progress", |record| {
            let value = record.value.expect("no progress is forgotten");
            let value: serde_json::Value = serde_json::from_slice(&value).expect("JSON");
            epochs.push(value["epoch"].as_u64().expect("a number"));
        });
        epochs
    };
    // One for each sink.
    let recorded = || records().into_iter().filter(|epoch| *epoch >= last).count();
    wait_until("the progress of both sinks", LIMIT, || recorded() == 2);
    job.kill();
    job.wait(LIMIT);
    let before = records();
    start(&setup, 2, &["--until-end"])
        .wait(LIMIT)
        .assert_code(0);
    let rows = values(broker, &setup.joined());
    assert_eq!(detections(&rows), (1..=100).collect::<Vec<_>>());
    assert_eq!(records(), before);
}
