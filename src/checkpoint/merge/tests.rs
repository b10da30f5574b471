//! Which runs are merged, and that a merge loses and invents nothing.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::run_name;
use crate::checkpoint::testing::{
    folder, keys, objects, overwrite, read, read_keys, spread, store, write,
};

fn sizes(sizes: &[u64]) -> Vec<RunEntry> {
    let run = |(index, keys): (usize, &u64)| RunEntry {
        name: format!("run {index}"),
        bucket: 0,
        first_group: 0,
        last_group: 1023,
        keys: *keys,
        bytes: *keys * 8,
        checksum: 0,
    };
    sizes.iter().enumerate().map(run).collect()
}

#[test]
fn runs_of_like_size_are_merged_the_smallest_first() {
    assert_eq!(next_merge(&sizes(&[])), None);
    assert_eq!(next_merge(&sizes(&[100, 100, 100])), None);
    assert_eq!(
        next_merge(&sizes(&[90, 9000, 100, 80, 90])),
        Some(vec![0, 2, 3, 4])
    );
    let two_tiers = [5000, 90, 5000, 90, 5000, 90, 5000, 90];
    assert_eq!(next_merge(&sizes(&two_tiers)), Some(vec![1, 3, 5, 7]));
}

#[test]
fn runs_of_all_sizes_are_merged_before_they_are_too_many() {
    let each_larger: Vec<u64> = (0..8).map(|power| 4_u64.pow(power)).collect();
    assert_eq!(next_merge(&sizes(&each_larger[..7])), None);
    assert_eq!(next_merge(&sizes(&each_larger)), Some(vec![0, 1, 2, 3]));
}

#[test]
fn an_hour_of_checkpoints_stays_few_runs_and_writes_each_key_a_few_times() {
    let mut runs = Vec::new();
    let (mut written, mut most) = (0, 0);
    for _ in 0..360 {
        runs.extend(sizes(&[100_000]));
        written += 100_000;
        // A merge takes as long as two checkpoints, at most.
        most = most.max(runs.len() + 2);
        while let Some(chosen) = next_merge(&runs) {
            let keys = chosen.iter().map(|index| runs[*index].keys).sum();
            chosen
                .iter()
                .rev()
                .for_each(|index| drop(runs.remove(*index)));
            runs.extend(sizes(&[keys]));
            written += keys;
        }
    }
    assert!(most <= RUNS_MAX, "{most} runs");
    let times = written / 36_000_000;
    assert!(times <= 6, "each key is written {times} times");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_merge_has_the_keys_of_its_inputs_in_its_key_groups_once(
        inputs in prop::collection::vec(
            prop::collection::btree_set((0u128..6, 0u128..40), 1..60), 1..5),
        narrow in any::<bool>(),
        last in 0u16..6,
    ) {
        let folder = folder();
        let store = store(&folder);
        let groups = Groups { first: 1, last: last.max(1) };
        let mut expected = BTreeSet::new();
        let mut entries = Vec::new();
        for input in inputs {
            let set: BTreeSet<u128> =
                input.into_iter().map(|(group, rest)| group << 118 | rest << 70).collect();
            entries.push(write(&store, 1, &keys(&set, narrow)));
            expected.extend(set);
        }
        expected.retain(|key| groups.contains(Key::group(*key)));
        let name = run_name(2);
        match merge(&store, &entries, groups, &name).unwrap() {
            Some(merged) => {
                let expected: Vec<u128> = expected.into_iter().collect();
                prop_assert_eq!(merged.keys, expected.len() as u64);
                prop_assert_eq!(read_keys(&store, &merged, Groups::ALL), expected);
            }
            None => prop_assert!(expected.is_empty()),
        }
    }
}

#[test]
fn a_merge_on_its_own_thread_leaves_its_inputs_and_is_what_was_there() {
    let folder = folder();
    let store = Arc::new(store(&folder));
    let runs: Vec<RunEntry> = (0..4)
        .map(|seed| write(&store, 1, &spread(50_000, seed)))
        .collect();
    let merging = Merging::start(Arc::clone(&store), runs.clone(), Groups::ALL, run_name(1));
    assert_eq!(merging.runs, runs);
    let merged = merging.finish().unwrap().unwrap();
    assert_eq!(merged.keys, 200_000);
    Run::open(&store, &merged).unwrap().verify().unwrap();
    for run in runs {
        Run::open(&store, &run).unwrap().verify().unwrap();
    }
}

#[test]
fn a_damaged_input_ends_the_merge_and_leaves_no_run() {
    let folder = folder();
    let store = store(&folder);
    let runs = [0, 1].map(|seed| write(&store, 1, &spread(1000, seed)));
    let mut bytes = read(&folder, &runs[1].name);
    bytes[4000] ^= 1;
    overwrite(&folder, &runs[1].name, &bytes);
    let name = run_name(1);
    let error = merge(&store, &runs, Groups::ALL, &name).unwrap_err();
    assert!(error.to_string().contains(&runs[1].name), "{error}");
    assert!(!objects(&folder).join(name).exists());
}
