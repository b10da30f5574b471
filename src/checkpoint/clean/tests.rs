//! What is deleted and what is not, and crashes at every step of it.

use std::collections::BTreeSet;

use super::*;
use crate::checkpoint::testing::{
    folder, manifest, names, objects, overwrite, spread, store, write,
};
use crate::checkpoint::{RunEntry, newest, put_manifest, run_name, verify_all, write_start};

fn put(store: &Store, number: u64, generation: u64, runs: &[RunEntry]) {
    put_manifest(store, &mut manifest(number, generation, runs)).unwrap();
}

fn remaining(store: &Store) -> BTreeSet<String> {
    let objects = store.list().unwrap().into_iter();
    objects.map(|object| object.name).collect()
}

/// Runs a to e; three checkpoints of generation 5: a b, then a b c, then d (merged of a b c) e.
fn three_checkpoints(store: &Store) -> Vec<RunEntry> {
    let runs: Vec<RunEntry> = (0..5)
        .map(|seed| write(store, 5, &spread(20, seed)))
        .collect();
    put(store, 0, 5, &runs[..2]);
    put(store, 1, 5, &runs[..3]);
    put(store, 2, 5, &runs[3..]);
    runs
}

#[test]
fn what_the_two_newest_manifests_name_stays() {
    let folder = folder();
    let store = store(&folder);
    let runs = three_checkpoints(&store);
    // Written for a checkpoint that is not there yet: about to be named.
    let coming = write(&store, 5, &spread(20, 9));
    assert_eq!(clean(&store, 5).unwrap(), 1);
    assert!(!remaining(&store).contains("manifest-00000000000000000000.json"));
    assert!(
        runs.iter()
            .chain([&coming])
            .all(|run| remaining(&store).contains(&run.name))
    );
    put(&store, 3, 5, &[runs[3].clone(), coming]);
    assert_eq!(
        clean(&store, 5).unwrap(),
        4,
        "a manifest, and the three merged runs"
    );
    assert_eq!(clean(&store, 5).unwrap(), 0);
    assert_eq!(verify_all(&store).unwrap().faults, []);
}

#[test]
fn what_a_crashed_generation_has_left_goes_when_a_newer_one_has_begun() {
    let folder = folder();
    let store = store(&folder);
    let runs = three_checkpoints(&store);
    let orphan = write(&store, 5, &spread(20, 9));
    write_start(&store, 5, None).unwrap();
    write_start(&store, 6, None).unwrap();
    assert_eq!(
        clean(&store, 6).unwrap(),
        0,
        "it has no checkpoint of its own"
    );
    let own = write(&store, 6, &spread(20, 8));
    put(&store, 3, 6, &[runs[3].clone(), runs[4].clone(), own]);
    clean(&store, 6).unwrap();
    let left = remaining(&store);
    assert!(!left.contains(&orphan.name) && !left.iter().any(|name| name.starts_with("start")));
    assert_eq!(
        left.iter().filter(|name| name.starts_with("run")).count(),
        3
    );
    assert_eq!(verify_all(&store).unwrap().faults, []);
}

#[test]
fn nothing_is_deleted_beside_a_newer_generation_or_an_unread_manifest() {
    let folder = folder();
    let store = store(&folder);
    three_checkpoints(&store);
    let newer = write(&store, 7, &spread(20, 9));
    let before = remaining(&store);
    overwrite(&folder, "manifest-00000000000000000003.json", b"damaged");
    assert_eq!(
        clean(&store, 5).unwrap(),
        0,
        "what the damaged one names is not known"
    );
    store.delete("manifest-00000000000000000003.json").unwrap();
    put(&store, 3, 7, std::slice::from_ref(&newer));
    assert_eq!(clean(&store, 5).unwrap(), 0, "a newer generation cleans up");
    assert!(before.is_subset(&remaining(&store)));
}

#[test]
fn a_run_of_a_newer_generation_without_a_manifest_stays() {
    let folder = folder();
    let store = store(&folder);
    three_checkpoints(&store);
    let newer = write(&store, 7, &spread(20, 9));
    overwrite(&folder, "a strange name", b"not ours");
    clean(&store, 5).unwrap();
    assert!(remaining(&store).contains(&newer.name));
    assert!(remaining(&store).contains("a strange name"));
}

#[test]
fn a_crash_at_any_step_leaves_good_checkpoints_and_garbage_that_goes() {
    for steps in 0.. {
        let folder = folder();
        let store = store(&folder);
        let mut runs = three_checkpoints(&store);
        write(&store, 4, &spread(20, 7));
        put(&store, 3, 5, &runs[3..]);
        let manifests: Vec<Manifest> = list(&store)
            .unwrap()
            .into_iter()
            .map(|checkpoint| checkpoint.manifest.unwrap())
            .collect();
        let garbage = garbage(&store.list().unwrap(), &manifests, 5);
        for name in garbage.iter().take(steps) {
            store.delete(name).unwrap();
        }
        // It crashes here; the next generation goes on.
        let found = newest(&store).unwrap();
        assert_eq!(found.manifest.unwrap().number, 3);
        assert_eq!(
            verify_all(&store).unwrap().faults,
            [],
            "after {steps} deletions"
        );
        runs.push(write(&store, 6, &spread(20, 8)));
        put(&store, found.next_number, 6, &runs[3..]);
        put(&store, found.next_number + 1, 6, &runs[3..]);
        clean(&store, 6).unwrap();
        let left = remaining(&store);
        assert_eq!(left.len(), 1 + 2 + 3, "{left:?}");
        if steps == garbage.len() {
            break;
        }
    }
}

#[test]
fn a_half_written_file_is_no_object_and_is_removed_when_its_writer_is_gone() {
    let folder = folder();
    let store = store(&folder);
    three_checkpoints(&store);
    // What a crash leaves: nobody holds its lock.
    overwrite(&folder, ".unfinished-0123456789abcdef", b"DJKEYRUN");
    let name = run_name(5);
    let mut living = store.writer(&name);
    living.write(&vec![0; 9 << 20]).unwrap();
    let unfinished = |names: Vec<String>| {
        names
            .into_iter()
            .filter(|name| name.starts_with('.'))
            .count()
    };
    assert_eq!(unfinished(names(&objects(&folder))), 2);
    assert!(!remaining(&store).iter().any(|name| name.starts_with('.')));
    assert_eq!(newest(&store).unwrap().manifest.unwrap().number, 2);
    clean(&store, 5).unwrap();
    assert_eq!(unfinished(names(&objects(&folder))), 1);
    living.finish().unwrap();
    assert_eq!(unfinished(names(&objects(&folder))), 0);
    assert!(remaining(&store).contains(&name));
}
