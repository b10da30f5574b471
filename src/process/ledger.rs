//! What is bound up to an epoch: where each partition ends, and the reference table.
//!
//! It is told what goes into the binding log, so that a checkpoint can tell both without reading
//! the log back.
//!
//! # Invariants
//! * Epochs are folded in order; what is folded is held once, and what is not is not much, however
//!   long no checkpoint can be made.
//! * A binding is noted before its epoch can be written, so nothing that has rows goes unnoted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deltajoin_workers::batch::Batch;
use deltajoin_workers::bindings::{Binding, BindingLog, advance};
use deltajoin_workers::queue::Waker;

use crate::bindings::Appender;
use crate::process::changes::Table;

/// What is bound; its clones are the same ledger.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    ends: BTreeMap<i32, i64>,
    reference: Table,
    /// Whether the table has changed since it was told.
    changed: bool,
    /// Bindings that are not folded in; those that no checkpoint can come between are one.
    later: VecDeque<Binding>,
    /// The epoch of the checkpoint that was asked for last.
    asked: u64,
    /// Whether one is asked for whose epoch is not known yet.
    asking: bool,
}

/// What was bound up to an epoch.
pub(super) struct Bound {
    /// The end of each partition.
    pub(super) ends: BTreeMap<i32, i64>,
    /// The rows of the reference table; none if they are those that were told before.
    pub(super) reference: Option<Vec<Batch>>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the next binding.
    pub(super) fn push(&self, binding: Binding) {
        let state = &mut *self.lock();
        let (asked, is_free) = (state.asked, !state.asking && binding.reference.is_empty());
        let merges =
            |last: &&mut Binding| is_free && last.epoch > asked && last.reference.is_empty();
        match state.later.back_mut().filter(merges) {
            Some(last) => {
                last.epoch = binding.epoch;
                for (partition, end) in binding.ends {
                    advance(&mut last.ends, partition, end);
                }
            }
            None => state.later.push_back(binding),
        }
    }

    /// Tells that a checkpoint is asked for, of an epoch that is still to come.
    pub(super) fn ask(&self) {
        self.lock().asking = true;
    }

    /// Tells the epoch of the checkpoint that was asked for.
    pub(super) fn asked(&self, epoch: u64) {
        let state = &mut *self.lock();
        (state.asked, state.asking) = (state.asked.max(epoch), false);
    }

    /// Whether something is bound that is not folded in.
    pub(super) fn has_more(&self) -> bool {
        !self.lock().later.is_empty()
    }

    /// What was bound up to an epoch, which must not be before the one that was asked for last.
    pub(super) fn fold(&self, epoch: u64) -> Bound {
        let state = &mut *self.lock();
        while let Some(binding) = state.later.pop_front_if(|binding| binding.epoch <= epoch) {
            state.ends.extend(binding.ends);
            state.changed |= !binding.reference.is_empty();
            state.reference.apply_epoch(binding.reference);
        }
        let reference = std::mem::take(&mut state.changed).then(|| {
            let rows = state.reference.rows();
            // Rows that were replaced are let go.
            state.reference = Table::default();
            for batch in &rows {
                state.reference.apply(batch.clone());
            }
            rows
        });
        Bound {
            ends: state.ends.clone(),
            reference,
        }
    }
}

/// The last epoch of which anything is bound, for good.
pub(super) type NewestBound = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A log that notes what it is given.
pub(super) struct Noting {
    pub(super) log: Appender,
    pub(super) ledger: Ledger,
}

impl BindingLog for Noting {
    fn append(&mut self, binding: Binding) {
        self.ledger.push(binding.clone());
        self.log.append(binding);
    }

    fn durable(&self) -> u64 {
        self.log.durable()
    }

    fn wake_by(&mut self, waker: Waker) {
        self.log.wake_by(waker);
    }
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::batch::{BatchBuilder, Origin, Slot};
    use deltajoin_workers::schema::{Column, ColumnType, Schema};

    use super::*;
    use crate::codec::reference_schema;

    fn change(id: i64, name: Option<&str>) -> Batch {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String),
        ];
        let mut builder = BatchBuilder::new(reference_schema(&Schema::new(columns, vec![0])));
        let slot = name.map_or(Slot::Null, |name| Slot::String(name.into()));
        let diff = if name.is_some() { 1 } else { -1 };
        builder.push(&[Slot::Int64(id), slot], Origin::default(), diff);
        builder.finish()
    }

    fn names(rows: &[Batch]) -> Vec<String> {
        let rows = rows
            .iter()
            .flat_map(|batch| (0..batch.len()).map(move |row| (batch, row)));
        let mut names: Vec<_> = rows
            .map(|(batch, row)| format!("{:?} {:?}", batch.slot(0, row), batch.slot(1, row)))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn it_tells_what_was_bound_up_to_each_epoch() {
        let ledger = Ledger::default();
        let binding = |epoch, ends: &[(i32, i64)], reference| Binding {
            epoch,
            ends: ends.to_vec(),
            reference,
            ..Binding::default()
        };
        let both = vec![change(1, Some("a")), change(2, Some("b"))];
        ledger.push(binding(1, &[(0, 5), (1, 7)], both));
        ledger.push(binding(4, &[(1, 9)], vec![change(1, Some("c"))]));
        ledger.push(binding(9, &[(0, 6), (2, 1)], vec![change(2, None)]));
        let bound = ledger.fold(3);
        assert_eq!(bound.ends, BTreeMap::from([(0, 5), (1, 7)]));
        let name = |id: i64, name: &str| format!("Int64({id}) String({name:?})");
        let rows = bound.reference.unwrap();
        assert_eq!(names(&rows), [name(1, "a"), name(2, "b")]);
        assert!(ledger.fold(3).reference.is_none(), "it has not changed");
        let bound = ledger.fold(4);
        assert_eq!(bound.ends, BTreeMap::from([(0, 5), (1, 9)]));
        let rows = bound.reference.unwrap();
        assert_eq!(names(&rows), [name(1, "c"), name(2, "b")]);
        assert!(ledger.has_more());
        let bound = ledger.fold(20);
        assert_eq!(bound.ends, BTreeMap::from([(0, 6), (1, 9), (2, 1)]));
        assert_eq!(names(&bound.reference.unwrap()), [name(1, "c")]);
        assert!(!ledger.has_more());
    }

    #[test]
    fn what_no_checkpoint_can_come_between_is_held_as_one() {
        let ledger = Ledger::default();
        let push = |epoch, ends: &[(i32, i64)]| {
            ledger.push(Binding {
                epoch,
                ends: ends.to_vec(),
                ..Binding::default()
            });
        };
        let held = || ledger.lock().later.len();
        push(1, &[(0, 5)]);
        push(2, &[(1, 7)]);
        push(3, &[(0, 6)]);
        assert_eq!(held(), 1);
        ledger.ask();
        push(4, &[(0, 8)]);
        push(5, &[(1, 9)]);
        assert_eq!(held(), 3);
        ledger.asked(4);
        push(6, &[(0, 9)]);
        push(7, &[(0, 10), (2, 1)]);
        assert_eq!(held(), 3);
        assert_eq!(ledger.fold(4).ends, BTreeMap::from([(0, 8), (1, 7)]));
        let all = BTreeMap::from([(0, 10), (1, 9), (2, 1)]);
        assert_eq!(ledger.fold(7).ends, all);
        assert!(!ledger.has_more());
    }
}
