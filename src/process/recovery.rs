//! Which checkpoint a start goes on from, and the state in it.
//!
//! It is apart from `checkpoints`, which makes them while the job runs.
//!
//! # Invariants
//! * A checkpoint is taken only if every byte of it is good. One that is not is told of, and the
//!   one before it is taken: the log of bindings reaches back to it.
//! * All processes of a generation go on from the same one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::{Binding, Ends};
use deltajoin_workers::key::{KEY_GROUPS, Ownership};
use deltajoin_workers::state::KeySet;

use crate::bindings::Place;
use crate::checkpoint::{
    Error, Groups, Manifest, Run, RunEntry, Store, newest, newest_below, read_reference,
};
use crate::failure::Failure;

/// What the log must be read from: behind the older of the two checkpoints that are kept.
pub(super) fn place(store: &Store) -> Result<Option<Place>, Failure> {
    let Some(newest) = newest(store)?.manifest else {
        return Ok(None);
    };
    // If only one can be read, it is gone on from that one.
    let before = match newest_below(store, newest.number) {
        Ok(before) => before.manifest,
        Err(error) if error.is_damage() => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Some(before.unwrap_or(newest).place()?))
}

/// The newest checkpoint that is good, and the number of the next one.
pub(super) fn choose(store: &Store) -> Result<(Option<Manifest>, u64), Failure> {
    let mut found = newest(store)?;
    let number = found.next_number;
    while let Some(manifest) = found.manifest {
        let Err(error) = verify(store, &manifest) else {
            return Ok((Some(manifest), number));
        };
        if !error.is_damage() {
            return Err(error.into());
        }
        let number = manifest.number;
        tracing::error!(%error, number, "going back to the checkpoint before this one");
        found = newest_below(store, manifest.number)?;
        if found.manifest.is_none() {
            return Err(error.into());
        }
    }
    Ok((None, number))
}

fn verify(store: &Store, manifest: &Manifest) -> Result<(), Error> {
    let mut verified: Vec<&str> = Vec::new();
    for run in &manifest.runs {
        if !verified.contains(&&*run.name) {
            Run::open(store, run)?.verify()?;
            verified.push(&run.name);
        }
    }
    Ok(())
}

/// The key groups of each worker.
pub(super) fn groups(ownership: &Ownership, workers: usize) -> Vec<Groups> {
    let of_worker = |worker: usize| {
        let mut own = (0..KEY_GROUPS).filter(|group| ownership.worker(*group) == worker);
        let first = own.next().expect("a worker owns a key group at least");
        let group = |group| u16::try_from(group).expect("there are 1024");
        Groups {
            first: group(first),
            last: group(own.next_back().unwrap_or(first)),
        }
    };
    (0..workers).map(of_worker).collect()
}

/// The keys of these key groups.
pub(super) fn keys(
    store: &Store,
    manifest: &Manifest,
    groups: Groups,
    narrow: bool,
) -> Result<KeySet, Error> {
    let mut set = KeySet::new(narrow);
    for entry in &manifest.runs {
        if entry.groups().overlap(groups).is_none() {
            continue;
        }
        let run = Run::open(store, entry)?;
        for piece in run.read(groups) {
            set.extend(&piece?);
        }
    }
    Ok(set)
}

/// The runs of a checkpoint, each cut into the key groups of single workers.
pub(super) fn runs(
    store: &Store,
    manifest: &Manifest,
    groups: &[Groups],
) -> Result<Vec<RunEntry>, Error> {
    let mut runs = Vec::new();
    for entry in &manifest.runs {
        let run = Run::open(store, entry)?;
        runs.extend(groups.iter().filter_map(|groups| run.restrict(*groups)));
    }
    Ok(runs)
}

/// What a checkpoint has bound: where each partition is read from, and the reference table.
pub(super) fn bound(
    store: &Store,
    manifest: &Manifest,
    schema: &Arc<BatchSchema>,
) -> Result<Binding, Error> {
    let reference = match &manifest.reference {
        Some(entry) => read_reference(store, entry, Arc::clone(schema))?,
        None => Vec::new(),
    };
    let offsets = manifest.offsets.iter();
    Ok(Binding {
        epoch: manifest.epoch,
        ends: offsets.map(|(partition, end)| (*partition, *end)).collect(),
        reference,
    })
}

/// Where each partition is read from, and how far it is bound. One that came later is read from its
/// beginning.
pub(super) fn ranges(first: &Ends, later: &VecDeque<Binding>) -> (Ends, Ends) {
    let mut starts: BTreeMap<i32, i64> = first.iter().copied().collect();
    let mut bound = starts.clone();
    for (partition, end) in later.iter().flat_map(|binding| &binding.ends) {
        starts.entry(*partition).or_insert(0);
        bound.insert(*partition, *end);
    }
    (starts.into_iter().collect(), bound.into_iter().collect())
}
