//! Manifests: what a checkpoint is made of, and which one is the newest.
//!
//! Apart from the objects that a manifest names: they are only bytes until it names them, and the
//! put of a manifest is the moment at which a checkpoint is there.
//!
//! # Invariants
//! * A number names one manifest for ever. One of an older generation is stepped over, never
//!   replaced; one of a newer generation stops us.
//! * A manifest that cannot be read is told, and never taken for none.

use std::collections::BTreeMap;

use deltajoin_workers::checkpoint::Told;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::bindings::{Marker, Place};
use crate::checkpoint::layout::{Kind, VERSION, check_groups, manifest_name};
use crate::checkpoint::sealed::{check_seal, damaged, seal};
use crate::checkpoint::store::{Put, Store};
use crate::checkpoint::{Error, ReferenceEntry, RowsEntry, RunEntry};

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The job.
    pub job: String,
    /// Its number: greater than that of every manifest before it.
    pub number: u64,
    /// The generation that has put it.
    pub generation: u64,
    /// The epoch S whose state it is.
    pub epoch: u64,
    /// When it was written, in milliseconds since 1970.
    pub written_ms: u64,
    /// Where the bindings go on behind S.
    pub log: LogPosition,
    /// For each partition the offset at S, where replay begins.
    pub offsets: BTreeMap<i32, i64>,
    /// The expiry clock at S, in milliseconds since 1970, if it stands anywhere.
    pub clock_ms: Option<i64>,
    /// The keys that are remembered at S.
    pub runs: Vec<RunEntry>,
    /// The rows that may be revised after S, in the order in which they came to each worker.
    pub rows: Vec<RowsEntry>,
    /// The reference table at S, if it has rows.
    pub reference: Option<ReferenceEntry>,
    /// Conflicts that were dead-lettered in the minute of S; not written if there are none.
    #[serde(default, skip_serializing_if = "Told::is_empty")]
    pub told: Told,
}

/// A place in the binding log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPosition {
    /// The marker of the generation that has put the manifest, as it stands in the log at the
    /// offset that is the generation's number. It has the settings that must last.
    pub marker: serde_json::Value,
    /// The offset of the first record behind what the checkpoint holds.
    pub next: u64,
}

impl Manifest {
    /// The name that it has as an object.
    pub fn name(&self) -> String {
        manifest_name(self.number)
    }

    /// Where the binding log is read on from.
    ///
    /// # Errors
    /// If the marker in it is none that this program knows.
    pub fn place(&self) -> Result<Place, Error> {
        let marker = self.log.marker.to_string();
        let marker = Marker::decode(marker.as_bytes()).map_err(|fault| {
            damaged(&self.name(), &format!("its marker cannot be read: {fault}"))
        })?;
        Ok(Place {
            marker: (self.generation, marker),
            next: self.log.next,
        })
    }

    /// The objects that it names.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        let runs = self.runs.iter().map(|run| run.name.as_str());
        let rows = self.rows.iter().map(|rows| rows.name.as_str());
        let reference = self.reference.iter().map(|table| table.name.as_str());
        runs.chain(rows).chain(reference)
    }

    /// How many keys it has.
    pub fn keys(&self) -> u64 {
        self.runs.iter().map(|run| run.keys).sum()
    }

    /// How many bytes its objects have.
    pub fn bytes(&self) -> u64 {
        let runs = self.runs.iter().map(|run| (&run.name, run.bytes));
        // After a change of workers several entries are of one object.
        let runs: BTreeMap<_, _> = runs.collect();
        let reference = self.reference.as_ref().map_or(0, |table| table.bytes);
        let rows = self.rows.iter().map(|rows| rows.bytes);
        runs.values().sum::<u64>() + rows.sum::<u64>() + reference
    }

    /// As an object.
    pub(super) fn encode(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Written<'a> {
            version: u32,
            manifest: &'a Manifest,
        }
        let written = Written {
            version: VERSION,
            manifest: self,
        };
        let text = serde_json::to_vec_pretty(&written);
        let mut text = text.expect("writing plain values to memory does not fail");
        text.push(b'\n');
        seal(&text).0
    }

    /// Reads the object of this name.
    pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Read {
            #[serde(rename = "checksum")]
            _checksum: String,
            #[serde(rename = "version")]
            _version: u32,
            manifest: Manifest,
        }
        check_seal(name, bytes)?;
        let Read { manifest, .. } =
            serde_json::from_slice(bytes).map_err(|error| damaged(name, &error.to_string()))?;
        manifest.check(name)?;
        Ok(manifest)
    }

    /// What is sealed may still be another's, or name what it must not.
    fn check(&self, name: &str) -> Result<(), Error> {
        let fault = |reason: String| Err(damaged(name, &reason));
        if self.name() != name {
            return fault(format!("it is manifest {}", self.number));
        }
        for run in &self.runs {
            if !matches!(Kind::of(&run.name), Kind::Run(_)) {
                return fault(format!("it names {:?} as a run", run.name));
            }
            if let Err(reason) = check_groups(run.groups()) {
                return fault(reason);
            }
        }
        for rows in &self.rows {
            if !matches!(Kind::of(&rows.name), Kind::Rows(_)) {
                return fault(format!("it names {:?} as rows", rows.name));
            }
        }
        match &self.reference {
            Some(table) if !matches!(Kind::of(&table.name), Kind::Reference(_)) => {
                fault(format!("it names {:?} as the reference table", table.name))
            }
            _ => Ok(()),
        }
    }
}

/// Puts a manifest under its number, or under the next one that no older generation has taken;
/// `manifest.number` is then the number that it has.
///
/// # Errors
/// If it is not known to be there, or if a newer generation has put one.
pub fn put_manifest(store: &Store, manifest: &mut Manifest) -> Result<(), Error> {
    assert_eq!(manifest.job, store.job(), "a manifest is put for its job");
    loop {
        let name = manifest.name();
        if store.put(&name, &manifest.encode())? == Put::Written {
            return Ok(());
        }
        match read(store, &name) {
            Ok(taken) if taken.generation > manifest.generation => {
                return Err(Error::Superseded {
                    name,
                    generation: manifest.generation,
                    newer: taken.generation,
                });
            }
            Ok(taken) => {
                let generation = taken.generation;
                warn!(%name, generation, "an older manifest has the number; taking the next one");
            }
            // It was deleted meanwhile, so there are later ones.
            Err(Error::Missing { .. }) => {}
            Err(error) if error.is_damage() => {
                warn!(%error, "the number has been taken; taking the next one");
            }
            Err(error) => return Err(error),
        }
        manifest.number += 1;
    }
}

fn read(store: &Store, name: &str) -> Result<Manifest, Error> {
    let manifest = Manifest::decode(name, &store.get(name)?)?;
    if manifest.job != store.job() {
        let reason = format!("it is of job {:?}", manifest.job);
        return Err(damaged(name, &reason));
    }
    Ok(manifest)
}

/// Where a job goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// The newest manifest that is good; none if there is none at all.
    pub manifest: Option<Manifest>,
    /// Newer ones that are damaged, and how, the newest first.
    pub damaged: Vec<Error>,
    /// The number of the next manifest.
    pub next_number: u64,
}

/// Finds the newest manifest that is good. Damaged ones are told of.
///
/// # Errors
/// If there are manifests and none is good, if the newest is of another version, or if they cannot
/// be read.
pub fn newest(store: &Store) -> Result<Newest, Error> {
    newest_below(store, u64::MAX)
}

/// The same of those with a smaller number: what is left when an object of a newer one is damaged.
///
/// # Errors
/// As `newest`.
pub fn newest_below(store: &Store, number: u64) -> Result<Newest, Error> {
    let numbers = manifest_numbers(store)?;
    let next_number = numbers.last().map_or(0, |last| last + 1);
    let (mut faults, mut deleted) = (Vec::new(), None);
    for number in numbers.into_iter().rev().filter(|known| *known < number) {
        let fault = match read(store, &manifest_name(number)) {
            Ok(manifest) => {
                return Ok(Newest {
                    manifest: Some(manifest),
                    damaged: faults,
                    next_number,
                });
            }
            // A newer generation has cleaned up meanwhile.
            Err(gone @ Error::Missing { .. }) => {
                deleted = Some(gone);
                continue;
            }
            Err(fault) if fault.is_damage() => fault,
            Err(other) => return Err(other),
        };
        error!("{fault}; going back to the checkpoint before it");
        faults.push(fault);
    }
    match faults.into_iter().next().or(deleted) {
        Some(fault) => Err(fault),
        None => Ok(Newest {
            manifest: None,
            damaged: Vec::new(),
            next_number,
        }),
    }
}

/// The numbers of all manifests, ascending.
fn manifest_numbers(store: &Store) -> Result<Vec<u64>, Error> {
    let objects = store.list()?;
    let numbers = objects
        .iter()
        .filter_map(|object| match Kind::of(&object.name) {
            Kind::Manifest(number) => Some(number),
            _ => None,
        });
    Ok(numbers.collect())
}

/// A checkpoint that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of its manifest.
    pub name: String,
    /// Its manifest, with epoch, time, generation, keys and bytes; or what is wrong with it.
    pub manifest: Result<Manifest, Error>,
}

/// All checkpoints, the oldest first.
///
/// # Errors
/// If they cannot be read.
pub fn list(store: &Store) -> Result<Vec<Checkpoint>, Error> {
    let mut checkpoints = Vec::new();
    for number in manifest_numbers(store)? {
        let name = manifest_name(number);
        let manifest = match read(store, &name) {
            // It has been deleted meanwhile.
            Err(Error::Missing { .. }) => continue,
            Err(error @ (Error::Damaged { .. } | Error::Version { .. })) => Err(error),
            manifest => Ok(manifest?),
        };
        checkpoints.push(Checkpoint { name, manifest });
    }
    Ok(checkpoints)
}

#[cfg(test)]
mod tests;
