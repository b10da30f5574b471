//! Topics of sinks that change between two starts: partitions are added, or are fewer.
//!
//! Apart from `topics_change`, which is about the events' topic: here a row must go where it went.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(feature = "fault-points")]
use deltajoin_testkit::wait_until;
use deltajoin_testkit::{Broker, TopicRecord};

#[cfg(feature = "fault-points")]
use crate::at_least_once::number;
#[cfg(feature = "fault-points")]
use crate::late::give;
use crate::settings_change::{Changing, TABLE};
use crate::setup::{LIMIT, Setup};
use crate::topics::{Publisher, Tail, event};
use crate::topics_change::grow;

/// How many events a job has.
const EVENTS: i64 = 200;

fn publish(broker: &Broker, topic: &str, detections: std::ops::Range<i64>) {
    let publisher = Publisher::new(broker, topic);
    for detection in detections {
        publisher.send(0, None, Some(&event(detection, 1)));
    }
    publisher.flush();
}

fn detection(record: &TopicRecord) -> i64 {
    let value = record.value.as_ref().expect("no tombstone");
    let value: serde_json::Value = serde_json::from_slice(value).expect("JSON");
    value["detection_oid"].as_i64().expect("a number")
}

/// What a reader holds who keeps the greatest (epoch, seq) of each partition and shard, sorted; and
/// how many rows it drops.
#[cfg(feature = "fault-points")]
fn held_by_headers(broker: &Broker, topic: &str) -> (Vec<i64>, usize) {
    let (mut greatest, mut held, mut dropped) = (BTreeMap::new(), Vec::new(), 0);
    broker.read(topic, |record| {
        let place = (record.partition, number(&record, "shard"));
        let mark = (number(&record, "epoch"), number(&record, "seq"));
        match greatest.insert(place, mark) {
            Some(known) if known >= mark => {
                greatest.insert(place, known);
                dropped += 1;
            }
            _ => held.push(detection(&record)),
        }
    });
    held.sort_unstable();
    (held, dropped)
}

#[cfg(feature = "fault-points")]
#[test]
fn rows_that_are_repeated_go_where_they_were_though_partitions_were_added() {
    let (broker, name) = (Broker::shared(), "widened");
    broker.create_topic(name, 1, &[]);
    drop(Setup::new(broker, name));
    let state = tempfile::tempdir().unwrap();
    let setup = |processes| {
        Setup::without_topics(broker, name)
            .processes(processes)
            .state(state.path())
            .set("[sinks]", "delivery", "\"at-least-once\"")
            .set("dead_letters", "delivery", "\"at-least-once\"")
    };
    publish(broker, name, 0..10);
    let first = setup(1);
    let job = first.start_live();
    let tail = Tail::new(broker, &first.joined());
    (0..10).for_each(|_| drop(tail.next(LIMIT)));
    // More rows are there, and nothing tells so. What is told when there are none is behind us.
    give(&first, "kill progress.append");
    publish(broker, name, 10..EVENTS);
    let reached = first.folder().join("fault-point.reached");
    wait_until("progress", LIMIT, || reached.exists());
    assert_eq!(job.wait(LIMIT).code(), None, "it was killed");
    grow(broker, &first.joined(), 7);
    setup(2).run_until_end(&[]);
    let (held, dropped) = held_by_headers(broker, &first.joined());
    assert_eq!(held, (0..EVENTS).collect::<Vec<_>>());
    assert!(dropped > 0, "nothing was repeated");
}

#[test]
fn a_key_stays_in_its_partition_though_partitions_are_added() {
    let (broker, name) = (Broker::shared(), "widened-keys");
    broker.create_topic(name, 1, &[]);
    let state = tempfile::tempdir().unwrap();
    let setup = Setup::new(broker, name)
        .state(state.path())
        .reference(TABLE);
    let joined = setup.joined();
    let tail = Tail::new(broker, &joined);
    publish(broker, name, 0..EVENTS);
    let mut job = setup.start_live();
    (0..EVENTS).for_each(|_| drop(tail.next(LIMIT)));
    job.kill();
    job.wait(LIMIT);
    grow(broker, &joined, 7);
    // All rows are corrected, and some are added.
    publish(broker, name, EVENTS..EVENTS + 10);
    let other = TABLE.replace("Here", "There");
    let again = Setup::without_topics(broker, name).processes(2);
    again
        .state(state.path())
        .reference(&other)
        .run_until_end(&[]);
    let mut places: BTreeMap<i64, BTreeSet<i32>> = BTreeMap::new();
    let mut corrected = 0;
    broker.read(&joined, |record| {
        let there = String::from_utf8_lossy(record.value.as_ref().unwrap()).contains("There");
        corrected += usize::from(there);
        let place = places.entry(detection(&record)).or_default();
        place.insert(record.partition);
    });
    assert_eq!(places.len() as i64, EVENTS + 10);
    assert_eq!(corrected as i64, EVENTS + 10, "each has the new name, once");
    let moved: Vec<_> = places.iter().filter(|(_, all)| all.len() > 1).collect();
    assert!(moved.is_empty(), "{moved:?}");
    let used: BTreeSet<i32> = places.into_values().flatten().collect();
    assert_eq!(used, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn a_topic_with_fewer_partitions_than_it_had_is_refused() {
    let (broker, job) = (Broker::shared(), Changing::new("narrowed-rows"));
    let joined = job.setup().joined();
    job.goes_on("the first start", &job.setup(), &[]);
    broker.delete_topic(&joined);
    broker.create_topic(&joined, 3, &[]);
    let texts = [
        "the topic of sink \"narrowed-rows-joined\" has lost partitions",
        "4 of narrowed-rows-joined",
        "3 of narrowed-rows-joined",
        "hint: It was made anew",
    ];
    job.refused(&job.setup(), &[], &texts);
    let another = ["--set", "sinks.0.name=another"];
    job.publish();
    job.setup().run_until_end(&another);
    let rows = job.rows();
    assert_eq!(rows.len(), 1, "what came after the checkpoint: {rows:?}");
}
