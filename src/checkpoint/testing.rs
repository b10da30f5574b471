//! Stores in temporary folders, and what to put into them.
//!
//! Apart, because the tests of several files need it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deltajoin_workers::checkpoint::KeyRun;
use deltajoin_workers::ports::Stop;
use tempfile::TempDir;

use crate::checkpoint::{
    Groups, LogPosition, Manifest, Options, Run, RunEntry, Store, run_name, write_run,
};

/// The job of all tests.
pub(super) const JOB: &str = "test";

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A store in that folder.
pub(super) fn store(folder: &TempDir) -> Store {
    let location = format!("file://{}", folder.path().display());
    Store::open(&location, JOB, options(), Arc::new(Stop::default())).unwrap()
}

pub(super) fn options() -> Options {
    Options {
        environment: Vec::new(),
        patience: Duration::from_secs(2),
    }
}

/// Where the objects of that store are.
pub(super) fn objects(folder: &TempDir) -> PathBuf {
    folder.path().join(JOB)
}

/// Puts other bytes in the place of an object.
pub(super) fn overwrite(folder: &TempDir, name: &str, bytes: &[u8]) {
    fs::write(objects(folder).join(name), bytes).unwrap();
}

pub(super) fn read(folder: &TempDir, name: &str) -> Vec<u8> {
    fs::read(objects(folder).join(name)).unwrap()
}

/// The names in a folder, those that are hidden included.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A set of keys, narrow or wide, as a run.
pub(super) fn keys(set: &BTreeSet<u128>, narrow: bool) -> KeyRun {
    if narrow {
        let keys: BTreeSet<u64> = set.iter().map(|key| (key >> 64) as u64).collect();
        KeyRun::Narrow(keys.into_iter().collect())
    } else {
        KeyRun::Wide(set.iter().copied().collect())
    }
}

/// So many narrow keys, spread over all key groups; others for another seed.
pub(super) fn spread(count: u64, seed: u64) -> KeyRun {
    let keys = (0..count).map(|n| deltajoin_workers::key::mix64(n * 1000 + seed));
    let keys: BTreeSet<u64> = keys.collect();
    KeyRun::Narrow(keys.into_iter().collect())
}

/// Writes a run of a generation.
pub(super) fn write(store: &Store, generation: u64, keys: &KeyRun) -> RunEntry {
    let entry = write_run(store, (&run_name(generation), 0), keys).unwrap();
    entry.expect("there are keys")
}

/// All keys of some key groups of a run, narrow ones in the high half.
pub(super) fn read_keys(store: &Store, entry: &RunEntry, groups: Groups) -> Vec<u128> {
    let run = Run::open(store, entry).unwrap();
    run.read(groups)
        .flat_map(|piece| wide(&piece.unwrap()))
        .collect()
}

pub(super) fn wide(keys: &KeyRun) -> Vec<u128> {
    match keys {
        KeyRun::Narrow(keys) => keys.iter().map(|key| u128::from(*key) << 64).collect(),
        KeyRun::Wide(keys) => keys.clone(),
    }
}

/// A manifest of these runs.
pub(super) fn manifest(number: u64, generation: u64, runs: &[RunEntry]) -> Manifest {
    Manifest {
        job: JOB.to_owned(),
        number,
        generation,
        epoch: 1_767_225_600_000 + number,
        written_ms: 1_767_225_600_500 + number,
        log: LogPosition {
            marker: serde_json::json!({"version": 1}),
            next: 17,
        },
        offsets: BTreeMap::from([(0, 42), (3, 0)]),
        clock_ms: None,
        runs: runs.to_vec(),
        rows: Vec::new(),
        reference: None,
        told: BTreeMap::new(),
    }
}
