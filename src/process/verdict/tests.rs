//! Tests of what a failure means, by what the log of bindings holds.

use crate::bindings::Log as _;
use crate::bindings::testing::marker;
use crate::connectors::file::BindingFile;
use crate::error::ExitCode;

use super::*;

/// A process without the log has nothing but its failure: a supervisor must not start it again, and
/// so take the job away from whoever has superseded it.
#[test]
fn a_failure_is_that_of_being_superseded_only_if_there_is_a_newer_marker() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bindings.jsonl");
    let stop = Stop::default();
    let mut log = BindingFile::open(&path).unwrap();
    let bindings = Bindings::File(path);
    let judged = || {
        let fenced = Failure::failed("the id is not ours any more");
        judge(&bindings, 1, fenced, &stop)
    };
    log.append(
        &["before", "own"].map(|holder| marker(holder).encode()),
        &stop,
    )
    .unwrap();
    let failure = judged();
    assert_eq!(failure.code, ExitCode::Failed);
    assert_eq!(failure, Failure::failed("the id is not ours any more"));
    log.append(&[marker("newer").encode()], &stop).unwrap();
    let failure = judged();
    assert_eq!(failure.code, ExitCode::Superseded);
    assert!(failure.to_string().contains("newer"), "{failure}");
}
