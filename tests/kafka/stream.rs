//! A million of the case's events, by one process and by several, and by the textbook engine.
//!
//! The events are published once and read by several jobs; what must come out is recomputed
//! independently, and must be the same whatever the number of processes.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use deltajoin::generate::{Expected, Fault, Generator, Kind, Options, reference_csv};
use deltajoin_testkit::{Broker, Outcome, Until};

use crate::audit::{audit, found};
use crate::setup::{Setup, quoted, summary};
use crate::support::publish;
use crate::topics::{dead_letters, differences};

/// Events in a topic, and what must come out of them.
pub(crate) struct Stream {
    pub(crate) topic: &'static str,
    pub(crate) options: Options,
    pub(crate) expected: Expected,
    /// What is wrong with each bad record, and its bytes, by its origin.
    bad: BTreeMap<(i32, i64), (Fault, Vec<u8>)>,
}

/// A million events in four partitions.
pub(crate) fn million() -> &'static Stream {
    static STREAM: OnceLock<Stream> = OnceLock::new();
    STREAM.get_or_init(|| Stream::publish("million", 1_000_000))
}

/// The reason that must be told, and how the error begins.
fn told_of(fault: Fault) -> (&'static str, &'static str) {
    let (malformed, wrong_type) = ("malformed", "wrong-type");
    match fault {
        Fault::NotJson => (malformed, "not a JSON object: camera "),
        Fault::BrokenUtf8 => (malformed, "not UTF-8 at byte "),
        Fault::Truncated => (malformed, "not a JSON object: EOF while parsing "),
        Fault::WrongType => (
            wrong_type,
            "field \"geographical_location_oid\" is not an int64: \"somewhere\"",
        ),
        Fault::MissingKey => (wrong_type, "field \"detection_oid\" is missing"),
        Fault::NullKey => (
            wrong_type,
            "field \"detection_oid\" is null but not nullable",
        ),
    }
}

impl Stream {
    fn publish(topic: &'static str, count: u64) -> Self {
        let options = Options {
            count,
            bad_share: 0.001,
            // Some of the retries tell which event of a key was kept.
            changed_retry_share: 0.2,
            ..Options::default()
        };
        let broker = Broker::shared();
        broker.create_topic(topic, options.partitions, &[]);
        publish(broker, topic, &options);
        let mut generator = Generator::new(options.clone()).expect("the options are right");
        let mut next = vec![0; usize::try_from(options.partitions).expect("four")];
        let mut bad = BTreeMap::new();
        while let Some(record) = generator.next_record() {
            let offset = &mut next[usize::try_from(record.partition).expect("counted from 0")];
            if let Kind::Bad(fault) = record.kind {
                let value = record.value.to_vec();
                bad.insert((record.partition, *offset), (fault, value));
            }
            *offset += 1;
        }
        Self {
            topic,
            expected: Expected::of(&options).expect("the options are right"),
            options,
            bad,
        }
    }

    fn setup(&self, name: &str) -> Setup {
        Setup::new(Broker::shared(), name)
            .set("events", "topic", quoted(self.topic))
            .set(
                "events",
                "time",
                r#"{ column = "timestamp_detected", unit = "ms" }"#,
            )
            .reference(&reference_csv(&self.options))
    }

    fn assert_summary(&self, outcome: &Outcome) {
        let counts = self.expected.counts();
        let wanted = [
            ("records", counts.records),
            ("events", counts.events),
            ("distinct", counts.distinct),
            ("duplicates", counts.duplicates),
            ("unmatched", counts.unmatched),
            ("dead letters", counts.dead_letters),
            ("late", 0),
            ("future", 0),
            ("conflicts", 0),
            ("late winners", 0),
            ("retracted", 0),
            ("rows out", self.expected.rows()),
            ("missing", 0),
        ];
        let wanted = wanted.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(summary(outcome), BTreeMap::from(wanted));
    }

    /// Each bad record must be a dead letter, once.
    pub(crate) fn assert_dead_letters(&self, topic: &str) {
        let letters = dead_letters(Broker::shared(), topic);
        assert!(
            letters.keys().eq(self.bad.keys()),
            "other records than the bad ones"
        );
        for (origin, letter) in letters {
            let (fault, raw) = &self.bad[&origin];
            let (reason, error) = told_of(*fault);
            assert_eq!(
                (&*letter.topic, &*letter.reason),
                (self.topic, reason),
                "{letter:?}"
            );
            assert_eq!(&letter.raw(), raw, "{letter:?}");
            assert!(letter.error.starts_with(error), "{error:?}: {letter:?}");
            assert!(letter.timestamp.is_some(), "{letter:?}");
        }
    }
}

/// Runs the job on so many processes, and compares everything that it says and writes.
fn run(stream: &Stream, name: &str, processes: usize, arguments: &[&str]) -> Setup {
    let mut setup = stream.setup(name).processes(processes);
    if arguments.contains(&"textbook") {
        setup = setup
            .set("[sinks]", "delivery", quoted("at-least-once"))
            .set("dead_letters", "delivery", quoted("at-least-once"));
    }
    let outcome = setup.run_until_end(arguments);
    stream.assert_summary(&outcome);
    stream.assert_dead_letters(&setup.dead());
    setup
}

/// The rows are those that are expected, as Kafka's own consumer reads them.
fn assert_rows(stream: &Stream, setup: &Setup) {
    let mut audit = stream.expected.audit();
    let until = Until::Count(stream.expected.rows());
    for record in Broker::shared().console(&setup.joined(), until) {
        audit.row(&record.value.expect("a result has a value"));
    }
    let found = audit.finish();
    assert!(found.is_clean(), "{found:#?}");
    // The console consumer stops at the count; this one sees whether there are more.
    let found = differences(Broker::shared(), &setup.joined(), &stream.expected);
    assert!(found.is_clean(), "{found:#?}");
}

/// Where retries differ, any of them would do for `assert_rows`: by what the job has bound, one.
fn assert_winners(setup: &Setup) {
    assert_eq!(found(&audit(setup, &[], 0)), [0; 4]);
}

#[test]
fn a_million_events_are_joined_by_one_process() {
    let stream = million();
    let setup = run(stream, "one", 1, &[]);
    assert_rows(stream, &setup);
    assert_winners(&setup);
}

#[test]
fn a_million_events_are_joined_by_two_processes() {
    let stream = million();
    let setup = run(stream, "two", 2, &[]);
    assert_rows(stream, &setup);
    assert_winners(&setup);
}

#[test]
fn a_million_events_are_joined_by_three_processes() {
    let stream = million();
    let setup = run(stream, "three", 3, &[]);
    assert_rows(stream, &setup);
    assert_winners(&setup);
}

#[test]
fn the_textbook_engine_gives_the_same_rows_on_two_processes() {
    let stream = Stream::publish("textbook-events", 20_000);
    let setup = run(&stream, "textbook", 2, &["--engine", "textbook"]);
    assert_rows(&stream, &setup);
}
