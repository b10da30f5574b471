//! Records that cannot become results, and rows that cannot be written: each costs nothing but
//! itself.

use std::collections::BTreeMap;
use std::fmt::Write;
#[cfg(feature = "fault-points")]
use std::time::Duration;

#[cfg(feature = "fault-points")]
use deltajoin_testkit::wait_until;
use deltajoin_testkit::{Broker, Signal};
use expect_test::expect_file;

#[cfg(feature = "fault-points")]
use crate::late::give;
use crate::setup::{LIMIT, Setup, assert_no_errors, summary};
use crate::topics::{Publisher, Tail, dead_letters, detections, event, event_of, values};

/// The bytes of `max_record_bytes` in these tests.
const RECORD_BYTES_MAX: usize = 10_000;

/// An event with a piece of its text replaced.
fn changed(from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(event(0, 1)).expect("JSON is text");
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1).into_bytes()
}

/// What is wrong, the reason that must be told, and the record's value.
fn poison() -> Vec<(&'static str, &'static str, Option<Vec<u8>>)> {
    let (malformed, wrong_type) = ("malformed", "wrong-type");
    let deep = |count: usize| format!("{}{}", "[".repeat(count), "]".repeat(count));
    let mut records = vec![
        ("empty", malformed, Some(Vec::new())),
        ("tombstone", malformed, None),
    ];
    let texts: Vec<(_, _, Vec<u8>)> = vec![
        ("no JSON", malformed, b"hello".to_vec()),
        ("no object", malformed, b"[1]".to_vec()),
        ("null", malformed, b"null".to_vec()),
        ("truncated", malformed, event(0, 1)[..60].to_vec()),
        ("more behind", malformed, changed("}", "} x")),
        ("two objects", malformed, changed("}", "}{}")),
        (
            "column twice",
            malformed,
            changed("{", "{\"detection_oid\":1,"),
        ),
        (
            "broken UTF-8",
            malformed,
            b"{\"item_name\":\"\xc3 \xff\"}".to_vec(),
        ),
        ("a byte of zero", malformed, changed("car", "c\0r")),
        (
            "open nesting",
            malformed,
            "[{\"a\":".repeat(1_500).into_bytes(),
        ),
        (
            "nesting in a column",
            wrong_type,
            changed("\"car\"", &deep(4_000)),
        ),
        ("word for number", wrong_type, changed(":7", ":\"seven\"")),
        ("digits in quotes", wrong_type, changed(":7", ":\"7\"")),
        ("float for int", wrong_type, changed(":7", ":7.5")),
        (
            "int too large",
            wrong_type,
            changed(":7", ":9223372036854775808"),
        ),
        ("number for string", wrong_type, changed("\"car\"", "5")),
        ("half a surrogate", wrong_type, changed("car", "\\ud800")),
        (
            "missing key",
            wrong_type,
            changed("\"detection_oid\":0,", ""),
        ),
        (
            "null key",
            wrong_type,
            changed("\"detection_oid\":0", "\"detection_oid\":null"),
        ),
        ("null in a column", wrong_type, changed("\"car\"", "null")),
        (
            "too large",
            "too-large",
            event_of(0, 1, &"x".repeat(20_000)),
        ),
    ];
    records.extend(
        texts
            .into_iter()
            .map(|(what, reason, text)| (what, reason, Some(text))),
    );
    records
}

/// Good, though strange.
fn strange(detection: i64) -> Vec<Vec<u8>> {
    let text = |detection| String::from_utf8(event(detection, 1)).expect("JSON is text");
    let deep = format!("{{\"more\":{}{},", "[".repeat(4_000), "]".repeat(4_000));
    vec![
        text(detection).replacen('{', &deep, 1).into_bytes(),
        format!(" \n\t{}\r\n ", text(detection + 1)).into_bytes(),
        text(detection + 2)
            .replacen("car", "\\u0041\\n", 1)
            .into_bytes(),
    ]
}

#[test]
fn a_bad_record_costs_the_records_around_it_nothing() {
    let broker = Broker::shared();
    broker.create_topic("poison", 2, &[]);
    let publisher = Publisher::new(broker, "poison");
    let mut offsets = [0; 2];
    let mut bad = BTreeMap::new();
    let mut good = 0;
    for (what, reason, value) in poison() {
        for partition in [0, 1] {
            good += 1;
            publisher.send(partition, None, Some(&event(good, 1)));
            publisher.send(partition, Some(b"any"), value.as_deref());
            let offset = &mut offsets[usize::from(partition == 1)];
            bad.insert((partition, *offset + 1), (what, reason, value.clone()));
            *offset += 2;
        }
    }
    for value in strange(good + 1) {
        good += 1;
        publisher.send(0, None, Some(&value));
    }
    publisher.flush();
    let setup = Setup::new(broker, "poison")
        .set("limits", "max_record_bytes", "\"10KB\"")
        .reference("geographical_location_oid,geographical_location\n1,here\n");
    let outcome = setup.run_until_end(&[]);
    let rows = values(broker, &setup.joined());
    assert_eq!(detections(&rows), (1..=good).collect::<Vec<_>>());
    assert!(
        rows.iter()
            .all(|row| row["geographical_location"] == "here")
    );
    let letters = dead_letters(broker, &setup.dead());
    assert_eq!(summary(&outcome)["dead letters"], bad.len() as u64);
    assert_eq!(
        letters.keys().collect::<Vec<_>>(),
        bad.keys().collect::<Vec<_>>()
    );
    let mut errors = String::new();
    for (origin, letter) in letters {
        let (what, reason, value) = &bad[&origin];
        if letter.partition == 0 {
            writeln!(errors, "{what}: {}", letter.error).unwrap();
        }
        assert_eq!(letter.reason, *reason, "{what}: {letter:?}");
        assert_eq!(letter.topic, "poison");
        assert!(letter.timestamp.is_some(), "{letter:?}");
        let mut raw = value.clone().unwrap_or_default();
        if raw.len() > RECORD_BYTES_MAX {
            let note = format!("only {RECORD_BYTES_MAX} of {} bytes are kept", raw.len());
            assert!(letter.error.contains(&note), "{}", letter.error);
            raw.truncate(RECORD_BYTES_MAX);
        }
        assert!(letter.raw() == raw, "{what}: {letter:?}");
    }
    expect_file!["golden/poison.txt"].assert_eq(&errors);
}

#[test]
fn a_row_too_large_for_its_topic_becomes_a_dead_letter_and_the_job_goes_on() {
    let broker = Broker::shared();
    broker.create_topic("bulky", 2, &[]);
    let setup =
        Setup::without_topics(broker, "bulky")
            .processes(2)
            .set("telemetry", "log", "\"error\"");
    broker.create_topic(&setup.joined(), 4, &[("max.message.bytes", "2000")]);
    broker.create_topic(&setup.dead(), 1, &[]);
    let mut job = setup.start(&[]);
    let publisher = Publisher::new(broker, "bulky");
    let (rows, letters) = (
        Tail::new(broker, &setup.joined()),
        Tail::new(broker, &setup.dead()),
    );
    let large = event_of(0, 1, &"x".repeat(3_000));
    // Good, too large, undecodable: dead letters of both kinds are under way at the same time.
    for round in 1..=300 {
        for partition in [0, 1] {
            let number = round * 2 + i64::from(partition);
            publisher.send(partition, None, Some(&event(number, 1)));
            let large = String::from_utf8_lossy(&large);
            let large = large.replace("_oid\":0,", &format!("_oid\":-{number},"));
            publisher.send(partition, None, Some(large.as_bytes()));
            publisher.send(partition, None, Some(b"junk"));
        }
        publisher.flush();
    }
    let written: Vec<_> = (0..600).map(|_| rows.next_value(LIMIT)).collect();
    assert_eq!(detections(&written), (2..=601).collect::<Vec<_>>());
    let mut refused: Vec<serde_json::Value> = Vec::new();
    for _ in 0..1_200 {
        let letter = letters.next_value(LIMIT);
        if letter["reason"] == "too-large" {
            let key = letter["raw"].as_str().expect("a key is text");
            refused.push(serde_json::from_str(key).expect("a key is JSON"));
        }
    }
    assert_eq!(detections(&refused), (-601..=-2).collect::<Vec<_>>());
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
    assert_eq!(dead_letters(broker, &setup.dead()).len(), 1_200);
    let status = setup.status();
    // A row that was handed to the sink counts, whatever became of it there.
    assert_eq!(
        (&status["rows_out"], &status["dead_letters"]),
        (&1_200.into(), &1_200.into())
    );
}

/// A row's dead letter is of its epoch. It is written after the row's epoch, and a crash between
/// them must not lose it, nor one behind it write it twice.
#[cfg(feature = "fault-points")]
#[test]
fn a_row_too_large_is_a_dead_letter_once_if_the_job_dies_before_that_is_written() {
    let broker = Broker::shared();
    broker.create_topic("bulky-crash", 1, &[]);
    let setup = Setup::without_topics(broker, "bulky-crash").dead_letters_to("dead.jsonl");
    broker.create_topic(&setup.joined(), 1, &[("max.message.bytes", "2000")]);
    let publisher = Publisher::new(broker, "bulky-crash");
    let rows = Tail::new(broker, &setup.joined());
    let letters = || {
        let text = std::fs::read_to_string(setup.folder().join("dead.jsonl")).unwrap_or_default();
        let whole = text.lines().filter(|line| line.ends_with('}'));
        let letter = |line| serde_json::from_str::<serde_json::Value>(line).expect("it is JSON");
        let key = |letter: serde_json::Value| {
            assert_eq!(letter["reason"], "too-large");
            let key = letter["raw"].as_str().expect("a key is text");
            serde_json::from_str(key).expect("a key is JSON")
        };
        detections(&whole.map(letter).map(key).collect::<Vec<_>>())
    };
    let mut died_between = 0;
    for round in 0..8 {
        let mut job = setup.start_live();
        publisher.send(0, None, Some(&event(round * 10, 1)));
        publisher.flush();
        assert_eq!(detections(&[rows.next_value(LIMIT)]), [round * 10]);
        give(&setup, "kill transaction.committed");
        let large = event_of(round * 10 + 1, 1, &"x".repeat(3_000));
        publisher.send(0, None, Some(&large));
        publisher.send(0, None, Some(&event(round * 10 + 2, 1)));
        publisher.flush();
        wait_until("it dies", LIMIT, || !job.is_running());
        let committed = rows.poll(Duration::from_secs(2)).is_some();
        if !committed {
            // It was killed before it had read them.
            let _again = setup.start_live();
            assert_eq!(detections(&[rows.next_value(LIMIT)]), [round * 10 + 2]);
            continue;
        }
        died_between += i32::from(!letters().contains(&(round * 10 + 1)));
    }
    assert!(died_between > 0, "it never died between the two");
    setup.run_until_end(&[]).assert_code(0);
    let expected: Vec<i64> = (0..8).map(|round| round * 10 + 1).collect();
    assert_eq!(letters(), expected);
}
