//! Rows that are large: none is lost, and what sinks are given stays in batches of a bounded size,
//! which `Collect` holds them to.

use std::collections::BTreeMap;

use deltajoin_workers::operators::{Keep, Strategy};

use crate::script::{Epoch, Event, run};
use crate::setup::{MILLISECONDS, Setup};

/// Of so many rows of a megabyte a batch would be too large.
const ROWS: i64 = 40;

fn large(letter: &str) -> String {
    letter.repeat(1 << 20)
}

fn events(item: &str, at: i64) -> BTreeMap<i32, Vec<Option<Event>>> {
    let event = |id| Event {
        id,
        location: Some(1),
        item: item.to_owned(),
        at,
    };
    BTreeMap::from([(0, (0..ROWS).map(|id| Some(event(id))).collect())])
}

/// How many rows of an epoch have a diff, and their item and name, without the middle of both.
fn told(rows: &[(String, i64)]) -> BTreeMap<(i64, String), usize> {
    let mut told = BTreeMap::new();
    for (text, diff) in rows {
        let parts = text.split([',', ' ']).skip(2).take(3);
        let ends = parts.map(|part| format!("{}{}", &part[..1], part.len()));
        let ends: Vec<String> = ends.collect();
        *told
            .entry((*diff, format!("{} {}", ends[0], ends[2])))
            .or_default() += 1;
    }
    told
}

#[test]
fn large_events_and_large_reference_rows_become_results_that_are_revised() {
    let (a, b) = (large("a"), large("b"));
    for (items, names) in [([&*a, &*b], ["x", "y"]), (["a", "b"], [&*a, &*b])] {
        for (workers, strategy) in [(1, Strategy::Broadcast), (2, Strategy::Partitioned)] {
            let setup = Setup {
                strategy,
                workers,
                block: ROWS as usize,
                keep: Keep::Latest,
                revise: true,
                time: MILLISECONDS,
                on_disk: true,
                ..Setup::default()
            };
            let table = |name: &str| vec![(1, Some(name.to_owned()))];
            let script = [
                Epoch {
                    records: events(items[0], 1000),
                    reference: table(names[0]),
                    ..Epoch::default()
                },
                Epoch {
                    reference: table(names[1]),
                    ..Epoch::default()
                },
                Epoch {
                    records: events(items[1], 2000),
                    ..Epoch::default()
                },
            ];
            let outcome = run(setup, &script);
            let end = |text: &str| format!("{}{}", &text[..1], text.len());
            let row =
                |item: usize, name: usize| format!("{} {}", end(items[item]), end(names[name]));
            let told: Vec<_> = outcome.rows.values().map(|rows| told(rows)).collect();
            let count = ROWS as usize;
            let expected = [
                BTreeMap::from([((1, row(0, 0)), count)]),
                BTreeMap::from([((-1, row(0, 0)), count), ((1, row(0, 1)), count)]),
                BTreeMap::from([((-1, row(0, 1)), count), ((1, row(1, 1)), count)]),
            ];
            assert_eq!(told, expected, "{strategy:?}");
        }
    }
}
