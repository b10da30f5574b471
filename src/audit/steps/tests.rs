//! Keys with several records, in a table: what is found of outputs, given as rows.

use super::*;
use crate::audit::entry::Event;
use crate::audit::table::{By, Table};
use crate::audit::window::sample;

fn at(partition: i32, offset: i64) -> Origin {
    Origin { partition, offset }
}

fn table(judged: Judged, times: Times) -> Table {
    let by = By::Epochs {
        judged,
        times,
        steps_max: 400,
    };
    Table::new(112, by)
}

/// An event of key 1.
fn event(row: u128, origin: Origin, epoch: u64, mark: i32) -> Event {
    Event {
        key: 1,
        row,
        origin,
        epoch,
        mark,
        steady: true,
    }
}

/// What becomes of a row: epochs and rows.
fn revised(mut before: u128, rows: &[(u64, u128)]) -> Vec<Revised> {
    let rows = rows.iter().map(|(epoch, row)| Revised {
        epoch: *epoch,
        before: std::mem::replace(&mut before, *row),
        row: *row,
    });
    rows.collect()
}

const ALL: Judged = Judged {
    from: 0,
    to: u64::MAX,
};

/// A table in which key 1 has these rows, from epoch 10 on.
fn rows(judged: Judged, rows: &[(u64, u128)]) -> Table {
    let mut table = table(judged, sample(false));
    let (epoch, first) = rows[0];
    let event = event(first, at(0, 7), epoch, 0);
    table.event(event, &revised(first, &rows[1..])).unwrap();
    table.end_events();
    table
}

fn told(table: &mut Table, records: &[Told], repeats: bool) -> ([u64; 4], u64) {
    let mut found = Found::new(10, repeats);
    for (offset, told) in (0..).zip(records) {
        table.tell(1, *told, at(9, offset), &mut found).unwrap();
    }
    let right = table.end_rows(&mut found);
    (Kind::ALL.map(|kind| found.count(kind)), right)
}

/// What is found of an output, given as rows; 0 stands for a tombstone. Missing, doubled, wrong,
/// unexpected, and how many keys end right.
fn found(table: &mut Table, output: &[u128], repeats: bool) -> ([u64; 4], u64) {
    let records = output.iter().map(|row| match *row {
        NO_ROW => Told::Tombstone,
        row => Told::Row(row),
    });
    told(table, &records.collect::<Vec<_>>(), repeats)
}

#[test]
fn each_record_of_a_revised_key_is_judged() {
    let mut table = rows(ALL, &[(10, 1), (20, 2), (30, NO_ROW), (40, 1), (50, 3)]);
    type Case = (&'static [u128], [u64; 4], u64);
    let cases: [Case; 16] = [
        (&[1, 2, 0, 1, 3], [0; 4], 1),
        // One of them deleted.
        (&[2, 0, 1, 3], [1, 0, 0, 0], 0),
        (&[1, 0, 1, 3], [1, 0, 0, 0], 0),
        (&[1, 2, 1, 3], [1, 0, 0, 0], 0),
        (&[1, 2, 0, 3], [1, 0, 0, 0], 0),
        (&[1, 2, 0, 1], [1, 0, 0, 0], 0),
        (&[], [5, 0, 0, 0], 0),
        // Changed.
        (&[9, 2, 0, 1, 3], [0, 0, 1, 0], 0),
        (&[1, 2, 0, 1, 9], [0, 0, 1, 0], 0),
        // Added, and mended.
        (&[1, 2, 9, 0, 1, 3], [0, 0, 1, 0], 1),
        (&[1, 2, 0, 1, 3, 9], [0, 0, 1, 0], 0),
        (&[1, 2, 0, 1, 3, 9, 3], [0, 0, 1, 0], 1),
        (&[1, 2, 0, 1, 3, 0], [0, 1, 0, 0], 0),
        // Doubled, there and later.
        (&[1, 2, 2, 0, 1, 3], [0, 1, 0, 0], 1),
        (&[1, 2, 0, 0, 1, 3], [0, 1, 0, 0], 1),
        (&[1, 2, 0, 1, 3, 2], [0, 1, 0, 0], 0),
    ];
    for (output, counts, right) in cases {
        assert_eq!(
            found(&mut table, output, false),
            (counts, right),
            "{output:?}"
        );
    }
    let mut table = rows(ALL, &[(10, 1), (20, 2), (30, 3)]);
    assert_eq!(
        found(&mut table, &[1, 3, 2], false),
        ([0, 0, 1, 0], 0),
        "another order"
    );
    // A row that comes again, with another between.
    let mut table = rows(ALL, &[(10, 1), (20, 2), (30, 1), (40, 3)]);
    let cases: [Case; 5] = [
        (&[1, 9, 1, 3], [0, 0, 1, 0], 0),
        (&[1, 1, 3], [1, 0, 0, 0], 0),
        (&[1, 1, 2, 1, 3], [0, 1, 0, 0], 1),
        (&[1, 1], [2, 0, 0, 0], 0),
        (&[1, 2, 1, 1, 3], [0, 1, 0, 0], 1),
    ];
    for (output, counts, right) in cases {
        assert_eq!(
            found(&mut table, output, false),
            (counts, right),
            "{output:?}"
        );
    }
}

#[test]
fn repeats_of_several_records_may_be_allowed_if_the_last_one_stands() {
    let mut table = rows(ALL, &[(10, 1), (20, 2), (30, 3), (40, 1)]);
    type Case = (&'static [u128], [u64; 4], u64);
    let cases: [Case; 6] = [
        (&[1, 2, 1, 2, 3, 1], [0; 4], 1),
        (&[1, 2, 3, 2, 3, 1], [0; 4], 1),
        (&[1, 2, 3, 1, 1], [0; 4], 1),
        (&[1, 2, 3, 1, 3], [0, 0, 1, 0], 0),
        // The third is taken for the last.
        (&[1, 2, 1, 2, 3], [0, 0, 1, 0], 0),
        (&[1, 2, 3], [1, 0, 0, 0], 0),
    ];
    for (output, counts, right) in cases {
        assert_eq!(
            found(&mut table, output, true),
            (counts, right),
            "{output:?}"
        );
    }
}

#[test]
fn a_change_has_rows_and_epoch_of_its_step() {
    let mut table = rows(ALL, &[(10, 1), (20, 2), (30, NO_ROW)]);
    let change = |before, after, epoch| Told::Change {
        before,
        after,
        agrees: true,
        epoch,
    };
    let right = [change(0, 1, 10), change(1, 2, 20), change(2, 0, 30)];
    assert_eq!(told(&mut table, &right, false), ([0; 4], 0));
    for place in 0..3 {
        let mut records = right.to_vec();
        records.remove(place);
        assert_eq!(told(&mut table, &records, false).0, [1, 0, 0, 0], "{place}");
        let mut records = right.to_vec();
        records.insert(place, right[place]);
        assert_eq!(told(&mut table, &records, false).0, [0, 1, 0, 0], "{place}");
    }
    let others = [
        change(7, 2, 20),
        change(1, 7, 20),
        change(1, 2, 21),
        Told::Change {
            before: 1,
            after: 2,
            agrees: false,
            epoch: 20,
        },
    ];
    for other in others {
        let records = [right[0], other, right[2]];
        assert_eq!(
            told(&mut table, &records, false).0,
            [0, 0, 1, 0],
            "{other:?}"
        );
    }
}

#[test]
fn only_records_of_judged_epochs_are_judged_and_those_before_may_be_any() {
    let judged = Judged { from: 20, to: 40 };
    // Its event is within; a change is behind.
    let mut table = rows(judged, &[(30, 1), (40, 2), (50, 3)]);
    for output in [&[1, 2][..], &[1, 2, 3], &[1, 2, 3, 3]] {
        assert_eq!(found(&mut table, output, false), ([0; 4], 1), "{output:?}");
    }
    assert_eq!(found(&mut table, &[1, 3], false).0, [1, 0, 0, 0]);
    // Its event is before.
    let mut table = table_of_open(judged);
    for output in [
        &[5, 1, 2, 1][..],
        &[1, 2, 1, 2, 1],
        &[2, 1, 2, 1],
        &[1, 0, 1, 2, 1],
        &[1, 2, 0, 1, 2, 1, 3],
        &[9, 9, 1, 2, 1, 3],
    ] {
        assert_eq!(found(&mut table, output, false), ([0; 4], 0), "{output:?}");
    }
    for (output, counts) in [
        (&[5, 1, 1, 2, 1][..], [0, 1, 0, 0]),
        (&[5, 1, 2], [1, 0, 0, 0]),
        (&[5, 2, 1], [2, 0, 0, 0]),
        (&[5, 1, 9, 1], [2, 0, 0, 0]),
        (&[], [3, 0, 0, 0]),
    ] {
        assert_eq!(found(&mut table, output, false).0, counts, "{output:?}");
    }
    assert_eq!(found(&mut table, &[5, 1, 2, 1, 2, 1], true).0, [0; 4]);
}

/// Key 1, of an event before what is judged, has rows 1, 2 and 1 in it and row 3 behind it.
fn table_of_open(judged: Judged) -> Table {
    let mut table = table(judged, sample(false));
    let mut event = event(4, at(0, 7), 10, 0);
    event.steady = false;
    let revised = revised(4, &[(25, 1), (30, 2), (35, 1), (50, 3)]);
    table.event(event, &revised).unwrap();
    table.end_events();
    table
}

#[test]
fn the_first_event_of_a_key_is_the_one_that_is_revised() {
    let mut table = table(ALL, sample(false));
    let late = event(1, at(0, 7), 15, 0);
    table.event(late, &revised(1, &[(20, 2), (30, 3)])).unwrap();
    let first = event(5, at(1, 3), 10, 0);
    table.event(first, &revised(5, &[(20, 6)])).unwrap();
    let later = event(8, at(2, 3), 12, 0);
    table.event(later, &revised(8, &[(20, 9)])).unwrap();
    let counts = table.end_events();
    assert_eq!((counts.keys, counts.rows), (1, 1));
    assert_eq!(found(&mut table, &[5, 6], false), ([0; 4], 1));
    assert_eq!(found(&mut table, &[1, 2], false).0, [0, 0, 2, 0]);
}

#[test]
fn a_key_that_is_forgotten_comes_again() {
    let times = sample(true);
    let mut table = table(ALL, times.clone());
    let mark = |epoch| times.stretch(epoch) as i32;
    // The last of them is forgotten when the horizon and the rest of its bucket are over.
    for (row, epoch) in [(1, 5_050), (2, 5_060), (3, 7_400), (4, 7_510), (5, 7_515)] {
        let event = event(row, at(0, row as i64), epoch, mark(epoch));
        table.event(event, &[]).unwrap();
    }
    let counts = table.end_events();
    assert_eq!((counts.keys, counts.rows), (1, 1));
    assert_eq!(found(&mut table, &[1, 4], false), ([0; 4], 1));
    assert_eq!(found(&mut table, &[1], false).0, [1, 0, 0, 0]);
    assert_eq!(found(&mut table, &[1, 3, 4], false).0, [0, 0, 1, 0]);
}

#[test]
fn by_event_time_a_key_with_another_time_is_another() {
    let mut table = table(ALL, sample(false));
    for (row, epoch, mark) in [(1, 10, 4), (2, 11, 4), (3, 12, 5), (4, 13, 5), (5, 9, 6)] {
        let event = event(row, at(0, row as i64), epoch, mark);
        table.event(event, &[]).unwrap();
    }
    table.end_events();
    assert_eq!(found(&mut table, &[5, 1, 3], false), ([0; 4], 1));
    assert_eq!(found(&mut table, &[5, 1], false).0, [1, 0, 0, 0]);
}

#[test]
fn a_key_that_comes_often_takes_little_room() {
    let mut table = table(ALL, sample(false));
    for offset in 0..10_000 {
        let mark = i32::from(offset % 3_i64 == 0);
        let event = event(1, at(0, offset), 10 + offset.unsigned_abs(), mark);
        table.event(event, &[]).unwrap();
    }
    let own = |partition| event(1, at(partition, 0), 10, partition);
    let last = (1..500).map(|partition| table.event(own(partition), &[]));
    assert!(last.last().unwrap().is_err(), "all of them count");
}
