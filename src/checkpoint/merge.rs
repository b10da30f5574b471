//! Merging: which runs become one, and how.
//!
//! Every checkpoint adds a run to each worker's. A restart reads all of them, and a manifest names
//! all of them, so they must stay few; and keys should not be written again and again. Hence runs
//! of like size are merged: a key is written about once for each factor of `TIER` in the keys.
//!
//! # Invariants
//! * The merged run has every key of its inputs in the given key groups, once, and no other.
//! * A merge holds a bounded piece of each input in memory.
//! * Inputs stay as they are: only a manifest that names the merged run makes them garbage.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::checkpoint::run::{Key, Pieces, RunWriter};
use crate::checkpoint::sealed::damaged;
use crate::checkpoint::store::Store;
use crate::checkpoint::{Error, Groups, Run, RunEntry};

/// Runs of one worker that a manifest names, at most.
pub const RUNS_MAX: usize = 10;
/// So many runs of like size are merged; sizes are alike within this factor.
const TIER: usize = 4;
/// From so many runs on the smallest are merged, whatever their sizes: the rest up to `RUNS_MAX`
/// come while the merge is under way.
const CROWDED: usize = 8;
/// The piece of each input that is held.
const PIECE_BYTES: u64 = 1 << 20;
/// Merged keys are given to the writer in such lots.
const LOT: usize = 4096;

/// Which of a worker's runs to merge next, as indexes in ascending order; none if they are few.
pub fn next_merge(runs: &[RunEntry]) -> Option<Vec<usize>> {
    let mut by_size: Vec<usize> = (0..runs.len()).collect();
    by_size.sort_by_key(|index| (runs[*index].keys, *index));
    let tier = |index: &usize| runs[*index].keys.max(1).ilog(TIER as u64);
    let alike = by_size
        .chunk_by(|left, right| tier(left) == tier(right))
        .find(|alike| alike.len() >= TIER)
        .map(<[usize]>::to_vec);
    let mut chosen = match alike {
        Some(alike) => alike,
        None if runs.len() >= CROWDED => by_size[..TIER].to_vec(),
        None => return None,
    };
    chosen.sort_unstable();
    Some(chosen)
}

/// Merges runs of one bucket into one of a new name, as `run_name` makes it; of each, the keys in
/// `groups`. None if there are none.
///
/// # Errors
/// If a run cannot be read, is damaged, or the merged one cannot be written.
pub fn merge(
    store: &Store,
    runs: &[RunEntry],
    groups: Groups,
    name: &str,
) -> Result<Option<RunEntry>, Error> {
    let open = runs.iter().map(|entry| Run::open(store, entry));
    let open: Vec<Run<'_>> = open.collect::<Result<_, _>>()?;
    let Some(first) = open.first() else {
        return Ok(None);
    };
    let name = (name, runs[0].bucket);
    let narrow = first.is_narrow();
    if let Some(index) = open.iter().position(|run| run.is_narrow() != narrow) {
        return Err(damaged(&runs[index].name, "its keys have another width"));
    }
    let pieces = open.iter().map(|run| run.pieces(groups, PIECE_BYTES));
    if narrow {
        merge_keys::<u64>(store, pieces.collect(), name)
    } else {
        merge_keys::<u128>(store, pieces.collect(), name)
    }
}

/// A run that is being read.
struct Input<'a, K> {
    pieces: Pieces<'a>,
    keys: std::vec::IntoIter<K>,
}

impl<K: Key> Input<'_, K> {
    fn next(&mut self) -> Result<Option<K>, Error> {
        loop {
            if let Some(key) = self.keys.next() {
                return Ok(Some(key));
            }
            let Some(piece) = self.pieces.next() else {
                return Ok(None);
            };
            let keys = K::keys(piece?).expect("all runs have one width");
            self.keys = keys.into_iter();
        }
    }
}

fn merge_keys<K: Key>(
    store: &Store,
    pieces: Vec<Pieces<'_>>,
    name: (&str, i64),
) -> Result<Option<RunEntry>, Error> {
    let mut inputs = Vec::new();
    let mut least = BinaryHeap::new();
    for (index, pieces) in pieces.into_iter().enumerate() {
        let keys = Vec::new().into_iter();
        let mut input = Input { pieces, keys };
        least.extend(input.next()?.map(|key: K| Reverse((key, index))));
        inputs.push(input);
    }
    let mut writer = RunWriter::begin(store, name);
    let mut lot: Vec<K> = Vec::with_capacity(LOT);
    let mut last = None;
    while let Some(mut top) = least.peek_mut() {
        let Reverse((key, index)) = *top;
        match inputs[index].next()? {
            Some(next) => *top = Reverse((next, index)),
            None => drop(std::collections::binary_heap::PeekMut::pop(top)),
        }
        if last == Some(key) {
            continue;
        }
        last = Some(key);
        lot.push(key);
        if lot.len() == LOT {
            writer.write(&lot)?;
            lot.clear();
        }
    }
    writer.write(&lot)?;
    writer.finish()
}

/// A merge on a thread of its own. It ends early when the store's stop is asked for.
#[derive(Debug)]
pub struct Merging {
    /// What it merges.
    pub runs: Vec<RunEntry>,
    thread: JoinHandle<Result<Option<RunEntry>, Error>>,
}

impl Merging {
    /// Begins to merge runs, as `merge` does.
    pub fn start(store: Arc<Store>, runs: Vec<RunEntry>, groups: Groups, name: String) -> Self {
        let thread = std::thread::Builder::new().name("merge".to_owned());
        let thread = thread.spawn({
            let runs = runs.clone();
            move || merge(&store, &runs, groups, &name)
        });
        Self {
            runs,
            thread: thread.expect("the system has room for a thread"),
        }
    }

    /// Whether `finish` does not wait.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the merged run.
    ///
    /// # Errors
    /// As `merge`.
    ///
    /// # Panics
    /// If the merge has panicked.
    pub fn finish(self) -> Result<Option<RunEntry>, Error> {
        match self.thread.join() {
            Ok(merged) => merged,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

#[cfg(test)]
mod tests;
