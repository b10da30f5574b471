//! The production engine against the textbook engine and against a naive model, which recomputes
//! everything and knows nothing of increments.

use std::collections::{BTreeMap, BTreeSet};

use deltajoin_workers::dataflow::Engine;
use deltajoin_workers::operators::Unmatched;
use expect_test::expect;

use crate::script::{Epoch, Event, Outcome, Setup, run};

/// A small generator of numbers: one seed, printed at failure, accepted from `DELTAJOIN_SEED`.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(deltajoin_workers::key::mix64(seed ^ 0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

pub(crate) fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("DELTAJOIN_SEED") {
        Ok(seed) => vec![seed.parse().expect("DELTAJOIN_SEED is a number")],
        Err(_) => (1..=count).collect(),
    }
}

/// Random epochs: duplicates with other payloads, in one epoch and across epochs and partitions;
/// changes and removals of reference rows; bad records; nulls; empty epochs and partitions.
fn random_script(random: &mut Random) -> Vec<Epoch> {
    let (ids, locations, partitions) = (
        1 + random.below(60),
        1 + random.below(12),
        1 + random.below(5),
    );
    let epochs = 1 + random.below(12);
    (0..epochs)
        .map(|epoch| {
            let mut records: BTreeMap<i32, Vec<Option<Event>>> = BTreeMap::new();
            for _ in 0..random.below(60) {
                let partition = random.below(partitions) as i32;
                let event = Event {
                    id: random.below(ids) as i64 - 20,
                    location: (random.below(15) > 0).then(|| random.below(locations + 2) as i64),
                    item: format!("item{}", random.below(3)),
                };
                let record = (random.below(20) > 0).then_some(event);
                records.entry(partition).or_default().push(record);
            }
            let changes = if epoch == 0 {
                locations
            } else {
                random.below(4)
            };
            let reference = (0..changes)
                .map(|change| {
                    let location = random.below(locations) as i64;
                    (
                        location,
                        (random.below(4) > 0).then(|| format!("name{epoch}.{change}")),
                    )
                })
                .collect();
            Epoch { records, reference }
        })
        .collect()
}

/// The definition, recomputed from scratch for each epoch.
pub(crate) fn naive(setup: Setup, script: &[Epoch]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut seen = BTreeSet::new();
    let mut table: BTreeMap<i64, String> = BTreeMap::new();
    let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
    for (index, epoch) in script.iter().enumerate() {
        let time = index as u64 + 1;
        for (location, name) in &epoch.reference {
            match name {
                Some(name) => table.insert(*location, name.clone()),
                None => table.remove(location),
            };
        }
        for (partition, records) in &epoch.records {
            for record in records {
                let offset = offsets.entry(*partition).or_default();
                let origin = format!("@{partition}/{offset}");
                *offset += 1;
                outcome.counts.records += 1;
                let Some(event) = record else {
                    let letter = format!("events,null,malformed,not an event,raw {origin}");
                    outcome
                        .dead_letters
                        .entry(time)
                        .or_default()
                        .push((letter, 1));
                    outcome.counts.dead_letters += 1;
                    continue;
                };
                outcome.counts.events += 1;
                let key = (event.id, setup.wide.then(|| event.item.clone()));
                if !seen.insert(key) {
                    outcome.counts.duplicates += 1;
                    continue;
                }
                outcome.counts.distinct += 1;
                join_naively(setup, event, &origin, time, &table, &mut outcome);
            }
        }
    }
    for rows in outcome
        .rows
        .values_mut()
        .chain(outcome.dead_letters.values_mut())
    {
        rows.sort_unstable();
    }
    outcome
}

fn join_naively(
    setup: Setup,
    event: &Event,
    origin: &str,
    time: u64,
    table: &BTreeMap<i64, String>,
    outcome: &mut Outcome,
) {
    let location = event
        .location
        .map_or("null".to_owned(), |location| location.to_string());
    let own = format!("{},{location},{}", event.id, event.item);
    let name = event.location.and_then(|location| table.get(&location));
    if name.is_none() {
        outcome.counts.unmatched += 1;
        if setup.unmatched == Unmatched::DeadLetter {
            let error = "no reference row for the event's \"location\"";
            let letter = format!("events,null,unmatched,{error},{own} {origin} {origin}");
            outcome
                .dead_letters
                .entry(time)
                .or_default()
                .push((letter, 1));
            outcome.counts.dead_letters += 1;
        }
        if setup.unmatched != Unmatched::Keep {
            return;
        }
    }
    let name = name.map_or("null", String::as_str);
    outcome
        .rows
        .entry(time)
        .or_default()
        .push((format!("{own},{name} {origin}"), 1));
    outcome.counts.rows_out += 1;
}

fn without_memory(mut outcome: Outcome) -> Outcome {
    outcome.counts.keys = 0;
    outcome.counts.key_bytes = 0;
    outcome.counts.reference_rows = 0;
    // The textbook engine does not count what it drops.
    outcome.counts.duplicates = 0;
    outcome
}

#[test]
fn both_engines_equal_the_definition_at_every_epoch() {
    for seed in seeds(60) {
        let mut random = Random::new(seed);
        let script = random_script(&mut random);
        let unmatched = [Unmatched::Keep, Unmatched::Drop, Unmatched::DeadLetter];
        let setup = Setup {
            engine: Engine::Production,
            workers: 1,
            unmatched: unmatched[random.below(3) as usize],
            wide: random.below(2) == 0,
            block: 1 + random.below(20) as usize,
        };
        let expected = without_memory(naive(setup, &script));
        for engine in [Engine::Production, Engine::Textbook] {
            for workers in [1, 2, 4] {
                let setup = Setup {
                    engine,
                    workers,
                    ..setup
                };
                let outcome = without_memory(run(setup, &script));
                assert_eq!(outcome, expected, "DELTAJOIN_SEED={seed} {setup:?}");
            }
        }
    }
}

fn event(id: i64, location: i64, item: &str) -> Option<Event> {
    Some(Event {
        id,
        location: Some(location),
        item: item.to_owned(),
    })
}

#[test]
fn the_winner_within_an_epoch_is_the_least_partition_and_offset() {
    let records = BTreeMap::from([
        (2, vec![event(1, 5, "second"), event(2, 5, "only")]),
        (0, vec![None, event(1, 6, "first")]),
    ]);
    let reference = vec![(5, Some("five".to_owned())), (6, Some("six".to_owned()))];
    for workers in [1, 2, 4] {
        let setup = Setup {
            engine: Engine::Production,
            workers,
            unmatched: Unmatched::Keep,
            wide: false,
            block: 1,
        };
        let script = [Epoch {
            records: records.clone(),
            reference: reference.clone(),
        }];
        let outcome = run(setup, &script);
        expect![[r#"
            {1: [("1,6,first,six @0/1", 1), ("2,5,only,five @2/1", 1)]}"#]]
        .assert_eq(&format!("{:?}", outcome.rows));
    }
}

#[test]
fn a_reference_change_acts_from_its_own_epoch_on() {
    let epoch = |records, reference| Epoch {
        records: BTreeMap::from([(0, records)]),
        reference,
    };
    let script = [
        epoch(vec![event(1, 5, "a")], vec![(5, Some("old".to_owned()))]),
        epoch(vec![event(2, 5, "b")], vec![(5, Some("new".to_owned()))]),
        epoch(vec![event(3, 5, "c")], vec![(5, None)]),
        epoch(vec![event(4, 5, "d")], vec![]),
    ];
    for engine in [Engine::Production, Engine::Textbook] {
        let setup = Setup {
            engine,
            workers: 2,
            unmatched: Unmatched::Keep,
            wide: false,
            block: 9,
        };
        let rows = run(setup, &script).rows.into_values().flatten();
        let lines: Vec<_> = rows.map(|row| format!("{row:?}")).collect();
        expect![[r#"
            ("1,5,a,old @0/0", 1)
            ("2,5,b,new @0/1", 1)
            ("3,5,c,null @0/2", 1)
            ("4,5,d,null @0/3", 1)"#]]
        .assert_eq(&lines.join("\n"));
    }
}
