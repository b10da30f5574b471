//! The time of events, and the clock by which the job forgets.
//!
//! An event may carry a time of its own. The clock follows those times, not the time of day, so a
//! backfill of last week forgets nothing of last week. It is told with every epoch and bound with
//! it: a replay forgets what was forgotten before, and nothing else.
//!
//! # Invariants
//! * The clock never goes back.
//! * It follows the slowest of the partitions that lag; when none lags, the greatest time of all.
//!   It stands still while one lags of which no event has come. So a partition that is far behind
//!   loses no event, and an idle one holds nothing back.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use serde::{Deserialize, Serialize};

use crate::batch::Batch;

/// The unit of integers that are times since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
}

impl TimeUnit {
    /// The same time in milliseconds; one that is too large for them is the greatest of all. The
    /// least number is no time: it is before all of them.
    #[inline]
    pub fn to_ms(self, time: i64) -> i64 {
        let time_ms = match self {
            Self::Seconds => time.saturating_mul(1000),
            Self::Milliseconds => time,
            Self::Microseconds => time.div_euclid(1000),
        };
        time_ms.max(i64::MIN + 1)
    }
}

/// The column that holds the time of an event: an integer, or a timestamp in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// Its index in the events' columns.
    pub column: usize,
    /// The unit of its values.
    pub unit: TimeUnit,
}

impl EventTime {
    /// The values of the column, in their own unit.
    ///
    /// # Panics
    /// If it is no column of integers or timestamps: the configuration has refused that.
    pub fn values<'a>(&self, events: &'a Batch) -> &'a [i64] {
        let column = &events.columns()[self.column];
        assert_eq!(column.null_count(), 0, "every event has a time");
        if let Some(integers) = column.as_primitive_opt::<Int64Type>() {
            return integers.values();
        }
        column.as_primitive::<TimestampMicrosecondType>().values()
    }

    /// The time of one event in milliseconds since 1970.
    pub fn of(&self, events: &Batch, row: usize) -> i64 {
        self.unit.to_ms(self.values(events)[row])
    }
}

/// What is known of a partition's place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The partition.
    pub partition: i32,
    /// The greatest time among new events, in milliseconds since 1970; none without any.
    pub greatest_ms: Option<i64>,
    /// Whether there are records in it that were not read; none if that is as it was.
    pub lags: Option<bool>,
}

/// What looks wrong about the unit of a time: it is decades from its epoch, and a thousand times
/// more, or less, would be near.
pub(crate) fn odd_unit(at_ms: i64, epoch: u64) -> Option<&'static str> {
    const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
    let epoch = epoch.cast_signed();
    let far = |at_ms: i64| at_ms.abs_diff(epoch) > 20 * YEAR_MS;
    if !far(at_ms) {
        return None;
    }
    if !far(at_ms / 1000) {
        return Some(
            "divided by 1000 it would be near its epoch: the unit in \"time\" looks wrong",
        );
    }
    let more = at_ms.checked_mul(1000).filter(|more| !far(*more));
    more.map(|_| "times 1000 it would be near its epoch: the unit in \"time\" looks wrong")
}

/// The latest time that an event of an epoch may have.
pub(crate) fn latest_ms(epoch: u64, future_ms: u64) -> i64 {
    i64::try_from(epoch.saturating_add(future_ms)).unwrap_or(i64::MAX)
}

/// The greatest times among events, by partition; one later than `latest_ms` does not count.
pub(crate) fn seen_in(events: &Batch, time: EventTime, latest_ms: i64) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    if events.is_empty() {
        return seen;
    }
    for (partition, value) in events.partitions().iter().zip(time.values(events)) {
        let at_ms = time.unit.to_ms(*value);
        if at_ms > latest_ms {
            continue;
        }
        // Records of a partition stand together.
        match seen
            .iter_mut()
            .rev()
            .find(|seen| seen.partition == *partition)
        {
            Some(seen) => seen.greatest_ms = seen.greatest_ms.max(Some(at_ms)),
            None => seen.push(Seen {
                partition: *partition,
                greatest_ms: Some(at_ms),
                lags: None,
            }),
        }
    }
    seen
}

#[derive(Clone, Copy, Debug)]
struct Place {
    greatest_ms: Option<i64>,
    lags: bool,
}

/// The clock, on worker 0.
#[derive(Clone, Debug, Default)]
pub struct ExpiryClock {
    now_ms: Option<i64>,
    partitions: BTreeMap<i32, Place>,
}

impl ExpiryClock {
    /// A clock of which nothing is known but these partitions, and the time that it had reached.
    pub fn new(now_ms: Option<i64>, partitions: impl IntoIterator<Item = i32>) -> Self {
        let place = Place {
            greatest_ms: None,
            lags: true,
        };
        Self {
            now_ms,
            partitions: partitions.into_iter().map(|known| (known, place)).collect(),
        }
    }

    /// Takes in what is known of a partition.
    pub fn observe(&mut self, seen: Seen) {
        let place = self.partitions.entry(seen.partition).or_insert(Place {
            greatest_ms: None,
            lags: true,
        });
        place.greatest_ms = place.greatest_ms.max(seen.greatest_ms);
        place.lags = seen.lags.unwrap_or(place.lags);
    }

    /// The time that an epoch which is minted now has.
    pub fn advance(&mut self) -> Option<i64> {
        let places = self.partitions.values();
        let lagging = places.clone().filter(|place| place.lags);
        // The least of those that lag: none, if of one of them nothing is known.
        let reached = match lagging.map(|place| place.greatest_ms).min() {
            Some(least) => least,
            None => places.filter_map(|place| place.greatest_ms).max(),
        };
        self.now_ms = self.now_ms.max(reached);
        self.now_ms
    }

    /// Takes over the time of a bound epoch.
    pub fn replay(&mut self, now_ms: Option<i64>) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// The time that it has reached, in milliseconds since 1970.
    pub fn now_ms(&self) -> Option<i64> {
        self.now_ms
    }
}

/// The clock as worker 0 tells it, shared by those who observe, mint and bind.
pub type SharedClock = Rc<RefCell<ExpiryClock>>;

/// Epochs from which on the clock stands elsewhere, and where.
type Changes = VecDeque<(u64, Option<i64>)>;

/// The clock of each epoch that is not written everywhere, as all operators of a worker ask for it.
#[derive(Clone, Debug, Default)]
pub struct Clocks(Rc<RefCell<Changes>>);

impl Clocks {
    /// Notes the clock of the next epoch.
    pub(crate) fn tell(&self, epoch: u64, now_ms: Option<i64>) {
        let mut clocks = self.0.borrow_mut();
        if clocks.back().is_none_or(|(_, last)| *last != now_ms) {
            clocks.push_back((epoch, now_ms));
        }
    }

    /// The clock of an epoch that is told and not forgotten.
    pub(crate) fn at(&self, epoch: u64) -> Option<i64> {
        let clocks = self.0.borrow();
        let later = clocks.partition_point(|(from, _)| *from <= epoch);
        let (_, now_ms) = clocks.get(later.checked_sub(1)?)?;
        *now_ms
    }

    /// Forgets the clocks of epochs before this one, of which nobody asks any more.
    pub(crate) fn forget_before(&self, epoch: u64) {
        let mut clocks = self.0.borrow_mut();
        while clocks.get(1).is_some_and(|(next, _)| *next <= epoch) {
            clocks.pop_front();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(partition: i32, greatest_ms: Option<i64>, lags: Option<bool>) -> Seen {
        Seen {
            partition,
            greatest_ms,
            lags,
        }
    }

    #[test]
    fn it_follows_the_slowest_partition_that_lags_and_never_goes_back() {
        let mut clock = ExpiryClock::new(None, [0, 1]);
        assert_eq!(clock.advance(), None);
        clock.observe(seen(0, Some(500), None));
        assert_eq!(clock.advance(), None, "nothing is known of the other");
        clock.observe(seen(1, Some(20), None));
        assert_eq!(clock.advance(), Some(20));
        clock.observe(seen(1, Some(10), None));
        assert_eq!(clock.advance(), Some(20), "an older event comes late");
        clock.observe(seen(1, Some(90), None));
        assert_eq!(clock.advance(), Some(90));
        clock.observe(seen(1, None, Some(false)));
        assert_eq!(clock.advance(), Some(500), "the other lags still");
        clock.observe(seen(0, Some(700), Some(false)));
        assert_eq!(clock.advance(), Some(700), "an idle one holds nothing back");
        clock.observe(seen(1, Some(100), Some(true)));
        assert_eq!(clock.advance(), Some(700));
        clock.observe(seen(2, None, Some(true)));
        clock.observe(seen(1, Some(900), Some(false)));
        assert_eq!(clock.advance(), Some(700), "a new one has yielded nothing");
        clock.observe(seen(2, None, Some(false)));
        assert_eq!(clock.advance(), Some(900), "and is empty");
    }

    #[test]
    fn after_a_restart_it_goes_on_from_what_was_bound() {
        let mut clock = ExpiryClock::new(Some(50), [0]);
        assert_eq!(clock.advance(), Some(50));
        clock.replay(Some(80));
        clock.replay(None);
        clock.observe(seen(0, Some(60), Some(false)));
        assert_eq!(clock.advance(), Some(80));
    }

    #[test]
    fn each_epoch_has_the_clock_that_it_was_minted_with() {
        let clocks = Clocks::default();
        clocks.tell(3, None);
        clocks.tell(5, Some(1));
        clocks.tell(6, Some(1));
        clocks.tell(9, Some(4));
        let asked = [12, 3, 5, 6, 8, 9, 2].map(|epoch| clocks.at(epoch));
        let (one, four) = (Some(1), Some(4));
        assert_eq!(asked, [four, None, one, one, one, four, None]);
        clocks.forget_before(8);
        assert_eq!([8, 9].map(|epoch| clocks.at(epoch)), [one, four]);
        assert_eq!(clocks.len(), 2, "what nobody asks for is gone");
        clocks.forget_before(20);
        assert_eq!(clocks.at(20), four);
    }

    #[test]
    fn a_unit_that_is_off_by_a_thousand_is_noticed() {
        let epoch = 1_795_000_000_000;
        let odd = |at_ms| odd_unit(at_ms, epoch).map(|hint| &hint[..7]);
        assert_eq!(odd(1_795_000_000), Some("times 1"));
        assert_eq!(odd(1_795_000_000_000_000), Some("divided"));
        for fine in [1_795_000_000_000, 1_700_000_000_000, 0, i64::MAX, i64::MIN] {
            assert_eq!(odd(fine), None, "{fine}");
        }
    }

    #[test]
    fn units_are_told_in_milliseconds() {
        assert_eq!(TimeUnit::Seconds.to_ms(-2), -2000);
        assert_eq!(TimeUnit::Seconds.to_ms(i64::MAX), i64::MAX);
        for unit in [TimeUnit::Seconds, TimeUnit::Milliseconds] {
            assert_eq!(unit.to_ms(i64::MIN), i64::MIN + 1, "it is a time");
        }
        assert_eq!(TimeUnit::Microseconds.to_ms(-1), -1);
        assert_eq!(TimeUnit::Milliseconds.to_ms(7), 7);
    }
}
