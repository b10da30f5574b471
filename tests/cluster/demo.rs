//! `deltajoin demo`, as anyone sees it who tries it: with its own broker, killed and changed as it
//! says that it may be.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use deltajoin_testkit::{Job, Signal, wait_until};

use crate::case::Folder;
use crate::support::{send, workers};

/// A start of the demo, or another one after a kill, on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(120);

/// Fewer events than by default: the tests' build is slow.
const RATE: [&str; 3] = ["demo", "--rate", "1000"];

/// Waits until what the demo has shown from this line on is as it must be.
fn shows(job: &Job, from: usize, what: &str, holds: impl Fn(&str) -> bool) {
    wait_until(what, LIMIT, || {
        job.stdout()[from..].iter().any(|line| holds(line))
    });
}

/// Whether a line tells of progress, with events and results.
fn flows(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let some = |number: &str| number.parse::<u64>().expect("a number") > 0;
    match words[..] {
        ["events/s", events, "results/s", results, ..] => some(events) && some(results),
        _ => false,
    }
}

/// Whether a line is a result.
fn is_row(line: &str) -> bool {
    let row = serde_json::from_str::<serde_json::Value>(line.trim());
    row.is_ok_and(|row| row["detection_oid"].is_u64() && row["geographical_location"].is_string())
}

#[test]
fn the_demo_joins_and_goes_on_after_a_kill_and_corrects_results_when_a_place_is_renamed() {
    let folder = Folder::new();
    let mut job = folder.start(&RATE);
    shows(&job, 0, "events and results", flows);
    shows(&job, 0, "a sample row", is_row);

    let before = job.stdout().len();
    let (_, pid) = workers(&job)[1];
    send("KILL", pid);
    let goes_on = "goes on from the newest checkpoint";
    shows(&job, before, "another start", |line| line.contains(goes_on));
    let before = job.stdout().len();
    shows(&job, before, "more events and results", flows);

    // The demo itself says how.
    let rename = job.wait_for_line("sed -i", LIMIT);
    let renamed = Command::new("sh").args(["-c", &rename]).status();
    assert!(renamed.expect("every system has a shell").success());
    let corrected = "past results were corrected";
    shows(&job, before, "corrections", |line| line.contains(corrected));

    job.signal(Signal::Interrupt);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    let reference = rename.split(' ').next_back().expect("a path");
    assert!(!Path::new(reference).exists(), "it leaves {reference}");
}

#[test]
fn a_terminal_shows_each_line_of_the_demo_once() {
    /// Runs a command in a terminal of its own, and ends as it does.
    const IN_A_TERMINAL: &str = "import os, pty, sys; \
                                 sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut command = Command::new("python3");
    command.args(["-c", IN_A_TERMINAL, env!("CARGO_BIN_EXE_deltajoin")]);
    command.args(RATE).args(["--seconds", "8"]);
    let output = command.output().expect("the tests need Python");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    let mut lines: Vec<&str> = shown.lines().filter(|line| flows(line)).collect();
    assert!(!lines.is_empty(), "{shown}");
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), all, "{shown}");
}

#[test]
fn the_demo_ends_by_itself_after_the_seconds_that_it_is_given() {
    let folder = Folder::new();
    let outcome = folder.start(&[&RATE[..], &["--seconds", "2"]].concat());
    outcome.wait(LIMIT).assert_code(0);
}
