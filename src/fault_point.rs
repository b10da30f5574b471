//! Named places at which a test pauses or kills a process.
//!
//! Apart from what they are in, so that one list names them all, and tests go through it. They are
//! there only with the feature `fault-points`, which is for tests and in no release.
//!
//! A test writes `pause NAME` or `kill NAME` to the file `fault-point` in the folder where the job
//! runs. The process that comes there first renames it to `fault-point.reached`, and then stops
//! itself with SIGSTOP or SIGKILL.
//!
//! # Invariants
//! * An order is carried out once, by one process.
//! * Without the feature a call is nothing.

/// At every start.
pub const STARTING: [&str; 3] = ["marker.append", "marker.appended", "progress.read"];
/// At the start of a job with exactly-once sinks, in each process.
pub const STARTING_TRANSACTIONS: [&str; 2] = ["transactions.init", "transactions.initialized"];
/// While events flow.
pub const RUNNING: [&str; 7] = [
    "bindings.append",
    "bindings.appended",
    "rows.send",
    "checkpoint.part",
    "manifest.put",
    "manifest.published",
    "clean.delete",
];
/// While events flow to exactly-once sinks.
pub const COMMITTING: [&str; 2] = ["transaction.commit", "transaction.committed"];
/// While events flow to at-least-once sinks.
pub const RECORDING: [&str; 2] = ["progress.append", "progress.appended"];

/// The process has come to a fault point.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn reach(_name: &str) {}

/// The process has come to a fault point.
#[cfg(feature = "fault-points")]
pub fn reach(name: &str) {
    let Ok(order) = std::fs::read_to_string("fault-point") else {
        return;
    };
    let signal = match order.trim().split_once(' ') {
        Some(("pause", at)) if at == name => signal_hook::consts::SIGSTOP,
        Some(("kill", at)) if at == name => signal_hook::consts::SIGKILL,
        _ => return,
    };
    // Whoever renames it carries it out.
    if std::fs::rename("fault-point", "fault-point.reached").is_ok() {
        signal_hook::low_level::raise(signal).expect("a process may send itself a signal");
    }
}
