//! The binding log of a job on one host: a file of JSON lines.
//!
//! A line is the array of a checksum and a record; a record's offset is the number of lines before
//! it.
//!
//! # Invariants
//! * One process has the file, by an exclusive lock that ends with the process.
//! * An append is durable when it returns: the file is synced, and its folder was when it was
//!   opened.
//! * Only what stands behind the last end of line is taken away, and that is told: it is of an
//!   append that never returned. Whatever else is wrong is an error that names the line.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use deltajoin_workers::ports::Stop;
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use crate::bindings::{Error, Fault, Log, Records, Visit, announced};
use crate::connectors::file;

/// Lines stay of a size that an editor can show.
const RECORD_BYTES_MAX: usize = 900_000;

/// A binding log in a file.
#[derive(Debug)]
pub struct BindingFile {
    file: File,
    path: PathBuf,
    /// The offset of the next record.
    next: u64,
    /// The lines of an append, kept for their memory.
    text: Vec<u8>,
}

impl BindingFile {
    /// Opens the file, which is made if it is not there, for this process alone.
    ///
    /// # Errors
    /// If it cannot be opened or read, or if another process holds it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| create_failed(path, source);
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true);
        let file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(path, &file)),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut log = Self {
            file,
            path: path.to_owned(),
            next: 0,
            text: Vec::new(),
        };
        log.cut()?;
        sync_folder(path).map_err(failed)?;
        Ok(log)
    }

    /// Counts the lines, and takes away what stands behind the last of them.
    fn cut(&mut self) -> Result<(), Error> {
        let failed = |source| read_failed(&self.path, source);
        let (mut bytes, mut whole) = (0_u64, 0_u64);
        let mut reader = BufReader::new(&self.file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 {
            bytes += line.len() as u64;
            if line.last() == Some(&b'\n') {
                self.next += 1;
                whole = bytes;
            }
            line.clear();
        }
        if bytes == whole {
            return Ok(());
        }
        let (path, torn) = (self.path.display(), bytes - whole);
        let line = self.next + 1;
        warn!(%path, line, bytes = torn, "took a half-written record out of the binding log");
        let cut = self.file.set_len(whole);
        cut.and_then(|()| self.file.sync_all())
            .map_err(|source| write_failed(&self.path, source))
    }
}

impl Records for BindingFile {
    fn name(&self) -> String {
        name(&self.path)
    }

    fn first(&mut self, _stop: &Stop) -> Result<u64, Error> {
        Ok(0)
    }

    fn read(&mut self, from: u64, stop: &Stop, visit: Visit<'_>) -> Result<(), Error> {
        // What stands behind the records is of an append that has failed.
        read((&self.file, &self.path), from..self.next, stop, visit)
    }
}

impl Log for BindingFile {
    fn record_bytes_max(&self) -> usize {
        RECORD_BYTES_MAX
    }

    fn append(&mut self, records: &[Vec<u8>], _stop: &Stop) -> Result<Range<u64>, Error> {
        let failed = |source| write_failed(&self.path, source);
        self.text.clear();
        for record in records {
            let sum = xxh3_64(record);
            write!(self.text, "[\"{sum:016x}\",").expect("memory takes all");
            self.text.extend_from_slice(record);
            self.text.extend_from_slice(b"]\n");
        }
        self.file.write_all(&self.text).map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        let first = self.next;
        self.next += records.len() as u64;
        Ok(first..self.next)
    }
}

/// A binding log in a file, only to be read, also while another process has it.
#[derive(Debug)]
pub struct BindingReader {
    file: File,
    path: PathBuf,
}

impl BindingReader {
    /// Opens the file; none if it is not there.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self {
                file,
                path: path.to_owned(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(read_failed(path, source)),
        }
    }
}

impl Records for BindingReader {
    fn name(&self) -> String {
        name(&self.path)
    }

    fn first(&mut self, _stop: &Stop) -> Result<u64, Error> {
        Ok(0)
    }

    fn read(&mut self, from: u64, stop: &Stop, visit: Visit<'_>) -> Result<(), Error> {
        read((&self.file, &self.path), from..u64::MAX, stop, visit)
    }
}

/// Reads the records at these offsets, as far as they are there with the end of their lines.
fn read(
    (mut file, path): (&File, &Path),
    offsets: Range<u64>,
    stop: &Stop,
    visit: Visit<'_>,
) -> Result<(), Error> {
    let failed = |source| read_failed(path, source);
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    for offset in 0..offsets.end {
        if stop.asked() {
            return Err(Error::Stopped);
        }
        line.clear();
        lines.read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() != Some(&b'\n') {
            break;
        }
        if offset >= offsets.start {
            let visited = record_of(&line).and_then(|record| visit(offset, record));
            let place = || format!("{}:{}", path.display(), offset + 1);
            if !visited.map_err(|fault| fault.at(place()))? {
                break;
            }
        }
    }
    Ok(())
}

/// Takes a record out of its line.
fn record_of(line: &[u8]) -> Result<&[u8], Fault> {
    let unreadable = || Fault::Unreadable("not a line of a checksum and a record".to_owned());
    let inner = line.strip_prefix(b"[\"").ok_or_else(unreadable)?;
    let (written, rest) = inner.split_at_checked(16).ok_or_else(unreadable)?;
    let record = rest.strip_prefix(b"\",").ok_or_else(unreadable)?;
    let record = record.strip_suffix(b"]\n").ok_or_else(unreadable)?;
    let found = format!("{:016x}", xxh3_64(record));
    if written == found.as_bytes() {
        return Ok(record);
    }
    let written = String::from_utf8_lossy(written).into_owned();
    Err(Fault::Damaged { written, found })
}

/// The error of a file that another process has, with what its newest marker says.
fn held(path: &Path, file: &File) -> Error {
    let mut by = None;
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    // The other may be writing: what cannot be read now tells nothing.
    while lines
        .read_until(b'\n', &mut line)
        .is_ok_and(|bytes| bytes > 0)
    {
        let record = record_of(&line).ok();
        by = record.and_then(announced).or(by);
        line.clear();
    }
    Error::Held {
        log: name(path),
        by: by.map(|by| by.to_string()),
    }
}

fn name(path: &Path) -> String {
    format!("binding log {path:?}")
}

/// Makes the file's entry in its folder last.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

impl From<file::Error> for Error {
    fn from(error: file::Error) -> Self {
        let source = std::error::Error::source(&error);
        Self::Connector {
            needs_correction: error.needs_correction(),
            message: error.to_string(),
            detail: error.detail().or_else(|| source.map(ToString::to_string)),
            hint: error.hint().map(str::to_owned),
        }
    }
}

fn create_failed(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    file::Error::Create { path, source }.into()
}

fn read_failed(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    file::Error::Read { path, source }.into()
}

fn write_failed(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    file::Error::Write { path, source }.into()
}

#[cfg(test)]
mod tests;
