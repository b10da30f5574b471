//! The checked configuration: what the rest of the program reads.
//!
//! It is apart from the raw form, which mirrors the file, because here every value is of the type
//! that its user needs, every default is filled in, and what contradicts itself cannot be said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deltajoin_workers::schema::Schema;

/// A job, completely described.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names state, topics and transactional ids.
    pub job: String,
    /// Dataset A.
    pub events: Events,
    /// How duplicates are found.
    pub distinct: Distinct,
    /// Dataset B.
    pub reference: Reference,
    /// How events meet the reference.
    pub join: Join,
    /// Where results go; at least one.
    pub sinks: Vec<Sink>,
    /// Where records go that cannot become results.
    pub dead_letters: Target,
    /// Processes and threads.
    pub cluster: Cluster,
    /// What is kept for a restart, and where.
    pub checkpoint: Checkpoint,
    /// What a process keeps.
    pub state: State,
    /// Bounds.
    pub limits: Limits,
    /// What the job tells of itself.
    pub telemetry: Telemetry,
}

impl Config {
    /// The files that the job reads.
    pub fn input_files(&self) -> Vec<&Path> {
        let events = match &self.events.source {
            EventSource::File { path } => Some(path),
            EventSource::Kafka { .. } => None,
        };
        let reference = match &self.reference.source {
            ReferenceSource::File { path } => Some(path),
            ReferenceSource::Kafka { .. } => None,
        };
        let files = [events, reference, self.cluster.secret_file.as_ref()];
        files.into_iter().flatten().map(PathBuf::as_path).collect()
    }

    /// Where the job's bindings are kept: at the events' cluster or another one; of events in a
    /// file beside the checkpoints.
    pub fn bindings(&self) -> Bindings {
        match &self.events.source {
            EventSource::Kafka { topic, .. } => Bindings::Topic(self.bindings_topic(topic)),
            EventSource::File { .. } => {
                let location = &self.checkpoint.location;
                let folder = location.strip_prefix("file://").unwrap_or(location);
                Bindings::File(bindings_file(Path::new(folder), &self.job))
            }
        }
    }

    fn bindings_topic(&self, events: &KafkaTopic) -> KafkaTopic {
        let Some(brokers) = &self.checkpoint.bindings_brokers else {
            return self.own_topic(events, "bindings");
        };
        let targets = self.sinks.iter().map(|sink| &sink.target);
        let outputs = targets.chain([&self.dead_letters]);
        let mut topics = outputs.filter_map(|target| match target {
            Target::Kafka { topic, .. } => Some(topic),
            Target::JsonLines { .. } => None,
        });
        let known = topics.find(|topic| topic.brokers == *brokers);
        let at_cluster = KafkaTopic {
            brokers: brokers.clone(),
            ..known.unwrap_or(events).clone()
        };
        self.own_topic(&at_cluster, "bindings")
    }

    /// The topic of the progress of all sinks at the cluster of this one.
    pub fn progress_topic(&self, sink: &KafkaTopic) -> KafkaTopic {
        self.own_topic(sink, "progress")
    }

    fn own_topic(&self, like: &KafkaTopic, suffix: &str) -> KafkaTopic {
        KafkaTopic {
            topic: format!("{}.{suffix}", self.job),
            ..like.clone()
        }
    }
}

/// A Kafka topic and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaTopic {
    /// `bootstrap.servers`.
    pub brokers: String,
    /// The topic's name.
    pub topic: String,
    /// Settings passed through to librdkafka as they are.
    pub properties: BTreeMap<String, String>,
}

/// Dataset A.
#[derive(Clone, Debug)]
pub struct Events {
    /// Where events come from.
    pub source: EventSource,
    /// The events' columns and key.
    pub schema: Schema,
    /// The event time, if events have one.
    pub time: Option<EventTime>,
}

/// Where events come from.
#[derive(Clone, Debug)]
pub enum EventSource {
    /// A Kafka topic of JSON objects.
    Kafka {
        /// The topic.
        topic: KafkaTopic,
        /// Where reading starts.
        start: Start,
        /// What is done without records that were deleted before they were read.
        on_missing: OnMissing,
    },
    /// A file of JSON lines.
    File {
        /// The file.
        path: PathBuf,
    },
}

/// Where reading of a topic starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first record that the topic still has.
    Earliest,
    /// The end of the topic when the job starts.
    Latest,
    /// The first record published at this time or later, in milliseconds since 1970.
    Timestamp(i64),
}

/// What is done without records that were deleted before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissing {
    /// The job ends.
    Fail,
    /// It goes on with the first record that the topic still has.
    Earliest,
}

/// The column that holds the event time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// Its index in the events' columns.
    pub column: usize,
    /// The unit of its integers.
    pub unit: TimeUnit,
}

/// The unit of integers that are times since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
}

/// How duplicates are found.
#[derive(Clone, Debug)]
pub struct Distinct {
    /// Which event of a key is kept.
    pub keep: Keep,
    /// Whether keys are remembered by arrival, and not by event time.
    pub by_arrival: bool,
    /// How long a key is remembered.
    pub horizon: Duration,
    /// How much later than its epoch an event may be.
    pub future: Duration,
    /// Whether duplicates are compared with what they repeat.
    pub detect_conflicts: bool,
}

/// Which event of a key is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The first to arrive.
    First,
    /// That of the least event time.
    Earliest,
    /// That of the greatest event time.
    Latest,
}

/// Dataset B.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Where it comes from.
    pub source: ReferenceSource,
    /// Its columns and key.
    pub schema: Schema,
    /// How often a file is looked at.
    pub refresh: Duration,
}

/// Where the reference table comes from.
#[derive(Clone, Debug)]
pub enum ReferenceSource {
    /// A CSV file with a header, JSON lines or Parquet, by the name's ending.
    File {
        /// The file.
        path: PathBuf,
    },
    /// A compacted Kafka topic: its keys are JSON objects of the key columns.
    Kafka {
        /// The topic.
        topic: KafkaTopic,
    },
}

/// How events meet the reference.
#[derive(Clone, Debug)]
pub struct Join {
    /// For each key column of the reference, in its order, the index of the events' column that
    /// must equal it.
    pub event_columns: Vec<usize>,
    /// Whether each worker has a part of the reference, and not all of it.
    pub partitioned: bool,
    /// What becomes of an event without a reference row.
    pub unmatched: Unmatched,
    /// Whether a changed reference row revises recent results.
    pub revise: bool,
    /// How recent they are.
    pub revise_window: Duration,
    /// The column of a result that holds the epoch of its reference row, if there is one.
    pub version_column: Option<String>,
}

/// What becomes of an event without a reference row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// It is a result whose reference columns are null.
    Keep,
    /// It is no result.
    Drop,
    /// It goes to the dead letters.
    DeadLetter,
}

/// A named place for results.
#[derive(Clone, Debug)]
pub struct Sink {
    /// Its name in progress, logs and metrics; unique.
    pub name: String,
    /// How changes of a key's row are told.
    pub envelope: Envelope,
    /// Where rows go.
    pub target: Target,
}

/// How changes of a key's row are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// By the row that holds from now on.
    Upsert,
    /// By the rows before and after.
    Changelog,
}

/// The name of the dead letters' own sink, which no other sink may have.
pub const DEAD_LETTERS: &str = "dead-letters";

/// Where rows go.
#[derive(Clone, Debug)]
pub enum Target {
    /// A Kafka topic of JSON objects.
    Kafka {
        /// The topic.
        topic: KafkaTopic,
        /// How a row finds its partition.
        partitioner: Partitioner,
        /// What a reader sees after a failure.
        delivery: Delivery,
    },
    /// A file of JSON lines.
    JsonLines {
        /// The file.
        path: PathBuf,
    },
}

/// What a reader of a topic sees after a failure of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Every row, some twice.
    AtLeastOnce,
    /// Every row once, if it reads what is committed.
    ExactlyOnce {
        /// How often rows are committed.
        commit_interval: Duration,
    },
}

/// How a row finds its output partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioner {
    /// By key group, so that a worker touches few partitions.
    KeyGroup,
    /// Kafka's default for keyed records.
    Murmur2,
}

/// Processes and threads.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// How many processes run the job.
    pub processes: usize,
    /// Workers in each of them.
    pub threads: usize,
    /// `host:port` of each process; empty for one process.
    pub addresses: Vec<String>,
    /// Holds the secret that proves membership; there must be one from two processes on.
    pub secret_file: Option<PathBuf>,
    /// How long a peer may be silent.
    pub peer_timeout: Duration,
    /// Restarts within ten minutes before `deltajoin cluster` gives up.
    pub restarts: usize,
}

impl Cluster {
    /// All workers of the job.
    pub fn workers(&self) -> usize {
        self.processes * self.threads
    }
}

/// What is kept for a restart, and where.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// `file://PATH` or `s3://BUCKET/PREFIX`.
    pub location: String,
    /// How often one is made.
    pub interval: Duration,
    /// How long bindings are kept that no restart needs.
    pub bindings_retention: Duration,
    /// The cluster of the topic of bindings, if it is not that of the events.
    pub bindings_brokers: Option<String>,
    /// Whether offsets are committed, for monitors of lag.
    pub commit_group_offsets: bool,
}

/// What a process keeps.
#[derive(Clone, Debug)]
pub struct State {
    /// The folder of keys that have left memory.
    pub dir: PathBuf,
    /// The bytes that its keys and rows may take in memory.
    pub memory_limit: usize,
}

/// Bounds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Epochs are minted at most this often.
    pub tick: Duration,
    /// Bytes that are read and not yet written, in a process.
    pub max_in_flight_bytes: usize,
    /// The largest record that is decoded.
    pub max_record_bytes: usize,
    /// Units of ownership and of sink progress.
    pub shards: usize,
    /// Replication of the topics that the job makes; 0 is the broker's default.
    pub topic_replication: u16,
}

/// What the job tells of itself.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// A filter of log levels, as `info` or `deltajoin=debug`.
    pub log: String,
    /// Where the state is written every second.
    pub status_file: Option<PathBuf>,
}

/// Where the job's bindings are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bindings {
    /// In a topic.
    Topic(KafkaTopic),
    /// In a file.
    File(PathBuf),
}

/// The file of bindings of a job whose checkpoints are in this folder.
pub(super) fn bindings_file(folder: &Path, job: &str) -> PathBuf {
    folder.join(job).join("bindings.jsonl")
}

/// The files that tell how far the file of rows at `path` has come: the one that is read, and the
/// one that is written first and then takes its place.
pub fn progress_files(path: &Path) -> [PathBuf; 2] {
    [".progress", ".progress.new"].map(|ending| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        name.into()
    })
}

/// Where one process tells its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusFile {
    /// The file that is read.
    pub path: PathBuf,
    /// The file that is written first, and then takes the place of the other.
    pub beside: PathBuf,
}

impl StatusFile {
    /// Processes on one host have the same configuration, but a file each: that of process 1 of
    /// `status.json` is `status-1.json`.
    pub fn of(path: &Path, process: usize) -> Self {
        let path = if process == 0 {
            path.to_owned()
        } else {
            let mut name = path.file_stem().unwrap_or_default().to_owned();
            name.push(format!("-{process}"));
            if let Some(extension) = path.extension() {
                name.push(".");
                name.push(extension);
            }
            path.with_file_name(name)
        };
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        Self {
            path,
            beside: beside.into(),
        }
    }
}
