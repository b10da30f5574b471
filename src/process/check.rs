//! Checks what a configuration names, for `deltajoin check`: that it can be reached, that what is
//! there has the declared types, and that a start could go on from what earlier ones have left.
//! Nothing is written that lasts, no file emptied, no offset committed.

use std::path::Path;
use std::sync::Arc;

use deltajoin_workers::ports::Stop;
use rustix::fs::{Access, access};

use crate::config::{Config, DEAD_LETTERS, EventSource, Loaded, ReferenceSource, Target};
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;
use crate::process::promises::outlives;
use crate::process::rehearsal::rehearse;

/// Looks at every input and output; gives a line for each.
///
/// # Errors
/// The first thing that is not as the job needs it.
pub fn check(loaded: &Loaded, stop: &Arc<Stop>) -> Result<Vec<String>, Failure> {
    let config = &loaded.config;
    // First, because Kafka may have to be waited for.
    let mut lines = Vec::from_iter(check_status_file(loaded)?);
    lines.extend([check_events(config, stop)?, check_reference(config, stop)?]);
    for sink in &config.sinks {
        lines.push(format!(
            "sink {:?}: {}",
            sink.name,
            check_target(config, &sink.name, &sink.target, stop)?
        ));
    }
    lines.push(format!(
        "dead letters: {}",
        check_target(config, DEAD_LETTERS, &config.dead_letters, stop)?
    ));
    lines.extend(rehearse(config, stop)?);
    Ok(lines)
}

fn check_status_file(loaded: &Loaded) -> Result<Option<String>, Failure> {
    let Some(path) = &loaded.config.telemetry.status_file else {
        return Ok(None);
    };
    can_be_written(path).map_err(|obstacle| {
        let message = format!("cannot write status file {path:?}");
        let report = loaded.fault("telemetry", "status_file", &message, &obstacle);
        Failure::report(&report.to_string())
    })?;
    Ok(Some(format!("status file: {}", path.display())))
}

/// Looks whether a file can be made there, or made anew; else says what is in the way.
fn can_be_written(path: &Path) -> Result<(), String> {
    let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(format!("There is no folder {folder:?}."));
    }
    if path.is_dir() {
        return Err("It is a folder.".to_owned());
    }
    access(folder, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| format!("No file can be made in folder {folder:?}: {error}."))
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

fn check_target(
    config: &Config,
    name: &str,
    target: &Target,
    stop: &Stop,
) -> Result<String, Failure> {
    match target {
        Target::JsonLines { path } => {
            can_be_written(path).map_err(|obstacle| {
                Failure::usage(format!("cannot write file {path:?}")).detail(obstacle)
            })?;
            // Only such a job goes on with what is there.
            let written = match outlives(config) {
                true => file::look(path, &config.job, name)?,
                false => 0,
            };
            let path = path.display();
            Ok(match written {
                0 => format!("file {path}"),
                written => format!("file {path}, written up to epoch {written}"),
            })
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
