//! Rows of closed epochs to a file of JSON lines.
//!
//! A thread of its own encodes and writes, so that a slow disk slows no worker; it takes all
//! epochs that wait at once, so that small epochs cost few calls. A start makes the file empty:
//! results begin again from the start of the events, and the runs must not mix. Until then the
//! file is only `Reserved`: a job that cannot start takes nothing away.
//!
//! # Invariants
//! * Rows of an epoch are written when it is closed, not before, and epochs in order.
//! * An epoch counts as written when the system has its rows: they survive this process.
//! * One writer a file: an exclusive lock is held as long as the file is open.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use deltajoin_workers::batch::Batch;
use deltajoin_workers::ports::Sink;
use deltajoin_workers::queue::Waker;

use crate::codec::Format;
use crate::config::FileIdentity;
use crate::connectors::file::{Error, Fatal};

/// So much text is gathered before it is written: a large epoch is never held as text.
const WRITE_BYTES: usize = 1 << 20;

/// A file that can be written, and that no other job writes; it still has what was in it.
#[derive(Debug)]
pub struct Reserved {
    file: File,
    path: PathBuf,
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
        })
    }
}

impl JsonLines {
    /// Makes the file empty and begins to write. If writing fails later, `fatal` is told, and
    /// nothing counts as written any more.
    pub fn start(reserved: Reserved, format: Format, fatal: Fatal) -> Result<Self, Error> {
        let Reserved { file, path } = reserved;
        let failed = |source| create_failed(&path, source);
        // Devices and pipes have nothing to be taken away.
        if file.metadata().map_err(failed)?.is_file() {
            file.set_len(0).map_err(failed)?;
        }
        let shared = Arc::new(Shared::default());
        let mut writer = Writer {
            file,
            path,
            format,
            text: Vec::new(),
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
}

impl Writer {
    fn run(&mut self, shared: &Shared) -> Result<(), Error> {
        while let Some(epochs) = Self::take(shared) {
            let last = epochs.back().expect("only what waits is taken").epoch;
            for Epoch { rows, .. } in epochs {
                for batch in rows {
                    self.write(&batch)?;
                }
            }
            flush(&mut self.file, &mut self.text, &self.path)?;
            let mut state = shared.lock();
            state.writing = false;
            Shared::note_written(state, last);
        }
        // Some file systems tell of a full disk only here; pipes and devices cannot be synced.
        let metadata = self.file.metadata();
        if metadata.is_ok_and(|metadata| metadata.is_file()) {
            let synced = self.file.sync_data();
            synced.map_err(|source| write_failed(&self.path, source))?;
        }
        Ok(())
    }

    /// Waits for closed epochs; none when no more will come.
    fn take(shared: &Shared) -> Option<VecDeque<Epoch>> {
        let mut state = shared.lock();
        while state.waiting.is_empty() {
            if state.ending {
                return None;
            }
            let woken = shared.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.writing = true;
        Some(std::mem::take(&mut state.waiting))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), Error> {
        let rows = self.format.of(batch);
        for row in 0..batch.len() {
            rows.value(row, &mut self.text);
            self.text.push(b'\n');
            if self.text.len() >= WRITE_BYTES {
                flush(&mut self.file, &mut self.text, &self.path)?;
            }
        }
        Ok(())
    }
}

fn flush(file: &mut File, text: &mut Vec<u8>, path: &Path) -> Result<(), Error> {
    file.write_all(text)
        .map_err(|source| write_failed(path, source))?;
    text.clear();
    Ok(())
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
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use deltajoin_workers::batch::{BatchBuilder, BatchSchema, Origin, Slot};
    use deltajoin_workers::schema::{Column, ColumnType, Schema};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn schema() -> Arc<BatchSchema> {
        let id = Column::new("id", ColumnType::Int64);
        BatchSchema::register(Schema::new(vec![id], vec![0]))
    }

    fn rows(ids: std::ops::Range<i64>) -> Batch {
        let mut builder = BatchBuilder::new(schema());
        for id in ids {
            builder.push(&[Slot::Int64(id)], Origin::default(), 1);
        }
        builder.finish()
    }

    fn format() -> Format {
        Format::rows(&schema().schema)
    }

    fn never() -> Fatal {
        Arc::new(|error| panic!("{error}"))
    }

    fn start(path: &Path) -> JsonLines {
        JsonLines::start(Reserved::open(path, &[]).unwrap(), format(), never()).unwrap()
    }

    /// Waits by the waker until all rows before `epoch` are written.
    fn wait_for(sink: &mut JsonLines, epoch: u64) {
        let (sender, woken) = mpsc::channel();
        let sender = Mutex::new(sender);
        sink.wake_by(Arc::new(move || {
            // The test may have seen enough.
            let _gone = sender.lock().unwrap().send(());
        }));
        while sink.written() < epoch {
            woken
                .recv_timeout(DEADLINE)
                .expect("the sink wakes its worker");
        }
    }

    #[test]
    fn rows_are_written_when_their_epoch_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("joined.jsonl");
        std::fs::write(&path, "of an earlier run\n").unwrap();
        let text = || std::fs::read_to_string(&path).unwrap();
        let reserved = Reserved::open(&path, &[]).unwrap();
        assert_eq!(text(), "of an earlier run\n");
        let mut sink = JsonLines::start(reserved, format(), never()).unwrap();
        assert_eq!(text(), "");
        sink.close(3);
        wait_for(&mut sink, 4);
        sink.write(5, rows(0..2));
        sink.write(5, rows(2..3));
        assert_eq!(sink.written(), 4);
        assert_eq!(text(), "");
        sink.close(5);
        wait_for(&mut sink, 6);
        let epoch_5 = "{\"id\":0}\n{\"id\":1}\n{\"id\":2}\n";
        assert_eq!(text(), epoch_5);
        sink.write(7, rows(3..4));
        sink.close(7);
        sink.close(8);
        sink.write(9, rows(4..5));
        drop(sink);
        assert_eq!(text(), format!("{epoch_5}{{\"id\":3}}\n"));
    }

    #[test]
    fn a_large_epoch_is_written_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("joined.jsonl");
        let mut sink = start(&path);
        let count = i64::try_from(WRITE_BYTES / 4).unwrap();
        sink.write(1, rows(0..count));
        sink.close(1);
        wait_for(&mut sink, 2);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() > 2 * WRITE_BYTES);
        let expected = (0..count).map(|id| format!("{{\"id\":{id}}}"));
        assert!(text.lines().eq(expected));
    }

    #[test]
    fn a_file_has_one_writer_and_the_other_leaves_it_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("joined.jsonl");
        let mut sink = start(&path);
        sink.write(1, rows(0..1));
        sink.close(1);
        wait_for(&mut sink, 2);
        let second = Reserved::open(&path, &[]).unwrap_err();
        assert!(matches!(second, Error::Locked { .. }), "{second}");
        assert!(second.needs_correction());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"id\":0}\n");
        drop(sink);
        Reserved::open(&path, &[]).unwrap();
    }

    #[test]
    fn a_file_that_is_read_is_not_written_by_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let [input, hard, soft] = ["input", "hard", "soft"].map(|name| folder.path().join(name));
        std::fs::write(&input, "kept\n").unwrap();
        std::fs::hard_link(&input, &hard).unwrap();
        std::os::unix::fs::symlink("input", &soft).unwrap();
        for path in [&input, &hard, &soft] {
            let error = Reserved::open(path, &[Path::new("other"), &input]).unwrap_err();
            assert!(matches!(error, Error::Input { .. }), "{error}");
            assert!(error.needs_correction());
        }
        Reserved::open(&folder.path().join("output"), &[&input]).unwrap();
        assert_eq!(std::fs::read_to_string(&input).unwrap(), "kept\n");
    }

    #[test]
    fn a_full_disk_is_told_and_nothing_counts_as_written() {
        let (sender, told) = mpsc::channel();
        let sender = Mutex::new(sender);
        let fatal: Fatal = Arc::new(move |error| sender.lock().unwrap().send(error).unwrap());
        let reserved = Reserved::open(Path::new("/dev/full"), &[]).unwrap();
        let mut sink = JsonLines::start(reserved, format(), fatal).unwrap();
        sink.write(1, rows(0..1));
        sink.close(1);
        let error = told.recv_timeout(DEADLINE).unwrap();
        assert_eq!(error.to_string(), "could not write file \"/dev/full\"");
        assert!(!error.needs_correction());
        sink.close(2);
        assert_eq!(sink.written(), 0);
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for path in [
            folder.path().join("no/joined.jsonl"),
            folder.path().to_owned(),
        ] {
            let error = Reserved::open(&path, &[]).unwrap_err();
            assert!(matches!(error, Error::Create { .. }), "{error}");
        }
    }
}
