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

use crate::checkpoint::{Checkpoint, Options, Store, forget, list, verify_all};
use crate::config::{Bindings, Config, Target};
use crate::connectors::file;
use crate::error::ExitCode;
use crate::failure::Failure;
use crate::process::cold::Cold;
use crate::process::promises::{Settings, outlives};
use crate::process::topics;

/// Tells of checkpoints, offsets and progress; with `verify` every byte of checkpoints is read.
///
/// # Errors
/// If it cannot be read, or if a byte is wrong.
pub fn state(config: &Config, verify: bool, stop: &Arc<Stop>) -> Result<String, Failure> {
    let settings = settings(config)?;
    let location = &config.checkpoint.location;
    let options = Options::default();
    let store = Store::open_to_read(location, &config.job, options, Arc::clone(stop))?;
    let mut text = String::new();
    let checkpoints = list(&store)?;
    write_checkpoints(&mut text, &checkpoints).expect("a string takes all");
    topics::show_progress(&mut text, &settings, stop)?;
    if !verify {
        return Ok(text);
    }
    let verified = verify_all(&store)?;
    let (objects, bytes) = (verified.objects, verified.bytes);
    if verified.faults.is_empty() {
        writeln!(
            text,
            "\nread {objects} objects of {bytes} bytes: all are good"
        )
        .expect("a string takes all");
        return Ok(text);
    }
    let faults: Vec<String> = verified.faults.iter().map(ToString::to_string).collect();
    Err(
        Failure::failed(format!("{} faults in {location}", faults.len()))
            .code(ExitCode::Failed)
            .detail(faults.join("\n")),
    )
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
    let newest = checkpoints
        .iter()
        .rev()
        .find_map(|one| one.manifest.as_ref().ok());
    let Some(manifest) = newest else {
        return Ok(());
    };
    writeln!(text, "\n{:<10} {:>14}", "partition", "offset")?;
    for (partition, offset) in &manifest.offsets {
        writeln!(text, "{partition:<10} {offset:>14}")?;
    }
    Ok(())
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
    let targets = config.sinks.iter().map(|sink| &sink.target);
    targets
        .chain([&config.dead_letters])
        .filter_map(|target| match target {
            Target::JsonLines { path } => Some(file::progress_beside(path)),
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
