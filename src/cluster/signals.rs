//! Signals of every command: the first SIGTERM or SIGINT asks for a clean stop, the second ends
//! the process at once, unless it comes with the first. SIGHUP has a job look at its reference
//! file.
//!
//! It is apart from the supervisor because processes that nobody supervises need it too.
//!
//! # Invariants
//! * Only signals count as the second: a stop asked for in another way leaves the first free.
//! * The second signal works whatever the rest of the process does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::ExitCode;

/// Within this time a signal is the first one again: `timeout`, and others that stop programs, send
/// theirs to a process and to its group.
const ECHO: Duration = Duration::from_millis(100);

/// Watches for signals on a thread of its own, until the process ends. SIGHUP sets `reload`;
/// without one it does what it does to any program.
///
/// # Errors
/// If the operating system does not let signals be watched, or no thread can be started.
pub fn watch_signals(stop: Arc<Stop>, reload: Option<Arc<AtomicBool>>) -> io::Result<()> {
    let hangup = reload.as_ref().map(|_| SIGHUP);
    let mut signals = Signals::new([SIGTERM, SIGINT].into_iter().chain(hangup))?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut asked: Option<Instant> = None;
            for signal in signals.forever() {
                if let (SIGHUP, Some(reload)) = (signal, &reload) {
                    tracing::info!("SIGHUP: the reference file is looked at");
                    reload.store(true, Ordering::Relaxed);
                    continue;
                }
                match asked {
                    Some(first) if first.elapsed() < ECHO => continue,
                    Some(_) => ExitCode::Interrupted
                        .end_after(|| tracing::warn!(signal, "second signal; ending at once")),
                    None => asked = Some(Instant::now()),
                }
                stop.ask();
                tracing::info!(signal, "stopping cleanly; a second signal ends at once");
            }
        })?;
    Ok(())
}
