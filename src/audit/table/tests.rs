//! Judging: what is found of rows, given as hashes of keys and rows.

use super::*;
use crate::audit::finding::{Finding, Why};
use crate::audit::window::sample;

fn event(key: u128, row: u128, origin: Origin, epoch: u64) -> Event {
    Event {
        key,
        row,
        origin,
        epoch,
        mark: 0,
        steady: true,
    }
}

fn by_rows() -> By {
    By::Rows { revised: false }
}

fn by_epochs(from: u64, to: u64) -> By {
    By::Epochs {
        judged: Judged { from, to },
        times: sample(false),
        steps_max: 112,
    }
}

fn at(partition: i32, offset: i64) -> Origin {
    Origin { partition, offset }
}

/// A table of three keys: 1 has row 10; 2 has row 20 or 21; 3 has none.
fn table() -> Table {
    let mut table = Table::new(112, by_rows());
    for (key, row, origin) in [
        (1, 10, at(0, 0)),
        (1, 11, at(0, 1)),
        (2, 20, at(0, 2)),
        (3, NO_ROW, at(0, 3)),
        (2, 20, at(1, 0)),
        (2, 22, at(1, 1)),
        (1, 10, at(1, 2)),
        (2, 21, at(2, 0)),
    ] {
        table.event(event(key, row, origin, 0), &[]).unwrap();
    }
    let counts = KeyCounts {
        keys: 3,
        undecided: 1,
        rows: 2,
    };
    assert_eq!(table.end_events(), counts);
    table
}

/// What is found of rows, given as key and row; row 0 stands for a tombstone.
fn found(table: &mut Table, rows: &[(u128, u128)]) -> ([u64; 4], u64) {
    let mut found = Found::new(10, false);
    for (offset, (key, row)) in (0..).zip(rows) {
        match *row {
            NO_ROW => table.tell(*key, Told::Tombstone, at(9, offset), &mut found),
            row => table.tell(*key, Told::Row(row), at(9, offset), &mut found),
        }
        .unwrap();
    }
    let right = table.end_rows(&mut found);
    (Kind::ALL.map(|kind| found.count(kind)), right)
}

#[test]
fn each_row_is_judged_once() {
    type Case = (&'static [(u128, u128)], [u64; 4], u64);
    let mut table = table();
    let cases: [Case; 14] = [
        (&[(1, 10), (2, 20)], [0, 0, 0, 0], 2),
        (&[(2, 21), (1, 10)], [0, 0, 0, 0], 2),
        (&[], [2, 0, 0, 0], 0),
        (&[(1, 10), (2, 22)], [0, 0, 1, 0], 1),
        (&[(1, 11), (2, 20)], [0, 0, 1, 0], 1),
        (&[(1, 10), (2, 20), (1, 10)], [0, 1, 0, 0], 2),
        (&[(1, 10), (2, 20), (2, 21)], [0, 1, 0, 0], 2),
        (&[(1, 10), (2, 20), (1, 12)], [0, 0, 1, 0], 1),
        (&[(1, 12), (2, 20), (1, 10)], [0, 0, 1, 0], 2),
        (&[(1, 12), (2, 20), (1, 12)], [0, 0, 2, 0], 1),
        (&[(1, 10), (2, 20), (3, 30), (4, 40)], [0, 0, 0, 2], 2),
        (&[(1, 10), (2, 20), (2, 0), (3, 0), (5, 0)], [1, 0, 0, 0], 1),
        (&[(1, 10), (1, 0), (1, 10), (2, 20)], [0, 0, 0, 0], 2),
        (&[(4, 40), (4, 0), (1, 10), (2, 20)], [0, 0, 0, 0], 2),
    ];
    for (rows, counts, right) in cases {
        assert_eq!(found(&mut table, rows), (counts, right), "{rows:?}");
    }
}

#[test]
fn a_row_or_none_may_both_be_right() {
    let mut table = Table::new(112, by_rows());
    table.event(event(1, NO_ROW, at(0, 0), 0), &[]).unwrap();
    table.event(event(1, 10, at(1, 0), 0), &[]).unwrap();
    assert_eq!(table.end_events().rows, 0);
    assert_eq!(found(&mut table, &[]), ([0; 4], 0));
    assert_eq!(found(&mut table, &[(1, 10)]), ([0; 4], 1));
    assert_eq!(found(&mut table, &[(1, 11)]), ([0, 0, 1, 0], 0));
}

#[test]
fn only_keys_of_judged_epochs_are_judged_and_all_that_came_before_count_as_seen() {
    let mut table = Table::new(112, by_epochs(5, 6));
    for (key, row, origin, epoch) in [
        // Its first event is in a later partition, and an earlier epoch.
        (1, 10, at(0, 0), 6),
        (1, 11, at(1, 0), 5),
        // It was there before, and again.
        (2, 20, at(0, 1), 6),
        (2, 21, at(1, 1), 4),
        // Before only, and after only.
        (3, 30, at(0, 2), 4),
        (3, 30, at(0, 3), 7),
        (4, 40, at(0, 4), 7),
        (5, 50, at(0, 5), 6),
    ] {
        table.event(event(key, row, origin, epoch), &[]).unwrap();
    }
    let counts = table.end_events();
    assert_eq!((counts.keys, counts.undecided, counts.rows), (2, 0, 2));
    type Case = (&'static [(u128, u128)], [u64; 4], u64);
    let cases: [Case; 6] = [
        (&[(1, 11), (5, 50)], [0; 4], 2),
        (&[(5, 50), (3, 1), (3, 2), (4, 1), (4, 1)], [1, 0, 0, 0], 1),
        (&[(1, 10), (5, 50)], [0, 0, 1, 0], 1),
        (&[(1, 11), (5, 50), (2, 21), (2, 20)], [0, 1, 0, 0], 2),
        (&[(1, 11), (5, 50), (2, 99)], [0; 4], 2),
        (&[(1, 11), (5, 50), (6, 60), (5, 50)], [0, 1, 0, 1], 2),
    ];
    for (rows, counts, right) in cases {
        assert_eq!(found(&mut table, rows), (counts, right), "{rows:?}");
    }
}

#[test]
fn findings_name_event_and_row_and_the_first_are_kept_in_any_order() {
    let mut table = table();
    let mut found = Found::new(1, false);
    for offset in [4, 3, 5] {
        table
            .tell(1, Told::Row(10), at(9, offset), &mut found)
            .unwrap();
    }
    table
        .tell(1, Told::Tombstone, at(9, 7), &mut found)
        .unwrap();
    table.end_rows(&mut found);
    assert_eq!(found.count(Kind::Doubled), 2);
    let doubled: Vec<_> = found.first(Kind::Doubled).copied().collect();
    let expected = Finding {
        place: at(9, 3),
        event: Some(at(0, 0)),
        before: Some(at(9, 4)),
        why: Why::Plain,
        epoch: 0,
    };
    assert_eq!(doubled, [expected]);
    let missing = found.first(Kind::Missing).next().unwrap();
    assert_eq!((missing.place, missing.before), (at(0, 0), Some(at(9, 7))));
}

#[test]
fn identical_repeats_may_be_allowed_and_others_are_not() {
    let mut table = table();
    let mut found = Found::new(1, true);
    for (key, row) in [(1, 10), (1, 10), (2, 20), (2, 21)] {
        table
            .tell(key, Told::Row(row), at(9, 0), &mut found)
            .unwrap();
    }
    assert_eq!((found.repeats, found.count(Kind::Doubled)), (1, 1));
}

#[test]
fn a_table_is_full_when_it_is_as_large_as_it_may_be() {
    let entries = Table::entries_in(10_000);
    assert!(Table::bytes_of(entries) <= 10_000);
    assert!(Table::bytes_of(entries + 1) > 10_000);
    assert_eq!(Table::entries_in(100), 0);
    let mut table = Table::new(entries, by_rows());
    let capacity = table.entries.capacity();
    let count = u128::try_from(entries).unwrap();
    for key in 0..count {
        table.event(event(key, 1, at(0, 0), 0), &[]).unwrap();
    }
    assert_eq!(table.event(event(count, 1, at(0, 0), 0), &[]), Err(Full));
    let mut found = Found::new(1, false);
    assert_eq!(
        table.tell(count, Told::Row(1), at(0, 0), &mut found),
        Err(Full)
    );
    assert_eq!(table.entries.capacity(), capacity);
    assert_eq!(capacity, entries + 1);
}

#[test]
fn where_rows_may_be_revised_unknown_epochs_leave_only_the_last_row_to_judge() {
    let mut table = Table::new(112, By::Rows { revised: true });
    table.event(event(1, 10, at(0, 0), 0), &[]).unwrap();
    table.end_events();
    assert_eq!(found(&mut table, &[(1, 11), (1, 10)]), ([0; 4], 1));
    assert_eq!(found(&mut table, &[(1, 10), (1, 11)]), ([0, 0, 1, 0], 0));
    assert_eq!(found(&mut table, &[(1, 10), (1, 10)]), ([0, 1, 0, 0], 1));
}
