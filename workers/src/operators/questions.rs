//! What must be known of the reference before an epoch is joined, where no worker has all of it.
//!
//! It is apart from `joiner`, which joins with the answers.
//!
//! # Invariants
//! * Every join key of a row that an epoch makes or takes back is asked for, or its reference row
//!   changes in that epoch, which all workers are told. Some that are asked for are not needed.

use std::collections::{HashSet, VecDeque};

use crate::batch::Batch;
use crate::operators::join::{Join, Keep};
use crate::state::{MixedKeys, RecentRows};

/// Join keys, each once.
pub(crate) type JoinKeys = HashSet<u128, MixedKeys>;

/// Finds out what to ask.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    /// Rows of epochs that wait for answers, if a later one may take them back. They are not in
    /// the window yet.
    waiting: VecDeque<(u64, Vec<Batch>)>,
}

impl Questions {
    /// The join keys of new events, of duplicates that may be better than what they repeat, and of
    /// what those would replace.
    pub(crate) fn of(
        &mut self,
        join: &Join,
        (epoch, events, duplicates): (u64, Vec<Batch>, Vec<Batch>),
        recent: Option<&RecentRows>,
    ) -> JoinKeys {
        let mut keys = JoinKeys::default();
        for batch in &events {
            add_join_keys(join, batch, &mut keys);
        }
        if join.keep == Keep::First {
            return keys;
        }
        let mut again: HashSet<u128, MixedKeys> = HashSet::default();
        for batch in &duplicates {
            add_join_keys(join, batch, &mut keys);
            again.extend((0..batch.len()).map(|row| batch.keys().get(row)));
        }
        // Results that are held need no reference to be taken back.
        let (Some(recent), false) = (recent, join.holds_results()) else {
            return keys;
        };
        let mut scratch = Vec::new();
        let columns = &join.event_columns;
        if !again.is_empty() {
            for batch in self.waiting.iter().flat_map(|(_, batches)| batches) {
                let rows = (0..batch.len()).filter(|row| again.contains(&batch.keys().get(*row)));
                keys.extend(rows.filter_map(|row| batch.key_of(columns, row, &mut scratch)));
            }
        }
        let held = again.into_iter().filter_map(|key| recent.find(key));
        let mut reader = recent.reader();
        keys.extend(held.filter_map(|place| {
            let (batch, row) = reader.row(place);
            batch.key_of(columns, row, &mut scratch)
        }));
        self.waiting
            .push_back((epoch, [events, duplicates].concat()));
        keys
    }

    /// Forgets the rows of an epoch that is being joined.
    pub(crate) fn are_answered(&mut self, epoch: u64) {
        while self.waiting.pop_front_if(|(of, _)| *of <= epoch).is_some() {}
    }
}

/// Adds the join keys of some events; nulls equal nothing.
fn add_join_keys(join: &Join, events: &Batch, keys: &mut JoinKeys) {
    let mut scratch = Vec::new();
    let of_row = |row| events.key_of(&join.event_columns, row, &mut scratch);
    keys.extend((0..events.len()).filter_map(of_row));
}
