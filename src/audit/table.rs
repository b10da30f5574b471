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
    /// The partition of the last of its events.
    last_partition: i32,
    written: Written,
    /// Whether `others` has rows of it.
    undecided: bool,
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
    /// A table for up to `entries_max` keys.
    pub(super) fn new(entries_max: usize) -> Self {
        Self {
            // `HashMap::entry` makes room for one more, also when none is added.
            entries: HashMap::with_capacity_and_hasher(
                entries_max + 1,
                BuildHasherDefault::default(),
            ),
            others: Vec::new(),
            entries_max,
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
    pub(super) fn event(&mut self, key: u128, row: u128, origin: Origin) -> Result<(), Full> {
        let full = self.entries.len() + self.others.len() >= self.entries_max;
        match self.entries.entry(key) {
            Place::Vacant(_) if full => return Err(Full),
            Place::Vacant(place) => {
                place.insert(Entry::new(row, origin));
            }
            Place::Occupied(mut place) => {
                let entry = place.get_mut();
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
        for (key, entry) in &self.entries {
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
        if entry.written == Written::Row {
            let before = entry.judge(key, entry.row, &self.others);
            let now = entry.judge(key, row, &self.others);
            match (before, now) {
                (Verdict::Not(kind), _) => found.push(kind, entry.finding(entry.row_place, None)),
                (Verdict::Right, Verdict::Right) => {
                    let finding = entry.finding(place, Some(entry.row_place));
                    if entry.row == row {
                        found.push_repeat(finding);
                    } else {
                        found.push(Kind::Doubled, finding);
                    }
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
        let others = &self.others;
        self.entries.retain(|key, entry| {
            match entry.written {
                Written::Row => match entry.judge(*key, entry.row, others) {
                    Verdict::Right => right += 1,
                    Verdict::Not(kind) => found.push(kind, entry.finding(entry.row_place, None)),
                },
                Written::Nothing | Written::Removed => {
                    if !entry.allows(*key, NO_ROW, others) {
                        let removed = entry.written == Written::Removed;
                        let before = removed.then_some(entry.row_place);
                        found.push(Kind::Missing, entry.finding(entry.event, before));
                    }
                }
            }
            entry.written = Written::Nothing;
            entry.event.partition != NO_EVENT
        });
        right
    }
}

impl Entry {
    fn new(right: u128, event: Origin) -> Self {
        Self {
            right,
            row: NO_ROW,
            event,
            row_place: Origin::default(),
            last_partition: event.partition,
            written: Written::Nothing,
            undecided: false,
        }
    }

    /// Of a key that no event has.
    fn unknown() -> Self {
        let nowhere = Origin {
            partition: NO_EVENT,
            offset: 0,
        };
        Self::new(NO_ROW, nowhere)
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
mod tests {
    use super::*;

    fn at(partition: i32, offset: i64) -> Origin {
        Origin { partition, offset }
    }

    /// A table of three keys: 1 has row 10; 2 has row 20 or 21; 3 has none.
    fn table() -> Table {
        let mut table = Table::new(112);
        for (key, row, origin) in [
            (1, 10, at(0, 0)),
            (1, 11, at(0, 1)),
            (2, 20, at(0, 2)),
            (3, NO_ROW, at(0, 3)),
            (2, 20, at(1, 0)),
            (2, 22, at(1, 1)),
            (1, 10, at(1, 2)),
            (2, 21, at(2, 0)),
        ] {
            table.event(key, row, origin).unwrap();
        }
        let counts = KeyCounts {
            keys: 3,
            undecided: 1,
            rows: 2,
        };
        assert_eq!(table.end_events(), counts);
        table
    }

    /// What is found of rows, given as key and row; row 0 stands for a tombstone.
    fn found(table: &mut Table, rows: &[(u128, u128)]) -> ([u64; 4], u64) {
        let mut found = Found::new(10, false);
        for (offset, (key, row)) in (0..).zip(rows) {
            match *row {
                NO_ROW => table.tombstone(*key, at(9, offset)),
                row => table.row(*key, row, at(9, offset), &mut found).unwrap(),
            }
        }
        let right = table.end_rows(&mut found);
        (Kind::ALL.map(|kind| found.count(kind)), right)
    }

    #[test]
    fn each_row_is_judged_once() {
        type Case = (&'static [(u128, u128)], [u64; 4], u64);
        let mut table = table();
        let cases: [Case; 14] = [
            (&[(1, 10), (2, 20)], [0, 0, 0, 0], 2),
            (&[(2, 21), (1, 10)], [0, 0, 0, 0], 2),
            (&[], [2, 0, 0, 0], 0),
            (&[(1, 10), (2, 22)], [0, 0, 1, 0], 1),
            (&[(1, 11), (2, 20)], [0, 0, 1, 0], 1),
            (&[(1, 10), (2, 20), (1, 10)], [0, 1, 0, 0], 2),
            (&[(1, 10), (2, 20), (2, 21)], [0, 1, 0, 0], 2),
            (&[(1, 10), (2, 20), (1, 12)], [0, 0, 1, 0], 1),
            (&[(1, 12), (2, 20), (1, 10)], [0, 0, 1, 0], 2),
            (&[(1, 12), (2, 20), (1, 12)], [0, 0, 2, 0], 1),
            (&[(1, 10), (2, 20), (3, 30), (4, 40)], [0, 0, 0, 2], 2),
            (&[(1, 10), (2, 20), (2, 0), (3, 0), (5, 0)], [1, 0, 0, 0], 1),
            (&[(1, 10), (1, 0), (1, 10), (2, 20)], [0, 0, 0, 0], 2),
            (&[(4, 40), (4, 0), (1, 10), (2, 20)], [0, 0, 0, 0], 2),
        ];
        for (rows, counts, right) in cases {
            assert_eq!(found(&mut table, rows), (counts, right), "{rows:?}");
        }
    }

    #[test]
    fn a_row_or_none_may_both_be_right() {
        let mut table = Table::new(112);
        table.event(1, NO_ROW, at(0, 0)).unwrap();
        table.event(1, 10, at(1, 0)).unwrap();
        assert_eq!(table.end_events().rows, 0);
        assert_eq!(found(&mut table, &[]), ([0; 4], 0));
        assert_eq!(found(&mut table, &[(1, 10)]), ([0; 4], 1));
        assert_eq!(found(&mut table, &[(1, 11)]), ([0, 0, 1, 0], 0));
    }

    #[test]
    fn findings_name_event_and_row_and_the_first_are_kept_in_any_order() {
        let mut table = table();
        let mut found = Found::new(1, false);
        for offset in [4, 3, 5] {
            table.row(1, 10, at(9, offset), &mut found).unwrap();
        }
        table.tombstone(1, at(9, 7));
        table.end_rows(&mut found);
        assert_eq!(found.count(Kind::Doubled), 2);
        let doubled: Vec<_> = found.first(Kind::Doubled).copied().collect();
        let expected = Finding {
            place: at(9, 3),
            event: Some(at(0, 0)),
            before: Some(at(9, 4)),
            undecided: false,
        };
        assert_eq!(doubled, [expected]);
        let missing = found.first(Kind::Missing).next().unwrap();
        assert_eq!((missing.place, missing.before), (at(0, 0), Some(at(9, 7))));
    }

    #[test]
    fn identical_repeats_may_be_allowed_and_others_are_not() {
        let mut table = table();
        let mut found = Found::new(1, true);
        for (key, row) in [(1, 10), (1, 10), (2, 20), (2, 21)] {
            table.row(key, row, at(9, 0), &mut found).unwrap();
        }
        assert_eq!((found.repeats, found.count(Kind::Doubled)), (1, 1));
    }

    #[test]
    fn a_table_is_full_when_it_is_as_large_as_it_may_be() {
        let entries = Table::entries_in(10_000);
        assert!(Table::bytes_of(entries) <= 10_000);
        assert!(Table::bytes_of(entries + 1) > 10_000);
        assert_eq!(Table::entries_in(100), 0);
        let mut table = Table::new(entries);
        let capacity = table.entries.capacity();
        let count = u128::try_from(entries).unwrap();
        for key in 0..count {
            table.event(key, 1, at(0, 0)).unwrap();
        }
        assert_eq!(table.event(count, 1, at(0, 0)), Err(Full));
        let mut found = Found::new(1, false);
        assert_eq!(table.row(count, 1, at(0, 0), &mut found), Err(Full));
        assert_eq!(table.entries.capacity(), capacity);
        assert_eq!(capacity, entries + 1);
    }
}
