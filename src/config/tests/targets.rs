//! Files that one job would write and read, or write twice, by different paths.
//!
//! They are apart because here files are there, with links to them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use crate::config::tests::VALID;
use crate::config::{Sources, load};

/// A folder with the files of a job, and links to them.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("there is a directory for temporary files");
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("inner")).unwrap();
    for (name, link) in [
        ("events.jsonl", "hard-events.jsonl"),
        ("reference.csv", "hard-reference.csv"),
        ("secret", "hard-secret"),
    ] {
        fs::write(at(name), "kept").unwrap();
        fs::hard_link(at(name), at(link)).unwrap();
    }
    fs::hard_link(at("events.jsonl"), at("found.dead.jsonl")).unwrap();
    symlink("events.jsonl", at("soft-events.jsonl")).unwrap();
    symlink("out.jsonl", at("soft-out.jsonl")).unwrap();
    symlink("secret", at("status-1.json.new")).unwrap();
    symlink(".", at("alias")).unwrap();
    folder
}

/// What is reported if the sink writes `out`, without the folder and the place.
fn refused(out: &str, more: &str) -> String {
    let folder = folder();
    let root = folder.path().display().to_string();
    let text = VALID
        .replace(
            "brokers = \"k1:9092\"\ntopic = \"events\"",
            "type = \"file\"\npath = \"ROOT/events.jsonl\"",
        )
        .replace("reference.csv", "ROOT/reference.csv")
        .replace("out/joined.jsonl", &format!("ROOT/{out}"))
        + more;
    let file = folder.path().join("job.toml");
    fs::write(&file, text.replace("ROOT", &root)).unwrap();
    let environment: [(OsString, OsString); 0] = [];
    let set = Vec::new();
    let report = match load(Sources {
        file,
        environment,
        set,
    }) {
        Ok(_) => return "good".to_owned(),
        Err(error) => error.to_string().replace(&format!("{root}/"), ""),
    };
    // Without the line that is shown, and as if no line were broken.
    let lines = report.lines().filter(|line| !line.contains('|'));
    let words = lines.flat_map(str::split_whitespace);
    let words: Vec<&str> = words.filter(|word| *word != "-->").collect();
    let place = words.iter().position(|word| word.starts_with("job.toml:"));
    let place = place.expect("a fault has its place in the file");
    [&words[..place], &words[place + 1..]].concat().join(" ")
}

#[test]
fn an_input_is_not_written_by_another_path() {
    for (out, error) in [
        (
            "inner/../events.jsonl",
            "sink \"events.jsonl\" writes file \"inner/../events.jsonl\", which [events] reads",
        ),
        (
            "soft-events.jsonl",
            "sink \"soft-events.jsonl\" writes file \"soft-events.jsonl\", which [events] reads",
        ),
        (
            "hard-events.jsonl",
            "sink \"hard-events.jsonl\" writes file \"hard-events.jsonl\", which [events] reads",
        ),
        (
            "hard-reference.csv",
            "sink \"hard-reference.csv\" writes file \"hard-reference.csv\", \
             which [reference] reads",
        ),
        (
            "alias/job.toml",
            "sink \"job.toml\" writes file \"alias/job.toml\", which holds the configuration",
        ),
    ] {
        let report = refused(out, "");
        let start = format!("error: {error} detail: It is the file ");
        assert!(report.starts_with(&start), "{report}");
    }
    assert_eq!(refused("inner/events.jsonl", ""), "good");
}

#[test]
fn a_secret_is_not_written() {
    let report = refused("hard-secret", "[cluster]\nsecret_file = \"ROOT/secret\"\n");
    assert_eq!(
        report,
        "error: sink \"hard-secret\" writes file \"hard-secret\", which is \"secret_file\" in \
         [cluster] detail: It is the file \"secret\" too. hint: Give each its own."
    );
}

#[test]
fn files_that_are_not_there_yet_are_compared_too() {
    let dead = "[dead_letters]\ntype = \"jsonl\"\npath = \"ROOT/alias/soft-out.jsonl\"\n";
    let report = refused("out.jsonl", dead);
    assert_eq!(
        report,
        "error: [dead_letters] and sink \"out.jsonl\" both write file \"alias/soft-out.jsonl\" \
         detail: It is the file \"out.jsonl\" too. hint: Give each its own."
    );
}

#[test]
fn every_status_file_is_one_of_its_own() {
    let status = "[telemetry]\nstatus_file = \"ROOT/alias/reference.csv\"\n";
    assert_eq!(
        refused("out.jsonl", status),
        "error: \"status_file\" in [telemetry] writes file \"alias/reference.csv\", which \
         [reference] reads detail: It is the file \"reference.csv\" too. hint: Give each its own."
    );
    let cluster = "[telemetry]\nstatus_file = \"ROOT/status.json\"\n[cluster]\nprocesses = 2\n\
                   addresses = [\"a:1\", \"b:1\"]\nsecret_file = \"ROOT/secret\"\n";
    assert_eq!(
        refused("out.jsonl", cluster),
        "error: \"status_file\" in [telemetry] writes file \"status-1.json.new\", which is \
         \"secret_file\" in [cluster] detail: It is the file \"secret\" too. \
         hint: Give each its own."
    );
}

#[test]
fn a_derived_path_is_told_at_what_it_meets() {
    assert_eq!(
        refused("found", "[dead_letters]\ntype = \"jsonl\"\n"),
        "error: [dead_letters] writes file \"found.dead.jsonl\", which [events] reads \
         detail: It is the file \"events.jsonl\" too. hint: Give each its own."
    );
}
