//! The command line itself: help that can be read, and wrong usage.

use std::fs::{File, OpenOptions};
use std::process::{Output, Stdio};

use expect_test::expect_file;

use crate::case::{CONFIG, Folder};

const COMMANDS: [&str; 6] = ["run", "cluster", "worker", "check", "audit", "generate"];

/// As a text without spaces at the ends of lines.
fn trimmed(lines: &[String]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}

#[test]
fn help_names_all_commands_in_a_line_each() {
    let outcome = Folder::new().run(&["--help"]);
    outcome.assert_code(0);
    // The demo is there in some builds only.
    let mut lines = outcome.stdout.clone();
    lines.retain(|line| !line.contains(" demo "));
    expect_file!["golden/help.txt"].assert_eq(&trimmed(&lines));
}

#[test]
fn help_of_run_says_what_each_option_is() {
    let outcome = Folder::new().run(&["run", "--help"]);
    outcome.assert_code(0);
    expect_file!["golden/help-run.txt"].assert_eq(&trimmed(&outcome.stdout));
}

#[test]
fn help_of_every_command_fits_and_explains_every_option() {
    for command in COMMANDS {
        let outcome = Folder::new().run(&[command, "--help"]);
        outcome.assert_code(0);
        assert!(outcome.stderr.is_empty());
        let lines = &outcome.stdout;
        for (index, line) in lines.iter().enumerate() {
            assert!(line.trim_end().len() <= 100, "{command}: {line}");
            if line.trim_start().starts_with("--") {
                let next = lines.get(index + 1).map_or("", |next| next.trim());
                let explained = line.trim().contains("  ") || !next.is_empty();
                assert!(explained, "{command}: {line}");
            }
        }
    }
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let cases: [(&[&str], &str); 12] = [
        (&[], "Usage: deltajoin <COMMAND>"),
        (&["rnu"], "unrecognized subcommand 'rnu'"),
        (&["run"], "--config <FILE>"),
        (
            &["run", "--confg", "job.toml"],
            "unexpected argument '--confg'",
        ),
        (&["worker", "--config", "job.toml"], "--process <I>"),
        (
            &["worker", "--config", "job.toml", "--process", "first"],
            "invalid value 'first' for '--process <I>'",
        ),
        (
            &["run", "--config", "job.toml", "--engine", "fast"],
            "[possible values: production, textbook]",
        ),
        (&["generate"], "Give --brokers and --topic, or --file."),
        (
            &["generate", "--brokers", "127.0.0.1:1", "--file", "x"],
            "cannot be used with",
        ),
        (
            &["generate", "--file", "x", "--topic", "y"],
            "cannot be used with",
        ),
        (&["generate", "--topic", "y"], "--brokers <HOST:PORT>"),
        (
            &["generate", "--file", "x", "--count", "-1"],
            "not a whole number from 0 to",
        ),
    ];
    for (arguments, message) in cases {
        let outcome = Folder::new().run(arguments);
        outcome.assert_code(2);
        let said = outcome.stderr.join("\n");
        assert!(said.contains(message), "{arguments:?}: {said}");
        assert!(outcome.stdout.is_empty());
    }
}

#[test]
fn the_version_is_told() {
    let outcome = Folder::new().run(&["--version"]);
    outcome.assert_code(0);
    let version = concat!("deltajoin ", env!("CARGO_PKG_VERSION"));
    assert_eq!(outcome.stdout, [version]);
}

/// Runs the binary with its output and its errors going there.
fn run_to(arguments: &[&str], stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Output {
    let folder = Folder::with_config(CONFIG);
    let mut command = folder.command(arguments);
    command.stdout(stdout).stderr(stderr);
    command.output().expect("the binary can be run")
}

fn full() -> File {
    let device = OpenOptions::new().write(true).open("/dev/full");
    device.expect("every Linux has it")
}

const PRINTS: [&[&str]; 2] = [
    &["check", "--config", "job.toml", "--offline", "--print"],
    &["--help"],
];

#[test]
fn output_that_is_full_is_an_error() {
    for arguments in PRINTS {
        let outcome = run_to(arguments, full(), Stdio::piped());
        let said = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(1), "{said}");
        let primary = "error: could not write to standard output: No space left on device";
        assert!(said.starts_with(primary), "{said}");
    }
}

#[test]
fn output_that_nobody_reads_ends_a_command_in_silence() {
    for arguments in PRINTS {
        let (reader, writer) = std::io::pipe().expect("there is room for a pipe");
        drop(reader);
        let outcome = run_to(arguments, writer, Stdio::piped());
        let said = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!((outcome.status.code(), &*said), (Some(0), ""));
    }
}

#[test]
fn errors_that_cannot_be_said_change_no_exit_code() {
    let (reader, writer) = std::io::pipe().expect("there is room for a pipe");
    drop(reader);
    for stderr in [Stdio::from(full()), Stdio::from(writer)] {
        let outcome = run_to(&["check", "--config", "absent"], Stdio::piped(), stderr);
        assert_eq!(outcome.status.code(), Some(2));
    }
    for arguments in PRINTS {
        let outcome = run_to(arguments, Stdio::piped(), full());
        assert_eq!(outcome.status.code(), Some(0));
    }
}
