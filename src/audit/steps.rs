//! Keys with several records: those whose rows are revised, and those that are forgotten and come
//! again. Which records they must have, in order, and what the output has of them.
//!
//! It is apart from `table`, where a key has one row, so that the many keys that are never revised
//! cost no more than before.
//!
//! # Invariants
//! * Once all events have come, the steps of a key stand together, in the order in which the output
//!   must have their records.
//! * A record that stands for a step is right; each of the others is told once.
//! * Steps of a key that was there before what is judged are looked for behind records of which
//!   nothing is known.

use std::ops::Range;

use deltajoin_workers::batch::Origin;

use crate::audit::canonical::NO_ROW;
use crate::audit::epochs::Judged;
use crate::audit::finding::{Finding, Found, Kind, Why};
use crate::audit::told::Told;
use crate::audit::window::Times;

/// The bytes of a step.
pub(super) const STEP_BYTES: usize = size_of::<Step>();

/// A change of the row of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Revised {
    pub(super) epoch: u64,
    pub(super) before: u128,
    pub(super) row: u128,
}

/// A record that a key must have; before all events have come, one that it may have.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) key: u128,
    /// The row before, and the one that takes its place; `NO_ROW` for none.
    pub(super) before: u128,
    pub(super) row: u128,
    pub(super) epoch: u64,
    pub(super) event: Origin,
    /// In what time its key is remembered.
    pub(super) mark: i32,
    /// Of the first step of a key: how many steps the output has told last.
    told: u32,
    /// Of the first step of a key: how many records stand in the place of a step.
    wrong: u32,
    /// Whether it is the event's first.
    pub(super) begins: bool,
    /// Whether the output has it.
    seen: bool,
    /// Whether the key was there before what is judged.
    open: bool,
    /// Whether the key is there again behind what is judged.
    goes_on: bool,
}

impl Step {
    pub(super) fn new(key: u128, event: Origin, mark: i32, begins: bool, row: Revised) -> Self {
        Self {
            key,
            before: row.before,
            row: row.row,
            epoch: row.epoch,
            event,
            mark,
            told: 0,
            wrong: 0,
            begins,
            seen: false,
            open: false,
            goes_on: false,
        }
    }
}

/// What a key turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Its first event, of those that are judged if there is one; with its epoch and row.
    pub(super) event: Origin,
    pub(super) epoch: u64,
    pub(super) row: u128,
    /// Whether it has steps.
    pub(super) stepped: bool,
}

/// Makes of the steps that keys may have those that they must have. Tells of each key what it is.
pub(super) fn resolve(
    steps: &mut Vec<Step>,
    judged: Judged,
    times: &Times,
    mut tell: impl FnMut(u128, Outcome),
) {
    by_key(steps, |own| {
        let (outcome, left) = resolve_key(own, judged, times);
        tell(own[0].key, outcome);
        left
    });
}

/// Drops what cannot count: of events that are remembered together the first does.
pub(super) fn thin(steps: &mut Vec<Step>) {
    by_key(steps, |own| {
        let events = firsts(own);
        keep(own, |step| {
            events.iter().any(|event| event.event == step.event)
        })
    });
}

/// Goes through the steps of each key, and keeps the first so many of them as it is told.
fn by_key(steps: &mut Vec<Step>, mut visit: impl FnMut(&mut [Step]) -> usize) {
    // Steps that begin come first, by mark, so the first of each mark is its event.
    steps.sort_unstable_by_key(|step| {
        let mark = if step.begins { step.mark } else { i32::MAX };
        (step.key, !step.begins, mark, step.epoch, step.event)
    });
    let (mut from, mut kept) = (0, 0);
    while from < steps.len() {
        let key = steps[from].key;
        let count = steps[from..].partition_point(|step| step.key == key);
        let left = visit(&mut steps[from..from + count]);
        for place in from..from + left {
            steps.swap(kept, place);
            kept += 1;
        }
        from += count;
    }
    steps.truncate(kept);
}

/// The first of each mark.
fn firsts(own: &[Step]) -> Vec<Step> {
    let begins = own.partition_point(|step| step.begins);
    let mut events = own[..begins].to_vec();
    events.dedup_by_key(|step| step.mark);
    events
}

/// Brings some steps to the front, and tells how many.
fn keep(own: &mut [Step], counts: impl Fn(&Step) -> bool) -> usize {
    let mut left = 0;
    for place in 0..own.len() {
        if counts(&own[place]) {
            own.swap(left, place);
            left += 1;
        }
    }
    left
}

/// The same of one key; its steps are then the first of these, as many as are returned.
fn resolve_key(own: &mut [Step], judged: Judged, times: &Times) -> (Outcome, usize) {
    // STEP 1. Of events that are remembered together the first counts.
    let mut events = firsts(own);
    // STEP 2. One that comes while its key is remembered is a duplicate.
    events.sort_unstable_by_key(|step| (step.epoch, step.event));
    let mut remembered: Option<u64> = None;
    if times.remembers_arrivals() {
        events.retain(|step| {
            let new = remembered.is_none_or(|first| times.is_forgotten(first, step.epoch));
            if new {
                remembered = Some(step.epoch);
            }
            new
        });
    }
    let first = events.iter().find(|step| judged.contains(step.epoch));
    let first = first.unwrap_or(&events[0]);
    let mut outcome = Outcome {
        event: first.event,
        epoch: first.epoch,
        row: first.row,
        stepped: true,
    };
    let open = events.iter().any(|step| step.epoch < judged.from);
    let goes_on = events.iter().any(|step| step.epoch > judged.to);
    // STEP 3. What is left of them, in the order of the output.
    let counts = |step: &Step| {
        let event = events.iter().find(|event| event.event == step.event);
        event.is_some_and(|event| {
            let is_row = step.row != NO_ROW && judged.contains(event.epoch);
            !step.begins || is_row
        })
    };
    let left = keep(own, counts);
    let kept = &mut own[..left];
    kept.sort_unstable_by_key(|step| (step.epoch, step.event));
    if let [only] = kept
        && only.begins
        && !open
        && !goes_on
    {
        (outcome.event, outcome.epoch) = (only.event, only.epoch);
        (outcome.row, outcome.stepped) = (only.row, false);
        return (outcome, 0);
    }
    for step in &mut *kept {
        (step.open, step.goes_on) = (open, goes_on);
    }
    outcome.stepped = left > 0;
    (outcome, left)
}

/// Where a key's records stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is none.
    Nothing,
    /// It is that of a step, or none that is judged.
    Step,
    /// It is that of a step, and not in its place, which is told.
    Misplaced,
    /// It is that of the step before again, or of the one behind the next, which is missing then:
    /// the record behind it tells.
    Doubtful,
    /// It is of no step.
    Wrong,
    /// It is a tombstone that is of no step.
    Removed,
}

/// The steps of a key, with what stands in the output.
pub(super) struct Steps<'a> {
    pub(super) own: &'a mut [Step],
    pub(super) standing: &'a mut Standing,
    /// The last record.
    pub(super) place: &'a mut Origin,
    pub(super) judged: Judged,
}

impl Steps<'_> {
    /// How many steps are judged.
    fn judged(&self) -> usize {
        self.own
            .partition_point(|step| step.epoch <= self.judged.to)
    }

    fn is(&self, step: usize, told: Told) -> bool {
        told.is(&self.own[step])
    }

    fn finding(&self, step: usize, place: Origin, before: Option<Origin>, why: Why) -> Finding {
        let step = &self.own[step.min(self.own.len() - 1)];
        Finding {
            place,
            event: Some(step.event),
            before,
            why,
            epoch: step.epoch,
        }
    }

    /// A record of the output.
    pub(super) fn tell(&mut self, told: Told, place: Origin, found: &mut Found) {
        if self.own[0].open {
            self.tell_open(told, place, found);
        } else {
            self.tell_all(told, place, found);
        }
    }

    /// A record of a key of which all records are known.
    fn tell_all(&mut self, told: Told, place: Origin, found: &mut Found) {
        if *self.standing == Standing::Doubtful {
            let again = self.is(self.own[0].told as usize, told);
            self.settle(again, found);
        }
        let next = self.own[0].told as usize;
        let steps = self.own.len();
        // A wrong row stands in the place of the next step, rather than beside it.
        let behind = if *self.standing == Standing::Wrong {
            next + 1..next + 2
        } else {
            0..0
        };
        let mut likely = (next..next + 1)
            .chain(behind)
            .chain(next.saturating_sub(1)..next)
            .chain(next + 1..steps)
            .chain((0..next.saturating_sub(1)).rev());
        let step = likely.find(|step| *step < steps && self.is(*step, told));
        let Some(step) = step else {
            return self.tell_wrong(told, place, found);
        };
        let mends = match *self.standing {
            Standing::Wrong => {
                self.push_wrong(found);
                true
            }
            Standing::Removed => true,
            _ => false,
        };
        let mut standing = Standing::Step;
        let is_judged = step < self.judged();
        if self.own[step].seen {
            let again = !(mends && step + 1 == next) && is_judged;
            let doubtful = step + 1 == next && next + 1 < steps && self.is(next + 1, told);
            if again && doubtful && !found.allows_repeats() {
                (*self.standing, *self.place) = (Standing::Doubtful, place);
                return;
            }
            if again {
                let finding = self.finding(step, place, Some(*self.place), Why::Plain);
                let allowed = found.push_again(true, finding);
                if !allowed && step + 1 != next {
                    standing = Standing::Misplaced;
                }
            }
        } else {
            self.own[step].seen = true;
            let behind = self.own[step + 1..].iter().any(|later| later.seen);
            if behind && is_judged && !found.allows_repeats() {
                found.push(Kind::Wrong, self.finding(step, place, None, Why::Order));
                standing = Standing::Misplaced;
            }
        }
        self.own[0].told = counted(step + 1);
        (*self.standing, *self.place) = (standing, place);
    }

    /// Decides what a doubtful record was.
    fn settle(&mut self, again: bool, found: &mut Found) {
        let next = self.own[0].told as usize;
        if again {
            let finding = self.finding(next - 1, *self.place, None, Why::Plain);
            found.push_again(true, finding);
        } else {
            self.own[next + 1].seen = true;
            self.own[0].told = counted(next + 2);
        }
        *self.standing = Standing::Step;
    }

    /// A record of no step.
    fn tell_wrong(&mut self, told: Told, place: Origin, found: &mut Found) {
        let next = self.own[0].told as usize;
        if told == Told::Tombstone {
            if *self.standing != Standing::Nothing {
                (*self.standing, *self.place) = (Standing::Removed, place);
            }
            return;
        }
        if *self.standing == Standing::Wrong {
            self.push_wrong(found);
        }
        let is_judged = !self.own[0].goes_on || next < self.judged();
        *self.standing = match is_judged {
            true => Standing::Wrong,
            false => Standing::Step,
        };
        *self.place = place;
    }

    fn push_wrong(&mut self, found: &mut Found) {
        let next = self.own[0].told as usize;
        found.push(
            Kind::Wrong,
            self.finding(next, *self.place, None, Why::Plain),
        );
        self.own[0].wrong += 1;
    }

    /// A record of a key of which only the last records are known.
    fn tell_open(&mut self, told: Told, place: Origin, found: &mut Found) {
        let next = self.own[0].told as usize;
        let judged = self.judged();
        if next < self.own.len() && self.is(next, told) {
            self.own[next].seen = true;
            self.own[0].told = counted(next + 1);
        } else if next > 0 && self.is(next - 1, told) {
            // A key that comes again may come with the row that it had before.
            let is_first = next == 1 && self.own[0].begins;
            if next <= judged && !is_first {
                let finding = self.finding(next - 1, place, Some(*self.place), Why::Plain);
                found.push_again(true, finding);
            }
        } else if self.own[0].goes_on && next >= judged {
            // Nobody knows what comes behind.
            return;
        } else {
            let earlier = (0..next).rev().find(|step| self.is(*step, told));
            match earlier.filter(|_| found.allows_repeats()) {
                Some(step) => self.own[0].told = counted(step + 1),
                None => self.begin_again(told),
            }
        }
        (*self.standing, *self.place) = (Standing::Step, place);
    }

    /// Takes what came for records before the first step, but for those at the end that may be of
    /// the first steps.
    fn begin_again(&mut self, told: Told) {
        let next = self.own[0].told as usize;
        // What was before a record matters only where its epoch tells it apart.
        let same = |a: &Step, b: &Step| a.row == b.row;
        let told_now = (0..next).rev().find(|step| {
            let last = self.own[next - step..next].iter();
            last.zip(&self.own[..*step]).all(|(a, b)| same(a, b)) && self.is(*step, told)
        });
        let now = told_now.map_or(0, |step| step + 1);
        for (place, step) in self.own.iter_mut().enumerate() {
            step.seen = place < now;
        }
        self.own[0].told = counted(now);
    }

    /// Says that the whole output has come. Returns whether the key's last row is right.
    pub(super) fn end(&mut self, found: &mut Found) -> bool {
        match *self.standing {
            Standing::Wrong => self.push_wrong(found),
            Standing::Doubtful => self.settle(false, found),
            _ => {}
        }
        let judged = self.judged();
        let next = self.own[0].told as usize;
        let is_there = |step: &Step| step.row != NO_ROW;
        let ends_with_row = self.own[..judged].last().is_some_and(is_there);
        let removed = (*self.standing == Standing::Removed).then_some(*self.place);
        let unseen: Vec<usize> = (0..judged).filter(|step| !self.own[*step].seen).collect();
        let missing = unseen.iter().skip(self.own[0].wrong as usize);
        for step in missing {
            let why = match is_there(&self.own[*step]) {
                true => Why::Plain,
                false => Why::Removal,
            };
            let event = self.own[*step].event;
            found.push(Kind::Missing, self.finding(*step, event, removed, why));
        }
        if !unseen.is_empty() {
            return false;
        }
        match *self.standing {
            Standing::Removed if ends_with_row => {
                let last = judged - 1;
                let event = self.own[last].event;
                found.push(
                    Kind::Missing,
                    self.finding(last, event, removed, Why::Plain),
                );
                false
            }
            Standing::Step if next < judged => {
                let finding = self.finding(judged - 1, *self.place, None, Why::Stale);
                found.push(Kind::Wrong, finding);
                false
            }
            Standing::Wrong => false,
            _ => ends_with_row && next >= judged,
        }
    }

    /// Forgets what the output had.
    pub(super) fn forget(&mut self) {
        for step in &mut *self.own {
            step.seen = false;
        }
        (self.own[0].told, self.own[0].wrong) = (0, 0);
    }
}

/// What a key's steps say of it: whether it ends with a row, of the epochs that are judged.
pub(super) fn ends_with_row(own: &[Step], judged: Judged) -> bool {
    let last = own.iter().rfind(|step| step.epoch <= judged.to);
    last.is_some_and(|step| step.row != NO_ROW)
}

/// Where the steps of a key are.
pub(super) fn range_of(steps: &[Step], key: u128) -> Range<usize> {
    let from = steps.partition_point(|step| step.key < key);
    let count = steps[from..].partition_point(|step| step.key == key);
    from..from + count
}

fn counted(steps: usize) -> u32 {
    u32::try_from(steps).expect("memory has no room for more steps")
}

#[cfg(test)]
mod tests;
