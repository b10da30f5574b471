//! That damage anywhere is found, and all of it.

use crate::checkpoint::testing::{folder, manifest, overwrite, read, spread, store, write};
use crate::checkpoint::{list, put_manifest, verify_all};

#[test]
fn every_fault_is_found_and_nothing_else() {
    let folder = folder();
    let store = store(&folder);
    let runs: Vec<_> = (0..3)
        .map(|seed| write(&store, 1, &spread(50, seed)))
        .collect();
    for number in 0..3 {
        let mut manifest = manifest(number, 1, &runs);
        put_manifest(&store, &mut manifest).unwrap();
    }
    let good = verify_all(&store).unwrap();
    assert_eq!((good.objects, good.faults.len()), (6, 0));
    let sizes = store.list().unwrap();
    let about = sizes
        .iter()
        .find(|object| object.name == "checkpoints.json")
        .unwrap();
    let all: u64 = sizes.iter().map(|object| object.bytes).sum();
    assert_eq!(good.bytes, all - about.bytes, "every byte was read");

    let mut longer = read(&folder, &runs[0].name);
    longer.push(0);
    overwrite(&folder, &runs[0].name, &longer);
    store.delete(&runs[1].name).unwrap();
    let mut changed = read(&folder, &runs[2].name);
    changed[20] ^= 1;
    overwrite(&folder, &runs[2].name, &changed);
    overwrite(&folder, "manifest-00000000000000000001.json", b"{}");
    let faults: Vec<String> = verify_all(&store)
        .unwrap()
        .faults
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(faults.len(), 4, "{faults:?}");
    assert!(faults[0].contains("bytes, not"), "{faults:?}");
    assert!(faults[1].contains("is missing"), "{faults:?}");
    assert!(faults[2].contains("checksum"), "{faults:?}");
    assert!(
        faults[3].contains("manifest-00000000000000000001.json"),
        "{faults:?}"
    );
    let listed = list(&store).unwrap();
    assert_eq!(listed.len(), 3);
    assert!(listed[1].manifest.is_err());
    let first = listed[0].manifest.as_ref().unwrap();
    assert_eq!(first.keys(), 150);
}
