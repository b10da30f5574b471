//! Brokers that are away, silent or slow: the job waits, says so, stays small, and loses nothing.

use std::time::{Duration, Instant};

use deltajoin::generate::{Expected, Options, reference_csv};
use deltajoin_testkit::{Broker, Job, Login, Signal, wait_until};
#[cfg(feature = "fault-points")]
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::setup::{LIMIT, Setup, assert_no_errors, quoted, summary};
use crate::support::{publish, tell};
use crate::topics::{Publisher, Tail, differences, event};
#[cfg(feature = "fault-points")]
use crate::{
    scenarios::is_stopped,
    setup::STARTED,
    stops::{pid_of, signal},
    topics::values,
};

/// Within this time a job says that its broker is silent; a margin for a busy machine is in it.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a broker is away.
const AWAY: Duration = Duration::from_secs(60);
/// How long a sink's broker is.
const SLOW: Duration = Duration::from_secs(60);
/// What each process may hold that is read and not written, where a sink is slow.
const BUDGET: u64 = 2_000_000;
/// What a process may take more than when it was idle: what librdkafka has fetched ahead, and the
/// keys of what is read. Some 20 MB are measured.
const BESIDE_BUDGET: u64 = 40_000_000;
/// What a slow broker takes a second.
const TRICKLE: u32 = 500_000;
/// It takes ten seconds' worth at once, and has to be given some 15 MB.
const TRICKLED: Duration = Duration::from_secs(10);

#[test]
fn a_broker_that_is_away_at_the_start_is_waited_for_audibly() {
    let broker = Broker::start();
    let options = Options {
        count: 5_000,
        ..Options::default()
    };
    broker.create_topic("early", options.partitions, &[]);
    publish(&broker, "early", &options);
    let setup = Setup::new(&broker, "early")
        .processes(2)
        .reference(&reference_csv(&options));
    broker.kill();
    let job = setup.start(&["--until-end"]);
    let line = job.wait_for_line("waiting for Kafka", LIMIT);
    assert!(
        line.contains(&broker.bootstrap()) && line.contains("early"),
        "{line}"
    );
    broker.restart();
    job.wait_for_line("Kafka answers again", LIMIT);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
    let expected = Expected::of(&options).unwrap();
    assert_eq!(summary(&outcome)["rows out"], expected.rows());
    let found = differences(&broker, &setup.joined(), &expected);
    assert!(found.is_clean(), "{found:#?}");
}

#[test]
fn a_broker_that_is_silent_for_a_while_costs_no_row() {
    let broker = Broker::start();
    let options = Options {
        count: 30_000,
        rate: 2_000,
        ..Options::default()
    };
    broker.create_topic("silent", options.partitions, &[]);
    let setup = Setup::new(&broker, "silent")
        .processes(2)
        .reference(&reference_csv(&options));
    let mut job = setup.start_live();
    let expected = Expected::of(&options).unwrap();
    let tail = Tail::new(&broker, &setup.joined());
    let found = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(&broker, "silent", &options));
        tail.next(LIMIT);
        broker.pause();
        job.wait_for_line("waiting for Kafka", SILENCE);
        broker.resume();
        job.wait_for_line("Kafka answers again", LIMIT);
        assert_eq!(publishing.join().unwrap().records, options.count);
        Tail::new(&broker, &setup.joined()).audit(&expected, LIMIT)
    });
    assert_eq!((found.missing, found.wrong), (0, 0), "{found:#?}");
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
}

#[test]
fn a_broker_that_is_killed_and_away_for_a_minute_is_waited_for() {
    let broker = Broker::start();
    let options = Options {
        count: 21_000,
        rate: 300,
        ..Options::default()
    };
    broker.create_topic("minute", options.partitions, &[]);
    let setup = Setup::new(&broker, "minute")
        .set("[sinks]", "delivery", quoted("exactly-once"))
        .processes(2)
        .reference(&reference_csv(&options));
    let mut job = setup.start_live();
    let tail = Tail::new(&broker, &setup.joined());
    let expected = Expected::of(&options).unwrap();
    let found = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(&broker, "minute", &options));
        for _ in 0..1_000 {
            tail.next(LIMIT);
        }
        let before = job.usage().resident_bytes;
        let killed = Instant::now();
        broker.kill();
        job.wait_for_line("waiting for Kafka", SILENCE);
        std::thread::sleep(AWAY.saturating_sub(killed.elapsed()));
        assert!(job.is_running(), "it waits");
        let grown = job.usage().resident_bytes.saturating_sub(before);
        assert!(grown < 20_000_000, "resident memory grew by {grown} bytes");
        broker.restart();
        publishing.join().unwrap();
        Tail::new(&broker, &setup.joined()).audit(&expected, LIMIT)
    });
    assert!(found.is_clean(), "{found:#?}");
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
    let said = outcome.stderr.join("\n");
    assert!(!said.contains("restarting"), "{said}");
}

#[test]
#[cfg(feature = "fault-points")]
fn a_transaction_that_has_timed_out_costs_one_restart() {
    let broker = Broker::configured(&[
        ("transaction.max.timeout.ms", "20000"),
        (
            "transaction.abort.timed.out.transaction.cleanup.interval.ms",
            "500",
        ),
    ]);
    broker.create_topic("timed-out", 1, &[]);
    let setup = Setup::new(&broker, "timed-out").set("[sinks]", "delivery", quoted("exactly-once"));
    let publisher = Publisher::new(&broker, "timed-out");
    let mut job = setup.command("cluster", &[]);
    let process = job.wait_for_line("started a process process=0", LIMIT);
    job.wait_for_line(STARTED, LIMIT);
    std::fs::write(
        setup.folder().join("fault-point"),
        "pause transaction.commit",
    )
    .unwrap();
    publisher.send(0, None, Some(&event(1, 1)));
    publisher.flush();
    let reached = setup.folder().join("fault-point.reached");
    wait_until("a transaction that stays open", LIMIT, || reached.exists());
    let consumer: BaseConsumer = broker.client().create().unwrap();
    let ends = (0..4).map(|partition| {
        let ends = consumer.fetch_watermarks(&setup.joined(), partition, LIMIT);
        ends.unwrap().1
    });
    // The row, and the mark with which the broker gives it up.
    wait_until("the end of the transaction", LIMIT, || {
        ends.clone().sum::<i64>() == 2
    });
    signal(&pid_of(&process), "CONT");
    let line = job.wait_for_line("restarting all processes", LIMIT);
    assert!(line.contains("restart=1 "), "{line}");
    let tail = Tail::new(&broker, &setup.joined());
    assert_eq!(tail.next_value(LIMIT)["detection_oid"], 1);
    publisher.send(0, None, Some(&event(2, 1)));
    publisher.flush();
    assert_eq!(tail.next_value(LIMIT)["detection_oid"], 2);
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
    assert_eq!(values(&broker, &setup.joined()).len(), 2);
}

/// Nobody knows whether it has come about: it is called again, and never answered by an abort.
#[test]
#[cfg(feature = "fault-points")]
fn a_commit_that_is_not_answered_is_called_again() {
    let broker = Broker::start();
    broker.create_topic("unanswered", 1, &[]);
    let setup = Setup::new(&broker, "unanswered");
    let setup = setup.set("[sinks]", "delivery", quoted("exactly-once"));
    let publisher = Publisher::new(&broker, "unanswered");
    let mut job = setup.start_live();
    let order = setup.folder().join("fault-point");
    std::fs::write(order, "pause transaction.commit").unwrap();
    publisher.send(0, None, Some(&event(1, 1)));
    publisher.flush();
    // All rows are acknowledged then, and nothing but the commit is to come.
    wait_until("a commit that is held up", LIMIT, || is_stopped(&job));
    broker.pause();
    signal(&job.pid().to_string(), "CONT");
    job.wait_for_line("waiting for Kafka", SILENCE);
    broker.resume();
    job.wait_for_line("Kafka answers again", LIMIT);
    publisher.send(0, None, Some(&event(2, 1)));
    publisher.flush();
    let tail = Tail::new(&broker, &setup.joined());
    for detection in 1..=2 {
        assert_eq!(tail.next_value(LIMIT)["detection_oid"], detection);
    }
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
    assert_eq!(values(&broker, &setup.joined()).len(), 2);
}

#[test]
fn an_idle_job_says_that_its_broker_is_silent_and_when_it_is_back() {
    let broker = Broker::start();
    broker.create_topic("idle", 2, &[]);
    let setup = Setup::new(&broker, "idle");
    let mut job = setup.start_live();
    broker.pause();
    job.wait_for_line("waiting for Kafka", SILENCE);
    broker.resume();
    job.wait_for_line("Kafka answers again", LIMIT);
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
}

/// Nothing is written meanwhile, so what a job has read is what it holds.
#[test]
fn a_silent_sink_makes_the_job_wait_and_not_grow() {
    let (broker, sink) = (Broker::shared(), Broker::start());
    let options = Options {
        count: 300_000,
        ..Options::default()
    };
    broker.create_topic("silence", options.partitions, &[]);
    let setups = [(1, "exactly-once"), (2, "at-least-once")].map(|(processes, delivery)| {
        let setup = Setup::without_topics(broker, &format!("silence-{processes}-{delivery}"))
            .set("events", "topic", quoted("silence"))
            .set("[sinks]", "delivery", quoted(delivery))
            .set("limits", "max_in_flight_bytes", BUDGET.to_string())
            .processes(processes)
            .reference(&reference_csv(&options))
            .at(&["[sinks]", "dead_letters"], &sink, Login::Admin);
        sink.create_topic(&setup.joined(), 4, &[]);
        sink.create_topic(&setup.dead(), 1, &[]);
        (processes as u64, setup)
    });
    let stubborn = Stubborn::start(&sink);
    let mut jobs = setups.each_ref().map(|(processes, setup)| {
        let job = setup.start_live();
        wait_until("a live job", LIMIT, || setup.status()["state"] == "live");
        let before = job.usage().resident_bytes;
        (*processes, setup, (before, before), job)
    });
    sink.pause();
    let paused = Instant::now();
    let published = publish(broker, "silence", &options);
    stubborn.end_by_a_second_signal();
    loop {
        for (_, _, (_, most), job) in &mut jobs {
            *most = job.usage().resident_bytes.max(*most);
        }
        if paused.elapsed() >= SLOW {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    for (processes, setup, (before, most), _) in &jobs {
        let status = setup.status();
        let number = |name: &str| status[name].as_u64().expect("a number");
        let behind_ms = number("epoch") - number("written_epoch");
        assert!(behind_ms > 10_000, "the status does not tell: {status}");
        let read = number("records");
        let fit = processes * BUDGET / (published.bytes / published.records);
        let (grown, job) = (most.saturating_sub(*before), setup.joined());
        tell(&format!(
            "{job}: {read} read, {fit} fit, {grown} bytes more"
        ));
        assert!(
            read > fit / 2 && read < fit * 5 / 4,
            "{job}: {read} of {fit}"
        );
        let more = processes * BESIDE_BUDGET;
        assert!(grown < more, "{job}: {grown} more than {before} bytes");
    }
    sink.resume();
    let expected = Expected::of(&options).unwrap();
    for (_, setup, _, mut job) in jobs {
        let found = Tail::new(&sink, &setup.joined()).audit(&expected, LIMIT);
        assert_eq!((found.missing, found.wrong), (0, 0), "{found:#?}");
        job.signal(Signal::Terminate);
        let outcome = job.wait(LIMIT);
        outcome.assert_code(0);
        assert_no_errors(&outcome.stderr);
    }
}

#[test]
fn a_slow_sink_gets_each_row_once_and_makes_the_job_slow_and_not_big() {
    let (broker, sink) = (Broker::shared(), Broker::start());
    let options = Options {
        count: 60_000,
        ..Options::default()
    };
    broker.create_topic("trickle", options.partitions, &[]);
    publish(broker, "trickle", &options);
    let setup = Setup::without_topics(broker, "trickle")
        .set("limits", "max_in_flight_bytes", BUDGET.to_string())
        .reference(&reference_csv(&options))
        .at(&["[sinks]", "dead_letters"], &sink, Login::Admin);
    sink.create_topic(&setup.joined(), 4, &[]);
    sink.create_topic(&setup.dead(), 1, &[]);
    sink.slow_down(TRICKLE);
    let mut job = setup.start_live();
    wait_until("a live job", LIMIT, || setup.status()["state"] == "live");
    let (before, started) = (job.usage().resident_bytes, Instant::now());
    let expected = Expected::of(&options).unwrap();
    let found = Tail::new(&sink, &setup.joined()).audit(&expected, LIMIT);
    assert!(found.is_clean(), "{found:#?}");
    let took = started.elapsed();
    assert!(took > TRICKLED, "the sink was not slow: {took:?}");
    let grown = job.usage().resident_bytes_max.saturating_sub(before);
    tell(&format!("slow sink: {took:?}, {grown} bytes more"));
    assert!(grown < BESIDE_BUDGET, "{grown} more than {before} bytes");
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
    assert!(differences(&sink, &setup.joined(), &expected).is_clean());
}

/// A job that cannot end cleanly, because its sink is silent.
struct Stubborn {
    setup: Setup,
    job: Job,
}

impl Stubborn {
    const TOPIC: &str = "stubborn";

    fn start(sink: &Broker) -> Self {
        let broker = Broker::shared();
        broker.create_topic(Self::TOPIC, 1, &[]);
        let setup = Setup::without_topics(broker, Self::TOPIC).at(
            &["[sinks]", "dead_letters"],
            sink,
            Login::Admin,
        );
        sink.create_topic(&setup.joined(), 1, &[]);
        sink.create_topic(&setup.dead(), 1, &[]);
        let job = setup.start_live();
        Self { setup, job }
    }

    fn end_by_a_second_signal(mut self) {
        let publisher = Publisher::new(Broker::shared(), Self::TOPIC);
        publisher.send(0, None, Some(&event(1, 1)));
        publisher.flush();
        wait_until("a row that cannot be written", LIMIT, || {
            self.setup.status()["rows_out"] == 1
        });
        self.job.signal(Signal::Terminate);
        self.job.wait_for_line("stopping cleanly", LIMIT);
        // Longer than a clean stop takes when the sink answers.
        std::thread::sleep(Duration::from_secs(2));
        assert!(
            self.job.is_running(),
            "a row is not written, and the job has ended"
        );
        self.job.signal(Signal::Terminate);
        self.job.wait(LIMIT).assert_code(130);
    }
}

/// The controller hears of it more seldom than it must: clients are told of no brokers meanwhile.
#[test]
fn a_broker_that_is_fenced_again_and_again_is_found_each_time() {
    let broker = Broker::configured(&[
        ("broker.session.timeout.ms", "1500"),
        ("broker.heartbeat.interval.ms", "2500"),
    ]);
    let options = Options {
        count: 30_000,
        rate: 1_000,
        ..Options::default()
    };
    broker.create_topic("fenced", options.partitions, &[]);
    let setup = Setup::new(&broker, "fenced")
        .set("[sinks]", "delivery", quoted("exactly-once"))
        .reference(&reference_csv(&options));
    let mut job = setup.start_live();
    let expected = Expected::of(&options).unwrap();
    assert_eq!(publish(&broker, "fenced", &options).records, options.count);
    let found = Tail::new(&broker, &setup.joined()).audit(&expected, LIMIT);
    assert!(found.is_clean(), "{found:#?}");
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
}
