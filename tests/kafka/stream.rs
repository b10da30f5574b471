//! A million of the case's events, by one process and by several, and by the textbook engine.
//!
//! The events are published once and read by several jobs; what must come out is recomputed
//! independently, and must be the same whatever the number of processes.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use deltajoin::generate::{Expected, Fault, Generator, Kind, Options, reference_csv};
use deltajoin_testkit::{Broker, Outcome, Until};

use crate::setup::{Setup, quoted, summary};
use crate::support::publish;
use crate::topics::{dead_letters, differences};

/// Events in a topic, and what must come out of them.
pub(crate) struct Stream {
    pub(crate) topic: &'static str,
    pub(crate) options: Options,
    pub(crate) expected: Expected,
    /// The reason and the bytes of each bad record, by its origin.
    bad: BTreeMap<(i32, i64), (&'static str, Vec<u8>)>,
}

/// A million events in four partitions.
pub(crate) fn million() -> &'static Stream {
    static STREAM: OnceLock<Stream> = OnceLock::new();
    STREAM.get_or_init(|| Stream::publish("million", 1_000_000))
}

fn reason_of(fault: Fault) -> &'static str {
    match fault {
        Fault::NotJson | Fault::BrokenUtf8 | Fault::Truncated => "malformed",
        Fault::WrongType | Fault::MissingKey | Fault::NullKey => "wrong-type",
    }
}

impl Stream {
    fn publish(topic: &'static str, count: u64) -> Self {
        let options = Options {
            count,
            bad_share: 0.001,
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
                bad.insert((record.partition, *offset), (reason_of(fault), value));
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
            let (reason, raw) = &self.bad[&origin];
            assert_eq!(
                (&*letter.topic, &*letter.reason),
                (self.topic, *reason),
                "{letter:?}"
            );
            assert_eq!(&letter.raw(), raw, "{letter:?}");
            assert!(
                letter.timestamp.is_some() && !letter.error.is_empty(),
                "{letter:?}"
            );
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

fn assert_rows(stream: &Stream, setup: &Setup) {
    let found = differences(Broker::shared(), &setup.joined(), &stream.expected);
    assert!(found.is_clean(), "{found:#?}");
}

#[test]
fn a_million_events_are_joined_by_one_process() {
    let stream = million();
    let setup = run(stream, "one", 1, &[]);
    assert_rows(stream, &setup);
}

#[test]
fn a_million_events_are_joined_by_two_processes_and_read_by_kafkas_own_consumer() {
    let stream = million();
    let setup = run(stream, "two", 2, &[]);
    let mut audit = stream.expected.audit();
    let until = Until::Count(stream.expected.rows());
    for record in Broker::shared().console(&setup.joined(), until) {
        audit.row(&record.value.expect("a result has a value"));
    }
    let found = audit.finish();
    assert!(found.is_clean(), "{found:#?}");
    // The console consumer stops at the count; this one sees whether there are more.
    assert_rows(stream, &setup);
}

#[test]
fn a_million_events_are_joined_by_three_processes() {
    let stream = million();
    let setup = run(stream, "three", 3, &[]);
    assert_rows(stream, &setup);
}

#[test]
fn the_textbook_engine_gives_the_same_rows_on_two_processes() {
    let stream = Stream::publish("textbook-events", 20_000);
    let setup = run(&stream, "textbook", 2, &["--engine", "textbook"]);
    assert_rows(&stream, &setup);
}
