//! More keys and rows than may be in memory: older ones are on disk, and a retry of any age is
//! found there, also after a crash and on a disk that has nothing any more.

use std::cell::Cell;

use deltajoin_testkit::{Broker, Signal, wait_until};
use serde_json::Value;

use crate::revise::{World, upserted};
use crate::setup::{LIMIT, Setup, quoted};
use crate::support::now_ms;
use crate::topics::Publisher;

/// When the first event was.
const T: i64 = 1_767_225_600_000;
const HOUR_MS: i64 = 3_600_000;
const PARTITIONS: i32 = 4;
/// New keys of an hour: 75,000 for each of four workers.
const KEYS: i64 = 300_000;
const HOURS: i64 = 6;

/// Events that are published, and how many of them are new.
struct Feed<'a> {
    publisher: Publisher<'a>,
    new: Cell<u64>,
    all: Cell<u64>,
}

impl Feed<'_> {
    fn send(&self, detection: i64, hour: i64) {
        let at = T + hour * HOUR_MS + detection % HOUR_MS;
        let event = format!(
            "{{\"geographical_location_oid\":1,\"video_camera_oid\":7,\
             \"detection_oid\":{detection},\"item_name\":\"box\",\"timestamp_detected\":{at}}}"
        );
        // A retry may come from elsewhere.
        let partition = i32::try_from(self.all.get() % 4).unwrap();
        self.publisher.send(partition, None, Some(event.as_bytes()));
        self.all.update(|all| all + 1);
        if self.all.get().is_multiple_of(50_000) {
            // As many as the client holds.
            self.publisher.flush();
        }
    }

    fn send_new(&self, detections: std::ops::Range<i64>, hour: i64) {
        for detection in detections {
            self.send(detection, hour);
            self.new.update(|new| new + 1);
        }
    }

    /// Every so manyth event of all hours up to one, again.
    fn again(&self, every: usize, hours: i64) {
        for detection in (0..hours * KEYS).step_by(every) {
            self.send(detection, detection / KEYS);
        }
    }
}

fn count(status: &Value, name: &str) -> u64 {
    let count = status[name].as_u64();
    count.unwrap_or_else(|| panic!("no {name:?} in {status}"))
}

/// Waits until the job has read all of this start, and says what it counts.
fn read_all(setup: &Setup, events: u64) -> Value {
    wait_until("all events", LIMIT, || {
        setup.status()["events"].as_u64() == Some(events)
    });
    setup.status()
}

#[test]
fn keys_beyond_the_memory_limit_are_on_disk_and_a_retry_of_any_age_is_found() {
    let (broker, name) = (Broker::shared(), "cold");
    broker.create_topic(name, PARTITIONS, &[]);
    let setup = Setup::new(broker, name)
        .set(
            "events",
            "time",
            r#"{ column = "timestamp_detected", unit = "ms" }"#,
        )
        .set("join", "on_reference_change", quoted("future-only"))
        .set("checkpoint", "interval", quoted("300ms"))
        .set("state", "memory_limit", quoted("16MB"))
        .set("cluster", "threads", "4");
    let feed = Feed {
        publisher: Publisher::new(broker, name),
        new: Cell::new(0),
        all: Cell::new(0),
    };
    let mut job = setup.start_live();
    for hour in 0..HOURS {
        feed.send_new(hour * KEYS..(hour + 1) * KEYS, hour);
        feed.again(50, hour);
        feed.publisher.flush();
    }
    read_all(&setup, feed.all.get());
    wait_until("keys on disk", LIMIT, || {
        count(&setup.status(), "cold_keys") > 600_000
    });
    let status = setup.status();
    assert_eq!(count(&status, "keys"), feed.new.get());
    let limit = 16_000_000;
    assert!(count(&status, "key_bytes") < limit, "{status}");
    job.kill();
    job.wait(LIMIT);

    // Retries of all hours, and events that are new though they are late; then the same once more
    // where the folder of the process is gone.
    for round in 1..3 {
        let before = feed.all.get();
        feed.again(20, HOURS);
        let first = (HOURS + round) * KEYS;
        feed.send_new(first..first + 1000, 0);
        feed.publisher.flush();
        let mut job = setup.start_live();
        // What the checkpoint lacks is read again.
        wait_until("the rest", LIMIT, || {
            setup.status()["lag_records"] == 0
                && count(&setup.status(), "events") >= feed.all.get() - before
        });
        let status = setup.status();
        assert_eq!(count(&status, "keys"), feed.new.get());
        assert!(count(&status, "cold_keys") > 600_000, "{status}");
        assert!(count(&status, "cold_found") > 20_000, "{status}");
        assert!(count(&status, "cold_reads") < count(&status, "cold_probes"));
        job.signal(Signal::Terminate);
        job.wait(LIMIT).assert_code(0);
        if round == 1 {
            std::fs::remove_dir_all(setup.folder().join("state/local")).unwrap();
        }
    }
    let mut seen = vec![0_u8; usize::try_from((HOURS + 3) * KEYS).unwrap()];
    let mut rows = 0;
    broker.read(&setup.joined(), |record| {
        let key: Value = serde_json::from_slice(&record.key.unwrap()).unwrap();
        let detection = key["detection_oid"].as_u64().unwrap();
        seen[usize::try_from(detection).unwrap()] += 1;
        rows += 1;
    });
    assert_eq!(rows, feed.new.get());
    assert!(seen.iter().all(|count| *count <= 1), "each once");
}

#[test]
fn rows_of_the_window_that_are_on_disk_are_corrected_also_after_a_kill() {
    let (broker, name) = (Broker::shared(), "cold-rows");
    let mut world = World::new(broker, [name, "cold-rows-names"]);
    let setup = Setup::new(broker, name)
        .set(
            "events",
            "time",
            r#"{ column = "timestamp_detected", unit = "ms" }"#,
        )
        .set("distinct", "keep", quoted("latest"))
        .set("join", "unmatched", quoted("drop"))
        .set("checkpoint", "interval", quoted("300ms"))
        .set("state", "memory_limit", quoted("16MB"))
        .reference_topic(broker, "cold-rows-names");
    let (now, events) = (now_ms(), 100_000);
    for location in 0..10 {
        world.name(location, Some(&format!("first {location}")));
    }
    for detection in 0..events {
        let at = now - 60_000 + detection % 1000;
        world.event(detection, detection % 10, "box", at);
        if detection % 50_000 == 0 {
            world.flush();
        }
    }
    world.flush();
    let mut job = setup.start_live();
    read_all(&setup, events.unsigned_abs());
    for round in 0..2 {
        let on_disk = || count(&setup.status(), "cold_rows") > 30_000;
        wait_until("rows on disk", LIMIT, on_disk);
        let status = setup.status();
        assert_eq!(count(&status, "recent_rows"), events.unsigned_abs());
        assert!(count(&status, "recent_bytes") < 9_000_000, "{status}");

        // A tenth is another, a tenth is gone, and better events come of rows of any age.
        let before = count(&status, "retracted");
        world.name(round, Some(&format!("second {round}")));
        world.name(4 + round, None);
        for detection in (round..events).step_by(101) {
            world.event(detection, 2, &format!("better {round}"), now + round);
        }
        world.flush();
        let corrected = || count(&setup.status(), "retracted") > before + 20_000;
        wait_until("corrections", LIMIT, corrected);
        wait_until("the rest", LIMIT, || setup.status()["lag_records"] == 0);
        if round == 0 {
            job.kill();
            job.wait(LIMIT);
            job = setup.start_live();
        }
    }
    let windows = || {
        let folder = setup.folder().join("state/local/process-0").join(name);
        let names = std::fs::read_dir(folder).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("window-")).count()
    };
    assert!(windows() > 0);
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
    assert!(upserted(broker, &setup.joined()) == world.collection());
    assert_eq!(windows(), 0, "files are gone with their process");
}
