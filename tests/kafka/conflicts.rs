//! Events of one key that contradict each other, and rows that were held with other settings.

use std::collections::BTreeMap;

use deltajoin_testkit::{Broker, Job, Signal, wait_until};
use serde_json::Value;

use crate::audit::{audit, found};
use crate::revise::changed;
use crate::setup::{LIMIT, Setup, quoted, summary};
use crate::support::now_ms;
use crate::topics::{DeadLetter, Publisher, dead_letters, event_of, values};

/// What a job says when it has taken another table.
const HANDED: &str = "the reference table is handed over";
const HEADER: &str = "geographical_location_oid,geographical_location\n";

fn setup(name: &'static str) -> Setup {
    Broker::shared().create_topic(name, 2, &[]);
    Setup::new(Broker::shared(), name)
        .set("distinct", "detect_conflicts", "true")
        .reference(&format!("{HEADER}1,Here\n"))
}

fn send(name: &str, partition: i32, events: &[(i64, &str)]) {
    let publisher = Publisher::new(Broker::shared(), name);
    for (detection, item) in events {
        publisher.send(partition, None, Some(&event_of(*detection, 1, item)));
    }
    publisher.flush();
}

/// Conflicts by their origins; there is nothing else.
fn letters(setup: &Setup) -> BTreeMap<(i32, i64), DeadLetter> {
    let letters = dead_letters(Broker::shared(), &setup.dead());
    for letter in letters.values() {
        assert_eq!(letter.reason, "conflict", "{letter:?}");
    }
    letters
}

fn error(partition: i32, offset: i64, columns: &str) -> String {
    format!("the event of this key at partition {partition}, offset {offset} has another {columns}")
}

#[test]
fn a_duplicate_with_other_values_is_a_dead_letter_with_both_origins() {
    let setup = setup("conflicting").processes(2);
    send("conflicting", 0, &[(1, "car"), (2, "car"), (2, "car")]);
    let outcome = setup.run_until_end(&[]);
    assert_eq!(summary(&outcome)["conflicts"], 0, "equal ones are none");
    // What was joined by an earlier start is compared with as well.
    let again = [(1, "bus"), (1, "car"), (2, "car"), (3, "new"), (3, "other")];
    send("conflicting", 1, &again);
    let outcome = setup.run_until_end(&[]);
    assert_eq!(summary(&outcome)["conflicts"], 2);
    let told = letters(&setup);
    let origins: Vec<_> = told.keys().copied().collect();
    assert_eq!(origins, [(1, 0), (1, 4)]);
    assert_eq!(told[&(1, 0)].error, error(0, 0, "\"item_name\""));
    let raw: Value = serde_json::from_slice(&told[&(1, 0)].raw()).unwrap();
    let bus: Value = serde_json::from_slice(&event_of(1, 1, "bus")).unwrap();
    assert_eq!(raw, bus);
    assert_eq!(told[&(1, 4)].error, error(1, 3, "\"item_name\""));
    assert!(told.values().all(|letter| letter.topic == "conflicting"));
    // The first of a key is kept, whatever is told.
    let items = values(Broker::shared(), &setup.joined()).into_iter();
    let items: BTreeMap<_, _> = items
        .map(|row| {
            (
                row["detection_oid"].as_i64().unwrap(),
                row["item_name"].clone(),
            )
        })
        .collect();
    let kept = [(1, "car"), (2, "car"), (3, "new")];
    assert_eq!(items, kept.map(|(key, item)| (key, item.into())).into());
    assert_eq!(found(&audit(&setup, &[], 0)), [0; 4]);
}

#[test]
fn of_many_conflicts_all_are_counted_and_three_a_minute_of_a_key_group_are_told_by_all_starts() {
    let setup = setup("contradicted");
    let items: Vec<String> = (0..20).map(|item| format!("item {item}")).collect();
    let events: Vec<(i64, &str)> = items.iter().map(|item| (5, &**item)).collect();
    send("contradicted", 0, &events);
    let minute = now_ms() / 60_000;
    let outcome = setup.run_until_end(&[]);
    assert_eq!(summary(&outcome)["conflicts"], 19);
    // Other processes go on from how many were told.
    let setup = setup.processes(2);
    send("contradicted", 1, &events);
    let outcome = setup.run_until_end(&[]);
    let minutes = 1 + usize::try_from(now_ms() / 60_000 - minute).unwrap();
    assert_eq!(summary(&outcome)["conflicts"], 19);
    let told = letters(&setup);
    assert!(
        (3..=3 * minutes).contains(&told.len()),
        "{minutes}: {told:?}"
    );
    let first: Vec<_> = told.keys().take(3).copied().collect();
    assert_eq!(first, [(0, 1), (0, 2), (0, 3)]);
    assert!(
        told.values()
            .all(|letter| letter.error == error(0, 0, "\"item_name\""))
    );
    assert_eq!(found(&audit(&setup, &[], 0)), [0; 4]);
}

/// A job that tells changes, and whose starts hold rows in different ways.
struct Held {
    name: &'static str,
    setup: Setup,
}

impl Held {
    /// What holds of each key: its place. What is taken back must be what was told.
    fn rows(&self) -> BTreeMap<i64, String> {
        let (table, _) = changed(Broker::shared(), &self.setup.joined());
        let row = |row: Value| {
            let place = row["geographical_location"].as_str().unwrap().to_owned();
            (row["detection_oid"].as_i64().unwrap(), place)
        };
        table.into_values().map(row).collect()
    }

    fn wait_for(&self, places: &[&str]) {
        let places = (0..).zip(places.iter().map(|place| (*place).to_owned()));
        let places: BTreeMap<i64, String> = places.collect();
        wait_until(&format!("{places:?}"), LIMIT, || self.rows() == places);
    }

    fn rename(&self, job: &mut Job, place: &str) {
        let path = self.setup.folder().join("reference.csv");
        std::fs::write(path, format!("{HEADER}1,{place}\n")).unwrap();
        let handed = |job: &Job| {
            let said = job.stderr();
            said.iter().filter(|line| line.contains(HANDED)).count()
        };
        let before = handed(job);
        job.signal(Signal::Hangup);
        wait_until("the table", LIMIT, || handed(job) > before);
    }

    fn start(&self, change: &str, interval: &str) -> Job {
        let change = format!("--set=join.on_reference_change={change}");
        let interval = format!("--set=checkpoint.interval={interval}");
        let job = self
            .setup
            .start(&[&change, &interval, "--set=telemetry.log=debug"]);
        job.wait_for_line("the cluster is complete", LIMIT);
        job
    }

    /// Waits for a checkpoint of all that is bound.
    fn checkpointed(&self, job: &Job) {
        let arguments = ["--json", "--set=join.on_reference_change=future-only"];
        let audit = self.setup.command("audit", &arguments).wait(LIMIT);
        let report: Value = serde_json::from_str(&audit.stdout[0]).unwrap();
        let bound = report["epochs"]["last"].as_u64().unwrap();
        wait_until("a checkpoint", LIMIT, || {
            let said = job.stderr();
            let mut epochs = said.iter().filter_map(|line| {
                let (_, rest) = line.split_once("published a checkpoint epoch=")?;
                rest.split(' ').next()?.parse::<u64>().ok()
            });
            epochs.any(|epoch| epoch >= bound)
        });
    }

    fn send(&self, events: &[(i64, &str)]) {
        send(self.name, 0, events);
    }
}

#[test]
fn rows_that_were_held_with_other_settings_stay_as_they_are_and_are_not_compared_with() {
    let changelog = quoted("changelog");
    let held = Held {
        name: "held-anew",
        setup: setup("held-anew").set("[sinks]", "envelope", changelog),
    };
    let revise = "--set=join.on_reference_change=revise";
    let mut job = held.start("revise", "1h");
    held.send(&[(0, "car"), (1, "car")]);
    held.wait_for(&["Here"; 2]);
    held.rename(&mut job, "There");
    held.wait_for(&["There"; 2]);
    job.kill();
    job.wait(LIMIT);
    // No checkpoint has what is bound: it is made again by the settings of then.
    let other = ["--set=join.on_reference_change=future-only", "--until-end"];
    let outcome = held.setup.start(&other).wait(LIMIT);
    let said = outcome.stderr.join("\n");
    assert_eq!(outcome.code(), Some(2), "{said}");
    assert!(said.contains("stop the job cleanly"), "{said}");
    held.setup.run_until_end(&[revise]);

    // With those of now, rows are compared with and not revised.
    let mut job = held.start("future-only", "200ms");
    held.rename(&mut job, "Nowhere");
    held.send(&[(2, "car"), (0, "bus"), (1, "car"), (2, "bus")]);
    held.wait_for(&["There", "There", "Nowhere"]);
    // Of the last event.
    wait_until("a letter", LIMIT, || letters(&held.setup).len() == 1);
    held.checkpointed(&job);
    job.kill();
    job.wait(LIMIT);

    // The first two were not of the table that there was last.
    let mut job = held.start("revise", "1h");
    held.send(&[(3, "car"), (2, "bus")]);
    held.wait_for(&["There", "There", "Nowhere", "Nowhere"]);
    held.rename(&mut job, "Elsewhere");
    held.wait_for(&["There", "There", "Nowhere", "Elsewhere"]);
    job.kill();
    job.wait(LIMIT);
    held.setup.run_until_end(&[revise]);
    held.wait_for(&["There", "There", "Nowhere", "Elsewhere"]);
    let told: Vec<_> = letters(&held.setup)
        .into_iter()
        .map(|(origin, letter)| (origin, letter.error))
        .collect();
    assert_eq!(told, [((0, 5), error(0, 2, "\"item_name\""))]);
}
