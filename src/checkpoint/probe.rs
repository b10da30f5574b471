//! Tries whether a location can be used, before a job is started there.
//!
//! It is apart from `store`, which makes what is not there: here nothing stays.
//!
//! # Invariants
//! * What is put is deleted again, and so is a folder that was not there. Nothing else is changed.

use std::path::Path;
use std::sync::Arc;

use deltajoin_workers::ports::Stop;
use tracing::warn;

use crate::checkpoint::layout::{random, recognize};
use crate::checkpoint::{Error, Options, Put, Store};

/// Opens a location to be read, and tries whether it takes what a job puts there. None if it is a
/// folder that is not there yet.
///
/// # Errors
/// If a job could not keep its checkpoints there, or they are none that this program can read.
pub fn probe(
    location: &str,
    job: &str,
    options: Options,
    stop: Arc<Stop>,
) -> Result<Option<Store>, Error> {
    let folder = location.strip_prefix("file://").map(Path::new);
    let absent = folder.filter(|path| !path.as_os_str().is_empty() && !path.join(job).exists());
    if let Some(folder) = absent {
        probe_above(folder, options, stop).map_err(|error| match error {
            Error::Location { reason, hint, .. } => Error::Location {
                location: location.to_owned(),
                reason,
                hint,
            },
            other => other,
        })?;
        return Ok(None);
    }
    let store = Store::connect(location, job, options, stop, false)?;
    let tried = recognize(&store).and_then(|_| put_twice(&store));
    tried.map_err(|error| store.at_start(error))?;
    Ok(Some(store))
}

/// The same in the nearest folder that is there, where a job would make its own.
///
/// # Errors
/// If it would not take what a job puts there.
pub fn probe_above(folder: &Path, options: Options, stop: Arc<Stop>) -> Result<(), Error> {
    let there = folder.ancestors().find(|path| path.exists());
    let there = there.unwrap_or(Path::new("."));
    let name = format!(".deltajoin-check-{}", random());
    let place = format!("file://{}", there.display());
    let store = Store::connect(&place, &name, options, stop, true)?;
    let tried = put_twice(&store).map_err(|error| store.at_start(error));
    if let Err(error) = std::fs::remove_dir(there.join(&name)) {
        warn!(%error, folder = name, "could not remove the folder of a check");
    }
    tried
}

/// Whether objects can be put, are not replaced, and can be deleted.
fn put_twice(store: &Store) -> Result<(), Error> {
    let name = format!("check-{}", random());
    let put = store.put(&name, b"first");
    let again = put.and_then(|_| store.put(&name, b"second"));
    store.delete(&name)?;
    match again? {
        Put::Taken => Ok(()),
        Put::Written => Err(Error::NoConditionalPuts {
            location: store.location().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::testing::{JOB, folder, names, objects, options, store};

    fn tried(location: &Path) -> Result<Option<Store>, Error> {
        let location = format!("file://{}", location.display());
        probe(&location, JOB, options(), Arc::default())
    }

    #[test]
    fn a_folder_is_tried_and_stays_as_it_is() {
        let folder = folder();
        assert!(tried(&folder.path().join("a/b")).unwrap().is_none());
        assert!(names(folder.path()).is_empty());
        drop(store(&folder));
        assert!(tried(folder.path()).unwrap().is_some());
        assert_eq!(names(&objects(&folder)), ["checkpoints.json"]);
    }

    #[test]
    fn what_is_no_folder_is_refused_by_the_name_that_was_given() {
        let folder = folder();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let location = file.join("state");
        let error = tried(&location).unwrap_err();
        assert!(
            error.to_string().contains(location.to_str().unwrap()),
            "{error}"
        );
        assert!(error.detail().unwrap().contains("Not a directory"));
        assert_eq!(error.exit_code().number(), 2);
    }

    #[test]
    fn what_is_of_another_job_is_refused() {
        let folder = folder();
        drop(store(&folder));
        let about = objects(&folder).join("checkpoints.json");
        std::fs::write(about, r#"{"version":2,"job":"other"}"#).unwrap();
        assert!(tried(folder.path()).unwrap_err().is_damage());
    }
}
