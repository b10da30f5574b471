//! A job of the case under test: its configuration, its topics, its folder, its start.
//!
//! Apart from `support`, which deals with the case's events: here is what a user would write.
//!
//! # Invariants
//! * Each job has topics of its own, named after it, but for events that tests share.
//! * Nothing is set that a test does not need, so defaults are tested too.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use deltajoin_testkit::{Broker, Job, Login, Outcome, free_ports};
use tempfile::TempDir;

/// Longer than any job takes, also on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// The line that a process writes when it has connected to everything.
pub(crate) const STARTED: &str = "the cluster is complete";

/// A job, before it is started.
pub(crate) struct Setup {
    folder: TempDir,
    name: String,
    processes: usize,
    tables: BTreeMap<&'static str, BTreeMap<&'static str, String>>,
    /// More sinks, as TOML.
    sinks: Vec<String>,
}

/// A TOML string.
pub(crate) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

impl Setup {
    /// The case's job with an empty reference table: it reads `name`, and writes to `name-joined`
    /// and `name-dead`, which are made.
    pub(crate) fn new(broker: &Broker, name: &str) -> Self {
        let setup = Self::without_topics(broker, name);
        broker.create_topic(&setup.joined(), 4, &[]);
        broker.create_topic(&setup.dead(), 1, &[]);
        setup
    }

    /// The same for topics that are there already, or must not be.
    pub(crate) fn without_topics(broker: &Broker, name: &str) -> Self {
        let setup = Self {
            folder: tempfile::tempdir().expect("the folder of temporary files can be written to"),
            name: name.to_owned(),
            processes: 1,
            tables: BTreeMap::new(),
            sinks: Vec::new(),
        };
        let (joined, dead) = (setup.joined(), setup.dead());
        setup
            .set("events", "topic", quoted(name))
            .set("events", "key", r#"["detection_oid"]"#)
            .set(
                "events",
                "columns",
                r#"{ geographical_location_oid = "int64", video_camera_oid = "int64",
                     detection_oid = "int64", item_name = "string",
                     timestamp_detected = "int64" }"#
                    .replace('\n', ""),
            )
            .set("[sinks]", "topic", quoted(&joined))
            .set("dead_letters", "topic", quoted(&dead))
            .set("reference", "path", quoted("reference.csv"))
            .set("reference", "key", r#"["geographical_location_oid"]"#)
            .set(
                "reference",
                "columns",
                r#"{ geographical_location_oid = "int64", geographical_location = "string" }"#,
            )
            .set(
                "join",
                "on",
                r#"{ geographical_location_oid = "geographical_location_oid" }"#,
            )
            .set("telemetry", "status_file", quoted("status.json"))
            .reference("geographical_location_oid,geographical_location\n")
            .at(&["events", "[sinks]", "dead_letters"], broker, Login::Admin)
    }

    /// The topic of results.
    pub(crate) fn joined(&self) -> String {
        format!("{}-joined", self.name)
    }

    /// The topic of dead letters.
    pub(crate) fn dead(&self) -> String {
        format!("{}-dead", self.name)
    }

    /// Where the job runs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sets one setting; `value` is TOML.
    pub(crate) fn set(
        mut self,
        table: &'static str,
        key: &'static str,
        value: impl Into<String>,
    ) -> Self {
        let table = self.tables.entry(table).or_default();
        table.insert(key, value.into());
        self
    }

    /// Adds a sink; `settings` is TOML.
    pub(crate) fn sink(mut self, settings: &str) -> Self {
        self.sinks.push(settings.to_owned());
        self
    }

    /// Reads events from a file, and from no topic.
    pub(crate) fn events_from(mut self, path: &str) -> Self {
        let table = self.tables.entry("events").or_default();
        for setting in ["topic", "brokers", "kafka"] {
            table.remove(setting);
        }
        self.set("events", "type", quoted("file"))
            .set("events", "path", quoted(path))
    }

    /// Writes results to a file, and to no topic.
    pub(crate) fn rows_to(self, path: &str) -> Self {
        self.file("[sinks]", path)
    }

    /// Writes dead letters to a file.
    pub(crate) fn dead_letters_to(self, path: &str) -> Self {
        self.file("dead_letters", path)
    }

    fn file(mut self, table: &'static str, path: &str) -> Self {
        self.tables.remove(table);
        self.set(table, "type", quoted("jsonl"))
            .set(table, "path", quoted(path))
    }

    /// Puts the topics of these tables at a broker, where the job signs in so.
    pub(crate) fn at(mut self, tables: &[&'static str], broker: &Broker, login: Login) -> Self {
        for table in tables {
            let properties = broker.client_properties(login).into_iter();
            let properties = properties.map(|(name, value)| format!("{name:?} = {value:?}"));
            let properties: Vec<_> = properties.collect();
            self = self
                .set(table, "type", quoted("kafka"))
                .set(table, "brokers", quoted(&broker.bootstrap()))
                .set(table, "kafka", format!("{{ {} }}", properties.join(", ")));
        }
        self
    }

    /// Writes the reference table's file.
    pub(crate) fn reference(self, csv: &str) -> Self {
        let path = self.folder().join("reference.csv");
        std::fs::write(path, csv).expect("the folder is ours");
        self
    }

    /// Reads the reference table from a topic.
    pub(crate) fn reference_topic(mut self, broker: &Broker, topic: &str) -> Self {
        let table = self.tables.entry("reference").or_default();
        table.remove("path");
        self.at(&["reference"], broker, Login::Admin)
            .set("reference", "topic", quoted(topic))
    }

    /// Keeps checkpoints here: setups of one job have a folder each, and must share this one.
    pub(crate) fn state(self, folder: &Path) -> Self {
        let location = format!("file://{}", folder.display());
        self.set("checkpoint", "location", quoted(&location))
    }

    /// Runs on so many processes.
    pub(crate) fn processes(mut self, processes: usize) -> Self {
        self.processes = processes;
        if processes == 1 {
            return self;
        }
        std::fs::write(
            self.folder().join("secret"),
            "of no worth outside of a test",
        )
        .expect("the folder is ours");
        let addresses = free_ports(processes).into_iter();
        let addresses: Vec<_> = addresses
            .map(|port| format!("\"127.0.0.1:{port}\""))
            .collect();
        self.set("cluster", "processes", processes.to_string())
            .set(
                "cluster",
                "addresses",
                format!("[{}]", addresses.join(", ")),
            )
            .set("cluster", "secret_file", quoted("secret"))
    }

    fn toml(&self) -> String {
        let mut text = format!("job = {:?}\n", self.name);
        for (table, settings) in &self.tables {
            text += &format!("\n[{table}]\n");
            for (key, value) in settings {
                text += &format!("{key} = {value}\n");
            }
        }
        for sink in &self.sinks {
            text += &format!("\n[[sinks]]\n{sink}\n");
        }
        text
    }

    /// What the status file of process 0 says; null before there is one.
    pub(crate) fn status(&self) -> serde_json::Value {
        let text = std::fs::read(self.folder().join("status.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Starts any command with this configuration.
    pub(crate) fn command(&self, command: &str, arguments: &[&str]) -> Job {
        self.plain(command, &[&["--config", "job.toml"], arguments].concat())
    }

    /// Starts any command with just these arguments.
    pub(crate) fn plain(&self, command: &str, arguments: &[&str]) -> Job {
        let all = [&[command], arguments].concat();
        let binary = env!("CARGO_BIN_EXE_deltajoin");
        Job::spawn(binary, self.folder(), &self.toml(), &all)
    }

    /// Starts a command with this configuration within another one.
    pub(crate) fn within(&self, mut outer: Command, command: &str) -> Job {
        std::fs::write(self.folder().join("job.toml"), self.toml()).expect("the folder is ours");
        outer
            .arg(env!("CARGO_BIN_EXE_deltajoin"))
            .args([command, "--config", "job.toml"])
            .current_dir(self.folder());
        Job::spawn_command(&mut outer)
    }

    /// Starts the job.
    pub(crate) fn start(&self, arguments: &[&str]) -> Job {
        let command = if self.processes == 1 {
            "run"
        } else {
            "cluster"
        };
        self.command(command, arguments)
    }

    /// Starts the job and waits until all its processes are connected.
    pub(crate) fn start_live(&self) -> Job {
        let job = self.start(&[]);
        job.wait_for_line(STARTED, LIMIT);
        job
    }

    /// Runs the job until the end that its topic has at the start.
    pub(crate) fn run_until_end(&self, arguments: &[&str]) -> Outcome {
        let all = [&["--until-end"], arguments].concat();
        let outcome = self.start(&all).wait(LIMIT);
        outcome.assert_code(0);
        assert_no_errors(&outcome.stderr);
        outcome
    }
}

/// Fails the test if the job has said that someone must act.
pub(crate) fn assert_no_errors(stderr: &[String]) {
    let is_error = |line: &&String| {
        line.contains(" ERROR ") || line.starts_with("error:") || line.contains("panicked")
    };
    let errors: Vec<_> = stderr.iter().filter(is_error).collect();
    assert!(
        errors.is_empty(),
        "{errors:?}; all it said:\n{}",
        stderr.join("\n")
    );
}

/// The numbers of the summary that the job has printed.
pub(crate) fn summary(outcome: &Outcome) -> BTreeMap<String, u64> {
    let numbers = outcome.stdout.iter().filter_map(|line| {
        let (name, number) = line.rsplit_once(' ')?;
        Some((name.trim().to_owned(), number.parse().ok()?))
    });
    numbers.collect()
}
