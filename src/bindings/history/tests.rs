//! Tests of the reader's rule.

use super::*;
use crate::bindings::testing::{binding, encoded, marker, reference, rows};

/// Reads records as they stand in a log from offset 0 on.
fn read(records: &[Vec<u8>]) -> Result<History, (u64, Fault)> {
    let mut reader = Reader::new(reference(), None);
    for (offset, record) in (0..).zip(records) {
        reader
            .take(offset, record)
            .map_err(|fault| (offset, fault))?;
    }
    Ok(reader.finish())
}

fn epochs(history: &History) -> Vec<u64> {
    history.bindings.iter().map(|one| one.epoch).collect()
}

/// Records that stand in a log one after the other.
fn log(parts: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
    parts.concat()
}

fn begun(marker: &Marker) -> Vec<Vec<u8>> {
    vec![marker.encode()]
}

fn bound(marker: &Marker, epoch: u64) -> Vec<Vec<u8>> {
    encoded(marker, &binding(epoch))
}

#[test]
fn an_empty_log_is_an_empty_history() {
    let history = read(&[]).unwrap();
    assert_eq!(history.next, 0);
    assert!(history.bindings.is_empty() && history.markers.is_empty());
}

#[test]
fn a_third_generation_reads_the_bindings_of_both_before_it() {
    let (a, b, c) = (marker("a"), marker("b"), marker("c"));
    let records = log(&[
        begun(&a),
        bound(&a, 1),
        bound(&a, 2),
        begun(&b),
        bound(&b, 5),
        begun(&c),
    ]);
    let history = read(&records).unwrap();
    assert_eq!(epochs(&history), [1, 2, 5]);
    assert_eq!(history.bindings[2].ends, [(0, 50)]);
    assert_eq!(history.next, 6);
    let offsets: Vec<_> = history.markers.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [0, 3, 5]);
    assert_eq!(history.markers[2].1, c);
}

#[test]
fn what_an_older_generation_appends_behind_a_newer_marker_counts_for_nobody() {
    let (a, b, c) = (marker("a"), marker("b"), marker("c"));
    // The late epochs are the same as counted ones, or after them: neither matters.
    let records = log(&[
        begun(&a),
        bound(&a, 1),
        begun(&b),
        bound(&a, 2),
        bound(&b, 2),
        bound(&a, 9),
        bound(&b, 3),
        begun(&c),
        bound(&a, 10),
        bound(&b, 11),
        bound(&c, 4),
    ]);
    assert_eq!(epochs(&read(&records).unwrap()), [1, 2, 3, 4]);
}

#[test]
fn a_marker_alone_takes_the_log_from_the_generation_before() {
    let (a, b) = (marker("a"), marker("b"));
    let records = log(&[begun(&a), begun(&b), bound(&a, 1)]);
    assert!(epochs(&read(&records).unwrap()).is_empty());
}

#[test]
fn reference_changes_come_with_their_binding() {
    let a = marker("a");
    let mut with_reference = binding(2);
    with_reference.reference = vec![rows(0..30, 100)];
    let records = encoded(&a, &with_reference);
    assert!(records.len() > 3, "several records of changes");
    let history = read(&log(&[begun(&a), bound(&a, 1), records, bound(&a, 3)])).unwrap();
    assert_eq!(epochs(&history), [1, 2, 3]);
    let ids: Vec<_> = history.bindings[1]
        .reference
        .iter()
        .flat_map(|batch| batch.offsets().to_vec())
        .collect();
    assert!(ids.into_iter().eq(0..30));
    assert!(history.bindings[2].reference.is_empty());
}

#[test]
fn torn_reference_changes_count_for_nobody() {
    let (a, b) = (marker("a"), marker("b"));
    let mut with_reference = binding(2);
    with_reference.reference = vec![rows(0..30, 100)];
    let mut torn = encoded(&a, &with_reference);
    let late = torn.split_off(2);
    // A generation dies in the middle of an epoch; the next one binds the same epoch. What comes
    // late of the first does not belong to the second's.
    let records = log(&[begun(&a), bound(&a, 1), torn, begun(&b), late, bound(&b, 2)]);
    let history = read(&records).unwrap();
    assert_eq!(epochs(&history), [1, 2]);
    assert!(history.bindings[1].reference.is_empty());
}

#[test]
fn epochs_that_go_back_are_told() {
    let (a, b) = (marker("a"), marker("b"));
    for epoch in [4, 5] {
        let records = log(&[begun(&a), bound(&a, 5), begun(&b), bound(&b, epoch)]);
        let last = 5;
        let fault = Fault::EpochOrder { epoch, last };
        assert_eq!(read(&records).unwrap_err(), (3, fault));
    }
}

#[test]
fn changes_of_an_epoch_that_is_never_bound_are_told() {
    let a = marker("a");
    let mut with_reference = binding(2);
    with_reference.reference = vec![rows(0..2, 1)];
    let changes = encoded(&a, &with_reference)[..1].to_vec();
    let records = log(&[begun(&a), changes, bound(&a, 3)]);
    let unbound = 2;
    assert_eq!(read(&records).unwrap_err(), (2, Fault::Unbound { unbound }));
}

#[test]
fn a_log_must_begin_at_its_beginning_and_have_no_holes() {
    let a = marker("a");
    let records = log(&[begun(&a), bound(&a, 1)]);
    assert_eq!(read(&records[1..]).unwrap_err(), (0, Fault::NoMarker));
    let mut reader = Reader::new(reference(), None);
    let early = reader.take(7, &records[0]);
    assert_eq!(early, Err(Fault::Missing { next: 0 }));
    reader.take(0, &records[0]).unwrap();
    let hole = reader.take(2, &records[1]);
    assert_eq!(hole, Err(Fault::Missing { next: 1 }));
}

#[test]
fn junk_is_told_also_where_nothing_counts() {
    let a = marker("a");
    let records = log(&[begun(&a), vec![b"junk".to_vec()]]);
    let (offset, fault) = read(&records).unwrap_err();
    assert_eq!(offset, 1);
    assert!(matches!(fault, Fault::Unreadable(_)), "{fault}");
}

#[test]
fn rows_that_do_not_fit_the_table_are_told() {
    let a = marker("a");
    let id = a.id;
    let rows = |rows: &str| {
        format!(r#"{{"generation":"{id}","epoch":1,"reference":[{rows}]}}"#).into_bytes()
    };
    for (text, expected) in [
        (
            r#"[0,0,1,{"id":"x","name":"a"}]"#,
            "row 0: field \"id\" is not an int64: \"x\"",
        ),
        (r#"[0,0,2,{"id":1,"name":"a"}]"#, "row 0 has diff 2"),
    ] {
        let fault = read(&log(&[begun(&a), vec![rows(text)]])).unwrap_err().1;
        assert_eq!(fault, Fault::Unreadable(expected.to_owned()));
    }
}
