//! Single ways to lose or double rows, each closed by one rule of the protocol.

use std::time::{Duration, Instant};

use deltajoin::generate::reference_csv;
use deltajoin_testkit::{Broker, Job, wait_until};
use serde_json::{Value, json};

use crate::setup::{LIMIT, STARTED, Setup, quoted};
use crate::stops::signal;
use crate::stream::million;
use crate::topics::{Publisher, Tail, detections, differences, event, values};

/// When a checkpoint is made: time enough for a row to be written before.
const CHECKPOINT: &str = "10s";
const CHECKPOINT_DUE: Duration = Duration::from_secs(11);

/// A cluster of two processes without a supervisor.
fn two_workers(setup: &Setup) -> [Job; 2] {
    let workers = ["0", "1"].map(|process| setup.command("worker", &["--process", process]));
    for worker in &workers {
        worker.wait_for_line(STARTED, LIMIT);
    }
    workers
}

/// Whether a process is frozen.
pub(crate) fn is_stopped(job: &Job) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", job.pid())).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .map(|(_, fields)| fields.starts_with('T'));
    state.unwrap_or(false)
}

/// The transactional id of a process that is not there any more must be taken as well.
#[test]
fn a_frozen_process_that_has_no_successor_commits_nothing_late() {
    let broker = Broker::shared();
    broker.create_topic("frozen", 1, &[]);
    let state = tempfile::tempdir().unwrap();
    let setup = |processes| {
        Setup::without_topics(broker, "frozen")
            .set("[sinks]", "delivery", quoted("exactly-once"))
            .state(state.path())
            .processes(processes)
    };
    let two = setup(2);
    broker.create_topic(&two.joined(), 1, &[]);
    broker.create_topic(&two.dead(), 1, &[]);
    let tail = Tail::new(broker, &two.joined());
    let publisher = Publisher::new(broker, "frozen");
    let workers = two_workers(&two);
    let (order, reached) = ("fault-point", two.folder().join("fault-point.reached"));
    // Until an event is one that process 1 joins.
    let frozen = (1..).find(|detection| {
        std::fs::write(two.folder().join(order), "pause transaction.commit").unwrap();
        publisher.send(0, None, Some(&event(*detection, 1)));
        publisher.flush();
        wait_until("a process that is frozen", LIMIT, || reached.exists());
        std::fs::remove_file(&reached).unwrap();
        wait_until("it to stand still", LIMIT, || {
            workers.iter().any(is_stopped)
        });
        if is_stopped(&workers[1]) {
            return true;
        }
        signal(&workers[0].pid().to_string(), "CONT");
        tail.next(LIMIT);
        false
    });
    let frozen = frozen.expect("half of the events are");
    let mut one = setup(1).start_live();
    assert_eq!(tail.next_value(LIMIT)["detection_oid"], frozen);
    signal(&workers[1].pid().to_string(), "CONT");
    for worker in workers {
        assert_ne!(worker.wait(LIMIT).code(), Some(0));
    }
    publisher.send(0, None, Some(&event(frozen + 1, 1)));
    publisher.flush();
    assert_eq!(tail.next_value(LIMIT)["detection_oid"], frozen + 1);
    one.kill();
    let rows = values(broker, &two.joined());
    assert_eq!(detections(&rows), (1..=frozen + 1).collect::<Vec<_>>());
}

/// The state at an epoch of its own must not hide what a newer generation has bound before that.
#[test]
fn a_frozen_generation_without_records_makes_no_checkpoint_late() {
    let (broker, name) = (Broker::shared(), "frozen-idle");
    broker.create_topic(name, 1, &[]);
    let setup = Setup::new(broker, name)
        .set("[sinks]", "delivery", quoted("exactly-once"))
        .set("checkpoint", "interval", quoted(CHECKPOINT));
    let publisher = Publisher::new(broker, name);
    let tail = Tail::new(broker, &setup.joined());
    let goes_on = |detection: i64| {
        publisher.send(0, None, Some(&event(detection, 1)));
        publisher.flush();
        assert_eq!(tail.next_value(LIMIT)["detection_oid"], detection);
    };
    let (frozen, started) = (setup.start_live(), Instant::now());
    goes_on(1);
    signal(&frozen.pid().to_string(), "STOP");
    let mut newer = setup.command("run", &["--set", "checkpoint.interval=1h"]);
    newer.wait_for_line(STARTED, LIMIT);
    goes_on(2);
    newer.kill();
    newer.wait(LIMIT);
    std::thread::sleep(CHECKPOINT_DUE.saturating_sub(started.elapsed()));
    signal(&frozen.pid().to_string(), "CONT");
    frozen.wait(LIMIT).assert_code(5);
    let mut third = setup.start_live();
    goes_on(3);
    third.kill();
    assert_eq!(detections(&values(broker, &setup.joined())), [1, 2, 3]);
}

/// A bound epoch is read to its end, whatever may be in flight by then.
#[test]
fn an_epoch_that_is_larger_than_what_may_be_in_flight_is_made_again() {
    let (broker, stream) = (Broker::shared(), million());
    let setup = Setup::new(broker, "larger")
        .set("[sinks]", "delivery", quoted("exactly-once"))
        // No checkpoint is made before the kill.
        .set("checkpoint", "interval", quoted("1h"))
        .set("events", "topic", quoted(stream.topic))
        .reference(&reference_csv(&stream.options));
    let mut job = setup.start_live();
    wait_until("bindings of large epochs", LIMIT, || {
        setup.status()["records"].as_u64().unwrap_or(0) > 300_000
    });
    job.kill();
    job.wait(LIMIT);
    let small = ["--until-end", "--set", "limits.max_in_flight_bytes=1MB"];
    setup.start(&small).wait(LIMIT).assert_code(0);
    let found = differences(broker, &setup.joined(), &stream.expected);
    assert!(found.is_clean(), "{found:#?}");
}

/// New epochs are greater than those that a sink has: else its rows would be taken for written.
#[test]
fn a_sink_that_is_ahead_of_the_clock_loses_no_row() {
    let (broker, name) = (Broker::shared(), "ahead");
    broker.create_topic(name, 1, &[]);
    let setup = Setup::new(broker, name).set("[sinks]", "delivery", quoted("exactly-once"));
    let publisher = Publisher::new(broker, name);
    let goes_on = |detection: i64| {
        publisher.send(0, None, Some(&event(detection, 1)));
        publisher.flush();
        setup.run_until_end(&[]);
        let rows = detections(&values(broker, &setup.joined()));
        assert_eq!(rows, (1..=detection).collect::<Vec<_>>());
    };
    goes_on(1);
    let progress = Publisher::new(broker, "ahead.progress");
    let mut records = Vec::new();
    broker.read("ahead.progress", |record| records.push(record));
    for record in records {
        let mut value: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        let epoch = value["epoch"].as_u64().unwrap() + 24 * 3600 * 1000;
        value["epoch"] = epoch.into();
        let value = value.to_string();
        progress.send(0, record.key.as_deref(), Some(value.as_bytes()));
    }
    progress.flush();
    goes_on(2);
    goes_on(3);
}

/// Where reading starts is bound before anything is read: what comes between two starts is read.
#[test]
fn a_job_that_is_killed_before_its_first_record_begins_where_it_began() {
    let (broker, name) = (Broker::shared(), "begun");
    broker.create_topic(name, 1, &[]);
    let setup = Setup::new(broker, name).set("events", "start", quoted("latest"));
    let publisher = Publisher::new(broker, name);
    let publish = |range: std::ops::Range<i64>| {
        range.for_each(|detection| publisher.send(0, None, Some(&event(detection, 1))));
        publisher.flush();
    };
    publish(0..5);
    let mut job = setup.start_live();
    job.kill();
    job.wait(LIMIT);
    publish(5..10);
    setup.run_until_end(&[]);
    let rows = detections(&values(broker, &setup.joined()));
    assert_eq!(rows, (5..10).collect::<Vec<_>>());
}

/// A partition that ends before what is bound of it is waited for, and never taken for read.
#[test]
fn records_that_are_bound_and_not_there_are_waited_for_and_then_told() {
    let (broker, name) = (Broker::shared(), "shortened");
    broker.create_topic(name, 1, &[]);
    let setup = Setup::new(broker, name).set("checkpoint", "interval", quoted("1h"));
    let publisher = Publisher::new(broker, name);
    let publish = |range: std::ops::Range<i64>| {
        range.for_each(|detection| publisher.send(0, None, Some(&event(detection, 1))));
        publisher.flush();
    };
    publish(0..10);
    let mut job = setup.start_live();
    let tail = Tail::new(broker, &setup.joined());
    (0..10).for_each(|_| drop(tail.next(LIMIT)));
    job.kill();
    job.wait(LIMIT);
    // As if brokers had lost what was bound last.
    let mut last = Value::Null;
    broker.read("shortened.bindings", |record| {
        last = serde_json::from_slice(&record.value.unwrap()).unwrap();
    });
    last["epoch"] = (last["epoch"].as_u64().unwrap() + 1).into();
    last["ends"] = json!({ "0": 15 });
    let log = Publisher::new(broker, "shortened.bindings");
    log.send(0, None, Some(last.to_string().as_bytes()));
    log.flush();
    let outcome = setup.start(&["--until-end"]).wait(LIMIT);
    outcome.assert_code(2);
    let said = outcome.stderr.join("\n");
    let told = "error: records that are bound are gone: shortened[0] ends at 10, not 15";
    assert!(
        said.contains("waiting for records") && said.contains(told),
        "{said}"
    );
    // They come back after all, before the job gives them up.
    let job = setup.start(&["--until-end"]);
    job.wait_for_line("waiting for records", LIMIT);
    publish(10..15);
    job.wait(LIMIT).assert_code(0);
    let rows = detections(&values(broker, &setup.joined()));
    assert_eq!(rows, (0..15).collect::<Vec<_>>());
}
