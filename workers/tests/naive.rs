//! The definition, recomputed from the whole input at each epoch: nothing in it is incremental, and
//! nothing is shared with the operators but the names of the settings and the key groups.

use std::collections::BTreeMap;

use deltajoin_workers::clock::TimeUnit;
use deltajoin_workers::key::key_group;
use deltajoin_workers::operators::{Keep, Unmatched};

use crate::script::{Epoch, Event, Outcome, block, partitions, time_of};
use crate::setup::{Setup, Time};

/// What is known of a key's event that is kept.
#[derive(Clone, Debug)]
struct Winner {
    event: Event,
    partition: i32,
    offset: i64,
    /// Its own time in milliseconds, or the epoch in which it came.
    at_ms: i64,
    /// The epoch in which it came.
    came: u64,
    /// The bucket in which its key is remembered.
    bucket: i64,
    /// The reference row that it is joined with, and since when that is as it is.
    row: Option<(String, u64)>,
}

impl Winner {
    fn origin(&self) -> String {
        format!("@{}/{}", self.partition, self.offset)
    }

    /// A dead letter of it.
    fn letter(&self, reason: &str, error: &str) -> String {
        let (own, origin) = (text(&self.event), self.origin());
        format!("events,null,{reason},{error},{own} {origin} {origin}")
    }
}

type Key = (i64, Option<String>);

/// Rows at one epoch.
type Collection = BTreeMap<String, i64>;

/// A time in milliseconds, as near as they can tell it. The least number is no time.
fn milliseconds(setup: Setup, at: i64) -> i64 {
    let at = i128::from(at);
    let at_ms = match setup.time {
        Some(Time::Integer(TimeUnit::Seconds)) => at * 1000,
        Some(Time::Integer(TimeUnit::Milliseconds)) | None => at,
        Some(Time::Integer(TimeUnit::Microseconds) | Time::Timestamp) => at.div_euclid(1000),
    };
    let (least, greatest) = (i128::from(i64::MIN) + 1, i128::from(i64::MAX));
    i64::try_from(at_ms.clamp(least, greatest)).unwrap()
}

/// The latest time that an event of an epoch may have.
fn latest_ms(setup: Setup, epoch: u64) -> i64 {
    i64::try_from(epoch.saturating_add(setup.future_ms)).unwrap_or(i64::MAX)
}

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
        clocks.push(now.filter(|_| setup.time.is_some()));
        let latest = latest_ms(setup, time_of(index));
        for (partition, records) in &epoch.records {
            let times = records.iter().flatten();
            let times = times.map(|event| milliseconds(setup, event.at));
            let seen = times.filter(|at_ms| *at_ms <= latest).max();
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
    let mut model = Model {
        setup,
        now: 0,
        clock: None,
        winners: Vec::new(),
        again: Vec::new(),
        table: BTreeMap::new(),
        told: BTreeMap::new(),
        dead: Vec::new(),
        outcome: Outcome::default(),
    };
    let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
    let mut before = Collection::new();
    for epoch in script {
        let after = model.epoch(epoch, &mut offsets);
        let outcome = &mut model.outcome;
        let mut changes = after.clone();
        for (row, count) in &before {
            *changes.entry(row.clone()).or_default() -= count;
        }
        changes.retain(|_, diff| *diff != 0);
        outcome.counts.rows_out += changes.len() as u64;
        outcome.counts.retracted += changes.values().filter(|diff| **diff < 0).count() as u64;
        if !changes.is_empty() {
            outcome
                .rows
                .insert(model.now, changes.into_iter().collect());
        }
        let mut dead = std::mem::take(&mut model.dead);
        outcome.counts.dead_letters += dead.len() as u64;
        if !dead.is_empty() {
            dead.sort_unstable();
            let dead = dead.into_iter().map(|letter| (letter, 1)).collect();
            outcome.dead_letters.insert(model.now, dead);
        }
        outcome.clocks.push(model.clock);
        outcome.counts.reference_rows = model.table.len() as u64;
        before = after;
    }
    model.outcome
}

struct Model {
    setup: Setup,
    now: u64,
    clock: Option<i64>,
    winners: Vec<(Key, Winner)>,
    /// Events of the epoch that come again.
    again: Vec<(Key, Winner)>,
    /// The reference: by location a name, and the epoch from which on it is that.
    table: BTreeMap<i64, (String, u64)>,
    /// How many conflicts were told, by minute and key group.
    told: BTreeMap<(u64, usize), u32>,
    dead: Vec<String>,
    outcome: Outcome,
}

impl Model {
    /// Takes an epoch in, and returns all rows at it.
    fn epoch(&mut self, epoch: &Epoch, offsets: &mut BTreeMap<i32, i64>) -> Collection {
        (self.now, self.clock) = epoch.time;
        // The last change of an epoch counts, and one that leaves a row as it is is none.
        let changes: BTreeMap<_, _> = epoch.reference.iter().cloned().collect();
        for (location, name) in changes {
            let known = self.table.get(&location).map(|(name, _)| name);
            match name {
                None => drop(self.table.remove(&location)),
                Some(name) if known == Some(&name) => {}
                Some(name) => drop(self.table.insert(location, (name, self.now))),
            }
        }
        for (partition, records) in &epoch.records {
            for record in records {
                let offset = offsets.entry(*partition).or_default();
                self.outcome.counts.records += 1;
                match record {
                    Some(event) => self.take(event, *partition, *offset),
                    None => self.dead.push(format!(
                        "events,null,malformed,not an event,raw @{partition}/{offset}"
                    )),
                }
                *offset += 1;
            }
        }
        for (key, new) in std::mem::take(&mut self.again) {
            // The one that is compared is the last of its key, should there be several: those of
            // the epoch are all there.
            let last = self.winners.iter().rposition(|(known, _)| *known == key);
            self.come_again(last.expect("one is remembered"), new);
        }
        self.rows()
    }

    /// Whether a time is in the window: later than the clock, or the epoch, less the window.
    fn in_window(&self, at_ms: i64) -> bool {
        let of_window = match self.setup.time {
            Some(_) => self.clock,
            None => Some(self.now.cast_signed()),
        };
        let window = i128::from(self.setup.window_ms);
        of_window.is_none_or(|clock| i128::from(at_ms) > i128::from(clock) - window)
    }

    /// All rows: every winner is joined anew, but for those of which the result is fixed.
    fn rows(&mut self) -> Collection {
        let setup = self.setup;
        let mut after = Collection::new();
        let mut winners = std::mem::take(&mut self.winners);
        for (_, winner) in &mut winners {
            let is_new = winner.came == self.now;
            let location = winner.event.location;
            let row = location.and_then(|at| self.table.get(&at)).cloned();
            if is_new || setup.revise && self.in_window(winner.at_ms) {
                let lost = row.is_none() && (is_new || winner.row.is_some());
                self.outcome.counts.unmatched += u64::from(row.is_none() && is_new);
                winner.row = row;
                if lost && setup.unmatched == Unmatched::DeadLetter {
                    let error = "no reference row for the event's \"location\"";
                    self.dead.push(winner.letter("unmatched", error));
                }
            }
            if winner.row.is_none() && setup.unmatched != Unmatched::Keep {
                continue;
            }
            let (name, version) = match &winner.row {
                Some((name, version)) => (name.as_str(), version.to_string()),
                None => ("null", "null".to_owned()),
            };
            let version = if setup.versions {
                format!(",{version}")
            } else {
                String::new()
            };
            let row = format!(
                "{},{name}{version} {}",
                text(&winner.event),
                winner.origin()
            );
            *after.entry(row).or_default() += 1;
        }
        self.winners = winners;
        after
    }

    /// Takes one event in: it may be refused, be the first of its key, or come again.
    fn take(&mut self, event: &Event, partition: i32, offset: i64) {
        let setup = self.setup;
        self.outcome.counts.events += 1;
        let horizon = i64::try_from(setup.horizon_ms).unwrap_or(i64::MAX);
        let width = (horizon / 24).max(1);
        let arrival = self.now.cast_signed();
        let clock = if setup.by_arrival {
            Some(arrival)
        } else {
            self.clock
        };
        let oldest = clock.and_then(|clock| clock.checked_sub(horizon));
        let oldest = oldest.map_or(i64::MIN, |oldest| oldest.div_euclid(width));
        let by_time = setup.time.is_some() && !setup.by_arrival;
        let at_ms = match setup.time {
            Some(_) => milliseconds(setup, event.at),
            None => arrival,
        };
        let bucket = if by_time { at_ms } else { arrival }.div_euclid(width);
        let new = Winner {
            event: event.clone(),
            partition,
            offset,
            at_ms,
            came: self.now,
            bucket,
            row: None,
        };
        let refused = |reason: &str, why: String| {
            let error = format!("the event's \"at\" ({}) is {why}", event.at);
            new.letter(reason, &error)
        };
        if setup.time.is_some() && at_ms > latest_ms(setup, self.now) {
            self.outcome.counts.future += 1;
            let future = setup.future_ms;
            let why = format!("later than its epoch by more than \"future\" ({future} ms)");
            return self.dead.push(refused("future", why));
        }
        if by_time && bucket < oldest {
            self.outcome.counts.late += 1;
            let (horizon, clock) = (setup.horizon_ms, clock.unwrap());
            let why = format!("more than the horizon ({horizon} ms) before the clock ({clock} ms)");
            return self.dead.push(refused("late", why));
        }
        let key: Key = (event.id, setup.wide.then(|| event.item.clone()));
        let held = |(known, winner): &(Key, Winner)| *known == key && winner.bucket >= oldest;
        let remembered =
            |winner: &(Key, Winner)| held(winner) && (!by_time || winner.1.bucket == bucket);
        if !self.winners.iter().any(remembered) {
            self.outcome.counts.distinct += 1;
            let moved = setup.detect_conflicts && by_time && self.winners.iter().any(held);
            self.outcome.counts.conflicts += u64::from(moved);
            return self.winners.push((key, new));
        }
        self.outcome.counts.duplicates += 1;
        self.again.push((key, new));
    }

    /// Compares an event that comes again with the one that is kept.
    fn come_again(&mut self, place: usize, new: Winner) {
        let winner = self.winners[place].1.clone();
        let better = match self.setup.keep {
            Keep::First => false,
            Keep::Earliest => new.event.at < winner.event.at,
            Keep::Latest => new.event.at > winner.event.at,
        };
        if !self.in_window(winner.at_ms) {
            // Who knows only that much of the one that is kept cannot rule out that it is better.
            let told = match self.setup.keep {
                Keep::First => false,
                Keep::Earliest => !self.in_window(new.at_ms),
                Keep::Latest => true,
            };
            assert!(told || !better, "no better one is left uncounted");
            self.outcome.counts.late_winners += u64::from(told);
            return;
        }
        if self.setup.detect_conflicts && text(&winner.event) != text(&new.event) {
            self.outcome.counts.conflicts += 1;
            self.tell_conflict(&winner, &new);
        }
        if better {
            let bucket = winner.bucket;
            self.winners[place].1 = Winner { bucket, ..new };
        }
    }

    /// Tells of a conflict, if it is one of the first three of its minute and key group.
    fn tell_conflict(&mut self, winner: &Winner, new: &Winner) {
        let event = block(&self.setup.events(), 0, 0, &[Some(new.event.clone())]).events;
        let group = key_group(event.keys().high()[0]);
        let told = self.told.entry((self.now / 60_000, group)).or_default();
        *told += 1;
        if *told > 3 {
            return;
        }
        let columns = [
            ("id", winner.event.id != new.event.id),
            ("location", winner.event.location != new.event.location),
            ("item", winner.event.item != new.event.item),
            ("at", winner.event.at != new.event.at),
        ];
        let differing = columns.into_iter().filter(|(_, differs)| *differs);
        let differing: Vec<_> = differing.map(|(name, _)| format!("\"{name}\"")).collect();
        let error = format!(
            "the event of this key at partition {}, offset {} has another {}",
            winner.partition,
            winner.offset,
            differing.join(", ")
        );
        self.dead.push(new.letter("conflict", &error));
    }
}

fn text(event: &Event) -> String {
    let location = event
        .location
        .map_or("null".to_owned(), |location| location.to_string());
    format!("{},{location},{},{}", event.id, event.item, event.at)
}
