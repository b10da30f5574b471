//! Brokers that are away, silent or slow: the job waits, says so, stays small, and loses nothing.

use std::time::{Duration, Instant};

use deltajoin::generate::{Expected, Options, reference_csv};
use deltajoin_testkit::{Broker, Job, Login, Signal, wait_until};

use crate::setup::{LIMIT, Setup, assert_no_errors, quoted, summary};
use crate::stream::million;
use crate::support::publish;
use crate::topics::{Publisher, Tail, differences, event};

/// Within this time a job says that its broker is silent; a margin for a busy machine is in it.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a sink's broker is.
const SLOW: Duration = Duration::from_secs(60);
/// What the job may take beside its budget while its sink is silent: what librdkafka has fetched
/// ahead (32 MB), rows on their way to the broker (32 MB), keys, and the allocator's share.
const BESIDE_BUDGET: u64 = 110_000_000;

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

#[test]
fn a_silent_sink_makes_the_job_wait_and_not_grow() {
    let stream = million();
    let sink = Broker::start();
    let setup = Setup::without_topics(Broker::shared(), "slow")
        .set("events", "topic", quoted(stream.topic))
        .set("limits", "max_in_flight_bytes", quoted("8MB"))
        .reference(&reference_csv(&stream.options))
        .at(&["[sinks]", "dead_letters"], &sink, Login::Admin);
    sink.create_topic(&setup.joined(), 4, &[]);
    sink.create_topic(&setup.dead(), 1, &[]);
    let stubborn = Stubborn::start(&sink);
    let mut job = setup.start_live();
    sink.pause();
    let before = job.usage().resident_bytes;
    let paused = Instant::now();
    stubborn.end_by_a_second_signal();
    std::thread::sleep(SLOW.saturating_sub(paused.elapsed()));
    let grown = job.usage().resident_bytes_max.saturating_sub(before);
    let lag = setup.status()["lag_records"].as_u64().expect("a number");
    sink.resume();
    assert!(
        lag > stream.options.count / 2,
        "the sink was silent, but only {lag} are unread"
    );
    assert!(
        grown < BESIDE_BUDGET,
        "resident memory grew by {grown} from {before} bytes"
    );
    let found = Tail::new(&sink, &setup.joined()).audit(&stream.expected, LIMIT);
    assert_eq!((found.missing, found.wrong), (0, 0), "{found:#?}");
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
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
