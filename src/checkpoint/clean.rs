//! Clean-up: which objects nobody will ever need, and their deletion.
//!
//! Two rules, because an object that no manifest names may be garbage or may be about to be named:
//! what a generation itself has written goes when the last manifest that named it goes; what only
//! a crash can have left goes when a newer generation has put its first manifests.
//!
//! # Invariants
//! * The newest `KEPT` manifests stay, and all objects that they name.
//! * Nothing of a newer generation is deleted: if there is a manifest of one, nothing is.
//! * While a manifest that cannot be read is newer than one that is kept, nothing is deleted.
//! * A manifest goes before its objects, so one that is there never lacks what it names. What a
//!   crash leaves between the two is garbage by the second rule.

use std::collections::BTreeSet;

use tracing::{debug, warn};

use crate::checkpoint::layout::{ABOUT, Kind};
use crate::checkpoint::manifest::{Checkpoint, list};
use crate::checkpoint::store::{Object, Store};
use crate::checkpoint::{Error, Manifest};
use crate::fault_point;

/// Manifests that stay: the newest, and one to go back to.
const KEPT: usize = 2;

/// What `generation` may delete, in this order; `manifests` are all that there are.
pub fn garbage(objects: &[Object], manifests: &[Manifest], generation: u64) -> Vec<String> {
    let mut by_number: Vec<&Manifest> = manifests.iter().collect();
    by_number.sort_by_key(|manifest| manifest.number);
    let superseded = by_number.iter().any(|one| one.generation > generation);
    let Some((_, [oldest, ..])) = by_number.split_at_checked(by_number.len().wrapping_sub(KEPT))
    else {
        return Vec::new();
    };
    let unread = objects.iter().any(|object| match Kind::of(&object.name) {
        Kind::Manifest(number) => {
            number > oldest.number && by_number.iter().all(|known| known.number != number)
        }
        _ => false,
    });
    // A first manifest of this generation shows the older ones that they are.
    let begun = by_number.iter().any(|one| one.generation == generation);
    if superseded || unread || !begun {
        return Vec::new();
    }
    let (dropped, kept) = by_number.split_at(by_number.len() - KEPT);
    let kept: BTreeSet<&str> = kept.iter().flat_map(|one| one.objects()).collect();
    let named: BTreeSet<&str> = dropped.iter().flat_map(|one| one.objects()).collect();
    let mut garbage: Vec<String> = dropped.iter().map(|manifest| manifest.name()).collect();
    for Object { name, .. } in objects {
        let gone = match Kind::of(name) {
            Kind::Run(writer) | Kind::Rows(writer) | Kind::Reference(writer) => {
                let orphan = writer < generation;
                let own = writer == generation && named.contains(name.as_str());
                (orphan || own) && !kept.contains(name.as_str())
            }
            // All processes of this generation have read it before its first manifest.
            Kind::Start(writer) => writer <= generation,
            Kind::Manifest(_) | Kind::Other => false,
        };
        if gone {
            garbage.push(name.clone());
        }
    }
    garbage
}

/// Deletes what `generation` may delete; returns how many objects that were.
///
/// # Errors
/// If the store cannot be read, or an object not be deleted. The rest is for later: at the latest
/// for the next generation.
pub fn clean(store: &Store, generation: u64) -> Result<usize, Error> {
    // Objects first: what is put after this look is not in it.
    let objects = store.list()?;
    let mut manifests = Vec::new();
    for Checkpoint { name, manifest } in list(store)? {
        match manifest {
            Ok(manifest) => manifests.push(manifest),
            Err(error) => warn!(%name, %error, "clean-up leaves a manifest that cannot be read"),
        }
    }
    let garbage = garbage(&objects, &manifests, generation);
    for name in &garbage {
        debug!(%name, "deleting an object that no checkpoint needs");
        fault_point::reach("clean.delete");
        store.delete(name)?;
    }
    Ok(garbage.len() + store.sweep()?)
}

/// Deletes everything of the job: it begins anew. The newest manifests go first, so what a crash
/// leaves is an older checkpoint or none, and what says whose the location is goes last.
///
/// # Errors
/// If an object may still be there.
pub fn forget(store: &Store) -> Result<usize, Error> {
    let mut names: Vec<String> = store
        .list()?
        .into_iter()
        .map(|object| object.name)
        .filter(|name| name == ABOUT || Kind::of(name) != Kind::Other)
        .collect();
    // Stable, and so the older manifests stand behind the newer ones.
    names.reverse();
    names.sort_by_key(|name| match Kind::of(name) {
        Kind::Manifest(_) => 0,
        Kind::Other => 2,
        _ => 1,
    });
    for name in &names {
        store.delete(name)?;
    }
    Ok(names.len() + store.sweep()?)
}

#[cfg(test)]
mod tests;
