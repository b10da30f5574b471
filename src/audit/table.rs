//! The keys of one pass: what row each must have, and what the output holds.
//!
//! It is apart from reading and joining because here is what an audit judges by, and how much
//! memory it takes: 80 bytes a key, of which nothing but hashes and origins is known.
//!
//! # Invariants
//! * Events come partition by partition, each in the order of its offsets, and before any row.
//! * The table never has more entries than it was made for: it says that it is full.
//! * A row that stands in the output, or that another took the place of, is judged once. One that
//!   a tombstone removed is not: it is no part of the collection.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::hash::{BuildHasherDefault, Hasher};

use deltajoin_workers::batch::Origin;

use crate::audit::canonical::NO_ROW;
use crate::audit::epochs::Judged;
use crate::audit::finding::{Finding, Found, Kind};

/// The partition of an entry that no event has made.
const NO_EVENT: i32 = -1;

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
    /// The epochs that are judged; none if epochs are not known.
    judged: Option<Judged>,
}

/// What is known of a key.
#[derive(Clone, Debug)]
struct Entry {
    /// The row of its first event.
    right: u128,
    /// The row that the output holds, if it holds one.
    row: u128,
    event: Origin,
    row_place: Origin,
    /// That of its first event; 0 if epochs are not known.
    epoch: u64,
    /// The partition of the last of its events.
    last_partition: i32,
    written: Written,
    /// Whether `others` has rows of it.
    undecided: bool,
    /// Whether an event of an epoch that is judged has it too, after an earlier one.
    again: bool,
}

/// What is judged of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Its row.
    Row,
    /// Whether it has more rows than one: it was there before what is judged.
    Repeats,
    /// Nothing.
    Nothing,
}

/// What the output holds of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Nothing.
    Nothing,
    /// A row.
    Row,
    /// A tombstone, behind a row.
    Removed,
}

/// A row that is right for a key too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Other {
    key: u128,
    row: u128,
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

/// The verdict on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Right,
    Not(Kind),
}

impl Table {
    /// A table for up to `entries_max` keys, of which those are judged whose first event is of an
    /// epoch in `judged`; all if epochs are not known.
    pub(super) fn new(entries_max: usize, judged: Option<Judged>) -> Self {
        Self {
            // `HashMap::entry` makes room for one more, also when none is added.
            entries: HashMap::with_capacity_and_hasher(
                entries_max + 1,
                BuildHasherDefault::default(),
            ),
            others: Vec::new(),
            entries_max,
            judged,
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

    /// An event, with the row that it must have, or `NO_ROW`.
    pub(super) fn event(
        &mut self,
        key: u128,
        row: u128,
        origin: Origin,
        epoch: u64,
    ) -> Result<(), Full> {
        let full = self.entries.len() + self.others.len() >= self.entries_max;
        let judged = self.judged;
        match self.entries.entry(key) {
            Place::Vacant(_) if full => return Err(Full),
            Place::Vacant(place) => {
                place.insert(Entry::new(row, origin, epoch));
            }
            Place::Occupied(mut place) => {
                let entry = place.get_mut();
                if let Some(judged) = judged {
                    entry.meet(row, origin, epoch, judged);
                    return Ok(());
                }
                // Within a partition the least offset wins, which has come already.
                if entry.last_partition == origin.partition {
                    return Ok(());
                }
                entry.last_partition = origin.partition;
                if entry.right != row {
                    if full {
                        return Err(Full);
                    }
                    entry.undecided = true;
                    self.others.push(Other { key, row });
                }
            }
        }
        Ok(())
    }

    /// Says that all events have come.
    pub(super) fn end_events(&mut self) -> KeyCounts {
        self.others.sort_unstable();
        self.others.dedup();
        let mut counts = KeyCounts::default();
        let own = self.entries.iter();
        let own = own.filter(|(_, entry)| entry.extent(self.judged) == Extent::Row);
        for (key, entry) in own {
            counts.keys += 1;
            counts.undecided += u64::from(entry.undecided);
            counts.rows += u64::from(!entry.allows(*key, NO_ROW, &self.others));
        }
        counts
    }

    /// A row of the output.
    pub(super) fn row(
        &mut self,
        key: u128,
        row: u128,
        place: Origin,
        found: &mut Found,
    ) -> Result<(), Full> {
        let full = self.entries.len() + self.others.len() >= self.entries_max;
        let entry = match self.entries.entry(key) {
            Place::Vacant(_) if full => return Err(Full),
            Place::Vacant(vacant) => vacant.insert(Entry::unknown()),
            Place::Occupied(place) => place.into_mut(),
        };
        let extent = entry.extent(self.judged);
        if entry.written == Written::Row && extent == Extent::Repeats {
            let finding = entry.finding(place, Some(entry.row_place));
            found.push_again(entry.row == row, finding);
        } else if entry.written == Written::Row && extent == Extent::Row {
            let before = entry.judge(key, entry.row, &self.others);
            let now = entry.judge(key, row, &self.others);
            match (before, now) {
                (Verdict::Not(kind), _) => found.push(kind, entry.finding(entry.row_place, None)),
                (Verdict::Right, Verdict::Right) => {
                    let finding = entry.finding(place, Some(entry.row_place));
                    found.push_again(entry.row == row, finding);
                }
                // It is judged when it is replaced itself, or at the end.
                (Verdict::Right, Verdict::Not(_)) => {}
            }
        }
        entry.written = Written::Row;
        entry.row = row;
        entry.row_place = place;
        Ok(())
    }

    /// A tombstone in the output: it removes the row of its key.
    pub(super) fn tombstone(&mut self, key: u128, place: Origin) {
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.written == Written::Row
        {
            entry.written = Written::Removed;
            entry.row_place = place;
        }
    }

    /// Says that the whole output has come: judges what stands, finds what is missing, and is as
    /// it was after the events. Returns how many rows are right.
    pub(super) fn end_rows(&mut self, found: &mut Found) -> u64 {
        let mut right = 0;
        let (others, judged) = (&self.others, self.judged);
        self.entries.retain(|key, entry| {
            match (entry.extent(judged), entry.written) {
                (Extent::Row, Written::Row) => match entry.judge(*key, entry.row, others) {
                    Verdict::Right => right += 1,
                    Verdict::Not(kind) => found.push(kind, entry.finding(entry.row_place, None)),
                },
                (Extent::Row, written) => {
                    if !entry.allows(*key, NO_ROW, others) {
                        let removed = written == Written::Removed;
                        let before = removed.then_some(entry.row_place);
                        found.push(Kind::Missing, entry.finding(entry.event, before));
                    }
                }
                (Extent::Repeats | Extent::Nothing, _) => {}
            }
            entry.written = Written::Nothing;
            entry.event.partition != NO_EVENT
        });
        right
    }
}

impl Entry {
    fn new(right: u128, event: Origin, epoch: u64) -> Self {
        Self {
            right,
            row: NO_ROW,
            event,
            row_place: Origin::default(),
            epoch,
            last_partition: event.partition,
            written: Written::Nothing,
            undecided: false,
            again: false,
        }
    }

    /// Of a key that no event has.
    fn unknown() -> Self {
        let nowhere = Origin {
            partition: NO_EVENT,
            offset: 0,
        };
        Self::new(NO_ROW, nowhere, 0)
    }

    /// Another event of the key: the first by epoch, partition and offset counts.
    fn meet(&mut self, row: u128, origin: Origin, epoch: u64, judged: Judged) {
        let later = self.epoch.max(epoch);
        if epoch < self.epoch {
            (self.right, self.event, self.epoch) = (row, origin, epoch);
        }
        self.again |= self.epoch < judged.from && judged.contains(later);
    }

    fn extent(&self, judged: Option<Judged>) -> Extent {
        match judged {
            // A row that no event has made is of no epoch.
            Some(_) if self.event.partition == NO_EVENT => Extent::Row,
            Some(judged) if self.epoch < judged.from && self.again => Extent::Repeats,
            Some(judged) if !judged.contains(self.epoch) => Extent::Nothing,
            _ => Extent::Row,
        }
    }

    fn allows(&self, key: u128, row: u128, others: &[Other]) -> bool {
        self.right == row || self.undecided && others.binary_search(&Other { key, row }).is_ok()
    }

    fn judge(&self, key: u128, row: u128, others: &[Other]) -> Verdict {
        if self.allows(key, row, others) {
            Verdict::Right
        } else if self.right == NO_ROW && !self.undecided {
            Verdict::Not(Kind::Unexpected)
        } else {
            Verdict::Not(Kind::Wrong)
        }
    }

    fn finding(&self, place: Origin, before: Option<Origin>) -> Finding {
        Finding {
            place,
            event: (self.event.partition != NO_EVENT).then_some(self.event),
            before,
            undecided: self.undecided,
        }
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
