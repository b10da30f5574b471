//! Events that come again: which of them take the place of the one before, and which contradict it.
//!
//! It is apart from `joiner`, which makes results of what is found here.
//!
//! # Invariants
//! * Of a key's events that are compared, the one that is kept does not depend on batches or
//!   workers: duplicates come in the order of their origins.
//! * Nor does it depend on restarts which conflicts become dead letters: how many have, in the
//!   running minute, is in the checkpoints.

use std::collections::{HashMap, HashSet};

use crate::batch::{Batch, Gather, Origin, RowIndex};
use crate::checkpoint::{Told, minute};
use crate::clock::EventTime;
use crate::key::key_group;
use crate::operators::join::{Join, Keep};
use crate::operators::{Letters, SharedCounts};
use crate::ports::reason;
use crate::state::{MixedKeys, Place, RecentRows};

/// A key group has so many conflicts dead-lettered in a minute of epochs: enough to see what is
/// wrong.
const LETTERS_A_MINUTE: u32 = 3;

/// The event of a key before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Before {
    /// It came in the same epoch, for the first time.
    New(RowIndex),
    /// It came earlier.
    Held(Place),
}

/// An event that takes the place of another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rival {
    /// Where it is among the duplicates.
    pub(crate) row: RowIndex,
    /// What it replaces, of what there was before the epoch or is new in it.
    pub(crate) before: Before,
}

/// What was found in an epoch.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// At most one of each key, in the order of their rows.
    pub(crate) rivals: Vec<Rival>,
    /// What they replace.
    pub(crate) replaced: HashSet<Before>,
    /// Conflicts that become dead letters, and how many those are of each key group.
    pub(crate) letters: Vec<Batch>,
    pub(crate) told: Told,
}

/// Compares duplicates.
#[derive(Debug)]
pub(crate) struct Rivals {
    /// The minute of the last conflict, and how many of each key group became dead letters in it.
    minute: u64,
    told: Told,
}

impl Rivals {
    /// Goes on from what was told in the minute of an epoch, up to it.
    pub(crate) fn new(epoch: u64, told: Told) -> Self {
        let minute = minute(epoch);
        Self { minute, told }
    }

    /// Compares the duplicates of an epoch with what is held and with its new events. Rows at
    /// `oldest_ms` or before are out of the window.
    pub(crate) fn compare(
        &mut self,
        (join, letters, counts): (&Join, &Letters, &SharedCounts),
        (events, duplicates): (&Gather, &Gather),
        recent: &RecentRows,
        (epoch, oldest_ms): (u64, i64),
    ) -> Found {
        let mut found = Found::default();
        if duplicates.batches().is_empty() {
            return found;
        }
        let mut new: HashMap<u128, RowIndex, MixedKeys> = HashMap::default();
        for (index, batch) in events.batches().iter().enumerate() {
            new.extend((0..batch.len()).map(|row| (batch.keys().get(row), (index, row))));
        }
        let mut kept: HashMap<u128, Rival, MixedKeys> = HashMap::default();
        let mut conflicts = Vec::new();
        let mut counts = counts.borrow_mut();
        let mut reader = recent.reader();
        for (index, batch) in duplicates.batches().iter().enumerate() {
            for row in 0..batch.len() {
                let key = batch.keys().get(row);
                let rival = kept.get(&key).copied();
                let first = || match new.get(&key) {
                    Some(row) => Some(Before::New(*row)),
                    None => recent.find(key).map(Before::Held),
                };
                let before = rival.map(|rival| rival.before).or_else(first);
                let now = before.map(|before| match (rival, before) {
                    (Some(Rival { row, .. }), _) => at(duplicates, row),
                    (None, Before::New(row)) => at(events, row),
                    (None, Before::Held(place)) => reader.row(place),
                });
                let in_window = |(rows, row): &(&Batch, usize)| {
                    // What is held without a time of its own is asked for its epoch.
                    let at_ms = match (join.time, before) {
                        (Some(time), _) => time.of(rows, *row),
                        (None, Some(Before::Held(place))) => recent.epoch(place).cast_signed(),
                        (None, _) => epoch.cast_signed(),
                    };
                    at_ms > oldest_ms
                };
                let (Some(before), Some(now)) = (before, now.filter(in_window)) else {
                    let may_be_better = may_be_better(join, (batch, row), oldest_ms);
                    counts.late_winners += u64::from(may_be_better);
                    continue;
                };
                if join.detect_conflicts
                    && let Some(error) = contradiction(now, (batch, row))
                {
                    counts.conflicts += 1;
                    let group = key_group(batch.keys().high()[row]);
                    let group = u16::try_from(group).expect("there are 1024");
                    if self.tells(epoch, group) {
                        conflicts.push(((index, row), error));
                        *found.told.entry(group).or_default() += 1;
                    }
                }
                if !better(join.keep, join.time, now, (batch, row)) {
                    continue;
                }
                let row = (index, row);
                kept.insert(key, Rival { row, before });
            }
        }
        found.rivals = kept.into_values().collect();
        found.rivals.sort_unstable_by_key(|rival| rival.row);
        found.replaced = found.rivals.iter().map(|rival| rival.before).collect();
        found.letters = letters_of(letters, duplicates, conflicts);
        found
    }

    /// Whether a conflict of a key group is dead-lettered.
    fn tells(&mut self, epoch: u64, group: u16) -> bool {
        if self.minute != minute(epoch) {
            self.minute = minute(epoch);
            self.told.clear();
        }
        let told = self.told.entry(group).or_default();
        let tells = *told < LETTERS_A_MINUTE;
        *told += u32::from(tells);
        tells
    }
}

fn at(batches: &Gather, (batch, row): RowIndex) -> (&Batch, usize) {
    (&batches.batches()[batch], row)
}

/// Whether an event that came later is to be kept in the place of another.
fn better(
    keep: Keep,
    time: Option<EventTime>,
    (before, at): (&Batch, usize),
    (batch, row): (&Batch, usize),
) -> bool {
    let Some(time) = time else { return false };
    let (before, now) = (time.values(before)[at], time.values(batch)[row]);
    match keep {
        Keep::First => false,
        Keep::Earliest => now < before,
        Keep::Latest => now > before,
    }
}

/// Whether an event may be better than one that is out of the window, whatever the time of that.
fn may_be_better(join: &Join, (batch, row): (&Batch, usize), oldest_ms: i64) -> bool {
    let in_window = |time: EventTime| time.of(batch, row) > oldest_ms;
    match join.keep {
        Keep::First => false,
        Keep::Earliest => !join.time.is_some_and(in_window),
        Keep::Latest => true,
    }
}

/// How an event differs from one of the same key that came before it.
fn contradiction((before, at): (&Batch, usize), (batch, row): (&Batch, usize)) -> Option<String> {
    let columns = &batch.schema().schema.columns;
    let differs = |column: &usize| batch.slot(*column, row) != before.slot(*column, at);
    let differing: Vec<String> = (0..columns.len())
        .filter(differs)
        .map(|column| format!("\"{}\"", columns[column].name))
        .collect();
    if differing.is_empty() {
        return None;
    }
    let Origin { partition, offset } = before.origin(at);
    let columns = differing.join(", ");
    Some(format!(
        "the event of this key at partition {partition}, offset {offset} has another {columns}"
    ))
}

fn letters_of(
    letters: &Letters,
    duplicates: &Gather,
    conflicts: Vec<(RowIndex, String)>,
) -> Vec<Batch> {
    let (rows, errors): (Vec<RowIndex>, Vec<String>) = conflicts.into_iter().unzip();
    let mut errors = errors.into_iter();
    let told = |events: Batch| {
        let errors = (0..events.len()).zip(&mut errors);
        let told = errors.map(|(row, error)| (row, reason::CONFLICT, error));
        letters.of(&events, told)
    };
    duplicates.batches_of(&rows).map(told).collect()
}
