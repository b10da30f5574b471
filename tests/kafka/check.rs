//! `deltajoin check` of jobs that have run: it says what would keep the next start from going on,
//! and leaves everything as it is.

use std::fs;
use std::path::{Path, PathBuf};

use deltajoin::connectors::kafka::trim_bindings;
use deltajoin_testkit::{Broker, Login};
use deltajoin_workers::ports::Stop;

use crate::setup::{LIMIT, Setup, quoted};
use crate::support::topic;
use crate::topics::{Publisher, event};

/// Every file of a folder, with its bytes.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(content(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

/// Checks, and gives what is said; nothing is another afterwards.
fn check(setup: &Setup, arguments: &[&str], code: i32) -> String {
    let without = |folder: &Path| {
        let mut all = content(folder);
        all.retain(|(path, _)| !path.ends_with("job.toml"));
        all
    };
    let before = without(setup.folder());
    let outcome = setup.command("check", arguments).wait(LIMIT);
    outcome.assert_code(code);
    assert_eq!(without(setup.folder()), before);
    outcome.stderr.join("\n")
}

#[track_caller]
fn assert_says(said: &str, texts: &[&str]) {
    for text in texts {
        assert!(said.contains(text), "{text:?} is missing in:\n{said}");
    }
}

/// A job with a file as its sink, and its events.
fn prepared(name: &str) -> Setup {
    let broker = Broker::shared();
    broker.create_topic(name, 1, &[]);
    let publisher = Publisher::new(broker, name);
    (0..5).for_each(|oid| publisher.send(0, None, Some(&event(oid, 1))));
    publisher.flush();
    Setup::new(broker, name).rows_to("rows.jsonl")
}

#[test]
fn it_looks_at_what_a_start_would_go_on_from_and_leaves_it() {
    let setup = prepared("checked-kept");
    let said = check(&setup, &[], 0);
    assert_says(
        &said,
        &[
            "checkpoints: file://",
            "can be used, none yet",
            "state.dir: ",
            "the job makes topic \"checked-kept.bindings\"",
            "sink \"rows.jsonl\": file rows.jsonl\n",
        ],
    );
    assert!(!setup.folder().join("state").exists());
    setup.run_until_end(&[]);
    let said = check(&setup, &[], 0);
    assert_says(
        &said,
        &[
            "the newest is of epoch 1",
            "topic \"checked-kept.bindings\", up to epoch 1",
            "file rows.jsonl, written up to epoch 1",
        ],
    );

    for (setting, texts) in [
        (
            "limits.shards=32",
            [
                "another limits.shards",
                "it is \"64\", and now it is \"32\"",
            ],
        ),
        (
            "checkpoint.location=file://reference.csv/x",
            ["cannot keep checkpoints", "Not a dir"],
        ),
        (
            "checkpoint.location=nowhere",
            ["cannot keep checkpoints", "begins neither"],
        ),
        (
            "state.dir=reference.csv/x",
            [
                "state.dir = \"reference.csv/x\" cannot be used",
                "Not a dir",
            ],
        ),
    ] {
        let said = check(&setup, &["--set", setting], 2);
        assert_says(&said, &texts);
    }
}

#[test]
fn what_would_keep_a_start_from_going_on_is_told() {
    let setup = prepared("checked-faults");
    setup.run_until_end(&[]);
    let rows = setup.folder().join("rows.jsonl");
    let beside = setup.folder().join("rows.jsonl.progress");
    let (whole, progress) = (fs::read(&rows).unwrap(), fs::read(&beside).unwrap());
    fs::write(&rows, &whole[1..]).unwrap();
    assert_says(&check(&setup, &[], 2), &["rows.jsonl", "were written"]);
    fs::remove_file(&rows).unwrap();
    assert_says(&check(&setup, &[], 2), &["rows.jsonl", "were written"]);
    fs::write(&rows, &whole).unwrap();
    fs::remove_file(&beside).unwrap();
    assert_says(&check(&setup, &[], 2), &["rows.jsonl", "is not empty"]);
    fs::write(&beside, &progress[1..]).unwrap();
    assert_says(&check(&setup, &[], 2), &["rows.jsonl.progress"]);
    fs::write(&beside, &progress).unwrap();
    check(&setup, &[], 0);

    let state = setup.folder().join("state").join("checked-faults");
    let manifest = fs::read_dir(&state)
        .unwrap()
        .map(|file| file.unwrap().path());
    let manifest = manifest
        .into_iter()
        .find(|path| path.to_str().unwrap().contains("manifest"));
    let manifest = manifest.unwrap();
    let good = fs::read(&manifest).unwrap();
    fs::write(&manifest, &good[..good.len() / 2]).unwrap();
    assert_says(&check(&setup, &[], 2), &["manifest-", "is damaged"]);
    fs::write(&manifest, &good).unwrap();

    // What is bound must still be there, or be in a checkpoint.
    let stop = Stop::default();
    let trim = |name: &str, before: u64| {
        let topic = topic(Broker::shared(), name, Login::Admin);
        trim_bindings(&topic, before, u64::MAX, &stop).unwrap();
    };
    trim("checked-faults", 4);
    check(&setup, &[], 0);
    let kept = ["--set", "checkpoint.location=file://elsewhere"];
    assert_says(
        &check(&setup, &kept, 2),
        &["checked-faults[0]@0 is no longer in the topic"],
    );
    trim("checked-faults.bindings", 1);
    assert_says(
        &check(&setup, &kept, 2),
        &["checked-faults.bindings[0]@1", "are gone"],
    );
}

#[test]
fn a_log_that_would_forget_is_refused() {
    let setup = prepared("checked-log").set("[sinks]", "name", quoted("rows"));
    let settings = [("retention.ms", "60000")];
    Broker::shared().create_topic("checked-log.bindings", 1, &settings);
    let said = check(&setup, &[], 2);
    assert_says(&said, &["cannot hold a binding log", "retention.ms"]);
}
