//! Breaks each rule once: a check that finds nothing where something is wrong is worth nothing.
//!
//! It is apart from the rules so that they can be read as a list.

use std::collections::BTreeSet;

use crate::tidy::source::{code, paths};
use crate::tidy::{
    COLUMNS_MAX, LINES_MAX, arrows, configuration, imports, lines, links, manifest, mentions,
    names, opening, reminders, safety, shown, words_never_said,
};

fn known() -> BTreeSet<&'static str> {
    BTreeSet::from(["README.md", "docs/dataflow.md", "src/process/mod.rs"])
}

/// The faults that a rule finds in code.
fn faults(rule: fn(&str, &str) -> Vec<String>, path: &str, text: &str) -> usize {
    rule(path, &code(text)).len()
}

#[test]
fn a_file_that_does_not_say_what_it_is_is_a_fault() {
    assert_eq!(
        opening("a.rs", "use std::fs;\n"),
        ["a.rs:1: opens without `//!`"]
    );
    assert_eq!(opening("a.rs", &"//! A.\n".repeat(41)).len(), 1);
    assert!(opening("a.rs", "//! A.\n").is_empty());
}

#[test]
fn long_files_long_lines_and_strange_letters_are_faults() {
    assert!(lines("a.rs", &"x\n".repeat(LINES_MAX)).is_empty());
    assert_eq!(lines("a.rs", &"x\n".repeat(LINES_MAX + 1)).len(), 1);
    assert!(lines("a.rs", &"x".repeat(COLUMNS_MAX)).is_empty());
    assert_eq!(
        lines("a.rs", &"x".repeat(COLUMNS_MAX + 1)),
        ["a.rs:1: 101 columns"]
    );
    assert_eq!(
        lines("a.rs", "\n// caf\u{e9}\n"),
        ["a.rs:2: '\u{e9}' is not ASCII"]
    );
}

#[test]
fn unsafe_code_is_a_fault_where_it_is_not_expected() {
    let text = "//! A.\n#![allow(unsafe_code)]\nfn f() { unsafe { g() } }\n";
    assert_eq!(faults(safety, "src/process/mod.rs", text), 2);
    assert_eq!(faults(safety, "src/connectors/kafka/ffi.rs", text), 0);
    assert_eq!(
        faults(
            safety,
            "src/process/mod.rs",
            "// unsafe\nconst A: &str = \"unsafe\";"
        ),
        0
    );
}

#[test]
fn an_import_against_the_arrows_is_a_fault() {
    let cases = [
        (
            "src/connectors/kafka/sink.rs",
            "use crate::connectors::file::JsonLines;",
            1,
        ),
        (
            "src/connectors/kafka/sink.rs",
            "use crate::connectors::{file, kafka};",
            1,
        ),
        (
            "src/connectors/kafka/sink.rs",
            "use crate::connectors::kafka::Error;",
            0,
        ),
        (
            "src/connectors/kafka/sink.rs",
            "fn f() { crate::process::run() }",
            1,
        ),
        (
            "src/connectors/kafka/sink.rs",
            "use deltajoin_workers::{dataflow, ports::Sink};",
            1,
        ),
        (
            "src/connectors/kafka/sink.rs",
            "use deltajoin_workers::worker;",
            1,
        ),
        (
            "src/process/mod.rs",
            "use deltajoin_workers::{worker, dataflow::Plan};",
            0,
        ),
        ("src/process/mod.rs", "use crate::{cli, config};", 1),
        ("src/codec/text.rs", "use crate::config::Config;", 1),
        (
            "src/codec/text.rs",
            "use deltajoin_workers::queue::queue;",
            1,
        ),
        (
            "src/config/mod.rs",
            "use deltajoin_workers::schema::Schema;",
            0,
        ),
        (
            "src/config/mod.rs",
            "use deltajoin_workers::batch::Batch;",
            1,
        ),
        ("src/config/mod.rs", "use crate::error::ExitCode;", 1),
        ("src/main.rs", "fn main() { deltajoin::process::run() }", 1),
        ("src/surprise.rs", "", 1),
        (
            "src/codec/text.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::config::load;\n}",
            0,
        ),
    ];
    for (path, text, expected) in cases {
        assert_eq!(faults(arrows, path, text), expected, "{path}: {text}");
    }
}

#[test]
fn an_audit_that_shares_the_operators_or_their_state_is_a_fault() {
    let text = "use deltajoin_workers::{batch::Batch, key, operators::Join, state::KeySet};";
    assert_eq!(faults(arrows, "src/audit/table.rs", text), 3);
}

#[test]
fn a_core_that_touches_the_world_is_a_fault() {
    let cases = [
        ("use std::fs;", 1),
        ("use std::{fs::File, net};", 2),
        ("fn f() { std::time::SystemTime::now() }", 1),
        ("use std::time::{Duration, Instant};", 1),
        ("use tokio::task;", 1),
        ("use std::time::Duration;", 0),
        ("// std::fs", 0),
        ("#[cfg(test)]\nmod tests {\n    use std::fs;\n}", 0),
    ];
    for (text, expected) in cases {
        assert_eq!(
            faults(arrows, "workers/src/queue.rs", text),
            expected,
            "{text}"
        );
    }
}

#[test]
fn an_import_that_does_not_name_what_it_takes_is_a_fault() {
    assert_eq!(
        faults(imports, "src/codec/mod.rs", "use crate::codec::json::*;"),
        1
    );
    assert_eq!(
        faults(imports, "src/codec/json/mod.rs", "use super::text;"),
        1
    );
    let tests = "#[cfg(test)]\nmod tests {\n    use super::*;\n}";
    assert_eq!(faults(imports, "src/codec/mod.rs", tests), 0);
}

#[test]
fn a_public_name_against_the_glossary_is_a_fault() {
    let never = words_never_said("# Glossary\n\n`epoch`\n\n## Not in names\n\n`manager`, `util`\n");
    assert_eq!(never, ["manager", "util"]);
    let cases = [
        ("pub struct SinkManager;", 1),
        ("pub(crate) fn util() {}", 1),
        ("pub const fn sink_manager() {}", 1),
        ("pub fn utility() {}", 0),
        ("struct Manager;", 0),
        ("pub fn sink(manager: u8) {}", 0),
    ];
    for (text, expected) in cases {
        assert_eq!(names("a.rs", &code(text), &never).len(), expected, "{text}");
    }
}

#[test]
fn a_reminder_without_a_number_is_a_fault() {
    let word = concat!("TO", "DO");
    assert_eq!(reminders("a.md", &format!("{word}: later")).len(), 1);
    assert!(reminders("a.md", &format!("{word}(#12): later")).is_empty());
}

#[test]
fn a_file_that_is_named_and_not_there_is_a_fault() {
    let found = |text: &str| mentions("docs/dataflow.md", text, &known()).len();
    assert_eq!(found("see `src/process/mod.rs` and `src/process/`"), 0);
    assert_eq!(found("see `src/process/gone.rs`"), 1);
    assert_eq!(
        found("see `docs/gone.md`, or `/etc/deltajoin/secret`, `src/<name>.rs`"),
        1
    );
    assert_eq!(
        mentions(
            "a.rs",
            "//! See `docs/gone.md`.\nlet a = \"`docs/gone.md`\";",
            &known()
        )
        .len(),
        1
    );
}

#[test]
fn a_link_that_leads_nowhere_is_a_fault() {
    let found = |path: &str, text: &str| links(path, text, &known()).len();
    assert_eq!(
        found(
            "docs/a.md",
            "[a](dataflow.md#epochs), [b](../README.md), [c](#here)"
        ),
        0
    );
    assert_eq!(
        found("docs/a.md", "[a](https://kafka.apache.org/nowhere.md)"),
        0
    );
    assert_eq!(found("docs/a.md", "[a](gone.md) [b](../dataflow.md)"), 2);
    assert_eq!(found("README.md", "[a](docs)"), 0);
}

#[test]
fn a_manifest_without_lints_or_pins_is_a_fault() {
    let good = "[workspace]\ntimely = \"=0.32.0\"\ndifferential-dataflow = \"=0.26.0\"\n\
                [lints]\nworkspace = true\n";
    assert!(manifest("Cargo.toml", good).is_empty());
    assert_eq!(
        manifest("Cargo.toml", &good.replace("\"=0.32.0", "\"0.32.0")).len(),
        1
    );
    assert_eq!(manifest("workers/Cargo.toml", "[package]\n").len(), 1);
}

#[test]
fn a_configuration_that_is_refused_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "jbo = \"x\"\n").unwrap();
    assert!(configuration(&file)[0].contains("jbo"));
    assert_eq!(shown("README.md", "```toml\njbo = \"x\"\n```\n").len(), 1);
    assert!(shown("README.md", "```sh\nmake demo\n```\n").is_empty());
}

#[test]
fn literals_and_comments_are_no_code() {
    let text = "let a = \"b // c\"; // d\nlet r = r#\"e \"f\" g\"#; let h = '\"'; fn i<'j>() {}\n";
    let code = code(text);
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(
        words.join(" "),
        "let a = ; let r = ; let h = ; fn i<'j>() {}"
    );
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn trees_of_imports_are_spread_out() {
    let found = paths("\nuse a::{b, c::{d, e as f}, g};\nh::i::<u8>(j);\n");
    let expected = [
        (2, "a::b"),
        (2, "a::c::d"),
        (2, "a::c::e"),
        (2, "a::g"),
        (3, "h::i::"),
    ];
    for (line, path) in expected {
        assert!(
            found.contains(&(line, path.to_owned())),
            "{path} is not in {found:?}"
        );
    }
}
