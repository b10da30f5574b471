//! Folders as stores, and waiting for what passes.

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::checkpoint::testing::{JOB, folder, names, objects, options, store as opened};

fn open(location: &str) -> Result<Store, Error> {
    Store::open(location, JOB, options(), Arc::new(Stop::default()))
}

#[test]
fn a_name_that_is_taken_stays_as_it_is() {
    let folder = folder();
    let store = opened(&folder);
    assert_eq!(store.put("x", b"one").unwrap(), Put::Written);
    assert_eq!(store.put("x", b"one").unwrap(), Put::Written);
    assert_eq!(store.put("x", b"two").unwrap(), Put::Taken);
    assert_eq!(store.get("x").unwrap(), b"one");
    assert_eq!(store.get_range("x", 1..3).unwrap(), b"ne");
    assert!(store.get_range("x", 1..4).unwrap_err().is_damage());
    store.delete("x").unwrap();
    store.delete("x").unwrap();
    assert!(matches!(store.get("x"), Err(Error::Missing { .. })));
}

#[test]
fn one_of_many_who_put_one_name_at_the_same_moment_wins() {
    let folder = folder();
    let stores: Vec<Store> = (0..8).map(|_| opened(&folder)).collect();
    for round in 0..20 {
        let name = format!("x{round}");
        let puts: Vec<Put> = std::thread::scope(|scope| {
            let threads: Vec<_> = stores
                .iter()
                .enumerate()
                .map(|(index, store)| {
                    let name = &name;
                    scope.spawn(move || store.put(name, index.to_string().as_bytes()).unwrap())
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(puts.iter().filter(|put| **put == Put::Written).count(), 1);
    }
}

#[test]
fn an_object_of_many_parts_is_there_whole_or_not_at_all() {
    let folder = folder();
    let store = opened(&folder);
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut dropped = store.writer("dropped");
    dropped.write(&bytes).unwrap();
    drop(dropped);
    let mut writer = store.writer("whole");
    for piece in bytes.chunks(700_001) {
        writer.write(piece).unwrap();
        assert!(!objects(&folder).join("whole").exists());
    }
    assert_eq!(writer.finish().unwrap(), Put::Written);
    assert_eq!(store.get("whole").unwrap(), bytes);
    assert_eq!(names(&objects(&folder)), ["checkpoints.json", "whole"]);
}

#[test]
fn a_location_that_cannot_be_used_is_refused_at_the_start() {
    let folder = folder();
    let path = folder.path().display();
    std::fs::write(folder.path().join("file"), b"").unwrap();
    for (location, reason) in [
        ("state".to_owned(), "neither with"),
        ("file://".to_owned(), "no folder"),
        (format!("file://{path}/file"), "Not a directory"),
        (
            "s3://".to_owned(),
            if cfg!(feature = "s3") {
                "no bucket"
            } else {
                "without S3"
            },
        ),
        ("gs://bucket".to_owned(), "neither with"),
    ] {
        let error = open(&location).unwrap_err();
        assert!(matches!(error, Error::Location { .. }), "{error:?}");
        assert!(error.to_string().contains(&location), "{error}");
        assert!(
            error.detail().unwrap().contains(reason),
            "{:?}",
            error.detail()
        );
        assert_eq!(error.exit_code().number(), 2);
    }
}

/// A folder that takes nothing.
struct Shut(Folder, fn(String) -> Trouble);

impl Shut {
    fn refuse<T>(&self) -> Result<T, Trouble> {
        Err((self.1)("shut".to_owned()))
    }
}

impl Backing for Shut {
    fn put(&self, _name: &str, _bytes: &[u8]) -> Result<Put, Trouble> {
        self.refuse()
    }

    fn begin(&self, _name: &str) -> Result<Box<dyn Upload + '_>, Trouble> {
        self.refuse()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, Trouble> {
        self.0.get(name, range)
    }

    fn list(&self) -> Result<Vec<Object>, Trouble> {
        self.0.list()
    }

    fn delete(&self, _name: &str) -> Result<(), Trouble> {
        self.refuse()
    }

    fn sweep(&self) -> Result<usize, Trouble> {
        self.refuse()
    }
}

#[test]
fn a_location_that_takes_nothing_now_is_refused_unless_the_job_is_there_already() {
    let lasting: fn(String) -> Trouble = Trouble::Lasting;
    for (trouble, code) in [(lasting, 2), (Trouble::Full, 1)] {
        let folder = folder();
        let establish = || {
            let shut = Shut(Folder::open(folder.path(), JOB, true).unwrap(), trouble);
            let store = Store {
                backing: Box::new(shut),
                location: "shut".to_owned(),
                job: JOB.to_owned(),
                patience: options().patience,
                stop: Arc::default(),
            };
            layout::establish(&store).map_err(|error| store.at_start(error))
        };
        let refused = establish().unwrap_err();
        assert_eq!(refused.exit_code().number(), code, "{refused}");
        assert_eq!(refused.detail().unwrap(), "shut");
        opened(&folder);
        establish().expect("it holds the job's checkpoints");
        crate::checkpoint::testing::overwrite(&folder, "checkpoints.json", b"another's");
        assert!(establish().unwrap_err().is_damage());
    }
}

#[test]
fn a_read_only_folder_is_gone_on_from_and_can_be_read() {
    let folder = folder();
    opened(&folder).put("x", b"one").unwrap();
    let location = format!("file://{}", folder.path().display());
    let set = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(objects(&folder), mode).unwrap();
    };
    set(0o555);
    let opening = open(&location);
    let reading = Store::open_to_read(&location, JOB, options(), Arc::new(Stop::default()));
    set(0o755);
    opening.expect("it holds the job's checkpoints");
    assert_eq!(reading.unwrap().get("x").unwrap(), b"one");
}

#[test]
fn a_location_of_another_job_or_version_is_refused() {
    let folder = folder();
    let location = format!("file://{}", folder.path().display());
    opened(&folder);
    let about = objects(&folder).join("checkpoints.json");
    std::fs::write(&about, b"{\"version\":3,\"job\":\"test\"}").unwrap();
    assert!(matches!(
        open(&location),
        Err(Error::Version { found: 3, .. })
    ));
    std::fs::write(&about, b"{\"version\":2,\"job\":\"tset\"}").unwrap();
    assert!(open(&location).unwrap_err().is_damage());
    assert_eq!(
        std::fs::read(&about).unwrap(),
        b"{\"version\":2,\"job\":\"tset\"}"
    );
}

#[test]
fn reading_a_location_makes_nothing() {
    let folder = folder();
    let location = format!("file://{}/new", folder.path().display());
    let read = Store::open_to_read(&location, JOB, options(), Arc::new(Stop::default()));
    assert!(matches!(read, Err(Error::Location { .. })));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn what_passes_is_tried_again_and_what_lasts_is_not() {
    let folder = folder();
    let store = opened(&folder);
    let attempts = Cell::new(0);
    let fail = |times: u32, trouble: fn(String) -> Trouble| {
        attempts.set(0);
        store.attempt(Action::Read, "x", || {
            attempts.set(attempts.get() + 1);
            match attempts.get() > times {
                true => Ok(()),
                false => Err(trouble("busy".to_owned())),
            }
        })
    };
    assert_eq!(fail(2, Trouble::Passing), Ok(()));
    assert_eq!(attempts.get(), 3);
    assert!(matches!(
        fail(1, Trouble::Lasting),
        Err(Error::Refused { .. })
    ));
    assert_eq!(attempts.get(), 1);
    let error = fail(1000, Trouble::Passing).unwrap_err();
    assert_eq!(error.to_string(), "could not read \"x\" within 2s");
    assert_eq!(error.detail().unwrap(), "busy");
    store.stop.ask();
    assert_eq!(fail(1, Trouble::Passing), Err(Error::Stopped));
    assert_eq!(attempts.get(), 1);
}
