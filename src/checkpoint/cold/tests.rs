//! Keys on disk: asked, gone on with after a restart, fetched again, and damaged.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arrow_buffer::ScalarBuffer;
use deltajoin_workers::batch::Keys;
use deltajoin_workers::checkpoint::KeyRun;
use deltajoin_workers::key::mix64;
use deltajoin_workers::state::{KeySet, RowFolder};
use tempfile::TempDir;

use super::*;
use crate::checkpoint::testing::{folder, keys, names, store, wide, write};

/// A folder for keys on disk; a fault is a panic.
fn cold(folder: &TempDir) -> Arc<ColdFolder> {
    let on_fault = |error: &Error| panic!("{error}");
    let folder = ColdFolder::open(
        folder.path(),
        ("test", 0),
        Arc::default(),
        Box::new(on_fault),
    );
    Arc::new(folder.unwrap())
}

fn files(folder: &TempDir) -> (PathBuf, Vec<String>) {
    let path = folder.path().join("process-0/test");
    let names = names(&path);
    (path, names)
}

/// Keys of a set, in memory.
fn set(keys: &KeyRun) -> Arc<KeySet> {
    let mut set = KeySet::new(keys.is_narrow());
    set.extend(keys);
    Arc::new(set)
}

/// So many keys.
fn all(count: u64, narrow: bool) -> KeyRun {
    let key = |n: u64| u128::from(mix64(n)) << 64 | u128::from(mix64(!n));
    keys(&(0..count).map(key).collect(), narrow)
}

#[test]
fn keys_that_left_memory_are_found_there_and_no_others() {
    for narrow in [true, false] {
        let run = all(30_000, narrow);
        let all = wide(&run);
        let folder = folder();
        let cold = cold(&folder);
        let part = |from: usize, to: usize| keys(&all[from..to].iter().copied().collect(), narrow);
        let first = Freeze {
            bucket: -3,
            sets: vec![set(&part(0, 9_000)), set(&part(9_000, 20_000))],
            later: part(19_990, 20_000),
            cold: Vec::new(),
        };
        let file = cold.freeze(&first).unwrap();
        assert_eq!((file.len(), file.run.bucket), (19_990, -3));
        let count = |file: &ColdFile, found: Found| {
            let count = all.iter().filter(|key| file.find(**key) == found);
            count.count()
        };
        assert!(
            all[..19_990]
                .iter()
                .all(|key| file.find(*key) == Found::Yes)
        );
        assert_eq!(count(&file, Found::Yes), 19_990);
        // One in 256 is expected.
        assert!(count(&file, Found::NoAfterReading) < 10_010 / 100);
        let bits = 8.0 * file.bytes() as f64 / 19_990.0;
        assert!(bits < 11.0, "{bits} bits a key");

        // With more keys: the ten that stayed, and new ones.
        let second = Freeze {
            bucket: -3,
            sets: vec![set(&part(19_990, 30_000))],
            later: KeyRun::none(narrow),
            cold: vec![file as _],
        };
        let file = cold.freeze(&second).unwrap();
        assert_eq!(count(&file, Found::Yes), 30_000);
        second.cold[0].retire();
        drop(second);
        assert_eq!(files(&folder).1.len(), 4);
        cold.collect();
        assert_eq!(files(&folder).1.len(), 2, "what is retired is deleted");

        // As an object of a checkpoint it is the run of the same keys.
        let other = crate::checkpoint::testing::folder();
        let store = store(&other);
        let entry = cold.upload(&file, &store, &run_name(1)).unwrap();
        let whole = write(&store, 1, &run);
        assert_eq!((entry.checksum, entry.keys), (whole.checksum, whole.keys));
        let found = cold.find(&RunEntry {
            bucket: -3,
            ..whole
        });
        assert_eq!(found.map(|file| file.len()), Some(30_000));
    }
}

#[test]
fn a_restart_finds_what_is_there_fetches_the_rest_and_deletes_what_nobody_needs() {
    for narrow in [true, false] {
        let run = all(10_000, narrow);
        let (objects, folder) = (folder(), folder());
        let store = store(&objects);
        let entry = write(&store, 1, &run);
        let half = Groups {
            first: 0,
            last: 511,
        };
        let half = Run::open(&store, &entry).unwrap().restrict(half).unwrap();
        let known = |file: &ColdFile| {
            let keys = wide(&run);
            keys.iter()
                .filter(|key| file.find(**key) == Found::Yes)
                .count() as u64
        };
        {
            let cold = cold(&folder);
            assert!(cold.find(&entry).is_none());
            for entry in [&entry, &half] {
                assert_eq!(
                    known(
                        &cold
                            .fetch(&Run::open(&store, entry).unwrap(), entry)
                            .unwrap()
                    ),
                    entry.keys
                );
            }
        }
        let cold = cold(&folder);
        let file = cold.find(&half).unwrap();
        assert_eq!(known(&file), half.keys);
        assert_eq!(files(&folder).1.len(), 4);
        cold.clean().unwrap();
        assert_eq!(
            files(&folder).1.len(),
            2,
            "those of the whole run are not in use"
        );
        assert_eq!(known(&file), half.keys);
        assert!(cold.find(&entry).is_none());
    }
}

#[test]
fn whatever_byte_is_damaged_no_wrong_answer_is_given() {
    let run = all(3_000, true);
    let (objects, folder) = (folder(), folder());
    let store = store(&objects);
    let entry = write(&store, 1, &run);
    let keys = wide(&run);
    drop(
        cold(&folder)
            .fetch(&Run::open(&store, &entry).unwrap(), &entry)
            .unwrap(),
    );
    let (path, names) = files(&folder);
    let faults = Arc::new(AtomicUsize::new(0));
    let (mut made_again, mut ended) = (0, 0);
    let bytes = |name: &String| (name.clone(), fs::read(path.join(name)).unwrap());
    let right_bytes: Vec<(String, Vec<u8>)> = names.iter().map(bytes).collect();
    for (name, whole) in &right_bytes {
        for at in (0..whole.len()).step_by(whole.len() / 60) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(path.join(name), &bytes).unwrap();
            let counted = Arc::clone(&faults);
            let on_fault: OnFault = Box::new(move |_| {
                counted.fetch_add(1, Relaxed);
                // What ends a process ends here this thread's work.
                std::panic::resume_unwind(Box::new(()))
            });
            let cold = ColdFolder::open(folder.path(), ("test", 0), Arc::default(), on_fault);
            let cold = Arc::new(cold.unwrap());
            let right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let Some(file) = cold.find(&entry) else {
                    return false;
                };
                keys.iter().all(|key| {
                    file.find(*key) == Found::Yes && file.find(key ^ (1 << 70)) != Found::Yes
                })
            }));
            match right {
                Ok(right) => {
                    // It was not taken, or the byte is one that nobody needs.
                    made_again += usize::from(!right);
                    assert_eq!(right, cold.find(&entry).is_some());
                }
                Err(_) => {
                    ended += 1;
                    assert!(
                        cold.find(&entry).is_none(),
                        "the next start fetches it again"
                    );
                }
            }
            for (name, bytes) in &right_bytes {
                fs::write(path.join(name), bytes).unwrap();
            }
        }
    }
    assert_eq!(faults.load(Relaxed), ended);
    assert!(made_again > 40 && ended > 20, "{made_again} {ended}");
}

#[test]
fn keys_are_asked_as_batches_have_them() {
    let run = all(100, false);
    let folder = folder();
    let freeze = Freeze {
        bucket: 0,
        sets: vec![set(&run)],
        later: KeyRun::none(false),
        cold: Vec::new(),
    };
    let file = cold(&folder).freeze(&freeze).unwrap();
    let KeyRun::Wide(keys) = run else {
        panic!("they are wide");
    };
    let high = keys
        .iter()
        .map(|key| (key >> 64) as u64)
        .collect::<Vec<_>>();
    let low = keys.iter().map(|key| *key as u64).collect::<Vec<_>>();
    let batch = Keys::Wide(ScalarBuffer::from(high), ScalarBuffer::from(low));
    assert!((0..100).all(|row| file.find(batch.get(row)) == Found::Yes));
}

#[test]
fn rows_are_read_as_they_were_written_until_they_are_dropped_and_never_damaged() {
    let folder = folder();
    let this = cold(&folder);
    let blocks: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 100 * usize::from(n)]).collect();
    let mut of_worker = [0, 1].map(|worker| RowFiles::new(Arc::clone(&this), worker));
    let written = of_worker
        .each_mut()
        .map(|rows| rows.write(&blocks).unwrap());
    let more = of_worker[0].write(&blocks[..2]).unwrap();
    for rows in &written {
        for (number, block) in blocks.iter().enumerate().rev() {
            assert_eq!(rows.read(number), *block);
        }
    }
    assert_eq!(more.read(1), blocks[1]);
    drop(more);
    this.clean().unwrap();
    let (path, names) = files(&folder);
    assert_eq!(names, ["window-0-0", "window-1-0"], "they are in use");

    let file = path.join("window-0-0");
    let mut bytes = fs::read(&file).unwrap();
    bytes[150] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_eq!(written[0].read(1), blocks[1]);
    let read = std::panic::AssertUnwindSafe(|| written[0].read(2));
    let fault = std::panic::catch_unwind(read).unwrap_err();
    let fault = fault.downcast_ref::<String>().unwrap();
    assert!(
        fault.contains("window-0-0") && fault.contains("block 2"),
        "{fault}"
    );

    // What a killed process has left is deleted by the next start, as nobody has its rows.
    std::mem::forget(written);
    cold(&folder).clean().unwrap();
    assert!(files(&folder).1.is_empty());
    fs::remove_dir(&path).unwrap();
    assert!(of_worker[0].write(&blocks).is_none(), "it stays in memory");
}
