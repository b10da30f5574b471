//! Checkpoints in a folder.
//!
//! `object_store` has a store of files too, but it syncs nothing: after a loss of power a name may
//! be there without its bytes. `docs/decisions/0006-checkpoints-in-folders.md` says more.
//!
//! # Invariants
//! * A file gets its name when its bytes are synced, by a link, which never replaces; then the
//!   folder is synced.
//! * A file without a name of its own begins with a dot, is locked while its writer lives, and is
//!   no object.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::checkpoint::layout::random;
use crate::checkpoint::store::{Backing, Object, Put, Trouble, Upload};

/// Files that are being written, or whose writer has crashed.
const UNFINISHED: &str = ".unfinished-";

/// How a folder answers that was not made here, when it is to be synced.
const UNTOUCHED: [io::ErrorKind; 4] = [
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::ReadOnlyFilesystem,
    io::ErrorKind::InvalidInput,
    io::ErrorKind::Unsupported,
];

/// A folder of objects.
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder of a job at `path`; it is made, so that it lasts, if `make` is set.
    pub(super) fn open(path: &Path, job: &str, make: bool) -> io::Result<Self> {
        let path = path.join(job);
        if make {
            make_folder(&path)?;
        } else {
            fs::read_dir(&path)?;
        }
        Ok(Self { path })
    }

    /// Makes the entries of the folder last.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Makes a folder and those above it, as far as they are not there, and their entries last.
fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Also of those that are there: whoever made them may have crashed before this.
    for above in path.ancestors().skip(1) {
        let above = if above == Path::new("") {
            Path::new(".")
        } else {
            above
        };
        match File::open(above).and_then(|folder| folder.sync_all()) {
            // What may not be read or written has been there for long.
            Err(error) if UNTOUCHED.contains(&error.kind()) => {}
            synced => synced?,
        }
    }
    Ok(())
}

impl Backing for Folder {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, Trouble> {
        let mut file = Unfinished::begin(self, name)?;
        file.part(0, 0, bytes)?;
        file.finish()
    }

    fn begin(&self, name: &str) -> Result<Box<dyn Upload + '_>, Trouble> {
        Ok(Box::new(Unfinished::begin(self, name)?))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, Trouble> {
        let mut file = File::open(self.path.join(name))?;
        let mut bytes = Vec::new();
        match range {
            None => file.read_to_end(&mut bytes)?,
            Some(range) => {
                file.seek(SeekFrom::Start(range.start))?;
                file.take(range.end - range.start).read_to_end(&mut bytes)?
            }
        };
        Ok(bytes)
    }

    fn list(&self) -> Result<Vec<Object>, Trouble> {
        let mut objects = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // Another process may delete while we look.
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if metadata.is_file() && !name.starts_with('.') {
                let bytes = metadata.len();
                objects.push(Object { name, bytes });
            }
        }
        Ok(objects)
    }

    fn delete(&self, name: &str) -> Result<(), Trouble> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => Ok(removed?),
        }
    }

    fn sweep(&self) -> Result<usize, Trouble> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if !entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(UNFINISHED.as_bytes())
            {
                continue;
            }
            let file = match OpenOptions::new().write(true).open(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            match file.try_lock() {
                Ok(()) => {
                    fs::remove_file(entry.path())?;
                    removed += 1;
                }
                // Its writer lives.
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        Ok(removed)
    }
}

/// A file that has no name of its own yet; it is gone when dropped.
struct Unfinished<'a> {
    folder: &'a Folder,
    file: File,
    path: PathBuf,
    name: PathBuf,
}

impl<'a> Unfinished<'a> {
    fn begin(folder: &'a Folder, name: &str) -> Result<Self, Trouble> {
        let path = folder.path.join(format!("{UNFINISHED}{}", random()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let unfinished = Self {
            folder,
            file,
            path,
            name: folder.path.join(name),
        };
        let locked = unfinished.file.try_lock();
        // Somebody who sweeps may have it: it is about to be removed, or is already.
        locked.map_err(|error| Trouble::Passing(format!("cannot lock the file: {error}")))?;
        if !unfinished.path.exists() {
            return Err(Trouble::Passing("the file is gone".to_owned()));
        }
        Ok(unfinished)
    }
}

impl Upload for Unfinished<'_> {
    fn part(&mut self, _index: usize, offset: u64, bytes: &[u8]) -> Result<(), Trouble> {
        Ok(self.file.write_all_at(bytes, offset)?)
    }

    fn finish(&mut self) -> Result<Put, Trouble> {
        self.file.sync_all()?;
        let put = match fs::hard_link(&self.path, &self.name) {
            Ok(()) => Put::Written,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A network file system may have linked it, and lost the answer.
                let own = fs::metadata(&self.path)?.ino();
                match fs::metadata(&self.name)?.ino() == own {
                    true => Put::Written,
                    false => Put::Taken,
                }
            }
            Err(error) => return Err(error.into()),
        };
        self.folder.sync()?;
        Ok(put)
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // What stays is swept later.
        drop(fs::remove_file(&self.path));
    }
}

/// Whether there is no room, or none for this user.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        let reason = error.to_string();
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ if is_full(&error) => Self::Full(reason),
            // What network file systems say when their server was away.
            io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::StaleNetworkFileHandle => Self::Passing(reason),
            _ => Self::Lasting(reason),
        }
    }
}
