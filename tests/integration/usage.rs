//! The command line itself: help that can be read, and wrong usage.

use expect_test::expect_file;

use crate::case::Folder;

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
    let cases: [(&[&str], &str); 9] = [
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
