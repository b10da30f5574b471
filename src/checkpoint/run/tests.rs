//! Runs as they are written and read, and what becomes of damaged ones.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::testing::{
    folder, keys, overwrite, read, read_keys, spread, store, wide, write,
};
use crate::checkpoint::{Error, Store};

fn groups(first: u16, last: u16) -> Groups {
    Groups { first, last }
}

fn group_of(key: u128) -> u16 {
    Key::group(key)
}

/// Reads every byte of a run, and all its keys.
fn verify(store: &Store, entry: &RunEntry) -> Result<usize, Error> {
    let run = Run::open(store, entry)?;
    run.verify()?;
    run.read(Groups::ALL)
        .try_fold(0, |count, piece| Ok(count + piece?.len()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_written_is_read_back_by_any_range_of_key_groups(
        // Few key groups, so that some have many keys, and the ends of the range.
        set in prop::collection::btree_set(
            (prop_oneof![0u128..4, 1020u128..1024], 0u128..u128::from(u64::MAX)),
            1..300,
        ),
        narrow in any::<bool>(),
        range in (0u16..1024, 0u16..1024),
    ) {
        let set: BTreeSet<u128> = set.into_iter()
            .map(|(group, rest)| group << 118 | rest << 54)
            .collect();
        let (folder, keys) = (folder(), keys(&set, narrow));
        let store = store(&folder);
        let entry = write(&store, 1, &keys);
        prop_assert_eq!(read(&folder, &entry.name), encode(&keys));
        let all = wide(&keys);
        prop_assert_eq!(read_keys(&store, &entry, Groups::ALL), all.clone());
        prop_assert_eq!(verify(&store, &entry).unwrap(), all.len());
        prop_assert_eq!(entry.keys, all.len() as u64);

        let range = groups(range.0.min(range.1), range.0.max(range.1));
        let inside: Vec<u128> = all.into_iter()
            .filter(|key| range.contains(group_of(*key)))
            .collect();
        prop_assert_eq!(read_keys(&store, &entry, range), inside.clone());
        let part = Run::open(&store, &entry).unwrap().restrict(range);
        prop_assert_eq!(part.as_ref().map_or(0, |part| part.keys), inside.len() as u64);
        if let Some(part) = part {
            // The part counts, and the rest of the object does not.
            prop_assert_eq!(read_keys(&store, &part, Groups::ALL), inside);
            verify(&store, &part).unwrap();
        }
    }

    #[test]
    fn any_bytes_are_a_run_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        end in any::<bool>(),
    ) {
        let folder = folder();
        let store = store(&folder);
        let mut entry = write(&store, 1, &spread(3, 0));
        let whole = encode(&spread(3, 0));
        let mut bytes = bytes;
        if end {
            // With a footer that is as it must be.
            bytes.extend_from_slice(&whole[whole.len() - FOOTER_BYTES as usize..]);
        }
        overwrite(&folder, &entry.name, &bytes);
        entry.bytes = bytes.len() as u64;
        prop_assert!(verify(&store, &entry).unwrap_err().is_damage());
    }
}

#[test]
fn a_change_of_any_byte_is_noticed() {
    for narrow in [true, false] {
        let folder = folder();
        let store = store(&folder);
        let set = [1, 2 << 64, 3 << 100, 1 << 127].map(|key| key | 1 << 70);
        let entry = write(&store, 1, &keys(&BTreeSet::from(set), narrow));
        let good = read(&folder, &entry.name);
        for position in 0..good.len() {
            for bit in [1, 0x80] {
                let mut bad = good.clone();
                bad[position] ^= bit;
                overwrite(&folder, &entry.name, &bad);
                let error = verify(&store, &entry).unwrap_err();
                let noticed = error.is_damage() || matches!(error, Error::Version { .. });
                assert!(noticed, "byte {position}: {error}");
                assert!(error.to_string().contains(&entry.name), "{error}");
            }
        }
        for length in 0..good.len() {
            overwrite(&folder, &entry.name, &good[..length]);
            assert!(verify(&store, &entry).unwrap_err().is_damage());
        }
        overwrite(&folder, &entry.name, &good);
        verify(&store, &entry).unwrap();
    }
}

#[test]
fn a_good_run_in_the_place_of_another_is_noticed() {
    let folder = folder();
    let store = store(&folder);
    let entry = write(&store, 1, &spread(100, 0));
    overwrite(&folder, &entry.name, &encode(&spread(100, 1)));
    let error = verify(&store, &entry).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[test]
fn a_run_of_another_version_is_refused_by_name() {
    let folder = folder();
    let store = store(&folder);
    let entry = write(&store, 1, &spread(10, 0));
    let mut newer = read(&folder, &entry.name);
    let version = newer.len() - 12;
    newer[version] = 9;
    overwrite(&folder, &entry.name, &newer);
    let error = verify(&store, &entry).unwrap_err();
    let (found, known) = (9, 2);
    let name = entry.name;
    assert_eq!(error, Error::Version { name, found, known });
}

#[test]
fn a_large_run_is_read_in_pieces_and_its_key_groups_alone() {
    let folder = folder();
    let store = store(&folder);
    // More than a part, a piece and a first read of the index hold; key group 5 has many blocks.
    let keys: BTreeSet<u128> = (0..300_000)
        .map(|n: u128| 5 << 118 | n << 80)
        .chain((0..1024).flat_map(|group| (0..600).map(move |n: u128| group << 118 | n << 90)))
        .collect();
    let run = self::keys(&keys, false);
    let entry = write(&store, 1, &run);
    assert!(entry.bytes > 12_000_000);
    let opened = Run::open(&store, &entry).unwrap();
    let sizes: Vec<usize> = opened
        .read(Groups::ALL)
        .map(|piece| piece.unwrap().len())
        .collect();
    assert!(
        sizes.len() > 3 && sizes.iter().all(|size| size * 16 <= 1 << 22),
        "{sizes:?}"
    );
    assert_eq!(sizes.iter().sum::<usize>(), keys.len());
    let sixth = opened.read(groups(6, 6)).map(|piece| piece.unwrap().len());
    assert_eq!(sixth.collect::<Vec<_>>(), [600]);
    opened.verify().unwrap();
    assert_eq!(
        read_keys(&store, &entry, Groups::ALL),
        keys.into_iter().collect::<Vec<_>>()
    );
}

#[test]
fn without_keys_there_is_no_run() {
    let folder = folder();
    let store = store(&folder);
    let name = crate::checkpoint::run_name(1);
    let entry = write_run(&store, (&name, 0), &KeyRun::Narrow(Vec::new())).unwrap();
    assert_eq!(entry, None);
    assert!(
        !store
            .list()
            .unwrap()
            .iter()
            .any(|object| object.name == name)
    );
}
