//! Keys and rows that have left memory: keys as sorted runs in a folder of this process, behind
//! filters in memory, and rows beside them.
//!
//! A run here has the same bytes as the object of a checkpoint that it became or came from, so its
//! name says which that is: after a restart, what is still here need not be fetched or made again.
//!
//! | file | content |
//! |---|---|
//! | `run-*.keys` | a run, see `run` |
//! | `filters-BUCKET-CHECKSUM-FIRST-LAST` | its filters, see `index` |
//! | `window-WORKER-NUMBER` | rows of the window, see `rows` |
//!
//! The checksum is that of the checkpoint's object, and the key groups those that count of it.
//!
//! # Invariants
//! * What is here is nobody's only copy: a checkpoint has the same keys, or their bindings are
//!   replayed.
//! * No answer is given from bytes whose checksum is another.
//! * Filters are written after their run and deleted before it.

mod index;
mod rows;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deltajoin_workers::key::{KEY_GROUPS, key_group};
use deltajoin_workers::ports::Stop;
use deltajoin_workers::state::{ColdRun, ColdRuns, Found, Freeze};
use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::cold::index::{Builder, ColdKey, Index, PAGE_KEYS};
use crate::checkpoint::run::{HEADER_BYTES, Key, RunWriter};
use crate::checkpoint::sealed::damaged;
use crate::checkpoint::store::{Options, Store};
use crate::checkpoint::{Error, Groups, Run, RunEntry, run_name};

pub use rows::RowFiles;

/// How long the folder is tried: what it lacks stays in memory.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the longest page.
const PAGE_BYTES_MAX: usize = PAGE_KEYS * size_of::<u128>();

/// Ends the process: a worker that asks must not go on without an answer.
pub type OnFault = Box<dyn Fn(&Error) + Send + Sync>;

/// The folder of a process.
pub struct ColdFolder {
    store: Store,
    path: PathBuf,
    /// The names of what is in use: of filters, each with its run, and of rows.
    used: Mutex<BTreeMap<String, String>>,
    /// The names of what nobody needs any more: filters first.
    garbage: Mutex<Vec<String>>,
    on_fault: OnFault,
}

/// A run in the folder, and its filters in memory.
pub struct ColdFile {
    folder: Arc<ColdFolder>,
    /// The name of its filters.
    name: String,
    run: RunEntry,
    narrow: bool,
    file: File,
    index: Index,
    retired: AtomicBool,
}

impl ColdFolder {
    /// Opens the folder of a process of a job, below `dir`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(
        dir: &Path,
        (job, process): (&str, usize),
        stop: Arc<Stop>,
        on_fault: OnFault,
    ) -> Result<Self, Error> {
        let dir = dir.join(format!("process-{process}"));
        let location = format!("file://{}", dir.display());
        let options = Options {
            patience: PATIENCE,
            environment: Vec::new(),
        };
        Ok(Self {
            store: Store::connect(&location, job, options, stop, true)?,
            path: dir.join(job),
            used: Mutex::default(),
            garbage: Mutex::default(),
            on_fault,
        })
    }

    /// Deletes what nobody needs any more. It may take a while, for which no worker waits.
    pub fn collect(&self) {
        let garbage = std::mem::take(&mut *self.garbage());
        for name in garbage {
            // What stays is deleted by the next start.
            drop(self.store.delete(&name));
        }
    }

    fn garbage(&self) -> MutexGuard<'_, Vec<String>> {
        self.garbage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes what is not in use: what earlier starts have left.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub fn clean(&self) -> Result<(), Error> {
        let used: BTreeSet<String> = {
            let used = self.used();
            used.iter()
                .flat_map(|(filters, run)| [filters.clone(), run.clone()])
                .collect()
        };
        for object in self.store.list()? {
            if !used.contains(&object.name) {
                self.store.delete(&object.name)?;
            }
        }
        self.store.sweep().map(drop)
    }

    /// The keys of a run of a checkpoint, or of its key groups that count, if they are here.
    pub fn find(self: &Arc<Self>, entry: &RunEntry) -> Option<Arc<ColdFile>> {
        let name = filters_name(entry);
        match self.open_file(&name) {
            Ok(file) if file.run.keys == entry.keys => Some(file),
            Ok(_) | Err(Error::Missing { .. }) => None,
            Err(error) => {
                tracing::warn!(%error, "it is made again from the checkpoint");
                drop(self.store.delete(&name));
                None
            }
        }
    }

    fn open_file(self: &Arc<Self>, name: &str) -> Result<Arc<ColdFile>, Error> {
        let bytes = self.store.get(name)?;
        let (run, index) = Index::decode(&bytes).map_err(|reason| damaged(name, &reason))?;
        let narrow = Run::open(&self.store, &run)?.is_narrow();
        self.file(name.to_owned(), (run, narrow), index)
    }

    fn file(
        self: &Arc<Self>,
        name: String,
        (run, narrow): (RunEntry, bool),
        index: Index,
    ) -> Result<Arc<ColdFile>, Error> {
        let path = self.path.join(&run.name);
        let file = File::open(&path).map_err(|error| damaged(&run.name, &error.to_string()))?;
        self.used().insert(name.clone(), run.name.clone());
        Ok(Arc::new(ColdFile {
            folder: Arc::clone(self),
            name,
            run,
            narrow,
            file,
            index,
            retired: AtomicBool::new(false),
        }))
    }

    /// Fetches the keys of a run of a checkpoint, as far as the key groups of `entry` count.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or cannot be written here.
    pub fn fetch(
        self: &Arc<Self>,
        run: &Run<'_>,
        entry: &RunEntry,
    ) -> Result<Arc<ColdFile>, Error> {
        // What an earlier start has left there may be damaged.
        self.store.delete(&filters_name(entry))?;
        match run.is_narrow() {
            true => self.copy::<u64>(run, entry),
            false => self.copy::<u128>(run, entry),
        }
    }

    fn copy<K: ColdKey>(
        self: &Arc<Self>,
        run: &Run<'_>,
        entry: &RunEntry,
    ) -> Result<Arc<ColdFile>, Error> {
        let mut writing = Writing::<K>::begin(self, entry.bucket);
        for piece in run.read(entry.groups()) {
            let keys = K::keys(piece?).expect("a run has keys of one width");
            writing.write(&keys)?;
        }
        let (run, index) = writing.finish()?;
        self.complete(filters_name(entry), (run, K::BYTES == 8), index)
    }

    /// Writes the filters of a run that is here.
    fn complete(
        self: &Arc<Self>,
        name: String,
        (run, narrow): (RunEntry, bool),
        index: Index,
    ) -> Result<Arc<ColdFile>, Error> {
        self.store.put(&name, &index.encode(&run))?;
        self.file(name, (run, narrow), index)
    }

    /// Writes keys that are to leave memory, with those of the bucket that are here.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn freeze(self: &Arc<Self>, freeze: &Freeze) -> Result<Arc<ColdFile>, Error> {
        let narrow = freeze.later.is_narrow();
        match narrow {
            true => self.gather::<u64>(freeze),
            false => self.gather::<u128>(freeze),
        }
    }

    fn gather<K: ColdKey>(self: &Arc<Self>, freeze: &Freeze) -> Result<Arc<ColdFile>, Error> {
        let later: BTreeSet<K> = {
            let keys = K::keys(freeze.later.clone());
            keys.expect("keys are of one width").into_iter().collect()
        };
        let files = own_files(&freeze.cold);
        let before = files.iter().map(|file| Run::open(&self.store, &file.run));
        let before: Vec<Run<'_>> = before.collect::<Result<_, _>>()?;
        let mut writing = Writing::<K>::begin(self, freeze.bucket);
        for group in 0..KEY_GROUPS {
            let mut keys: Vec<K> = Vec::new();
            for set in &freeze.sets {
                keys.extend(set.group(group).map(K::of));
            }
            keys.retain(|key| !later.contains(key));
            let group = u16::try_from(group).expect("there are 1024");
            let only = Groups::only(group);
            for piece in before.iter().flat_map(|run| run.read(only)) {
                keys.extend(K::keys(piece?).expect("keys are of one width"));
            }
            // Each set and each run is in order: they are only merged.
            keys.sort();
            keys.dedup();
            writing.write(&keys)?;
        }
        let (run, index) = writing.finish()?;
        self.complete(filters_name(&run), (run, K::BYTES == 8), index)
    }

    /// Writes the same run, as an object of a checkpoint.
    ///
    /// # Errors
    /// If it cannot be read here, or written there.
    pub fn upload(&self, file: &ColdFile, store: &Store, name: &str) -> Result<RunEntry, Error> {
        let run = Run::open(&self.store, &file.run)?;
        let entry = match file.narrow {
            true => copy::<u64>(&run, store, (name, file.run.bucket)),
            false => copy::<u128>(&run, store, (name, file.run.bucket)),
        };
        Ok(entry?.expect("a run on disk has keys"))
    }
}

fn copy<K: Key>(
    run: &Run<'_>,
    store: &Store,
    name: (&str, i64),
) -> Result<Option<RunEntry>, Error> {
    let mut writer = RunWriter::<K>::begin(store, name);
    for piece in run.read(Groups::ALL) {
        writer.write(&K::keys(piece?).expect("a run has keys of one width"))?;
    }
    writer.finish()
}

/// The files among runs: all of them are.
fn own_files(runs: &ColdRuns) -> Vec<&ColdFile> {
    let own = runs.iter().map(|run| {
        let any: &dyn Any = &**run;
        any.downcast_ref().expect("a process has one folder")
    });
    own.collect()
}

/// What filters of a run are called, of which some key groups count.
fn filters_name(entry: &RunEntry) -> String {
    let RunEntry {
        bucket,
        checksum,
        first_group,
        last_group,
        ..
    } = entry;
    format!("filters-{bucket}-{checksum:016x}-{first_group:04}-{last_group:04}")
}

/// A run that is being written, and its index.
struct Writing<'a, K> {
    name: String,
    run: RunWriter<'a, K>,
    index: Builder,
}

impl<'a, K: ColdKey> Writing<'a, K> {
    fn begin(folder: &'a ColdFolder, bucket: i64) -> Self {
        // Generations do not matter here: names have a random part.
        let name = run_name(0);
        Self {
            run: RunWriter::begin(&folder.store, (&name, bucket)),
            name,
            index: Builder::default(),
        }
    }

    fn write(&mut self, keys: &[K]) -> Result<(), Error> {
        let failed = |reason: String| damaged(&self.name, &reason);
        for key in keys {
            self.index.push(*key).map_err(failed)?;
        }
        self.run.write(keys)
    }

    fn finish(self) -> Result<(RunEntry, Index), Error> {
        let failed = |reason: String| damaged(&self.name, &reason);
        let index = self.index.finish().map_err(failed)?;
        let run = self
            .run
            .finish()?
            .ok_or_else(|| damaged(&self.name, "it has no keys"))?;
        Ok((run, index))
    }
}

impl ColdFile {
    /// The run, by its name here.
    pub fn entry(&self) -> &RunEntry {
        &self.run
    }

    /// Looks for a key on a page.
    fn look(&self, key: u128, page: usize, checksum: u64) -> Result<bool, String> {
        let key_bytes = if self.narrow { 8 } else { 16 };
        let before = (page * PAGE_KEYS) as u64;
        let count = (self.run.keys - before).min(PAGE_KEYS as u64);
        let mut buffer = [0; PAGE_BYTES_MAX];
        let bytes = &mut buffer[..count as usize * key_bytes as usize];
        let offset = HEADER_BYTES + before * key_bytes;
        let read = self.file.read_exact_at(bytes, offset);
        read.map_err(|error| format!("page {page}: {error}"))?;
        if xxh3_64(bytes) != checksum {
            return Err(format!("the checksum of page {page} is another"));
        }
        Ok(match self.narrow {
            true => {
                let (keys, _) = bytes.as_chunks();
                let key = (key >> 64) as u64;
                keys.binary_search_by_key(&key, |key| u64::from_le_bytes(*key))
                    .is_ok()
            }
            false => {
                let (keys, _) = bytes.as_chunks();
                keys.binary_search_by_key(&key, |key| u128::from_le_bytes(*key))
                    .is_ok()
            }
        })
    }
}

impl ColdRun for ColdFile {
    fn find(&self, key: u128) -> Found {
        let high = (key >> 64) as u64;
        let hash = if self.narrow { high } else { key as u64 };
        if !self.index.may_have(key_group(high), hash) {
            return Found::No;
        }
        let Some((page, checksum)) = self.index.page(key) else {
            return Found::No;
        };
        match self.look(key, page, checksum) {
            Ok(true) => Found::Yes,
            Ok(false) => Found::NoAfterReading,
            Err(reason) => {
                // The next start fetches it again.
                drop(self.folder.store.delete(&self.name));
                let path = self.folder.path.join(&self.run.name);
                (self.folder.on_fault)(&damaged(&path.to_string_lossy(), &reason));
                unreachable!("a fault ends the process")
            }
        }
    }

    fn len(&self) -> u64 {
        self.run.keys
    }

    fn bytes(&self) -> u64 {
        self.index.bytes()
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }
}

impl Drop for ColdFile {
    fn drop(&mut self) {
        self.folder.used().remove(&self.name);
        if *self.retired.get_mut() {
            let names = [&self.name, &self.run.name].map(String::clone);
            self.folder.garbage().extend(names);
        }
    }
}

impl std::fmt::Debug for ColdFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ColdFile")
            .field("name", &self.name)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ColdFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ColdFolder")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
