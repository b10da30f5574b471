//! Checks what a configuration names, for `deltajoin check`: that it can be reached, and that what
//! is there has the declared types. Nothing is written, no file emptied, no offset committed.

use deltajoin_workers::ports::Stop;

use crate::config::{Config, EventSource, ReferenceSource, Target};
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;

/// Looks at every input and output; gives a line for each.
///
/// # Errors
/// The first thing that is not as the job needs it.
pub fn check(config: &Config, stop: &Stop) -> Result<Vec<String>, Failure> {
    let mut lines = vec![check_events(config, stop)?, check_reference(config, stop)?];
    for sink in &config.sinks {
        lines.push(format!(
            "sink {:?}: {}",
            sink.name,
            check_target(&sink.target, stop)?
        ));
    }
    lines.push(format!(
        "dead letters: {}",
        check_target(&config.dead_letters, stop)?
    ));
    Ok(lines)
}

fn check_events(config: &Config, stop: &Stop) -> Result<String, Failure> {
    match &config.events.source {
        EventSource::File { path } => {
            file::Events::open(path)?;
            Ok(format!("events: file {} can be read", path.display()))
        }
        #[cfg(feature = "kafka")]
        EventSource::Kafka { topic, .. } => {
            let schema = &config.events.schema;
            let sample = kafka::sample(topic, schema, config.limits.max_record_bytes, stop)?;
            let kafka::Sample {
                partitions,
                records,
                rejected,
                first,
            } = sample;
            if let Some((origin, error)) = first
                && rejected == records
            {
                let place = format!("{}[{}]@{}", topic.topic, origin.partition, origin.offset);
                let primary = format!("no event of topic {:?} has the declared types", topic.topic);
                return Err(Failure::usage(primary)
                    .detail(format!(
                        "{place}: {error}; and so on for {records} newest records"
                    ))
                    .hint("Compare events.columns and events.format with what is published."));
            }
            Ok(format!(
                "events: topic {:?}, {partitions} partitions; of {records} newest records \
                 {rejected} would be dead letters",
                topic.topic
            ))
        }
        #[cfg(not(feature = "kafka"))]
        EventSource::Kafka { .. } => {
            let _ = stop;
            Err(crate::process::inputs::without_kafka("[events]"))
        }
    }
}

fn check_reference(config: &Config, stop: &Stop) -> Result<String, Failure> {
    match &config.reference.source {
        ReferenceSource::File { path } => {
            let schema = &config.reference.schema;
            let table = file::Table::read(path, schema, config.limits.max_record_bytes)?;
            Ok(format!(
                "reference: file {}, {} rows",
                path.display(),
                table.rows()
            ))
        }
        #[cfg(feature = "kafka")]
        ReferenceSource::Kafka { topic } => {
            let mut connection = kafka::Connection::open(topic)?;
            let partitions = connection.partitions(stop)?;
            Ok(format!(
                "reference: topic {:?}, {partitions} partitions",
                topic.topic
            ))
        }
        #[cfg(not(feature = "kafka"))]
        ReferenceSource::Kafka { .. } => {
            let _ = stop;
            Err(crate::process::inputs::without_kafka("[reference]"))
        }
    }
}

fn check_target(target: &Target, stop: &Stop) -> Result<String, Failure> {
    match target {
        Target::JsonLines { path } => {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(std::path::Path::new("."));
            let found = std::fs::metadata(folder);
            if !found.is_ok_and(|found| found.is_dir() && !found.permissions().readonly()) {
                let folder = folder.display();
                return Err(Failure::usage(format!(
                    "cannot write files in folder \"{folder}\""
                )));
            }
            if path.is_dir() {
                return Err(
                    Failure::usage(format!("cannot write file {path:?}")).detail("It is a folder.")
                );
            }
            Ok(format!("file {}", path.display()))
        }
        #[cfg(feature = "kafka")]
        Target::Kafka { topic, .. } => {
            let mut connection = kafka::Connection::open(topic)?;
            let partitions = connection.partitions(stop)?;
            Ok(format!("topic {:?}, {partitions} partitions", topic.topic))
        }
        #[cfg(not(feature = "kafka"))]
        Target::Kafka { .. } => {
            let _ = stop;
            Err(crate::process::inputs::without_kafka("a sink"))
        }
    }
}
