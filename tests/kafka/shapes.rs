//! Topics of every shape: empty, sparse, wide, with large records; and where reading starts.

use std::time::{Duration, Instant};

use deltajoin::generate::{Expected, Options, reference_csv};
use deltajoin_testkit::{Broker, Signal};

use crate::setup::{LIMIT, Setup, assert_no_errors, quoted, summary};
use crate::support::publish;
use crate::topics::{Publisher, Tail, detections, differences, event, values};

/// Within this an event must come out on a busy machine.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn an_empty_topic_ends_at_once_with_zeros() {
    let broker = Broker::shared();
    broker.create_topic("nothing", 4, &[]);
    for processes in [1, 2] {
        let setup = Setup::new(broker, &format!("nothing-{processes}"))
            .set("events", "topic", quoted("nothing"))
            .processes(processes);
        let counts = summary(&setup.run_until_end(&[]));
        assert_eq!(counts.len(), 13, "{counts:?}");
        assert!(counts.values().all(|count| *count == 0), "{counts:?}");
        assert!(values(broker, &setup.joined()).is_empty());
        assert!(values(broker, &setup.dead()).is_empty());
    }
}

#[test]
fn a_partition_with_nothing_in_it_holds_nothing_up() {
    let broker = Broker::shared();
    broker.create_topic("lopsided", 4, &[]);
    let publisher = Publisher::new(broker, "lopsided");
    for detection in 1..=100 {
        publisher.send(2, None, Some(&event(detection, 1)));
    }
    publisher.flush();
    let setup = Setup::new(broker, "lopsided").processes(2);
    let counts = summary(&setup.run_until_end(&[]));
    assert_eq!((counts["records"], counts["unmatched"]), (100, 100));
    let rows = values(broker, &setup.joined());
    assert_eq!(detections(&rows), (1..=100).collect::<Vec<_>>());
}

#[test]
fn of_64_partitions_most_are_idle_and_an_event_comes_out_at_once() {
    let broker = Broker::shared();
    broker.create_topic("wide", 64, &[]);
    let setup = Setup::new(broker, "wide").processes(2);
    let mut job = setup.start_live();
    let publisher = Publisher::new(broker, "wide");
    let tail = Tail::new(broker, &setup.joined());
    let mut latencies = Vec::new();
    for detection in 1..=21 {
        let published = Instant::now();
        let partition = i32::try_from(detection * 29 % 64).expect("below 64");
        publisher.send(partition, None, Some(&event(detection, 1)));
        publisher.flush();
        assert_eq!(tail.next_value(LIMIT)["detection_oid"], detection);
        latencies.push(published.elapsed());
    }
    latencies.sort();
    // Half of them, since the machine may be busy with other tests at any one moment.
    assert!(latencies[latencies.len() / 2] < SOON, "{latencies:?}");
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
    let again = Setup::new(broker, "wide-again")
        .set("events", "topic", quoted("wide"))
        .processes(2);
    assert_eq!(summary(&again.run_until_end(&[]))["rows out"], 21);
    let rows = values(broker, &again.joined());
    assert_eq!(detections(&rows), (1..=21).collect::<Vec<_>>());
}

#[test]
fn records_of_a_megabyte_pass() {
    let broker = Broker::shared();
    let sizes: &[(&str, &str)] = &[("max.message.bytes", "3000000")];
    let options = Options {
        count: 40,
        padding: 1 << 20,
        orphan_share: 0.2,
        reference_rows: 100,
        ..Options::default()
    };
    broker.create_topic("heavy", options.partitions, sizes);
    publish(broker, "heavy", &options);
    let setup = Setup::without_topics(broker, "heavy")
        .processes(2)
        .set("limits", "max_record_bytes", quoted("2MB"))
        // Less than what is on its way at once: then a record passes alone.
        .set("limits", "max_in_flight_bytes", quoted("2MB"))
        .reference(&reference_csv(&options));
    broker.create_topic(&setup.joined(), 4, sizes);
    broker.create_topic(&setup.dead(), 1, &[]);
    let counts = summary(&setup.run_until_end(&[]));
    let expected = Expected::of(&options).unwrap();
    assert_eq!(counts["rows out"], expected.rows());
    let found = differences(broker, &setup.joined(), &expected);
    assert!(found.is_clean(), "{found:#?}");
}

#[test]
fn reading_starts_at_a_time_or_at_the_end() {
    let broker = Broker::shared();
    // The events are old, and must be kept for as long as the test takes.
    broker.create_topic("dated", 2, &[("retention.ms", "-1")]);
    let publisher = Publisher::new(broker, "dated");
    // Noon of the first of ten days of 2026; the second partition has nothing later than the 3rd.
    let noon_ms = |day: i64| 1_767_268_800_000 + (day - 1) * 86_400_000;
    for day in 1..=10 {
        let partition = i32::from(day <= 3);
        publisher.send_at(partition, None, Some(&event(day, 1)), Some(noon_ms(day)));
    }
    publisher.flush();
    for (name, start, wanted) in [
        (
            "dated-inside",
            "2026-01-05T00:00:00Z",
            vec![5, 6, 7, 8, 9, 10],
        ),
        (
            "dated-exact",
            "2026-01-05T12:00:00Z",
            vec![5, 6, 7, 8, 9, 10],
        ),
        (
            "dated-after",
            "2026-01-05T12:00:01+00:00",
            vec![6, 7, 8, 9, 10],
        ),
        (
            "dated-both",
            "2026-01-02T13:00:00+01:00",
            vec![2, 3, 4, 5, 6, 7, 8, 9, 10],
        ),
        ("dated-late", "2027-01-01T00:00:00Z", vec![]),
    ] {
        let setup = Setup::new(broker, name)
            .set("events", "topic", quoted("dated"))
            .set("events", "start", quoted(start));
        setup.run_until_end(&[]);
        assert_eq!(
            detections(&values(broker, &setup.joined())),
            wanted,
            "{start}"
        );
    }
    let setup = Setup::new(broker, "dated-latest")
        .set("events", "topic", quoted("dated"))
        .set("events", "start", quoted("latest"));
    let mut job = setup.start_live();
    publisher.send(0, None, Some(&event(11, 1)));
    publisher.send(1, None, Some(&event(12, 1)));
    publisher.flush();
    let tail = Tail::new(broker, &setup.joined());
    let rows = [tail.next_value(LIMIT), tail.next_value(LIMIT)];
    assert_eq!(detections(&rows), [11, 12]);
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
    assert_eq!(values(broker, &setup.joined()).len(), 2);
}
