//! The checked configuration, put together from what the walk and the checks have passed.
//!
//! It is apart from the checks because it says nothing about faults: it names, for each field of
//! `Config`, the setting that it comes from.
//!
//! # Invariants
//! * The result is `None` only if a fault was reported.

use std::time::Duration;

use crate::config::columns;
use crate::config::fault::Faults;
use crate::config::model::{
    Checkpoint, Cluster, Config, Delivery, Distinct, Envelope, EventSource, Events, Keep, Limits,
    OnMissing, Partitioner, Reference, ReferenceSource, Sink, State, Target, Telemetry,
};
use crate::config::section::Sections;
use crate::config::walk::Section;

/// Reads the configuration.
pub(super) fn read(sections: &Sections, faults: &mut Faults) -> Option<Config> {
    // All parts are read before any is needed, so that all faults are found.
    let events = events(sections, faults);
    let reference = reference(sections, faults);
    let join = columns::join(sections, faults);
    let distinct = distinct(sections);
    let sinks = sections.all("sinks").map(sink).collect::<Option<_>>();
    Some(Config {
        job: sections.get("")?.text("job")?.to_owned(),
        events: events?,
        distinct: distinct?,
        reference: reference?,
        join: join?,
        sinks: sinks?,
        dead_letters: target(sections.get("dead_letters")?)?,
        cluster: cluster(sections.get("cluster")?)?,
        checkpoint: checkpoint(sections.get("checkpoint")?)?,
        state: state(sections.get("state")?)?,
        limits: limits(sections.get("limits")?)?,
        telemetry: telemetry(sections.get("telemetry")?)?,
    })
}

fn events(sections: &Sections, faults: &mut Faults) -> Option<Events> {
    let section = sections.get("events")?;
    let schema = columns::schema(section, faults);
    let time = columns::event_time(section, faults);
    let source = match section.text("type")? {
        "kafka" => EventSource::Kafka {
            topic: section.kafka_topic()?,
            start: section.start("start")?,
            on_missing: match section.text("on_missing_offsets")? {
                "earliest" => OnMissing::Earliest,
                _ => OnMissing::Fail,
            },
        },
        _ => EventSource::File {
            path: section.path("path")?,
        },
    };
    Some(Events {
        source,
        schema: schema?,
        time: time?,
    })
}

fn distinct(sections: &Sections) -> Option<Distinct> {
    let section = sections.get("distinct")?;
    let keep = match section.text("keep")? {
        "earliest" => Keep::Earliest,
        "latest" => Keep::Latest,
        _ => Keep::First,
    };
    let has_time = sections.get("events")?.field("time").is_some();
    let may_differ = section.text("retry_time")? == "may-differ";
    Some(Distinct {
        keep,
        by_arrival: !has_time || may_differ || keep != Keep::First,
        horizon: section.duration("horizon")?,
        future: section.duration("future")?,
        detect_conflicts: section.flag("detect_conflicts")?,
    })
}

fn reference(sections: &Sections, faults: &mut Faults) -> Option<Reference> {
    let section = sections.get("reference")?;
    let schema = columns::schema(section, faults);
    let source = match section.text("type")? {
        "kafka" => ReferenceSource::Kafka {
            topic: section.kafka_topic()?,
        },
        _ => ReferenceSource::File {
            path: section.path("path")?,
        },
    };
    let refresh = match &source {
        ReferenceSource::File { .. } => section.duration("refresh")?,
        ReferenceSource::Kafka { .. } => Duration::ZERO,
    };
    Some(Reference {
        source,
        schema: schema?,
        refresh,
    })
}

fn sink(section: &Section) -> Option<Sink> {
    Some(Sink {
        name: section.text("name")?.to_owned(),
        envelope: match section.text("envelope")? {
            "changelog" => Envelope::Changelog,
            _ => Envelope::Upsert,
        },
        target: target(section)?,
    })
}

fn target(section: &Section) -> Option<Target> {
    Some(match section.text("type")? {
        "kafka" => Target::Kafka {
            topic: section.kafka_topic()?,
            partitioner: match section.text("partitioner") {
                // Dead letters are no rows of a key group; they go by their own key.
                Some("murmur2") => Partitioner::Murmur2,
                _ => Partitioner::KeyGroup,
            },
            delivery: match section.text("delivery")? {
                "exactly-once" => Delivery::ExactlyOnce {
                    commit_interval: section.duration("commit_interval")?,
                },
                _ => Delivery::AtLeastOnce,
            },
        },
        _ => Target::JsonLines {
            path: section.path("path")?,
        },
    })
}

fn cluster(section: &Section) -> Option<Cluster> {
    let addresses = section.names("addresses")?.iter();
    Some(Cluster {
        processes: section.whole("processes")?,
        threads: section.whole("threads")?,
        addresses: addresses.map(|address| address.value.clone()).collect(),
        secret_file: section.optional_path("secret_file")?,
        peer_timeout: section.duration("peer_timeout")?,
        restarts: section.whole("restarts")?,
    })
}

fn checkpoint(section: &Section) -> Option<Checkpoint> {
    Some(Checkpoint {
        location: section.text("location")?.to_owned(),
        interval: section.duration("interval")?,
        bindings_retention: section.duration("bindings_retention")?,
        bindings_brokers: {
            let brokers = section.text("bindings_brokers")?;
            (!brokers.is_empty()).then(|| brokers.to_owned())
        },
        commit_group_offsets: section.flag("commit_group_offsets")?,
    })
}

fn state(section: &Section) -> Option<State> {
    Some(State {
        dir: section.path("dir")?,
        memory_limit: section.size("memory_limit")?,
    })
}

fn limits(section: &Section) -> Option<Limits> {
    Some(Limits {
        tick: section.duration("tick")?,
        max_in_flight_bytes: section.size("max_in_flight_bytes")?,
        max_record_bytes: section.size("max_record_bytes")?,
        shards: section.whole("shards")?,
        topic_replication: section.whole("topic_replication")?,
    })
}

fn telemetry(section: &Section) -> Option<Telemetry> {
    Some(Telemetry {
        log: section.text("log")?.to_owned(),
        status_file: section.optional_path("status_file")?,
    })
}
