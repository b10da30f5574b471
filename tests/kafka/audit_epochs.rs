//! `deltajoin audit` by what the job has bound: reference tables that have changed since, ranges of
//! epochs, logs that were trimmed, jobs that run.

use std::sync::atomic::{AtomicBool, Ordering};

use deltajoin::connectors::kafka::trim_bindings;
use deltajoin_testkit::{Broker, Login, wait_until};
use deltajoin_workers::ports::Stop;
use serde_json::{Value, json};

use crate::audit::{add, audit, finding, found, records};
use crate::setup::{LIMIT, Setup, quoted};
use crate::support::topic;
use crate::topics::{Publisher, event};

const HEADER: &str = "geographical_location_oid,geographical_location\n";

/// A job that was started three times, with another name for the only location each time, and the
/// last epoch of each start. Its events are 1 to 3; 4 to 6, and 1 and 2 again; 7 to 9, and 1 again.
fn three_starts(name: &str, partitions: i32) -> (Setup, [u64; 3]) {
    let broker = Broker::shared();
    broker.create_topic(name, partitions, &[]);
    let mut setup =
        Setup::new(broker, name).set("join", "on_reference_change", quoted("future-only"));
    let starts: [(&str, &[i64]); 3] = [
        ("Old", &[1, 2, 3]),
        ("New", &[4, 1, 5, 2, 6]),
        ("Newest", &[7, 8, 1, 9]),
    ];
    let lasts = starts.map(|(name_of_location, oids)| {
        let publisher = Publisher::new(broker, name);
        for (oid, partition) in oids.iter().zip((0..partitions).cycle()) {
            publisher.send(partition, None, Some(&event(*oid, 1)));
        }
        publisher.flush();
        std::fs::write(
            setup.folder().join("reference.csv"),
            format!("{HEADER}1,{name_of_location}\n"),
        )
        .unwrap();
        setup.run_until_end(&[]);
        audit(&setup, &[], 0)["epochs"]["last"].as_u64().unwrap()
    });
    // It is a table that nobody has joined with.
    setup = setup.reference(&format!("{HEADER}1,Never\n"));
    (setup, lasts)
}

/// What the output holds of a detection: partition, key and row.
fn row_of(setup: &Setup, oid: i64) -> (i32, Vec<u8>, Value) {
    let key = json!({ "detection_oid": oid }).to_string().into_bytes();
    let rows = records(&setup.joined());
    let mut rows = rows.into_values();
    let row = rows.find(|row| row.key.as_ref() == Some(&key)).unwrap();
    let value = serde_json::from_slice(&row.value.unwrap()).unwrap();
    (row.partition, key, value)
}

/// Audits by range, and compares what is found: missing, doubled, wrong, unexpected.
fn expect(setup: &Setup, range: &[&str], expected: [u64; 4]) -> Value {
    let code = i32::from(expected != [0; 4]);
    let report = audit(setup, range, code);
    assert_eq!(found(&report), expected, "{range:?}: {report:#}");
    report
}

/// The arguments of a range.
pub(crate) fn range(from: Option<u64>, to: Option<u64>) -> Vec<String> {
    let named = [("--from", from), ("--to", to)];
    let named = named.into_iter();
    named
        .filter_map(|(name, epoch)| Some(format!("{name}={}", epoch?)))
        .collect()
}

#[test]
fn each_row_is_judged_by_the_reference_of_its_epoch_and_only_within_the_range() {
    let (setup, [first, second, third]) = three_starts("audited-epochs", 2);
    let ranges = [
        range(None, None),
        range(None, Some(first)),
        range(Some(first + 1), Some(second)),
        range(Some(second + 1), None),
    ];
    let check = |expected: [[u64; 4]; 4]| {
        let pairs = ranges.iter().zip(expected);
        let reports = pairs.map(|(range, expected)| {
            let range: Vec<_> = range.iter().map(String::as_str).collect();
            expect(&setup, &range, expected)
        });
        reports.collect::<Vec<_>>()
    };
    let clean = [0; 4];
    let reports = check([clean; 4]);
    let counted = |name: &str| {
        let counted = reports.iter().map(|report| report["events"][name].as_u64());
        counted.collect::<Option<Vec<_>>>().unwrap()
    };
    assert_eq!(counted("records"), [12, 3, 5, 4]);
    assert_eq!(counted("keys"), [9, 3, 3, 3]);
    assert_eq!(counted("rows"), [9, 3, 3, 3]);
    assert_eq!(reports[3]["epochs"]["last"], third);

    // A row as it would be with the table of another start.
    let (partition, key, right) = row_of(&setup, 5);
    assert_eq!(right["geographical_location"], "New");
    let topic = setup.joined();
    let put = |partition, key: &[u8], row: &Value| {
        add(&topic, partition, key, Some(row.to_string().as_bytes()))
    };
    let mut changed = right.clone();
    changed["geographical_location"] = json!("Newest");
    let place = put(partition, &key, &changed);
    let wrong = [0, 0, 1, 0];
    let reports = check([wrong, clean, wrong, clean]);
    for report in [&reports[0], &reports[2]] {
        let wrong = finding(report, "wrong");
        assert_eq!(
            (&wrong["place"], &wrong["row"]),
            (&json!(place), &json!(changed.to_string()))
        );
        let told: Value = serde_json::from_str(wrong["right"].as_str().unwrap()).unwrap();
        assert_eq!(told, right);
    }
    // Mended, and a row of the third start taken away.
    put(partition, &key, &right);
    let (partition, key, gone) = row_of(&setup, 8);
    add(&topic, partition, &key, None);
    let missing = [1, 0, 0, 0];
    // The wrong row was there, and is judged as long as it stands in the topic.
    check([[1, 0, 1, 0], clean, wrong, missing]);
    put(partition, &key, &gone);

    // The first start's row again: the second and the third start have events with its key too.
    let (partition, key, row) = row_of(&setup, 1);
    let doubled = put(partition, &key, &row);
    let reports = check([[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]);
    assert_eq!(finding(&reports[3], "doubled")["place"], doubled);
    let repeats = range(Some(second + 1), None);
    let repeats = audit(&setup, &[&repeats[0], "--allow-repeats"], 0);
    assert_eq!(repeats["sinks"][0]["repeats"], 1);
    // Of the third, which no later start has an event of.
    let (partition, key, row) = row_of(&setup, 3);
    put(partition, &key, &row);
    check([[0, 2, 1, 0], [0, 2, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]);

    // A row without an event is of no epoch, and is told in each range.
    let mut row = row;
    row["detection_oid"] = json!(99);
    put(0, br#"{"detection_oid":99}"#, &row);
    check([[0, 2, 1, 1], [0, 2, 0, 1], [0, 1, 1, 1], [0, 1, 0, 1]]);
}

/// Audits, and gives what was said when it was refused.
pub(crate) fn refused(setup: &Setup, arguments: &[&str]) -> String {
    let outcome = setup.command("audit", arguments).wait(LIMIT);
    outcome.assert_code(2);
    outcome.stderr.join("\n")
}

/// Trims a job's log as far as the older of both checkpoints reaches; gives that one's epoch.
pub(crate) fn trim_log(setup: &Setup, name: &str) -> u64 {
    let folder = setup.folder().join("state").join(name);
    let files = std::fs::read_dir(&folder).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let manifests = files.filter(|path| path.to_str().unwrap().contains("manifest-"));
    let older = std::fs::read(manifests.min().unwrap()).unwrap();
    let older: Value = serde_json::from_slice(&older).unwrap();
    let next = older["manifest"]["log"]["next"].as_u64().unwrap();
    let bindings = format!("{name}.bindings");
    let bindings = topic(Broker::shared(), &bindings, Login::Admin);
    trim_bindings(&bindings, next, u64::MAX, &Stop::default()).unwrap();
    older["manifest"]["epoch"].as_u64().unwrap()
}

#[test]
fn what_cannot_be_judged_is_refused_with_what_can_be() {
    let broker = Broker::shared();
    let name = "audited-trimmed";
    let (setup, [first, second, third]) = three_starts(name, 1);
    let said = refused(&setup, &["--from", "7", "--to", "6"]);
    assert!(said.contains("--from 7 is after --to 6"), "{said}");
    let said = refused(&setup, &["--from", &(third + 1).to_string()]);
    // The epoch of the last checkpoint is bound too, without records.
    let bound = said.split("bound up to ").nth(1).expect("it is told");
    let bound = bound.split(',').next().unwrap();
    let bound: u64 = bound.parse().expect("an epoch");
    assert!(
        said.contains("no epoch that is asked for") && bound > third,
        "{said}"
    );
    let said = refused(&setup, &["--memory", "100"]);
    assert!(said.contains("--memory 4GB"), "{said}");

    let base = trim_log(&setup, name);
    assert!((second..third).contains(&base));
    let hint = format!("--from {}", base + 1);
    for range in [range(None, None), range(Some(first + 1), Some(second))] {
        let range: Vec<_> = range.iter().map(String::as_str).collect();
        let said = refused(&setup, &range);
        assert!(
            said.contains("has been trimmed") && said.contains(&hint),
            "{said}"
        );
    }
    let from = (base + 1).to_string();
    let from = ["--from", from.as_str()];
    let report = expect(&setup, &from, [0; 4]);
    assert_eq!(report["events"]["rows"], 3);
    assert_eq!(report["events"]["records"], 4);
    let (partition, key, row) = row_of(&setup, 1);
    add(
        &setup.joined(),
        partition,
        &key,
        Some(row.to_string().as_bytes()),
    );
    expect(&setup, &from, [0, 1, 0, 0]);
    let (partition, key, mut row) = row_of(&setup, 7);
    row["geographical_location"] = json!("New");
    add(
        &setup.joined(),
        partition,
        &key,
        Some(row.to_string().as_bytes()),
    );
    expect(&setup, &from, [0, 1, 1, 0]);

    let elsewhere = "checkpoint.location=file://elsewhere";
    let said = refused(&setup, &["--set", elsewhere]);
    assert!(said.contains("its checkpoints cannot be read"), "{said}");
    let latest = ["--set", "events.start=latest"];
    let said = refused(&setup, &[&from[..], &latest].concat());
    assert!(said.contains("began to read is not known"), "{said}");
    // Without the first event nobody knows that detection 1 had been seen.
    trim_bindings(
        &topic(broker, name, Login::Admin),
        1,
        u64::MAX,
        &Stop::default(),
    )
    .unwrap();
    let said = refused(&setup, &from);
    assert!(
        said.contains(&format!("no events before {name}[0]@1")),
        "{said}"
    );
}

#[test]
fn events_that_are_gone_are_named() {
    let (name, broker) = ("audited-gone", Broker::shared());
    let (setup, [_, second, _]) = three_starts(name, 1);
    trim_bindings(
        &topic(broker, name, Login::Admin),
        2,
        u64::MAX,
        &Stop::default(),
    )
    .unwrap();
    let said = refused(&setup, &["--from", &second.to_string()]);
    assert!(
        said.contains(&format!("{name}[0]@0 is no longer in the topic")),
        "{said}"
    );
    assert!(
        said.contains("begins at offset 2") && said.contains("needs all events"),
        "{said}"
    );
}

#[test]
fn a_job_that_runs_or_was_killed_is_judged_as_far_as_it_has_written() {
    let broker = Broker::shared();
    for (name, delivery) in [
        ("audited-live", "exactly-once"),
        ("audited-often", "at-least-once"),
    ] {
        broker.create_topic(name, 3, &[]);
        let setup = Setup::new(broker, name)
            .set("[sinks]", "delivery", quoted(delivery))
            .sink("type = \"jsonl\"\npath = \"rows.jsonl\"")
            .reference(&format!("{HEADER}1,Here\n"));
        let mut job = setup.start_live();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let publisher = Publisher::new(broker, name);
                for oid in 0_i64.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let partition = i32::try_from(oid % 3).unwrap();
                    publisher.send(partition, None, Some(&event(oid / 2, 1)));
                    publisher.flush();
                }
            });
            wait_until("rows", LIMIT, || {
                setup.status()["rows"].as_u64().unwrap_or(0) > 100
                    || std::fs::metadata(setup.folder().join("rows.jsonl"))
                        .is_ok_and(|rows| rows.len() > 10_000)
            });
            let mut before = 0;
            wait_until("audits of more and more rows", LIMIT, || {
                let outcome = setup.command("audit", &["--json"]).wait(LIMIT);
                let said = outcome.stderr.join("\n");
                if said.contains("no epoch that is asked for") {
                    return false;
                }
                outcome.assert_code(0);
                let report: Value = serde_json::from_str(&outcome.stdout[0]).unwrap();
                let right = report["sinks"][1]["right"].as_u64().unwrap();
                assert!(right >= before, "{right}");
                before = right;
                right > 500
            });
            done.store(true, Ordering::Relaxed);
        });
        job.kill();
        job.wait(LIMIT);
        let report = audit(&setup, &["--allow-repeats"], 0);
        assert!(report["sinks"][0]["right"].as_u64() >= Some(500));
    }
}
