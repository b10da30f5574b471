//! Whole jobs over files, until the end: the result, the summary, the dead letters.

use std::collections::BTreeMap;

use deltajoin::generate::{Expected, ExpectedCounts};
use deltajoin_testkit::Outcome;
use expect_test::expect_file;

use crate::case::{CONFIG, Folder, counted, options};

/// Where dead letters go if nothing else is said.
const DEAD: &str = "joined.jsonl.dead.jsonl";

/// The summary is right, and nothing else is on standard output.
fn assert_summary(outcome: &Outcome, counts: ExpectedCounts, rows_out: u64) {
    let expected = [
        ("records", counts.records),
        ("events", counts.events),
        ("distinct", counts.distinct),
        ("duplicates", counts.duplicates),
        ("unmatched", counts.unmatched),
        ("dead letters", counts.dead_letters),
        ("late", 0),
        ("future", 0),
        ("conflicts", 0),
        ("late winners", 0),
        ("retracted", 0),
        ("rows out", rows_out),
        ("missing", 0),
    ];
    for (name, number) in expected {
        assert_eq!(counted(outcome, name), number, "{name}");
    }
    assert_eq!(outcome.stdout.len(), expected.len() + 1);
    assert!(outcome.stdout[expected.len()].starts_with("seconds "));
}

#[test]
fn the_result_is_right_with_1_2_and_4_threads_and_by_the_textbook_engine() {
    let options = options(100_000);
    let folder = Folder::with_case(CONFIG, &options);
    let expected = Expected::of(&options).unwrap();
    let ways: [&[&str]; 4] = [
        &["--set", "cluster.threads=1"],
        &["--set", "cluster.threads=2"],
        &["--set", "cluster.threads=4"],
        &["--set", "cluster.threads=2", "--engine", "textbook"],
    ];
    for way in ways {
        let outcome = folder.run_job("run", &[way, &["--until-end"]].concat());
        outcome.assert_code(0);
        assert_summary(&outcome, expected.counts(), expected.rows());
        folder.assert_expected("joined.jsonl", &expected);
        let dead = folder.line_count(DEAD) as u64;
        assert_eq!(dead, expected.counts().dead_letters, "{way:?}");
        let errors = outcome.stderr.iter().any(|line| line.contains("ERROR"));
        assert!(!errors, "{:#?}", outcome.stderr);
        folder.forget();
    }
}

#[test]
fn the_textbook_engine_refuses_what_it_does_not_do_with_its_place() {
    let folder = Folder::with_case(CONFIG, &options(100));
    let horizon = ["--engine", "textbook", "--set", "distinct.horizon=24h"];
    for command in ["run", "cluster"] {
        let outcome = folder.run_job(command, &horizon);
        outcome.assert_code(2);
        let said = outcome.stderr.join("\n");
        assert!(
            said.contains("the textbook engine has no \"horizon\"")
                && said.contains("--> --set distinct.horizon"),
            "{said}"
        );
    }
}

#[test]
fn a_setting_that_does_nothing_is_told_at_the_start_and_by_check() {
    let config = CONFIG.to_owned() + "[cluster]\npeer_timeout = \"9s\"\n";
    let folder = Folder::with_case(&config, &options(100));
    for (command, arguments) in [("run", "--until-end"), ("check", "--offline")] {
        let outcome = folder.run_job(command, &[arguments]);
        outcome.assert_code(0);
        let told = |line: &&String| {
            line.contains("\"peer_timeout\" in [cluster] has no effect")
                && line.contains("job.toml:28:1")
        };
        assert_eq!(outcome.stderr.iter().filter(told).count(), 1, "{command}");
    }
}

/// The job over so many events whose keys are of two columns, with this limit; the warning.
fn crowded(folder: &Folder, limit: &str) -> Option<String> {
    let limit = format!("state.memory_limit={limit}");
    let settings = ["--set", &limit, "--set", "checkpoint.interval=200ms"];
    let outcome = folder.run_job("run", &[&settings[..], &["--until-end"]].concat());
    outcome.assert_code(0);
    let mut lines = outcome.stderr.into_iter();
    lines.rfind(|line| line.contains("cannot hold the open bucket"))
}

#[test]
fn a_limit_that_does_not_hold_the_open_bucket_is_told_with_one_that_does() {
    let config = CONFIG
        .replace("[\"detection_oid\"]", "[\"detection_oid\", \"item_name\"]")
        .replace("[join]", "[distinct]\ndetect_conflicts = true\n\n[join]");
    let folder = Folder::with_case(&config, &options(400_000));
    let warning = crowded(&folder, "16MB").expect("it is told");
    assert!(
        warning.contains("WARN") && warning.contains("16MB (--set state.memory_limit)"),
        "{warning}"
    );
    let (_, hint) = warning
        .split_once("Write \\\"")
        .expect("it says what would do");
    let (enough, _) = hint.split_once("\\\"").expect("a size in quotes");
    folder.forget();
    assert_eq!(crowded(&folder, enough), None);
}

#[test]
fn events_without_a_reference_row_are_dropped_if_wanted() {
    let options = options(20_000);
    let folder = Folder::with_case(CONFIG, &options);
    let expected = Expected::of(&options).unwrap().without_unmatched();
    let drop = ["--set", "join.unmatched=drop", "--until-end"];
    let outcome = folder.run_job("run", &drop);
    outcome.assert_code(0);
    folder.assert_expected("joined.jsonl", &expected);
    assert_summary(&outcome, expected.counts(), expected.rows());
}

#[test]
fn events_without_a_reference_row_are_dead_letters_if_wanted() {
    let options = options(20_000);
    let folder = Folder::with_case(CONFIG, &options);
    let expected = Expected::of(&options).unwrap().without_unmatched();
    let keep = ["--set", "join.unmatched=dead-letter", "--until-end"];
    let outcome = folder.run_job("run", &keep);
    outcome.assert_code(0);
    folder.assert_expected("joined.jsonl", &expected);
    let counts = expected.counts();
    let dead = counts.dead_letters + counts.unmatched;
    assert_eq!(counted(&outcome, "dead letters"), dead);
    assert_eq!(folder.line_count(DEAD) as u64, dead);
    let letters = folder.read(DEAD);
    let unmatched = letters
        .lines()
        .filter(|line| line.contains("\"unmatched\""));
    assert_eq!(unmatched.count() as u64, counts.unmatched);
}

#[test]
fn two_sinks_get_the_same_rows() {
    let options = options(20_000);
    let config = CONFIG.to_owned() + "[[sinks]]\ntype = \"jsonl\"\npath = \"again.jsonl\"\n";
    let folder = Folder::with_case(&config, &options);
    let expected = Expected::of(&options).unwrap();
    let outcome = folder.run_job("run", &["--until-end", "--set", "cluster.threads=2"]);
    outcome.assert_code(0);
    assert_eq!(counted(&outcome, "rows out"), expected.rows());
    folder.assert_expected("joined.jsonl", &expected);
    assert!(folder.read("again.jsonl") == folder.read("joined.jsonl"));
}

/// A job with columns of every type and text keys, which are hashed to 128 bits.
const TYPES: &str = r#"job = "types"
[events]
type = "file"
path = "events.jsonl"
key = ["id", "part"]
[events.columns]
id = "string"
part = "int64"
place = "string"
amount = "decimal(12,3)"
at = "timestamp"
sure = "bool"
score = "float64?"
note = "string?"
[reference]
path = "places.csv"
key = ["code"]
[reference.columns]
code = "string"
label = "string"
fee = "decimal(6,2)?"
since = "timestamp?"
open = "bool?"
floors = "int64?"
[join]
on = { place = "code" }
[[sinks]]
type = "jsonl"
path = "joined.jsonl"
"#;

const PLACES: &str = "\
label,code,fee,since,open,floors,unused
\"Hall \"\"A\"\", north\",a,12.50,2026-01-01T00:00:00Z,true,3,x
\u{dc}berlingen,b,,,,,
";

const EVENTS: &str = include_str!("golden/types-events.jsonl");

#[test]
fn values_of_every_type_come_through() {
    let folder = Folder::with_config(TYPES);
    folder.write("events.jsonl", EVENTS);
    folder.write("places.csv", PLACES);
    let (mut all, mut letters) = (Vec::new(), String::new());
    for engine in ["production", "textbook"] {
        let outcome = folder.run_job("run", &["--until-end", "--engine", engine]);
        outcome.assert_code(0);
        folder.run_job("audit", &[]).assert_code(0);
        let mut rows: Vec<String> = folder
            .read("joined.jsonl")
            .lines()
            .map(str::to_owned)
            .collect();
        rows.sort();
        all.push(rows.join("\n"));
        letters = folder.read(DEAD);
        folder.forget();
    }
    expect_file!["golden/types-joined.jsonl"].assert_eq(&all[0]);
    assert_eq!(all[0], all[1]);
    let shown = letters.lines().map(|line| {
        let letter: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        let text = |name: &str| letter[name].as_str().unwrap_or("null").to_owned();
        format!("{} {}", text("reason"), text("error"))
    });
    expect_file!["golden/types-dead-letters.txt"].assert_eq(&shown.collect::<Vec<_>>().join("\n"));
    expect_file!["golden/types-dead-letter.json"].assert_eq(letters.lines().next().unwrap());
}
