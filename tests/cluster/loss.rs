//! Lost peers: killed, frozen, without a supervisor. The others end soon, with one line each.

use std::time::Instant;

use deltajoin_testkit::{Job, Signal, wait_until};

use crate::case::LIMIT;
use crate::support::{SOON, config, events, held, live, runs, send, status, tell, worker, workers};

/// The line by which a process says that it lost a peer; there must be one only.
fn line_of_loss(stderr: &[String]) -> &String {
    let mut errors = stderr.iter().filter(|line| line.contains("ERROR"));
    let line = errors.next().expect("it says why it ends");
    assert_eq!(errors.next(), None, "one line says it: {stderr:#?}");
    assert!(line.contains("lost process"), "{line}");
    line
}

#[test]
fn a_killed_process_ends_the_others_with_3_and_a_line_each() {
    let (folder, mut pipe) = held(&config(3));
    let mut jobs: Vec<Job> = (0..3)
        .map(|process| worker(&folder, process, &[]))
        .collect();
    live(&folder, 3, 0);
    pipe.give(events(0, 100).as_bytes());
    wait_until("rows", LIMIT, || folder.line_count("joined.jsonl") == 100);
    jobs.remove(1).kill();
    let killed = Instant::now();
    for job in jobs {
        let outcome = job.wait(SOON);
        outcome.assert_code(3);
        let line = line_of_loss(&outcome.stderr);
        assert!(line.contains("connection closed"), "{line}");
    }
    tell(&format!(
        "others ended {:?} after the kill",
        killed.elapsed()
    ));
}

#[test]
fn a_frozen_process_ends_the_others_with_3() {
    let (folder, _pipe) = held(&config(3).replace("\"3s\"", "\"1s\""));
    let mut jobs: Vec<Job> = (0..3)
        .map(|process| worker(&folder, process, &[]))
        .collect();
    live(&folder, 3, 0);
    let mut frozen = jobs.remove(2);
    frozen.signal(Signal::Stop);
    let since = Instant::now();
    for job in jobs {
        let outcome = job.wait(SOON);
        outcome.assert_code(3);
        line_of_loss(&outcome.stderr);
    }
    tell(&format!(
        "others ended {:?} after the freeze",
        since.elapsed()
    ));
    // When it goes on, it finds itself alone.
    frozen.signal(Signal::Continue);
    frozen.wait(SOON).assert_code(3);
}

#[test]
fn the_supervisor_starts_all_again_when_one_is_killed() {
    let (folder, mut pipe) = held(&config(3));
    let mut job = folder.start(&["cluster", "--config", "job.toml"]);
    let first = live(&folder, 3, 0);
    pipe.give(events(0, 100).as_bytes());
    wait_until("rows", LIMIT, || folder.line_count("joined.jsonl") == 100);
    let before = workers(&job);
    assert_eq!(before.len(), 3, "{before:?}");
    send("KILL", before[2].1);
    let killed = Instant::now();
    let second = live(&folder, 3, first);
    tell(&format!("live again {:?} after the kill", killed.elapsed()));
    let after = workers(&job);
    assert!(after.iter().all(|one| !before.contains(one)), "{after:?}");
    // It begins again: the pipe gives new events, and the results are theirs alone.
    pipe.give(events(50, 70).as_bytes());
    wait_until("rows", LIMIT, || folder.line_count("joined.jsonl") == 70);
    let line = job.wait_for_line("restarting all processes", LIMIT);
    assert!(
        line.contains("process 2") && line.contains("signal 9"),
        "{line}"
    );
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    let lost = outcome
        .stderr
        .iter()
        .filter(|line| line.contains("lost process"));
    assert_eq!(lost.count(), 2, "{:#?}", outcome.stderr);
    assert_eq!(status(&folder, 0).unwrap().generation, second);
}

#[test]
fn no_process_outlives_its_supervisor() {
    let (folder, _pipe) = held(&config(3));
    let mut job = folder.start(&["cluster", "--config", "job.toml"]);
    live(&folder, 3, 0);
    let all = workers(&job);
    assert_eq!(all.len(), 3, "{all:?}");
    // The supervisor alone, not its group.
    job.signal(Signal::Kill);
    wait_until("the end of all", SOON, || {
        all.iter().all(|(_, pid)| !runs(*pid))
    });
    assert_eq!(job.wait(LIMIT).code(), None);
}
