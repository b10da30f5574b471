//! Tests of what a panic is taken for. That the process ends is tested with `network`.
//!
//! They are apart from the hook to keep it short.

use super::*;

fn lost(thread: &str, message: &str) -> String {
    let addresses = ["a:1".to_owned(), "b:2".to_owned()];
    match Verdict::of(thread, message, &addresses, Duration::from_secs(5)) {
        verdict @ Verdict::Lost(_) => {
            assert_eq!(verdict.exit_code(), ExitCode::PeerLost);
            let Verdict::Lost(line) = verdict else {
                unreachable!()
            };
            line
        }
        Verdict::Broken(line) => panic!("{line:?} is no loss"),
    }
}

#[test]
fn a_loss_names_the_peer_and_the_cause() {
    let line = |thread, cause: &str| lost(thread, &format!("timely communication error: {cause}"));
    assert_eq!(
        line("timely:recv-1", "reading data: socket closed"),
        "lost process 1 (b:2): connection closed"
    );
    let frozen = std::io::Error::from_raw_os_error(11);
    assert_eq!(
        line("timely:recv-0", &format!("reading data: {frozen}")),
        "lost process 0 (a:1): silent for 5s"
    );
    let unknown = std::io::Error::from_raw_os_error(113);
    assert_eq!(
        line("timely:send-1", &format!("writing data: {unknown}")),
        "lost process 1 (b:2): writing data: No route to host (os error 113)"
    );
    assert_eq!(
        line("main", "reading data: socket closed"),
        "lost a peer: connection closed"
    );
}

#[test]
fn a_peer_that_is_gone_is_told_in_the_same_words_however_it_is_noticed() {
    let (reset, broken_pipe) = (104, 32);
    for (thread, number) in [
        ("timely:recv-1", reset),
        ("timely:send-1", reset),
        ("timely:send-1", broken_pipe),
    ] {
        let error = std::io::Error::from_raw_os_error(number);
        let message = format!("timely communication error: moving data: {error}");
        assert_eq!(
            lost(thread, &message),
            "lost process 1 (b:2): connection closed"
        );
    }
}

#[test]
fn what_follows_from_a_loss_is_one() {
    assert_eq!(
        lost("timely:work-0", "MergeQueue poisoned."),
        "lost a peer: MergeQueue poisoned."
    );
}

#[test]
fn any_other_panic_is_a_broken_invariant() {
    let message = "assertion `left == right` failed\n  left: 1\n right: 2";
    let verdict = Verdict::of("timely:work-0", message, &[], Duration::ZERO);
    let line = "assertion `left == right` failed left: 1 right: 2";
    assert_eq!(verdict, Verdict::Broken(line.to_owned()));
    assert_eq!(verdict.exit_code(), ExitCode::Broken);
}
