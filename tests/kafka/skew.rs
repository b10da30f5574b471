//! Streams that are not even: one place, one key or one partition has nearly everything, or nothing
//! comes and then much at once.
//!
//! Rows must be those of a computation that is not the job's; memory must not grow by what comes.
//! How even the workers are is judged by the rows of each output partition: a partition has a
//! fixed share of the key groups, as each worker has. The events of one key are one worker's.

use std::collections::{BTreeMap, HashMap};

use deltajoin::generate::{Expected, Generator, Options, reference_csv};
use deltajoin_testkit::{Broker, Signal, wait_until};
use serde_json::Value;

use crate::setup::{LIMIT, STARTED, Setup, quoted};
use crate::support::publish;
use crate::topics::{Publisher, differences, event_of};

/// What the job may grow by while it runs: its budget, what librdkafka has fetched ahead, and what
/// the allocator rounds up. Each stream here has more bytes than that: 115 MB at least.
const GROWN_MAX: u64 = 110_000_000;
/// Bytes added to each event.
const PADDING: usize = 1_000;

fn options(count: u64) -> Options {
    Options {
        count,
        padding: PADDING,
        ..Options::default()
    }
}

fn setup(name: &str) -> Setup {
    Setup::new(Broker::shared(), name)
        .set("join", "on_reference_change", quoted("future-only"))
        .set("limits", "max_in_flight_bytes", quoted("8MB"))
        .set(
            "events",
            "kafka",
            r#"{ "queued.max.messages.kbytes" = "2048" }"#,
        )
}

/// Runs the job while `publish` fills its topic with so many records, until all are taken in.
fn run(setup: &Setup, records: u64, arguments: &[&str], publish: impl FnOnce() + Send) {
    let mut job = setup.start(arguments);
    job.wait_for_line(STARTED, LIMIT);
    wait_until("the job is live", LIMIT, || {
        setup.status()["state"] == "live"
    });
    let before = job.usage().resident_bytes;
    let mut most = before;
    std::thread::scope(|scope| {
        let publishing = scope.spawn(publish);
        wait_until("all records", LIMIT, || {
            most = most.max(job.usage().resident_bytes);
            setup.status()["records"] == records
        });
        publishing.join().unwrap();
    });
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
    let grown = most - before;
    assert!(grown < GROWN_MAX, "{grown} bytes more than {before}");
}

/// Runs the job on a generated stream, and compares what it writes.
fn check(setup: Setup, name: &str, options: &Options) {
    let setup = setup.reference(&reference_csv(options));
    run(&setup, options.count, &[], || {
        publish(Broker::shared(), name, options);
    });
    let expected = Expected::of(options).unwrap();
    let found = differences(Broker::shared(), &setup.joined(), &expected);
    assert!(found.is_clean(), "{found:#?}");
    assert_even(&setup);
}

/// The key groups of each worker must have had about as many keys as those of any other.
fn assert_even(setup: &Setup) {
    let mut rows = BTreeMap::<i32, usize>::new();
    Broker::shared().read(&setup.joined(), |record| {
        *rows.entry(record.partition).or_default() += 1;
    });
    let mean = rows.values().sum::<usize>() / 4;
    let even = |rows: &usize| rows.abs_diff(mean) * 10 < mean;
    assert!(rows.len() == 4 && rows.values().all(even), "{rows:?}");
}

#[test]
fn a_place_of_nine_events_in_ten_costs_no_worker_more_than_another() {
    Broker::shared().create_topic("one-place", 4, &[]);
    let options = Options {
        hot_share: 0.9,
        ..options(100_000)
    };
    check(setup("one-place").processes(2), "one-place", &options);
}

#[test]
fn a_partition_that_has_everything_is_shared_by_all_workers() {
    Broker::shared().create_topic("one-partition", 4, &[]);
    let options = Options {
        partitions: 1,
        ..options(100_000)
    };
    let setup = setup("one-partition").processes(2);
    check(setup, "one-partition", &options);
}

#[test]
fn a_key_that_comes_a_million_times_is_one_row_and_no_memory() {
    const REPEATS: i64 = 1_000_000;
    const OTHERS: i64 = 20_000;
    let broker = Broker::shared();
    broker.create_topic("one-key", 4, &[]);
    let setup =
        setup("one-key").reference("geographical_location_oid,geographical_location\n1,A\n");
    let item = "x".repeat(PADDING / 10);
    let repeated = event_of(0, 1, &item);
    let records = (REPEATS + OTHERS).unsigned_abs();
    run(&setup, records, &["--set=cluster.threads=2"], || {
        let publisher = Publisher::new(broker, "one-key");
        for other in 1..=OTHERS {
            // All partitions have it.
            for _ in 0..REPEATS / OTHERS {
                publisher.send((other % 4) as i32, None, Some(&repeated));
            }
            let other = event_of(other, other % 2, &item);
            publisher.send(0, None, Some(&other));
            if publisher.waiting() > 20_000 {
                publisher.flush();
            }
        }
        publisher.flush();
    });
    let mut rows: HashMap<i64, Value> = HashMap::new();
    broker.read(&setup.joined(), |record| {
        let row: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        let key = row["detection_oid"].as_i64().unwrap();
        assert_eq!(rows.insert(key, row), None, "a row is there twice");
    });
    assert_eq!(rows.len(), 1 + OTHERS as usize);
    for key in 0..=OTHERS {
        let location = if key == 0 { 1 } else { key % 2 };
        let mut row: Value = serde_json::from_slice(&event_of(key, location, &item)).unwrap();
        row["geographical_location"] = match location {
            1 => "A".into(),
            _ => Value::Null,
        };
        assert_eq!(rows[&key], row);
    }
    assert_even(&setup);
    let status = setup.status();
    assert_eq!(status["duplicates"], REPEATS - 1, "{status}");
}

#[test]
fn thirty_thousand_events_at_once_after_a_pause_are_joined_in_bounded_memory() {
    const BURST: u64 = 30_000;
    let broker = Broker::shared();
    broker.create_topic("bursts", 4, &[]);
    let options = options(4 * BURST);
    let setup = setup("bursts").reference(&reference_csv(&options));
    let mut generator = Generator::new(options.clone()).unwrap();
    run(&setup, options.count, &["--set=cluster.threads=2"], || {
        let publisher = Publisher::new(broker, "bursts");
        for burst in 1..=4 {
            for _ in 0..BURST {
                let record = generator.next_record().expect("there are more");
                publisher.send(record.partition, None, Some(record.value));
            }
            publisher.flush();
            wait_until("the burst's records", LIMIT, || {
                setup.status()["records"] == burst * BURST
            });
            let pause = setup.status()["epoch"].as_u64().unwrap() + 300;
            wait_until("nothing new", LIMIT, || {
                setup.status()["epoch"].as_u64().unwrap_or(0) > pause
            });
        }
    });
    let expected = Expected::of(&options).unwrap();
    let found = differences(broker, &setup.joined(), &expected);
    assert!(found.is_clean(), "{found:#?}");
    assert_even(&setup);
}
