//! The case's job over files, and the binary run on it: what both test binaries without Kafka
//! stand on.
//!
//! Apart from the test kit, which knows nothing of the product: here the two meet.
//!
//! # Invariants
//! * Each test has a folder of its own, where the binary runs: paths in messages are short and
//!   always the same.
//! * What a job must write is recomputed by `Expected`, which shares no code with the job.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use deltajoin::generate::{Differences, Expected, Options};
use deltajoin_testkit::{Job, Outcome};
use tempfile::TempDir;

/// For whatever should take moments, on a machine that is busy with other things.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The job of the case, from files to a file; tables of its own may follow.
pub(crate) const CONFIG: &str = r#"job = "detections"

[events]
type = "file"
path = "events.jsonl"
key = ["detection_oid"]
time = { column = "timestamp_detected", unit = "ms" }

[events.columns]
geographical_location_oid = "int64"
video_camera_oid = "int64"
detection_oid = "int64"
item_name = "string"
timestamp_detected = "int64"

[reference]
path = "reference.csv"
key = ["geographical_location_oid"]
columns = { geographical_location_oid = "int64", geographical_location = "string" }

[join]
on = { geographical_location_oid = "geographical_location_oid" }

[[sinks]]
type = "jsonl"
path = "joined.jsonl"
"#;

/// A folder in which the binary runs.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("there is room for files"))
    }

    /// With `job.toml`.
    pub(crate) fn with_config(config: &str) -> Self {
        let folder = Self::new();
        folder.write("job.toml", config);
        folder
    }

    /// With `job.toml` and the files that it reads.
    pub(crate) fn with_case(config: &str, options: &Options) -> Self {
        let folder = Self::with_config(config);
        folder.generate(options);
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).expect("the folder can be written to");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("the file is there, and text")
    }

    /// How many lines the file has; none if it is not there.
    pub(crate) fn line_count(&self, name: &str) -> usize {
        let text = fs::read(self.path(name)).unwrap_or_default();
        text.iter().filter(|byte| **byte == b'\n').count()
    }

    /// The binary, to be run here.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deltajoin"));
        command.args(arguments).current_dir(self.0.path());
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Job {
        Job::spawn_command(&mut self.command(arguments))
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.start(arguments).wait(LIMIT)
    }

    /// Runs a command on `job.toml` to its end.
    pub(crate) fn run_job(&self, command: &str, arguments: &[&str]) -> Outcome {
        let mut all = vec![command, "--config", "job.toml"];
        all.extend(arguments);
        self.run(&all)
    }

    /// Forgets the job of `job.toml`; its results stay.
    pub(crate) fn reset(&self) {
        let outcome = self.run(&["state", "reset", "--config", "job.toml", "--yes"]);
        outcome.assert_code(0);
    }

    /// Has the job begin anew, with no results.
    pub(crate) fn forget(&self) {
        self.reset();
        for name in ["joined.jsonl", "joined.jsonl.dead.jsonl"] {
            fs::remove_file(self.path(name)).expect("the job has made it");
        }
    }

    /// Writes `events.jsonl` and `reference.csv` as `deltajoin generate` makes them.
    pub(crate) fn generate(&self, options: &Options) {
        let mut arguments: Vec<String> = ["generate", "--file", "events.jsonl"]
            .map(str::to_owned)
            .to_vec();
        let numbers = [
            ("--reference", "reference.csv".to_owned()),
            ("--seed", options.seed.to_string()),
            ("--count", options.count.to_string()),
            ("--retries", options.retry_share.to_string()),
            ("--retry-distance", options.retry_distance.to_string()),
            ("--hot", options.hot_share.to_string()),
            ("--orphans", options.orphan_share.to_string()),
            ("--bad", options.bad_share.to_string()),
            ("--reference-rows", options.reference_rows.to_string()),
        ];
        for (name, number) in numbers {
            arguments.extend([name.to_owned(), number]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.run(&arguments).assert_code(0);
    }

    /// Compares the rows of a file with those that are expected.
    pub(crate) fn audit(&self, name: &str, expected: &Expected) -> Differences {
        let text = fs::read(self.path(name)).expect("the job has written the file");
        let mut audit = expected.audit();
        let lines = text.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.is_empty())
            .for_each(|line| audit.row(line));
        audit.finish()
    }

    /// Fails the test unless the rows of a file are those that are expected.
    pub(crate) fn assert_expected(&self, name: &str, expected: &Expected) {
        let differences = self.audit(name, expected);
        assert!(differences.is_clean(), "{differences:#?}");
        assert_eq!(differences.rows, expected.rows());
    }
}

/// A stream in which everything occurs that can.
pub(crate) fn options(count: u64) -> Options {
    Options {
        count,
        retry_distance: 5_000,
        orphan_share: 0.02,
        bad_share: 0.01,
        reference_rows: 1_000,
        ..Options::default()
    }
}

/// A number of the summary on standard output.
pub(crate) fn counted(outcome: &Outcome, name: &str) -> u64 {
    let line = outcome
        .stdout
        .iter()
        .find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {name:?} in {:?}", outcome.stdout))
}

/// A named pipe that the test holds open, so that a job which reads it does not come to its end.
pub(crate) struct Fifo(fs::File);

impl Fifo {
    pub(crate) fn make(path: &Path) -> Self {
        let made = Command::new("mkfifo").arg(path).status();
        assert!(made.expect("every system has mkfifo").success());
        // For reading too: then neither this opening nor the job's waits for another.
        let file = fs::OpenOptions::new().read(true).write(true).open(path);
        Self(file.expect("the pipe was just made"))
    }

    /// Writes to it; waits while it is full.
    pub(crate) fn give(&mut self, text: &[u8]) {
        self.0.write_all(text).expect("the test itself reads too");
    }
}
