//! Where checkpoints are kept: objects with names, in a folder or in a bucket.
//!
//! It is apart from the two kinds so that waiting, trying again and telling of it are the same for
//! both. All names stand below `<location>/<job>/`, in one level.
//!
//! # Invariants
//! * An object is there whole or not at all, and is durable when a put returns.
//! * A name that is taken stays as it is. A put whose answer was lost and is made again finds its
//!   own bytes, and counts.
//! * What may pass is tried again with growing pauses, with a warning each time, and not for ever.
//! * A store that was opened has shown that it can be written and refuses to replace. One that has
//!   checkpoints of the job may not be writable now: then the job goes on without new ones.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;
use tracing::warn;

#[cfg(feature = "s3")]
use crate::checkpoint::bucket::Bucket;
use crate::checkpoint::error::Action;
use crate::checkpoint::folder::{self, Folder};
use crate::checkpoint::{Error, layout};

/// Objects up to this size are put by one request; larger ones in parts of this size.
pub(super) const PART_BYTES: usize = 8 << 20;
/// The pause before the second attempt; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: a store that is back is found soon.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A stop is seen so soon.
const TURN: Duration = Duration::from_millis(50);

/// What went wrong in one attempt.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is no such object.
    Missing,
    /// It will be the same the next time.
    Lasting(String),
    /// There is no room for it, and there may be later.
    Full(String),
    /// It may pass.
    Passing(String),
}

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// How a put has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is there, with these bytes.
    Written,
    /// Another object has the name.
    Taken,
}

/// One kind of store. Every call is one attempt, and may be made again.
pub(super) trait Backing: Send + Sync {
    /// Puts an object, unless the name is taken.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, Trouble>;
    /// Begins an object that is put in parts.
    fn begin(&self, name: &str) -> Result<Box<dyn Upload + '_>, Trouble>;
    /// Reads an object, or a range of it; less if it is shorter.
    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, Trouble>;
    /// All objects.
    fn list(&self) -> Result<Vec<Object>, Trouble>;
    /// Deletes an object; one that is not there is deleted already.
    fn delete(&self, name: &str) -> Result<(), Trouble>;
    /// Removes what crashed writers have left; returns how much that was.
    fn sweep(&self) -> Result<usize, Trouble>;
}

/// An object that is put in parts. What is dropped before its end leaves no object.
pub(super) trait Upload {
    /// Adds the part of this index, at this offset.
    fn part(&mut self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), Trouble>;
    /// Makes the object of all parts.
    fn finish(&mut self) -> Result<Put, Trouble>;
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The variables that hold credentials and endpoint of a bucket.
    pub environment: Vec<(String, String)>,
    /// How long an operation is tried, at most.
    pub patience: Duration,
}

impl Default for Options {
    /// The environment of the process, and patience that outlasts a restart of most stores.
    fn default() -> Self {
        Self {
            #[cfg(feature = "s3")]
            environment: crate::s3::environment(),
            #[cfg(not(feature = "s3"))]
            environment: Vec::new(),
            patience: Duration::from_secs(60),
        }
    }
}

/// Where the checkpoints of one job are kept. Every call blocks, and any thread may call.
pub struct Store {
    backing: Box<dyn Backing>,
    location: String,
    job: String,
    patience: Duration,
    stop: Arc<Stop>,
}

impl Store {
    /// Opens the location `file://PATH` (from the working directory, if relative) or
    /// `s3://BUCKET/PREFIX` for a job, and checks that it can be used.
    ///
    /// `stop` ends whatever is under way and not yet whole. It is not the stop that a clean end
    /// begins with, which still writes a checkpoint, but the one by which that is given up.
    ///
    /// # Errors
    /// If it is no such location, replaces what is there, or cannot be written and has nothing yet
    /// of this job.
    pub fn open(
        location: &str,
        job: &str,
        options: Options,
        stop: Arc<Stop>,
    ) -> Result<Self, Error> {
        let store = Self::connect(location, job, options, stop, true)?;
        layout::establish(&store).map_err(|error| store.at_start(error))?;
        Ok(store)
    }

    /// Opens a location only to read it: nothing is made or written.
    ///
    /// # Errors
    /// If it is no such location, or holds no checkpoints that this program can read.
    pub fn open_to_read(
        location: &str,
        job: &str,
        options: Options,
        stop: Arc<Stop>,
    ) -> Result<Self, Error> {
        let store = Self::connect(location, job, options, stop, false)?;
        layout::recognize(&store).map_err(|error| store.at_start(error))?;
        Ok(store)
    }

    pub(super) fn connect(
        location: &str,
        job: &str,
        options: Options,
        stop: Arc<Stop>,
        make: bool,
    ) -> Result<Self, Error> {
        let unusable = |reason: String, hint| Error::Location {
            location: location.to_owned(),
            reason,
            hint,
        };
        let kinds = "It begins neither with \"file://\" nor with \"s3://\".";
        let example = Some("Write file:///var/lib/deltajoin or s3://bucket/prefix, as it may be.");
        let backing: Box<dyn Backing> = if let Some(path) = location.strip_prefix("file://") {
            if path.is_empty() {
                return Err(unusable("It names no folder.".to_owned(), example));
            }
            let folder = Folder::open(path.as_ref(), job, make);
            let refused = |error: io::Error| match folder::is_full(&error) {
                true => Error::Full {
                    action: Action::Write,
                    name: location.to_owned(),
                    reason: error.to_string(),
                },
                false => unusable(
                    format!("Folder {:?}: {error}.", Path::new(path).join(job)),
                    None,
                ),
            };
            Box::new(folder.map_err(refused)?)
        } else if let Some(place) = location.strip_prefix("s3://") {
            bucket(place, job, &options).map_err(|(reason, hint)| unusable(reason, hint))?
        } else {
            return Err(unusable(kinds.to_owned(), example));
        };
        Ok(Self {
            backing,
            location: location.to_owned(),
            job: job.to_owned(),
            patience: options.patience,
            stop,
        })
    }

    /// An error of the first operations: what is refused then is the location's fault.
    pub(super) fn at_start(&self, error: Error) -> Error {
        match error {
            Error::Refused { reason, .. } => Error::Location {
                location: self.location.clone(),
                reason,
                hint: None,
            },
            other => other,
        }
    }

    /// The location, as it was given.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The job.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Puts an object, unless the name is taken by other bytes.
    ///
    /// # Errors
    /// If it is not known to be there.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, Error> {
        let put = self.attempt(Action::Write, name, || self.backing.put(name, bytes))?;
        // An attempt whose answer was lost may have put it.
        if put == Put::Written {
            return Ok(put);
        }
        match self.get(name) {
            Ok(found) if found == bytes => Ok(Put::Written),
            // It was deleted just now, and was another's.
            Ok(_) | Err(Error::Missing { .. }) => Ok(Put::Taken),
            Err(error) => Err(error),
        }
    }

    /// Begins to put an object of any size, under a name that nobody else uses.
    pub fn writer<'a>(&'a self, name: &str) -> Writer<'a> {
        Writer {
            store: self,
            name: name.to_owned(),
            buffer: Vec::new(),
            upload: None,
            parts: 0,
            offset: 0,
        }
    }

    /// Reads an object.
    ///
    /// # Errors
    /// If it is not there, or cannot be read.
    pub fn get(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.attempt(Action::Read, name, || self.backing.get(name, None))
    }

    /// Reads a part of an object.
    ///
    /// # Errors
    /// If it is not there, ends before, or cannot be read.
    pub fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, Error> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = self.attempt(Action::Read, name, || {
            self.backing.get(name, Some(range.clone()))
        })?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(Error::Damaged {
                name: name.to_owned(),
                reason: format!("it ends before byte {}", range.end),
            });
        }
        Ok(bytes)
    }

    /// All objects, by name.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn list(&self) -> Result<Vec<Object>, Error> {
        let mut objects = self.attempt(Action::List, &self.location, || self.backing.list())?;
        objects.sort();
        Ok(objects)
    }

    /// Deletes an object, if it is there.
    ///
    /// # Errors
    /// If it may still be there.
    pub fn delete(&self, name: &str) -> Result<(), Error> {
        self.attempt(Action::Delete, name, || self.backing.delete(name))
    }

    /// Removes what writers have left that crashed; returns how much that was.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn sweep(&self) -> Result<usize, Error> {
        self.attempt(Action::Delete, &self.location, || self.backing.sweep())
    }

    /// Whether a stop is asked for.
    pub(super) fn check_stop(&self) -> Result<(), Error> {
        if self.stop.asked() {
            return Err(Error::Stopped);
        }
        Ok(())
    }

    /// Tries until it succeeds, or cannot, or has been tried for long.
    fn attempt<T>(
        &self,
        action: Action,
        name: &str,
        mut once: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let mut pause = PAUSE;
        loop {
            let reason = match once() {
                Ok(value) => return Ok(value),
                Err(Trouble::Missing) => return Err(missing(action, name)),
                Err(Trouble::Lasting(reason)) => {
                    let name = name.to_owned();
                    return Err(Error::Refused {
                        action,
                        name,
                        reason,
                    });
                }
                Err(Trouble::Full(reason)) => {
                    let name = name.to_owned();
                    return Err(Error::Full {
                        action,
                        name,
                        reason,
                    });
                }
                Err(Trouble::Passing(reason)) => reason,
            };
            if begun.elapsed() + pause > self.patience {
                return Err(Error::Unavailable {
                    action,
                    name: name.to_owned(),
                    within: self.patience,
                    reason,
                });
            }
            let location = &self.location;
            warn!(%location, %reason, "could not {action} {name:?}; will try again");
            self.wait(pause)?;
            pause = PAUSE_MAX.min(2 * pause);
        }
    }

    fn wait(&self, pause: Duration) -> Result<(), Error> {
        let until = Instant::now() + pause;
        loop {
            self.check_stop()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(TURN.min(left));
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { location, job, .. } = self;
        f.debug_struct("Store")
            .field("location", location)
            .field("job", job)
            .finish_non_exhaustive()
    }
}

/// What was to be read is not there; or the place where it was to be written is not.
fn missing(action: Action, name: &str) -> Error {
    let name = name.to_owned();
    match action {
        Action::Read => Error::Missing { name },
        Action::Write | Action::List | Action::Delete => Error::Refused {
            action,
            name,
            reason: "The folder or bucket is not there.".to_owned(),
        },
    }
}

/// Why a bucket cannot be used, and what to do.
pub(super) type Reason = (String, Option<&'static str>);

#[cfg(feature = "s3")]
fn bucket(place: &str, job: &str, options: &Options) -> Result<Box<dyn Backing>, Reason> {
    Ok(Box::new(Bucket::open(place, job, options)?))
}

#[cfg(not(feature = "s3"))]
fn bucket(_: &str, _: &str, _: &Options) -> Result<Box<dyn Backing>, Reason> {
    let reason = "This program was built without S3.".to_owned();
    Err((reason, Some("Build it with the feature \"s3\".")))
}

/// An object that is being put. What is dropped before `finish` leaves no object.
pub struct Writer<'a> {
    store: &'a Store,
    name: String,
    /// What is not yet put, less than a part.
    buffer: Vec<u8>,
    upload: Option<Box<dyn Upload + 'a>>,
    parts: usize,
    offset: u64,
}

impl Writer<'_> {
    /// The object's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// If they cannot be put.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while self.buffer.len() + bytes.len() > PART_BYTES {
            let (part, rest) = bytes.split_at(PART_BYTES - self.buffer.len());
            self.buffer.extend_from_slice(part);
            bytes = rest;
            self.put_part()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn put_part(&mut self) -> Result<(), Error> {
        let Self {
            store,
            name,
            upload,
            buffer,
            parts,
            offset,
        } = self;
        store.check_stop()?;
        let upload = match upload {
            Some(upload) => upload,
            none => {
                let begun = store.attempt(Action::Write, name, || store.backing.begin(name));
                none.insert(begun?)
            }
        };
        store.attempt(Action::Write, name, || upload.part(*parts, *offset, buffer))?;
        *parts += 1;
        *offset += buffer.len() as u64;
        buffer.clear();
        Ok(())
    }

    /// Makes the object durable and gives it its name.
    ///
    /// # Errors
    /// If it is not known to be there.
    pub fn finish(mut self) -> Result<Put, Error> {
        if self.upload.is_none() {
            return self.store.put(&self.name, &self.buffer);
        }
        if !self.buffer.is_empty() {
            self.put_part()?;
        }
        let upload = self.upload.as_mut().expect("it has just been looked at");
        self.store
            .attempt(Action::Write, &self.name, || upload.finish())
    }
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, offset, .. } = self;
        f.debug_struct("Writer")
            .field("name", name)
            .field("offset", offset)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
