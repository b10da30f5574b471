//! What the configuration promises of restarts: where bindings and progress stand, which sinks
//! commit together, and which settings must not change.
//!
//! It is apart from `durable`, which keeps the promise.
//!
//! # Invariants
//! * The progress of a sink stands at its own cluster, whatever its delivery, so that may change.

use std::collections::BTreeMap;
use std::time::Duration;

use deltajoin_workers::dataflow::Engine;
use deltajoin_workers::ports::Clock;
use deltajoin_workers::schema::Schema;

use crate::bindings::{
    self, Lasting, Marker, MarkerId, OF_PARTITIONER, OF_PARTITIONS, OF_SINKS, TransactionalId,
};
use crate::config::{
    Bindings, Config, DEAD_LETTERS, Delivery, EventSource, KafkaTopic, Partitioner, Target,
    Unmatched, share_a_broker,
};
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;
use crate::process::recorded::{self, Recorded};
use crate::telemetry::WallClock;

/// What the configuration says of it.
pub(super) struct Settings<'a> {
    pub(super) config: &'a Config,
    /// What tells the events' topic or file from another of the same name, once it is known.
    pub(super) events_id: Option<String>,
    /// What the topics of sinks are like, once it is known.
    pub(super) found: Recorded,
    pub(super) bindings: Bindings,
    /// The topic of progress at each cluster with a Kafka sink.
    pub(super) progress: BTreeMap<&'a str, KafkaTopic>,
    /// By cluster, the sinks that write at least once.
    pub(super) at_least_once: BTreeMap<&'a str, Vec<&'a str>>,
    /// One of each cluster that has such sinks.
    pub(super) exactly_once: Vec<ExactlyOnce<'a>>,
}

/// What the exactly-once sinks at one cluster have in common: their transactions.
pub(super) struct ExactlyOnce<'a> {
    /// The lists of brokers by which they name it. Lists that share a broker are of one cluster.
    pub(super) brokers: Vec<&'a str>,
    pub(super) progress: KafkaTopic,
    pub(super) commit_interval: Duration,
}

impl<'a> Settings<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        let mut settings = Self {
            config,
            events_id: None,
            found: Recorded::default(),
            bindings: config.bindings(),
            progress: BTreeMap::new(),
            at_least_once: BTreeMap::new(),
            exactly_once: Vec::new(),
        };
        let sinks = config.sinks.iter();
        let sinks = sinks.map(|sink| (&*sink.name, &sink.target));
        for (name, target) in sinks.chain([(DEAD_LETTERS, &config.dead_letters)]) {
            let Target::Kafka {
                topic, delivery, ..
            } = target
            else {
                continue;
            };
            let progress = settings.progress.entry(&topic.brokers);
            let progress = progress.or_insert_with(|| config.progress_topic(topic));
            match delivery {
                Delivery::AtLeastOnce => {
                    let sinks = settings.at_least_once.entry(&topic.brokers);
                    sinks.or_default().push(name);
                }
                Delivery::ExactlyOnce { commit_interval } => {
                    let progress = progress.clone();
                    settings.commit(&topic.brokers, progress, *commit_interval);
                }
            }
        }
        settings
    }

    /// Refuses what cannot be promised by a job of which nothing outlives a restart.
    pub(super) fn refuse_exactly_once(&self, engine: Engine) -> Result<(), Failure> {
        if self.exactly_once.is_empty() {
            return Ok(());
        }
        let message = match engine {
            Engine::Textbook => "the textbook engine is not exactly-once",
            Engine::Production => "what is read from a pipe is not exactly-once",
        };
        Err(Failure::usage(message)
            .hint("Set delivery = \"at-least-once\" in every sink and in [dead_letters]."))
    }

    /// Why the job cannot go on from what is bound.
    pub(super) fn refused(&self, error: bindings::Error) -> Failure {
        match (error, &self.config.events.source) {
            #[cfg(feature = "kafka")]
            (
                bindings::Error::SettingChanged {
                    name, before, now, ..
                },
                EventSource::Kafka { topic, .. },
            ) if name == TOPIC_ID => {
                let topic = topic.topic.clone();
                kafka::Error::TopicReplaced { topic, before, now }.into()
            }
            (bindings::Error::SettingChanged { name, .. }, EventSource::File { path })
                if name == FIRST_LINE =>
            {
                let path = path.clone();
                file::Error::Replaced { path }.into()
            }
            (
                bindings::Error::SettingChanged {
                    name, before, now, ..
                },
                _,
            ) if name.ends_with(OF_PARTITIONS) => recorded::fewer(&name, &before, &now),
            (error, _) => error.into(),
        }
    }

    /// Adds a sink to the transactions at its cluster.
    fn commit(&mut self, brokers: &'a str, progress: KafkaTopic, commit_interval: Duration) {
        let is_known = |known: &&mut ExactlyOnce| {
            let mut lists = known.brokers.iter();
            lists.any(|list| share_a_broker(list, brokers))
        };
        match self.exactly_once.iter_mut().find(is_known) {
            Some(known) => {
                known.brokers.push(brokers);
                known.commit_interval = known.commit_interval.min(commit_interval);
            }
            None => self.exactly_once.push(ExactlyOnce {
                brokers: vec![brokers],
                progress,
                commit_interval,
            }),
        }
    }

    pub(super) fn replicas(&self) -> u16 {
        self.config.limits.topic_replication
    }

    /// The transactional id of one of the job's processes, for its transactions of this number.
    /// Each has another one: two lists of brokers may name one cluster. No job's name has a colon,
    /// so no other job has the same.
    pub(super) fn transactional_id(&self, process: usize, number: usize) -> String {
        format!("{}:{process}:{number}", self.config.job)
    }

    /// Every transactional id that the job uses.
    pub(super) fn producers(&self) -> Vec<TransactionalId> {
        let clusters = self.exactly_once.iter().enumerate();
        let of_cluster = |(number, cluster): (usize, &ExactlyOnce)| {
            let brokers = cluster.progress.brokers.clone();
            let processes = 0..self.config.cluster.processes;
            processes.map(move |process| TransactionalId {
                brokers: brokers.clone(),
                id: self.transactional_id(process, number),
            })
        };
        clusters.flat_map(of_cluster).collect()
    }

    /// Settings that must not change as long as the job goes on from its bindings, or as long as
    /// rows are to be made again.
    pub(super) fn lasting(&self) -> Lasting {
        let name = match &self.config.events.source {
            EventSource::Kafka { .. } => TOPIC_ID,
            EventSource::File { .. } => FIRST_LINE,
        };
        let id = self
            .events_id
            .iter()
            .map(|id| (name.to_owned(), id.clone()));
        Lasting {
            settings: lasting(self.config)
                .into_iter()
                .chain(id)
                .chain(self.found.0.clone())
                .collect(),
            of_rows: &OF_ROWS,
        }
    }

    /// The marker of a new generation.
    pub(super) fn marker(&self, clock: &WallClock) -> Marker {
        Marker {
            id: MarkerId::random(),
            started_ms: clock.now_ms(),
            holder: holder(),
            settings: self.lasting().settings,
            producers: self.producers(),
        }
    }
}

/// Names the id of the events' topic among the settings that must not change: a topic that was made
/// anew has other records at the offsets that are bound.
const TOPIC_ID: &str = "events.topic_id";

/// Names the checksum of the first line of the events' file in the same way.
const FIRST_LINE: &str = "events.first_line";

/// Whether events can be read again after a restart: what a pipe gives is given once.
pub(super) fn outlives(config: &Config) -> bool {
    match &config.events.source {
        EventSource::Kafka { .. } => true,
        // One that is not there is said so by whoever reads it.
        EventSource::File { path } => path.metadata().map_or(true, |found| found.is_file()),
    }
}

/// This process, for people.
fn holder() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    format!("process {} on {host}", std::process::id())
}

/// Names the librdkafka setting that says which records of the events' topic there are: by another
/// one a bound epoch would be made of others.
const ISOLATION_LEVEL: &str = "events.kafka.isolation.level";

/// Names where the time of events is read from. By arrival it decides no bucket, but still which
/// event is in the future, which is kept, and what the window is.
pub(super) const TIME_COLUMN: &str = "events.time.column";

/// Settings by which rows are made, and nothing else. Made again with others, an event might become
/// a dead letter that was a row, or be taken for seen though it was none.
const OF_ROWS: [&str; 11] = [
    "distinct.detect_conflicts",
    "distinct.future",
    "distinct.keep",
    "events.columns",
    ISOLATION_LEVEL,
    TIME_COLUMN,
    "join.on",
    "join.on_reference_change",
    "join.revise_window",
    "join.unmatched",
    "limits.max_record_bytes",
];

/// Settings that what was bound and committed is told in.
fn lasting(config: &Config) -> BTreeMap<String, String> {
    let events = match &config.events.source {
        EventSource::Kafka { topic, .. } => ("events.topic", topic.topic.clone()),
        EventSource::File { path } => ("events.path", path.display().to_string()),
    };
    let all = |schema: &Schema| columns(schema, 0..schema.columns.len());
    let key = |schema: &Schema| columns(schema, schema.key.iter().copied());
    let (events_schema, reference) = (&config.events.schema, &config.reference.schema);
    let record_bytes_max = config.limits.max_record_bytes;
    let settings = [
        events,
        ("events.key", key(events_schema)),
        ("events.columns", all(events_schema)),
        ("reference.key", key(reference)),
        ("reference.columns", all(reference)),
        ("join.on", pairs(config)),
        (
            "join.unmatched",
            unmatched(config.join.unmatched).to_owned(),
        ),
        ("limits.max_record_bytes", record_bytes_max.to_string()),
        ("limits.shards", config.limits.shards.to_string()),
    ];
    let isolation = match &config.events.source {
        EventSource::Kafka { topic, .. } => {
            let level = topic.properties.get("isolation.level");
            // Librdkafka's own default.
            let level = level.map_or("read_committed", String::as_str);
            Some((ISOLATION_LEVEL, level.to_owned()))
        }
        EventSource::File { .. } => None,
    };
    let settings = settings.into_iter().chain(isolation);
    let settings = settings.chain(remembered(config));
    let sinks = config.sinks.iter().map(|sink| {
        let name = format!("{OF_SINKS}{}.envelope", sink.name);
        (name, format!("{:?}", sink.envelope).to_lowercase())
    });
    let targets = config.sinks.iter().map(|sink| (&*sink.name, &sink.target));
    let targets = targets.chain([(DEAD_LETTERS, &config.dead_letters)]);
    let partitioners = targets.filter_map(|(name, target)| match target {
        Target::Kafka { partitioner, .. } => {
            let name = format!("{OF_SINKS}{name}{OF_PARTITIONER}");
            let value = match partitioner {
                Partitioner::KeyGroup => "key-group",
                Partitioner::Murmur2 => "murmur2",
            };
            Some((name, value.to_owned()))
        }
        Target::JsonLines { .. } => None,
    });
    let settings = settings.map(|(name, value)| (name.to_owned(), value));
    settings.chain(sinks).chain(partitioners).collect()
}

/// What decides which events are duplicates, and which results are revised.
fn remembered(config: &Config) -> [(&'static str, String); 9] {
    let (distinct, join) = (&config.distinct, &config.join);
    let time = config.events.time.as_ref().map(|time| {
        let column = &config.events.schema.columns[time.column];
        format!("{} ({:?})", column.name, time.unit)
    });
    let milliseconds = |duration: Duration| format!("{} ms", duration.as_millis());
    let time = time.unwrap_or_else(|| "none".to_owned());
    let remembered_by = match distinct.by_arrival {
        false => time.clone(),
        true => "arrival".to_owned(),
    };
    [
        ("events.time", remembered_by),
        (TIME_COLUMN, time),
        ("distinct.horizon", milliseconds(distinct.horizon)),
        ("distinct.future", milliseconds(distinct.future)),
        (
            "distinct.keep",
            format!("{:?}", distinct.keep).to_lowercase(),
        ),
        (
            "distinct.detect_conflicts",
            distinct.detect_conflicts.to_string(),
        ),
        (
            "join.on_reference_change",
            if join.revise { "revise" } else { "future-only" }.to_owned(),
        ),
        ("join.revise_window", milliseconds(join.revise_window)),
        (
            "join.version_column",
            join.version_column.clone().unwrap_or_default(),
        ),
    ]
}

fn columns(schema: &Schema, indexes: impl IntoIterator<Item = usize>) -> String {
    let columns = indexes.into_iter().map(|index| {
        let column = &schema.columns[index];
        let or_null = if column.nullable { " or null" } else { "" };
        format!("{}: {}{or_null}", column.name, column.column_type)
    });
    columns.collect::<Vec<_>>().join(", ")
}

/// The columns that are joined on, the event's and the reference's.
fn pairs(config: &Config) -> String {
    let name = |schema: &Schema, index: usize| schema.columns[index].name.to_string();
    let (events, reference) = (&config.events.schema, &config.reference.schema);
    let pairs = config.join.event_columns.iter().zip(&reference.key);
    let pairs = pairs.map(|(own, other)| {
        let (own, other) = (name(events, *own), name(reference, *other));
        format!("{own} = {other}")
    });
    pairs.collect::<Vec<_>>().join(", ")
}

fn unmatched(setting: Unmatched) -> &'static str {
    match setting {
        Unmatched::Keep => "keep",
        Unmatched::Drop => "drop",
        Unmatched::DeadLetter => "dead-letter",
    }
}

#[cfg(test)]
mod tests;
