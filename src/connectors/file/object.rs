//! A reference file that is an object of a bucket.
//!
//! It is apart from `place`, which knows files and objects alike: here are the requests.
//!
//! # Invariants
//! * What is read is one version of the object, or an error: parts of two are never put together.
//! * The copy that is read from has no name, and is gone with whoever reads it.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use object_store::ObjectStore;
use object_store::path::Path as Key;
use object_store::{Error as Refusal, GetOptions, GetRange, ObjectMeta, ObjectStoreExt};

use crate::connectors::file::Error;
use crate::s3::{Client, chain, environment, may_pass};

/// Bytes that are read by one request.
const PART_BYTES: u64 = 8 << 20;

/// An object, by its address.
#[derive(Debug)]
pub(super) struct Object {
    /// `s3://BUCKET/KEY`.
    address: PathBuf,
    client: OnceCell<Client>,
}

impl Object {
    /// The object with this address; no request is made yet.
    pub(super) fn new(address: &Path) -> Self {
        Self {
            address: address.to_owned(),
            client: OnceCell::new(),
        }
    }

    /// What tells it from another version.
    pub(super) fn stamp(&self) -> Result<ObjectMeta, Error> {
        let (client, key) = self.reach()?;
        let head = client.wait(client.requests().head(&key));
        head.map_err(|error| self.refused(&error))
    }

    /// Reads it into a file.
    pub(super) fn fetch(&self) -> Result<File, Error> {
        let meta = self.stamp()?;
        let (client, key) = self.reach()?;
        let failed = Error::reading(&self.address);
        let mut copy = unnamed().map_err(&failed)?;
        for start in (0..meta.size).step_by(PART_BYTES as usize) {
            let options = GetOptions {
                range: Some(GetRange::Bounded(start..meta.size.min(start + PART_BYTES))),
                if_match: meta.e_tag.clone(),
                ..GetOptions::default()
            };
            let part = client.wait(async {
                let part = client.requests().get_opts(&key, options).await?;
                part.bytes().await
            });
            let part = part.map_err(|error| self.refused(&error))?;
            copy.write_all(&part).map_err(&failed)?;
        }
        copy.rewind().map_err(failed)?;
        Ok(copy)
    }

    /// Its client, made when it is first needed, and its key.
    fn reach(&self) -> Result<(&Client, Key), Error> {
        let wrong = |reason: String| Error::Open {
            path: self.address.clone(),
            source: io::Error::other(reason),
        };
        let address = self.address.to_str().unwrap_or_default();
        let place = address.strip_prefix("s3://").unwrap_or_default();
        let (bucket, key) = place.split_once('/').unwrap_or((place, ""));
        let key = Key::parse(key).map_err(|error| wrong(error.to_string()))?;
        if key.as_ref().is_empty() {
            return Err(wrong("it names no object".to_owned()));
        }
        if self.client.get().is_none() {
            let client = Client::open(bucket, &environment());
            let client = client.map_err(|(reason, hint)| {
                wrong(
                    [&reason, hint.unwrap_or_default()]
                        .join(" ")
                        .trim_end()
                        .to_owned(),
                )
            })?;
            drop(self.client.set(client));
        }
        Ok((self.client.get().expect("it has just been made"), key))
    }

    /// What may pass is no fault of the address or of the object.
    fn refused(&self, error: &Refusal) -> Error {
        let path = self.address.clone();
        match error {
            Refusal::NotFound { .. } => Error::Open {
                path,
                source: io::Error::new(io::ErrorKind::NotFound, "there is no such object"),
            },
            Refusal::Precondition { .. } => Error::Read {
                path,
                source: io::Error::other("it has changed while it was read"),
            },
            error if may_pass(error) => Error::Read {
                path,
                source: io::Error::other(chain(error)),
            },
            error => Error::Open {
                path,
                source: io::Error::other(chain(error)),
            },
        }
    }
}

/// A file that nobody else finds.
fn unnamed() -> io::Result<File> {
    let name = format!(
        "deltajoin-{:016x}",
        getrandom::u64().map_err(io::Error::other)?
    );
    let path = std::env::temp_dir().join(name);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
