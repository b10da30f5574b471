//! The configuration as the binary takes it: faults, overrides, and what it shows.
//!
//! Apart from the golden tests of single messages, which stand with the code: here the ways of a
//! whole process are tried.

use deltajoin_testkit::{Job, Outcome};
use expect_test::{Expect, expect, expect_file};

use crate::case::{CONFIG, Folder, LIMIT};

/// The lines that a user must read: the report of an error, without log lines.
pub(crate) fn report(outcome: &Outcome) -> String {
    let lines = outcome.stderr.iter();
    let report: Vec<&str> = lines
        .skip_while(|line| !line.starts_with("error: "))
        .map(String::as_str)
        .collect();
    report.join("\n")
}

/// Refused with exit code 2; the report.
fn refusal(config: &str, arguments: &[&str]) -> String {
    let outcome = Folder::with_config(config).run_job("check", arguments);
    outcome.assert_code(2);
    assert!(outcome.stdout.is_empty(), "{:?}", outcome.stdout);
    report(&outcome)
}

fn check(config: &str, arguments: &[&str], expect: Expect) {
    expect.assert_eq(&refusal(config, arguments));
}

#[test]
fn all_faults_are_told_at_once_with_place_known_names_and_guess() {
    let config = CONFIG
        .replace("key = [\"detection_oid\"]", "ky = [\"detection_oid\"]")
        .replace("unit = \"ms\"", "unit = \"min\"")
        .replace("item_name = \"string\"", "item_name = \"strin\"")
        .replace("path = \"reference.csv\"", "path = \"reference.txt\"")
        + "[limits]\ntick = 1\n[checkpoint]\ninterval = \"5s\"\n";
    check(
        &config,
        &["--set", "sinks.0.pth=x", "--offline"],
        expect![[r#"
            error: missing setting "key" in [events]
              --> job.toml:3:1
              |
            3 | [events]
              | ^^^^^^^^
              detail: The columns that are an event's identity: events with equal keys are
                one event. They must not be nullable.
              hint: Write it as ["id"].

            error: unknown setting "ky" in [events]
              --> job.toml:6:1
              |
            6 | ky = ["detection_oid"]
              | ^^
              detail: Known settings are "type", "path", "format", "key", "time" and
                "columns".

            error: unknown unit "min" of "time" in [events]
              --> job.toml:7:48
              |
            7 | time = { column = "timestamp_detected", unit = "min" }
              |                                                ^^^^^
              detail: It must be "s", "ms" or "us".

            error: unknown type "strin" of column "item_name" in [events]
              --> job.toml:13:13
               |
            13 | item_name = "strin"
               |             ^^^^^^^
              detail: Known types are "int64", "float64", "string", "bool", "timestamp" and
                "decimal(p,s)" with p from 1 to 38 and s from 0 to p; a "?" behind the type
                makes the column nullable.
              hint: Did you mean "string"?

            error: cannot tell what file "reference.txt" in [reference] is
              --> job.toml:17:8
               |
            17 | path = "reference.txt"
               |        ^^^^^^^^^^^^^^^
              detail: Known endings are .csv, .jsonl, .json, .ndjson, .parquet.

            error: "tick" in [limits] must be a duration from 1ms to 10s
              --> job.toml:28:8
               |
            28 | tick = 1
               |        ^
              detail: It is the number 1.
              hint: Write a whole number and ms, s, m, h or d, as "10ms", "20s" or "24h".

            error: unknown setting "pth" in [[sinks]]
              --> --set sinks.0.pth
              detail: Known settings are "type", "name", "path" and "envelope".
              hint: Did you mean "path"?

            7 faults in job.toml"#]],
    );
}

#[test]
fn every_command_refuses_a_faulty_file_alike() {
    let folder = Folder::with_config(&CONFIG.replace("job = ", "jbo = "));
    let reports = ["run", "cluster", "worker", "check"].map(|command| {
        let process: &[&str] = match command {
            "worker" => &["--process", "0"],
            _ => &[],
        };
        let outcome = folder.run_job(command, process);
        outcome.assert_code(2);
        report(&outcome)
    });
    assert!(reports[0].contains("job.toml:1:1"), "{}", reports[0]);
    assert!(reports.iter().all(|report| *report == reports[0]));
    assert!(!folder.path("joined.jsonl").exists());
}

#[test]
fn a_file_that_is_absent_or_no_toml_is_refused() {
    let outcome = Folder::new().run_job("check", &[]);
    outcome.assert_code(2);
    expect![[r#"
        error: could not read the configuration: No such file or directory (os error 2)
          --> job.toml
          hint: Name a TOML file that this user can read with --config."#]]
    .assert_eq(&report(&outcome));
    check(
        "job = detections\n",
        &["--offline"],
        expect![[r#"
        error: not TOML: string values must be quoted, expected literal string
          --> job.toml:1:7
          |
        1 | job = detections
          |       ^^^^^^^^^^"#]],
    );
}

#[test]
fn a_folder_of_keys_that_cannot_be_one_is_refused() {
    let folder = Folder::with_config(&(CONFIG.to_owned() + "[state]\ndir = \"keys\"\n"));
    folder.write("keys", "no folder");
    folder.write("events.jsonl", "");
    folder.write(
        "reference.csv",
        "geographical_location_oid,geographical_location\n",
    );
    let outcome = folder.run_job("run", &["--until-end"]);
    outcome.assert_code(2);
    let said = outcome.stderr.join("\n");
    for text in [
        "error: state.dir = \"keys\" cannot be used",
        "process-0/detections",
        "hint: Name a folder on a local disk",
    ] {
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn a_sink_must_not_write_what_the_job_reads() {
    let config = CONFIG.replace("path = \"joined.jsonl\"", "path = \"./events.jsonl\"");
    check(
        &config,
        &["--offline"],
        expect![[r#"
        error: sink "events.jsonl" writes file "events.jsonl", which [events] reads
          --> job.toml:26:8
           |
        26 | path = "./events.jsonl"
           |        ^^^^^^^^^^^^^^^^
          hint: Give each its own."#]],
    );
    let folder = Folder::with_config(CONFIG);
    folder.write("events.jsonl", "{}\n");
    folder.write("reference.csv", "a\n");
    std::fs::hard_link(folder.path("reference.csv"), folder.path("hard")).unwrap();
    std::os::unix::fs::symlink("events.jsonl", folder.path("soft")).unwrap();
    let absolute = folder.path("events.jsonl").display().to_string();
    for path in ["./events.jsonl", "soft", "hard", "job.toml", &absolute] {
        for target in ["sinks.0.path", "telemetry.status_file"] {
            let set = format!("{target}={path}");
            let outcome = folder.run_job("run", &["--until-end", "--set", &set]);
            outcome.assert_code(2);
            assert!(report(&outcome).contains("Give each its own."));
            assert_eq!(folder.read("events.jsonl"), "{}\n");
            assert_eq!(folder.read("reference.csv"), "a\n");
            assert_eq!(folder.read("job.toml"), CONFIG);
        }
    }
}

#[test]
fn a_log_filter_that_is_none_is_refused() {
    let loud = ["--offline", "--set", "telemetry.log=deltajoin=loud"];
    expect_file!["golden/log-filter.txt"].assert_eq(&refusal(CONFIG, &loud));
}

#[test]
fn processes_that_the_job_does_not_have_are_refused() {
    let folder = Folder::with_config(CONFIG);
    let outcome = folder.run_job("worker", &["--process", "1"]);
    outcome.assert_code(2);
    expect![[r#"
        error: there is no process 1 in this job
          detail: [cluster] processes = 1: they are 0 to 0"#]]
    .assert_eq(&report(&outcome));
    let two = [
        "--set",
        "cluster.processes=2",
        "--set",
        "cluster.addresses=[\"127.0.0.1:1\", \"127.0.0.1:2\"]",
        "--set",
        "cluster.secret_file=absent",
    ];
    let outcome = folder.run_job("run", &two);
    outcome.assert_code(2);
    expect![[r#"
        error: the job has 2 processes
          hint: Use `deltajoin cluster`, or add --set cluster.processes=1."#]]
    .assert_eq(&report(&outcome));
    let outcome = folder.run_job("worker", &[&two[..], &["--process", "0"]].concat());
    outcome.assert_code(2);
    expect![[r#"
        error: could not read the secret file "absent": No such file or directory (os error 2)
          hint: Make one with `head -c 32 /dev/urandom | base64 > FILE`, the same on all hosts."#]]
    .assert_eq(&report(&outcome));
}

#[test]
fn a_good_file_is_good_and_overrides_are_shown_with_their_origin() {
    let folder = Folder::with_config(CONFIG);
    let arguments = [
        "check",
        "--config",
        "job.toml",
        "--offline",
        "--print",
        "--set",
        "limits.shards=8",
    ];
    let mut command = folder.command(&arguments);
    command
        .env("DELTAJOIN_JOB", "other")
        .env("DELTAJOIN_LIMITS__SHARDS", "16")
        .env("DELTAJOIN_SINKS__0__PATH", "out.jsonl");
    let outcome = Job::spawn_command(&mut command).wait(LIMIT);
    outcome.assert_code(0);
    assert_eq!(outcome.stderr, ["job.toml is good"]);
    let wanted = ["job = ", "path = ", "shards = ", "tick = ", "name = "];
    let shown = outcome.stdout.iter().map(|line| line.trim_end());
    let shown: Vec<&str> = shown
        .filter(|line| wanted.iter().any(|start| line.starts_with(start)))
        .collect();
    expect![[r#"
        job = "other"  # DELTAJOIN_JOB
        path = "events.jsonl"                        # job.toml:5:1
        path = "reference.csv"                       # job.toml:17:1
        name = "out.jsonl"   # default
        path = "out.jsonl"   # DELTAJOIN_SINKS__0__PATH
        path = "out.jsonl.dead.jsonl"  # default
        tick = "1ms"                   # default
        shards = 8                     # --set limits.shards"#]]
    .assert_eq(&shown.join("\n"));
}

#[test]
fn an_override_of_nothing_is_refused_with_its_origin() {
    let folder = Folder::with_config(CONFIG);
    let mut command = folder.command(&["run", "--config", "job.toml"]);
    command.env("DELTAJOIN_EVENTS__TOPC", "x");
    let outcome = Job::spawn_command(&mut command).wait(LIMIT);
    outcome.assert_code(2);
    expect![[r#"
        error: unknown setting "topc" in [events]
          --> DELTAJOIN_EVENTS__TOPC
          detail: Known settings are "type", "path", "format", "key", "time" and
            "columns"."#]]
    .assert_eq(&report(&outcome));
}

#[test]
fn what_check_prints_loads_again_and_has_no_secrets() {
    let config = r#"job = "detections"
[events]
brokers = "k1:9092"
topic = "events"
key = ["id"]
columns = { id = "string", place = "int64" }
kafka = { "sasl.username" = "app", "sasl.password" = "hunter2" }
[reference]
path = "reference.csv"
key = ["place"]
columns = { place = "int64", label = "string" }
[join]
on = { place = "place" }
[[sinks]]
brokers = "k1:9092"
topic = "joined"
kafka."ssl.key.password" = "hunter2"
[[sinks]]
type = "jsonl"
path = "joined.jsonl"
"#;
    let folder = Folder::with_config(config);
    let print = ["--offline", "--print"];
    let first = folder.run_job("check", &print);
    first.assert_code(0);
    let text = first.stdout.join("\n");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("\"sasl.password\" = "), "{text}");
    folder.write("job.toml", &text);
    let second = folder.run_job("check", &print);
    second.assert_code(0);
    // The same settings; where they come from differs.
    let settings = |outcome: &Outcome| -> Vec<String> {
        let lines = outcome.stdout.iter();
        let setting = |line: &String| line.split("  # ").next().unwrap_or(line).trim().to_owned();
        lines
            .map(setting)
            .filter(|line| !line.starts_with('#'))
            .collect()
    };
    assert_eq!(settings(&second), settings(&first));
}
