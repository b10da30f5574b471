//! Golden tests of the configuration: one for each message, and what a good file becomes.
//!
//! They are apart from the code because each shows a whole report.
//!
//! # Invariants
//! * Each test edits one file that is right, so that a report holds only what the edit brought.

mod columns;
mod effect;
mod hidden;
mod names;
mod overrides;
mod sections;
mod sources;
mod targets;
mod values;

use std::ffi::OsString;

use expect_test::Expect;

use crate::config::{Error, Loaded, Sources, load};

/// A file that is right.
const VALID: &str = r#"job = "detections"

[events]
brokers = "k1:9092"
topic = "events"
key = ["id"]
time = { column = "at", unit = "ms" }
columns = { id = "int64", place = "int64", item = "string?", at = "int64" }

[reference]
path = "reference.csv"
key = ["place"]
columns = { place = "int64", label = "string" }

[join]
on = { place = "place" }

[[sinks]]
brokers = "k1:9092"
topic = "joined"

[[sinks]]
type = "jsonl"
path = "out/joined.jsonl"
"#;

/// The valid file with texts replaced by others; a text `""` stands for the end of the file.
fn edited(edits: &[(&str, &str)]) -> String {
    let mut text = VALID.to_owned();
    for (from, to) in edits {
        if from.is_empty() {
            text.push_str(to);
        } else {
            assert!(text.contains(from), "{from} is in the valid file");
            text = text.replacen(from, to, 1);
        }
    }
    text
}

/// Loads a text as a file, with overrides.
fn load_with(text: &str, environment: &[(&str, &str)], set: &[&str]) -> Result<Loaded, Error> {
    let directory = tempfile::tempdir().expect("there is a directory for temporary files");
    let file = directory.path().join("job.toml");
    std::fs::write(&file, text).expect("a new file can be written");
    let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    load(Sources {
        file,
        environment: environment.iter().map(pair),
        set: set.iter().map(|text| (*text).to_owned()).collect(),
    })
}

/// Removes the directory from the file's name, which differs from run to run.
fn without_directory(text: &str) -> String {
    let mut words = Vec::new();
    for word in text.split(' ') {
        let start = word.find("/job.toml").map_or(0, |at| at + 1);
        words.push(if word.starts_with('/') {
            &word[start..]
        } else {
            word
        });
    }
    words.join(" ")
}

/// Compares the report on a text, or what is resolved from it.
fn check_with(text: &str, environment: &[(&str, &str)], set: &[&str], expect: &Expect) {
    let actual = match load_with(text, environment, set) {
        Ok(loaded) => loaded.resolved(),
        Err(error) => format!("{error}\n"),
    };
    expect.assert_eq(&without_directory(&actual));
}

/// Compares the report on an edited file.
fn check(edits: &[(&str, &str)], expect: Expect) {
    check_with(&edited(edits), &[], &[], &expect);
}
