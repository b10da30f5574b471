//! Faults of files, found when the job starts: a clear message, exit code 2, nothing half-written.

use std::process::Command;

use deltajoin_testkit::wait_until;
use expect_test::{Expect, expect, expect_file};

use crate::case::{CONFIG, Fifo, Folder, LIMIT, options};
use crate::configuration::report;

/// A folder where everything is right, and results of an earlier run are there.
fn good(config: &str) -> Folder {
    let folder = Folder::with_case(CONFIG, &options(100));
    folder.run_job("run", &["--until-end"]).assert_code(0);
    folder.write("job.toml", config);
    folder
}

/// The job does not start, says so, and leaves the results of an earlier run as they are.
fn refusal(folder: &Folder) -> String {
    let results = folder.read("joined.jsonl");
    assert!(!results.is_empty());
    let outcome = folder.run_job("run", &["--until-end"]);
    outcome.assert_code(2);
    assert!(outcome.stdout.is_empty());
    assert_eq!(folder.read("joined.jsonl"), results);
    report(&outcome)
}

fn refused(folder: &Folder, expect: Expect) {
    expect.assert_eq(&refusal(folder));
}

/// What is said of a reference table of this text.
fn refusal_of_reference(text: &str) -> String {
    let folder = good(CONFIG);
    folder.write("reference.csv", text);
    let refusal = refusal(&folder);
    // `check` says the same without a start.
    let checked = folder.run_job("check", &[]);
    checked.assert_code(2);
    assert_eq!(report(&checked), refusal);
    refusal
}

fn check_reference(text: &str, expect: Expect) {
    expect.assert_eq(&refusal_of_reference(text));
}

#[test]
fn a_sink_in_a_folder_that_is_not_there_is_refused() {
    let second = "[[sinks]]\ntype = \"jsonl\"\npath = \"no/such/again.jsonl\"\n";
    let folder = good(&(CONFIG.to_owned() + second));
    refused(
        &folder,
        expect![[r#"
            error: could not open file "no/such/again.jsonl" for writing
              detail: No such file or directory (os error 2)
              hint: Relative paths are taken from the working directory."#]],
    );
    folder.run_job("check", &[]).assert_code(2);
}

#[test]
fn a_sink_that_is_a_folder_is_refused() {
    let second = "[[sinks]]\ntype = \"jsonl\"\npath = \"again.jsonl\"\n";
    let folder = good(&(CONFIG.to_owned() + second));
    std::fs::create_dir(folder.path("again.jsonl")).unwrap();
    refused(
        &folder,
        expect![[r#"
        error: could not open file "again.jsonl" for writing
          detail: Is a directory (os error 21)"#]],
    );
}

#[test]
fn dead_letters_that_cannot_be_written_are_refused() {
    let tables = "[dead_letters]\ntype = \"jsonl\"\npath = \"no/dead.jsonl\"\n";
    refused(
        &good(&(CONFIG.to_owned() + tables)),
        expect![[r#"
            error: could not open file "no/dead.jsonl" for writing
              detail: No such file or directory (os error 2)
              hint: Relative paths are taken from the working directory."#]],
    );
}

#[test]
fn a_status_file_that_cannot_be_written_is_refused() {
    let tables = "[telemetry]\nstatus_file = \"no/status.json\"\n";
    let folder = good(&(CONFIG.to_owned() + tables));
    refused(
        &folder,
        expect![[r#"
        error: could not write status file "no/status.json"
          detail: No such file or directory (os error 2)"#]],
    );
    let check = |folder: &Folder, expect: Expect| {
        let checked = folder.run_job("check", &[]);
        checked.assert_code(2);
        expect.assert_eq(&report(&checked));
    };
    check(
        &folder,
        expect![[r#"
            error: cannot write status file "no/status.json"
              --> job.toml:28:15
               |
            28 | status_file = "no/status.json"
               |               ^^^^^^^^^^^^^^^^
              detail: There is no folder "no"."#]],
    );
    std::fs::create_dir_all(folder.path("no/status.json")).unwrap();
    check(
        &folder,
        expect![[r#"
            error: cannot write status file "no/status.json"
              --> job.toml:28:15
               |
            28 | status_file = "no/status.json"
               |               ^^^^^^^^^^^^^^^^
              detail: It is a folder."#]],
    );
    std::fs::remove_dir(folder.path("no/status.json")).unwrap();
    folder.run_job("check", &[]).assert_code(0);
    assert!(!folder.path("no/status.json").exists());
}

#[test]
fn events_that_are_absent_or_a_folder_are_refused() {
    let folder = good(CONFIG);
    std::fs::remove_file(folder.path("events.jsonl")).unwrap();
    refused(
        &folder,
        expect![[r#"
            error: could not open file "events.jsonl"
              detail: No such file or directory (os error 2)
              hint: Relative paths are taken from the working directory."#]],
    );
    std::fs::create_dir(folder.path("events.jsonl")).unwrap();
    refused(
        &folder,
        expect![[r#"
        error: could not open file "events.jsonl"
          detail: is a directory"#]],
    );
}

#[test]
fn a_reference_that_is_absent_is_refused() {
    let folder = good(CONFIG);
    std::fs::remove_file(folder.path("reference.csv")).unwrap();
    refused(
        &folder,
        expect![[r#"
            error: could not open file "reference.csv"
              detail: No such file or directory (os error 2)
              hint: Relative paths are taken from the working directory."#]],
    );
}

#[test]
fn wrong_types_in_the_reference_are_told_with_line_and_column() {
    let text = "geographical_location_oid,geographical_location\n\
                1,one\n\
                two,two\n\
                \n\
                ,none\n\
                4,four,more\n\
                99999999999999999999,five\n";
    expect_file!["golden/reference-types.txt"].assert_eq(&refusal_of_reference(text));
}

#[test]
fn duplicate_keys_of_the_reference_are_told_with_both_lines() {
    let text =
        "geographical_location_oid,geographical_location\n1,one\n2,two\n1,uno\n2,due\n1,un\n";
    check_reference(
        text,
        expect![[r#"
        error: reference file "reference.csv" has 3 faults
          detail: reference.csv:4:1: key {"geographical_location_oid":1} is on line 2 already
            reference.csv:5:1: key {"geographical_location_oid":2} is on line 3 already
            reference.csv:6:1: key {"geographical_location_oid":1} is on line 2 already"#]],
    );
}

#[test]
fn an_open_quote_of_the_reference_is_told_with_its_line() {
    let text = "geographical_location_oid,geographical_location\n1,one\n2,\"two\n3,three\n";
    check_reference(
        text,
        expect![[r#"
        error: reference file "reference.csv" has 1 fault
          detail: reference.csv:3:3: this quote is never closed"#]],
    );
}

#[test]
fn missing_columns_of_the_reference_are_told() {
    let text = "oid,geographical_location\n1,one\n";
    expect_file!["golden/reference-columns.txt"].assert_eq(&refusal_of_reference(text));
    check_reference(
        "",
        expect![[r#"
        error: reference file "reference.csv" has 1 fault
          detail: reference.csv:1:1: the header is missing"#]],
    );
}

#[test]
fn faults_of_a_reference_of_json_lines_have_places_too() {
    let folder = good(&CONFIG.replace("reference.csv", "reference.jsonl"));
    let text = r#"{"geographical_location_oid":1,"geographical_location":"one"}
{"geographical_location_oid":"2","geographical_location":"two"}
{"geographical_location_oid":3}
{"geographical_location_oid":1,"geographical_location":"uno"}
{
"#;
    folder.write("reference.jsonl", text);
    refused(
        &folder,
        expect![[r#"
        error: reference file "reference.jsonl" has 4 faults
          detail: reference.jsonl:2:30: field "geographical_location_oid" is not an int64: "2"
            reference.jsonl:3:1: field "geographical_location" is missing
            reference.jsonl:4:1: key {"geographical_location_oid":1} is on line 1 already
            reference.jsonl:5:1: not a JSON object: EOF while parsing an object"#]],
    );
}

#[test]
fn a_file_that_a_running_job_writes_is_refused_and_left_to_it() {
    let folder = Folder::with_config(&CONFIG.replace("events.jsonl", "held.jsonl"));
    let mut events = Fifo::make(&folder.path("held.jsonl"));
    folder.generate(&options(100));
    events.give(&std::fs::read(folder.path("events.jsonl")).unwrap());
    let job = folder.start(&["run", "--config", "job.toml"]);
    wait_until("rows", LIMIT, || folder.line_count("joined.jsonl") > 10);
    let text = folder.read("joined.jsonl");
    let outcome = folder.run_job("run", &["--set", "events.path=events.jsonl", "--until-end"]);
    outcome.assert_code(2);
    expect![[r#"
        error: file "joined.jsonl" is being written by another job or sink
          hint: Does the job run already? Else give each job and sink a file of its own."#]]
    .assert_eq(&report(&outcome));
    assert!(folder.read("joined.jsonl").starts_with(&text));
    drop(events);
    job.wait(LIMIT).assert_code(0);
}

#[test]
fn a_disk_that_is_full_ends_the_job_with_1() {
    let folder = Folder::with_case(CONFIG, &options(5_000));
    let link = Command::new("ln")
        .args(["-s", "/dev/full"])
        .arg(folder.path("joined.jsonl"))
        .status();
    assert!(link.unwrap().success());
    let outcome = folder.run_job("run", &["--until-end"]);
    outcome.assert_code(1);
    expect![[r#"
        error: could not write file "joined.jsonl"
          detail: No space left on device (os error 28)"#]]
    .assert_eq(&report(&outcome));
}
