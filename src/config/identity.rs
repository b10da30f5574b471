//! Which file a path leads to, however the path is written.
//!
//! It is apart from the checks of a configuration because what opens files compares them too: a
//! link may have changed since.
//!
//! # Invariants
//! * Two paths of one regular file have one identity, by symbolic links, hard links or `..`, and
//!   before the file is made as well as after.
//! * No file is read or made.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Links that are followed to a file that is not there; Linux follows as many.
const LINKS_MAX: usize = 40;

/// Which file it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileIdentity {
    /// A regular file, by device and inode.
    Known(u64, u64),
    /// A file that is not there yet, by its folder and name.
    Absent(PathBuf, OsString),
    /// A pipe or a device, which nothing empties, or what cannot be found: by its path.
    Named(PathBuf),
}

impl FileIdentity {
    /// The file that `path` leads to.
    pub fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(metadata) => Self::known(&metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => absent(path),
            Err(_) => None,
        }
        .unwrap_or_else(|| Self::Named(plain(path)))
    }

    /// The file of this metadata, if it is a regular one.
    pub fn known(metadata: &Metadata) -> Option<Self> {
        metadata
            .is_file()
            .then(|| Self::Known(metadata.dev(), metadata.ino()))
    }
}

/// A path without parts that lead nowhere else.
pub(super) fn plain(path: &Path) -> PathBuf {
    let components = path.components();
    components
        .filter(|part| *part != Component::CurDir)
        .collect()
}

/// The file that would be made at `path`, behind links that lead to nothing.
fn absent(path: &Path) -> Option<FileIdentity> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let folder = match path.parent()? {
            folder if folder.as_os_str().is_empty() => Path::new("."),
            folder => folder,
        };
        let Ok(link) = fs::read_link(&path) else {
            let folder = fs::canonicalize(folder).ok()?;
            let name = path.file_name()?.to_owned();
            return Some(FileIdentity::Absent(folder, name));
        };
        path = folder.join(link);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_the_same_by_every_path() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        let at = |name: &str| folder.join(name);
        fs::create_dir(at("inner")).unwrap();
        symlink(at("inner"), at("alias")).unwrap();
        symlink("file", at("link")).unwrap();
        symlink("link", at("link-to-link")).unwrap();
        let paths = [
            "./file",
            "inner/../file",
            "alias/../file",
            "link",
            "link-to-link",
        ];
        let same = || {
            for path in paths {
                let identity = FileIdentity::of(&at(path));
                assert_eq!(identity, FileIdentity::of(&at("file")), "{path}");
            }
            assert_ne!(
                FileIdentity::of(&at("other")),
                FileIdentity::of(&at("file"))
            );
        };
        same();
        assert!(matches!(
            FileIdentity::of(&at("file")),
            FileIdentity::Absent(..)
        ));
        fs::File::create(at("file")).unwrap();
        fs::File::create(at("other")).unwrap();
        same();
        fs::hard_link(at("file"), at("hard")).unwrap();
        assert_eq!(FileIdentity::of(&at("hard")), FileIdentity::of(&at("file")));
    }

    #[test]
    fn what_cannot_be_found_goes_by_its_path() {
        let of = |path: &str| FileIdentity::of(Path::new(path));
        assert_eq!(of("./no-such/file"), of("no-such/file"));
        assert_ne!(of("no-such/file"), of("no-such/other"));
        assert_eq!(of("/dev/null"), FileIdentity::Named("/dev/null".into()));
        let folder = tempfile::tempdir().unwrap();
        let circle = folder.path().join("circle");
        symlink("circle", &circle).unwrap();
        assert_eq!(FileIdentity::of(&circle), FileIdentity::Named(circle));
    }
}
