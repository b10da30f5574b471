//! A job that comes back with other settings, of which rows of its window were not made.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use deltajoin_workers::operators::{Keep, Strategy};

use crate::crash::{World, run};
use crate::kept::{Kept, Table};
use crate::script::Event;
use crate::setup::{MILLISECONDS, Setup};

fn table(name: &str) -> Table {
    // Events have places without a row as well, and the later table has one of those.
    let rows = (0..6).map(|location| (location, format!("{name}{location}")));
    let more = (name == "later").then(|| (6, "new".to_owned()));
    rows.chain(more)
        .filter(|(location, _)| *location != 3)
        .collect()
}

/// Each detection at a time of its own.
fn events(ids: impl Iterator<Item = i64>, at: i64) -> Vec<Option<Event>> {
    let event = |id| Event {
        id,
        location: (id % 9 != 8).then_some(id % 9 % 8),
        item: "item".to_owned(),
        at: at + id,
    };
    ids.map(|id| Some(event(id))).collect()
}

/// The result of an event, but for its origin.
fn row(event: &Event, table: &Table) -> String {
    let location = event
        .location
        .map_or("null".to_owned(), |at| at.to_string());
    let name = event.location.and_then(|at| table.get(&at));
    let name = name.map_or("null", String::as_str);
    format!("{},{location},{},{},{name}", event.id, event.item, event.at)
}

#[test]
fn events_of_the_window_become_results_of_the_table_as_it_was_when_none_is_revised_any_more() {
    for workers in 1..=4 {
        let revising = World {
            setup: Setup {
                keep: Keep::Latest,
                revise: true,
                time: MILLISECONDS,
                strategy: [Strategy::Broadcast, Strategy::Partitioned][workers % 2],
                on_disk: true,
                ..Setup::default()
            },
            partitions: vec![events(0..300, 10_000), events(300..500, 10_000)],
            tables: [table("first"), table("first")],
        };
        let kept = Arc::new(Mutex::new(Kept {
            dies_at: u64::MAX,
            ..Kept::default()
        }));
        let before: Vec<Event> = revising.partitions.concat().into_iter().flatten().collect();
        let partitions = revising.partitions.clone();
        run(&Arc::new(revising), &kept, 2, 1);

        // Some come again and are better, when the table is another one already.
        let mut partitions = partitions;
        partitions[0].extend(events((0..500).step_by(3), 20_000));
        let again: Vec<Event> = partitions[0][300..].iter().flatten().cloned().collect();
        let as_they_are = World {
            setup: Setup {
                keep: Keep::Latest,
                time: MILLISECONDS,
                strategy: [Strategy::Broadcast, Strategy::Partitioned][workers % 2],
                on_disk: true,
                ..Setup::default()
            },
            partitions,
            tables: [table("later"), table("later")],
        };
        run(&Arc::new(as_they_are), &kept, workers, 1);

        let mut expected: BTreeMap<i64, String> = BTreeMap::new();
        expected.extend(
            before
                .iter()
                .map(|event| (event.id, row(event, &table("first")))),
        );
        expected.extend(
            again
                .iter()
                .map(|event| (event.id, row(event, &table("later")))),
        );
        let kept = kept.lock().unwrap();
        let mut rows: BTreeMap<&str, i64> = BTreeMap::new();
        for (row, diff) in kept.sinks["rows"].rows.values().flatten() {
            let (row, _) = row.split_once(" @").unwrap();
            *rows.entry(row).or_default() += diff;
        }
        rows.retain(|_, count| *count != 0);
        assert!(rows.values().all(|count| *count == 1), "{rows:?}");
        let mut expected: Vec<&str> = expected.values().map(String::as_str).collect();
        expected.sort_unstable();
        assert_eq!(
            rows.into_keys().collect::<Vec<_>>(),
            expected,
            "{workers} workers"
        );
    }
}
