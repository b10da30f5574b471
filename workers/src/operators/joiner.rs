//! What `join` does with one epoch.
//!
//! It is apart from `join`, which deals in capabilities, because here is what a result is.
//!
//! # Invariants
//! * The collection of all results so far is what the definition says of the epoch: nothing is
//!   retracted that was not given out, and nothing is given out twice.
//! * Rows of an epoch that revises are in the order (key group, partition, offset, diff). A
//!   retraction stands right before the row that takes its place, and in one batch with it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::batch::{Batch, Gather, RowIndex};
use crate::checkpoint::{Kept, Told};
use crate::clock::Clocks;
use crate::operators::distinct::SharedAdmitted;
use crate::operators::join::{Join, Keep, Unmatched};
use crate::operators::questions::{JoinKeys, Questions};
use crate::operators::rivals::{Before, Rival, Rivals};
use crate::operators::{Letters, Output, SharedCounts};
use crate::ports::reason;
use crate::state::{Place, RecentRows, ReferenceTable};

/// What has come of an epoch.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Events of new keys.
    pub(crate) events: Vec<Batch>,
    /// Events of keys that were seen before them.
    pub(crate) duplicates: Vec<Batch>,
    /// Changes of the reference table; partitioned, those that rows of the window may be joined
    /// with, each with the row before it, which has diff -1.
    pub(crate) changes: Vec<Batch>,
    /// Partitioned: the rows that were asked for, as they are with the changes.
    pub(crate) answers: Vec<Batch>,
}

/// What is made of it.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) rows: Vec<Batch>,
    pub(crate) dead_letters: Vec<Batch>,
}

/// The state of `join` on one worker.
pub(crate) struct Joiner {
    join: Join,
    letters: Letters,
    /// The reference; partitioned, of an epoch that is being joined, and of that what it needs.
    table: ReferenceTable,
    questions: Questions,
    recent: Option<RecentRows>,
    /// The epoch of the checkpoint; 0 without one. The reference table comes in it as a whole, and
    /// revises nothing.
    restored: u64,
    rivals: Rivals,
    admitted: Option<SharedAdmitted>,
    clocks: Clocks,
    counts: SharedCounts,
    /// Whether this worker tells the size of the table.
    first: bool,
}

impl Joiner {
    pub(crate) fn new(
        join: Join,
        letters: Letters,
        ((restored, recent), told): ((u64, RecentRows), Told),
        admitted: Option<SharedAdmitted>,
        (clocks, counts, first): (Clocks, SharedCounts, bool),
    ) -> Self {
        if let (Some(admitted), false) = (&admitted, told.is_empty()) {
            admitted.borrow_mut().tell(restored, told.clone());
        }
        Self {
            table: ReferenceTable::new(&join.reference),
            recent: join.holds_recent().then_some(recent),
            restored,
            rivals: Rivals::new(restored, told),
            questions: Questions::default(),
            join,
            letters,
            admitted,
            clocks,
            counts,
            first,
        }
    }

    /// The join keys that must be asked for before an epoch can be joined.
    pub(crate) fn questions(
        &mut self,
        epoch: u64,
        events: Vec<Batch>,
        duplicates: Vec<Batch>,
    ) -> JoinKeys {
        let new = (epoch, events, duplicates);
        self.questions.of(&self.join, new, self.recent.as_ref())
    }

    /// Makes the results of an epoch, which comes after all that were made.
    pub(crate) fn epoch(&mut self, epoch: u64, mut work: Work) -> Done {
        if self.join.is_partitioned() {
            self.questions.are_answered(epoch);
            self.table.apply(std::mem::take(&mut work.answers));
            self.table.undo(&work.changes);
        }
        let mut done = Done::default();
        match self.recent.take() {
            Some(mut recent) => {
                self.revise(&mut recent, epoch, work, &mut done);
                self.recent = Some(recent);
            }
            None => {
                self.table.apply(work.changes);
                for events in work.events.into_iter().flat_map(|batch| self.parts(batch)) {
                    let rows = self.join_new(&events, &mut done);
                    done.rows.push(given(rows));
                }
            }
        }
        done.rows.retain(|rows| !rows.is_empty());
        let mut counts = self.counts.borrow_mut();
        if let Some(recent) = &self.recent {
            (counts.recent_rows, counts.recent_bytes) = (recent.len(), recent.bytes());
            counts.cold_rows = recent.cold_len();
        }
        counts.rows_out += done.rows.iter().map(|rows| rows.len() as u64).sum::<u64>();
        let letters = done.dead_letters.iter().map(|letters| letters.len() as u64);
        counts.dead_letters += letters.sum::<u64>();
        if self.join.is_partitioned() {
            self.table.clear();
        } else if self.first {
            counts.reference_rows = self.table.len() as u64;
        }
        drop(counts);
        done
    }

    /// An epoch of a job that holds recent rows.
    fn revise(&mut self, recent: &mut RecentRows, epoch: u64, work: Work, done: &mut Done) {
        let oldest_ms = self.oldest_ms(epoch);
        recent.forget_until(oldest_ms);
        if let Some(admitted) = &self.admitted {
            admitted.borrow_mut().forget_until(epoch, oldest_ms);
        }
        let (events, duplicates) = (gathered(work.events), gathered(work.duplicates));
        let simple = duplicates.batches().is_empty() && work.changes.is_empty();

        // STEP 1. Which events take the place of others, and which results a change touches.
        let found = self.rivals.compare(
            (&self.join, &self.letters, &self.counts),
            (&events, &duplicates),
            recent,
            (epoch, oldest_ms),
        );
        done.dead_letters.extend(found.letters);
        if let (Some(admitted), false) = (&self.admitted, found.told.is_empty()) {
            admitted.borrow_mut().tell(epoch, found.told);
        }
        let replaced = |place: &Place| found.replaced.contains(&Before::Held(*place));
        let mut touched = Vec::new();
        if self.join.revise && epoch > self.restored && !work.changes.is_empty() {
            let changed = self.table.differing(&work.changes);
            touched = recent.joined_on(&changed, oldest_ms);
            touched.retain(|place| !replaced(place));
        }

        // STEP 2. Results as they were are taken back.
        let mut output = Output::default();
        for rows in recent.rows(&touched).flat_map(|rows| self.parts(rows)) {
            output.push(self.given_before(rows).with_diff(-1));
        }
        self.take_back(recent, &found.rivals, &duplicates, &mut output);
        self.counts.borrow_mut().retracted += output.len() as u64;

        // STEP 3. With the table of this epoch, they are made again, and the new ones are.
        self.table.apply(work.changes);
        for rows in recent.rows(&touched).flat_map(|rows| self.parts(rows)) {
            let rows = self.join_again(&rows, done);
            output.push(rows);
        }
        for (index, batch) in events.batches().iter().enumerate() {
            let stays = |row: &RowIndex| !found.replaced.contains(&Before::New(*row));
            let rows = (0..batch.len()).map(|row| (index, row));
            let batch = match found.replaced.is_empty() {
                true => batch.clone(),
                false => events.rows(&rows.filter(stays).collect::<Vec<RowIndex>>()),
            };
            for events in self.parts(batch) {
                let rows = self.hold(recent, (events, false), epoch, done);
                match simple {
                    true => done.rows.push(rows),
                    false => output.push(rows),
                }
            }
        }
        let is_held = |rival: &&Rival| matches!(rival.before, Before::Held(_));
        let (held, new): (Vec<&Rival>, Vec<_>) = found.rivals.iter().partition(is_held);
        for (rivals, replace) in [(held, true), (new, false)] {
            let rows: Vec<RowIndex> = rivals.iter().map(|rival| rival.row).collect();
            let batches = duplicates.batches_of(&rows);
            for events in batches.flat_map(|batch| self.parts(batch)) {
                let rows = self.hold(recent, (events, replace), epoch, done);
                output.push(rows);
            }
        }
        done.rows.extend(output.finish());
    }

    /// The time at which or before which a row is out of the window.
    fn oldest_ms(&self, epoch: u64) -> i64 {
        let now_ms = match self.join.time {
            Some(_) => self.clocks.at(epoch),
            None => Some(epoch.cast_signed()),
        };
        let window_ms = i64::try_from(self.join.window_ms).ok();
        let oldest_ms = now_ms.zip(window_ms);
        oldest_ms.map_or(i64::MIN, |(now_ms, window_ms)| {
            now_ms.saturating_sub(window_ms)
        })
    }

    /// Until when rows are wanted: that one has replaced a later one is wanted longer than itself.
    fn latest_ms(&self, kept: &Kept) -> i64 {
        match self.join.time {
            Some(_) if kept.replaces && self.join.keep == Keep::Earliest => i64::MAX,
            Some(time) => {
                let times = (0..kept.rows.len()).map(|row| time.of(&kept.rows, row));
                times.max().unwrap_or(i64::MIN)
            }
            None => kept.epoch.cast_signed(),
        }
    }

    /// Takes back what rivals take the place of, and forgets it.
    fn take_back(
        &self,
        recent: &mut RecentRows,
        rivals: &[Rival],
        duplicates: &Gather,
        output: &mut Output,
    ) {
        let held = rivals.iter().filter_map(|rival| match rival.before {
            Before::Held(place) => Some((place, rival.row)),
            Before::New(_) => None,
        });
        let (places, rows): (Vec<Place>, Vec<RowIndex>) = held.unzip();
        let mut rows = rows.into_iter();
        for before in recent.rows(&places).flat_map(|rows| self.parts(rows)) {
            let by_origin: HashMap<_, _> = (0..before.len())
                .map(|row| (before.keys().get(row), before.origin(row)))
                .zip(&mut rows)
                .collect();
            let given = self.given_before(before).with_diff(-1);
            // It stands where its successor does.
            let successor = |row: usize| {
                let (batch, at) = by_origin[&(given.keys().get(row), given.origin(row))];
                duplicates.batches()[batch].origin(at)
            };
            let origins = (0..given.len()).map(successor).collect();
            output.push_at(given, origins);
        }
        places.into_iter().for_each(|place| recent.remove(place));
    }

    /// What was given out of rows that are held, with the table as it is.
    fn given_before(&self, held: Batch) -> Batch {
        if held.is_empty() || self.join.holds_results() {
            return given(held);
        }
        let found = self.find(&held);
        given(self.joined(&held, &found))
    }

    /// Joins events that were joined before.
    fn join_again(&self, events: &Batch, done: &mut Done) -> Batch {
        let found = self.find(events);
        self.tell_unmatched(events, &found, done);
        given(self.joined(events, &found))
    }

    /// Joins new events, and holds them for as long as they are in the window. Returns what is
    /// given out.
    fn hold(
        &self,
        recent: &mut RecentRows,
        (events, replaces): (Batch, bool),
        epoch: u64,
        done: &mut Done,
    ) -> Batch {
        if events.is_empty() {
            return events;
        }
        let rows = self.join_new(&events, done);
        let held = match self.join.holds_results() {
            true => rows.clone(),
            false => events,
        };
        if let Some(admitted) = &self.admitted {
            let rows = held.clone();
            let kept = Kept {
                epoch,
                rows,
                replaces,
            };
            admitted.borrow_mut().hold(self.latest_ms(&kept), kept);
        }
        recent.push(held, epoch);
        given(rows)
    }

    /// Joins new events: a row for each, with diff 0 if it is not given out.
    fn join_new(&self, events: &Batch, done: &mut Done) -> Batch {
        let found = self.find(events);
        let unmatched = found.iter().filter(|row| row.is_none()).count();
        self.counts.borrow_mut().unmatched += unmatched as u64;
        self.tell_unmatched(events, &found, done);
        self.joined(events, &found)
    }

    fn find(&self, events: &Batch) -> Vec<Option<RowIndex>> {
        let mut scratch = Vec::new();
        let columns = &self.join.event_columns;
        let find = |row| self.table.get(events.key_of(columns, row, &mut scratch)?);
        (0..events.len()).map(find).collect()
    }

    /// Rows in parts that can be joined: the reference rows of each are together not too large.
    fn parts(&self, rows: Batch) -> impl Iterator<Item = Batch> + use<> {
        let (count, rows_max) = (rows.len(), self.table.columns_max());
        let starts = (0..count).step_by(rows_max);
        starts.map(move |start| rows.slice(start, rows_max.min(count - start)))
    }

    /// Events with the columns of their reference rows, and diff 0 if they are not given out.
    fn joined(&self, events: &Batch, found: &[Option<RowIndex>]) -> Batch {
        let columns = self.table.columns(found);
        let rows = events
            .clone()
            .extended(Arc::clone(&self.join.joined), columns);
        let all = self.join.unmatched == Unmatched::Keep || found.iter().all(Option::is_some);
        match all {
            true => rows,
            false => rows.with_diffs(found.iter().map(|row| i8::from(row.is_some()))),
        }
    }

    /// Dead letters for events without a reference row, if that is what becomes of them.
    fn tell_unmatched(&self, events: &Batch, found: &[Option<RowIndex>], done: &mut Done) {
        if self.join.unmatched == Unmatched::DeadLetter {
            let letters = unmatched_letters(&self.join, &self.letters, events, found);
            done.dead_letters.extend(letters);
        }
    }
}

fn gathered(batches: Vec<Batch>) -> Gather {
    let mut gather = Gather::default();
    for batch in batches {
        gather.push(batch);
    }
    gather
}

/// The rows that are given out.
fn given(rows: Batch) -> Batch {
    if rows.diffs().iter().all(|diff| *diff != 0) {
        return rows;
    }
    let kept = (0..rows.len()).filter(|row| rows.diffs()[*row] != 0);
    let kept: Vec<RowIndex> = kept.map(|row| (0, row)).collect();
    gathered(vec![rows]).rows(&kept)
}

/// A dead letter for each event of the batch that has no reference row.
pub(crate) fn unmatched_letters(
    join: &Join,
    letters: &Letters,
    events: &Batch,
    found: &[Option<RowIndex>],
) -> Option<Batch> {
    let columns = join.event_columns.iter();
    let names = columns.map(|column| &events.schema().schema.columns[*column].name);
    let names: Vec<_> = names.map(|name| format!("\"{name}\"")).collect();
    let error = format!("no reference row for the event's {}", names.join(", "));
    let rows = (0..events.len()).filter(|row| found[*row].is_none());
    let letters = letters.of(
        events,
        rows.map(|row| (row, reason::UNMATCHED, error.clone())),
    );
    (!letters.is_empty()).then_some(letters)
}
