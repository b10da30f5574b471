//! Signals of every command: the first SIGTERM or SIGINT asks for a clean stop, the second ends
//! the process at once.
//!
//! It is apart from the supervisor because processes that nobody supervises need it too.
//!
//! # Invariants
//! * Only signals count as the second: a stop asked for in another way leaves the first free.
//! * The second signal works whatever the rest of the process does.

use std::io;
use std::sync::Arc;
use std::thread;

use deltajoin_workers::ports::Stop;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::ExitCode;

/// Watches for signals on a thread of its own, until the process ends.
///
/// # Errors
/// If the operating system does not let signals be watched, or no thread can be started.
pub fn watch_signals(stop: Arc<Stop>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for (count, signal) in signals.forever().enumerate() {
                if count > 0 {
                    ExitCode::Interrupted
                        .end_after(|| tracing::warn!(signal, "second signal; ending at once"));
                }
                stop.ask();
                tracing::info!(signal, "stopping cleanly; a second signal ends at once");
            }
        })?;
    Ok(())
}
