//! Reads a file of JSON lines as it stands, as often as one likes: for audits.
//!
//! It is apart from `source`, which reads on a thread of its own, into a worker's queue, and once.
//!
//! # Invariants
//! * Every reading sees the same bytes: those that the file had when it was opened first.
//! * A line that is too long is given as one byte more than is allowed, so no decoder takes it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::connectors::file::lines::{Line, Lines};
use crate::connectors::file::{Error, open};

/// Read from the file at once.
const READ_BYTES: usize = 256 << 10;

/// A file of JSON lines, to be read more than once.
#[derive(Debug)]
pub struct Scan {
    path: PathBuf,
    bytes: u64,
    lines: u64,
    last: u64,
    line_bytes_max: usize,
}

impl Scan {
    /// Opens the file and counts its lines, of which those with more than `line_bytes_max` bytes
    /// are cut.
    ///
    /// # Errors
    /// If it cannot be read, or only once, as a pipe.
    pub fn open(path: &Path, line_bytes_max: usize) -> Result<Self, Error> {
        Self::open_part(path, line_bytes_max, u64::MAX)
    }

    /// The same of the first so many bytes.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_part(path: &Path, line_bytes_max: usize, bytes: u64) -> Result<Self, Error> {
        let unusable = |source| Error::Open {
            path: path.to_owned(),
            source,
        };
        // Before it is opened: that would wait for whoever writes into a pipe.
        let metadata = std::fs::metadata(path).map_err(unusable)?;
        if !metadata.is_file() {
            let reason = "only a regular file can be read more than once";
            return Err(unusable(io::Error::new(
                io::ErrorKind::InvalidInput,
                reason,
            )));
        }
        let mut scan = Self {
            path: path.to_owned(),
            bytes: metadata.len().min(bytes),
            lines: 0,
            last: 0,
            line_bytes_max,
        };
        let (mut lines, mut last) = (0, 0);
        scan.run(|number, _| {
            lines += 1;
            last = number;
            true
        })?;
        (scan.lines, scan.last) = (lines, last);
        Ok(scan)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many lines it has, without blank ones.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The number of the last line that is not blank; 0 if there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Gives each line that is not blank with its number, until `visit` wants no more.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn run(&self, mut visit: impl FnMut(u64, &[u8]) -> bool) -> Result<(), Error> {
        let failed = |source| Error::Read {
            path: self.path.clone(),
            source,
        };
        let mut lines = Lines::new(
            self.reader(open(&self.path)?),
            self.line_bytes_max.saturating_add(1),
        );
        while let Some((number, line)) = lines.next().map_err(failed)? {
            let (Line::Whole(text) | Line::TooLong { head: text, .. }) = line;
            if !visit(number, text) {
                break;
            }
        }
        Ok(())
    }

    fn reader(&self, file: File) -> BufReader<io::Take<File>> {
        BufReader::with_capacity(READ_BYTES, file.take(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(scan: &Scan) -> Vec<(u64, String)> {
        let mut lines = Vec::new();
        scan.run(|number, text| {
            lines.push((number, String::from_utf8(text.to_vec()).unwrap()));
            true
        })
        .unwrap();
        lines
    }

    #[test]
    fn every_reading_sees_what_the_file_had_at_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, "one\n\nmuch too long\n").unwrap();
        let scan = Scan::open(&path, 4).unwrap();
        std::fs::write(&path, "one\n\nmuch too long\nnew\n").unwrap();
        let lines = [(1, "one".to_owned()), (3, "much ".to_owned())];
        assert_eq!((scan.lines(), scan.last()), (2, 3));
        assert_eq!(read(&scan), lines);
        assert_eq!(read(&scan), lines);
    }

    #[test]
    fn what_can_be_read_only_once_is_refused() {
        let error = Scan::open(Path::new("/dev/null"), 4).unwrap_err();
        assert!(error.needs_correction());
        assert_eq!(error.to_string(), "could not open file \"/dev/null\"");
    }
}
