//! The end of a clean stop that gets nowhere, because a sink or the binding log does not answer.
//!
//! It is apart from `signals`, which knows nothing of what is written.
//!
//! # Invariants
//! * A stop that gets on, however slowly, is waited for.
//! * What is ended here is made again by the next start, as after a kill.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::process::Process;
use crate::telemetry::Monitor;

/// For how long no epoch is written, and a stop still waits: longer than a checkpoint may take at
/// the end, and shorter than the minute that systemd and Kubernetes are told to leave.
const PATIENCE: Duration = Duration::from_secs(45);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Ends the process when it is asked to stop and writes nothing more, until the token that is
/// returned is dropped.
pub(super) fn watch(process: &Process, monitor: &Arc<Monitor>) -> Result<Arc<()>, Failure> {
    let token = Arc::new(());
    let ended = Arc::downgrade(&token);
    let (stop, fatal, monitor) = (
        Arc::clone(&process.stop),
        process.fatal,
        Arc::clone(monitor),
    );
    let watch = move || {
        let mut last = (0, Instant::now());
        while ended.strong_count() > 0 {
            let written = monitor.settled_before();
            if !stop.asked() || written > last.0 {
                last = (written, Instant::now());
            } else if last.1.elapsed() > PATIENCE {
                fatal(&stuck());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    };
    let thread = std::thread::Builder::new().name("stopping".to_owned());
    thread
        .spawn(watch)
        .map_err(|error| Failure::failed(format!("could not start a thread: {error}")))?;
    Ok(token)
}

fn stuck() -> Failure {
    let seconds = PATIENCE.as_secs();
    Failure::failed(format!(
        "could not stop cleanly: nothing was written for {seconds} s"
    ))
    .detail("What was read and is not written is made again by the next start.")
    .hint("Look whether the brokers of the sinks and of the binding log answer.")
}
