//! Exactly-once jobs as a user runs them: killed, started again with other workers, started twice.

use std::time::Duration;

use deltajoin::generate::reference_csv;
use deltajoin_testkit::{Broker, Job, Login, Signal, Until};

use crate::setup::{LIMIT, Setup, assert_no_errors, quoted};
use crate::stops::{kill_after, lose_processes_and_rescale};
use crate::stream::million;
use crate::topics::{Publisher, Tail, dead_letters, differences, event, event_of, values};

/// A job that reads `events`, exactly-once.
fn exactly_once(broker: &Broker, name: &str) -> Setup {
    Setup::new(broker, name)
        .set("[sinks]", "delivery", quoted("exactly-once"))
        .set("limits", "shards", "16")
        .set("checkpoint", "interval", quoted("200ms"))
}

/// Starts a job with so many threads.
fn start(setup: &Setup, threads: usize, arguments: &[&str]) -> Job {
    let threads = format!("cluster.threads={threads}");
    setup.start(&[&["--set", &threads], arguments].concat())
}

#[test]
fn a_job_that_is_killed_and_gets_other_workers_writes_each_row_once() {
    let (broker, stream) = (Broker::shared(), million());
    let setup = exactly_once(broker, "once")
        .set("events", "topic", quoted(stream.topic))
        // Small epochs and many commits, so that most are cut by a kill somewhere.
        .set("limits", "max_in_flight_bytes", quoted("2MB"))
        .reference(&reference_csv(&stream.options));
    let tail = Tail::new(broker, &setup.joined());
    for (threads, rows) in [(1, 1), (2, 20_000), (4, 60_000), (1, 100_000), (3, 150_000)] {
        kill_after(start(&setup, threads, &[]), &tail, rows);
    }
    let outcome = start(&setup, 2, &["--until-end"]).wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
    let found = differences(broker, &setup.joined(), &stream.expected);
    assert!(found.is_clean(), "{found:#?}");
    stream.assert_dead_letters(&setup.dead());
    // Nothing is left to do, and nothing is done.
    let outcome = start(&setup, 4, &["--until-end"]).wait(LIMIT);
    outcome.assert_code(0);
    let mut audit = stream.expected.audit();
    let until = Until::Count(stream.expected.rows());
    for record in broker.console(&setup.joined(), until) {
        audit.row(&record.value.expect("a result has a value"));
    }
    let found = audit.finish();
    assert!(found.is_clean(), "{found:#?}");
    let found = differences(broker, &setup.joined(), &stream.expected);
    assert!(found.is_clean(), "{found:#?}");
}

#[test]
fn a_cluster_that_loses_processes_and_changes_their_number_writes_each_row_once() {
    let (broker, stream) = (Broker::shared(), million());
    let reference = reference_csv(&stream.options);
    let state = tempfile::tempdir().unwrap();
    let setup = |processes: usize| {
        Setup::without_topics(broker, "once-cluster")
            .set("[sinks]", "delivery", quoted("exactly-once"))
            .set("limits", "shards", "16")
            .set("checkpoint", "interval", quoted("200ms"))
            .state(state.path())
            .set("events", "topic", quoted(stream.topic))
            .set("limits", "max_in_flight_bytes", quoted("2MB"))
            .reference(&reference)
            .processes(processes)
    };
    broker.create_topic("once-cluster-joined", 4, &[]);
    broker.create_topic("once-cluster-dead", 1, &[]);
    let tail = Tail::new(broker, "once-cluster-joined");
    lose_processes_and_rescale(setup, &tail);
    let found = differences(broker, "once-cluster-joined", &stream.expected);
    assert!(found.is_clean(), "{found:#?}");
    stream.assert_dead_letters("once-cluster-dead");
    let manifests = std::fs::read_dir(state.path().join("once-cluster")).unwrap();
    let names = manifests.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.filter(|name| name.starts_with("manifest-")).collect();
    assert_eq!(names.len(), 2, "two checkpoints are kept: {names:?}");
}

fn names(broker: &Broker, setup: &Setup) -> Vec<(i64, Option<String>)> {
    let rows = values(broker, &setup.joined()).into_iter();
    let mut rows: Vec<_> = rows
        .map(|row| {
            let name = row["geographical_location"].as_str().map(str::to_owned);
            (row["detection_oid"].as_i64().unwrap(), name)
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn the_reference_table_of_a_replay_is_the_one_that_was_bound() {
    let broker = Broker::shared();
    broker.create_topic("bound", 2, &[]);
    let header = "geographical_location_oid,geographical_location\n";
    let setup =
        exactly_once(broker, "bound").reference(&format!("{header}1,Old\n2,Stays\n3,Goes\n"));
    let setup = setup.set("join", "on_reference_change", quoted("future-only"));
    let publisher = Publisher::new(broker, "bound");
    let publish = |oid: i64, location: i64| {
        publisher.send((oid % 2) as i32, None, Some(&event(oid, location)));
        publisher.flush();
    };
    for oid in 1..=3 {
        publish(oid, oid);
    }
    start(&setup, 1, &["--until-end"])
        .wait(LIMIT)
        .assert_code(0);
    let setup = setup.reference(&format!("{header}1,New\n2,Stays\n4,Comes\n"));
    for oid in 1..=4 {
        // Retries of events that are joined, and new ones.
        publish(oid, oid);
        publish(oid + 10, oid);
    }
    start(&setup, 2, &["--until-end"])
        .wait(LIMIT)
        .assert_code(0);
    start(&setup, 1, &["--until-end"])
        .wait(LIMIT)
        .assert_code(0);
    let name = |name: &str| Some(name.to_owned());
    let expected = [
        (1, name("Old")),
        (2, name("Stays")),
        (3, name("Goes")),
        (4, name("Comes")),
        (11, name("New")),
        (12, name("Stays")),
        (13, None),
        (14, name("Comes")),
    ];
    assert_eq!(names(broker, &setup), expected);
}

#[test]
fn of_two_clusters_of_one_job_the_older_ends_with_code_5() {
    let broker = Broker::shared();
    broker.create_topic("twins", 2, &[]);
    let (first, second) = (
        exactly_once(broker, "twins"),
        Setup::without_topics(broker, "twins")
            .set("[sinks]", "delivery", quoted("exactly-once"))
            .set("limits", "shards", "16"),
    );
    let publisher = Publisher::new(broker, "twins");
    let tail = Tail::new(broker, &first.joined());
    let publish = |oid: i64| {
        publisher.send(0, None, Some(&event(oid, 1)));
        publisher.flush();
        tail.next(LIMIT);
    };
    let older = first.start_live();
    publish(1);
    let mut newer = second.start_live();
    publish(2);
    let outcome = older.wait(Duration::from_secs(30));
    outcome.assert_code(5);
    let report = outcome.stderr.join("\n");
    assert!(report.contains("superseded"), "{report}");
    assert!(
        report.contains(&format!("process {} on", newer.pid())),
        "{report}"
    );
    publish(3);
    newer.signal(Signal::Terminate);
    newer.wait(LIMIT).assert_code(0);
    let rows: Vec<_> = names(broker, &first).into_iter().map(|row| row.0).collect();
    assert_eq!(rows, [1, 2, 3]);
}

#[test]
fn a_setting_that_bindings_depend_on_cannot_change_and_the_running_job_is_left_alone() {
    let broker = Broker::shared();
    broker.create_topic("lasting", 1, &[]);
    let setup = exactly_once(broker, "lasting");
    let publisher = Publisher::new(broker, "lasting");
    let tail = Tail::new(broker, &setup.joined());
    let mut running = setup.start_live();
    let refused = setup.start(&["--set", "limits.shards=8"]).wait(LIMIT);
    refused.assert_code(2);
    let report = refused.stderr.join("\n");
    for part in ["another limits.shards", "\"16\"", "\"8\""] {
        assert!(report.contains(part), "{report}");
    }
    publisher.send(0, None, Some(&event(1, 1)));
    publisher.flush();
    tail.next(LIMIT);
    running.signal(Signal::Terminate);
    running.wait(LIMIT).assert_code(0);
    assert!(dead_letters(broker, &setup.dead()).is_empty());
}

#[test]
fn a_row_that_no_message_can_hold_becomes_a_dead_letter_once_through_kills() {
    const ROUNDS: i64 = 3_000;
    let broker = Broker::shared();
    broker.create_topic("bulky-once", 1, &[]);
    let setup = Setup::without_topics(broker, "bulky-once")
        .set("[sinks]", "delivery", quoted("exactly-once"))
        .set("limits", "max_in_flight_bytes", quoted("1MB"))
        .set("telemetry", "log", quoted("error"));
    broker.create_topic(&setup.joined(), 4, &[("max.message.bytes", "2000")]);
    broker.create_topic(&setup.dead(), 1, &[]);
    let publisher = Publisher::new(broker, "bulky-once");
    for round in 0..ROUNDS {
        publisher.send(0, None, Some(&event(2 * round, 1)));
        let large = event_of(2 * round + 1, 1, &"x".repeat(3_000));
        publisher.send(0, None, Some(&large));
    }
    publisher.flush();
    let tail = Tail::new(broker, &setup.joined());
    for (threads, rows) in [(1, 1), (3, 500), (2, 1_000)] {
        let mut job = start(&setup, threads, &[]);
        for _ in 0..rows {
            tail.next(LIMIT);
        }
        job.kill();
        job.wait(LIMIT);
    }
    let outcome = start(&setup, 2, &["--until-end"]).wait(LIMIT);
    outcome.assert_code(0);
    assert_eq!(names(broker, &setup).len() as i64, ROUNDS);
    let letters = dead_letters(broker, &setup.dead());
    let large: Vec<_> = (0..ROUNDS).map(|round| (0, 2 * round + 1)).collect();
    assert_eq!(letters.into_keys().collect::<Vec<_>>(), large);
}

#[test]
fn sinks_at_two_clusters_and_bindings_at_the_second_hold_each_row_once_through_kills() {
    let (broker, other, stream) = (Broker::shared(), Broker::start(), million());
    let sink = format!(
        "type = \"kafka\"\nbrokers = {}\ntopic = \"elsewhere\"",
        quoted(&other.bootstrap())
    );
    other.create_topic("elsewhere", 4, &[]);
    let setup = exactly_once(broker, "two-clusters")
        .set("events", "topic", quoted(stream.topic))
        .set("limits", "max_in_flight_bytes", quoted("2MB"))
        .set("checkpoint", "bindings_brokers", quoted(&other.bootstrap()))
        .reference(&reference_csv(&stream.options))
        .at(&["dead_letters"], &other, Login::Admin)
        .sink(&sink);
    other.create_topic(&setup.dead(), 1, &[]);
    let tail = Tail::new(&other, "elsewhere");
    for (threads, rows) in [(1, 1), (3, 40_000), (2, 80_000)] {
        let mut job = start(&setup, threads, &[]);
        for _ in 0..rows {
            tail.next(LIMIT);
        }
        job.kill();
        job.wait(LIMIT);
    }
    start(&setup, 2, &["--until-end"])
        .wait(LIMIT)
        .assert_code(0);
    for (broker, topic) in [(broker, &*setup.joined()), (&other, "elsewhere")] {
        let found = differences(broker, topic, &stream.expected);
        assert!(found.is_clean(), "{topic}: {found:#?}");
    }
    // Exactly once by default, wherever they go; one that is there twice would fail this.
    let letters = dead_letters(&other, &setup.dead()).len() as u64;
    assert_eq!(letters, stream.expected.counts().dead_letters);
    let mut bindings = 0;
    other.read("two-clusters.bindings", |_| bindings += 1);
    assert!(bindings > 0, "they are where they are asked for");
}
