//! `deltajoin generate`: seeded, and particular about its options.

use expect_test::expect;

use crate::case::Folder;
use crate::configuration::report;

fn generated(seed: &str) -> (String, String) {
    let folder = Folder::new();
    let outcome = folder.run(&[
        "generate",
        "--file",
        "events.jsonl",
        "--reference",
        "reference.csv",
        "--count",
        "5000",
        "--bad",
        "0",
        "--seed",
        seed,
    ]);
    outcome.assert_code(0);
    let said = outcome.stderr.join("\n");
    assert!(said.starts_with("wrote 5000 records, "), "{said}");
    (folder.read("events.jsonl"), folder.read("reference.csv"))
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
    let first = generated("7");
    assert_eq!(first.0.lines().count(), 5_000);
    assert!(first == generated("7"));
    assert!(first.0 != generated("8").0);
}

#[test]
fn options_out_of_range_are_refused_and_nothing_is_written() {
    let mut reports = Vec::new();
    for (name, value) in [
        ("--hot", "-1"),
        ("--retries", "1.5"),
        ("--retries", "0.95"),
        ("--bad", "-0.1"),
        ("--hot", "NaN"),
        ("--partitions", "0"),
        ("--reference-rows", "1"),
        ("--retry-distance", "0"),
    ] {
        let folder = Folder::new();
        let outcome = folder.run(&["generate", "--file", "events.jsonl", name, value]);
        outcome.assert_code(2);
        reports.push(report(&outcome));
        assert!(!folder.path("events.jsonl").exists());
    }
    expect![[r#"
        error: option "--hot" is -1, not from 0 to 1
        error: option "--retries" is 1.5, not from 0 to 1
        error: option "--retries" is 0.95, not at most 0.9
        error: option "--bad" is -0.1, not from 0 to 1
        error: option "--hot" is NaN, not from 0 to 1
        error: option "--partitions" is 0, not at least 1
        error: option "--reference-rows" is 1, not at least 2
        error: option "--retry-distance" is 0, not at least 1"#]]
    .assert_eq(&reports.join("\n"));
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let outcome = Folder::new().run(&["generate", "--file", "no/events.jsonl", "--count", "1"]);
    outcome.assert_code(2);
    expect![[r#"
        error: could not open file "no/events.jsonl" for writing
          detail: No such file or directory (os error 2)"#]]
    .assert_eq(&report(&outcome));
}

#[test]
fn events_and_reference_are_not_one_file() {
    let folder = Folder::new();
    for reference in ["events.jsonl", "./events.jsonl"] {
        let events = ["generate", "--file", "events.jsonl"];
        let outcome = folder.run(&[&events[..], &["--reference", reference]].concat());
        outcome.assert_code(2);
        expect![[r#"
            error: events and reference would be one file, "events.jsonl"
              hint: Give --reference another name."#]]
        .assert_eq(&report(&outcome));
        assert!(!folder.path("events.jsonl").exists());
    }
}

#[test]
#[cfg(feature = "kafka")]
fn brokers_that_nobody_reaches_are_told_soon() {
    let to = |brokers| {
        let arguments = ["generate", "--brokers", brokers, "--topic", "events"];
        Folder::new().run(&arguments)
    };
    let outcome = to("nonsense");
    outcome.assert_code(2);
    expect![[r#"
        error: --brokers names no broker: "nonsense"
          hint: Write host:port, with commas between several, as "10.0.0.1:9092"."#]]
    .assert_eq(&report(&outcome));
    // Nothing listens on port 1.
    let outcome = to("127.0.0.1:1");
    outcome.assert_code(1);
    let said = report(&outcome);
    let primary = "error: no broker at \"127.0.0.1:1\" has answered within 10 s";
    assert!(said.starts_with(primary), "{said}");
}
