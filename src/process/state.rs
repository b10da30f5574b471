//! What outlives a restart of a job, looked at and forgotten, for `deltajoin state`.
//!
//! It is apart from `joining`, which takes it over: here nothing is claimed or run.
//!
//! # Invariants
//! * A look changes nothing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltajoin_workers::ports::Stop;

use crate::bindings::{self, Fault, Record, Records as _};
use crate::checkpoint::{Checkpoint, Manifest, Options, Store, forget, list, verify_all};
use crate::config::{Bindings, Config, DEAD_LETTERS, Target};
use crate::connectors::file;
use crate::error::ExitCode;
use crate::failure::Failure;
use crate::process::cold::Cold;
use crate::process::log;
use crate::process::promises::{Settings, outlives};
use crate::process::rehearsal::{Bound, read_log};
use crate::process::topics;

/// Tells of checkpoints, bindings, offsets and progress; with `verify` every byte of them is read.
///
/// # Errors
/// If it cannot be read, or if a byte is wrong.
pub fn state(config: &Config, verify: bool, stop: &Arc<Stop>) -> Result<String, Failure> {
    let settings = settings(config)?;
    let location = &config.checkpoint.location;
    let options = Options::default();
    let store = Store::open_to_read(location, &config.job, options, Arc::clone(stop));
    let store = store.map_err(|error| {
        Failure::from(error).hint("It is there once the job has been started: is this its name?")
    })?;
    // First, as what cannot be read cannot be shown.
    let verified = verify
        .then(|| verify_kept(&settings, &store, stop))
        .transpose()?;
    let mut text = String::new();
    let checkpoints = list(&store)?;
    let mut newest = checkpoints.iter().rev();
    let newest = newest.find_map(|one| one.manifest.as_ref().ok());
    let bound = read_log(&settings, (Some(&store), newest), stop)?;
    let log = log::name(&settings.bindings);
    write_checkpoints(&mut text, &checkpoints).expect("a string takes all");
    write_bound(&mut text, &log, (newest, bound)).expect("a string takes all");
    topics::show_progress(&mut text, &settings, stop)?;
    show_files(&mut text, config)?;
    text.extend(verified);
    Ok(text)
}

/// Reads every byte that is kept; a line that says so if all are good.
fn verify_kept(
    settings: &Settings<'_>,
    store: &Store,
    stop: &Arc<Stop>,
) -> Result<String, Failure> {
    let config = settings.config;
    let verified = verify_all(store)?;
    let (objects, bytes) = (verified.objects, verified.bytes);
    let mut faults: Vec<String> = verified.faults.iter().map(ToString::to_string).collect();
    let records = note(&mut faults, verify_log(settings, stop))?;
    note(&mut faults, topics::written(settings, stop))?;
    for (sink, path) in row_files(config) {
        let looked = file::look(path, &config.job, sink);
        note(&mut faults, looked.map_err(Failure::from))?;
    }
    if faults.is_empty() {
        let records = records.unwrap_or_default();
        return Ok(format!(
            "\nread {objects} objects of {bytes} bytes, {records} records of the log and the \
             progress of all sinks: all are good\n"
        ));
    }
    let message = format!("{} faults in what the job keeps", faults.len());
    Err(Failure::failed(message).detail(faults.join("\n")))
}

/// Notes damage, which does not end the look; what else is wrong does.
fn note<T>(faults: &mut Vec<String>, outcome: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match outcome {
        Err(fault) if fault.code == ExitCode::Usage => {
            let fault = fault.to_string();
            faults.push(fault.strip_prefix("error: ").unwrap_or(&fault).to_owned());
            Ok(None)
        }
        outcome => outcome.map(Some),
    }
}

/// Reads every record of the log, also those that no start needs; how many there are.
fn verify_log(settings: &Settings<'_>, stop: &Stop) -> Result<u64, Failure> {
    let Some(mut log) = log::look(&settings.bindings, stop)? else {
        return Ok(0);
    };
    let first = log.first(stop)?;
    let mut next = first;
    log.read(first, stop, &mut |offset, bytes| {
        if offset != next {
            return Err(Fault::Missing { next });
        }
        next += 1;
        Record::decode(bytes).map(|_| true)
    })?;
    Ok(next - first)
}

/// Tells what is bound: how much of it behind the newest checkpoint, and by partition.
fn write_bound(
    text: &mut String,
    log: &str,
    (newest, bound): (Option<&Manifest>, Option<Bound>),
) -> std::fmt::Result {
    let Some(bound) = bound.filter(|bound| bound.newest > 0) else {
        return Ok(());
    };
    let place = match newest {
        Some(manifest) => format!("behind {}", manifest.name()),
        None => "and no checkpoint".to_owned(),
    };
    let (behind, epoch) = (bound.behind, bound.newest);
    writeln!(
        text,
        "\n{log}: {behind} bindings {place}, bound up to epoch {epoch}"
    )?;
    writeln!(
        text,
        "\n{:<10} {:>14} {:>14}",
        "partition", "checkpoint", "bound"
    )?;
    for (partition, (from, end)) in &bound.ranges {
        writeln!(text, "{partition:<10} {from:>14} {end:>14}")?;
    }
    Ok(())
}

/// Tells how far files of rows have come.
fn show_files(text: &mut String, config: &Config) -> Result<(), Failure> {
    let mut lines = String::new();
    for (sink, path) in row_files(config) {
        if let Some((epoch, bytes)) = file::recorded(path)? {
            let path = path.display();
            writeln!(lines, "{sink:<24} {epoch:>14} {bytes:>14}  {path}")
                .expect("a string takes all");
        }
    }
    if !lines.is_empty() {
        let (sink, epoch, bytes) = ("sink", "epoch", "bytes");
        writeln!(text, "\n{sink:<24} {epoch:>14} {bytes:>14}  file").expect("a string takes all");
        text.push_str(&lines);
    }
    Ok(())
}

fn write_checkpoints(text: &mut String, checkpoints: &[Checkpoint]) -> std::fmt::Result {
    writeln!(
        text,
        "{:<32} {:>14} {:>14} {:>10} {:>12} {:>14} {:>10}",
        "checkpoint", "epoch", "written ms", "generation", "keys", "bytes", "log offset"
    )?;
    for checkpoint in checkpoints {
        match &checkpoint.manifest {
            Ok(manifest) => writeln!(
                text,
                "{:<32} {:>14} {:>14} {:>10} {:>12} {:>14} {:>10}",
                checkpoint.name,
                manifest.epoch,
                manifest.written_ms,
                manifest.generation,
                manifest.keys(),
                manifest.bytes(),
                manifest.log.next
            )?,
            Err(error) => writeln!(text, "{:<32} {error}", checkpoint.name)?,
        }
    }
    Ok(())
}

/// Refuses to begin a job anew beside rows of its sinks, which it would write again.
pub(super) fn refuse_rows(settings: &Settings<'_>, stop: &Stop) -> Result<(), Failure> {
    let mut written = topics::written(settings, stop)?;
    for (sink, path) in row_files(settings.config) {
        written = written.max(file::look(path, &settings.config.job, sink)?);
    }
    match written {
        0 => Ok(()),
        written => {
            let log = log::name(&settings.bindings);
            Err(bindings::Error::NothingBound { log, written }.into())
        }
    }
}

/// What `forget_job` would remove, a line each.
///
/// # Errors
/// If the job keeps nothing.
pub fn kept(config: &Config) -> Result<Vec<String>, Failure> {
    let settings = settings(config)?;
    let bindings = match &settings.bindings {
        Bindings::Topic(topic) => Some(topic),
        Bindings::File(_) => None,
    };
    let topics = settings.progress.values().chain(bindings);
    let mut kept: Vec<String> = topics
        .map(|topic| format!("topic {} at {}", topic.topic, topic.brokers))
        .collect();
    let (location, job) = (&config.checkpoint.location, &config.job);
    kept.push(format!("checkpoints of {job} in {location}"));
    kept.extend(files(config).map(|path| format!("file {}", path.display())));
    Ok(kept)
}

/// Forgets the job: the next start is its first. Rows that are written stay.
///
/// # Errors
/// If something cannot be removed.
pub fn forget_job(config: &Config, stop: &Arc<Stop>) -> Result<(), Failure> {
    let settings = settings(config)?;
    // Bindings first: without them nothing else is gone on from.
    if let Bindings::File(path) = &settings.bindings {
        // Not while the job runs.
        if path.exists() {
            drop(file::BindingFile::open(path)?);
        }
        remove(path)?;
    }
    topics::forget(&settings, stop)?;
    let location = &config.checkpoint.location;
    let options = Options::default();
    let store = Store::open(location, &config.job, options, Arc::clone(stop))?;
    forget(&store)?;
    Cold::forget(config)?;
    progress_files(config).try_for_each(|path| remove(&path))
}

fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::failed(
            format!("could not remove {path:?}: {error}"),
        )),
        _ => Ok(()),
    }
}

/// The files that tell of the job: of bindings, and of what stands in files of rows.
fn files(config: &Config) -> impl Iterator<Item = PathBuf> {
    let bindings = match config.bindings() {
        Bindings::Topic(_) => None,
        Bindings::File(path) => Some(path),
    };
    progress_files(config).chain(bindings)
}

/// The progress of files, each beside its file.
fn progress_files(config: &Config) -> impl Iterator<Item = PathBuf> {
    row_files(config).map(|(_, path)| file::progress_beside(path))
}

/// The files of rows, with the names of their sinks.
fn row_files(config: &Config) -> impl Iterator<Item = (&str, &Path)> {
    let sinks = config.sinks.iter();
    let sinks = sinks.map(|sink| (&*sink.name, &sink.target));
    let targets = sinks.chain([(DEAD_LETTERS, &config.dead_letters)]);
    targets.filter_map(|(name, target)| match target {
        Target::JsonLines { path } => Some((name, &**path)),
        Target::Kafka { .. } => None,
    })
}

fn settings(config: &Config) -> Result<Settings<'_>, Failure> {
    if outlives(config) {
        return Ok(Settings::of(config));
    }
    Err(Failure::usage(
        "this job keeps nothing: its events come from a pipe",
    ))
}
