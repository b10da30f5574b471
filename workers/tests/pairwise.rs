//! Settings that vary together: a list in which any two values of two settings meet, if they may.
//!
//! Apart from the tests that run it: it says what "every setting" is.

use std::collections::BTreeSet;

use deltajoin_workers::clock::TimeUnit;
use deltajoin_workers::operators::{Keep, Strategy, Unmatched};

use crate::oracle::Random;
use crate::setup::{MILLISECONDS, Setup, Time};

const KEEP: usize = 0;
const TIME: usize = 1;
const RETRY: usize = 2;

/// The settings, and how many values each has.
const SETTINGS: [(&str, usize); 13] = [
    ("keep", 3),
    ("time", 5),
    ("retry_time", 2),
    ("on_reference_change", 2),
    ("unmatched", 3),
    ("horizon", 2),
    ("revise_window", 2),
    ("future", 2),
    ("detect_conflicts", 2),
    ("key", 2),
    ("strategy", 2),
    ("version_column", 2),
    ("memory_limit", 2),
];

/// A value of each setting.
type Row = [usize; SETTINGS.len()];
/// A setting, and a value of it.
type Value = (usize, usize);

/// Whether two values exclude each other: `keep` other than `first` needs a time, and, as events
/// without one, is by arrival.
fn clash(one: Value, other: Value) -> bool {
    let keeps_better = |value| matches!(value, (KEEP, 1 | 2));
    let (timeless, same) = ((TIME, 0), (RETRY, 0));
    [(one, other), (other, one)]
        .into_iter()
        .any(|(one, other)| {
            keeps_better(one) && (other == timeless || other == same)
                || one == timeless && other == same
        })
}

/// All pairs of values that may meet.
fn pairs() -> BTreeSet<(Value, Value)> {
    let values = |setting: usize| (0..SETTINGS[setting].1).map(move |value| (setting, value));
    let all = (0..SETTINGS.len()).flat_map(values);
    let later = |one: Value| (one.0 + 1..SETTINGS.len()).flat_map(values);
    let pairs = all.flat_map(|one| later(one).map(move |other| (one, other)));
    pairs.filter(|(one, other)| !clash(*one, *other)).collect()
}

/// A row with these two values, in which many pairs meet that have not met before.
fn row(first: (Value, Value), open: &BTreeSet<(Value, Value)>, random: &mut Random) -> Row {
    let mut row = vec![first.0, first.1];
    let mut others: Vec<usize> = (0..SETTINGS.len()).collect();
    others.retain(|setting| row.iter().all(|(chosen, _)| chosen != setting));
    while !others.is_empty() {
        let setting = others.swap_remove(random.below(others.len() as u64) as usize);
        let values = (0..SETTINGS[setting].1).map(|value| (setting, value));
        let may = values.filter(|value| row.iter().all(|chosen| !clash(*chosen, *value)));
        let meets = |value: &Value| {
            let pairs = row
                .iter()
                .map(|chosen| (*chosen.min(value), *chosen.max(value)));
            pairs.filter(|pair| open.contains(pair)).count()
        };
        let best = may.max_by_key(|value| (meets(value), random.below(8)));
        row.push(best.expect("some value clashes with none"));
    }
    row.sort_unstable();
    let values: Vec<usize> = row.into_iter().map(|(_, value)| value).collect();
    values.try_into().expect("one of each setting")
}

/// Takes out the pairs that meet in a row.
fn meet(row: &Row, open: &mut BTreeSet<(Value, Value)>) {
    open.retain(|(one, other)| row[one.0] != one.1 || row[other.0] != other.1);
}

/// Settings of any kind together: any two values that may meet do. What is short takes one of the
/// spans.
pub(crate) fn pairwise(random: &mut Random, spans: &[u64]) -> Vec<Setup> {
    let (mut open, mut setups) = (pairs(), Vec::new());
    while let Some(first) = open.first().copied() {
        let left = |row: &Row| {
            let mut open = open.clone();
            meet(row, &mut open);
            open.len()
        };
        let tries: Vec<Row> = (0..8).map(|_| row(first, &open, random)).collect();
        let best = tries.into_iter().min_by_key(left);
        let best = best.expect("there are eight");
        meet(&best, &mut open);
        setups.push(setup(best, random, spans));
    }
    assert_complete(&setups);
    setups
}

fn setup(row: Row, random: &mut Random, spans: &[u64]) -> Setup {
    let [
        keep,
        time,
        retry,
        change,
        unmatched,
        horizon,
        window,
        future,
        conflicts,
        rest @ ..,
    ] = row;
    let [key, strategy, versions, memory] = rest;
    let mut span = |short: usize| match short {
        0 => u64::MAX,
        _ => spans[random.below(spans.len() as u64) as usize],
    };
    let times = [
        None,
        Some(Time::Integer(TimeUnit::Seconds)),
        MILLISECONDS,
        Some(Time::Integer(TimeUnit::Microseconds)),
        Some(Time::Timestamp),
    ];
    Setup {
        keep: [Keep::First, Keep::Earliest, Keep::Latest][keep],
        time: times[time],
        by_arrival: retry == 1,
        revise: change == 1,
        unmatched: [Unmatched::Keep, Unmatched::Drop, Unmatched::DeadLetter][unmatched],
        horizon_ms: span(horizon),
        window_ms: span(window),
        future_ms: span(future),
        detect_conflicts: conflicts == 1,
        wide: key == 1,
        strategy: [Strategy::Broadcast, Strategy::Partitioned][strategy],
        versions: versions == 1,
        on_disk: memory == 1,
        ..Setup::default()
    }
}

/// Told from the setups, and not from how they were made.
fn assert_complete(setups: &[Setup]) {
    let told = |setup: &Setup| -> [String; SETTINGS.len()] {
        [
            format!("{:?}", setup.keep),
            format!("{:?}", setup.time),
            format!("{}", setup.by_arrival),
            format!("{}", setup.revise),
            format!("{:?}", setup.unmatched),
            format!("{}", setup.horizon_ms == u64::MAX),
            format!("{}", setup.window_ms == u64::MAX),
            format!("{}", setup.future_ms == u64::MAX),
            format!("{}", setup.detect_conflicts),
            format!("{}", setup.wide),
            format!("{:?}", setup.strategy),
            format!("{}", setup.versions),
            format!("{}", setup.on_disk),
        ]
    };
    let mut met = BTreeSet::new();
    for setup in setups {
        let told = told(setup);
        for (index, one) in told.iter().enumerate() {
            let later = told.iter().enumerate().skip(index + 1);
            met.extend(later.map(|(at, other)| (index, one.clone(), at, other.clone())));
        }
    }
    assert_eq!(met.len(), pairs().len(), "every pair that may meet does");
}
