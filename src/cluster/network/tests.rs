//! Tests of timely over the mesh: a clean end is no loss, and a lost peer ends the process.
//!
//! They are apart from the network because they need processes of their own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
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

/// How long a peer may be silent where that is what is tested.
const SILENCE: Duration = Duration::from_secs(1);

/// Exchanges some numbers over all workers and leaves; whether all ended as they should. In the
/// middle, worker 0 is busy for so long.
fn run_to_the_end(mesh: Mesh, member: &Membership, busy: Duration) -> (u64, bool) {
    let (builders, connections) = builders(mesh, member).unwrap();
    let config = timely::WorkerConfig::default();
    let guards = timely::execute::execute_from(builders, Box::new(()), config, move |worker| {
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
            if (epoch, worker.index()) == (10, 0) {
                thread::sleep(busy);
            }
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

/// Has two processes exchange numbers, one of which is busy for so long, and notices no loss.
fn assert_no_loss(peer_timeout: Duration, busy: Duration) {
    let (sender, ends) = channel();
    let pairs = members(2).into_iter();
    let pairs = pairs.map(|(member, listener)| {
        let member = Membership {
            peer_timeout,
            ..member
        };
        (member.clone(), Joining::start((member, listener)))
    });
    for (member, joining) in pairs.collect::<Vec<_>>() {
        let sender = sender.clone();
        thread::spawn(move || {
            let end = run_to_the_end(joining.outcome().unwrap(), &member, busy);
            sender.send(end)
        });
    }
    let end = || ends.recv_timeout(PATIENCE).expect("nobody waits for ever");
    let (one, other) = (end(), end());
    assert_eq!(one.0 + other.0, 2 * 2 * (1..20).sum::<u64>());
    assert!(one.1 && other.1, "a thread of the network panicked");
}

#[test]
fn the_clean_end_of_a_job_is_no_loss() {
    for _ in 0..10 {
        assert_no_loss(PATIENCE, Duration::ZERO);
    }
}

#[test]
fn a_peer_whose_worker_is_busy_for_longer_than_the_time_out_is_not_lost() {
    assert_no_loss(SILENCE, 3 * SILENCE);
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
        assert_eq!(
            run_to_the_end(mesh, &alone, Duration::ZERO),
            (expected, true)
        );
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
    this.peer_timeout = SILENCE;
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
    let (child, mesh) = start_at(role, &address, listener);
    (child, mesh, address)
}

/// The same, where the process reaches this one by that address.
fn start_at(role: &str, address: &str, listener: TcpListener) -> (Child, Mesh) {
    let this = member(vec![address.to_owned(), "127.0.0.1:0".to_owned()]);
    let mut command = role_command(LONELY, role);
    let child = command.env("DELTAJOIN_TEST_PEER", address).spawn().unwrap();
    (child, Joining::start((this, listener)).outcome().unwrap())
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
    // Nobody does anything with the mesh's socket, which is open.
    let (child, mesh, address) = start("computes");
    let since = Instant::now();
    let line = format!("lost process 0 ({address}): silent for 1s");
    assert_one_line(end(child), ExitCode::PeerLost, &line);
    assert!(
        since.elapsed() >= Duration::from_millis(950),
        "{:?}",
        since.elapsed()
    );
    assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    drop(mesh);
}

/// A network between a process and this one: passes on what comes, until it is cut.
struct Wire {
    address: String,
    cut: Arc<AtomicBool>,
}

impl Wire {
    fn to(peer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cut = Arc::new(AtomicBool::new(false));
        let its_cut = Arc::clone(&cut);
        thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(&peer).unwrap());
                let (back, to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                for (from, to) in [(near, far), (back, to)] {
                    let cut = Arc::clone(&its_cut);
                    thread::spawn(move || pass(from, to, &cut));
                }
            }
        });
        Self { address, cut }
    }
}

/// Passes bytes on, or swallows them.
fn pass(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if !cut.load(Ordering::SeqCst) && to.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}

#[test]
fn a_network_that_is_cut_is_noticed_within_the_time_out() {
    let listener = listener();
    let wire = Wire::to(listener.local_addr().unwrap().to_string());
    let (child, mesh) = start_at("computes", &wire.address, listener);
    let this = member(vec![wire.address.clone(), "127.0.0.1:0".to_owned()]);
    // From here on this process has a pulse, which is all that it does.
    let (builders, connections) = builders(mesh, &this).unwrap();
    wire.cut.store(true, Ordering::SeqCst);
    let line = format!("lost process 0 ({}): silent for 1s", wire.address);
    assert_one_line(end(child), ExitCode::PeerLost, &line);
    drop(builders);
    assert!(!connections.end(), "timely has had no workers");
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
