//! Reads all that is kept, for whoever must be sure that it is good.
//!
//! # Invariants
//! * A fault does not end the look: all of them are found.
//! * Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::manifest::{Checkpoint, list};
use crate::checkpoint::reference::verify_reference;
use crate::checkpoint::rows::verify_rows;
use crate::checkpoint::sealed::damaged;
use crate::checkpoint::store::Store;
use crate::checkpoint::{Error, Run};

/// What a look at every byte has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Objects that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong.
    pub faults: Vec<Error>,
}

impl Verified {
    fn note(&mut self, bytes: u64, outcome: Result<(), Error>) -> Result<(), Error> {
        self.objects += 1;
        match outcome {
            Ok(()) => self.bytes += bytes,
            Err(fault @ (Error::Missing { .. } | Error::Damaged { .. })) => self.faults.push(fault),
            Err(fault @ Error::Version { .. }) => self.faults.push(fault),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Reads every byte of every checkpoint and of what it names.
///
/// # Errors
/// If they cannot be read. Damage is no error, but a finding.
pub fn verify_all(store: &Store) -> Result<Verified, Error> {
    let mut verified = Verified::default();
    let sizes = store.list()?.into_iter();
    let sizes: BTreeMap<String, u64> = sizes.map(|object| (object.name, object.bytes)).collect();
    // What stands behind the end of an object is read by nobody.
    let check_size = |name: &str, bytes: u64| match sizes.get(name) {
        Some(found) if *found != bytes => {
            let reason = format!("it has {found} bytes, not {bytes}");
            Err(damaged(name, &reason))
        }
        _ => Ok(()),
    };
    let mut seen = BTreeSet::new();
    for Checkpoint { manifest, .. } in list(store)? {
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(fault) => {
                verified.note(0, Err(fault))?;
                continue;
            }
        };
        verified.note(manifest.encode().len() as u64, Ok(()))?;
        for entry in &manifest.runs {
            // Another manifest may say something else of the same object.
            let groups = (entry.first_group, entry.last_group);
            if seen.insert((entry.name.clone(), entry.checksum, groups, entry.keys)) {
                let outcome = check_size(&entry.name, entry.bytes)
                    .and_then(|()| Run::open(store, entry)?.verify());
                verified.note(entry.bytes, outcome)?;
            }
        }
        for entry in &manifest.rows {
            if seen.insert((entry.name.clone(), entry.checksum, (0, 0), entry.rows)) {
                verified.note(entry.bytes, verify_rows(store, entry).map(drop))?;
            }
        }
        if let Some(table) = &manifest.reference
            && seen.insert((table.name.clone(), table.checksum, (0, 0), table.rows))
        {
            verified.note(table.bytes, verify_reference(store, table).map(drop))?;
        }
    }
    Ok(verified)
}

#[cfg(test)]
mod tests;
