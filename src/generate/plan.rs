//! Decides what stands at each position of the stream, as a pure function of seed and position.
//!
//! Apart from the bytes, so that a record of hours ago is known again without having kept it: a
//! retry draws a distance back, and whatever stands there is made once more.
//!
//! # Invariants
//! * A retry repeats an event, never another retry nor a bad record.
//! * A retry comes at most `retry_distance` positions after its event.
//! * Nothing is remembered from one position to the next.

use crate::generate::Options;
use crate::generate::names::ITEMS;

/// What is wrong with a bad record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Text that is not JSON.
    NotJson,
    /// A word where an integer belongs.
    WrongType,
    /// The key column is missing.
    MissingKey,
    /// The key column is null.
    NullKey,
    /// A string that is not UTF-8.
    BrokenUtf8,
    /// The first half of an event.
    Truncated,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 6] = [
        Self::NotJson,
        Self::WrongType,
        Self::MissingKey,
        Self::NullKey,
        Self::BrokenUtf8,
        Self::Truncated,
    ];
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event, published for the first time.
    Event,
    /// The event first published at the position `of`, again.
    Retry {
        /// The position of the event.
        of: u64,
        /// Whether it carries another `item_name`.
        changed: bool,
    },
    /// A record that cannot be decoded.
    Bad(Fault),
}

/// The columns of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) location: u64,
    pub(super) camera: u64,
    pub(super) detection: u64,
    /// Index in the item names.
    pub(super) item: usize,
    pub(super) detected_ms: u64,
}

/// The location of which most is seen.
const HOT_LOCATION: u64 = 1;
/// As many locations occur in events without being in the reference table.
const ORPHAN_LOCATIONS: u64 = 100;
const CAMERAS_OF_A_LOCATION: u64 = 10;
/// Detections are numbered from here, so that every one has as many digits as in the case.
const FIRST_DETECTION: u64 = 1_000_000_000_000;
/// Event time advances as if so many records a second were published when the rate is unlimited.
const UNLIMITED_RATE: u64 = 10_000;
/// After so many draws that hit no event, a retry becomes an event of its own: next to never,
/// since at least every tenth position holds one.
const RETRY_DRAWS: u64 = 64;

/// Each decision at a position draws from a stream of its own.
#[derive(Clone, Copy)]
enum Draw {
    Class,
    Partition,
    Location,
    Place,
    Camera,
    Item,
    Changed,
    OtherItem,
    Fault,
    /// The first of `RETRY_DRAWS`.
    Distance,
}

/// The options, ready for fast decisions: shares are thresholds of a 64-bit draw.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    seed: u64,
    partitions: u64,
    bad_below: u64,
    retry_below: u64,
    changed_below: u64,
    hot_below: u64,
    orphan_below: u64,
    retry_distance: u64,
    reference_rows: u64,
    start_ms: u64,
    rate: u64,
}

impl Plan {
    /// The options must have been checked.
    pub(super) fn new(options: &Options) -> Self {
        Self {
            seed: mix(options.seed),
            partitions: u64::from(options.partitions.unsigned_abs()),
            bad_below: threshold(options.bad_share),
            retry_below: threshold(options.bad_share + options.retry_share),
            changed_below: threshold(options.changed_retry_share),
            hot_below: threshold(options.hot_share),
            orphan_below: threshold(options.hot_share + options.orphan_share),
            retry_distance: options.retry_distance,
            reference_rows: options.reference_rows,
            start_ms: options.start_ms,
            rate: if options.rate == 0 {
                UNLIMITED_RATE
            } else {
                options.rate
            },
        }
    }

    /// What stands at the position.
    pub(super) fn kind(&self, position: u64) -> Kind {
        let class = self.draw(position, Draw::Class);
        if class < self.bad_below {
            let fault = scale(self.draw(position, Draw::Fault), Fault::ALL.len() as u64);
            return Kind::Bad(Fault::ALL[fault as usize]);
        }
        if class >= self.retry_below {
            return Kind::Event;
        }
        match self.repeated(position) {
            Some(of) => {
                let changed = self.draw(position, Draw::Changed) < self.changed_below;
                Kind::Retry { of, changed }
            }
            None => Kind::Event,
        }
    }

    /// The partition of the record at the position: a retry takes any, like every record.
    pub(super) fn partition(&self, position: u64) -> i32 {
        let partition = scale(self.draw(position, Draw::Partition), self.partitions);
        i32::try_from(partition).expect("less than the partitions, which are an i32")
    }

    /// The event that the position would publish for the first time.
    pub(super) fn event(&self, position: u64) -> Event {
        let location = self.location(position);
        let camera = scale(self.draw(position, Draw::Camera), CAMERAS_OF_A_LOCATION);
        let elapsed_ms = u128::from(position) * 1_000 / u128::from(self.rate);
        Event {
            location,
            camera: location * CAMERAS_OF_A_LOCATION + camera,
            detection: FIRST_DETECTION.wrapping_add(position),
            item: self.item(position),
            detected_ms: self.start_ms.wrapping_add(elapsed_ms as u64),
        }
    }

    /// The event of `of`, with an item name that differs from the event's.
    pub(super) fn changed_event(&self, position: u64, of: u64) -> Event {
        let event = self.event(of);
        let step = 1 + scale(self.draw(position, Draw::OtherItem), ITEMS - 1);
        let item = (event.item as u64 + step) % ITEMS;
        Event {
            item: item as usize,
            ..event
        }
    }

    fn location(&self, position: u64) -> u64 {
        let class = self.draw(position, Draw::Location);
        let place = self.draw(position, Draw::Place);
        if class < self.hot_below {
            HOT_LOCATION
        } else if class < self.orphan_below {
            self.reference_rows + 1 + scale(place, ORPHAN_LOCATIONS)
        } else {
            HOT_LOCATION + 1 + scale(place, self.reference_rows - 1)
        }
    }

    /// The product of two even draws favours small numbers, as real items do.
    fn item(&self, position: u64) -> usize {
        let draw = self.draw(position, Draw::Item);
        let product = (draw >> 32) * (draw & 0xffff_ffff);
        scale(product, ITEMS) as usize
    }

    /// The event that the retry at the position repeats, if one lies in reach.
    fn repeated(&self, position: u64) -> Option<u64> {
        let reach = position.min(self.retry_distance);
        if reach == 0 {
            return None;
        }
        (0..RETRY_DRAWS).find_map(|attempt| {
            let draw = self.word(position, Draw::Distance as u64 + attempt);
            let of = position - 1 - scale(draw, reach);
            (self.draw(of, Draw::Class) >= self.retry_below).then_some(of)
        })
    }

    fn draw(&self, position: u64, draw: Draw) -> u64 {
        self.word(position, draw as u64)
    }

    /// The words of SplitMix64, reached by number: 128 for each position.
    fn word(&self, position: u64, index: u64) -> u64 {
        let step = position.wrapping_mul(128).wrapping_add(index);
        mix(self
            .seed
            .wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// The finalizer of SplitMix64: a bijection whose output looks random.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The number below which that share of all 64-bit draws lies.
fn threshold(share: f64) -> u64 {
    // The cast saturates, so a share of 1 takes all draws but one in 2^64.
    (share * 2f64.powi(64)) as u64
}

/// Maps an even draw evenly to `0..below`.
fn scale(draw: u64, below: u64) -> u64 {
    ((u128::from(draw) * u128::from(below)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(change: impl FnOnce(&mut Options)) -> Plan {
        let mut options = Options::default();
        change(&mut options);
        options.check().unwrap();
        Plan::new(&options)
    }

    /// The part of the first million positions for which the condition holds.
    fn share(condition: impl Fn(u64) -> bool) -> f64 {
        (0..1_000_000)
            .filter(|&position| condition(position))
            .count() as f64
            / 1e6
    }

    fn assert_near(found: f64, wanted: f64) {
        assert!(
            (found - wanted).abs() < 0.003,
            "{found} instead of {wanted}"
        );
    }

    #[test]
    fn shares_come_out_as_asked_for() {
        let plan = plan(|options| {
            options.bad_share = 0.05;
            options.changed_retry_share = 0.5;
        });
        assert_near(share(|at| matches!(plan.kind(at), Kind::Bad(_))), 0.05);
        assert_near(
            share(|at| matches!(plan.kind(at), Kind::Retry { .. })),
            0.10,
        );
        assert_near(
            share(|at| matches!(plan.kind(at), Kind::Retry { changed: true, .. })),
            0.05,
        );
        assert_near(share(|at| plan.event(at).location == HOT_LOCATION), 0.30);
        assert_near(share(|at| plan.event(at).location > 10_000), 0.01);
        for partition in 0..4 {
            assert_near(share(|at| plan.partition(at) == partition), 0.25);
        }
        for fault in Fault::ALL {
            assert_near(share(|at| plan.kind(at) == Kind::Bad(fault)), 0.05 / 6.0);
        }
        // The first ten of a thousand items: far more than a hundredth of all.
        assert!(share(|at| plan.event(at).item < 10) > 0.05);
    }

    #[test]
    fn a_retry_repeats_an_event_within_the_distance() {
        let plan = plan(|options| {
            options.retry_share = 0.6;
            options.retry_distance = 1_000;
            options.bad_share = 0.1;
        });
        let mut farthest = 0;
        for position in 0..100_000 {
            if let Kind::Retry { of, .. } = plan.kind(position) {
                assert!(
                    of < position && position - of <= 1_000,
                    "{position} repeats {of}"
                );
                assert_eq!(plan.kind(of), Kind::Event, "{position} repeats {of}");
                farthest = farthest.max(position - of);
            }
        }
        assert!(farthest > 990, "the farthest retry is only {farthest} away");
        assert_near(share(|at| matches!(plan.kind(at), Kind::Retry { .. })), 0.6);
    }

    #[test]
    fn a_changed_retry_differs_in_its_item_only() {
        let plan = plan(|options| options.changed_retry_share = 1.0);
        for position in 1..10_000 {
            if let Kind::Retry { of, changed } = plan.kind(position) {
                assert!(changed);
                let (event, other) = (plan.event(of), plan.changed_event(position, of));
                assert_ne!(event.item, other.item);
                assert_eq!(
                    event,
                    Event {
                        item: event.item,
                        ..other
                    }
                );
            }
        }
    }

    #[test]
    fn event_time_follows_the_rate() {
        let plan = plan(|options| options.rate = 500);
        assert_eq!(plan.event(0).detected_ms, 1_767_225_600_000);
        assert_eq!(plan.event(1_000).detected_ms, 1_767_225_602_000);
    }
}
