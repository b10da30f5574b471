//! The keys of one pass: what row each must have, and what the output holds.
//!
//! It is apart from reading and joining because here is what an audit judges by, and how much
//! memory it takes: 80 bytes a key, of which nothing but hashes and origins is known.
//!
//! # Invariants
//! * Events come partition by partition, each in the order of its offsets, and before any row.
//! * The table never has more entries and steps than it was made for: it says that it is full.
//! * A row that stands in the output, or that another took the place of, is judged once. One that
//!   a tombstone removed is not: it is no part of the collection.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::hash::{BuildHasherDefault, Hasher};

use deltajoin_workers::batch::Origin;

use crate::audit::canonical::NO_ROW;
use crate::audit::entry::{Entry, Event, Extent, Other, Verdict};
use crate::audit::epochs::Judged;
use crate::audit::finding::{Found, Kind};
use crate::audit::steps::{
    Outcome, Revised, Standing, Step, ends_with_row, range_of, resolve, thin,
};
use crate::audit::told::Told;
use crate::audit::window::Times;

/// The table has no room for another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The keys of one pass.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<u128, Entry, BuildHasherDefault<Hashed>>,
    /// Rows that are right for a key as well, from other partitions than that of its entry.
    others: Vec<Other>,
    entries_max: usize,
    /// Records that keys with several must have.
    steps: Vec<Step>,
    by: By,
}

/// By what keys are judged.
#[derive(Clone, Debug)]
pub(super) enum By {
    /// Epochs are known, and these are judged. There is room for so many steps.
    Epochs {
        judged: Judged,
        times: Times,
        steps_max: usize,
    },
    /// They are not. Rows may be revised: then those that were replaced cannot be judged.
    Rows { revised: bool },
}

/// What is counted of the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyCounts {
    /// Different keys.
    pub(super) keys: u64,
    /// Keys of which any of several rows is right.
    pub(super) undecided: u64,
    /// Keys that must have a row.
    pub(super) rows: u64,
}

impl Table {
    /// A table for up to `entries_max` keys, judged by this.
    pub(super) fn new(entries_max: usize, by: By) -> Self {
        Self {
            // `HashMap::entry` makes room for one more, also when none is added.
            entries: HashMap::with_capacity_and_hasher(
                entries_max + 1,
                BuildHasherDefault::default(),
            ),
            others: Vec::new(),
            entries_max,
            steps: match by {
                By::Epochs { steps_max, .. } => Vec::with_capacity(steps_max),
                By::Rows { .. } => Vec::new(),
            },
            by,
        }
    }

    /// How many keys fit into a table of so many bytes.
    pub(super) fn entries_in(bytes: usize) -> usize {
        let buckets = bytes / (size_of::<(u128, Entry)>() + 1);
        // The standard library's table has a power of two of buckets, and fills 7 of 8.
        let buckets = (buckets + 1).next_power_of_two() / 2;
        if buckets < 16 { 0 } else { buckets / 8 * 7 - 1 }
    }

    /// The bytes of a table for so many keys.
    pub(super) fn bytes_of(entries: usize) -> usize {
        let buckets = (entries + 1).div_ceil(7) * 8;
        buckets.next_power_of_two().max(16) * (size_of::<(u128, Entry)>() + 1)
    }

    /// An event, and what becomes of its row.
    pub(super) fn event(&mut self, event: Event, revised: &[Revised]) -> Result<(), Full> {
        let full = self.entries.len() + self.others.len() >= self.entries_max;
        let Event { key, row, .. } = event;
        let entry = match self.entries.entry(key) {
            Place::Vacant(_) if full => return Err(Full),
            Place::Vacant(place) => {
                let mark = match self.by {
                    By::Epochs { .. } => event.mark,
                    By::Rows { .. } => event.origin.partition,
                };
                let entry = place.insert(Entry::new(event, mark));
                entry.stepped = !revised.is_empty();
                return match entry.stepped {
                    true => self.push_steps(event, revised),
                    false => Ok(()),
                };
            }
            Place::Occupied(place) => place.into_mut(),
        };
        if let By::Epochs { judged, .. } = self.by {
            if !entry.meet(event, judged) {
                return Ok(());
            }
            let several = !revised.is_empty() || entry.mark != event.mark;
            let own = (several && !entry.stepped).then(|| entry.first(key));
            if entry.mark == event.mark {
                (entry.right, entry.event) = (row, event.origin);
                entry.epoch = event.epoch;
            }
            entry.stepped |= several;
            if !entry.stepped {
                return Ok(());
            }
            if let Some(own) = own {
                self.push_step(own)?;
            }
            return self.push_steps(event, revised);
        }
        // Within a partition the least offset wins, which has come already.
        if entry.mark != event.origin.partition {
            entry.mark = event.origin.partition;
            if entry.right != row {
                if full {
                    return Err(Full);
                }
                entry.undecided = true;
                self.others.push(Other { key, row });
            }
        }
        Ok(())
    }

    /// Says that all events have come.
    pub(super) fn end_events(&mut self) -> KeyCounts {
        let entries = &mut self.entries;
        if let By::Epochs { judged, times, .. } = &self.by {
            resolve(&mut self.steps, *judged, times, |key, outcome| {
                let entry = entries.get_mut(&key).expect("its events have come");
                let Outcome {
                    event,
                    epoch,
                    row,
                    stepped,
                } = outcome;
                (entry.event, entry.epoch) = (event, epoch);
                (entry.right, entry.stepped) = (row, stepped);
            });
        }
        self.others.sort_unstable();
        self.others.dedup();
        let mut counts = KeyCounts::default();
        let judged = self.by.judged();
        let own = self.entries.iter();
        let own = own.filter(|(_, entry)| entry.extent(judged) == Extent::Row);
        for (key, entry) in own {
            counts.keys += 1;
            counts.undecided += u64::from(entry.undecided);
            let has_row = match (entry.stepped, judged) {
                (true, Some(judged)) => {
                    ends_with_row(&self.steps[range_of(&self.steps, *key)], judged)
                }
                _ => !entry.allows(*key, NO_ROW, &self.others),
            };
            counts.rows += u64::from(has_row);
        }
        counts
    }

    /// A record of the output.
    pub(super) fn tell(
        &mut self,
        key: u128,
        told: Told,
        place: Origin,
        found: &mut Found,
    ) -> Result<(), Full> {
        let full = self.entries.len() + self.others.len() >= self.entries_max;
        let judged = self.by.judged();
        let entry = match self.entries.entry(key) {
            Place::Vacant(_) if told.row(None).is_none() => return Ok(()),
            Place::Vacant(_) if full => return Err(Full),
            Place::Vacant(vacant) => vacant.insert(Entry::unknown()),
            Place::Occupied(place) => place.into_mut(),
        };
        if let (true, Some(judged)) = (entry.stepped, judged) {
            let range = range_of(&self.steps, key);
            entry
                .steps(&mut self.steps[range], judged)
                .tell(told, place, found);
            return Ok(());
        }
        let first = judged.filter(|judged| judged.contains(entry.epoch));
        let Some(row) = told.row(first.map(|_| entry.epoch)) else {
            if entry.standing == Standing::Step {
                (entry.standing, entry.row_place) = (Standing::Removed, place);
            }
            return Ok(());
        };
        let extent = entry.extent(judged);
        let stands = entry.standing == Standing::Step;
        if stands && extent == Extent::Repeats {
            let finding = entry.finding(place, Some(entry.row_place));
            found.push_again(entry.row == row, finding);
        } else if stands && extent == Extent::Row {
            let before = entry.judge(key, entry.row, &self.others);
            let now = entry.judge(key, row, &self.others);
            match (before, now) {
                // It may have been right once.
                (Verdict::Not(_), _) if self.by.may_replace() => {}
                (Verdict::Not(kind), _) => found.push(kind, entry.finding(entry.row_place, None)),
                (Verdict::Right, Verdict::Right) => {
                    let finding = entry.finding(place, Some(entry.row_place));
                    found.push_again(entry.row == row, finding);
                }
                // It is judged when it is replaced itself, or at the end.
                (Verdict::Right, Verdict::Not(_)) => {}
            }
        }
        entry.standing = Standing::Step;
        entry.row = row;
        entry.row_place = place;
        Ok(())
    }

    /// Says that the whole output has come: judges what stands, finds what is missing, and is as
    /// it was after the events. Returns how many keys end with the right row.
    pub(super) fn end_rows(&mut self, found: &mut Found) -> u64 {
        let mut right = 0;
        let (others, judged) = (&self.others, self.by.judged());
        let steps = &mut self.steps;
        self.entries.retain(|key, entry| {
            let extent = entry.extent(judged);
            if let (true, Some(judged)) = (entry.stepped, judged) {
                let range = range_of(steps, *key);
                let mut own = entry.steps(&mut steps[range], judged);
                let ends_well = own.end(found);
                own.forget();
                right += u64::from(ends_well && extent == Extent::Row);
                entry.standing = Standing::Nothing;
                return true;
            }
            match (extent, entry.standing) {
                (Extent::Row, Standing::Step) => match entry.judge(*key, entry.row, others) {
                    Verdict::Right => right += 1,
                    Verdict::Not(kind) => found.push(kind, entry.finding(entry.row_place, None)),
                },
                (Extent::Row, standing) => {
                    if !entry.allows(*key, NO_ROW, others) {
                        let removed = standing == Standing::Removed;
                        let before = removed.then_some(entry.row_place);
                        found.push(Kind::Missing, entry.finding(entry.event, before));
                    }
                }
                (Extent::Repeats | Extent::Nothing, _) => {}
            }
            entry.standing = Standing::Nothing;
            entry.has_event()
        });
        right
    }

    /// What a key with several records may have of this event.
    fn push_steps(&mut self, event: Event, revised: &[Revised]) -> Result<(), Full> {
        let Event {
            key,
            row,
            origin,
            epoch,
            mark,
            ..
        } = event;
        let first = Revised {
            epoch,
            before: NO_ROW,
            row,
        };
        self.push_step(Step::new(key, origin, mark, true, first))?;
        for revised in revised {
            self.push_step(Step::new(key, origin, mark, false, *revised))?;
        }
        Ok(())
    }

    fn push_step(&mut self, step: Step) -> Result<(), Full> {
        let By::Epochs { steps_max, .. } = self.by else {
            return Err(Full);
        };
        if self.steps.len() >= steps_max {
            thin(&mut self.steps);
            // To look through all of them for a few would take for ever.
            if self.steps.len() >= steps_max / 4 * 3 {
                return Err(Full);
            }
        }
        self.steps.push(step);
        Ok(())
    }
}

impl By {
    fn judged(&self) -> Option<Judged> {
        match self {
            Self::Epochs { judged, .. } => Some(*judged),
            Self::Rows { .. } => None,
        }
    }

    /// Whether a row that is not right any more may have been replaced by a right one.
    fn may_replace(&self) -> bool {
        matches!(self, Self::Rows { revised: true })
    }
}

/// Takes keys as they are: they are hashes.
#[derive(Clone, Copy, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are of 128 bits");
    }

    fn write_u128(&mut self, key: u128) {
        // The other half tells the pass.
        self.0 = key as u64;
    }
}

/// The pass in which a key is looked at.
pub(super) fn pass_of(key: u128, passes: usize) -> usize {
    let half = (key >> 64) as u64;
    usize::try_from(half % passes as u64).expect("there are few passes")
}

#[cfg(test)]
mod tests;
