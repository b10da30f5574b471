//! Checks what a configuration names, for `deltajoin check`: that it can be reached, that what is
//! there has the declared types, and that a start could go on from what earlier ones have left.
//! Nothing is written that lasts, no file emptied, no offset committed.
//!
//! # Invariants
//! * One obstacle does not hide another: whatever can be looked at without it is.

use std::path::Path;
use std::sync::Arc;

use deltajoin_workers::ports::Stop;
use rustix::fs::{Access, access};

use crate::codec::json::Sample;
use crate::config::{Config, DEAD_LETTERS, EventSource, Loaded, ReferenceSource, Target};
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;
use crate::process::promises::outlives;
use crate::process::rehearsal::rehearse;

/// What is found of one thing: a line that says how it is, or what is not as the job needs it.
pub type Finding = Result<String, Failure>;

/// Looks at every input and output, and at what a start would go on from.
pub fn check(loaded: &Loaded, stop: &Arc<Stop>) -> Vec<Finding> {
    let config = &loaded.config;
    // First, because Kafka may have to be waited for.
    let mut found = Vec::from_iter(check_status_file(loaded).transpose());
    found.extend([check_events(config, stop), check_reference(config, stop)]);
    for (number, sink) in config.sinks.iter().enumerate() {
        let table = ("sinks", number);
        let is = check_target(loaded, table, (&sink.name, &sink.target), stop);
        found.push(is.map(|is| format!("sink {:?}: {is}", sink.name)));
    }
    let dead_letters = (DEAD_LETTERS, &config.dead_letters);
    let is = check_target(loaded, ("dead_letters", 0), dead_letters, stop);
    found.push(is.map(|is| format!("dead letters: {is}")));
    found.extend(rehearse(config, stop));
    found
}

fn check_status_file(loaded: &Loaded) -> Result<Option<String>, Failure> {
    let Some(path) = &loaded.config.telemetry.status_file else {
        return Ok(None);
    };
    can_be_made(path).map_err(|obstacle| {
        let message = format!("cannot write status file {path:?}");
        let setting = (("telemetry", 0), "status_file");
        refused(loaded, setting, &message, &obstacle)
    })?;
    Ok(Some(format!("status file: {}", path.display())))
}

/// What is wrong with a setting, with its place.
fn refused(
    loaded: &Loaded,
    (table, setting): ((&str, usize), &str),
    message: &str,
    obstacle: &str,
) -> Failure {
    let report = loaded.fault(table, setting, message, obstacle);
    Failure::report(&report.to_string())
}

/// Looks whether a file can be made there, or made anew; else says what is in the way.
fn can_be_made(path: &Path) -> Result<(), String> {
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

/// Looks whether rows can be added there.
fn can_be_written(path: &Path) -> Result<(), String> {
    can_be_made(path)?;
    if !path.exists() {
        return Ok(());
    }
    access(path, Access::WRITE_OK).map_err(|error| format!("It cannot be written to: {error}."))
}

fn check_events(config: &Config, stop: &Stop) -> Finding {
    let (schema, record_bytes_max) = (&config.events.schema, config.limits.max_record_bytes);
    match &config.events.source {
        EventSource::File { path } => {
            let sample = file::sample(path, schema, record_bytes_max)?;
            let name = format!("file {path:?}");
            let sampled = judge(&name, "first lines", &sample)?;
            Ok(format!("events: file {}; {sampled}", path.display()))
        }
        #[cfg(feature = "kafka")]
        EventSource::Kafka { topic, .. } => {
            let (partitions, sample) = kafka::sample(topic, schema, record_bytes_max, stop)?;
            let name = format!("topic {:?}", topic.topic);
            let sampled = judge(&name, "newest records", &sample)?;
            Ok(format!(
                "events: {name}, {partitions} partitions; {sampled}"
            ))
        }
        #[cfg(not(feature = "kafka"))]
        EventSource::Kafka { .. } => {
            let _ = stop;
            Err(crate::process::inputs::without_kafka("[events]"))
        }
    }
}

/// Says what a sample of events is like, unless none of them has the declared types.
fn judge(name: &str, which: &str, sample: &Sample) -> Finding {
    let Sample {
        records, rejected, ..
    } = sample;
    let sampled = format!("of {records} {which} {rejected} would be dead letters");
    match &sample.first {
        None => Ok(sampled),
        Some(first) if rejected < records => Ok(format!("{sampled}, the first for {first}")),
        Some(first) => Err(
            Failure::usage(format!("no event of {name} has the declared types"))
                .detail(format!("{first}; and so on for {records} {which}"))
                .hint("Compare events.columns and events.format with what is published."),
        ),
    }
}

fn check_reference(config: &Config, stop: &Stop) -> Finding {
    let (schema, record_bytes_max) = (&config.reference.schema, config.limits.max_record_bytes);
    match &config.reference.source {
        ReferenceSource::File { path } => {
            let table = file::Table::read(path, schema, record_bytes_max)?;
            Ok(format!(
                "reference: file {}, {} rows",
                path.display(),
                table.rows()
            ))
        }
        #[cfg(feature = "kafka")]
        ReferenceSource::Kafka { topic } => {
            let sampled = kafka::sample_reference(topic, schema, record_bytes_max, stop)?;
            let (partitions, records) = sampled;
            Ok(format!(
                "reference: topic {:?}, {partitions} partitions; its {records} newest records \
                 are good",
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
    loaded: &Loaded,
    table: (&str, usize),
    (name, target): (&str, &Target),
    stop: &Stop,
) -> Finding {
    let config = &loaded.config;
    match target {
        Target::JsonLines { path } => {
            can_be_written(path).map_err(|obstacle| {
                let message = format!("cannot write file {path:?}");
                refused(loaded, (table, "path"), &message, &obstacle)
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
            let partitions = kafka::writable(&mut connection, topic, stop)?;
            Ok(format!("topic {:?}, {partitions} partitions", topic.topic))
        }
        #[cfg(not(feature = "kafka"))]
        Target::Kafka { .. } => {
            let _ = stop;
            Err(crate::process::inputs::without_kafka("a sink"))
        }
    }
}
