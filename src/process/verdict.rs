//! Why a generation ends: a newer one explains whatever else seems to be wrong.
//!
//! It is apart because a start and a running process end for errors of many kinds, and what they
//! mean is asked in one way: the log of bindings holds a newer marker, or it does not.
//!
//! # Invariants
//! * Superseded means that the log holds a newer marker, and nothing else.

use std::sync::Arc;

use deltajoin_workers::ports::Stop;

use crate::bindings;
use crate::connectors::kafka::{BindingTopic, Error, Fail};
use crate::failure::Failure;
use crate::process::Process;
use crate::process::promises::Settings;

/// Ends the process for an error of Kafka. What has fenced it, the log of bindings tells.
pub(super) fn on_kafka(process: &Process, settings: &Settings<'_>, generation: u64) -> Fail {
    let (fatal, replicas) = (process.fatal, settings.replicas());
    let topic = settings.bindings.clone();
    Arc::new(move |error| match error {
        Error::Stopped => {}
        Error::Fenced { .. } => {
            let log = BindingTopic::open(&topic, replicas, &Stop::default());
            fatal(&judge(log, generation, error.into(), &Stop::default()))
        }
        error => fatal(&error.into()),
    })
}

/// Why a start has failed: a newer generation deletes and changes what an older one reads.
pub(super) fn on_start(process: &Process, generation: u64, failure: Failure) -> Failure {
    let Some(settings) = Settings::of(&process.config) else {
        return failure;
    };
    let log = BindingTopic::open(&settings.bindings, settings.replicas(), &process.stop);
    judge(log, generation, failure, &process.stop)
}

fn judge(
    log: Result<BindingTopic, Error>,
    generation: u64,
    failure: Failure,
    stop: &Stop,
) -> Failure {
    let newer = log
        .map_err(bindings::Error::from)
        .and_then(|mut log| bindings::superseded(&mut log, generation, stop));
    match newer {
        Ok(()) => failure,
        Err(superseded @ bindings::Error::Superseded { .. }) => superseded.into(),
        Err(unread) => {
            tracing::error!(error = %unread, "could not read the binding log");
            failure
        }
    }
}
