//! Results that change: when the reference does, and when a better event comes later. Who applies
//! what the topics hold, in order, holds the collection.

use std::collections::BTreeMap;

use deltajoin_testkit::{Broker, Signal, wait_until};
use serde_json::{Value, json};

use crate::setup::{LIMIT, Setup, quoted};
use crate::support::now_ms;
use crate::topics::Publisher;

/// A table of rows by their keys.
pub(crate) type Table = BTreeMap<String, Value>;

/// The case, and what its result must be.
pub(crate) struct World<'a> {
    events: Publisher<'a>,
    places: Publisher<'a>,
    /// The latest event of each detection.
    latest: BTreeMap<i64, Value>,
    names: BTreeMap<i64, String>,
}

impl<'a> World<'a> {
    /// Nothing yet, of topics of events and names that are made.
    pub(crate) fn new(broker: &'a Broker, [events, names]: [&'a str; 2]) -> Self {
        broker.create_topic(events, 3, &[]);
        broker.create_topic(names, 1, &[("cleanup.policy", "compact")]);
        Self {
            events: Publisher::new(broker, events),
            places: Publisher::new(broker, names),
            latest: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    pub(crate) fn event(&mut self, detection: i64, location: i64, item: &str, at: i64) {
        let event = json!({
            "geographical_location_oid": location,
            "video_camera_oid": 7,
            "detection_oid": detection,
            "item_name": item,
            "timestamp_detected": at,
        });
        let partition = i32::try_from(detection % 3).unwrap();
        let value = event.to_string();
        self.events.send(partition, None, Some(value.as_bytes()));
        let kept = self
            .latest
            .entry(detection)
            .or_insert_with(|| event.clone());
        if kept["timestamp_detected"].as_i64() < Some(at) {
            *kept = event;
        }
    }

    pub(crate) fn name(&mut self, location: i64, name: Option<&str>) {
        let key = json!({ "geographical_location_oid": location }).to_string();
        let value = name.map(|name| {
            self.names.insert(location, name.to_owned());
            json!({ "geographical_location_oid": location, "geographical_location": name })
        });
        if value.is_none() {
            self.names.remove(&location);
        }
        let value = value.map(|value| value.to_string());
        let value = value.as_ref().map(String::as_bytes);
        self.places.send(0, Some(key.as_bytes()), value);
    }

    pub(crate) fn flush(&self) {
        self.places.flush();
        self.events.flush();
    }

    /// How many places have a name.
    pub(crate) fn places(&self) -> usize {
        self.names.len()
    }

    /// The collection, where events without a name are no results.
    pub(crate) fn collection(&self) -> Table {
        let rows = self.latest.iter().filter_map(|(detection, event)| {
            let location = event["geographical_location_oid"].as_i64();
            let name = self.names.get(&location?)?;
            let mut row = event.clone();
            row["geographical_location"] = json!(name);
            Some((json!({ "detection_oid": detection }).to_string(), row))
        });
        rows.collect()
    }
}

/// Applies a topic of the latest rows.
pub(crate) fn upserted(broker: &Broker, topic: &str) -> Table {
    let mut table = Table::new();
    broker.read(topic, |record| {
        let key = String::from_utf8(record.key.unwrap()).unwrap();
        match record.value {
            Some(row) => table.insert(key, serde_json::from_slice(&row).unwrap()),
            None => Some(table.remove(&key).expect("what is removed was there")),
        };
    });
    table
}

/// Applies a topic of changes, each of which must fit what is there.
pub(crate) fn changed(broker: &Broker, topic: &str) -> (Table, BTreeMap<String, usize>) {
    let mut table = Table::new();
    let mut ops = BTreeMap::new();
    broker.read(topic, |record| {
        let key = String::from_utf8(record.key.unwrap()).unwrap();
        let change: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        let before = table.get(&key).cloned().unwrap_or(Value::Null);
        assert_eq!(change["before"], before, "{key}: {change}");
        let diff = match change["op"].as_str().unwrap() {
            "c" => 1,
            "u" => 0,
            "d" => -1,
            other => panic!("{other}"),
        };
        assert_eq!(change["diff"], diff);
        assert!(change["epoch"].as_i64().unwrap() > 1_700_000_000_000);
        *ops.entry(change["op"].to_string()).or_default() += 1;
        match &change["after"] {
            Value::Null => drop(table.remove(&key)),
            after => drop(table.insert(key, after.clone())),
        }
    });
    (table, ops)
}

#[test]
fn who_applies_either_envelope_in_order_holds_the_collection_through_kills_and_renames() {
    let broker = Broker::shared();
    broker.create_topic("revised-changes", 3, &[]);
    let mut world = World::new(broker, ["revised", "revised-names"]);
    let state = tempfile::tempdir().unwrap();
    let sink = format!(
        "type = \"kafka\"\nbrokers = {:?}\ntopic = \"revised-changes\"\nenvelope = \"changelog\"",
        broker.bootstrap()
    );
    let setup = Setup::new(broker, "revised")
        .set(
            "events",
            "time",
            r#"{ column = "timestamp_detected", unit = "ms" }"#,
        )
        .set("distinct", "keep", quoted("latest"))
        .set("join", "unmatched", quoted("drop"))
        .set("checkpoint", "interval", quoted("300ms"))
        .reference_topic(broker, "revised-names")
        .state(state.path())
        .sink(&sink);
    let now = now_ms();
    for location in 0..8 {
        world.name(location, Some(&format!("first {location}")));
    }
    world.flush();
    let mut job = setup.start_live();
    for round in 0..6 {
        for detection in 0..200 {
            // Some come again, with a later or an earlier time, and another place.
            if round == 0 || (detection + round) % 4 == 0 {
                let at = now - 5_000 + (detection * 37 + round * 911) % 4_000;
                let item = format!("item {round}");
                world.event(detection + round * 20, (detection + round) % 10, &item, at);
            }
        }
        world.name(round % 8, Some(&format!("name {round}")));
        world.name((round + 3) % 8, None);
        world.name(8 + round % 2, Some(&format!("new {round}")));
        world.flush();
        // Not in any state in particular: the next one takes over what there is.
        wait_until("rows", LIMIT, || {
            let wanted = world.collection().len() / 2;
            upserted(broker, &setup.joined()).len() >= wanted
        });
        if round % 2 == 0 {
            job.signal(Signal::Kill);
            job.wait(LIMIT);
            let threads = 1 + round.unsigned_abs() as usize % 3;
            job = setup.start(&["--set", &format!("cluster.threads={threads}")]);
        }
    }
    let expected = world.collection();
    wait_until("the collection", LIMIT, || {
        upserted(broker, &setup.joined()) == expected
    });
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
    assert_eq!(upserted(broker, &setup.joined()), expected);
    let (changes, ops) = changed(broker, "revised-changes");
    assert_eq!(changes, expected);
    assert!(ops.values().all(|count| *count > 10), "{ops:?}");
    assert_eq!(ops.len(), 3, "{ops:?}");
}
