//! What may be at another place at the next start: addresses, logs, tables, files, folders.
//!
//! It is apart from `settings_change`, whose job it runs: here values change by which nothing is
//! computed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use deltajoin_testkit::Broker;
use serde_json::json;

use crate::settings_change::{Changing, TABLE};
use crate::setup::{LIMIT, Setup, quoted};
use crate::topics::Publisher;

fn bindings_at(job: &Changing, brokers: &str) -> Setup {
    job.setup()
        .set("checkpoint", "bindings_brokers", quoted(brokers))
}

#[test]
fn a_job_goes_on_at_other_addresses_and_with_a_table_at_another_place() {
    let job = Changing::new("moving");
    job.goes_on("the first start", &job.setup(), &[]);
    let mut addresses = BTreeSet::new();
    for _ in 0..2 {
        let setup = job.setup().processes(2);
        job.goes_on("addresses", &setup, &[]);
        let text = fs::read_to_string(setup.folder().join("job.toml")).unwrap();
        let line = text.lines().find(|line| line.starts_with("addresses"));
        addresses.insert(line.unwrap().to_owned());
    }
    assert_eq!(addresses.len(), 2, "other ports each time");
    let table = |name: &str, text: &str| {
        let setup = job.setup().set("reference", "path", quoted(name));
        fs::remove_file(setup.folder().join("reference.csv")).unwrap();
        fs::write(setup.folder().join(name), text).unwrap();
        setup
    };
    let row = job.goes_on("another file", &table("places.csv", TABLE), &[]);
    assert_eq!(row["geographical_location"], "Here");
    let line = "{\"geographical_location_oid\":1,\"geographical_location\":\"There\"}\n";
    let row = job.goes_on("another format", &table("places.jsonl", line), &[]);
    assert_eq!(row["geographical_location"], "There");
    let (broker, topic) = (Broker::shared(), "moving-places");
    broker.create_topic(topic, 1, &[("cleanup.policy", "compact")]);
    let places = Publisher::new(broker, topic);
    let key = json!({ "geographical_location_oid": 1 }).to_string();
    let value = json!({ "geographical_location_oid": 1, "geographical_location": "Elsewhere" });
    places.send(0, Some(key.as_bytes()), Some(value.to_string().as_bytes()));
    places.flush();
    let row = job.goes_on("a topic", &job.setup().reference_topic(broker, topic), &[]);
    assert_eq!(row["geographical_location"], "Elsewhere");
    let row = job.goes_on("the file again", &job.setup(), &[]);
    assert_eq!(row["geographical_location"], "Here");
    // All rows keep the table that they were joined with.
    let rows = job.rows().into_iter();
    let places = rows.map(|(_, row)| row["geographical_location"].as_str().unwrap().to_owned());
    let places: Vec<String> = places.collect();
    let expected = ["Here", "Here", "Here", "Here", "There", "Elsewhere", "Here"];
    assert_eq!(places, expected);
}

#[test]
fn another_file_of_a_sink_begins_like_a_sink_that_is_added() {
    let job = Changing::new("moving-rows");
    let folder = tempfile::tempdir().unwrap();
    let writing_to = |path: &Path| {
        let sink = format!("type = \"jsonl\"\nname = \"rows\"\npath = {path:?}");
        job.setup().sink(&sink)
    };
    let [first, second] = ["first.jsonl", "second.jsonl"].map(|name| folder.path().join(name));
    job.goes_on("a file", &writing_to(&first), &[]);
    job.goes_on("the same file", &writing_to(&first), &[]);
    job.goes_on("another file", &writing_to(&second), &[]);
    let lines = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
    assert_eq!([lines(&first), lines(&second)], [2, 1], "what comes then");
    // The first one lacks what went to the second, and goes on.
    job.goes_on("the first file again", &writing_to(&first), &[]);
    assert_eq!([lines(&first), lines(&second)], [3, 1]);
}

#[test]
fn bindings_and_checkpoints_may_move_if_nothing_of_them_is_lost() {
    let job = Changing::new("moving-log");
    let (broker, other) = (Broker::shared(), Broker::start());
    job.goes_on("the first start", &job.setup(), &[]);
    let renamed = broker.bootstrap().replace("127.0.0.1", "localhost");
    job.goes_on(
        "another name of the cluster",
        &bindings_at(&job, &renamed),
        &[],
    );
    let elsewhere = || bindings_at(&job, &other.bootstrap());
    let texts = ["the checkpoints are not of topic", "moving-log.bindings"];
    job.refused(&elsewhere(), &[], &texts);
    job.goes_on("as it was", &job.setup(), &[]);
    let log = Publisher::new(&other, "moving-log.bindings");
    broker.read("moving-log.bindings", |record| {
        log.send(0, None, record.value.as_deref());
    });
    log.flush();
    job.goes_on("a log that was moved", &elsewhere(), &[]);

    let state = tempfile::tempdir().unwrap();
    let moved = state.path().join("moving-log");
    fs::create_dir(&moved).unwrap();
    for object in fs::read_dir(job.state().join("moving-log")).unwrap() {
        let object = object.unwrap();
        fs::copy(object.path(), moved.join(object.file_name())).unwrap();
    }
    let setup = elsewhere().state(state.path());
    let debug = ["--set", "telemetry.log=debug"];
    let last = job.publish();
    let outcome = setup.run_until_end(&debug);
    let said = outcome.stderr.join("\n");
    assert!(said.contains("replayed=0"), "it goes on from there: {said}");
    let oids: Vec<i64> = job.rows().into_iter().map(|(oid, _)| oid).collect();
    assert_eq!(oids, (0..=last).collect::<Vec<_>>());
    let audited = setup.command("audit", &[]).wait(LIMIT);
    audited.assert_code(0);
}
