//! The set of keys that have been seen: one ordered open-addressing table for each key group.
//!
//! A key's home slot follows the order of keys (slot = key * slots / 2^64), and the keys in the
//! table are kept in order. So an unsuccessful look-up stops at the first greater key, growth is
//! one sequential pass without hashing, any growth factor will do, and iteration yields a sorted
//! run, which is what a snapshot, a merge and a move of key groups to another worker need.
//! `docs/decisions/0001-own-distinct.md` compares it with Differential's arrangement.
//!
//! # Invariants
//! * Keys stand in strictly ascending order, each at its home slot or after it, with no free slot
//!   between its home and itself.
//! * A table is at most `LOAD_MAX` full, so memory is 8 B or 16 B a key by 1.14 to 1.37.
//! * Growth is in place: it needs no second table beside the first one.

use crate::batch::Keys;
use crate::checkpoint::KeyRun;
use crate::key::{KEY_GROUP_BITS, KEY_GROUPS, key_group};

/// The share of slots that may be taken. Above it, runs of taken slots get long fast.
const LOAD_MAX: (usize, usize) = (88, 100);
/// Slots behind the last home slot, for keys that are pushed beyond it.
const SLACK: usize = 16;
/// Home slots of a table that gets its first key.
const SLOTS_MIN: usize = 8;

/// A key as it is stored: its bits, where 0 means a free slot.
trait Slot: Copy + Ord + Default {
    /// The bits below the key group, moved to the top: what the order of slots goes by.
    fn order(self) -> u64;
}

impl Slot for u64 {
    #[inline]
    fn order(self) -> u64 {
        self << KEY_GROUP_BITS
    }
}

impl Slot for u128 {
    #[inline]
    fn order(self) -> u64 {
        (self >> (64 - KEY_GROUP_BITS)) as u64
    }
}

/// The keys of one key group.
#[derive(Clone, Debug, Default)]
struct Table<K> {
    /// Home slots, then slack.
    slots: Vec<K>,
    /// How many of the slots are home slots.
    homes: usize,
    /// How many are taken.
    taken: usize,
    /// Whether the set holds the key 0, which cannot be told from a free slot.
    zero: bool,
}

impl<K: Slot> Table<K> {
    fn home(homes: usize, key: K) -> usize {
        ((u128::from(key.order()) * homes as u128) >> 64) as usize
    }

    fn contains(&self, key: K) -> bool {
        let free = K::default();
        if key == free {
            return self.zero;
        }
        if self.homes == 0 {
            return false;
        }
        let rest = &self.slots[Self::home(self.homes, key)..];
        let mut taken = rest
            .iter()
            .take_while(|slot| **slot != free && **slot <= key);
        taken.any(|slot| *slot == key)
    }

    /// Adds a key; returns whether it was new.
    fn insert(&mut self, key: K) -> bool {
        let free = K::default();
        if key == free {
            return !std::mem::replace(&mut self.zero, true);
        }
        loop {
            let from = Self::home(self.homes, key);
            let place = from
                + self.slots[from..]
                    .iter()
                    .take_while(|s| **s != free && **s < key)
                    .count();
            if self.slots.get(place) == Some(&key) {
                return false;
            }
            let full = (self.taken + 1) * LOAD_MAX.1 > self.homes * LOAD_MAX.0;
            let room = self.slots[place..].iter().position(|slot| *slot == free);
            match room {
                _ if full => self.grow(),
                Some(distance) => {
                    self.slots.copy_within(place..place + distance, place + 1);
                    self.slots[place] = key;
                    self.taken += 1;
                    return true;
                }
                // Many keys with one home, at the very end: more homes would not part them.
                None => self.slots.resize(self.slots.len() + SLACK, free),
            }
        }
    }

    /// Makes room for so many more keys.
    fn reserve(&mut self, keys: usize) {
        let homes = ((self.taken + keys) * LOAD_MAX.1).div_ceil(LOAD_MAX.0);
        if keys > 0 && homes > self.homes {
            self.grow_to(homes.max(SLOTS_MIN));
        }
    }

    /// Makes the table larger, by as little as an allocator does: the mean of wasted slots follows.
    fn grow(&mut self) {
        self.grow_to((self.homes + 1).max(SLOTS_MIN));
    }

    /// Makes the table at least so large and spreads the keys over it, in place.
    fn grow_to(&mut self, homes: usize) {
        let old = self.slots.len();
        let slack = SLACK.max(old - self.homes);
        let length = allocated::<K>(homes + slack);
        let homes = length - slack;
        self.slots.reserve_exact(length - old);
        self.slots.resize(length, K::default());
        self.homes = homes;
        // STEP 1. Move all keys to the end, in order, so that every key is read before its slot
        // is written.
        let mut end = length;
        for index in (0..old).rev() {
            let key = std::mem::take(&mut self.slots[index]);
            if key != K::default() {
                end -= 1;
                self.slots[end] = key;
            }
        }
        // STEP 2. Put each at its home, or at the first free slot after it. That is never beyond
        // where it stands: the keys from a home on fitted behind it before, and a larger table
        // with no less slack has no less room behind any home.
        let mut next = 0;
        for index in end..length {
            let key = std::mem::take(&mut self.slots[index]);
            let place = Self::home(homes, key).max(next);
            debug_assert!(place <= index, "keys from a home on fit behind it");
            self.slots[place] = key;
            next = place + 1;
        }
    }

    fn keys(&self) -> impl Iterator<Item = K> + '_ {
        let zero = self.zero.then(K::default);
        zero.into_iter().chain(
            self.slots
                .iter()
                .copied()
                .filter(|slot| *slot != K::default()),
        )
    }

    fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<K>() + size_of::<Self>()
    }
}

#[derive(Clone, Debug)]
enum Tables {
    Narrow(Vec<Table<u64>>),
    Wide(Vec<Table<u128>>),
}

/// A set of keys.
#[derive(Clone, Debug)]
pub struct KeySet {
    tables: Tables,
    keys: u64,
    bytes: u64,
}

impl KeySet {
    /// An empty set of narrow or of wide keys.
    pub fn new(narrow: bool) -> Self {
        let tables = if narrow {
            Tables::Narrow(vec![Table::default(); KEY_GROUPS])
        } else {
            Tables::Wide(vec![Table::default(); KEY_GROUPS])
        };
        let mut set = Self {
            tables,
            keys: 0,
            bytes: 0,
        };
        set.bytes = match &set.tables {
            Tables::Narrow(tables) => tables.iter().map(|table| table.bytes() as u64).sum(),
            Tables::Wide(tables) => tables.iter().map(|table| table.bytes() as u64).sum(),
        };
        set
    }

    /// Adds the key of one row; returns whether it was new.
    ///
    /// # Panics
    /// If the keys are of the other width.
    #[inline]
    pub fn insert(&mut self, keys: &Keys, row: usize) -> bool {
        let (new, grown) = match (&mut self.tables, keys) {
            (Tables::Narrow(tables), Keys::Narrow(keys)) => {
                let key = keys[row];
                insert_counted(&mut tables[key_group(key)], key)
            }
            (Tables::Wide(tables), Keys::Wide(high, _)) => {
                insert_counted(&mut tables[key_group(high[row])], keys.get(row))
            }
            _ => panic!("a set holds keys of one width"),
        };
        self.keys += u64::from(new);
        self.bytes += grown;
        new
    }

    /// Whether it has the key of one row.
    ///
    /// # Panics
    /// If the keys are of the other width.
    pub fn contains(&self, keys: &Keys, row: usize) -> bool {
        match (&self.tables, keys) {
            (Tables::Narrow(tables), Keys::Narrow(keys)) => {
                tables[key_group(keys[row])].contains(keys[row])
            }
            (Tables::Wide(tables), Keys::Wide(high, _)) => {
                tables[key_group(high[row])].contains(keys.get(row))
            }
            _ => panic!("a set holds keys of one width"),
        }
    }

    /// Whether its keys are of one integer each.
    pub fn is_narrow(&self) -> bool {
        matches!(self.tables, Tables::Narrow(_))
    }

    /// Makes room for so many more keys of one key group. Keys that come in their order need it:
    /// they would crowd at the beginning of a smaller table.
    pub fn reserve(&mut self, group: usize, keys: u64) {
        let keys = usize::try_from(keys).expect("they fit into memory");
        let bytes = match &mut self.tables {
            Tables::Narrow(tables) => reserve_counted(&mut tables[group], keys),
            Tables::Wide(tables) => reserve_counted(&mut tables[group], keys),
        };
        self.bytes += bytes;
    }

    /// Adds keys that are known not to be in it. If they are many, make room first.
    ///
    /// # Panics
    /// If they are of the other width, or one of them is in it.
    pub fn extend(&mut self, run: &KeyRun) {
        let mut grown = 0;
        let mut all_new = true;
        match (&mut self.tables, run) {
            (Tables::Narrow(tables), KeyRun::Narrow(keys)) => {
                for key in keys {
                    let (new, bytes) = insert_counted(&mut tables[key_group(*key)], *key);
                    all_new &= new;
                    grown += bytes;
                }
            }
            (Tables::Wide(tables), KeyRun::Wide(keys)) => {
                for key in keys {
                    let group = key_group((key >> 64) as u64);
                    let (new, bytes) = insert_counted(&mut tables[group], *key);
                    all_new &= new;
                    grown += bytes;
                }
            }
            _ => panic!("a set holds keys of one width"),
        }
        assert!(all_new, "a key is in one run");
        self.keys += run.len() as u64;
        self.bytes += grown;
    }

    /// How many keys it holds.
    pub fn len(&self) -> u64 {
        self.keys
    }

    /// Whether it holds no key.
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// The bytes of memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The keys of one key group, ascending; narrow keys stand in the high half.
    pub fn group(&self, group: usize) -> Box<dyn Iterator<Item = u128> + '_> {
        match &self.tables {
            Tables::Narrow(tables) => {
                Box::new(tables[group].keys().map(|key| u128::from(key) << 64))
            }
            Tables::Wide(tables) => Box::new(tables[group].keys()),
        }
    }
}

/// How many slots there are in what an allocator gives for so many: sizes have four steps between a
/// power of two and the next, as jemalloc's do.
fn allocated<K>(slots: usize) -> usize {
    let bytes = slots * size_of::<K>();
    let step = (bytes.next_power_of_two() / 8).max(16);
    bytes.next_multiple_of(step) / size_of::<K>()
}

/// Makes room, and returns by how many bytes the table grew.
fn reserve_counted<K: Slot>(table: &mut Table<K>, keys: usize) -> u64 {
    let before = table.slots.capacity();
    table.reserve(keys);
    ((table.slots.capacity() - before) * size_of::<K>()) as u64
}

/// Inserts, and returns whether the key was new and by how many bytes the table grew.
#[inline]
fn insert_counted<K: Slot>(table: &mut Table<K>, key: K) -> (bool, u64) {
    if table.slots.is_empty() {
        table.grow();
        let new = table.insert(key);
        return (new, (table.bytes() - size_of::<Table<K>>()) as u64);
    }
    let before = table.slots.capacity();
    let new = table.insert(key);
    let grown = table.slots.capacity() - before;
    (new, (grown * size_of::<K>()) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow_buffer::ScalarBuffer;
    use proptest::prelude::*;

    use super::*;

    fn check(narrow: bool, keys: &[u128]) {
        let mut set = KeySet::new(narrow);
        let mut model = BTreeSet::new();
        let high: Vec<u64> = keys.iter().map(|key| (key >> 64) as u64).collect();
        let low: Vec<u64> = keys.iter().map(|key| *key as u64).collect();
        let columns = if narrow {
            Keys::Narrow(ScalarBuffer::from(high))
        } else {
            Keys::Wide(ScalarBuffer::from(high), ScalarBuffer::from(low))
        };
        for row in 0..keys.len() {
            assert_eq!(
                set.contains(&columns, row),
                model.contains(&columns.get(row)),
                "row {row}"
            );
            assert_eq!(
                set.insert(&columns, row),
                model.insert(columns.get(row)),
                "row {row}"
            );
        }
        assert_eq!(set.len(), model.len() as u64);
        let all: Vec<u128> = (0..KEY_GROUPS).flat_map(|group| set.group(group)).collect();
        assert_eq!(
            all,
            model.into_iter().collect::<Vec<_>>(),
            "iteration is sorted"
        );
        let counted = match &set.tables {
            Tables::Narrow(tables) => tables.iter().map(|table| table.bytes() as u64).sum::<u64>(),
            Tables::Wide(tables) => tables.iter().map(|table| table.bytes() as u64).sum::<u64>(),
        };
        assert_eq!(set.bytes(), counted);
    }

    proptest! {
        #[test]
        fn it_holds_what_was_inserted_once_and_in_order(
            keys in prop::collection::vec(
                // Few distinct bits at both ends of a key group: long runs, and overflow of the
                // slack, are what goes wrong in such a table.
                (0u64..3, prop_oneof![0u64..60, (u64::MAX >> 10) - 60..=u64::MAX >> 10], 0u64..3),
                0..400,
            ),
            narrow in any::<bool>(),
        ) {
            let keys: Vec<u128> = keys.iter()
                .map(|(group, order, low)| u128::from(group << 54 | order) << 64 | u128::from(*low))
                .collect();
            check(narrow, &keys);
        }
    }

    #[test]
    fn a_million_mixed_keys_take_at_most_eleven_bytes_each() {
        let keys: Vec<u64> = (0..1_000_000).map(crate::key::mix64).collect();
        let columns = Keys::Narrow(ScalarBuffer::from(keys));
        let mut set = KeySet::new(true);
        for row in 0..1_000_000 {
            assert!(set.insert(&columns, row));
        }
        assert!((0..1_000_000).all(|row| !set.insert(&columns, row)));
        let each = set.bytes() as f64 / 1e6;
        assert!(each < 11.0, "{each} bytes a key");
    }

    #[test]
    fn keys_in_their_order_find_the_room_that_was_made_for_them() {
        let mut keys: Vec<u64> = (0..200_000_u64).map(crate::key::mix64).collect();
        keys.sort_unstable();
        let mut set = KeySet::new(true);
        let mut counts = vec![0; KEY_GROUPS];
        for key in &keys {
            counts[key_group(*key)] += 1;
        }
        for (group, count) in counts.iter().enumerate() {
            set.reserve(group, *count);
        }
        let room = set.bytes();
        set.extend(&KeyRun::Narrow(keys.clone()));
        assert_eq!(set.len(), 200_000);
        // A few slots behind the last home may be needed.
        assert!(set.bytes() < room + room / 100, "{} {room}", set.bytes());
        let found = (0..KEY_GROUPS).flat_map(|group| set.group(group));
        assert!(found.eq(keys.iter().map(|key| u128::from(*key) << 64)));
    }
}
