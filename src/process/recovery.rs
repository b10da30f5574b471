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

use crate::bindings::{Marker, Place};
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
    let Manifest {
        generation, log, ..
    } = before.unwrap_or(newest);
    let marker = log.marker.to_string();
    let marker = Marker::decode(marker.as_bytes()).map_err(|fault| {
        Failure::usage(format!("cannot read the marker of a manifest: {fault}"))
    })?;
    Ok(Some(Place {
        marker: (generation, marker),
        next: log.next,
    }))
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
        skipped: Vec::new(),
    })
}

/// Where each partition is read from, and how far it is bound. One that came later is read from its
/// beginning, and one of which nothing was left from where reading went on.
pub(super) fn ranges(first: &Ends, later: &VecDeque<Binding>) -> BTreeMap<i32, (i64, i64)> {
    let first = first
        .iter()
        .map(|(partition, end)| (*partition, (*end, *end)));
    let mut ranges: BTreeMap<_, _> = first.collect();
    for binding in later {
        for skipped in &binding.skipped {
            let range = ranges.entry(skipped.partition).or_insert((0, 0));
            // What is bound before it must be made again: then it is not gone on without it.
            if *range == (skipped.from, skipped.from) {
                *range = (skipped.to, skipped.to);
            }
        }
        for (partition, end) in &binding.ends {
            ranges.entry(*partition).or_insert((0, 0)).1 = *end;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::bindings::Skipped;

    use super::*;

    #[test]
    fn what_was_skipped_is_skipped_again_if_nothing_before_it_is_made_again() {
        let binding = |ends: &[(i32, i64)], skipped: &[(i32, i64, i64)]| Binding {
            ends: ends.to_vec(),
            skipped: skipped
                .iter()
                .map(|(partition, from, to)| Skipped {
                    partition: *partition,
                    from: *from,
                    to: *to,
                })
                .collect(),
            ..Binding::default()
        };
        let first = vec![(0, 10), (1, 10), (2, 10)];
        let later = VecDeque::from([
            binding(&[(0, 20), (1, 12)], &[(0, 10, 20)]),
            binding(
                &[(0, 31), (1, 40), (3, 9)],
                &[(0, 20, 30), (1, 12, 33), (3, 0, 7)],
            ),
        ]);
        let expected = [(0, (30, 31)), (1, (10, 40)), (2, (10, 10)), (3, (7, 9))];
        assert_eq!(ranges(&first, &later), BTreeMap::from(expected));
    }
}
