//! Which keys and rows of a process are in memory and which on disk, by the settings in `[state]`.
//!
//! It is apart from `recovery` and `checkpoints`, which both move keys.
//!
//! # Invariants
//! * A disk that fails costs memory, never keys.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use deltajoin_workers::ports::Stop;
use deltajoin_workers::state::{Limit, RowLimit};

use crate::checkpoint::{Action, ColdFile, ColdFolder, Error, OnFault, RowFiles, Run, RunEntry};
use crate::config::Config;
use crate::failure::Failure;
use crate::process::Process;

/// Fewer keys of a bucket than these stay in memory: half a megabyte.
const KEYS_MIN: u64 = 1 << 16;

/// Where keys go that leave memory, and when they do.
#[derive(Clone, Debug)]
pub(super) struct Cold {
    pub(super) folder: Arc<ColdFolder>,
    /// That of each worker.
    pub(super) limit: Limit,
}

impl Cold {
    /// That of a process.
    pub(super) fn open(process: &Process, stop: &Arc<Stop>) -> Result<Self, Failure> {
        let Process { config, index, .. } = process;
        let fatal = process.fatal;
        let on_fault = move |error: &Error| {
            let failure = Failure::failed(error.to_string());
            fatal(&failure.hint("Its keys are in the checkpoint too: a restart fetches them."));
        };
        let dir = &config.state.dir;
        let bytes = (config.state.memory_limit / config.cluster.threads) as u64;
        let limit = Limit {
            bytes,
            keys_min: KEYS_MIN,
        };
        Self::at(dir, (&config.job, *index), stop, Box::new(on_fault), limit)
            .map_err(|error| unusable(dir, &error))
    }

    /// Removes what processes of a job have left on this host.
    pub(super) fn forget(config: &Config) -> Result<(), Failure> {
        let dir = &config.state.dir;
        let processes = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            processes => processes.map_err(|error| unreadable(dir, &error))?,
        };
        for process in processes {
            let folder = process.map_err(|error| unreadable(dir, &error))?.path();
            let is_own = |name: &str| name.starts_with("process-");
            if !folder
                .file_name()
                .and_then(OsStr::to_str)
                .is_some_and(is_own)
            {
                continue;
            }
            let folder = folder.join(&config.job);
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed.map_err(|error| unreadable(&folder, &error))?,
            }
        }
        Ok(())
    }

    /// In this folder, with this limit.
    pub(super) fn at(
        dir: &Path,
        process: (&str, usize),
        stop: &Arc<Stop>,
        on_fault: OnFault,
        limit: Limit,
    ) -> Result<Self, Error> {
        let folder = ColdFolder::open(dir, process, Arc::clone(stop), on_fault)?;
        let folder = Arc::new(folder);
        Ok(Self { folder, limit })
    }

    /// When rows of the window leave the memory of a worker. Keys leave it at three quarters of the
    /// limit, rows included: so rows that take a quarter do not drive all keys out.
    pub(super) fn rows(&self, worker: usize) -> RowLimit {
        RowLimit {
            bytes: self.limit.bytes / 4,
            segment_rows: RowLimit::SEGMENT_ROWS,
            folder: Box::new(RowFiles::new(Arc::clone(&self.folder), worker)),
        }
    }

    /// The keys of a run, as far as `entry` counts them, on disk; none if the disk does not take
    /// them.
    pub(super) fn load(
        &self,
        run: &Run<'_>,
        entry: &RunEntry,
    ) -> Result<Option<Arc<ColdFile>>, Error> {
        if let Some(file) = self.folder.find(entry) {
            return Ok(Some(file));
        }
        match self.folder.fetch(run, entry) {
            Err(error) if is_of_disk(&error) => {
                let detail = error.detail();
                tracing::error!(%error, detail, "keys that were to be on disk are in memory");
                Ok(None)
            }
            fetched => fetched.map(Some),
        }
    }
}

/// Whether what was wrong is the folder, which alone is written to.
fn is_of_disk(error: &Error) -> bool {
    let written = |action: &Action| matches!(action, Action::Write | Action::Delete);
    match error {
        Error::Refused { action, .. }
        | Error::Full { action, .. }
        | Error::Unavailable { action, .. } => written(action),
        _ => false,
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("could not remove {path:?}: {error}"))
}

/// What is wrong with `state.dir`.
pub(super) fn unusable(dir: &Path, error: &Error) -> Failure {
    let message = format!("state.dir = {dir:?} cannot be used");
    let detail = error.detail().unwrap_or_else(|| error.to_string());
    if let Error::Full { .. } = error {
        return Failure::failed(message)
            .detail(detail)
            .hint("Make room on the disk.");
    }
    Failure::usage(message)
        .detail(detail)
        .hint("Name a folder on a local disk that this user may write.")
}
