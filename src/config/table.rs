//! All settings of deltajoin: the one list that the reader, its messages and the manual go by.
//!
//! It is apart from `settings`, which says what a setting is. The sentences here are the manual's
//! text: `docs/configuration.md` is generated from them.
//!
//! # Invariants
//! * Tables and settings follow the flow of rows, from the source to the sinks.
//! * Every setting has its default in `default.toml`, or says here that it has none.

use crate::config::settings::Kind::{
    Addresses, Brokers, Columns, Duration, Flag, Job, Key, LogFilter, OneOf, OptionalBrokers,
    OptionalText, Pairs, Properties, Size, Start, Text, Time, Topic, Whole,
};
use crate::config::settings::{Setting, Table};

const AT: &str = "The brokers to begin with, as `host:port`, with commas between them.";
const TYPES: &str = "The columns and their types, in the order that they have in every output: \
    `int64`, `float64`, `string`, `bool`, `timestamp` or `decimal(p,s)`. A `?` behind the type \
    makes a column nullable.";

/// All tables.
pub(super) static TABLES: &[Table] = &[
    Table {
        name: "",
        list: false,
        doc: "Before any table.",
        settings: &[Setting::new(
            "job",
            Job,
            "Names state, topics and transactional ids: 1 to 100 of the letters `a` to `z` and `A` \
             to `Z`, digits, `.`, `_` and `-`; not `.` or `..`.",
        )
        .required()],
    },
    Table {
        name: "events",
        list: false,
        doc: "Dataset A: the events.",
        settings: EVENTS,
    },
    Table {
        name: "distinct",
        list: false,
        doc: "How duplicates are found: of all events with one key, one is kept.",
        settings: DISTINCT,
    },
    Table {
        name: "reference",
        list: false,
        doc: "Dataset B: the reference table. It is read whole before the first event.",
        settings: REFERENCE,
    },
    Table {
        name: "join",
        list: false,
        doc: "How events meet the reference.",
        settings: JOIN,
    },
    Table {
        name: "sinks",
        list: true,
        doc: "Where results go; at least one. A row has the events' columns, then the reference's \
              columns without its key.",
        settings: SINKS,
    },
    Table {
        name: "dead_letters",
        list: false,
        doc: "Where records go that cannot become results, with their bytes, origin and error. If \
              the whole table is left out, they go to the cluster of the first Kafka sink, to its \
              topic with `.dead` behind it; without Kafka sinks to a file, the path of the first \
              sink with `.dead.jsonl` behind it.",
        settings: DEAD_LETTERS,
    },
    Table {
        name: "cluster",
        list: false,
        doc: "Processes and threads.",
        settings: CLUSTER,
    },
    Table {
        name: "checkpoint",
        list: false,
        doc: "What outlives a restart.",
        settings: CHECKPOINT,
    },
    Table {
        name: "state",
        list: false,
        doc: "What a process keeps.",
        settings: STATE,
    },
    Table {
        name: "limits",
        list: false,
        doc: "Bounds.",
        settings: LIMITS,
    },
    Table {
        name: "telemetry",
        list: false,
        doc: "What the job tells of itself.",
        settings: TELEMETRY,
    },
];

static EVENTS: &[Setting] = &[
    Setting::new(
        "type",
        OneOf(&["kafka", "file"]),
        "A Kafka topic, or a file of JSON lines.",
    ),
    Setting::new("brokers", Brokers, AT)
        .required()
        .only_for("kafka"),
    Setting::new("topic", Topic, "The topic to read.")
        .required()
        .only_for("kafka"),
    Setting::new("path", Text, "The `.jsonl` file or pipe to read.")
        .required()
        .only_for("file"),
    Setting::new("format", OneOf(&["json"]), "Each record is a JSON object."),
    Setting::new(
        "start",
        Start,
        "Where reading starts: `earliest`, the first record that the topic still has; `latest`, \
         its end when the job starts; or a time (RFC 3339), the first record published then or \
         later.",
    )
    .only_for("kafka"),
    Setting::new(
        "key",
        Key,
        "The columns that are an event's identity: events with equal keys are one event. They \
         must not be nullable.",
    )
    .required(),
    Setting::new(
        "time",
        Time,
        "The column of the event time: an `int64` with its unit (`s`, `ms` or `us` since 1970), \
         or a `timestamp` without one.",
    )
    .derived("none (events have no time of their own, and their arrival counts)"),
    Setting::new("columns", Columns, TYPES).required(),
    Setting::new(
        "on_missing_offsets",
        OneOf(&["fail", "earliest"]),
        "What to do when the broker has deleted records that were not read yet: `fail`, which ends \
         the job, or go on at the `earliest` and count the gap. Records that results were begun \
         with must be there in any case.",
    )
    .only_for("kafka"),
    Setting::new("kafka", Properties, PASS_THROUGH).only_for("kafka"),
];

const PASS_THROUGH: &str = "Passed through to librdkafka as it is: TLS, SASL, tuning.";

static DISTINCT: &[Setting] = &[
    Setting::new(
        "keep",
        OneOf(&["first", "earliest", "latest"]),
        "Which event of a key is kept: the `first` to arrive, or the one of the `earliest` or \
         `latest` event time. One that is better and comes later takes its place, as long as that \
         is within `revise_window`; both need `time` in `[events]`, and `retry_time` is \
         `may-differ` then.",
    ),
    Setting::new(
        "retry_time",
        OneOf(&["same", "may-differ"]),
        "Whether a retry carries the `same` event time as the event that it repeats. Then keys are \
         remembered by event time, and a retry with another one is taken for a new event. With \
         `may-differ`, or without `time` in `[events]`, they are remembered by arrival: a retry is \
         found whatever its time, at the cost of looking in every bucket of the horizon.",
    )
    .derived("`\"same\"` if events have a `time` and the `first` is kept, else `\"may-differ\"`"),
    Setting::new(
        "horizon",
        Duration("1s", "3650d"),
        "How long a key is remembered. By event time, an event that is older than that cannot be \
         told from a retry, and is a dead letter (`late`).",
    ),
    Setting::new(
        "future",
        Duration("1ms", "365d"),
        "An event whose time is later than its epoch by more than this is a dead letter \
         (`future`): it must not make the job forget what is older.",
    ),
    Setting::new(
        "detect_conflicts",
        Flag,
        "Count duplicates whose other columns differ from those of the event that is kept, if that \
         is within `revise_window`. The first few in a minute and key group are dead letters \
         (`conflict`).",
    ),
];

static REFERENCE: &[Setting] = &[
    Setting::new(
        "type",
        OneOf(&["file", "kafka"]),
        "A file, or a compacted Kafka topic whose keys are JSON objects of the key columns and \
         whose values are JSON rows; a record without a value removes its row.",
    ),
    Setting::new(
        "path",
        Text,
        "The file, or the object `s3://BUCKET/KEY`: CSV with a header (`.csv`), JSON lines \
         (`.jsonl`, `.json`, `.ndjson`) or Parquet (`.parquet`), by the ending of its name.",
    )
    .required()
    .only_for("file"),
    Setting::new("brokers", Brokers, AT)
        .required()
        .only_for("kafka"),
    Setting::new("topic", Topic, "The topic to read.")
        .required()
        .only_for("kafka"),
    Setting::new("format", OneOf(&["json"]), "Keys and values are JSON.").only_for("kafka"),
    Setting::new(
        "refresh",
        Duration("100ms", "1d"),
        "How often to look for a changed file, which is then read again whole. SIGHUP has the job \
         look at once.",
    )
    .only_for("file"),
    Setting::new(
        "key",
        Key,
        "The columns that identify a row. They must not be nullable.",
    )
    .required(),
    Setting::new("columns", Columns, TYPES).required(),
    Setting::new("kafka", Properties, PASS_THROUGH).only_for("kafka"),
];

static JOIN: &[Setting] = &[
    Setting::new(
        "on",
        Pairs,
        "Pairs of columns of equal type, an event's on the left and the reference's on the right. \
         The right sides are the reference's key.",
    )
    .required(),
    Setting::new(
        "unmatched",
        OneOf(&["keep", "drop", "dead-letter"]),
        "What becomes of an event without a reference row: `keep` it, with nulls for the \
         reference's columns; `drop` it; or make it a `dead-letter`.",
    ),
    Setting::new(
        "on_reference_change",
        OneOf(&["revise", "future-only"]),
        "Whether a changed reference row does `revise` recent results, or is for `future-only` \
         events.",
    ),
    Setting::new(
        "revise_window",
        Duration("1s", "3650d"),
        "Results this recent are revised, by event time, or by arrival without one. The rows are \
         held in memory, and beyond `state.memory_limit` on disk. Not longer than `horizon`.",
    ),
    Setting::new(
        "strategy",
        OneOf(&["broadcast", "partitioned"]),
        "`broadcast`: every worker has the whole reference. `partitioned`: each has a part, and \
         asks the others for the rows that its events need; for a reference of millions of rows. \
         Results are the same.",
    ),
    Setting::new(
        "version_column",
        OptionalText,
        "A column of this name, the last of every result, holds the epoch of its reference row: \
         when that came or became what it is, in milliseconds since 1970. It is null without a \
         row.",
    ),
];

static SINKS: &[Setting] = &[
    Setting::new(
        "type",
        OneOf(&["kafka", "jsonl"]),
        "A Kafka topic, whose keys are the events' keys as JSON, or a file of JSON lines.",
    ),
    Setting::new(
        "name",
        Text,
        "Its name in progress, logs and metrics; unique.",
    )
    .derived("the topic, or the name of the file"),
    Setting::new("brokers", Brokers, AT)
        .required()
        .only_for("kafka"),
    Setting::new("topic", Topic, "The topic to write.")
        .required()
        .only_for("kafka"),
    Setting::new(
        "path",
        Text,
        "The file to write. The file named so with `.progress` behind it tells how far it has \
         come: leave the two together.",
    )
    .required()
    .only_for("jsonl"),
    Setting::new("format", OneOf(&["json"]), "Each row is a JSON object.").only_for("kafka"),
    Setting::new(
        "envelope",
        OneOf(&["upsert", "changelog"]),
        "How a result that changes is told. `upsert`: by the row that holds from now on; a key \
         without a row any more has a record without a value, in a file a line with \
         `\"__deleted\":true`. `changelog`: by an object with the row `before`, the row `after`, \
         `op` (`c`, `u` or `d`), `epoch`, and `diff`, by how many rows the key has more.",
    ),
    Setting::new(
        "delivery",
        OneOf(&["exactly-once", "at-least-once"]),
        "Whether a reader can see a row twice after a failure. With `exactly-once`, one that reads \
         `read_committed` does not, and rows come at every `commit_interval`, those of all \
         such sinks at one cluster together. With `at-least-once` rows come at once, about a \
         second of them may come again after a crash, and their headers `epoch`, `shard` and `seq` \
         tell which.",
    )
    .only_for("kafka"),
    Setting::new(
        "commit_interval",
        Duration("1ms", "1m"),
        "How often a transaction is committed, with `delivery = \"exactly-once\"`.",
    )
    .only_for("kafka"),
    Setting::new(
        "partitioner",
        OneOf(&["key-group", "murmur2"]),
        "How a row finds its partition: by `key-group`, so that a process writes to few, or by \
         `murmur2`, Kafka's default for records with a key.",
    )
    .only_for("kafka"),
    Setting::new("kafka", Properties, PASS_THROUGH).only_for("kafka"),
];

static DEAD_LETTERS: &[Setting] = &[
    Setting::new(
        "type",
        OneOf(&["kafka", "jsonl"]),
        "A Kafka topic, or a file of JSON lines.",
    )
    .derived("`\"kafka\"` if there is a Kafka sink, else `\"jsonl\"`"),
    Setting::new("brokers", Brokers, AT)
        .derived("what the first Kafka sink has")
        .only_for("kafka"),
    Setting::new("topic", Topic, "The topic to write.")
        .derived("the topic of the first Kafka sink, with `.dead` behind it")
        .only_for("kafka"),
    Setting::new("path", Text, "The file to write.")
        .derived("the path of the first `jsonl` sink, with `.dead.jsonl` behind it")
        .only_for("jsonl"),
    Setting::new(
        "delivery",
        OneOf(&["exactly-once", "at-least-once"]),
        "As in `[[sinks]]`, but without headers: the key tells where the record stands.",
    )
    .derived("what the first Kafka sink has, else `\"exactly-once\"`")
    .only_for("kafka"),
    Setting::new(
        "commit_interval",
        Duration("1ms", "1m"),
        "As in `[[sinks]]`.",
    )
    .derived("what the first Kafka sink at the same `brokers` has, else `\"20ms\"`")
    .only_for("kafka"),
    Setting::new("kafka", Properties, PASS_THROUGH)
        .derived("what the first Kafka sink has if `brokers` is left out, else `{}`")
        .only_for("kafka"),
];

static CLUSTER: &[Setting] = &[
    Setting::new(
        "processes",
        Whole(1, 1024),
        "How many processes run the job.",
    ),
    Setting::new("threads", Whole(1, 1024), "Workers in each process."),
    Setting::new(
        "addresses",
        Addresses,
        "The `host:port` of each process, in the order of their numbers; needed from two \
         processes on.",
    ),
    Setting::new(
        "secret_file",
        OptionalText,
        "A file whose content all processes share, the proof that one belongs to the job; needed \
         from two processes on.",
    ),
    Setting::new(
        "peer_timeout",
        Duration("500ms", "10m"),
        "A process that is silent for longer is lost, and the job ends.",
    ),
    Setting::new(
        "restarts",
        Whole(0, 10_000),
        "How often `deltajoin cluster` restarts the job within ten minutes before it gives up.",
    ),
];

static CHECKPOINT: &[Setting] = &[
    Setting::new(
        "location",
        Text,
        "Where checkpoints go: `file://` with a path, or `s3://` with a bucket and a prefix. If \
         events are in a file it is a folder, and holds the file of bindings too, \
         `<job>/bindings.jsonl`.",
    ),
    Setting::new(
        "interval",
        Duration("100ms", "1d"),
        "How often one is made.",
    ),
    Setting::new(
        "bindings_retention",
        Duration("1h", "3650d"),
        "How long bindings in a topic are kept that no restart needs, for audits.",
    ),
    Setting::new(
        "bindings_brokers",
        OptionalBrokers,
        "The cluster of the topic of bindings; empty for the events' own, or if events are in a \
         file. The librdkafka settings are those of a table with the same brokers, else those of \
         the events.",
    ),
    Setting::new(
        "commit_group_offsets",
        Flag,
        "Whether offsets are committed after a checkpoint, to a group of the job's name: for \
         monitors of lag, and never read back.",
    ),
];

static STATE: &[Setting] = &[
    Setting::new(
        "dir",
        Text,
        "The folder of keys and rows that have left memory, on a local disk; each process has its \
         own below it. Nothing in it is needed: a checkpoint has the same.",
    ),
    Setting::new(
        "memory_limit",
        Size("16MB", "16000GB"),
        "The memory that keys, and rows that may be revised, take in each process; 4MB a thread \
         at least. Above three quarters of it, older buckets of keys move to `dir` with the next \
         checkpoint, and leave about 9 bits a key behind; the newest of each worker stays. Rows \
         move at a quarter of it, and leave an index behind: 8 to 40 bytes a row.",
    ),
];

static LIMITS: &[Setting] = &[
    Setting::new(
        "tick",
        Duration("1ms", "10s"),
        "Epochs are minted at most this often.",
    ),
    Setting::new(
        "max_in_flight_bytes",
        Size("64KB", "1000GB"),
        "Bytes that are read and not yet written, in each process; beyond it reading stops.",
    ),
    Setting::new(
        "max_record_bytes",
        Size("100B", "1GB"),
        "The largest record that is decoded; a larger one is a dead letter.",
    ),
    Setting::new(
        "shards",
        Whole(1, 1024),
        "Units of ownership and of progress. At least the number of workers; fixed for the job's \
         life.",
    ),
    Setting::new(
        "topic_replication",
        Whole(0, 32767),
        "Replicas of the topics that the job makes; 0 is the broker's default.",
    ),
];

static TELEMETRY: &[Setting] = &[
    Setting::new(
        "log",
        LogFilter,
        "Which log lines are written: a level (`off`, `error`, `warn`, `info`, `debug` or \
         `trace`), or levels by module with commas between them, as `info,deltajoin=debug`.",
    ),
    Setting::new(
        "status_file",
        OptionalText,
        "A file that holds the job's state, written anew every second; empty for none. Each \
         process has its own: for `status.json`, process 1 writes `status-1.json`, and so on.",
    ),
];
