//! Manifests as text, what becomes of damaged ones, and who may put one.

use expect_test::expect;

use super::*;
use crate::checkpoint::testing::{folder, manifest, overwrite, read as read_bytes, spread, store};
use crate::checkpoint::testing::{objects, write};

fn put(store: &Store, number: u64, generation: u64) -> Manifest {
    let mut manifest = manifest(number, generation, &[]);
    put_manifest(store, &mut manifest).unwrap();
    manifest
}

#[test]
fn a_person_can_read_a_manifest() {
    let mut manifest = manifest(7, 3, &[]);
    manifest.runs = vec![RunEntry {
        name: "run-00000000000000000003-0123456789abcdef.keys".to_owned(),
        bucket: 0,
        first_group: 0,
        last_group: 511,
        keys: 5,
        bytes: 110,
        checksum: 0xab,
    }];
    manifest.offsets.remove(&3);
    expect![[r#"
        {"checksum":"d7023ad47099a87d",
          "version": 2,
          "manifest": {
            "job": "test",
            "number": 7,
            "generation": 3,
            "epoch": 1767225600007,
            "written_ms": 1767225600507,
            "log": {
              "marker": {
                "version": 1
              },
              "next": 17
            },
            "offsets": {
              "0": 42
            },
            "clock_ms": null,
            "runs": [
              {
                "name": "run-00000000000000000003-0123456789abcdef.keys",
                "bucket": 0,
                "first_group": 0,
                "last_group": 511,
                "keys": 5,
                "bytes": 110,
                "checksum": "00000000000000ab"
              }
            ],
            "rows": [],
            "reference": null
          }
        }
    "#]]
    .assert_eq(&String::from_utf8(manifest.encode()).unwrap());
    let decoded = Manifest::decode(&manifest.name(), &manifest.encode());
    assert_eq!(decoded, Ok(manifest));
}

#[test]
fn a_change_of_any_byte_is_noticed() {
    let manifest = manifest(7, 3, &[]);
    let (name, good) = (manifest.name(), manifest.encode());
    for position in 0..good.len() {
        for bit in [1, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[position] ^= bit;
            let error = Manifest::decode(&name, &bad).unwrap_err();
            assert!(error.is_damage(), "byte {position}: {error}");
        }
        assert!(Manifest::decode(&name, &good[..position]).is_err());
    }
    let longer = [good.as_slice(), b" "].concat();
    assert!(Manifest::decode(&name, &longer).unwrap_err().is_damage());
    assert!(Manifest::decode("manifest-00000000000000000008.json", &good).is_err());
}

#[test]
fn a_manifest_that_names_what_it_must_not_is_refused() {
    let folder = folder();
    let good = write(&store(&folder), 1, &spread(3, 0));
    for (name, first_group, last_group) in [
        ("../elsewhere", 0, 1),
        ("manifest-00000000000000000001.json", 0, 1),
        (good.name.as_str(), 2, 1),
        (good.name.as_str(), 0, 1024),
    ] {
        let mut manifest = manifest(1, 1, std::slice::from_ref(&good));
        manifest.runs[0].name = name.to_owned();
        (manifest.runs[0].first_group, manifest.runs[0].last_group) = (first_group, last_group);
        let refused = Manifest::decode(&manifest.name(), &manifest.encode());
        assert!(refused.unwrap_err().is_damage());
    }
}

#[test]
fn the_newest_is_found_and_numbers_go_on_behind_it() {
    let folder = folder();
    let store = store(&folder);
    let none = newest(&store).unwrap();
    assert_eq!((none.manifest, none.next_number), (None, 0));
    let (first, second) = (put(&store, 0, 1), put(&store, 12, 1));
    let found = newest(&store).unwrap();
    assert_eq!((found.manifest, found.next_number), (Some(second), 13));
    assert_eq!(newest_below(&store, 12).unwrap().manifest, Some(first));
}

#[test]
fn a_damaged_manifest_is_told_and_the_one_before_it_is_found() {
    let folder = folder();
    let store = store(&folder);
    let (first, second) = (put(&store, 0, 1), put(&store, 1, 1));
    let mut bytes = read_bytes(&folder, &second.name());
    bytes[100] ^= 1;
    overwrite(&folder, &second.name(), &bytes);
    let found = newest(&store).unwrap();
    assert_eq!(found.manifest, Some(first.clone()));
    assert_eq!(found.next_number, 2);
    let told: Vec<String> = found.damaged.iter().map(Error::to_string).collect();
    assert_eq!(told.len(), 1);
    assert!(
        told[0].contains(&second.name()) && told[0].contains("checksum"),
        "{told:?}"
    );

    overwrite(&folder, &first.name(), b"");
    let error = newest(&store).unwrap_err();
    assert!(
        error.is_damage(),
        "none is good, and that is not a first start: {error}"
    );
}

#[test]
fn a_manifest_of_another_version_is_refused_by_name() {
    let folder = folder();
    let store = store(&folder);
    put(&store, 0, 1);
    let name = manifest_name(1);
    let (newer, _) = seal(b"{\"version\":3,\"something\":[]}\n");
    overwrite(&folder, &name, &newer);
    let (found, known) = (3, 2);
    assert_eq!(newest(&store), Err(Error::Version { name, found, known }));
    // Nor is its number taken away from it.
    assert!(put_manifest(&store, &mut manifest(1, 1, &[])).is_err());
    assert_eq!(read_bytes(&folder, &manifest_name(1)), newer);
}

#[test]
fn a_manifest_of_an_older_generation_is_stepped_over_and_that_of_a_newer_one_stops() {
    let folder = folder();
    let store = store(&folder);
    let old = put(&store, 5, 1);
    let new = put(&store, 5, 2);
    assert_eq!((old.number, new.number), (5, 6));
    let mut late = manifest(5, 1, &[]);
    late.epoch += 1;
    let refused = put_manifest(&store, &mut late).unwrap_err();
    let expected = Error::Superseded {
        name: new.name(),
        generation: 1,
        newer: 2,
    };
    assert_eq!(refused, expected);
    // The same again is the same: the answer to the first put may have been lost.
    let mut again = new.clone();
    put_manifest(&store, &mut again).unwrap();
    assert_eq!(again, new);
}

#[test]
fn a_manifest_of_another_job_is_damage() {
    let folder = folder();
    let store = store(&folder);
    let mut foreign = manifest(0, 1, &[]);
    foreign.job = "other".to_owned();
    std::fs::write(objects(&folder).join(foreign.name()), foreign.encode()).unwrap();
    assert!(newest(&store).unwrap_err().is_damage());
}
