//! How long keys are remembered, by the events' own time: backfills, late events, odd units.

use deltajoin_testkit::Broker;
use serde_json::json;

use crate::setup::{LIMIT, Setup, quoted, summary};
use crate::support::now_ms;
use crate::topics::{Publisher, dead_letters, detections, values};

const DAY_MS: i64 = 24 * 3600 * 1000;

fn event(detection: i64, at: i64) -> Vec<u8> {
    let event = json!({
        "geographical_location_oid": 1,
        "video_camera_oid": 7,
        "detection_oid": detection,
        "item_name": "car",
        "timestamp_detected": at,
    });
    event.to_string().into_bytes()
}

fn timed(broker: &Broker, name: &str) -> Setup {
    Setup::new(broker, name).set(
        "events",
        "time",
        r#"{ column = "timestamp_detected", unit = "ms" }"#,
    )
}

#[test]
fn a_backfill_of_partitions_that_are_days_apart_takes_no_event_for_late() {
    let broker = Broker::shared();
    broker.create_topic("week", 4, &[]);
    let publisher = Publisher::new(broker, "week");
    let now = now_ms();
    // One partition has the whole week, one its last days, one its first day, and one nothing.
    let mut detection = 0;
    for (partition, days) in [(0, 0..7), (1, 5..7), (2, 0..1)] {
        for day in days {
            for hour in 0..24 {
                for retry in [false, true] {
                    let at = now - (7 - day) * DAY_MS + hour * DAY_MS / 24;
                    detection += i64::from(!retry);
                    publisher.send(partition, None, Some(&event(detection, at)));
                }
            }
        }
    }
    publisher.flush();
    for processes in [1, 2] {
        let setup = timed(broker, &format!("week-{processes}"))
            .set("events", "topic", quoted("week"))
            .set("distinct", "horizon", quoted("12h"))
            .processes(processes);
        let counts = summary(&setup.run_until_end(&[]));
        assert_eq!((counts["late"], counts["future"]), (0, 0));
        let each_once = (1..=detection).collect::<Vec<_>>();
        assert_eq!(detections(&values(broker, &setup.joined())), each_once);
        assert_eq!(counts["duplicates"], detection.unsigned_abs());
    }
}

#[test]
fn what_is_too_old_or_too_far_ahead_is_a_dead_letter_and_moves_no_clock() {
    let broker = Broker::shared();
    broker.create_topic("ages", 1, &[]);
    let publisher = Publisher::new(broker, "ages");
    let now = now_ms();
    let setup = timed(broker, "ages").set("distinct", "horizon", quoted("24h"));
    for (detection, at) in [
        (1, now),
        // Neither of these may make the job forget.
        (2, now + DAY_MS),
        (3, now * 1000),
        (4, now - DAY_MS / 2),
    ] {
        publisher.send(0, None, Some(&event(detection, at)));
    }
    publisher.flush();
    setup.run_until_end(&[]);
    // The clock is bound by now: a retry of what it remembers, and events of which it cannot know.
    for (detection, at) in [
        (4, now - DAY_MS / 2),
        (5, now - 2 * DAY_MS),
        (6, now / 1000),
    ] {
        publisher.send(0, None, Some(&event(detection, at)));
    }
    publisher.flush();
    let outcome = setup.start(&["--until-end"]).wait(LIMIT);
    outcome.assert_code(0);
    let counts = summary(&outcome);
    assert_eq!((counts["late"], counts["duplicates"]), (2, 1));
    assert_eq!(detections(&values(broker, &setup.joined())), [1, 4]);
    let letters = dead_letters(broker, &setup.dead());
    let reasons: Vec<_> = letters
        .values()
        .map(|letter| letter.reason.as_str())
        .collect();
    assert_eq!(reasons, ["future", "future", "late", "late"]);
    let error = &letters[&(0, 5)].error;
    assert!(
        error.contains("\"timestamp_detected\"") && error.contains("86400000 ms"),
        "{error}"
    );
}

#[test]
fn a_unit_that_looks_wrong_is_said() {
    let broker = Broker::shared();
    broker.create_topic("units", 1, &[]);
    let publisher = Publisher::new(broker, "units");
    publisher.send(0, None, Some(&event(1, now_ms() / 1000)));
    publisher.flush();
    let outcome = timed(broker, "units").run_until_end(&[]);
    let said = outcome.stderr.join("\n");
    assert!(said.contains("times 1000 it would be near"), "{said}");
}
