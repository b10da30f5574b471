//! What is wrong with an output: counted all, and the first of each kind kept.
//!
//! It is apart from `table`, which finds, because what is found in several passes is put together
//! here, and must be the same as that of one pass.
//!
//! # Invariants
//! * What is kept does not depend on the order in which it was found: of each kind, those with the
//!   least places.

use std::collections::BTreeSet;

use deltajoin_workers::batch::Origin;
use serde::Serialize;

/// In what way a row of the output is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An event has no row, and should have one.
    Missing,
    /// A key has its row, and is given one again.
    Doubled,
    /// A row is there whose values are not the right ones, or cannot be read.
    Wrong,
    /// A row is there, and no event has its key, or none that should have a row.
    Unexpected,
}

impl Kind {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Missing, Self::Doubled, Self::Wrong, Self::Unexpected];

    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Doubled => "doubled",
            Self::Wrong => "wrong",
            Self::Unexpected => "unexpected",
        }
    }
}

/// One row that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    /// Where the row is; for one that is missing, where its event is.
    pub(super) place: Origin,
    /// The event of the key, if there is one.
    pub(super) event: Option<Origin>,
    /// For a doubled row the one before it; for a missing one what removed it.
    pub(super) before: Option<Origin>,
    /// What else is known.
    pub(super) why: Why,
    /// The epoch at which the key should have another row, or none; 0 if epochs are not known.
    pub(super) epoch: u64,
}

/// What is known of a finding beside its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Nothing.
    Plain,
    /// One of several rows would be right.
    Undecided,
    /// What is missing removes a row.
    Removal,
    /// A later record of its key stands before it.
    Order,
    /// It is the last of its key, and should not be.
    Stale,
}

/// What was found in one output.
#[derive(Debug)]
pub(super) struct Found {
    counts: [u64; Kind::ALL.len()],
    first: [BTreeSet<Finding>; Kind::ALL.len()],
    first_max: usize,
    allow_repeats: bool,
    /// Rows that repeat their key's row, where that is allowed.
    pub(super) repeats: u64,
}

impl Found {
    /// Nothing yet; keeps up to `first_max` findings of each kind.
    pub(super) fn new(first_max: usize, allow_repeats: bool) -> Self {
        Self {
            counts: [0; Kind::ALL.len()],
            first: Default::default(),
            first_max,
            allow_repeats,
            repeats: 0,
        }
    }

    pub(super) fn push(&mut self, kind: Kind, finding: Finding) {
        self.counts[kind as usize] += 1;
        let first = &mut self.first[kind as usize];
        first.insert(finding);
        if first.len() > self.first_max {
            first.pop_last();
        }
    }

    /// A row of a key that has its row; whether it repeats that exactly. Returns whether that is
    /// allowed.
    pub(super) fn push_again(&mut self, exactly: bool, finding: Finding) -> bool {
        let allowed = exactly && self.allow_repeats;
        if allowed {
            self.repeats += 1;
        } else {
            self.push(Kind::Doubled, finding);
        }
        allowed
    }

    /// Whether records may be written again.
    pub(super) fn allows_repeats(&self) -> bool {
        self.allow_repeats
    }

    /// How many there are of a kind.
    pub(super) fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize]
    }

    /// The first of a kind.
    pub(super) fn first(&self, kind: Kind) -> impl Iterator<Item = &Finding> {
        self.first[kind as usize].iter()
    }
}
