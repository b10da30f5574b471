//! Single ways to lose or double rows, each closed by one rule of the protocol.

use deltajoin::generate::reference_csv;
use deltajoin_testkit::{Broker, Job, wait_until};

use crate::setup::{LIMIT, STARTED, Setup, quoted};
use crate::stops::signal;
use crate::stream::million;
use crate::topics::{Publisher, Tail, detections, differences, event, values};

/// A cluster of two processes without a supervisor.
fn two_workers(setup: &Setup) -> [Job; 2] {
    let workers = ["0", "1"].map(|process| setup.command("worker", &["--process", process]));
    for worker in &workers {
        worker.wait_for_line(STARTED, LIMIT);
    }
    workers
}

/// Whether a process is frozen.
fn is_stopped(job: &Job) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", job.pid())).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .map(|(_, fields)| fields.starts_with('T'));
    state.unwrap_or(false)
}

/// The transactional id of a process that is not there any more must be taken as well.
#[test]
fn a_frozen_process_that_has_no_successor_commits_nothing_late() {
    let broker = Broker::shared();
    broker.create_topic("frozen", 1, &[]);
    let state = tempfile::tempdir().unwrap();
    let setup = |processes| {
        Setup::without_topics(broker, "frozen")
            .set("[sinks]", "delivery", quoted("exactly-once"))
            .state(state.path())
            .processes(processes)
    };
    let two = setup(2);
    broker.create_topic(&two.joined(), 1, &[]);
    broker.create_topic(&two.dead(), 1, &[]);
    let tail = Tail::new(broker, &two.joined());
    let publisher = Publisher::new(broker, "frozen");
    let workers = two_workers(&two);
    let (order, reached) = ("fault-point", two.folder().join("fault-point.reached"));
    // Until an event is one that process 1 joins.
    let frozen = (1..).find(|detection| {
        std::fs::write(two.folder().join(order), "pause transaction.commit").unwrap();
        publisher.send(0, None, Some(&event(*detection, 1)));
        publisher.flush();
        wait_until("a process that is frozen", LIMIT, || reached.exists());
        std::fs::remove_file(&reached).unwrap();
        wait_until("it to stand still", LIMIT, || {
            workers.iter().any(is_stopped)
        });
        if is_stopped(&workers[1]) {
            return true;
        }
        signal(&workers[0].pid().to_string(), "CONT");
        tail.next(LIMIT);
        false
    });
    let frozen = frozen.expect("half of the events are");
    let mut one = setup(1).start_live();
    assert_eq!(tail.next_value(LIMIT)["detection_oid"], frozen);
    signal(&workers[1].pid().to_string(), "CONT");
    for worker in workers {
        assert_ne!(worker.wait(LIMIT).code(), Some(0));
    }
    publisher.send(0, None, Some(&event(frozen + 1, 1)));
    publisher.flush();
    assert_eq!(tail.next_value(LIMIT)["detection_oid"], frozen + 1);
    one.kill();
    let rows = values(broker, &two.joined());
    assert_eq!(detections(&rows), (1..=frozen + 1).collect::<Vec<_>>());
}

/// A bound epoch is read to its end, whatever may be in flight by then.
#[test]
fn an_epoch_that_is_larger_than_what_may_be_in_flight_is_made_again() {
    let (broker, stream) = (Broker::shared(), million());
    let setup = Setup::new(broker, "larger")
        .set("[sinks]", "delivery", quoted("exactly-once"))
        // Nothing is committed before the kill, and no checkpoint is made.
        .set("[sinks]", "commit_interval", quoted("10s"))
        .set("dead_letters", "commit_interval", quoted("10s"))
        .set("checkpoint", "interval", quoted("1h"))
        .set("events", "topic", quoted(stream.topic))
        .reference(&reference_csv(&stream.options));
    let mut job = setup.start_live();
    wait_until("bindings of large epochs", LIMIT, || {
        setup.status()["records"].as_u64().unwrap_or(0) > 300_000
    });
    job.kill();
    job.wait(LIMIT);
    let small = ["--until-end", "--set", "limits.max_in_flight_bytes=1MB"];
    setup.start(&small).wait(LIMIT).assert_code(0);
    let found = differences(broker, &setup.joined(), &stream.expected);
    assert!(found.is_clean(), "{found:#?}");
}
