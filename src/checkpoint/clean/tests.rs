//! What is deleted and what is not, and crashes at every step of it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::layout::manifest_name;
use crate::checkpoint::testing::{
    folder, manifest, names, objects, overwrite, spread, store, write,
};
use crate::checkpoint::{RunEntry, Start, newest, put_manifest, run_name, verify_all, write_start};

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
    write_start(&store, (5, 0), &Start::default()).unwrap();
    write_start(&store, (6, 0), &Start::default()).unwrap();
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

#[test]
fn a_crash_between_the_link_and_the_removal_leaves_the_object() {
    let folder = folder();
    let store = store(&folder);
    three_checkpoints(&store);
    let name = manifest_name(2);
    let hidden = objects(&folder).join(".unfinished-0123456789abcdef");
    std::fs::hard_link(objects(&folder).join(&name), &hidden).unwrap();
    assert_eq!(store.sweep().unwrap(), 1);
    assert!(!hidden.exists());
    assert_eq!(newest(&store).unwrap().manifest.unwrap().name(), name);
}

#[test]
fn a_job_that_is_forgotten_begins_anew() {
    let folder = folder();
    let store = store(&folder);
    three_checkpoints(&store);
    write_start(&store, (5, 0), &Start::default()).unwrap();
    overwrite(&folder, ".unfinished-0123456789abcdef", b"DJKEYRUN");
    overwrite(&folder, "a strange name", b"not ours");
    assert_eq!(forget(&store).unwrap(), 1 + 3 + 5 + 1 + 1);
    assert_eq!(names(&objects(&folder)), ["a strange name"]);
    assert_eq!(newest(&store).unwrap().manifest, None);
}

fn run(generation: u64, index: usize) -> RunEntry {
    RunEntry {
        name: format!("run-{generation:020}-{index:016x}.keys"),
        bucket: 0,
        first_group: 0,
        last_group: 1023,
        keys: 1,
        bytes: 78,
        checksum: 0,
    }
}

proptest! {
    #[test]
    fn whatever_is_there_no_object_is_deleted_that_may_be_needed(
        writers in prop::collection::vec(1u64..5, 1..12),
        checkpoints in prop::collection::vec(
            (1u64..5, prop::collection::vec(any::<prop::sample::Index>(), 0..4), 0u8..8), 0..6),
        generation in 1u64..5,
    ) {
        let runs: Vec<RunEntry> = writers.iter().enumerate()
            .map(|(index, writer)| run(*writer, index))
            .collect();
        let mut names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
        let (mut good, mut damaged) = (Vec::new(), Vec::new());
        for (number, (generation, named, luck)) in (0u64..).zip(checkpoints) {
            let named: Vec<RunEntry> =
                named.iter().map(|index| index.get(&runs).clone()).collect();
            names.push(manifest_name(number));
            match luck {
                0 => damaged.push(number),
                _ => good.push(manifest(number, generation, &named)),
            }
        }
        let objects: Vec<Object> = names.iter()
            .map(|name| Object { name: name.clone(), bytes: 0 })
            .collect();
        let garbage = garbage(&objects, &good, generation);
        let kept = &good[good.len().saturating_sub(KEPT)..];
        for needed in kept.iter().flat_map(|one| one.objects()) {
            prop_assert!(!garbage.iter().any(|name| name == needed), "{needed} is needed");
        }
        for name in &garbage {
            prop_assert!(names.contains(name));
            match Kind::of(name) {
                Kind::Manifest(number) => {
                    prop_assert!(!damaged.contains(&number), "evidence stays");
                    prop_assert!(kept.len() == KEPT && number < kept[0].number);
                }
                Kind::Run(writer) => prop_assert!(writer <= generation),
                _ => prop_assert!(false, "{name} is another's"),
            }
        }
        if good.iter().any(|one| one.generation > generation) {
            prop_assert!(garbage.is_empty(), "a newer generation is at work");
        }
    }
}
