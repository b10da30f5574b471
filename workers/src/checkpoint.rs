//! Checkpoints: what a worker's state has gained up to an epoch, taken beside the flow.
//!
//! Worker 0 names an epoch when it mints it. Once everything up to that epoch is written
//! everywhere, each worker hands over what it has gained since the checkpoint before, and goes on;
//! when all parts are durable, worker 0 has the checkpoint published. No result waits for any of
//! this, and a restart replays only what was bound after the epoch.
//!
//! # Invariants
//! * Parts of one epoch are cut at the same records on all workers: at the epoch's bound end.
//! * A checkpoint is published only when every part of it is durable, every sink has written its
//!   epoch, and with that the binding of its epoch is durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::batch::Batch;
use crate::queue::Waker;
use crate::state::{ColdRun, Freeze};

/// Keys that were seen for the first time, in the order in which they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRun {
    /// Keys of one integer.
    Narrow(Vec<u64>),
    /// All others, by hash.
    Wide(Vec<u128>),
}

impl KeyRun {
    /// No keys, of this width.
    pub fn none(narrow: bool) -> Self {
        match narrow {
            true => Self::Narrow(Vec::new()),
            false => Self::Wide(Vec::new()),
        }
    }

    /// Adds the keys of another run.
    ///
    /// # Panics
    /// If they are of another width.
    pub fn extend(&mut self, other: &Self) {
        match (self, other) {
            (Self::Narrow(all), Self::Narrow(keys)) => all.extend(keys),
            (Self::Wide(all), Self::Wide(keys)) => all.extend(keys),
            _ => panic!("a job has keys of one width"),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Narrow(keys) => keys.len(),
            Self::Wide(keys) => keys.len(),
        }
    }

    /// Whether each is of one integer.
    pub fn is_narrow(&self) -> bool {
        matches!(self, Self::Narrow(_))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one worker's state has gained since the checkpoint before.
#[derive(Clone, Debug)]
pub struct Part {
    /// The epoch of the checkpoint.
    pub epoch: u64,
    /// The new keys, by the bucket of time that they are in.
    pub keys: Vec<(i64, KeyRun)>,
    /// The new rows of the window, in the order of their epochs.
    pub rows: Vec<Kept>,
    /// All conflicts that were dead-lettered in the minute of the epoch, up to it.
    pub told: Told,
    /// Buckets of which all keys up to the epoch leave memory. The new ones among them are in
    /// `keys` too.
    pub frozen: Vec<Freeze>,
}

/// How many conflicts of each key group have become dead letters in a minute of epochs. A replay
/// that begins within the minute goes on with them.
pub type Told = BTreeMap<u16, u32>;

/// The minute that an epoch is in.
pub(crate) fn minute(epoch: u64) -> u64 {
    epoch / 60_000
}

/// Rows that may be revised after the epoch in which they came.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The epoch.
    pub epoch: u64,
    /// Events, or results if those are held.
    pub rows: Batch,
    /// Whether each takes the place of the one of its key that came last before it.
    pub replaces: bool,
}

/// Where one worker's parts are kept. Calls come from the worker's thread and must not block.
pub trait Checkpoints: Send {
    /// Whether a checkpoint must be made now; asked on worker 0.
    fn due(&mut self) -> bool;

    /// Takes a part, to make it durable.
    fn freeze(&mut self, part: Part);

    /// The description of a part that is durable now, and its epoch; each is told once.
    fn durable(&mut self) -> Option<(u64, Vec<u8>)>;

    /// A bucket whose keys were to leave memory, and where they are now; none if they could not.
    /// Each is told once.
    fn frozen(&mut self) -> Option<(i64, Option<Arc<dyn ColdRun>>)>;

    /// Publishes a checkpoint of these parts, in the order of the workers; called on worker 0. The
    /// expiry clock is the one that its epoch was minted with.
    fn publish(&mut self, epoch: u64, clock_ms: Option<i64>, parts: Vec<Vec<u8>>);

    /// The newest epoch whose checkpoint is published or given up; asked on worker 0.
    fn settled(&self) -> u64;

    /// Sets what must be called whenever `durable` or `settled` has something new.
    fn wake_by(&mut self, waker: Waker);
}

/// New keys and rows that no checkpoint has, by epoch.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Epochs whose parts are asked for.
    requested: VecDeque<u64>,
    runs: VecDeque<(u64, (i64, KeyRun))>,
    /// Rows, and the time of the latest of them.
    rows: VecDeque<(i64, Kept)>,
    /// Conflicts that became dead letters, those of the minute of the last checkpoint as well.
    told: VecDeque<(u64, Told)>,
}

impl Admitted {
    pub(crate) fn push(&mut self, epoch: u64, bucket: i64, keys: KeyRun) {
        self.runs.push_back((epoch, (bucket, keys)));
    }

    /// Holds rows, which are wanted as long as the window is not behind `latest_ms`.
    pub(crate) fn hold(&mut self, latest_ms: i64, kept: Kept) {
        self.rows.push_back((latest_ms, kept));
    }

    /// In an epoch, forgets rows that are at `oldest_ms` or before, if none of the parts that are
    /// asked for needs them.
    pub(crate) fn forget_until(&mut self, epoch: u64, oldest_ms: i64) {
        if self.requested.front().is_some_and(|asked| *asked < epoch) {
            return;
        }
        let is_over = |(latest_ms, _): &mut (i64, Kept)| *latest_ms <= oldest_ms;
        while self.rows.pop_front_if(is_over).is_some() {}
    }

    /// Asks for the part of an epoch.
    pub(crate) fn request(&mut self, epoch: u64) {
        self.requested.push_back(epoch);
    }

    /// The next epoch whose part is asked for, if it has passed.
    pub(crate) fn next_request(&mut self, passed: impl Fn(u64) -> bool) -> Option<u64> {
        self.requested.pop_front_if(|epoch| passed(*epoch))
    }

    pub(crate) fn tell(&mut self, epoch: u64, told: Told) {
        self.told.push_back((epoch, told));
    }

    /// Takes out what came in epochs up to this one.
    pub(crate) fn take(&mut self, epoch: u64) -> Part {
        let after = self.runs.partition_point(|(of, _)| *of <= epoch);
        let keys = self.runs.drain(..after).map(|(_, keys)| keys).collect();
        let after = self.rows.partition_point(|(_, kept)| kept.epoch <= epoch);
        let rows = self.rows.drain(..after).map(|(_, kept)| kept).collect();
        let is_over = |(of, _): &mut (u64, Told)| minute(*of) < minute(epoch);
        while self.told.pop_front_if(is_over).is_some() {}
        let mut told = Told::new();
        let until = self.told.iter().take_while(|(of, _)| *of <= epoch);
        for (group, letters) in until.flat_map(|(_, told)| told) {
            *told.entry(*group).or_default() += letters;
        }
        Part {
            epoch,
            keys,
            rows,
            told,
            frozen: Vec::new(),
        }
    }

    /// The keys of a bucket that no checkpoint has.
    pub(crate) fn of_bucket(&self, bucket: i64, narrow: bool) -> KeyRun {
        let mut all = KeyRun::none(narrow);
        let runs = self.runs.iter().filter(|(_, (of, _))| *of == bucket);
        runs.for_each(|(_, (_, run))| all.extend(run));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(epoch: u64) -> Kept {
        Kept {
            epoch,
            rows: Batch::default(),
            replaces: false,
        }
    }

    #[test]
    fn rows_behind_the_window_are_forgotten_unless_a_part_needs_them() {
        let mut admitted = Admitted::default();
        for (epoch, latest_ms) in [(1, 10), (2, 30), (3, 20), (5, 50)] {
            admitted.hold(latest_ms, kept(epoch));
        }
        let epochs = |admitted: &Admitted| {
            let rows = admitted.rows.iter();
            rows.map(|(_, kept)| kept.epoch).collect::<Vec<_>>()
        };
        admitted.forget_until(5, 20);
        assert_eq!(
            epochs(&admitted),
            [2, 3, 5],
            "the third stands behind the second"
        );
        admitted.request(6);
        admitted.forget_until(6, 30);
        assert_eq!(epochs(&admitted), [5]);
        admitted.hold(60, kept(7));
        admitted.forget_until(7, 50);
        assert_eq!(epochs(&admitted), [5, 7], "the state at 6 has it");
        assert_eq!(admitted.next_request(|epoch| epoch < 6), None);
        assert_eq!(admitted.next_request(|epoch| epoch < 7), Some(6));
        let part = admitted.take(6);
        assert_eq!(part.rows.len(), 1);
        admitted.forget_until(8, 60);
        assert_eq!(epochs(&admitted), [0_u64; 0]);
    }
}
