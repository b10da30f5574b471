//! `deltajoin check` of files: whether events have the declared types, and every obstacle at once.

use expect_test::expect_file;

use crate::case::{CONFIG, Folder};
use crate::configuration::report;

const TABLE: &str = "geographical_location_oid,geographical_location\n1,here\n";

fn event(location: &str) -> String {
    format!(
        "{{\"geographical_location_oid\":{location},\"video_camera_oid\":1,\"detection_oid\":1,\
         \"item_name\":\"bag\",\"timestamp_detected\":1767225600000}}\n"
    )
}

fn with_events(events: &str) -> Folder {
    let folder = Folder::with_config(CONFIG);
    folder.write("reference.csv", TABLE);
    folder.write("events.jsonl", events);
    folder
}

#[test]
fn a_file_none_of_whose_first_lines_has_the_declared_types_is_refused_with_a_place() {
    let folder = with_events(&format!("\n{}junk\n", event("\"1\"")));
    let outcome = folder.run_job("check", &[]);
    outcome.assert_code(2);
    expect_file!["golden/check-no-event.txt"].assert_eq(&(report(&outcome) + "\n"));
}

#[test]
fn lines_that_would_be_dead_letters_are_counted_and_the_first_is_told() {
    let long = format!("{{\"x\":\"{}\"}}\n", "y".repeat(2_000));
    let more = event("2").repeat(200) + "junk\n";
    let folder = with_events(&[&*event("1"), "[1]\n", &long, &more].concat());
    let outcome = folder.run_job("check", &["--set", "limits.max_record_bytes=1KB"]);
    outcome.assert_code(0);
    let line = "events: file events.jsonl; of 100 first lines 2 would be dead letters, the first \
                for events.jsonl:2:1: not a JSON object: [1]";
    let said = &outcome.stderr;
    assert!(said.iter().any(|said| said == line), "{said:#?}");
}

#[test]
fn the_last_line_may_still_be_being_written() {
    let folder = with_events(&(event("1") + "{\"geographical"));
    let outcome = folder.run_job("check", &[]);
    outcome.assert_code(0);
    let line = "events: file events.jsonl; of 1 first lines 0 would be dead letters";
    let said = &outcome.stderr;
    assert!(said.iter().any(|said| said == line), "{said:#?}");
}

/// Files that are made to see whether they can be have random names.
fn without_temporary_names(report: &str) -> String {
    let lines = report.lines();
    let lines = lines.map(|line| line.split("/.deltajoin-check-").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_obstacle_is_told_at_once_and_each_setting_with_its_place() {
    let more = "[[sinks]]\ntype = \"jsonl\"\npath = \"no/such.jsonl\"\n\n\
                [dead_letters]\ntype = \"jsonl\"\npath = \"folder\"\n\n\
                [checkpoint]\nlocation = \"file://reference.csv/state\"\n\n\
                [state]\ndir = \"reference.csv/local\"\n";
    let folder = Folder::with_config(&(CONFIG.to_owned() + more));
    folder.write("reference.csv", "geographical_location_oid\n1\n");
    std::fs::create_dir(folder.path("folder")).unwrap();
    let outcome = folder.run_job("check", &[]);
    outcome.assert_code(2);
    expect_file!["golden/check-obstacles.txt"]
        .assert_eq(&(without_temporary_names(&report(&outcome)) + "\n"));
    let good = "sink \"joined.jsonl\": file joined.jsonl";
    let said = &outcome.stderr;
    assert!(said.iter().any(|said| said == good), "{said:#?}");
}
