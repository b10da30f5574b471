//! What a job has at the Kafka clusters of its sinks: transactions, progress, and who records it.
//!
//! It is apart from `joining`, which says when each of these is done, and it is the only part of
//! taking a job over that a build without Kafka lacks; `no_topics` stands for it there.
//!
//! # Invariants
//! * Every process has a transactional id of its own at each cluster that has exactly-once sinks.
//! * What is recorded of sinks that write at least once is true of all processes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use deltajoin_workers::ports::{Clock, Sink, Stop};

use crate::bindings::{Marker, TransactionalId};
use crate::config::{Bindings, DEAD_LETTERS, Delivery, EventSource, KafkaTopic};
use crate::connectors::kafka::{
    Destination, Error, GroupOffsets, Progress, Recorder, RecorderOptions, TransactionOptions,
    Transactions, delete_topic, read_progress, trim_bindings,
};
use crate::failure::Failure;
use crate::process::checkpoints::Published;
use crate::process::durable::Durable;
use crate::process::inputs::kafka_fatal;
use crate::process::ledger::NewestBound;
use crate::process::promises::Settings;
use crate::process::skipping::Skipping;
use crate::process::{Process, verdict};
use crate::telemetry::{Monitor, WallClock};

/// How often the log is trimmed, at most.
const TRIM_EVERY_MS: u64 = 60_000;

/// What one process has there.
#[derive(Default)]
pub(super) struct Topics {
    /// Of sinks that are exactly-once, with the lists of brokers that name their cluster.
    transactions: Vec<(Vec<String>, Transactions)>,
    /// On process 0, of sinks that write at least once.
    recorders: Vec<Recorder>,
    progress: Progress,
}

impl Topics {
    /// Takes the process's transactional ids away from older generations.
    pub(super) fn fence(
        process: &Process,
        settings: &Settings<'_>,
        generation: u64,
    ) -> Result<Self, Failure> {
        if process.index == 0 {
            for cluster in settings.at_least_once.keys() {
                let topic = &settings.progress[cluster];
                Recorder::prepare(topic, settings.replicas(), &process.stop)?;
            }
        }
        let mut topics = Self::default();
        for (number, cluster) in settings.exactly_once.iter().enumerate() {
            let options = TransactionOptions {
                progress: cluster.progress.clone(),
                replicas: settings.replicas(),
                transactional_id: settings.transactional_id(process.index, number),
                generation,
                commit_interval: cluster.commit_interval,
                bytes_max: process.config.limits.max_in_flight_bytes / 4,
                fail: verdict::on_kafka(process, settings, generation),
            };
            let brokers = cluster.brokers.iter().map(|list| (*list).to_owned());
            let transactions = Transactions::connect(options, &process.stop)?;
            topics.transactions.push((brokers.collect(), transactions));
        }
        Ok(topics)
    }

    /// Reads how far the sinks have come; returns the newest epoch that one has.
    pub(super) fn read(&mut self, settings: &Settings<'_>, stop: &Stop) -> Result<u64, Failure> {
        for topic in settings.progress.values() {
            self.progress.merge(read_progress(topic, stop)?);
        }
        Ok(self.progress.newest())
    }

    /// On process 0, begins to record how far sinks have come that write at least once.
    pub(super) fn record(
        &mut self,
        process: &Process,
        settings: &Settings<'_>,
        generation: u64,
        (newest, monitor): (NewestBound, &Arc<Monitor>),
    ) -> Result<(), Failure> {
        let shards = settings.config.limits.shards;
        let recorded = |sink: &&str| {
            let epochs = self.progress.of_shards(sink, 0..shards).into_iter();
            ((*sink).to_owned(), epochs.max().unwrap_or(0))
        };
        let clusters = settings.at_least_once.iter();
        let recorders = clusters.map(|(cluster, sinks)| {
            let (newest, monitor) = (Arc::clone(&newest), Arc::clone(monitor));
            Recorder::start(RecorderOptions {
                progress: settings.progress[cluster].clone(),
                sinks: sinks.iter().map(recorded).collect(),
                shards,
                generation,
                newest,
                settled: Arc::new(move || monitor.settled_before()),
                fail: kafka_fatal(process.fatal),
            })
        });
        self.recorders = recorders.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Commits and records how far sinks have come, now that all rows are written.
    pub(super) fn end(self) {
        drop(self.transactions);
        drop(self.recorders);
    }
}

impl Durable {
    /// A sink of one worker to a topic, which gets what it does not have.
    pub(super) fn sink(
        &self,
        name: &str,
        destination: &Arc<Destination>,
        delivery: Delivery,
        worker: usize,
    ) -> Result<Box<dyn Sink + Send>, Failure> {
        let shards: Range<usize> = self.ownership.shards_of(worker);
        let sink = match delivery {
            Delivery::ExactlyOnce { .. } => {
                let mut clusters = self.topics.transactions.iter();
                let own = clusters
                    .find(|(lists, _)| lists.iter().any(|list| list == destination.brokers()));
                let (_, transactions) = own.expect("such a sink has transactions at its cluster");
                destination.open_in(transactions, name, shards.clone())
            }
            // Dead letters are told apart by their keys: where their record stands.
            _ if name == DEAD_LETTERS => destination.open(None)?,
            _ => destination.open(Some(self.ownership.clone()))?,
        };
        let committed = self.topics.progress.of_shards(name, shards.clone());
        if committed.iter().all(|epoch| *epoch == 0) && name != DEAD_LETTERS {
            self.tell_new(name);
        }
        let ownership = self.ownership.clone();
        Ok(Box::new(Skipping::new(sink, ownership, shards, committed)))
    }
}

/// Fences the ids that earlier generations named and this one does not use.
pub(super) fn fence_earlier<'a>(
    settings: &Settings<'_>,
    earlier: impl Iterator<Item = &'a Marker>,
    stop: &Stop,
) -> Result<(), Failure> {
    let used = settings.producers();
    let producers = earlier.flat_map(|marker| &marker.producers);
    let mut unused: Vec<_> = producers
        .filter(|producer| !used.contains(producer))
        .collect();
    unused.sort_by_key(|producer| (&producer.brokers, &producer.id));
    unused.dedup();
    for TransactionalId { brokers, id } in unused {
        let topic = settings.progress.get(&**brokers).cloned();
        let topic = topic.unwrap_or_else(|| KafkaTopic {
            brokers: brokers.clone(),
            ..nearest(settings)
        });
        Transactions::fence(&topic, std::slice::from_ref(id), stop)?;
    }
    Ok(())
}

/// A topic whose settings are the best guess for a cluster that the job has left.
fn nearest(settings: &Settings<'_>) -> KafkaTopic {
    match (&settings.bindings, settings.progress.values().next()) {
        (Bindings::Topic(topic), _) => topic.clone(),
        (Bindings::File(_), Some(topic)) => topic.clone(),
        (Bindings::File(_), None) => KafkaTopic {
            brokers: String::new(),
            topic: format!("{}.progress", settings.config.job),
            properties: BTreeMap::new(),
        },
    }
}

/// What is done when a checkpoint is published: monitors of lag are told, and what it makes
/// needless of a log in a topic is removed.
pub(super) fn published(
    settings: &Settings<'_>,
    clock: &Arc<WallClock>,
    stop: &Arc<Stop>,
) -> Published {
    let config = settings.config;
    let (EventSource::Kafka { topic, .. }, Bindings::Topic(bindings)) =
        (&config.events.source, &settings.bindings)
    else {
        return Box::new(|_, _| {});
    };
    let retention_ms = config.checkpoint.bindings_retention.as_millis();
    let retention_ms = u64::try_from(retention_ms).unwrap_or(u64::MAX);
    let group = GroupOffsets::new(topic, &config.job);
    let commit = config.checkpoint.commit_group_offsets;
    let (bindings, clock, stop) = (bindings.clone(), Arc::clone(clock), Arc::clone(stop));
    let mut trimmed_ms = clock.now_ms();
    Box::new(move |manifest, before| {
        let offsets = manifest.offsets.iter();
        let ends = offsets.map(|(partition, end)| (*partition, *end)).collect();
        if commit && let Err(error) = group.commit(&ends) {
            tracing::warn!(%error, "could not commit offsets for monitors of lag");
        }
        let now_ms = clock.now_ms();
        let Some(before) = before.filter(|_| now_ms > trimmed_ms + TRIM_EVERY_MS) else {
            return;
        };
        trimmed_ms = now_ms;
        let oldest_ms = now_ms.saturating_sub(retention_ms);
        if let Err(error) = trim_bindings(&bindings, before.log.next, oldest_ms, &stop) {
            tracing::warn!(%error, "could not trim the binding log; tried again later");
        }
    })
}

/// The last epoch that a sink is known to have, also where nothing is recorded yet; 0 if none.
pub(super) fn written(settings: &Settings<'_>, stop: &Stop) -> Result<u64, Failure> {
    let mut newest = 0;
    for topic in settings.progress.values() {
        newest = newest.max(look_at_progress(topic, stop)?.newest());
    }
    Ok(newest)
}

/// What is recorded in a topic; nothing if it is not there.
fn look_at_progress(topic: &KafkaTopic, stop: &Stop) -> Result<Progress, Error> {
    match read_progress(topic, stop) {
        Err(Error::UnknownTopic { .. }) => Ok(Progress::default()),
        progress => progress,
    }
}

/// Tells how far the sinks have come, for people.
pub(super) fn show_progress(
    text: &mut String,
    settings: &Settings<'_>,
    stop: &Stop,
) -> Result<(), Failure> {
    for topic in settings.progress.values() {
        let progress = look_at_progress(topic, stop)?;
        write_progress(text, &progress).expect("a string takes all");
    }
    Ok(())
}

fn write_progress(text: &mut String, progress: &Progress) -> std::fmt::Result {
    if progress.records().next().is_none() {
        return Ok(());
    }
    writeln!(
        text,
        "\n{:<24} {:>9} {:>14} {:>10}",
        "sink", "shards", "epoch", "generation"
    )?;
    for (sink, record) in progress.records() {
        let shards = format!("{}-{}", record.shards.start, record.shards.end - 1);
        let (epoch, generation) = (record.epoch, record.generation);
        writeln!(text, "{sink:<24} {shards:>9} {epoch:>14} {generation:>10}")?;
    }
    Ok(())
}

/// Deletes the job's own topics: first that of the bindings.
pub(super) fn forget(settings: &Settings<'_>, stop: &Stop) -> Result<(), Failure> {
    let bindings = match &settings.bindings {
        Bindings::Topic(topic) => Some(topic),
        Bindings::File(_) => None,
    };
    for topic in bindings.into_iter().chain(settings.progress.values()) {
        delete_topic(topic, stop)?;
    }
    Ok(())
}
