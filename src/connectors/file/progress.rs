//! How far a file of rows has come: a small file beside it.
//!
//! It is apart from `sink` because it is a durable format. It holds one line, the array of a
//! checksum and a record, as the binding log does.
//!
//! # Invariants
//! * A record is written only when the rows that it tells of are on the disk.
//! * It takes the place of the one before as a whole: a crash leaves the one or the other.
//! * What cannot be read is an error that names the file, never no progress.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::progress_files;
use crate::connectors::file::Error;

/// The format that is written, and the only one that is read.
const VERSION: u64 = 1;

/// How far a file has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    version: u64,
    /// Whose rows the file has.
    pub(super) job: String,
    /// Which of its sinks.
    pub(super) sink: String,
    /// All rows of epochs up to this one stand in the file.
    pub(super) epoch: u64,
    /// The bytes that they take.
    pub(super) length: u64,
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

impl Progress {
    /// That of a file without rows.
    pub(super) fn new(job: &str, sink: &str) -> Self {
        Self {
            version: VERSION,
            job: job.to_owned(),
            sink: sink.to_owned(),
            epoch: 0,
            length: 0,
        }
    }

    /// The same file when it has come so far.
    pub(super) fn at(&self, epoch: u64, length: u64) -> Self {
        Self {
            epoch,
            length,
            ..self.clone()
        }
    }

    /// What stands beside the file at `path`; none if nothing does.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Error> {
        let beside = progress_beside(path);
        let line = match std::fs::read(&beside) {
            Ok(line) => line,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Read {
                    path: beside,
                    source,
                });
            }
        };
        let damaged = |reason| Error::Progress {
            path: path.to_owned(),
            beside,
            reason,
        };
        decode(&line).map(Some).map_err(damaged)
    }

    /// Puts this beside the file at `path`.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let [beside, new] = progress_files(path);
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&self.encode())?;
            file.sync_data()?;
            std::fs::rename(&new, &beside)?;
            sync_folder(&beside)
        });
        written.map_err(|source| Error::Write {
            path: beside,
            source,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let record = serde_json::to_string(self).expect("numbers and text are always JSON");
        let sum = xxh3_64(record.as_bytes());
        format!("[\"{sum:016x}\",{record}]\n").into_bytes()
    }
}

/// How far a file of rows has come: the epoch, and the bytes up to it. None if nothing beside it
/// says so.
///
/// # Errors
/// If what stands beside it cannot be read.
pub fn recorded(path: &Path) -> Result<Option<(u64, u64)>, Error> {
    let progress = Progress::read(path)?;
    Ok(progress.map(|progress| (progress.epoch, progress.length)))
}

/// The file beside a file of rows that says which of them a job has written.
pub fn progress_beside(path: &Path) -> PathBuf {
    let [beside, _] = progress_files(path);
    beside
}

/// Makes the file's entry in its folder last.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn decode(line: &[u8]) -> Result<Progress, String> {
    let shape = || "it is not a line of a checksum and a record".to_owned();
    let inner = line.strip_prefix(b"[\"").ok_or_else(shape)?;
    let (written, rest) = inner.split_at_checked(16).ok_or_else(shape)?;
    let record = rest.strip_prefix(b"\",").ok_or_else(shape)?;
    let record = record.strip_suffix(b"]\n").ok_or_else(shape)?;
    let found = format!("{:016x}", xxh3_64(record));
    if written != found.as_bytes() {
        let written = String::from_utf8_lossy(written);
        return Err(format!("its checksum is {found}, and it says {written}"));
    }
    let unreadable = |error| format!("its record cannot be read: {error}");
    let Version { version } = serde_json::from_slice(record).map_err(unreadable)?;
    if version != VERSION {
        return Err(format!(
            "its version is {version}, and this release reads version {VERSION}"
        ));
    }
    serde_json::from_slice(record).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        Progress::new("detections", "joined.jsonl").at(1_750_000_000_123, 4_567)
    }

    #[test]
    fn the_published_format_never_changes() {
        let line = String::from_utf8(progress().encode()).unwrap();
        let (sum, record) = line.split_at(20);
        assert_eq!(
            record,
            concat!(
                r#"{"version":1,"job":"detections","sink":"joined.jsonl","#,
                r#""epoch":1750000000123,"length":4567}]"#,
                "\n"
            )
        );
        let record = record.strip_suffix("]\n").unwrap();
        assert_eq!(sum, format!("[\"{:016x}\",", xxh3_64(record.as_bytes())));
    }

    #[test]
    fn what_is_written_is_read_and_nothing_is_no_progress() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("joined.jsonl");
        assert_eq!(Progress::read(&path).unwrap(), None);
        progress().write(&path).unwrap();
        assert_eq!(Progress::read(&path).unwrap(), Some(progress()));
        let [_, new] = progress_files(&path);
        assert!(!new.exists());
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("joined.jsonl");
        let whole = progress().encode();
        let mut damaged: Vec<_> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
        for place in 0..whole.len() {
            let mut line = whole.clone();
            line[place] ^= 1;
            damaged.push(line);
        }
        for line in damaged {
            std::fs::write(progress_beside(&path), &line).unwrap();
            let error = Progress::read(&path).unwrap_err();
            assert!(error.needs_correction(), "{error}");
            assert!(error.to_string().contains("joined.jsonl.progress"));
        }
    }

    #[test]
    fn another_version_is_refused() {
        let newer = br#"{"version":2,"epochs":[5]}"#;
        let mut line = format!("[\"{:016x}\",", xxh3_64(newer)).into_bytes();
        line.extend_from_slice(newer);
        line.extend_from_slice(b"]\n");
        assert_eq!(
            decode(&line).unwrap_err(),
            "its version is 2, and this release reads version 1"
        );
    }
}
