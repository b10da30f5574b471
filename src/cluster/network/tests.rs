//! Tests of timely over the mesh: a clean end is no loss, and a lost peer ends the process.
//!
//! They are apart from the network because they need processes of their own.

use std::process::{Child, Output};
use std::thread;
use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Exchange, Input, Inspect, Probe};

use super::*;
use crate::cluster::membership::Membership;
use crate::cluster::testing::{
    Joining, PATIENCE, listener, log_to_stderr, member, members, role, role_command,
};
use crate::cluster::work::Verdict;
use crate::cluster::{connect, loss};
use crate::error::ExitCode;

/// Exchanges some numbers over all workers and leaves; whether all ended as they should.
fn run_to_the_end(mesh: Mesh, member: &Membership) -> (u64, bool) {
    let (builders, connections) = builders(mesh, member).unwrap();
    let config = timely::WorkerConfig::default();
    let guards = timely::execute::execute_from(builders, Box::new(()), config, |worker| {
        let sum = std::rc::Rc::new(std::cell::Cell::new(0));
        let seen = std::rc::Rc::clone(&sum);
        let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Vec<u64>>();
            let (probe, _) = stream
                .exchange(|number| *number)
                .map(|number| number * 2)
                .inspect(move |number| seen.set(seen.get() + number))
                .probe();
            (input, probe)
        });
        for epoch in 1..20 {
            input.send(epoch);
            input.advance_to(epoch);
            worker.step_while(|| probe.less_than(&epoch));
        }
        input.close();
        while worker.step() {}
        sum.get()
    });
    let sums = guards.unwrap().join().into_iter().map(Result::unwrap);
    (sums.sum(), connections.end())
}

#[test]
fn the_clean_end_of_a_job_is_no_loss() {
    for _ in 0..10 {
        let pairs = members(2);
        let memberships: Vec<Membership> = pairs.iter().map(|(member, _)| member.clone()).collect();
        let joining: Vec<Joining> = pairs.into_iter().map(Joining::start).collect();
        let running: Vec<_> = joining
            .into_iter()
            .zip(memberships)
            .map(|(one, member)| {
                thread::spawn(move || run_to_the_end(one.outcome().unwrap(), &member))
            })
            .collect();
        let ends: Vec<(u64, bool)> = running.into_iter().map(|one| one.join().unwrap()).collect();
        assert_eq!(
            ends.iter().map(|end| end.0).sum::<u64>(),
            2 * 2 * (1..20).sum::<u64>()
        );
        assert!(
            ends.iter().all(|end| end.1),
            "a thread of the network panicked"
        );
    }
}

#[test]
fn one_process_runs_on_one_or_several_threads() {
    for threads in [1, 3] {
        let alone = Membership {
            threads,
            ..member(vec!["127.0.0.1:1".to_owned()])
        };
        let mesh = connect(&alone, None, &mut |_| Verdict::Good, &Stop::default()).unwrap();
        let expected = threads as u64 * 2 * (1..20).sum::<u64>();
        assert_eq!(run_to_the_end(mesh, &alone), (expected, true));
    }
}

const LONELY: &str = "cluster::network::tests::a_process_on_its_own";

/// Process 1 of two, in a process of its own: computes until it loses process 0.
#[test]
fn a_process_on_its_own() {
    let Some(role) = role() else { return };
    log_to_stderr();
    let peer = std::env::var("DELTAJOIN_TEST_PEER").unwrap();
    let mut this = member(vec![peer, "127.0.0.1:0".to_owned()]);
    this.index = 1;
    this.peer_timeout = Duration::from_millis(400);
    loss::install(this.index, this.addresses.clone(), this.peer_timeout);
    let mesh = connect(&this, None, &mut |_| Verdict::Good, &Stop::default()).unwrap();
    let (builders, connections) = builders(mesh, &this).unwrap();
    if role == "leaves" {
        drop(builders);
        connections.leave();
        ExitCode::Done.end_at_once();
    }
    let config = timely::WorkerConfig::default();
    let guards = timely::execute::execute_from(builders, Box::new(()), config, move |worker| {
        let (mut input, _probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Vec<u64>>();
            (input, stream.exchange(|number| *number).probe().0)
        });
        for epoch in 1.. {
            assert!(
                role != "broken" || epoch < 10,
                "the epoch must be\nless than 10"
            );
            input.send(epoch);
            input.advance_to(epoch);
            worker.step_or_park(Some(Duration::from_millis(5)));
        }
    });
    // The process must end though nobody joins the workers.
    thread::sleep(PATIENCE);
    drop(guards);
}

/// Starts the process in a role and joins it as process 0.
fn start(role: &str) -> (Child, Mesh, String) {
    let listener = listener();
    let address = listener.local_addr().unwrap().to_string();
    let this = member(vec![address.clone(), "127.0.0.1:0".to_owned()]);
    let mut command = role_command(LONELY, role);
    let child = command
        .env("DELTAJOIN_TEST_PEER", &address)
        .spawn()
        .unwrap();
    let mesh = Joining::start((this, listener)).outcome().unwrap();
    (child, mesh, address)
}

/// Its exit code and the lines that it logged as errors.
fn end(child: Child) -> (ExitCode, Vec<String>) {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(
        !text.contains("panicked"),
        "the default hook must not speak:\n{text}"
    );
    let errors = text
        .lines()
        .filter_map(|line| line.split_once("ERROR "))
        .map(|line| line.1);
    let code = status.code().and_then(ExitCode::from_number);
    (
        code.unwrap_or_else(|| panic!("{status}:\n{text}")),
        errors.map(str::to_owned).collect(),
    )
}

fn assert_one_line((code, lines): (ExitCode, Vec<String>), expected: ExitCode, end: &str) {
    assert_eq!(code, expected, "{lines:?}");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(end), "{lines:?} must say {end:?}");
}

#[test]
fn a_frozen_peer_is_noticed_within_the_time_out() {
    let (child, mesh, address) = start("computes");
    let since = Instant::now();
    let line = format!("lost process 0 ({address}): silent for 400ms");
    assert_one_line(end(child), ExitCode::PeerLost, &line);
    assert!(
        since.elapsed() >= Duration::from_millis(350),
        "{:?}",
        since.elapsed()
    );
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "{:?}",
        since.elapsed()
    );
    drop(mesh);
}

#[test]
fn a_dead_peer_ends_the_process_at_once() {
    let (child, mesh, address) = start("computes");
    drop(mesh);
    let (code, lines) = end(child);
    assert_eq!((code, lines.len()), (ExitCode::PeerLost, 1), "{lines:?}");
    assert!(
        lines[0].contains(&format!("lost process 0 ({address}): connection closed")),
        "{lines:?}"
    );
}

#[test]
fn a_panic_of_our_own_is_a_broken_invariant() {
    let (child, mesh, _) = start("broken");
    let outcome = end(child);
    assert!(
        outcome.1[0].contains("src/cluster/network/tests.rs:"),
        "{outcome:?}"
    );
    assert_one_line(
        (
            outcome.0,
            vec![outcome.1[0].split(" location=").next().unwrap().to_owned()],
        ),
        ExitCode::Broken,
        "broken invariant: the epoch must be less than 10",
    );
    assert_eq!(outcome.1.len(), 1);
    drop(mesh);
}

#[test]
fn a_peer_that_closes_after_the_end_is_no_loss() {
    let (child, mesh, _) = start("leaves");
    drop(mesh);
    assert_eq!(end(child), (ExitCode::Done, Vec::new()));
}
