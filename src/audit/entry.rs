//! One key of the table: its event and its row, and what the output holds of it.
//!
//! It is apart from `table`, which has many of them, because here is what is judged of one.
//!
//! # Invariants
//! * It takes 80 bytes beside its key: most keys have one row and nothing else.

use deltajoin_workers::batch::Origin;

use crate::audit::canonical::NO_ROW;
use crate::audit::epochs::Judged;
use crate::audit::finding::{Finding, Kind, Why};
use crate::audit::steps::{Revised, Standing, Step, Steps};

/// The partition of an entry that no event has made.
const NO_EVENT: i32 = -1;

/// An event, with the row that it has at its epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) key: u128,
    /// `NO_ROW` for none.
    pub(super) row: u128,
    pub(super) origin: Origin,
    /// 0 if epochs are not known.
    pub(super) epoch: u64,
    /// In what time its key is remembered.
    pub(super) mark: i32,
    /// Whether its row was not revised before what is judged.
    pub(super) steady: bool,
}

/// What is known of a key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The row of its first event.
    pub(super) right: u128,
    /// The row that the output holds, if it holds one.
    pub(super) row: u128,
    pub(super) event: Origin,
    pub(super) row_place: Origin,
    /// That of its first event; 0 if epochs are not known.
    pub(super) epoch: u64,
    /// That of its first event; without epochs, the partition of the last of its events.
    pub(super) mark: i32,
    pub(super) standing: Standing,
    /// Whether `others` has rows of it.
    pub(super) undecided: bool,
    /// Whether `steps` has steps of it.
    pub(super) stepped: bool,
    pub(super) again: Again,
}

/// Whether an event of an epoch that is judged has a key too, after an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    No,
    Yes,
    /// That does not matter: it may have had several rows before.
    Untold,
}

/// What is judged of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Its row.
    Row,
    /// Whether it has more rows than one: it was there before what is judged.
    Repeats,
    /// Nothing.
    Nothing,
}

/// A row that is right for a key too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Other {
    pub(super) key: u128,
    pub(super) row: u128,
}

/// The verdict on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Not(Kind),
}

impl Entry {
    pub(super) fn new(event: Event, mark: i32) -> Self {
        Self {
            right: event.row,
            row: NO_ROW,
            event: event.origin,
            row_place: Origin::default(),
            epoch: event.epoch,
            mark,
            standing: Standing::Nothing,
            undecided: false,
            stepped: false,
            again: match event.steady {
                true => Again::No,
                false => Again::Untold,
            },
        }
    }

    /// Of a key that no event has.
    pub(super) fn unknown() -> Self {
        let nowhere = Origin {
            partition: NO_EVENT,
            offset: 0,
        };
        let event = Event {
            key: 0,
            row: NO_ROW,
            origin: nowhere,
            epoch: 0,
            mark: 0,
            steady: true,
        };
        Self::new(event, NO_EVENT)
    }

    /// Another event of the key. Whether it may count: the first by epoch, partition and offset
    /// does, of each time in which the key is remembered.
    pub(super) fn meet(&mut self, event: Event, judged: Judged) -> bool {
        if self.mark != event.mark {
            return true;
        }
        let (first, later) = (self.epoch.min(event.epoch), self.epoch.max(event.epoch));
        if !event.steady {
            self.again = Again::Untold;
        } else if first < judged.from && judged.contains(later) && self.again == Again::No {
            self.again = Again::Yes;
        }
        event.epoch < self.epoch
    }

    /// What it has as a step.
    pub(super) fn first(&self, key: u128) -> Step {
        let row = Revised {
            epoch: self.epoch,
            before: NO_ROW,
            row: self.right,
        };
        Step::new(key, self.event, self.mark, true, row)
    }

    pub(super) fn steps<'a>(&'a mut self, own: &'a mut [Step], judged: Judged) -> Steps<'a> {
        Steps {
            own,
            standing: &mut self.standing,
            place: &mut self.row_place,
            judged,
        }
    }

    /// Whether an event has made it.
    pub(super) fn has_event(&self) -> bool {
        self.event.partition != NO_EVENT
    }

    /// What is judged of it.
    pub(super) fn extent(&self, judged: Option<Judged>) -> Extent {
        match judged {
            // A row that no event has made is of no epoch.
            Some(_) if !self.has_event() => Extent::Row,
            Some(judged) if self.epoch < judged.from && self.again == Again::Yes => Extent::Repeats,
            Some(judged) if !judged.contains(self.epoch) => Extent::Nothing,
            _ => Extent::Row,
        }
    }

    pub(super) fn allows(&self, key: u128, row: u128, others: &[Other]) -> bool {
        self.right == row || self.undecided && others.binary_search(&Other { key, row }).is_ok()
    }

    pub(super) fn judge(&self, key: u128, row: u128, others: &[Other]) -> Verdict {
        if self.allows(key, row, others) {
            Verdict::Right
        } else if self.right == NO_ROW && !self.undecided {
            Verdict::Not(Kind::Unexpected)
        } else {
            Verdict::Not(Kind::Wrong)
        }
    }

    pub(super) fn finding(&self, place: Origin, before: Option<Origin>) -> Finding {
        Finding {
            place,
            event: self.has_event().then_some(self.event),
            before,
            why: match self.undecided {
                true => Why::Undecided,
                false => Why::Plain,
            },
            epoch: self.epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_80_bytes() {
        assert_eq!(size_of::<Entry>(), 80);
    }
}
