//! `deltajoin audit` of jobs that revise their results and forget keys: right outputs are clean, in
//! both envelopes and in topics and files, and each record that is taken away, added, changed or
//! doubled is told.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use deltajoin_testkit::{Broker, Signal, TopicRecord, wait_until};
use serde_json::{Value, json};

use crate::audit::{audit, found, records};
use crate::audit_epochs::{range, refused, trim_log};
use crate::setup::{LIMIT, Setup, quoted};
use crate::topics::{Publisher, event};

const HEADER: &str = "geographical_location_oid,geographical_location\n";

/// What was found of each sink: missing, doubled, wrong, unexpected.
fn found_of_all(report: &Value) -> Vec<[u64; 4]> {
    let sinks = report["sinks"].as_array().unwrap();
    let kinds = ["missing", "doubled", "wrong", "unexpected"];
    let found = sinks
        .iter()
        .map(|sink| kinds.map(|kind| sink[kind].as_u64().unwrap()));
    found.collect()
}

/// A job that was started three times, with other locations each time; its last epochs. Names of
/// locations are changed, removed, added, and changed back.
fn three_tables(name: &str, unmatched: &str, envelope: &str) -> (Setup, [u64; 3]) {
    three_tables_and_versions(name, [unmatched, envelope, ""])
}

/// The same; results have their reference row's version in a column, if that has a name.
fn three_tables_and_versions(
    name: &str,
    [unmatched, envelope, version]: [&str; 3],
) -> (Setup, [u64; 3]) {
    let broker = Broker::shared();
    broker.create_topic(name, 2, &[]);
    let file = format!(
        "type = \"jsonl\"\npath = \"rows.jsonl\"\nname = \"file\"\nenvelope = {envelope:?}"
    );
    let mut setup = Setup::new(broker, name)
        .set("join", "unmatched", quoted(unmatched))
        .set("join", "version_column", quoted(version))
        .set("[sinks]", "name", quoted("rows"))
        .set("[sinks]", "envelope", quoted(envelope))
        .sink(&file);
    let starts: [(&str, &[(i64, i64)]); 3] = [
        (
            "1,Old\n2,There\n",
            &[(1, 1), (2, 2), (3, 3), (4, 1), (5, 9)],
        ),
        ("1,New\n3,Come\n", &[(6, 1), (1, 1), (7, 2), (8, 3)]),
        (
            "1,Old\n2,Back\n3,Come\n",
            &[(9, 1), (2, 2), (10, 2), (11, 3)],
        ),
    ];
    let lasts = starts.map(|(locations, events)| {
        let publisher = Publisher::new(broker, name);
        for ((oid, location), partition) in events.iter().zip([0, 1].into_iter().cycle()) {
            publisher.send(partition, None, Some(&event(*oid, *location)));
        }
        publisher.flush();
        let table = format!("{HEADER}{locations}");
        std::fs::write(setup.folder().join("reference.csv"), table).unwrap();
        setup.run_until_end(&[]);
        audit(&setup, &[], 0)["epochs"]["last"].as_u64().unwrap()
    });
    setup = setup.reference(&format!("{HEADER}1,Never\n"));
    (setup, lasts)
}

/// A topic that holds these records.
fn topic_of(name: &str, records: &[TopicRecord]) -> String {
    Broker::shared().create_topic(name, 64, &[]);
    let publisher = Publisher::new(Broker::shared(), name);
    for record in records {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        publisher.send(record.partition, key, value);
    }
    publisher.flush();
    format!("sinks.0.topic={name}")
}

/// The same record with another name of its location.
fn renamed(text: &[u8]) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(text).unwrap();
    let after = match value.get("op") {
        Some(_) if value["after"].is_null() => &mut value["before"],
        Some(_) => &mut value["after"],
        None => &mut value,
    };
    after["geographical_location"] = json!("Nowhere");
    value.to_string().into_bytes()
}

/// The name of a location that a record tells.
fn told(record: &TopicRecord) -> Value {
    let value: Value = match &record.value {
        Some(value) => serde_json::from_slice(value).unwrap(),
        None => return Value::Null,
    };
    match value.get("op") {
        Some(_) => value["after"]["geographical_location"].clone(),
        None => value["geographical_location"].clone(),
    }
}

#[test]
fn each_record_of_revised_rows_is_judged_in_both_envelopes() {
    for (name, unmatched, envelope) in [
        ("audited-upsert", "drop", "upsert"),
        ("audited-changes", "keep", "changelog"),
    ] {
        let (setup, lasts) = three_tables(name, unmatched, envelope);
        let [first, second, _] = lasts;
        for range in [
            range(None, Some(first)),
            range(Some(first + 1), Some(second)),
            range(Some(second + 1), None),
        ] {
            let range: Vec<_> = range.iter().map(String::as_str).collect();
            let report = audit(&setup, &range, 0);
            assert!(report["events"]["rows"].as_u64() > Some(0), "{report}");
        }
        let right: Vec<TopicRecord> = records(&setup.joined()).into_values().collect();
        let of_first = places_of(&right, 1);
        let names = |places: &[usize]| {
            let told = places.iter().map(|place| told(&right[*place]));
            told.collect::<Vec<_>>()
        };
        assert_eq!(names(&of_first), ["Old", "New", "Old"], "{envelope}");
        // A row that is there, goes, and comes again.
        let of_second = places_of(&right, 2);
        let expected = [json!("There"), Value::Null, json!("Back")];
        assert_eq!(names(&of_second), expected, "{envelope}");
        let last = of_first[2];
        let copies = Copies {
            setup: &setup,
            name,
            count: Cell::new(0),
        };
        assert_eq!(copies.check(&right, &[]), [0; 4], "a copy");
        for place in [of_first[0], of_first[1], last, of_second[1]] {
            damage(&copies, &right, place);
        }
        // A change of the third start to a row of the first is of the third.
        let mut records = right.clone();
        records.remove(last);
        let third = range(Some(second + 1), None);
        assert_eq!(copies.check(&records, &[&third[0]]), [1, 0, 0, 0]);
        let before = range(None, Some(second));
        assert_eq!(copies.check(&records, &[&before[0]]), [0; 4]);
        let mut records = right.clone();
        records.swap(last, of_first[1]);
        let found = copies.check(&records, &["--allow-repeats"]);
        assert_ne!(found, [0; 4], "another order");
        damage_file(&setup);
    }
}

/// Where the records of a detection are.
fn places_of(records: &[TopicRecord], oid: i64) -> Vec<usize> {
    let key = json!({ "detection_oid": oid }).to_string().into_bytes();
    let places = 0..records.len();
    let own = places.filter(|place| records[*place].key.as_ref() == Some(&key));
    own.collect()
}

/// Audits of copies of a job's output, each in a topic of its own.
struct Copies<'a> {
    setup: &'a Setup,
    name: &'a str,
    count: Cell<u32>,
}

impl Copies<'_> {
    /// What an audit finds in these records.
    fn check(&self, records: &[TopicRecord], arguments: &[&str]) -> [u64; 4] {
        self.count.update(|count| count + 1);
        let set = topic_of(&format!("{}-{}", self.name, self.count.get()), records);
        let all = [&["--json", "--set", &set], arguments].concat();
        let outcome = self.setup.command("audit", &all).wait(LIMIT);
        found(&serde_json::from_str(&outcome.stdout[0]).unwrap())
    }
}

/// Damages one record in each way, and has each output audited.
fn damage(copies: &Copies<'_>, right: &[TopicRecord], place: usize) {
    let changed = |change: &dyn Fn(&mut Vec<TopicRecord>)| {
        let mut records = right.to_vec();
        change(&mut records);
        records
    };
    let gone = changed(&|records| drop(records.remove(place)));
    assert_eq!(copies.check(&gone, &[]), [1, 0, 0, 0], "{place}");
    let doubled = changed(&|records| records.insert(place, right[place].clone()));
    assert_eq!(copies.check(&doubled, &[]), [0, 1, 0, 0], "{place}");
    assert_eq!(copies.check(&doubled, &["--allow-repeats"]), [0; 4]);
    let Some(value) = &right[place].value else {
        return;
    };
    let wrong = changed(&|records| records[place].value = Some(renamed(value)));
    assert_eq!(copies.check(&wrong, &[]), [0, 0, 1, 0], "{place}");
    let added = changed(&|records| {
        let mut other = right[place].clone();
        other.value = Some(renamed(value));
        records.insert(place + 1, other);
    });
    assert_eq!(copies.check(&added, &[]), [0, 0, 1, 0], "{place}");
}

/// Damages the lines of a file, and has each audited.
fn damage_file(setup: &Setup) {
    let text = std::fs::read_to_string(setup.folder().join("rows.jsonl")).unwrap();
    let right: Vec<String> = text.lines().map(str::to_owned).collect();
    let check = |lines: &[String]| {
        std::fs::write(setup.folder().join("copy.jsonl"), lines.join("\n") + "\n").unwrap();
        let outcome = setup.command("audit", &["--json", "--set", "sinks.1.path=copy.jsonl"]);
        let outcome = outcome.wait(LIMIT);
        let report: Value = serde_json::from_str(&outcome.stdout[0]).unwrap();
        found_of_all(&report)[1]
    };
    assert_eq!(check(&right), [0; 4]);
    let own = |line: &String| line.contains("\"detection_oid\":2,");
    for place in (0..right.len()).filter(|place| own(&right[*place])) {
        let mut lines = right.clone();
        lines.remove(place);
        assert_eq!(check(&lines), [1, 0, 0, 0], "{}", right[place]);
        let mut lines = right.clone();
        lines.insert(place, right[place].clone());
        assert_eq!(check(&lines), [0, 1, 0, 0], "{}", right[place]);
    }
}

/// When the first event was.
const T: i64 = 1_767_225_600_000;

/// An event with its time, in milliseconds.
fn event_at(oid: i64, location: i64, at_ms: i64) -> Vec<u8> {
    let mut event: Value = serde_json::from_slice(&event(oid, location)).unwrap();
    event["timestamp_detected"] = json!(at_ms);
    event.to_string().into_bytes()
}

#[test]
fn by_event_time_windows_are_cut_and_late_and_future_events_have_no_rows() {
    let (broker, name) = (Broker::shared(), "revised-times");
    broker.create_topic(name, 1, &[]);
    broker.create_topic("revised-times-places", 1, &[("cleanup.policy", "compact")]);
    let setup = Setup::new(broker, name)
        .reference_topic(broker, "revised-times-places")
        .set(
            "events",
            "time",
            "{ column = \"timestamp_detected\", unit = \"ms\" }",
        )
        .set("distinct", "horizon", quoted("1h"))
        .set("join", "revise_window", quoted("1m"));
    let names = |oid: i64| {
        let key = json!({ "detection_oid": oid }).to_string().into_bytes();
        let all = records(&setup.joined()).into_values();
        let own = all.filter(|record| record.key.as_ref() == Some(&key));
        own.map(|record| told(&record)).collect::<Vec<_>>()
    };
    let events = Publisher::new(broker, name);
    let send = |oid: i64, minute: i64| {
        let event = event_at(oid, 1, T + minute * 60_000);
        events.send(0, None, Some(&event));
        events.flush();
    };
    let seen = |oid: i64, last: &str| {
        wait_until("a row", LIMIT, || names(oid).last() == Some(&json!(last)));
    };
    let places = Publisher::new(broker, "revised-times-places");
    let rename = |name: &str| {
        let key = json!({ "geographical_location_oid": 1 }).to_string();
        let row = json!({ "geographical_location_oid": 1, "geographical_location": name });
        places.send(0, Some(key.as_bytes()), Some(row.to_string().as_bytes()));
        places.flush();
    };
    rename("Old");
    let mut job = setup.start_live();
    // Each in an epoch of its own: the clock follows them.
    for (oid, minute) in [(1, 0), (2, 15), (3, 16)] {
        send(oid, minute);
        seen(oid, "Old");
    }
    rename("New");
    seen(3, "New");
    // Late, of the far future, and with a key of which another bucket knows nothing.
    for (oid, minute) in [(4, -60), (5, 60 * 24 * 365 * 50), (2, 12), (1, 0)] {
        send(oid, minute);
    }
    send(6, 17);
    seen(6, "New");
    rename("Newest");
    seen(6, "Newest");
    send(1, 0);
    send(7, 0);
    seen(7, "Newest");
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
    assert_eq!(names(1), ["Old"]);
    assert_eq!(names(2), ["Old", "New"], "there twice, in two buckets");
    assert_eq!(names(3), ["Old", "New"]);
    assert!(names(4).is_empty() && names(5).is_empty());
    assert_eq!(names(7), ["Newest"]);
    let report = audit(&setup, &[], 0);
    assert_eq!(report["events"]["keys"], 5);
    // By another window, horizon or bound for the future the same output is not right.
    for (set, counts) in [
        ("join.revise_window=2m", [2, 0, 0, 0]),
        ("join.on_reference_change=future-only", [0, 0, 2, 0]),
        ("distinct.horizon=2h", [1, 0, 0, 0]),
    ] {
        let report = audit(&setup, &["--set", set], 1);
        assert_eq!(found(&report), counts, "{set}: {report:#}");
    }
}

#[test]
fn by_arrival_a_key_that_was_forgotten_comes_again() {
    let (broker, name) = (Broker::shared(), "revised-again");
    broker.create_topic(name, 1, &[]);
    let setup = Setup::new(broker, name)
        .set("distinct", "horizon", quoted("1s"))
        .set("join", "revise_window", quoted("1s"))
        .reference(&format!("{HEADER}1,Here\n"));
    let mut froms = Vec::new();
    for _ in 0..2 {
        let publisher = Publisher::new(broker, name);
        for oid in [1, 2, 1] {
            publisher.send(0, None, Some(&event(oid, 1)));
        }
        publisher.flush();
        setup.run_until_end(&[]);
        let last = audit(&setup, &[], 0)["epochs"]["last"].as_u64().unwrap();
        froms.push(last);
        wait_until("the keys to be forgotten", LIMIT, || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            now.as_millis() > u128::from(last) + 1_100
        });
    }
    let mut rows: Vec<TopicRecord> = records(&setup.joined()).into_values().collect();
    assert_eq!(rows.len(), 4);
    audit(&setup, &[&range(Some(froms[1]), None)[0]], 0);
    rows.pop();
    let set = topic_of("revised-again-less", &rows);
    let set = [
        "--set",
        set.as_str(),
        "--set",
        "sinks.0.name=revised-again-joined",
    ];
    assert_eq!(found(&audit(&setup, &set, 1)), [1, 0, 0, 0]);
    let report = audit(&setup, &["--set", "distinct.horizon=1h"], 1);
    assert_eq!(found(&report), [0, 2, 0, 0]);
}

#[test]
fn behind_a_trimmed_log_revised_rows_are_judged_and_other_settings_are_refused() {
    let name = "revised-trimmed";
    let (setup, [_, second, third]) = three_tables(name, "drop", "upsert");
    let base = trim_log(&setup, name);
    assert!((second..third).contains(&base));
    let from = range(Some(base + 1), None);
    audit(&setup, &[&from[0]], 0);
    let mut right: Vec<TopicRecord> = records(&setup.joined()).into_values().collect();
    let key = json!({ "detection_oid": 1 }).to_string().into_bytes();
    let is_own = |record: &TopicRecord| record.key.as_ref() == Some(&key);
    let last = right.iter().rposition(is_own).unwrap();
    right.remove(last);
    let set = topic_of("revised-trimmed-less", &right);
    let report = audit(&setup, &[&from[0], "--set", &set], 1);
    assert_eq!(found(&report), [1, 0, 0, 0]);
    let time = "events.time={ column = \"timestamp_detected\", unit = \"ms\" }";
    let said = refused(&setup, &["--set", time, "--set", "distinct.keep=latest"]);
    assert!(said.contains("distinct.keep"), "{said}");
}

/// The same record with another version of its reference row.
fn aged(text: &[u8]) -> Vec<u8> {
    let mut row: Value = serde_json::from_slice(text).unwrap();
    let version = row["since"].as_u64().expect("it has a reference row");
    row["since"] = json!(version + 1);
    row.to_string().into_bytes()
}

#[test]
fn the_versions_of_reference_rows_are_judged_also_behind_a_trimmed_log() {
    let name = "audited-versions";
    let settings = ["keep", "upsert", "since"];
    let (setup, [_, second, third]) = three_tables_and_versions(name, settings);
    let right: Vec<TopicRecord> = records(&setup.joined()).into_values().collect();
    let copies = Copies {
        setup: &setup,
        name,
        count: Cell::new(0),
    };
    assert_eq!(copies.check(&right, &[]), [0; 4], "a copy");
    // Of the first and the second table, and one that the third has left as it was.
    let aged_at = |place: usize| {
        let mut records = right.clone();
        let value = right[place].value.as_ref().expect("it is a row");
        records[place].value = Some(aged(value));
        records
    };
    let places = [
        places_of(&right, 1),
        places_of(&right, 6),
        places_of(&right, 8),
    ]
    .concat();
    for place in &places {
        assert_eq!(copies.check(&aged_at(*place), &[]), [0, 0, 1, 0], "{place}");
    }
    let base = trim_log(&setup, name);
    assert!((second..third).contains(&base));
    let from = range(Some(base + 1), None);
    assert_eq!(copies.check(&right, &[&from[0]]), [0; 4]);
    // A row that is as old as the checkpoint says comes with an event of the last start.
    let last = *places_of(&right, 11).last().expect("it has come");
    assert_eq!(copies.check(&aged_at(last), &[&from[0]]), [0, 0, 1, 0]);
    // Without a log nobody knows the epochs of reference rows.
    setup
        .plain("state", &["reset", "--config", "job.toml", "--yes"])
        .wait(LIMIT)
        .assert_code(0);
    let said = refused(&setup, &[]);
    assert!(said.contains("\"since\""), "{said}");
}
