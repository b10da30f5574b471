//! The definition, recomputed from the whole input at each epoch: nothing in it is incremental, and
//! nothing is shared with the operators but the names of the settings.

use std::collections::BTreeMap;

use deltajoin_workers::operators::{Keep, Unmatched};

use crate::script::{Epoch, Event, Outcome, Setup, partitions, time_of};

/// What is known of a key's event that is kept.
#[derive(Clone, Debug)]
struct Winner {
    event: Event,
    origin: String,
    /// Its own time, or the epoch in which it came.
    at: i64,
    /// The epoch in which it came.
    came: u64,
    /// The bucket in which its key is remembered.
    bucket: i64,
    /// What it is joined with, and whether that is fixed.
    name: Option<String>,
}

type Key = (i64, Option<String>);

/// Rows at one epoch.
type Collection = BTreeMap<String, i64>;

/// The clock of each epoch by its rule: from what the epochs before it have shown.
pub(crate) fn clocks(setup: Setup, script: &[Epoch]) -> Vec<Option<i64>> {
    let mut greatest: BTreeMap<i32, Option<i64>> = BTreeMap::new();
    let mut lagging = partitions(script);
    greatest.extend(lagging.iter().map(|partition| (*partition, None)));
    let mut now = None;
    let mut clocks = Vec::new();
    for (index, epoch) in script.iter().enumerate() {
        let slowest = lagging.iter().map(|partition| greatest[partition]).min();
        now = now.max(slowest.unwrap_or_else(|| greatest.values().copied().max().flatten()));
        clocks.push(now.filter(|_| setup.timed));
        let latest = time_of(index).saturating_add(setup.future_ms);
        let latest = i64::try_from(latest).unwrap_or(i64::MAX);
        for (partition, records) in &epoch.records {
            let times = records.iter().flatten().map(|event| event.at);
            let seen = times.filter(|at| *at <= latest).max();
            let known = greatest.entry(*partition).or_default();
            *known = seen.max(*known);
        }
        for (partition, lags) in &epoch.lags {
            greatest.entry(*partition).or_default();
            if *lags {
                lagging.insert(*partition);
            } else {
                lagging.remove(partition);
            }
        }
    }
    clocks
}

/// What a run must give. The script says which epoch each is, and its clock.
pub(crate) fn naive(setup: Setup, script: &[Epoch]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut winners: Vec<(Key, Winner)> = Vec::new();
    let mut table: BTreeMap<i64, String> = BTreeMap::new();
    let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
    let mut before = Collection::new();
    for epoch in script {
        let (now, clock) = epoch.time;
        let of_window = if setup.timed {
            clock
        } else {
            Some(now.cast_signed())
        };
        let out_of_window = of_window.map_or(i64::MIN, |clock| {
            clock.saturating_sub(i64::try_from(setup.window_ms).unwrap_or(i64::MAX))
        });
        let mut dead = Vec::new();
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
                match record {
                    Some(event) => {
                        outcome.counts.events += 1;
                        let at = (now, clock, out_of_window);
                        let letter = take(setup, event, &origin, at, &mut winners, &mut outcome);
                        dead.extend(letter);
                    }
                    None => {
                        dead.push(format!("events,null,malformed,not an event,raw {origin}"));
                    }
                }
            }
        }
        let at = (now, out_of_window);
        let after = rows(setup, at, &table, (&mut winners, &mut outcome, &mut dead));
        let mut changes = after.clone();
        for (row, count) in &before {
            *changes.entry(row.clone()).or_default() -= count;
        }
        changes.retain(|_, diff| *diff != 0);
        outcome.counts.rows_out += changes.len() as u64;
        outcome.counts.retracted += changes.values().filter(|diff| **diff < 0).count() as u64;
        if !changes.is_empty() {
            outcome.rows.insert(now, changes.into_iter().collect());
        }
        outcome.counts.dead_letters += dead.len() as u64;
        if !dead.is_empty() {
            dead.sort_unstable();
            let dead = dead.into_iter().map(|letter| (letter, 1)).collect();
            outcome.dead_letters.insert(now, dead);
        }
        outcome.clocks.push(clock);
        before = after;
        outcome.counts.reference_rows = table.len() as u64;
    }
    outcome
}

/// All rows at an epoch: every winner is joined anew, but for those of which the result is fixed.
fn rows(
    setup: Setup,
    (now, out_of_window): (u64, i64),
    table: &BTreeMap<i64, String>,
    (winners, outcome, dead): (&mut [(Key, Winner)], &mut Outcome, &mut Vec<String>),
) -> Collection {
    let mut after = Collection::new();
    for (_, winner) in winners {
        let is_new = winner.came == now;
        let name = winner.event.location.and_then(|at| table.get(&at)).cloned();
        if is_new || setup.revise && winner.at > out_of_window {
            let lost = name.is_none() && (is_new || winner.name.is_some());
            outcome.counts.unmatched += u64::from(name.is_none() && is_new);
            winner.name = name;
            if lost && setup.unmatched == Unmatched::DeadLetter {
                let error = "no reference row for the event's \"location\"";
                let (own, origin) = (text(&winner.event), &winner.origin);
                let letter = format!("events,null,unmatched,{error},{own} {origin} {origin}");
                dead.push(letter);
            }
        }
        if winner.name.is_none() && setup.unmatched != Unmatched::Keep {
            continue;
        }
        let name = winner.name.as_deref().unwrap_or("null");
        let row = format!("{},{name} {}", text(&winner.event), winner.origin);
        *after.entry(row).or_default() += 1;
    }
    after
}

/// Takes one event in: it may be refused, be the first of its key, or come again.
fn take(
    setup: Setup,
    event: &Event,
    origin: &str,
    (now, clock, out_of_window): (u64, Option<i64>, i64),
    winners: &mut Vec<(Key, Winner)>,
    outcome: &mut Outcome,
) -> Option<String> {
    let horizon = i64::try_from(setup.horizon_ms).unwrap_or(i64::MAX);
    let width = (horizon / 24).max(1);
    let clock = if setup.by_arrival {
        Some(now.cast_signed())
    } else {
        clock
    };
    let oldest = clock.and_then(|clock| clock.checked_sub(horizon));
    let oldest = oldest.map_or(i64::MIN, |oldest| oldest.div_euclid(width));
    let latest = now.saturating_add(setup.future_ms);
    let latest = i64::try_from(latest).unwrap_or(i64::MAX);
    let refused = |reason: &str, why: String| {
        let (at, own) = (event.at, text(event));
        let error = format!("the event's \"at\" ({at}) is {why}");
        Some(format!(
            "events,null,{reason},{error},{own} {origin} {origin}"
        ))
    };
    if setup.timed && event.at > latest {
        outcome.counts.future += 1;
        let future = setup.future_ms;
        return refused(
            "future",
            format!("later than its epoch by more than \"future\" ({future} ms)"),
        );
    }
    let by_time = setup.timed && !setup.by_arrival;
    let bucket = if by_time { event.at } else { now.cast_signed() }.div_euclid(width);
    if by_time && bucket < oldest {
        outcome.counts.late += 1;
        let (horizon, clock) = (setup.horizon_ms, clock.unwrap());
        return refused(
            "late",
            format!("more than the horizon ({horizon} ms) before the clock ({clock} ms)"),
        );
    }
    let key: Key = (event.id, setup.wide.then(|| event.item.clone()));
    let new = Winner {
        event: event.clone(),
        origin: origin.to_owned(),
        at: if setup.timed {
            event.at
        } else {
            now.cast_signed()
        },
        came: now,
        bucket,
        name: None,
    };
    let remembered = |(known, winner): &&(Key, Winner)| {
        *known == key && winner.bucket >= oldest && (!by_time || winner.bucket == bucket)
    };
    let held = |(known, winner): &(Key, Winner)| *known == key && winner.bucket >= oldest;
    let Some(place) = winners.iter().rposition(|winner| remembered(&winner)) else {
        outcome.counts.distinct += 1;
        let moved = setup.detect_conflicts && by_time && winners.iter().any(held);
        outcome.counts.conflicts += u64::from(moved);
        winners.push((key, new));
        return None;
    };
    outcome.counts.duplicates += 1;
    // The one that is compared is the last of its key, should there be several.
    let last = winners.iter().rposition(|(known, _)| *known == key);
    let (_, winner) = &mut winners[last.unwrap_or(place)];
    come_again(setup, (winner, new), out_of_window, outcome);
    None
}

/// Compares an event that comes again with the one that is kept.
fn come_again(
    setup: Setup,
    (winner, new): (&mut Winner, Winner),
    out_of_window: i64,
    outcome: &mut Outcome,
) {
    if winner.at <= out_of_window {
        outcome.counts.late_winners += u64::from(setup.keep != Keep::First);
        return;
    }
    if setup.detect_conflicts && text(&winner.event) != text(&new.event) {
        outcome.counts.conflicts += 1;
    }
    let better = match setup.keep {
        Keep::First => false,
        Keep::Earliest => new.event.at < winner.event.at,
        Keep::Latest => new.event.at > winner.event.at,
    };
    if better {
        let bucket = winner.bucket;
        *winner = Winner { bucket, ..new };
    }
}

fn text(event: &Event) -> String {
    let location = event
        .location
        .map_or("null".to_owned(), |location| location.to_string());
    format!("{},{location},{},{}", event.id, event.item, event.at)
}
