//! `deltajoin audit` against the broker: what a job has written is clean, and each record that is
//! added to it afterwards is told with its place.

use std::collections::BTreeMap;

use deltajoin::generate::{Options, reference_csv};
use deltajoin_testkit::{Broker, Outcome, TopicRecord};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use crate::setup::{LIMIT, Setup, quoted};
use crate::support::publish;
use crate::topics::{Publisher, event_of};

/// Audits, and gives the JSON object that is printed.
pub(crate) fn audit(setup: &Setup, arguments: &[&str], code: i32) -> Value {
    let all = [&["--json"], arguments].concat();
    let outcome: Outcome = setup.command("audit", &all).wait(LIMIT);
    outcome.assert_code(code);
    assert_eq!(outcome.stdout.len(), 1, "{:?}", outcome.stdout);
    serde_json::from_str(&outcome.stdout[0]).expect("a JSON object")
}

/// What was found of the only sink: missing, doubled, wrong, unexpected.
pub(crate) fn found(report: &Value) -> [u64; 4] {
    ["missing", "doubled", "wrong", "unexpected"]
        .map(|kind| report["sinks"][0][kind].as_u64().expect("a number"))
}

/// The first finding of a kind.
pub(crate) fn finding<'a>(report: &'a Value, kind: &str) -> &'a Value {
    let findings = report["sinks"][0]["findings"].as_array().expect("a list");
    let mut of_kind = findings.iter().filter(|finding| finding["kind"] == kind);
    of_kind.next().expect("there is one")
}

/// All records of a topic, by partition and offset.
pub(crate) fn records(topic: &str) -> BTreeMap<(i32, i64), TopicRecord> {
    let mut records = BTreeMap::new();
    Broker::shared().read(topic, |record| {
        records.insert((record.partition, record.offset), record);
    });
    records
}

/// A job that has joined generated events of four partitions.
fn finished(name: &str) -> Setup {
    let broker = Broker::shared();
    let options = Options {
        count: 20_000,
        bad_share: 0.01,
        ..Options::default()
    };
    broker.create_topic(name, options.partitions, &[]);
    publish(broker, name, &options);
    let setup = Setup::new(broker, name).reference(&reference_csv(&options));
    setup.run_until_end(&[]);
    setup
}

/// Adds a record behind all others of a partition; gives its place.
pub(crate) fn add(topic: &str, partition: i32, key: &[u8], value: Option<&[u8]>) -> String {
    let publisher = Publisher::new(Broker::shared(), topic);
    publisher.send(partition, Some(key), value);
    publisher.flush();
    let last = records(topic);
    let last = last.keys().rfind(|(own, _)| *own == partition);
    let (_, offset) = last.expect("it was just added");
    format!("{topic}[{partition}]@{offset}")
}

#[test]
fn an_output_is_clean_and_every_record_added_to_it_is_told() {
    let setup = finished("audited");
    let topic = setup.joined();
    let report = audit(&setup, &[], 0);
    assert_eq!(report["events"]["records"], 20_000);
    assert_eq!(report["sinks"][0]["right"], report["events"]["rows"]);
    let few = audit(&setup, &["--memory", "100KB"], 0);
    assert!(few["passes"].as_u64() > report["passes"].as_u64());
    assert_eq!(few["sinks"], report["sinks"]);

    let rows: Vec<TopicRecord> = records(&topic).into_values().step_by(1_000).collect();
    let part = |row: &TopicRecord| {
        let key = row.key.clone().expect("a result has a key");
        let value = row.value.clone().expect("a result has a value");
        (row.partition, key, value)
    };
    let place = |row: &TopicRecord| format!("{topic}[{}]@{}", row.partition, row.offset);

    let (partition, key, value) = part(&rows[0]);
    let doubled = add(&topic, partition, &key, Some(&value));
    let report = audit(&setup, &[], 1);
    assert_eq!(found(&report), [0, 1, 0, 0]);
    assert_eq!(finding(&report, "doubled")["place"], doubled);
    assert_eq!(finding(&report, "doubled")["before"], place(&rows[0]));
    let allowed = audit(&setup, &["--allow-repeats"], 0);
    assert_eq!(allowed["sinks"][0]["repeats"], 1);

    let (partition, key, value) = part(&rows[1]);
    let mut row: Value = serde_json::from_slice(&value).expect("JSON");
    row["geographical_location"] = json!("elsewhere");
    let changed = add(&topic, partition, &key, Some(row.to_string().as_bytes()));
    let report = audit(&setup, &["--allow-repeats"], 1);
    assert_eq!(found(&report), [0, 0, 1, 0]);
    let wrong = finding(&report, "wrong");
    assert_eq!(wrong["place"], changed);
    assert_eq!(wrong["right"], String::from_utf8_lossy(&value).as_ref());
    let event = wrong["event"].as_str().expect("it has an event");
    assert!(event.starts_with("audited["), "{event}");

    let (partition, key, value) = part(&rows[2]);
    let tombstone = add(&topic, partition, &key, None);
    let report = audit(&setup, &["--allow-repeats"], 1);
    assert_eq!(found(&report), [1, 0, 1, 0]);
    let missing = finding(&report, "missing");
    assert_eq!(missing["before"], tombstone);
    assert_eq!(missing["right"], String::from_utf8_lossy(&value).as_ref());

    let key = br#"{"detection_oid":5}"#;
    let row = String::from_utf8(part(&rows[3]).2).expect("JSON");
    let mut row: Value = serde_json::from_str(&row).expect("JSON");
    row["detection_oid"] = json!(5);
    let foreign = add(&topic, 3, key, Some(row.to_string().as_bytes()));
    let report = audit(&setup, &["--allow-repeats"], 1);
    assert_eq!(found(&report), [1, 0, 1, 1]);
    assert_eq!(finding(&report, "unexpected")["place"], foreign);
    add(&topic, 3, key, None);
    let report = audit(&setup, &["--allow-repeats"], 1);
    assert_eq!(found(&report), [1, 0, 1, 0], "a tombstone removes it");
}

#[test]
fn a_record_under_another_key_is_wrong_and_so_is_one_without() {
    let setup = finished("audited-keys");
    let topic = setup.joined();
    let rows: Vec<TopicRecord> = records(&topic).into_values().take(2).collect();
    let other = add(
        &topic,
        0,
        rows[0].key.as_deref().expect("a key"),
        rows[1].value.as_deref(),
    );
    let bare = add(&topic, 1, b"5", rows[1].value.as_deref());
    let report = audit(&setup, &[], 1);
    assert_eq!(found(&report), [0, 0, 2, 0]);
    let findings = &report["sinks"][0]["findings"];
    assert_eq!(findings[0]["place"], other);
    assert_eq!(findings[0]["note"], "its record has another key");
    assert_eq!(findings[1]["place"], bare);
    let note = findings[1]["note"].as_str().expect("a note");
    assert!(note.starts_with("key: "), "{note}");
}

#[test]
fn what_is_not_committed_is_no_output() {
    let setup = finished("audited-committed");
    let topic = setup.joined();
    let first = records(&topic).into_values().next().expect("a row");
    let producer: BaseProducer = Broker::shared()
        .client()
        .set("transactional.id", "audited-committed")
        .create()
        .expect("the settings are those of a producer");
    producer.init_transactions(LIMIT).expect("the first");
    for commit in [false, true] {
        producer.begin_transaction().expect("none is open");
        let record = BaseRecord::to(&topic)
            .partition(first.partition)
            .key(first.key.as_deref().expect("a key"))
            .payload(first.value.as_deref().expect("a value"));
        producer.send(record).expect("the queue has room");
        producer.flush(LIMIT).expect("the broker takes it");
        // Also with a transaction that is still open, an audit comes to its end.
        assert_eq!(found(&audit(&setup, &[], 0)), [0; 4]);
        if commit {
            producer.commit_transaction(LIMIT).expect("it is open");
        } else {
            producer.abort_transaction(LIMIT).expect("it is open");
            assert_eq!(found(&audit(&setup, &[], 0)), [0; 4]);
        }
    }
    assert_eq!(found(&audit(&setup, &[], 1)), [0, 1, 0, 0]);
}

#[test]
fn events_that_differ_between_partitions_are_undecided_and_a_topic_may_be_the_reference() {
    let broker = Broker::shared();
    broker.create_topic("audited-places", 2, &[("cleanup.policy", "compact")]);
    let places = Publisher::new(broker, "audited-places");
    for (location, name) in [(1, "first"), (2, "gone"), (1, "renamed")] {
        let key = json!({ "geographical_location_oid": location });
        let row = json!({ "geographical_location_oid": location, "geographical_location": name });
        let (key, row) = (key.to_string(), row.to_string());
        places.send(0, Some(key.as_bytes()), Some(row.as_bytes()));
    }
    places.send(0, Some(br#"{"geographical_location_oid":2}"#), None);
    places.flush();
    broker.create_topic("audited-differing", 2, &[]);
    let events = Publisher::new(broker, "audited-differing");
    for (partition, detection, location, item) in [
        (0, 10, 1, "car"),
        (0, 10, 1, "bus"),
        (1, 10, 1, "tram"),
        (1, 11, 2, "car"),
        (0, 11, 2, "car"),
        (0, 12, 3, "car"),
    ] {
        events.send(partition, None, Some(&event_of(detection, location, item)));
    }
    events.flush();
    let setup = Setup::new(broker, "audited-differing")
        .reference_topic(broker, "audited-places")
        .set("join", "on_reference_change", quoted("future-only"));
    setup.run_until_end(&[]);
    let report = audit(&setup, &[], 0);
    assert_eq!(report["events"]["undecided"], 0, "the job has bound it");
    // Without its bindings nobody knows any more which partition was first.
    let reset = ["reset", "--config", "job.toml", "--yes"];
    setup.plain("state", &reset).wait(LIMIT).assert_code(0);
    let report = audit(&setup, &[], 0);
    assert_eq!(report["reference_rows"], 1);
    let events = &report["events"];
    assert_eq!(
        (&events["keys"], &events["undecided"]),
        (&json!(3), &json!(1))
    );
    let key = br#"{"detection_oid":10}"#;
    let mut row = json!({
        "geographical_location_oid": 1,
        "video_camera_oid": 7,
        "detection_oid": 10,
        "item_name": "bus",
        "timestamp_detected": 1_767_225_600_000_i64,
        "geographical_location": "renamed",
    });
    for (item, counts) in [("bus", [0, 0, 1, 0]), ("tram", [0, 0, 1, 0])] {
        row["item_name"] = json!(item);
        let partition = records(&setup.joined());
        let mut own = partition.iter();
        let own = own.find(|(_, record)| record.key.as_deref() == Some(key.as_slice()));
        let ((partition, _), _) = own.expect("the job has written it");
        add(
            &setup.joined(),
            *partition,
            key,
            Some(row.to_string().as_bytes()),
        );
        let report = audit(&setup, &[], 1);
        assert_eq!(found(&report), counts, "{item}");
        // Where rows may be revised, one that was replaced may have been right.
        let revise = ["--set", "join.on_reference_change=revise"];
        let is_last = item == "bus";
        let report = audit(&setup, &revise, i32::from(is_last));
        assert_eq!(found(&report), [0, 0, u64::from(is_last), 0], "{item}");
    }
}

#[test]
fn a_job_that_began_nobody_knows_where_is_refused() {
    let broker = Broker::shared();
    broker.create_topic("audited-latest", 1, &[]);
    let setup = Setup::new(broker, "audited-latest").set("events", "start", quoted("latest"));
    let outcome = setup.command("audit", &[]).wait(LIMIT);
    outcome.assert_code(2);
    let said = outcome.stderr.join("\n");
    assert!(said.contains("events.start is \"latest\""), "{said}");
    let time = ["--set", "events.start=2026-01-01T00:00:00Z"];
    let report = audit(&setup, &time, 0);
    assert_eq!(report["events"]["records"], 0);
}
