//! Rows of closed epochs to a file of JSON lines.
//!
//! A thread of its own encodes and writes, so that a slow disk slows no worker; it takes all
//! epochs that wait at once, so that small epochs cost few calls. What a start does with the rows
//! of earlier runs depends on the job: if it goes on, they stay, but for those that are not
//! recorded, which are cut off and written again; if it begins again, the file is made empty, for
//! runs must not mix. Until then the file is only `Reserved`: a job that cannot start takes nothing
//! away.
//!
//! # Invariants
//! * Rows of an epoch are written when it is closed, not before, and epochs in order.
//! * An epoch counts as written when its rows are sure to be in the file after a restart: when they
//!   are on the disk and recorded, or, in a job that begins again, when the system has them.
//! * One writer a file: an exclusive lock is held as long as the file is open.
//! * Nothing is taken from a file that is not known to be this sink's, and as it was left.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deltajoin_workers::batch::Batch;
use deltajoin_workers::ports::Sink;
use deltajoin_workers::queue::Waker;
use tracing::info;

use crate::codec::Format;
use crate::config::FileIdentity;
use crate::connectors::file::progress::Progress;
use crate::connectors::file::{Error, Fatal};

/// So much text is gathered before it is written: a large epoch is never held as text.
const WRITE_BYTES: usize = 1 << 20;

/// How often the disk is waited for, and progress recorded, at most.
const RECORD_INTERVAL: Duration = Duration::from_millis(100);

/// A file that can be written, and that no other job writes; it still has what was in it.
#[derive(Debug)]
pub struct Reserved {
    file: File,
    path: PathBuf,
    /// If the job goes on where it has ended, how far the file has come.
    progress: Option<Progress>,
}

/// A file of JSON lines that takes the rows of one worker.
pub struct JsonLines {
    /// Rows of the epoch that is not closed.
    rows: Vec<Batch>,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

/// A closed epoch.
struct Epoch {
    epoch: u64,
    rows: Vec<Batch>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something has been added to `waiting`, or `ending` has been set.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Epoch>,
    /// Whether the writer is writing what it took from `waiting`.
    writing: bool,
    /// No epoch will come any more.
    ending: bool,
    /// The first epoch that may still have rows that are not written.
    written: u64,
    waker: Option<Waker>,
}

impl Shared {
    /// A poisoned lock means that another thread has panicked: the process is ending anyway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that all rows up to `epoch` are written, and wakes the worker.
    fn note_written(mut state: MutexGuard<'_, State>, epoch: u64) {
        state.written = epoch + 1;
        let waker = state.waker.clone();
        drop(state);
        if let Some(waker) = waker {
            waker();
        }
    }
}

impl Reserved {
    /// Opens the file, which is made if it is not there, for this job alone. `inputs` are files
    /// that the job reads: none of them may be this one, by whatever link.
    pub fn open(path: &Path, inputs: &[&Path]) -> Result<Self, Error> {
        let failed = |source| create_failed(path, source);
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false);
        let file = options.open(path).map_err(failed)?;
        // Devices and pipes are not ours to lock, and lose nothing.
        if let Some(identity) = FileIdentity::known(&file.metadata().map_err(failed)?) {
            let is_same = |input: &&&Path| FileIdentity::of(input) == identity;
            if let Some(input) = inputs.iter().find(is_same) {
                return Err(Error::Input {
                    path: path.to_owned(),
                    input: input.to_path_buf(),
                });
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Locked {
                        path: path.to_owned(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            progress: None,
        })
    }

    /// Lets the file keep the rows that are recorded as those of this sink. A pipe or a device
    /// keeps nothing.
    ///
    /// # Errors
    /// If the file is not as it was left, or has rows that are not known to be this sink's.
    pub fn go_on(mut self, job: &str, sink: &str) -> Result<Self, Error> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|source| create_failed(&self.path, source))?;
        if !metadata.is_file() {
            return Ok(self);
        }
        let progress = left(&self.path, metadata.len(), job, sink)?;
        self.progress = Some(progress);
        Ok(self)
    }

    /// Lets the file be made empty, for a job that begins again.
    ///
    /// # Errors
    /// If it has the rows of a job that goes on.
    pub fn begin_again(self) -> Result<Self, Error> {
        match Progress::read(&self.path)? {
            None => Ok(self),
            Some(progress) => Err(Error::Foreign {
                path: self.path,
                job: progress.job,
                sink: progress.sink,
            }),
        }
    }

    /// The last epoch of which the file keeps all rows; 0 when none.
    pub fn written(&self) -> u64 {
        self.progress.as_ref().map_or(0, |progress| progress.epoch)
    }

    /// Takes away what the file does not keep.
    fn cut(&mut self) -> Result<(), Error> {
        let failed = |source| create_failed(&self.path, source);
        let length = self.file.metadata().map_err(failed)?;
        // Devices and pipes have nothing to be taken away.
        if !length.is_file() {
            return Ok(());
        }
        let kept = self.progress.as_ref().map_or(0, |progress| progress.length);
        self.file.set_len(kept).map_err(failed)?;
        self.file.seek(SeekFrom::Start(kept)).map_err(failed)?;
        let Some(progress) = &self.progress else {
            return Ok(());
        };
        let (path, cut) = (self.path.display(), length.len() - kept);
        if cut > 0 {
            let bytes = cut;
            info!(%path, bytes, "took out rows that were not recorded, to write them again");
        }
        // From here on the file is known to be this sink's.
        progress.write(&self.path)
    }
}

/// How far a file of so many bytes has come, if it is as a sink of this job has left it.
fn left(path: &Path, length: u64, job: &str, sink: &str) -> Result<Progress, Error> {
    let path_of = || path.to_owned();
    match Progress::read(path)? {
        Some(progress) if (&*progress.job, &*progress.sink) != (job, sink) => Err(Error::Foreign {
            path: path_of(),
            job: progress.job,
            sink: progress.sink,
        }),
        Some(progress) if progress.length > length => Err(Error::Shorter {
            path: path_of(),
            length,
            recorded: progress.length,
        }),
        Some(progress) => Ok(progress),
        None if length > 0 => Err(Error::Unrecorded { path: path_of() }),
        None => Ok(Progress::new(job, sink)),
    }
}

/// Looks whether a sink of this job could go on with a file, which need not be there; the last
/// epoch that it has, 0 when none. It is neither made nor locked.
///
/// # Errors
/// As `Reserved::go_on`.
pub fn look(path: &Path, job: &str, sink: &str) -> Result<u64, Error> {
    let length = match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Ok(0),
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(source) => return Err(create_failed(path, source)),
    };
    left(path, length, job, sink).map(|progress| progress.epoch)
}

impl JsonLines {
    /// Takes away what the file does not keep and begins to write. If writing fails later, `fatal`
    /// is told, and nothing counts as written any more.
    pub fn start(mut reserved: Reserved, format: Format, fatal: Fatal) -> Result<Self, Error> {
        reserved.cut()?;
        let Reserved {
            file,
            path,
            progress,
        } = reserved;
        let shared = Arc::new(Shared::default());
        let mut writer = Writer {
            file,
            path,
            format,
            text: Vec::new(),
            length: progress.as_ref().map_or(0, |progress| progress.length),
            progress,
            recorded: Instant::now(),
            unrecorded: None,
        };
        let thread = std::thread::Builder::new().name("file-sink".to_owned());
        let writer = thread.spawn({
            let shared = Arc::clone(&shared);
            move || {
                if let Err(error) = writer.run(&shared) {
                    fatal(error);
                }
            }
        });
        Ok(Self {
            rows: Vec::new(),
            shared,
            writer: Some(writer.expect("the system has room for a thread")),
        })
    }
}

impl Sink for JsonLines {
    fn write(&mut self, _epoch: u64, rows: Batch) {
        self.rows.push(rows);
    }

    fn close(&mut self, epoch: u64) {
        let rows = std::mem::take(&mut self.rows);
        let mut state = self.shared.lock();
        // Most epochs of a sink of dead letters are empty: they need not wake the writer.
        if rows.is_empty() && state.waiting.is_empty() && !state.writing {
            Shared::note_written(state, epoch);
            return;
        }
        state.waiting.push_back(Epoch { epoch, rows });
        drop(state);
        self.shared.changed.notify_one();
    }

    fn written(&self) -> u64 {
        self.shared.lock().written
    }

    fn wake_by(&mut self, waker: Waker) {
        self.shared.lock().waker = Some(waker);
    }
}

impl Drop for JsonLines {
    /// Waits until all closed epochs are written; rows of an epoch that was never closed are not.
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of a file has panicked");
        }
    }
}

/// The writer's thread.
struct Writer {
    file: File,
    path: PathBuf,
    format: Format,
    text: Vec<u8>,
    /// The bytes of the file.
    length: u64,
    /// What is recorded, if anything is to be.
    progress: Option<Progress>,
    /// When it was recorded.
    recorded: Instant,
    /// The last epoch whose rows are in the file, if it does not count as written yet.
    unrecorded: Option<u64>,
}

impl Writer {
    fn run(&mut self, shared: &Shared) -> Result<(), Error> {
        while let Some(epochs) = self.take(shared) {
            for Epoch { epoch, rows } in epochs {
                for batch in rows {
                    self.write(epoch, &batch)?;
                }
                self.unrecorded = Some(epoch);
            }
            self.length += flush(&mut self.file, &mut self.text, &self.path)?;
            if self.due().is_some_and(|due| due <= Instant::now()) {
                self.record(shared)?;
            }
        }
        self.record(shared)?;
        // Some file systems tell of a full disk only here; pipes and devices cannot be synced.
        let metadata = self.file.metadata();
        if metadata.is_ok_and(|metadata| metadata.is_file()) {
            self.sync()?;
        }
        Ok(())
    }

    /// Waits for closed epochs, or until something is to be recorded; none when no more will come.
    fn take(&self, shared: &Shared) -> Option<VecDeque<Epoch>> {
        let mut state = shared.lock();
        while state.waiting.is_empty() {
            if state.ending {
                return None;
            }
            let Some(due) = self.due() else {
                let woken = shared.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            let woken = shared.changed.wait_timeout(state, wait);
            (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.writing = true;
        Some(std::mem::take(&mut state.waiting))
    }

    /// When what is in the file must count as written; none if all of it does.
    fn due(&self) -> Option<Instant> {
        self.unrecorded?;
        Some(match &self.progress {
            Some(progress) if progress.length < self.length => self.recorded + RECORD_INTERVAL,
            _ => self.recorded,
        })
    }

    /// Makes what is in the file count as written.
    fn record(&mut self, shared: &Shared) -> Result<(), Error> {
        let Some(epoch) = self.unrecorded.take() else {
            return Ok(());
        };
        self.keep(epoch)?;
        let mut state = shared.lock();
        state.writing = false;
        Shared::note_written(state, epoch);
        Ok(())
    }

    /// Records the rows of all epochs up to `epoch`, if there are more than before.
    fn keep(&mut self, epoch: u64) -> Result<(), Error> {
        let Some(progress) = &self.progress else {
            return Ok(());
        };
        if progress.length == self.length {
            return Ok(());
        }
        let progress = progress.at(epoch, self.length);
        self.sync()?;
        progress.write(&self.path)?;
        self.progress = Some(progress);
        self.recorded = Instant::now();
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        let synced = self.file.sync_data();
        synced.map_err(|source| write_failed(&self.path, source))
    }

    fn write(&mut self, epoch: u64, batch: &Batch) -> Result<(), Error> {
        let rows = self.format.of(batch, epoch);
        for row in (0..batch.len()).filter(|row| !rows.told_by_next(*row)) {
            rows.line(row, &mut self.text);
            self.text.push(b'\n');
            if self.text.len() >= WRITE_BYTES {
                self.length += flush(&mut self.file, &mut self.text, &self.path)?;
            }
        }
        Ok(())
    }
}

/// Writes what was gathered, and returns how many bytes.
fn flush(file: &mut File, text: &mut Vec<u8>, path: &Path) -> Result<u64, Error> {
    file.write_all(text)
        .map_err(|source| write_failed(path, source))?;
    let length = text.len() as u64;
    text.clear();
    Ok(length)
}

fn create_failed(path: &Path, source: io::Error) -> Error {
    Error::Create {
        path: path.to_owned(),
        source,
    }
}

fn write_failed(path: &Path, source: io::Error) -> Error {
    Error::Write {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
