//! Why a generation ends: a newer one explains whatever else seems to be wrong.
//!
//! It is apart because a start and a running process end for errors of many kinds, and what they
//! mean is asked in one way: the log of bindings holds a newer marker, or it does not.
//!
//! # Invariants
//! * Superseded means that the log holds a newer marker, and nothing else.

#[cfg(feature = "kafka")]
use std::sync::Arc;

use deltajoin_workers::ports::Stop;

use crate::bindings;
use crate::config::Bindings;
#[cfg(feature = "kafka")]
use crate::connectors::kafka::{Error, Fail};
use crate::failure::Failure;
#[cfg(feature = "kafka")]
use crate::process::promises::Settings;
use crate::process::{Process, durable, log};

#[cfg(feature = "kafka")]
/// Ends the process for an error of Kafka. What has fenced it, the log of bindings tells.
pub(super) fn on_kafka(process: &Process, settings: &Settings<'_>, generation: u64) -> Fail {
    let (fatal, bindings) = (process.fatal, settings.bindings.clone());
    Arc::new(move |error| match error {
        Error::Stopped => {}
        Error::Fenced { .. } => fatal(&judge(
            &bindings,
            generation,
            error.into(),
            &Stop::default(),
        )),
        error => fatal(&error.into()),
    })
}

/// Why a start has failed: a newer generation deletes and changes what an older one reads.
pub(super) fn on_start(process: &Process, generation: u64, failure: Failure) -> Failure {
    if !durable::goes_on(process) {
        return failure;
    }
    judge(
        &process.config.bindings(),
        generation,
        failure,
        &process.stop,
    )
}

/// The same of a failure that a newer generation may be the reason of.
pub(super) fn judge(
    bindings: &Bindings,
    generation: u64,
    failure: Failure,
    stop: &Stop,
) -> Failure {
    let newer = log::look(bindings, stop).and_then(|log| match log {
        Some(mut log) => bindings::superseded(&mut log, generation, stop),
        None => Ok(()),
    });
    match newer {
        Ok(()) => failure,
        Err(superseded @ bindings::Error::Superseded { .. }) => superseded.into(),
        Err(unread) => {
            tracing::error!(error = %unread, "could not read the binding log");
            failure
        }
    }
}

#[cfg(test)]
mod tests;
