//! The production engine against the textbook engine and against the naive model.

use std::collections::BTreeMap;

use deltajoin_workers::clock::TimeUnit;
use deltajoin_workers::dataflow::Engine;
use expect_test::expect;

use crate::naive::{clocks, naive};
use crate::pairwise::pairwise;
use crate::script::{Epoch, Event, Outcome, run, time_of};
use crate::setup::{Setup, Time};

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

/// A time in the unit of a setup, and any part of a millisecond.
pub(crate) fn in_unit(setup: Setup, at_ms: i64, random: &mut Random) -> i64 {
    match setup.time {
        Some(Time::Integer(TimeUnit::Seconds)) => at_ms / 1000,
        Some(Time::Integer(TimeUnit::Microseconds) | Time::Timestamp) => {
            at_ms * 1000 + random.below(3) as i64 * 300
        }
        _ => at_ms,
    }
}

/// Random epochs: duplicates with other payloads, in one epoch and across epochs and partitions;
/// changes and removals of reference rows; bad records; nulls; empty epochs and partitions; times
/// that differ by less than a millisecond, and the least and the greatest that there are.
fn random_script(random: &mut Random, setup: Setup) -> Vec<Epoch> {
    let (ids, locations, partitions) = (
        1 + random.below(60),
        1 + random.below(12),
        1 + random.below(5),
    );
    let epochs = 1 + random.below(12);
    let (coarse, extreme) = (1 + random.below(2) as i64 * 99, random.below(4) == 0);
    (0..epochs)
        .map(|epoch| {
            let mut records: BTreeMap<i32, Vec<Option<Event>>> = BTreeMap::new();
            for _ in 0..random.below(60) {
                let partition = random.below(partitions) as i32;
                // About the time of the epoch, some earlier, a few much earlier or later.
                let at_ms = time_of(epoch as usize).cast_signed() - random.below(2500) as i64
                    + [0, 0, 0, 1200, -4000, 9000][random.below(6) as usize];
                let at = match random.below(60) {
                    0..3 if extreme => i64::MIN + random.below(3) as i64,
                    3 if extreme => i64::MAX - random.below(3) as i64,
                    _ => in_unit(setup, at_ms / coarse * coarse, random),
                };
                let event = Event {
                    id: random.below(ids) as i64 - 20,
                    location: (random.below(15) > 0).then(|| random.below(locations + 2) as i64),
                    item: format!("item{}", random.below(3)),
                    at,
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
                .map(|_| {
                    let location = random.below(locations) as i64;
                    (
                        location,
                        (random.below(4) > 0).then(|| format!("name{}", random.below(3))),
                    )
                })
                .collect();
            let mut lags = Vec::new();
            for partition in 0..partitions as i32 {
                if random.below(3) == 0 {
                    lags.push((partition, random.below(3) == 0));
                }
            }
            Epoch {
                records,
                reference,
                lags,
                ..Epoch::default()
            }
        })
        .collect()
}

/// What engines and numbers of workers have in common.
fn without_memory(mut outcome: Outcome) -> Outcome {
    let counts = &mut outcome.counts;
    (counts.keys, counts.key_bytes) = (0, 0);
    (counts.recent_rows, counts.recent_bytes, counts.cold_rows) = (0, 0, 0);
    counts.buckets = 0;
    outcome
}

/// What the textbook engine tells as well.
fn rows_of(outcome: Outcome) -> Outcome {
    Outcome {
        rows: outcome.rows,
        dead_letters: outcome.dead_letters,
        ..Outcome::default()
    }
}

/// What is short of the settings that are spans, in milliseconds.
const SPANS: [u64; 4] = [1, 700, 2400, 5000];

/// The script with the epochs and clocks by which it is judged.
fn with_clocks(setup: Setup, script: &[Epoch]) -> Vec<Epoch> {
    let clocks = clocks(setup, script).into_iter().enumerate();
    let epochs = script.iter().zip(clocks);
    epochs
        .map(|(epoch, (index, clock))| Epoch {
            time: (time_of(index), clock),
            ..epoch.clone()
        })
        .collect()
}

#[test]
fn every_setting_equals_the_definition_at_every_epoch_on_any_number_of_workers() {
    let mut told = deltajoin_workers::ports::Counts::default();
    let mut untold = 0;
    for seed in seeds(8) {
        let mut random = Random::new(seed);
        for setup in pairwise(&mut random, &SPANS) {
            let script = with_clocks(setup, &random_script(&mut random, setup));
            let expected = without_memory(naive(setup, &script));
            let letters = expected.dead_letters.values().flatten();
            let conflicts = letters.filter(|(letter, _)| letter.contains(",conflict,"));
            untold += expected.counts.conflicts - conflicts.count() as u64;
            told += expected.counts;
            let block = 1 + random.below(20) as usize;
            for workers in [1, 2, 4] {
                let setup = Setup {
                    workers,
                    block,
                    ..setup
                };
                let outcome = without_memory(run(setup, &script));
                assert_eq!(outcome, expected, "DELTAJOIN_SEED={seed} {setup:?}");
            }
        }
    }
    // It is no comparison of nothing with nothing.
    let shown = [
        told.conflicts,
        told.late_winners,
        told.late,
        told.future,
        told.retracted,
        told.duplicates,
        told.unmatched,
        untold,
    ];
    assert!(shown.iter().all(|count| *count > 0), "{told:?}");
}

#[test]
fn both_engines_equal_the_definition_at_every_epoch() {
    for (seed, setup) in seeds(4).into_iter().flat_map(|seed| {
        let setups = pairwise(&mut Random::new(seed), &SPANS);
        setups.into_iter().map(move |setup| (seed, setup))
    }) {
        // The textbook engine forgets nothing, so it finds a retry whatever its time.
        let setup = Setup {
            by_arrival: true,
            detect_conflicts: false,
            horizon_ms: u64::MAX,
            window_ms: u64::MAX,
            future_ms: u64::MAX,
            versions: false,
            ..setup
        };
        let script = random_script(&mut Random::new(seed), setup);
        let script = with_clocks(setup, &script);
        let expected = rows_of(naive(setup, &script));
        for engine in [Engine::Production, Engine::Textbook] {
            for workers in [1, 2, 4] {
                let setup = Setup {
                    engine,
                    workers,
                    ..setup
                };
                let outcome = rows_of(run(setup, &script));
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
        at: 0,
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
            workers,
            ..Setup::default()
        };
        let script = [Epoch {
            records: records.clone(),
            reference: reference.clone(),
            ..Epoch::default()
        }];
        let outcome = run(setup, &script);
        expect![[r#"
            {54000: [("1,6,first,0,six @0/1", 1), ("2,5,only,0,five @2/1", 1)]}"#]]
        .assert_eq(&format!("{:?}", outcome.rows));
    }
}

#[test]
fn a_reference_change_acts_from_its_own_epoch_on() {
    let epoch = |records, reference| Epoch {
        records: BTreeMap::from([(0, records)]),
        reference,
        ..Epoch::default()
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
            block: 9,
            ..Setup::default()
        };
        let rows = run(setup, &script).rows.into_values().flatten();
        let lines: Vec<_> = rows.map(|row| format!("{row:?}")).collect();
        expect![[r#"
            ("1,5,a,0,old @0/0", 1)
            ("2,5,b,0,new @0/1", 1)
            ("3,5,c,0,null @0/2", 1)
            ("4,5,d,0,null @0/3", 1)"#]]
        .assert_eq(&lines.join("\n"));
    }
}
