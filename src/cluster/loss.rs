//! Ends the process when a thread panics: a lost peer in one line with exit code 3, anything else
//! as a broken invariant with exit code 4.
//!
//! Timely answers a lost connection with a panic in the thread that noticed it, and lets it
//! cascade: poisoned queues, workers, the main thread. The hook ends the process at the first of
//! them, so that one line is left to read, and threads that timely does not know (readers, sinks,
//! HTTP) do not go on without their workers.
//!
//! # Invariants
//! * The first panic is told, and nothing after it.
//! * Nothing half-written is flushed: the process ends without exit routines.
//! * After `leave` a peer that closes is no loss.

use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::cluster::supervisor;
use crate::error::ExitCode;

/// How every panic of timely's network begins; timely promises to keep it.
const NETWORK_PANIC: &str = "timely communication error: ";
/// How panics begin that follow from one in a thread of timely's network.
const CASCADES: [&str; 6] = [
    "MergeQueue poisoned.",
    "MergeQueue mutex poisoned.",
    "Failed to receive MergeQueue",
    "failed to send MergeQueue",
    "Send thread panic",
    "Recv thread panic",
];

/// This process's workers are done and all is written.
static LEAVING: AtomicBool = AtomicBool::new(false);
/// A panic has been told, and the process is about to end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Installs the hook for the whole process, which is the one of this index. `addresses` are those
/// of all processes of the job, by index, so that a lost one can be named.
pub fn install(index: usize, addresses: Vec<String>, peer_timeout: Duration) {
    panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        match Verdict::of(thread, &describe(panic), &addresses, peer_timeout) {
            Verdict::Lost(line) if LEAVING.load(Ordering::SeqCst) => {
                tracing::debug!("{line}, after the end");
            }
            verdict => end(index, &verdict, thread, panic),
        }
    }));
}

/// Says that a peer that closes from here on is no loss.
pub(super) fn leave() {
    LEAVING.store(true, Ordering::SeqCst);
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    panic
        .payload_as_str()
        .unwrap_or("a panic without a message")
        .to_owned()
}

fn end(process: usize, verdict: &Verdict, thread: &str, panic: &PanicHookInfo<'_>) -> ! {
    if ENDING.swap(true, Ordering::SeqCst) {
        // Another thread is telling its panic and then ends the process.
        loop {
            thread::park();
        }
    }
    match verdict {
        Verdict::Lost(line) => {
            tracing::error!(process, "{line}");
            supervisor::tell(line);
        }
        Verdict::Broken(message) => {
            let location = panic
                .location()
                .map(ToString::to_string)
                .unwrap_or_default();
            tracing::error!(process, location, thread, "broken invariant: {message}");
            supervisor::tell(&format!("{message}, at {location}"));
        }
    }
    verdict.exit_code().end_at_once()
}

/// What a panic means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// A peer was lost, in one line.
    Lost(String),
    /// A defect, with the panic's message in one line.
    Broken(String),
}

impl Verdict {
    fn of(thread: &str, message: &str, addresses: &[String], peer_timeout: Duration) -> Self {
        if let Some(cause) = message.strip_prefix(NETWORK_PANIC) {
            let cause = cause_of_loss(cause, peer_timeout);
            return Self::Lost(match peer_of(thread) {
                Some(peer) => match addresses.get(peer) {
                    Some(address) => format!("lost process {peer} ({address}): {cause}"),
                    None => format!("lost process {peer}: {cause}"),
                },
                None => format!("lost a peer: {cause}"),
            });
        }
        let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
        if CASCADES.iter().any(|cascade| message.starts_with(cascade)) {
            return Self::Lost(format!("lost a peer: {line}"));
        }
        Self::Broken(line)
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Lost(_) => ExitCode::PeerLost,
            Self::Broken(_) => ExitCode::Broken,
        }
    }
}

/// Timely names its threads after the process at the other end.
fn peer_of(thread: &str) -> Option<usize> {
    let peer = thread
        .strip_prefix("timely:recv-")
        .or(thread.strip_prefix("timely:send-"))?;
    peer.parse().ok()
}

/// Timely's "reading data: ...", in words for a reader who does not know sockets.
fn cause_of_loss(cause: &str, peer_timeout: Duration) -> String {
    // A socket's time-out is reported as EAGAIN, in the words of the C library.
    let silent = ["(os error 11)", "timed out"];
    // A peer that is gone closes its socket, or resets it (ECONNRESET) if it had not read all, or
    // is found gone by whoever writes to it (EPIPE): chance decides which.
    let closed = ["socket closed", "(os error 104)", "(os error 32)"];
    if silent.iter().any(|words| cause.contains(words)) {
        format!("silent for {peer_timeout:?}")
    } else if closed.iter().any(|words| cause.ends_with(words)) {
        "connection closed".to_owned()
    } else {
        cause.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests;
