//! What is told of settings that were written and do nothing, and what the textbook engine refuses.
//!
//! They are apart from `sections`: none of these is a fault by itself.

use expect_test::{Expect, expect};

use crate::config::fault::wrap;
use crate::config::tests::{VALID, edited, load_with, without_directory};

/// Compares the lines on an edited file, with overrides.
fn idle(edits: &[(&str, &str)], set: &[&str], expect: &Expect) {
    let loaded = load_with(&edited(edits), &[], set).expect("it is no fault");
    let lines = loaded.idle().into_iter();
    let lines: Vec<_> = lines
        .map(|line| wrap(&without_directory(&line), "  ", 70))
        .collect();
    expect.assert_eq(&lines.concat());
}

#[test]
fn defaults_are_not_told() {
    let loaded = load_with(VALID, &[], &["sinks.0.delivery=at-least-once"]).unwrap();
    assert_eq!(loaded.idle(), [""; 0]);
}

#[test]
fn a_setting_that_does_nothing_is_told_with_its_place() {
    idle(
        &[
            ("time = { column = \"at\", unit = \"ms\" }\n", ""),
            (
                "[join]",
                "[join]\non_reference_change = \"future-only\"\nrevise_window = \"5m\"",
            ),
            (
                "topic = \"joined\"",
                "topic = \"joined\"\ndelivery = \"at-least-once\"\ncommit_interval = \"50ms\"",
            ),
            (
                "",
                "[dead_letters]\ncommit_interval = \"1s\"\n\
                 [distinct]\nfuture = \"1m\"\n\
                 [cluster]\npeer_timeout = \"9s\"\n",
            ),
        ],
        &["cluster.addresses=[\"h:1\"]"],
        &expect![[r#"
            job.toml:31:1: "future" in [distinct] has no effect: without "time" in
              [events] no event has a time
            job.toml:16:1: "revise_window" in [join] has no effect: with
              on_reference_change = "future-only" and keep = "first" no result
              changes
            job.toml:23:1: "commit_interval" in [[sinks]] has no effect: rows that
              are written at-least-once are not committed
            job.toml:29:1: "commit_interval" in [dead_letters] has no effect: rows
              that are written at-least-once are not committed
            --set cluster.addresses: "addresses" in [cluster] has no effect: a
              single process has no peers
            job.toml:33:1: "peer_timeout" in [cluster] has no effect: a single
              process has no peers
        "#]],
    );
}

#[test]
fn what_only_topics_need_does_nothing_for_files() {
    idle(
        &[
            (
                "brokers = \"k1:9092\"\ntopic = \"events\"",
                "type = \"file\"\npath = \"events.jsonl\"",
            ),
            ("[[sinks]]\nbrokers = \"k1:9092\"\ntopic = \"joined\"\n", ""),
            (
                "",
                "[checkpoint]\nbindings_retention = \"1d\"\ncommit_group_offsets = false\n\
                 [limits]\ntopic_replication = 3\n",
            ),
        ],
        &[],
        &expect![[r#"
            job.toml:23:1: "bindings_retention" in [checkpoint] has no effect:
              events are in a file, and their bindings are never trimmed
            job.toml:24:1: "commit_group_offsets" in [checkpoint] has no effect:
              events are in a file
            job.toml:26:1: "topic_replication" in [limits] has no effect: events
              are in a file, and so are all results: the job makes no topic
        "#]],
    );
}

#[test]
fn the_least_commit_interval_at_a_cluster_acts_and_dead_letters_have_that_of_their_sink() {
    let sink = (
        "topic = \"joined\"",
        "topic = \"joined\"\ncommit_interval = \"1s\"",
    );
    idle(&[sink], &[], &expect![[""]]);
    let more = "[[sinks]]\nbrokers = \"k0:1,k1:9092\"\ntopic = \"more\"\n";
    idle(
        &[sink, ("", more)],
        &[],
        &expect![[r#"
            job.toml:21:1: "commit_interval" in [[sinks]] has no effect: sink
              "more" has a shorter one, and all exactly-once sinks at one cluster
              are committed together
        "#]],
    );
}

#[test]
fn a_setting_that_asks_for_what_does_act_is_not_told() {
    for set in [
        "distinct.detect_conflicts=true",
        "distinct.keep=latest",
        "join.on_reference_change=revise",
    ] {
        let edits = [(
            "[join]",
            "[join]\non_reference_change = \"future-only\"\nrevise_window = \"5m\"",
        )];
        let loaded = load_with(&edited(&edits), &[], &[set]).unwrap();
        assert_eq!(loaded.idle(), [""; 0], "{set}");
    }
}

#[test]
fn the_textbook_engine_refuses_by_name_what_it_does_not_do_also_with_the_default_value() {
    let settings = "[distinct]\nhorizon = \"24h\"\n[state]\nmemory_limit = \"4GB\"\n";
    let loaded = load_with(&edited(&[("", settings)]), &[], &[]).unwrap();
    let error = format!("{}\n", loaded.check_textbook().unwrap_err());
    expect![[r#"
        error: the textbook engine has no "horizon"
          --> job.toml:26:1
           |
        26 | horizon = "24h"
           | ^^^^^^^
          detail: It forgets nothing, keeps all in memory, and compares nothing it
            drops.
          hint: Remove the setting, or use the production engine.

        error: the textbook engine has no "memory_limit"
          --> job.toml:28:1
           |
        28 | memory_limit = "4GB"
           | ^^^^^^^^^^^^
          detail: It forgets nothing, keeps all in memory, and compares nothing it
            drops.
          hint: Remove the setting, or use the production engine.

        2 faults in job.toml
    "#]]
    .assert_eq(&without_directory(&error));
    for set in [
        "distinct.retry_time=same",
        "distinct.future=10m",
        "distinct.detect_conflicts=true",
        "join.revise_window=10m",
        "join.strategy=partitioned",
        "join.version_column=since",
        "state.dir=./state/local",
    ] {
        let loaded = load_with(VALID, &[], &[set]).unwrap();
        let error = loaded.check_textbook().unwrap_err().to_string();
        let (path, _) = set.split_once('=').unwrap();
        let (_, name) = path.split_once('.').unwrap();
        let named = error.contains(&format!("has no \"{name}\""));
        assert!(
            named && error.contains(&format!("--> --set {path}")),
            "{error}"
        );
    }
}

#[test]
fn the_textbook_engine_takes_what_asks_for_nothing_that_it_has_not() {
    let nothing = [
        "join.strategy=broadcast",
        "join.version_column=",
        "distinct.detect_conflicts=false",
        "distinct.retry_time=may-differ",
        "distinct.keep=latest",
        "join.on_reference_change=future-only",
    ];
    let loaded = load_with(VALID, &[], &nothing).unwrap();
    assert!(loaded.check_textbook().is_ok());
}
