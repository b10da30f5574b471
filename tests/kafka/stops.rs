//! How jobs end: asked to, or killed. Results are written at least once in each case.

use std::process::Command;
use std::time::Duration;

use deltajoin::generate::{Expected, Options, reference_csv};
use deltajoin_testkit::{Broker, Job, Login, Signal, wait_until};

use crate::setup::{LIMIT, Setup, assert_no_errors, quoted};
use crate::stream::million;
use crate::support::publish;
use crate::topics::{Publisher, Tail, differences, event, values};

/// The number of a worker process, from the line with which the supervisor tells its start.
pub(crate) fn pid_of(line: &str) -> String {
    let (_, pid) = line.split_once("pid=").expect("the line tells the pid");
    pid.split_whitespace().next().expect("a number").to_owned()
}

/// Sends a signal to a process, by the signal's name. The process may have ended.
pub(crate) fn signal(pid: &str, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", "kill -\"$2\" \"$1\" 2>&1 || true", "sh", pid, name])
        .status();
    assert!(sent.unwrap().success());
}

/// Kills a job when so many more rows are committed.
pub(crate) fn kill_after(mut job: Job, tail: &Tail, rows: usize) {
    for _ in 0..rows {
        tail.next(LIMIT);
    }
    job.kill();
    let outcome = job.wait(LIMIT);
    assert_eq!(outcome.code(), None, "{}", outcome.stderr.join("\n"));
    assert_no_errors(&outcome.stderr);
}

/// Kills a process, as the system does when memory is short.
pub(crate) fn kill(pid: &str) {
    signal(pid, "KILL");
}

/// Runs a job to its end on clusters of several sizes, each of which loses a process in between.
pub(crate) fn lose_processes_and_rescale(setup: impl Fn(usize) -> Setup, tail: &Tail) {
    for (processes, killed, rows) in [(2, 1, 10_000), (3, 0, 50_000), (2, 0, 100_000)] {
        let setup = setup(processes);
        let mut job = setup.start_live();
        for _ in 0..rows {
            tail.next(LIMIT);
        }
        let started = format!("started a process process={killed}");
        kill(&pid_of(&job.wait_for_line(&started, LIMIT)));
        job.wait_for_line("restarting all processes", LIMIT);
        for _ in 0..rows {
            tail.next(LIMIT);
        }
        job.signal(Signal::Terminate);
        job.wait(LIMIT).assert_code(0);
    }
    let outcome = setup(3).start(&["--until-end"]).wait(LIMIT);
    outcome.assert_code(0);
}

#[test]
fn a_killed_process_costs_no_row() {
    let broker = Broker::shared();
    let options = Options {
        count: 20_000,
        rate: 4_000,
        bad_share: 0.001,
        ..Options::default()
    };
    broker.create_topic("killed", options.partitions, &[]);
    let setup = Setup::new(broker, "killed")
        .processes(2)
        .reference(&reference_csv(&options));
    let mut job = setup.start_live();
    let expected = Expected::of(&options).unwrap();
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(broker, "killed", &options));
        let tail = Tail::new(broker, &setup.joined());
        for _ in 0..2_000 {
            tail.next(LIMIT);
        }
        let pid = pid_of(&job.wait_for_line("started a process process=1", LIMIT));
        kill(&pid);
        let line = job.wait_for_line("restarting all processes", LIMIT);
        assert!(line.contains("process 1: signal 9"), "{line}");
        publishing.join().unwrap();
    });
    let found = Tail::new(broker, &setup.joined()).audit(&expected, LIMIT);
    assert_eq!((found.missing, found.wrong), (0, 0), "{found:#?}");
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
}

/// Stops a job in the middle of its stream; what it says it has read must be written.
fn stop_in_the_middle(name: &str, processes: usize) {
    let stream = million();
    let broker = Broker::shared();
    let setup = Setup::new(broker, name)
        .set("events", "topic", quoted(stream.topic))
        .set("limits", "max_in_flight_bytes", quoted("4MB"))
        .processes(processes)
        .reference(&reference_csv(&stream.options));
    let mut job = setup.start_live();
    let tail = Tail::new(broker, &setup.joined());
    tail.next(LIMIT);
    job.signal(Signal::Terminate);
    let outcome = job.wait(Duration::from_secs(30));
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
    let found = differences(broker, &setup.joined(), &stream.expected);
    assert_eq!((found.repeated, found.wrong), (0, 0), "{found:#?}");
    let status = setup.status();
    assert_eq!(status["state"], "stopping");
    assert_eq!(status["rows_out"], found.rows, "{status}");
    assert!(found.missing > 0, "the job had come to its end already");
    let letters = values(broker, &setup.dead()).len();
    assert_eq!(status["dead_letters"], letters, "{status}");
}

#[test]
fn a_stopped_job_has_written_what_it_has_read() {
    stop_in_the_middle("stopped", 1);
}

#[test]
fn a_stopped_cluster_has_written_what_it_has_read() {
    stop_in_the_middle("stopped-cluster", 2);
}

#[test]
fn an_idle_job_ends_soon_after_a_signal() {
    let broker = Broker::shared();
    broker.create_topic("idle", 4, &[]);
    let setup = Setup::new(broker, "idle").processes(2);
    let mut job = setup.start_live();
    wait_until("a live job", LIMIT, || setup.status()["state"] == "live");
    job.signal(Signal::Interrupt);
    let outcome = job.wait(Duration::from_secs(10));
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
}

#[test]
fn a_stop_that_gets_nowhere_ends_with_code_1_and_loses_nothing() {
    let (broker, sink) = (Broker::shared(), Broker::start());
    broker.create_topic("stuck", 1, &[]);
    let setup = Setup::without_topics(broker, "stuck").at(
        &["[sinks]", "dead_letters"],
        &sink,
        Login::Admin,
    );
    sink.create_topic(&setup.joined(), 1, &[]);
    sink.create_topic(&setup.dead(), 1, &[]);
    let mut job = setup.start_live();
    sink.pause();
    let publisher = Publisher::new(broker, "stuck");
    publisher.send(0, None, Some(&event(1, 1)));
    publisher.flush();
    wait_until("a row that cannot be written", LIMIT, || {
        setup.status()["rows_out"] == 1
    });
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(1);
    let said = outcome.stderr.join("\n");
    assert!(said.contains("could not stop cleanly"), "{said}");
    sink.resume();
    setup.run_until_end(&[]);
    assert_eq!(values(&sink, &setup.joined()).len(), 1);
}
