//! Rows of the window against a model, in memory and on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::batch::{BatchBuilder, BatchSchema, Origin, Slot};
use crate::clock::TimeUnit;
use crate::key::mix64;
use crate::schema::{Column, ColumnType, Schema};
use crate::state::cold::{ColdRows, RowFolder};

/// Rows of a segment: some blocks.
const FEW: u32 = 700;

fn schema() -> Arc<BatchSchema> {
    let columns = ["id", "place", "at"].map(|name| Column::new(name, ColumnType::Int64));
    BatchSchema::register(Schema::new(columns.to_vec(), vec![0]))
}

fn batch(rows: &[(i64, i64, i64)]) -> Batch {
    let mut builder = BatchBuilder::new(schema());
    for (id, place, at) in rows {
        let slots = [*id, *place, *at].map(Slot::Int64);
        builder.push(&slots, Origin::default(), 1);
    }
    builder.finish()
}

fn key(id: i64) -> u128 {
    u128::from(mix64(id.cast_unsigned())) << 64
}

fn by_time(by_time: bool) -> Wanted {
    let time = EventTime {
        column: 2,
        unit: TimeUnit::Seconds,
    };
    Wanted {
        by_key: true,
        by_join_key: Some(vec![1]),
        time: by_time.then_some(time),
    }
}

fn at(recent: &RecentRows, place: Place) -> i64 {
    let mut reader = recent.reader();
    let (batch, row) = reader.row(place);
    match batch.slot(2, row) {
        Slot::Int64(at) => at,
        other => panic!("{other:?}"),
    }
}

fn told(recent: &RecentRows, place: Place) -> (i64, i64) {
    let mut reader = recent.reader();
    let (batch, row) = reader.row(place);
    let of = |column| match batch.slot(column, row) {
        Slot::Int64(value) => value,
        other => panic!("{other:?}"),
    };
    (of(0), of(1))
}

/// A disk that refuses now and then.
#[derive(Debug, Default)]
struct Disk {
    asked: u32,
}

#[derive(Debug)]
struct Blocks(Vec<Vec<u8>>);

impl RowFolder for Disk {
    fn write(&mut self, blocks: &[Vec<u8>]) -> Option<Box<dyn ColdRows>> {
        self.asked += 1;
        (self.asked % 3 != 2).then(|| Box::new(Blocks(blocks.to_vec())) as _)
    }
}

impl ColdRows for Blocks {
    fn read(&self, block: usize) -> Vec<u8> {
        self.0[block].clone()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn it_holds_the_last_row_of_each_key_and_finds_all_by_join_key(
        batches in prop::collection::vec(
            prop::collection::vec((0i64..40, 0i64..6), 1..30), 1..30),
        times in any::<bool>(),
        large in any::<bool>(),
        limit in prop::sample::select(vec![0, 100_000, u64::MAX]),
    ) {
        let leaves = limit == 0;
        let limit = RowLimit {
            bytes: limit,
            segment_rows: FEW,
            folder: Box::new(Disk::default()),
        };
        let mut recent = RecentRows::new(by_time(times), Some(limit));
        // By id, join key and number of its batch.
        let mut model: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for (number, rows) in (1i64..).zip(&batches) {
            let mut unique: BTreeMap<i64, i64> = BTreeMap::new();
            unique.extend(rows.iter().copied());
            let mut new: Vec<(i64, i64, i64)> = unique.into_iter()
                .map(|(id, place)| (id, place, number))
                .collect();
            for (id, place, _) in &new {
                if let Some(before) = recent.find(key(*id)) {
                    recent.remove(before);
                }
                model.insert(*id, (*place, number));
            }
            if large && number % 5 < 2 {
                // Enough for a segment, of keys and places that are not asked for, before and
                // behind the others.
                let ids = (0..i64::from(FEW)).map(|n| 1000 + number * 100_000 + n);
                new.extend(ids.map(|id| (id, 100, number)));
                let count = new.len();
                new.rotate_right(number as usize * 100 % count);
            }
            recent.push(batch(&new), number.cast_unsigned());
            // A window of ten batches, in seconds or in epochs.
            let oldest = number - 10;
            recent.forget_until(if times { oldest * 1000 } else { oldest });
            let held = |place: &Place| match times {
                true => at(&recent, *place) > oldest,
                false => recent.epoch(*place).cast_signed() > oldest,
            };
            for id in 0..40 {
                let found = recent.find(key(id)).filter(held);
                let known = model.get(&id).filter(|(_, at)| *at > oldest);
                let found = found.map(|place| told(&recent, place).1);
                prop_assert_eq!(found, known.map(|(place, _)| *place));
            }
            let asked: HashSet<u128, MixedKeys> = [key(1), key(4)].into_iter().collect();
            let found = recent.joined_on(&asked, if times { oldest * 1000 } else { oldest });
            prop_assert!(found.is_sorted());
            let mut of_rows: Vec<(i64, i64)> = Vec::new();
            for rows in recent.rows(&found) {
                of_rows.extend((0..rows.len()).map(|row| {
                    match (rows.slot(0, row), rows.slot(1, row)) {
                        (Slot::Int64(id), Slot::Int64(place)) => (id, place),
                        other => panic!("{other:?}"),
                    }
                }));
            }
            prop_assert_eq!(of_rows.len(), found.len());
            of_rows.sort_unstable();
            let expected = model.iter()
                .filter(|(_, (place, at))| [1, 4].contains(place) && *at > oldest);
            let expected: Vec<_> = expected.map(|(id, (place, _))| (*id, *place)).collect();
            prop_assert_eq!(of_rows, expected);
        }
        let cold = recent.segments.iter().any(Segment::is_cold);
        prop_assert_eq!(recent.cold_len() > 0, cold);
        prop_assert!(cold || !leaves || recent.segments.len() < 3);
        recent.forget_until(i64::MAX);
        prop_assert_eq!((recent.len(), recent.cold_len(), recent.bytes), (0, 0, 0));
        prop_assert!(recent.by_key.is_empty());
    }
}

#[test]
fn large_rows_fill_segments_by_their_bytes_and_leave_memory() {
    let columns = vec![
        Column::new("id", ColumnType::Int64),
        Column::new("item", ColumnType::String),
    ];
    let schema = BatchSchema::register(Schema::new(columns, vec![0]));
    let wanted = Wanted {
        by_key: true,
        by_join_key: Some(vec![0]),
        time: None,
    };
    let limit = RowLimit {
        bytes: BATCH_BYTES_MAX as u64,
        segment_rows: SEGMENT_ROWS,
        folder: Box::new(Disk::default()),
    };
    let mut recent = RecentRows::new(wanted, Some(limit));
    let item = |id: i64| char::from(b'a' + id as u8 % 26).to_string().repeat(1 << 20);
    let mut builder = BatchBuilder::new(schema);
    let ids = 0..100;
    for id in ids.clone() {
        let slots = [Slot::Int64(id), Slot::String(item(id).into())];
        builder.push(&slots, Origin::default(), 1);
        recent.push(builder.finish(), 1);
        // That which is being filled, what may stay, and what the disk has refused once.
        let bytes = recent.bytes() as usize;
        assert!(bytes < 4 * BATCH_BYTES_MAX, "{bytes} after {id}");
    }
    assert!(recent.cold_len() > 60, "{}", recent.cold_len());
    let places: Vec<Place> = ids
        .clone()
        .map(|id| recent.find(key(id)).unwrap())
        .collect();
    let mut next = ids.clone();
    for batch in recent.rows(&places) {
        assert!(batch.bytes() <= BATCH_BYTES_MAX);
        for (row, id) in (0..batch.len()).zip(&mut next) {
            assert!(batch.slot(0, row) == Slot::Int64(id));
            assert!(batch.slot(1, row) == Slot::String(item(id).into()), "{id}");
        }
    }
    assert_eq!(next, 100..100);
}
