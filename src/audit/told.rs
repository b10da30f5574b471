//! What a record of the output says of its key, as hashes.
//!
//! It is apart from `output`, which reads records, and from the judging, since both stand on it.
//!
//! # Invariants
//! * A record that is not exactly what a job writes is of no step.

use crate::audit::canonical::NO_ROW;
use crate::audit::steps::Step;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The key has this row from now on; or bytes that are no row.
    Row(u128),
    /// It has none any more.
    Tombstone,
    /// It has another row; `NO_ROW` for none.
    Change {
        before: u128,
        after: u128,
        /// Whether operation and diff are those of such a change.
        agrees: bool,
        epoch: u64,
    },
}

impl Told {
    /// Whether this is the record of a step.
    pub(super) fn is(self, step: &Step) -> bool {
        match self {
            Self::Row(row) => row == step.row,
            Self::Tombstone => step.row == NO_ROW,
            Self::Change {
                before,
                after,
                agrees,
                epoch,
            } => {
                let rows = (before, after) == (step.before, step.row);
                agrees && rows && epoch == step.epoch
            }
        }
    }

    /// For a key that has one row: which it is told to have. None for none.
    ///
    /// It is the first that the key has, if `first` gives its epoch; without, nothing is known of
    /// what came before.
    pub(super) fn row(self, first: Option<u64>) -> Option<u128> {
        match self {
            Self::Row(row) => Some(row),
            Self::Tombstone => None,
            Self::Change {
                before,
                after,
                agrees,
                epoch,
            } => {
                let is_first = before == NO_ROW && after != NO_ROW;
                let right = first.is_none_or(|first| first == epoch && is_first);
                if agrees && right {
                    (after != NO_ROW).then_some(after)
                } else {
                    // No row has this hash but by chance.
                    Some((!(before.rotate_left(64) ^ after ^ u128::from(epoch))).max(NO_ROW + 1))
                }
            }
        }
    }
}
