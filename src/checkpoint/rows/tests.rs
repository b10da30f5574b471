//! Rows as objects: read back as they were, put together, and refused when damaged.

use deltajoin_workers::batch::{BatchBuilder, Origin, Slot};
use deltajoin_workers::schema::{Column, ColumnType, Schema};

use super::*;
use crate::checkpoint::layout::rows_name;
use crate::checkpoint::testing::{folder, overwrite, read, store};

fn schema(wide: bool) -> Arc<BatchSchema> {
    let columns = vec![
        Column::new("id", ColumnType::Int64),
        Column::new("name", ColumnType::String).nullable(),
        Column::new("at", ColumnType::Timestamp),
    ];
    let key = if wide { vec![0, 1] } else { vec![0] };
    BatchSchema::register(Schema::new(columns, key))
}

fn kept(epoch: u64, ids: Range<i64>, wide: bool) -> Kept {
    let mut builder = BatchBuilder::new(schema(wide));
    for id in ids {
        let name = match id % 3 {
            0 if !wide => Slot::Null,
            _ => Slot::String(format!("name{id}").into()),
        };
        let origin = Origin {
            partition: (id % 7) as i32,
            offset: id * 10,
        };
        let slots = [Slot::Int64(id), name, Slot::Timestamp(id * 1000)];
        builder.push(&slots, origin, i8::from(id % 5 != 0));
    }
    Kept {
        epoch,
        rows: builder.finish(),
        replaces: epoch == 4,
    }
}

fn told(kept: &[Kept]) -> Vec<String> {
    let rows = kept.iter().flat_map(|kept| {
        (0..kept.rows.len()).map(move |row| {
            let Kept {
                epoch,
                rows,
                replaces,
            } = kept;
            let slots: Vec<_> = (0..3).map(|column| rows.slot(column, row)).collect();
            let (key, diff) = (rows.keys().get(row), rows.diffs()[row]);
            format!(
                "{epoch} {key:x} {slots:?} {:?} {diff} {replaces}",
                rows.origin(row)
            )
        })
    });
    rows.collect()
}

#[test]
fn rows_are_read_back_by_key_groups_as_they_were_written() {
    for wide in [false, true] {
        let folder = folder();
        let store = store(&folder);
        let all = [
            kept(3, 0..10, wide),
            kept(4, 10..9000, wide),
            kept(9, 9000..9001, wide),
        ];
        let at_ms = |_: u64, rows: &Batch, row: usize| rows.offsets()[row];
        let entries = write_rows(&store, || rows_name(1), &all, at_ms).unwrap();
        let [entry] = &entries[..] else {
            panic!("they fit into one")
        };
        assert_eq!((entry.rows, entry.latest_ms), (9001, 90_000));
        let schema = schema(wide);
        let back = read_rows(&store, entry, Groups::ALL, &schema).unwrap();
        assert_eq!(told(&back), told(&all));
        let half = Groups {
            first: 0,
            last: 511,
        };
        let half = read_rows(&store, entry, half, &schema).unwrap();
        let rows = told(&half);
        assert!(rows.len() > 4000 && rows.len() < 5000, "{}", rows.len());
        let mut expected = told(&all);
        expected.retain(|row| rows.contains(row));
        assert_eq!(rows, expected);
    }
}

#[test]
fn large_rows_are_written_in_batches_of_a_bounded_size() {
    let folder = folder();
    let store = store(&folder);
    let name = "n".repeat(1 << 20);
    let kept = |id: i64| {
        let mut builder = BatchBuilder::new(schema(false));
        let slots = [
            Slot::Int64(id),
            Slot::String((&*name).into()),
            Slot::Timestamp(0),
        ];
        builder.push(&slots, Origin::default(), 1);
        let rows = builder.finish();
        Kept {
            epoch: 7,
            rows,
            replaces: false,
        }
    };
    let all: Vec<Kept> = (0..40).map(kept).collect();
    let at_ms = |epoch: u64, _: &Batch, _: usize| epoch.cast_signed();
    let entries = write_rows(&store, || rows_name(1), &all, at_ms).unwrap();
    let back = read_rows(&store, &entries[0], Groups::ALL, &schema(false)).unwrap();
    assert!(back.len() > 2, "those of an epoch would be one");
    assert!(back.iter().all(|kept| kept.rows.bytes() <= BATCH_BYTES_MAX));
    assert_eq!(back.iter().map(|kept| kept.rows.len()).sum::<usize>(), 40);
}

#[test]
fn neighbours_of_like_size_are_put_together_as_they_are() {
    let folder = folder();
    let store = store(&folder);
    let at_ms = |_: u64, rows: &Batch, row: usize| rows.offsets()[row];
    let write = |kept: &[Kept]| {
        let entries = write_rows(&store, || rows_name(1), kept, at_ms).unwrap();
        entries.into_iter().next().unwrap()
    };
    let all: Vec<Kept> = (0..9)
        .map(|n: i64| kept(n.cast_unsigned(), n * 10..n * 10 + 10, false))
        .collect();
    let large = write(&[kept(1, 100..9000, false)]);
    let mut entries = vec![large];
    entries.extend(all.iter().map(|kept| write(std::slice::from_ref(kept))));
    assert_eq!(next_rows_merge(&entries[..4]), None);
    let mut merges = 0;
    while let Some(range) = next_rows_merge(&entries) {
        let merged = merge_rows(&store, &entries[range.clone()], rows_name(1));
        entries.splice(range, [merged.unwrap()]);
        merges += 1;
    }
    assert_eq!(
        (merges, entries.len()),
        (2, 4),
        "a large one, two, and the ninth"
    );
    let back = entries[1..].iter().flat_map(|entry| {
        let back = read_rows(&store, entry, Groups::ALL, &schema(false)).unwrap();
        assert_eq!(entry.rows, told(&back).len() as u64);
        back
    });
    assert_eq!(told(&back.collect::<Vec<_>>()), told(&all));
    assert_eq!(entries[3].latest_ms, 890);
    assert_eq!(entries[1].latest_ms, 390);
}

#[test]
fn a_change_of_any_byte_is_noticed() {
    let folder = folder();
    let store = store(&folder);
    let at_ms = |epoch: u64, _: &Batch, _: usize| epoch.cast_signed();
    let entries = write_rows(&store, || rows_name(1), &[kept(3, 0..10, false)], at_ms);
    let entry = &entries.unwrap()[0];
    let good = read(&folder, &entry.name);
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 1;
        overwrite(&folder, &entry.name, &bad);
        let error = verify_rows(&store, entry).unwrap_err();
        assert!(error.is_damage(), "byte {position}: {error}");
    }
    overwrite(&folder, &entry.name, &good);
    let columns = schema(true).schema.columns[..2].to_vec();
    let other = BatchSchema::register(Schema::new(columns, vec![0]));
    let refused = read_rows(&store, entry, Groups::ALL, &other).unwrap_err();
    assert!(refused.to_string().contains("columns"), "{refused}");
}
