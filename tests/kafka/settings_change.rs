//! What may change between two starts: each row of the table in `docs/recovery.md`, once.

use std::cell::Cell;
use std::path::Path;

use deltajoin_testkit::Broker;
use serde_json::Value;

use crate::setup::{LIMIT, Setup, quoted};
use crate::topics::{Publisher, Tail, event, values};

pub(crate) const TABLE: &str = "geographical_location_oid,geographical_location\n1,Here\n";

/// A job that keeps its checkpoints in a folder that outlives its setups.
pub(crate) struct Changing {
    name: &'static str,
    state: tempfile::TempDir,
    next: Cell<i64>,
}

impl Changing {
    pub(crate) fn new(name: &'static str) -> Self {
        let broker = Broker::shared();
        broker.create_topic(name, 2, &[]);
        drop(Setup::new(broker, name));
        Self {
            name,
            state: tempfile::tempdir().unwrap(),
            next: Cell::new(0),
        }
    }

    pub(crate) fn setup(&self) -> Setup {
        Setup::without_topics(Broker::shared(), self.name)
            .state(self.state.path())
            .set("join", "on_reference_change", quoted("future-only"))
            .reference(TABLE)
    }

    /// Where its checkpoints are.
    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// Publishes one more event, and the one before it again.
    pub(crate) fn publish(&self) -> i64 {
        let oid = self.next.replace(self.next.get() + 1);
        let publisher = Publisher::new(Broker::shared(), self.name);
        for oid in [oid.max(1) - 1, oid] {
            publisher.send((oid % 2) as i32, None, Some(&event(oid, 1)));
        }
        publisher.flush();
        oid
    }

    /// All rows, by the key's column.
    pub(crate) fn rows(&self) -> Vec<(i64, Value)> {
        let rows = values(Broker::shared(), &format!("{}-joined", self.name)).into_iter();
        let mut rows: Vec<_> = rows
            .map(|row| (row["detection_oid"].as_i64().unwrap(), row))
            .collect();
        rows.sort_by_key(|(oid, _)| *oid);
        rows
    }

    /// Runs with one more event; then each event has one row. Gives the last.
    pub(crate) fn goes_on(&self, what: &str, setup: &Setup, arguments: &[&str]) -> Value {
        let last = self.publish();
        setup.run_until_end(arguments);
        let rows = self.rows();
        let oids: Vec<i64> = rows.iter().map(|(oid, _)| *oid).collect();
        assert_eq!(oids, (0..=last).collect::<Vec<_>>(), "{what}");
        rows.last().unwrap().1.clone()
    }

    /// Is refused, by the start and by `check`, with exit code 2.
    pub(crate) fn refused(&self, setup: &Setup, arguments: &[&str], texts: &[&str]) {
        for command in ["check", "run"] {
            let outcome = setup.command(command, arguments).wait(LIMIT);
            let said = outcome.stderr.join("\n");
            assert_eq!(outcome.code(), Some(2), "{arguments:?}: {said}");
            for text in texts {
                assert!(said.contains(text), "{text:?} is missing in:\n{said}");
            }
        }
    }
}

#[test]
fn what_may_change_goes_on_with_each_row_once() {
    let job = Changing::new("changing");
    job.goes_on("the first start", &job.setup(), &[]);
    for setting in [
        "cluster.threads=2",
        "cluster.threads=1",
        "limits.tick=5ms",
        "limits.max_in_flight_bytes=2MB",
        "limits.max_record_bytes=500KB",
        "limits.topic_replication=1",
        "checkpoint.interval=1s",
        "checkpoint.bindings_retention=1h",
        "checkpoint.commit_group_offsets=false",
        "cluster.peer_timeout=9s",
        "telemetry.log=debug",
        // It has begun, and goes on from there.
        "events.start=latest",
        "sinks.0.delivery=at-least-once",
        "sinks.0.commit_interval=5ms",
        "sinks.0.partitioner=murmur2",
        "join.strategy=partitioned",
    ] {
        job.goes_on(setting, &job.setup(), &["--set", setting]);
    }
    job.goes_on("two processes", &job.setup().processes(2), &[]);
    let brokers = Broker::shared()
        .bootstrap()
        .replace("127.0.0.1", "localhost");
    let brokers = format!("events.brokers={brokers}");
    job.goes_on("events.brokers", &job.setup(), &["--set", &brokers]);
    job.goes_on(
        "a sink's name",
        &job.setup(),
        &["--set", "sinks.0.name=another"],
    );
    // The whole log would be made again, and some of it was bound by another setting.
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = job.setup().state(elsewhere.path());
    job.refused(&moved, &[], &["limits.max_record_bytes", "another name"]);
    job.rows_depend_on_settings();
    job.sinks_come_and_go();
}

impl Changing {
    fn rows_depend_on_settings(&self) {
        let job = self;
        let row = job.goes_on("as it was", &job.setup(), &[]);
        assert_eq!(row["geographical_location"], "Here");
        let renamed = job.setup().reference(&TABLE.replace("Here", "There"));
        let row = job.goes_on("another reference", &renamed, &[]);
        assert_eq!(row["geographical_location"], "There");
        // What rows depend on, as all of them are written.
        let columns = r#"{ geographical_location_oid = "int64", video_camera_oid = "int64?",
                       detection_oid = "int64" }"#;
        let columns = columns.replace('\n', "");
        let fewer = job.setup().set("events", "columns", columns);
        let row = job.goes_on("events.columns", &fewer, &[]);
        assert_eq!(row.as_object().unwrap().len(), 4, "{row}");
        let on = r#"{ video_camera_oid = "geographical_location_oid" }"#;
        let row = job.goes_on("join.on", &job.setup().set("join", "on", on), &[]);
        assert_eq!(row["geographical_location"], Value::Null);
        let dropping = ["--set", "join.unmatched=drop"];
        job.goes_on("join.unmatched", &job.setup(), &dropping);
        // Rows that come from then on can be revised, and are by the next start.
        let revising = ["--set", "join.on_reference_change=revise"];
        job.goes_on("join.on_reference_change", &job.setup(), &revising);
        let partitioned = [&revising[..], &["--set", "join.strategy=partitioned"]].concat();
        job.goes_on("join.strategy", &job.setup(), &partitioned);
        let again = ["--set", "join.strategy=partitioned"];
        job.goes_on(
            "results that are not revised any more",
            &job.setup(),
            &again,
        );
        let again = [
            "--set",
            "distinct.keep=first",
            "--set",
            "distinct.future=1h",
        ];
        job.goes_on("what is remembered", &job.setup(), &again);
    }

    fn sinks_come_and_go(&self) {
        let job = self;
        let more = job.setup().sink("type = \"jsonl\"\npath = \"rows.jsonl\"");
        job.goes_on("a sink that is added", &more, &[]);
        let added = std::fs::read_to_string(more.folder().join("rows.jsonl")).unwrap();
        assert_eq!(added.lines().count(), 1, "what came after the checkpoint");
        job.goes_on("a sink that is removed", &job.setup(), &[]);
        let topic = "changing-elsewhere";
        Broker::shared().create_topic(topic, 2, &[]);
        job.publish();
        let topic_of_sink = format!("sinks.0.topic={topic}");
        let same = [
            "--set",
            "sinks.0.name=changing-joined",
            "--set",
            &topic_of_sink,
        ];
        job.setup().run_until_end(&same);
        assert_eq!(values(Broker::shared(), topic).len(), 1, "what comes then");
    }
}

#[test]
fn what_must_not_change_is_refused_with_both_values() {
    let job = Changing::new("unchanging");
    Broker::shared().create_topic("unchanging-other", 1, &[]);
    job.goes_on("the first start", &job.setup(), &[]);
    let before = job.rows();
    for (setting, setup, values) in lasting(&job) {
        let [old, new] = values;
        let texts = [
            "the job has run with another",
            setting,
            old,
            new,
            "hint: Set it back",
        ];
        job.refused(&setup, &[], &texts);
    }
    let envelope = job.setup().set("[sinks]", "envelope", quoted("changelog"));
    job.refused(&envelope, &[], &["envelope", "upsert", "changelog"]);
    assert_eq!(job.rows(), before);
    begins_again(&job);
}

/// Settings that a job keeps for life, each with another value, and how both are told.
fn lasting(job: &Changing) -> Vec<(&'static str, Setup, [&'static str; 2])> {
    let own = || job.setup();
    let columns =
        |name: &str| format!(r#"{{ geographical_location_oid = "int64", {name} = "string" }}"#);
    vec![
        (
            "events.topic",
            own().set("events", "topic", quoted("unchanging-other")),
            ["\"unchanging\"", "\"unchanging-other\""],
        ),
        (
            "events.key",
            own().set("events", "key", r#"["detection_oid", "item_name"]"#),
            [
                "\"detection_oid: int64\"",
                "\"detection_oid: int64, item_name: string\"",
            ],
        ),
        (
            "reference.columns",
            own()
                .set("reference", "columns", columns("name"))
                .reference("geographical_location_oid,name\n1,Here\n"),
            ["geographical_location: string", "name: string"],
        ),
        (
            "reference.key",
            own()
                .set(
                    "reference",
                    "key",
                    r#"["geographical_location_oid", "geographical_location"]"#,
                )
                .set(
                    "join",
                    "on",
                    r#"{ geographical_location_oid = "geographical_location_oid",
                         item_name = "geographical_location" }"#
                        .replace('\n', ""),
                ),
            [
                "\"geographical_location_oid: int64\"",
                ", geographical_location: string\"",
            ],
        ),
        (
            "distinct.horizon",
            own().set("distinct", "horizon", quoted("48h")),
            ["\"86400000 ms\"", "\"172800000 ms\""],
        ),
        (
            "events.time",
            own().set(
                "events",
                "time",
                r#"{ column = "timestamp_detected", unit = "ms" }"#,
            ),
            ["\"arrival\"", "\"timestamp_detected (Milliseconds)\""],
        ),
        (
            "limits.shards",
            own().set("limits", "shards", "32"),
            ["\"64\"", "\"32\""],
        ),
    ]
}

/// Without its checkpoints it makes all again, and writes nothing twice; by another name it begins.
fn begins_again(job: &Changing) {
    job.goes_on("as it was", &job.setup(), &[]);
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = job.setup().state(elsewhere.path());
    job.goes_on("checkpoints that are gone", &moved, &[]);
    // Another job begins anew, beside the rows that are there.
    job.setup().run_until_end(&["--set", "job=unchanging-next"]);
    assert_eq!(job.rows().len(), 2 * 3);
}

#[test]
fn what_rows_depend_on_waits_until_those_that_are_bound_are_written() {
    let job = Changing::new("waiting");
    let tail = Tail::new(Broker::shared(), "waiting-joined");
    let rare = ["--set", "checkpoint.interval=1h"];
    job.publish();
    let setup = job.setup();
    let mut running = setup.start(&rare);
    tail.next(LIMIT);
    running.kill();
    running.wait(LIMIT);
    for (setting, values) in [
        ("join.unmatched=drop", ["\"keep\"", "\"drop\""]),
        (
            "limits.max_record_bytes=500KB",
            ["\"1000000\"", "\"500000\""],
        ),
        (
            "events.kafka.isolation.level=read_uncommitted",
            ["\"read_committed\"", "\"read_uncommitted\""],
        ),
        (
            "sinks.0.partitioner=murmur2",
            ["\"key-group\"", "\"murmur2\""],
        ),
    ] {
        let (name, _) = setting.split_once('=').unwrap();
        // Sinks are known by their names.
        let name = name.trim_start_matches("sinks.0.");
        let [old, new] = values;
        let texts = [
            name,
            "not written all rows",
            old,
            new,
            "stop the job cleanly",
        ];
        job.refused(&job.setup(), &["--set", setting], &texts);
    }
    let on = r#"{ video_camera_oid = "geographical_location_oid" }"#;
    let texts = [
        "join.on",
        "not written all rows",
        "geographical_location_oid = ",
    ];
    job.refused(&job.setup().set("join", "on", on), &[], &texts);
    let columns = r#"{ geographical_location_oid = "int64", detection_oid = "int64" }"#;
    let fewer = job.setup().set("events", "columns", columns);
    let texts = [
        "events.columns",
        "not written all rows",
        "item_name: string",
    ];
    job.refused(&fewer, &[], &texts);
    // With the settings of then it goes on, and stops; then they can change.
    job.goes_on("as it was", &job.setup(), &[]);
    job.goes_on("events.columns", &fewer, &[]);
}
