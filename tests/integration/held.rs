//! Rows of the window that were held with other settings than those of now. What a file of changes
//! takes back must be what it has told: so a row that never was is seen.
//!
//! Apart from `going_on`, whose jobs keep their settings or are refused.

use std::collections::BTreeMap;

use deltajoin_testkit::wait_until;
use serde_json::Value;

use crate::case::{CONFIG, Fifo, Folder, LIMIT};
use crate::going_on::{BINDINGS, ROWS, run};

const MINUTE: u64 = 60_000;

fn event(oid: u64, item: &str, minute: u64) -> String {
    format!(
        "{{\"geographical_location_oid\":1,\"video_camera_oid\":1,\"detection_oid\":{oid},\
         \"item_name\":\"{item}\",\"timestamp_detected\":{}}}\n",
        1_767_225_600_000 + minute * MINUTE
    )
}

/// A job over files that tells changes.
struct Held {
    folder: Folder,
    events: String,
}

impl Held {
    fn new() -> Self {
        let config = format!("{CONFIG}envelope = \"changelog\"\n");
        Self {
            folder: Folder::with_config(&config),
            events: String::new(),
        }
    }

    /// Runs to the end with more events, in a place of this name; gives what holds of each key.
    fn run(&mut self, place: &str, events: &str, settings: &[&str]) -> BTreeMap<u64, String> {
        let table = format!("geographical_location_oid,geographical_location\n1,{place}\n");
        self.folder.write("reference.csv", table);
        self.events += events;
        self.folder.write("events.jsonl", &self.events);
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        run(&self.folder, &settings.collect::<Vec<_>>());
        self.collection()
    }

    /// Applies all changes, each of which must fit what is there: by key the item and the place.
    fn collection(&self) -> BTreeMap<u64, String> {
        let mut rows: BTreeMap<u64, Value> = BTreeMap::new();
        for line in self.folder.read(ROWS).lines() {
            let change: Value = serde_json::from_str(line).unwrap();
            let [before, after] = ["before", "after"].map(|name| &change[name]);
            let row = if after.is_null() { before } else { after };
            let key = row["detection_oid"].as_u64().unwrap();
            assert_eq!(rows.get(&key).unwrap_or(&Value::Null), before, "{change}");
            rows.insert(key, after.clone());
        }
        rows.retain(|_, row| !row.is_null());
        let told = rows.into_iter().map(|(key, row)| {
            let [item, place] = ["item_name", "geographical_location"].map(|name| &row[name]);
            let [item, place] = [item, place].map(|text| text.as_str().unwrap().to_owned());
            (key, format!("{item} {place}"))
        });
        told.collect()
    }
}

fn rows(texts: &[&str]) -> BTreeMap<u64, String> {
    let texts = texts.iter().map(|text| (*text).to_owned());
    (0..).zip(texts).collect()
}

#[test]
fn results_that_were_not_revised_stay_as_they_are_when_later_ones_are() {
    let mut held = Held::new();
    let only_compared = [
        "distinct.detect_conflicts=true",
        "join.on_reference_change=future-only",
    ];
    held.run("There", &event(0, "car", 0), &only_compared);
    let now = held.run("Nowhere", &event(1, "car", 0), &only_compared);
    assert_eq!(now, rows(&["car There", "car Nowhere"]));
    held.run("Nowhere", &event(2, "car", 0), &[]);
    let now = held.run("Elsewhere", &event(3, "car", 0), &[]);
    let expected = ["car There", "car Nowhere", "car Elsewhere", "car Elsewhere"];
    assert_eq!(now, rows(&expected));
    // Nor do those that were revised go on in a job that compares them.
    let now = held.run("Far", &event(2, "bus", 0), &only_compared);
    assert_eq!(now, rows(&expected));
    let now = held.run("Far", &event(4, "car", 0), &only_compared);
    assert_eq!(now, rows(&[&expected[..], &["car Far"]].concat()));
}

#[test]
fn a_row_that_has_left_the_window_does_not_come_back_into_a_longer_one() {
    let mut held = Held::new();
    let short = ["join.revise_window=10m"];
    held.run("Here", &(event(0, "car", 0) + &event(1, "car", 20)), &short);
    let now = held.run("There", "", &short);
    assert_eq!(now, rows(&["car Here", "car There"]));
    let long = ["join.revise_window=1h"];
    let now = held.run("Far", &event(2, "car", 20), &long);
    assert_eq!(now, rows(&["car Here", "car There", "car Far"]));
    let now = held.run("Near", "", &long);
    assert_eq!(now, rows(&["car Here", "car There", "car Near"]));
}

#[test]
fn an_event_that_was_replaced_does_not_come_back_when_the_first_one_is_kept() {
    let mut held = Held::new();
    let latest = ["distinct.keep=latest"];
    held.run("Here", &event(0, "car", 0), &latest);
    let now = held.run("Here", &event(0, "bus", 1), &latest);
    assert_eq!(now, rows(&["bus Here"]));
    let first = ["distinct.keep=first", "distinct.retry_time=may-differ"];
    let more = event(0, "van", 2) + &event(1, "car", 2);
    let now = held.run("There", &more, &first);
    assert_eq!(now, rows(&["bus Here", "car There"]));
    let now = held.run("Far", "", &first);
    assert_eq!(now, rows(&["bus Here", "car Far"]));
}

#[test]
fn an_event_that_was_replaced_by_an_earlier_one_does_not_come_back_when_that_has_left_the_window() {
    let mut held = Held::new();
    let earliest = ["distinct.keep=earliest", "join.revise_window=10m"];
    held.run("Here", &event(0, "car", 10), &earliest);
    let now = held.run("Here", &event(0, "bus", 1), &earliest);
    assert_eq!(now, rows(&["bus Here"]));
    held.run("Here", &event(1, "car", 12), &earliest);
    let now = held.run("There", "", &earliest);
    assert_eq!(now, rows(&["bus Here", "car There"]));
}

#[test]
fn where_the_time_is_read_waits_for_a_clean_stop_also_by_arrival() {
    let config = CONFIG.replace(
        "[join]",
        "[distinct]\nretry_time = \"may-differ\"\n\n[join]",
    );
    let in_seconds = config.replace("unit = \"ms\"", "unit = \"s\"");
    assert_ne!(config, in_seconds);
    let mut held = Held::new();
    held.folder.write("job.toml", &config);
    // Killed before its first checkpoint, and before it has written anything.
    let _pipe = Fifo::make(&held.folder.path("pipe.jsonl"));
    held.events = (0..5000).map(|oid| event(oid, "car", 0)).collect();
    held.folder.write("events.jsonl", &held.events);
    let table = "geographical_location_oid,geographical_location\n1,Here\n";
    held.folder.write("reference.csv", table);
    let to_pipe = [
        "run",
        "--config",
        "job.toml",
        "--set",
        "sinks.0.path=pipe.jsonl",
    ];
    let mut job = held.folder.start(&to_pipe);
    wait_until("bindings", LIMIT, || {
        let log = std::fs::read_to_string(held.folder.path(BINDINGS));
        log.is_ok_and(|log| log.lines().count() > 4)
    });
    job.kill();
    job.wait(LIMIT);
    held.folder.write("job.toml", &in_seconds);
    for command in ["check", "run"] {
        let outcome = held.folder.run_job(command, &[]);
        outcome.assert_code(2);
        let said = outcome.stderr.join("\n");
        for text in [
            "events.time.column",
            "not written all rows",
            "\"timestamp_detected (Milliseconds)\"",
            "\"timestamp_detected (Seconds)\"",
        ] {
            assert!(said.contains(text), "{command}: no {text:?} in:\n{said}");
        }
    }
    held.folder.write("job.toml", &config);
    run(&held.folder, &[]);
    assert_eq!(held.folder.line_count(ROWS), 5000);
    held.folder.write("job.toml", &in_seconds);
    run(&held.folder, &[]);
    assert_eq!(held.folder.line_count(ROWS), 5000);
}
