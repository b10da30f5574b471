//! Values in one form, and their hashes: what an audit keeps of keys and rows.
//!
//! It is apart from the core's keys on purpose: an audit that found its keys as the job does would
//! share the job's mistakes.
//!
//! # Invariants
//! * Two lists of values have the same form if and only if they are equal; in keys `-0.0` is `0.0`.
//! * Hashes have 128 bits: with a billion of them, the chance that any two which should differ do
//!   not is about 2e-21.

use deltajoin_workers::batch::Slot;
use xxhash_rust::xxh3::xxh3_128;

/// What stands for a row where there must be none: no row's hash.
pub(super) const NO_ROW: u128 = 0;

/// Brings values into their form; keeps the memory for it.
#[derive(Debug, Default)]
pub(super) struct Canonical(Vec<u8>);

impl Canonical {
    /// The hash of a key's values.
    pub(super) fn key<'a>(&mut self, slots: impl Iterator<Item = Slot<'a>>) -> u128 {
        self.hash(slots.map(|slot| match slot {
            // The sum is 0.0 for both zeros.
            Slot::Float64(value) => Slot::Float64(value + 0.0),
            slot => slot,
        }))
    }

    /// The hash of a row's values, which is never `NO_ROW`.
    pub(super) fn row<'a>(&mut self, slots: impl Iterator<Item = Slot<'a>>) -> u128 {
        self.hash(slots).max(NO_ROW + 1)
    }

    fn hash<'a>(&mut self, slots: impl Iterator<Item = Slot<'a>>) -> u128 {
        self.0.clear();
        for slot in slots {
            self.push(&slot);
        }
        xxh3_128(&self.0)
    }

    fn push(&mut self, slot: &Slot<'_>) {
        match slot {
            Slot::Null => self.tagged(b'n', &[]),
            Slot::Int64(value) => self.tagged(b'i', &value.to_be_bytes()),
            Slot::Float64(value) => self.tagged(b'f', &value.to_bits().to_be_bytes()),
            Slot::String(text) => self.tagged(b's', text.as_bytes()),
            Slot::Bool(value) => self.tagged(b'b', &[u8::from(*value)]),
            Slot::Timestamp(micros) => self.tagged(b't', &micros.to_be_bytes()),
            Slot::Decimal(unscaled) => self.tagged(b'd', &unscaled.to_be_bytes()),
            Slot::Bytes(bytes) => self.tagged(b'x', bytes),
        }
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.0.push(tag);
        self.0
            .extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }
}

/// The hash of an output row that cannot be right, by its bytes.
pub(super) fn hash_of_bytes(bytes: &[u8]) -> u128 {
    // Values never begin with this tag.
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(b"?");
    hasher.update(bytes);
    hasher.digest128().max(NO_ROW + 1)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn different_values_have_different_forms() {
        let text = |text: &'static str| Slot::String(Cow::Borrowed(text));
        let rows: [&[Slot<'_>]; 9] = [
            &[],
            &[Slot::Null],
            &[Slot::Null, Slot::Null],
            &[text("ab"), text("")],
            &[text("a"), text("b")],
            &[Slot::Int64(1)],
            &[Slot::Timestamp(1)],
            &[Slot::Float64(0.0)],
            &[Slot::Float64(-0.0)],
        ];
        let mut canonical = Canonical::default();
        let mut hash = |slots: &[Slot<'static>]| canonical.row(slots.iter().cloned());
        let hashes: BTreeSet<u128> = rows.iter().map(|slots| hash(slots)).collect();
        assert_eq!(hashes.len(), rows.len());
        let key = |value| Canonical::default().key([Slot::Float64(value)].into_iter());
        assert_eq!(key(0.0), key(-0.0));
    }
}
