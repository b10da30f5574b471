//! The reference table as a compacted topic: its initial content, and changes while a job runs.

use std::cell::Cell;
use std::collections::BTreeMap;

use deltajoin_testkit::{Broker, Signal, wait_until};
use serde_json::{Value, json};

use crate::setup::{LIMIT, Setup, assert_no_errors, quoted, summary};
use crate::topics::{Publisher, Tail, dead_letters, event, values};
use crate::topics_change::grow;

const COMPACT: &[(&str, &str)] = &[("cleanup.policy", "compact")];

/// Names a location, or removes it.
fn put(publisher: &Publisher<'_>, location: i64, name: Option<&str>) {
    let key = json!({ "geographical_location_oid": location }).to_string();
    let value = name.map(|name| {
        json!({ "geographical_location_oid": location, "geographical_location": name }).to_string()
    });
    let partition = i32::try_from(location % 2).expect("0 or 1");
    publisher.send(
        partition,
        Some(key.as_bytes()),
        value.as_ref().map(String::as_bytes),
    );
}

#[test]
fn the_initial_content_counts_updates_and_tombstones_and_unmatched_events_go_as_configured() {
    let broker = Broker::shared();
    broker.create_topic("places", 2, COMPACT);
    let places = Publisher::new(broker, "places");
    for (location, name) in [
        (1, Some("first")),
        (2, Some("second")),
        (3, Some("third")),
        (1, Some("renamed")),
        (2, None),
        (3, None),
        (3, Some("again")),
        (4, None),
    ] {
        put(&places, location, name);
    }
    places.flush();
    broker.create_topic("visits", 2, &[]);
    let visits = Publisher::new(broker, "visits");
    for location in 1..=4 {
        visits.send(0, None, Some(&event(location, location)));
    }
    visits.flush();
    let all = [Some("renamed"), None, Some("again"), None];
    for (unmatched, kept, dead) in [("keep", 4, 0), ("drop", 2, 0), ("dead-letter", 2, 2)] {
        let setup = Setup::new(broker, &format!("visits-{unmatched}"))
            .set("events", "topic", quoted("visits"))
            .set("join", "unmatched", quoted(unmatched))
            .reference_topic(broker, "places");
        let outcome = setup.run_until_end(&[]);
        assert_eq!(summary(&outcome)["unmatched"], 2, "{unmatched}");
        let rows: BTreeMap<_, _> = values(broker, &setup.joined())
            .into_iter()
            .map(|row| {
                (
                    row["detection_oid"].as_i64(),
                    row["geographical_location"].clone(),
                )
            })
            .collect();
        let wanted: BTreeMap<_, _> = (1..)
            .zip(all)
            .filter(|(_, name)| kept == 4 || name.is_some())
            .map(|(detection, name)| (Some(detection), json!(name)))
            .collect();
        assert_eq!(rows, wanted, "{unmatched}");
        let letters = dead_letters(broker, &setup.dead());
        assert_eq!(letters.len(), dead, "{unmatched}");
        for ((_, offset), letter) in letters {
            assert_eq!(letter.reason, "unmatched");
            assert_eq!(letter.topic, "visits");
            let raw: Value = serde_json::from_slice(&letter.raw()).unwrap();
            assert_eq!(raw["detection_oid"], offset + 1);
        }
    }
}

#[test]
fn a_change_of_the_reference_acts_on_later_events_only_if_so_wanted() {
    let broker = Broker::shared();
    broker.create_topic("signs", 2, COMPACT);
    let signs = Publisher::new(broker, "signs");
    put(&signs, 1, Some("old"));
    signs.flush();
    broker.create_topic("passages", 2, &[]);
    let passages = Publisher::new(broker, "passages");
    let setup = Setup::new(broker, "passages")
        .set("join", "on_reference_change", quoted("future-only"))
        .reference_topic(broker, "signs");
    let mut job = setup.start_live();
    let tail = Tail::new(broker, &setup.joined());
    let mut detection = 0;
    let mut next_name = || {
        detection += 1;
        passages.send(0, None, Some(&event(detection, 1)));
        passages.flush();
        let row = tail.next_value(LIMIT);
        assert_eq!(
            row["detection_oid"], detection,
            "each event gives one row, once"
        );
        row["geographical_location"].clone()
    };
    let mut before = json!("old");
    assert_eq!(next_name(), before);
    for name in [Some("new"), None, Some("back")] {
        put(&signs, 1, name);
        signs.flush();
        let after = json!(name);
        // The change comes by a way of its own: events before it still show the old name.
        for _ in 0..1_000 {
            let shown = next_name();
            assert!(shown == before || shown == after, "{shown}");
            if shown == after {
                before = after;
                break;
            }
        }
        assert_eq!(
            before,
            json!(name),
            "the change acts within a thousand events"
        );
    }
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
}

#[test]
fn a_bad_reference_record_is_told_and_leaves_the_old_row() {
    let broker = Broker::shared();
    broker.create_topic("labels", 2, COMPACT);
    let labels = Publisher::new(broker, "labels");
    put(&labels, 1, Some("good"));
    labels.flush();
    broker.create_topic("labelled", 1, &[]);
    let setup = Setup::new(broker, "labelled").reference_topic(broker, "labels");
    let mut job = setup.start_live();
    let key = json!({ "geographical_location_oid": 1 }).to_string();
    labels.send(
        1,
        Some(key.as_bytes()),
        Some(b"{\"geographical_location_oid\":1}"),
    );
    labels.flush();
    let line = job.wait_for_line("bad reference record", LIMIT);
    assert!(
        line.contains("ERROR") && line.contains("labels[1]@1"),
        "{line}"
    );
    wait_until("the status has it", LIMIT, || {
        let status = setup.status();
        let error = status["reference_error"].as_str().unwrap_or_default();
        error.starts_with("labels[1]@1: ") && status["reference_failures"] == 1
    });
    let events = Publisher::new(broker, "labelled");
    events.send(0, None, Some(&event(1, 1)));
    events.flush();
    let row = Tail::new(broker, &setup.joined()).next_value(LIMIT);
    assert_eq!(row["geographical_location"], "good");
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
    // Without a row that is bound the same record would leave the table without it.
    let other = Setup::new(broker, "labelled-anew")
        .set("events", "topic", quoted("labelled"))
        .reference_topic(broker, "labels");
    for (setup, arguments) in [(&other, &[][..]), (&setup, &["--until-end"])] {
        let outcome = setup.start(arguments).wait(LIMIT);
        outcome.assert_code(2);
        let said = outcome.stderr.join("\n");
        assert!(said.contains("labels[1]@1"), "{said}");
    }
}

/// A job whose reference topic has a bad record could not be started again after a crash: the rows
/// that it had gone on with were bound, and the start wanted all of the topic to be good.
#[test]
fn a_job_that_has_met_a_bad_reference_record_starts_again_with_the_row_that_is_bound() {
    let broker = Broker::shared();
    broker.create_topic("badges", 2, COMPACT);
    let badges = Publisher::new(broker, "badges");
    for (location, name) in [(1, "first"), (2, "second"), (3, "third")] {
        put(&badges, location, Some(name));
    }
    badges.flush();
    broker.create_topic("badged", 1, &[]);
    let setup = Setup::new(broker, "badged")
        .set("checkpoint", "interval", quoted("200ms"))
        .reference_topic(broker, "badges");
    let mut job = setup.start_live();
    let events = Publisher::new(broker, "badged");
    let tail = Tail::new(broker, &setup.joined());
    let detections = Cell::new(0);
    let name_of = |location| {
        detections.set(detections.get() + 1);
        events.send(0, None, Some(&event(detections.get(), location)));
        events.flush();
        loop {
            let row = tail.next_value(LIMIT);
            if row["detection_oid"] == detections.get() {
                return row["geographical_location"].clone();
            }
        }
    };
    assert_eq!(name_of(1), "first");
    job.kill();
    job.wait(LIMIT);
    // What the topic had of the keys is gone, as after a compaction; one key is no key at all.
    broker.delete_topic("badges");
    broker.create_topic("badges", 2, COMPACT);
    let badges = Publisher::new(broker, "badges");
    put(&badges, 2, Some("another"));
    let key = json!({ "geographical_location_oid": 1 }).to_string();
    badges.send(1, Some(key.as_bytes()), Some(b"junk"));
    badges.send(0, Some(b"junk"), Some(b"{}"));
    badges.flush();
    for _ in 0..2 {
        let mut job = setup.start_live();
        assert_eq!(name_of(1), "first", "the bound row stands");
        assert_eq!(name_of(2), "another");
        assert_eq!(name_of(3), Value::Null, "it is not in the topic");
        wait_until("the status has both", LIMIT, || {
            let status = setup.status();
            let error = status["reference_error"].as_str().unwrap_or_default();
            error.starts_with("badges[") && status["reference_failures"] == 2
        });
        job.kill();
        let said = job.wait(LIMIT).stderr.join("\n");
        assert!(
            said.contains("badges[1]@0") && said.contains("ERROR"),
            "{said}"
        );
    }
    let mut job = setup.start_live();
    put(&badges, 1, Some("good"));
    badges.send(0, Some(b"junk"), None);
    badges.flush();
    wait_until("all is good", LIMIT, || {
        let status = setup.status();
        status["reference_error"] == "" && status["reference_age_s"] == 0
    });
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
}

#[test]
fn a_partition_that_the_reference_topic_gets_while_the_job_runs_is_read() {
    let (broker, topic) = (Broker::shared(), "plates");
    broker.create_topic(topic, 1, COMPACT);
    broker.create_topic("plated", 1, &[]);
    let setup = Setup::new(broker, "plated").reference_topic(broker, topic);
    let mut job = setup.start_live();
    grow(broker, topic, 2);
    let plates = Publisher::new(broker, topic);
    put(&plates, 1, Some("new"));
    plates.flush();
    wait_until("the row", LIMIT, || setup.status()["reference_rows"] == 1);
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
}
