//! Where a reference table is: a file, or an object of a bucket.
//!
//! It is apart from `reference` and `watched`, which read either in the same way.
//!
//! # Invariants
//! * What is opened is read from its beginning, and does not change while it is.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[cfg(feature = "s3")]
use crate::connectors::file::object::Object;
use crate::connectors::file::{Error, open};

/// How the address of an object begins.
const BUCKETS: &str = "s3://";

/// A file, or an object.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    #[cfg(feature = "s3")]
    object: Option<Box<Object>>,
}

/// A file or an object by its looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The file; of an object its version.
    identity: Identity,
    length: u64,
    /// When its content and its inode changed, in seconds and nanoseconds.
    changed: [(i64, i64); 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    Inode(u64, u64),
    #[cfg(feature = "s3")]
    Version(Option<String>),
}

impl Place {
    /// What is at this path, which may be the address of an object.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            #[cfg(feature = "s3")]
            object: is_object(path).then(|| Box::new(Object::new(path))),
        }
    }

    /// Its path, or its address.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it; an object is fetched as a whole.
    pub(super) fn open(&self) -> Result<File, Error> {
        #[cfg(feature = "s3")]
        if let Some(object) = &self.object {
            return object.fetch();
        }
        if is_object(&self.path) {
            return Err(Error::NoBuckets {
                path: self.path.clone(),
            });
        }
        open(&self.path)
    }

    /// None if there is nothing.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        #[cfg(feature = "s3")]
        if let Some(object) = &self.object {
            let meta = object.stamp().ok()?;
            return Some(Stamp {
                identity: Identity::Version(meta.e_tag),
                length: meta.size,
                changed: [(meta.last_modified.timestamp(), 0), (0, 0)],
            });
        }
        let metadata: Metadata = self.path.metadata().ok()?;
        Some(Stamp {
            identity: Identity::Inode(metadata.dev(), metadata.ino()),
            length: metadata.len(),
            changed: [
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec()),
            ],
        })
    }

    /// Whether it can be read again: what comes from a pipe comes once.
    pub(super) fn can_change(&self) -> bool {
        let metadata = self.path.metadata();
        metadata.map_or(true, |metadata| metadata.is_file() || metadata.is_dir())
    }
}

/// Whether a path is the address of an object.
fn is_object(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.starts_with(BUCKETS))
}
