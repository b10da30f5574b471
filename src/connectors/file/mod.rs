//! Files: events from JSON lines, results and dead letters to JSON lines, the reference table from
//! CSV, JSON lines or Parquet.
//!
//! | file | what it does |
//! |---|---|
//! | `lines` | the lines of a file, none held beyond a bound |
//! | `source` | events |
//! | `sample` | a look at the first of them |
//! | `sink` | rows of closed epochs |
//! | `progress` | which of them are in the file for good |
//! | `bindings` | the binding log |
//! | `reference`, `csv`, `parquet` | the reference table, checked as a whole |
//! | `watched` | the same, again when the file has changed |
//! | `scan` | a file as it stands, for audits |
//!
//! # Invariants
//! * Every fault of a line is told with file, line and column; one of Parquet with its row.
//! * No call from a worker's thread waits for a disk.

mod bindings;
mod csv;
mod lines;
#[cfg(feature = "s3")]
mod object;
#[cfg(feature = "parquet")]
mod parquet;
mod place;
mod progress;
mod reference;
mod sample;
mod scan;
mod sink;
mod source;
mod watched;

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use bindings::{BindingFile, BindingReader};
pub use progress::{progress_beside, recorded};
pub use reference::Table;
pub use sample::sample;
pub use scan::Scan;
pub use sink::{JsonLines, Reserved, look};
pub use source::{Events, FIRST_LINE};
pub use watched::{Look, Watched};

/// Told of an error that ends the job, from a thread of a connector.
pub type Fatal = Arc<dyn Fn(Error) + Send + Sync>;

/// What can be wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or may not be read.
    #[error("could not open file {path:?}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It could be opened, but not read to its end.
    #[error("could not read file {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It could not be made, or may not be written.
    #[error("could not open file {path:?} for writing")]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another job, or another sink of this one, writes it.
    #[error("file {path:?} is being written by another job or sink")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The job reads it: to write it would be to lose it.
    #[error("cannot write file {path:?}, which is read as {input:?}")]
    Input {
        /// The file.
        path: PathBuf,
        /// The same file, as it is read.
        input: PathBuf,
    },
    /// It has rows, and nothing tells whose.
    #[error("file {path:?} is not empty, and nothing tells that its rows are this job's")]
    Unrecorded {
        /// The file.
        path: PathBuf,
    },
    /// It has the rows of another job or sink.
    #[error("file {path:?} has the rows of sink {sink:?} of job {job:?}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The job.
        job: String,
        /// The sink.
        sink: String,
    },
    /// Rows that were written are gone.
    #[error("file {path:?} has {length} bytes, and {recorded} were written")]
    Shorter {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        length: u64,
        /// How many it had.
        recorded: u64,
    },
    /// An event that is bound is gone.
    #[error("line {line} of file {path:?} was read, and is not there")]
    LineGone {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u64,
    },
    /// It is not the file that was read.
    #[error("file {path:?} begins with another line than when it was read")]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// What tells how far it has come is damaged.
    #[error("cannot read {beside:?}, which tells how far file {path:?} has come")]
    Progress {
        /// The file.
        path: PathBuf,
        /// The file beside it.
        beside: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It could be opened, but rows could not be added.
    #[error("could not write file {path:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its name does not tell what is in it.
    #[error("cannot tell the format of reference file {path:?}")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// This build cannot read it.
    #[error("this build cannot read Parquet, as reference file {path:?} is")]
    NotBuilt {
        /// The file.
        path: PathBuf,
    },
    /// This build cannot reach it.
    #[error("this build cannot read objects, as reference file {path:?} is")]
    NoBuckets {
        /// Its address.
        path: PathBuf,
    },
    /// Its content is wrong.
    #[error("reference file {path:?} has {count} {}", if *count == 1 { "fault" } else { "faults" })]
    Faults {
        /// The file.
        path: PathBuf,
        /// The first faults.
        faults: Vec<Fault>,
        /// How many faults there are.
        count: usize,
    },
}

impl Error {
    /// That reading failed, once it had begun.
    fn reading(path: &Path) -> impl Fn(io::Error) -> Self {
        |source| Self::Read {
            path: path.to_owned(),
            source,
        }
    }

    /// What is known beyond the message: the faults, each with its place.
    pub fn detail(&self) -> Option<String> {
        let (path, faults, count) = match self {
            Self::Faults {
                path,
                faults,
                count,
            } => (path, faults, count),
            Self::Progress { reason, .. } => return Some(format!("The reason: {reason}.")),
            _ => return None,
        };
        let mut detail = String::new();
        for fault in faults {
            let place = fault.spot.of(path);
            writeln!(detail, "{place}: {}", fault.message).expect("a string takes all");
        }
        if *count > faults.len() {
            writeln!(detail, "and {} more", count - faults.len()).expect("a string takes all");
        }
        detail.truncate(detail.trim_end().len());
        Some(detail)
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::UnknownFormat { .. } => {
                Some("Name it .csv (with a header), .jsonl or .ndjson (JSON lines), or .parquet.")
            }
            Self::NotBuilt { .. } => {
                Some("Build it with the feature `parquet`, or write the table as CSV.")
            }
            Self::NoBuckets { .. } => Some("Build it with the feature `s3`."),
            Self::Locked { .. } => {
                Some("Does the job run already? Else give each job and sink a file of its own.")
            }
            Self::Input { .. } | Self::Foreign { .. } => {
                Some("Give each job and sink a file of its own.")
            }
            Self::Unrecorded { .. } => Some(
                "Move it away, or name another: the job then begins a new file, with rows from \
                 behind its newest checkpoint if it has one. `deltajoin state reset` forgets that: \
                 then all rows are written.",
            ),
            Self::Shorter { .. } | Self::Progress { .. } => Some(
                "Put back what was there; or move it and its .progress away: the job then begins \
                 a new file, with rows from behind its newest checkpoint.",
            ),
            Self::LineGone { .. } | Self::Replaced { .. } => Some(
                "Put back what was there: a file of events may only grow. To read another one, \
                 give the job another name, or forget it with `deltajoin state reset`: either \
                 begins anew.",
            ),
            Self::Open { path, source } | Self::Create { path, source }
                if source.kind() == io::ErrorKind::NotFound
                    && path.is_relative()
                    && !path.starts_with("s3:") =>
            {
                Some("Relative paths are taken from the working directory.")
            }
            _ => None,
        }
    }

    /// Whether settings or input have to be corrected before a restart can help.
    pub fn needs_correction(&self) -> bool {
        match self {
            // There may be room another time, and what was made once may be written again.
            Self::Create { path, source } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => false,
                io::ErrorKind::ReadOnlyFilesystem => !path.exists(),
                _ => true,
            },
            Self::Open { .. }
            | Self::Locked { .. }
            | Self::Input { .. }
            | Self::Unrecorded { .. }
            | Self::Foreign { .. }
            | Self::Shorter { .. }
            | Self::Progress { .. }
            | Self::LineGone { .. }
            | Self::Replaced { .. }
            | Self::UnknownFormat { .. }
            | Self::NotBuilt { .. }
            | Self::NoBuckets { .. }
            | Self::Faults { .. } => true,
            Self::Read { .. } | Self::Write { .. } => false,
        }
    }
}

/// What is wrong at one place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it is.
    pub spot: Spot,
    /// What is wrong.
    pub message: String,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    /// All of it.
    File,
    /// A place in its text.
    Line {
        /// The line, from 1.
        line: u64,
        /// The place in the line, in bytes from 1.
        column: usize,
    },
    /// A row of a file that has no lines, from 1.
    Row(u64),
}

impl Spot {
    /// Names it.
    fn of(self, path: &Path) -> String {
        match self {
            Self::File => path.display().to_string(),
            Self::Line { line, column } => place(path, line, column),
            Self::Row(row) => format!("{}: row {row}", path.display()),
        }
    }
}

/// Names a place of a text as compilers do.
fn place(path: &Path, line: u64, column: usize) -> String {
    format!("{}:{line}:{column}", path.display())
}

/// A line that was read is gone.
fn gone(path: &Path, line: u64) -> Error {
    Error::LineGone {
        path: path.to_owned(),
        line,
    }
}

/// Opens a file for reading; a folder is refused here, where reading has not begun.
fn open(path: &Path) -> Result<std::fs::File, Error> {
    let opened = std::fs::File::open(path).and_then(|file| {
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(file)
    });
    opened.map_err(|source| Error::Open {
        path: path.to_owned(),
        source,
    })
}
