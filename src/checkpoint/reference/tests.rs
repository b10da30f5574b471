//! Reference tables as objects.

use deltajoin_workers::batch::{BatchBuilder, Slot};
use deltajoin_workers::schema::{Column, ColumnType, Schema};
use expect_test::expect;

use super::*;
use crate::checkpoint::sealed::seal;
use crate::checkpoint::testing::{folder, overwrite, read, store};
use crate::codec::reference_schema;

fn schema() -> Arc<BatchSchema> {
    let columns = vec![
        Column::new("id", ColumnType::Int64),
        Column::new("name", ColumnType::String),
    ];
    reference_schema(&Schema::new(columns, vec![0]))
}

fn rows(ids: std::ops::Range<i64>) -> Batch {
    let mut builder = BatchBuilder::new(schema());
    for id in ids {
        let name = match id % 3 {
            0 => Slot::Null,
            _ => Slot::String(format!("name {id}").into()),
        };
        let origin = Origin {
            partition: 1,
            offset: id * 10,
        };
        builder.push(&[Slot::Int64(id), name], origin, 1);
    }
    builder.finish()
}

fn texts(batches: &[Batch]) -> String {
    let rows = batches.iter().map(Batch::len).sum();
    let parts: Vec<Vec<u8>> = parts(batches, rows).collect();
    String::from_utf8(parts.concat()).unwrap()
}

#[test]
fn a_table_is_text_and_is_read_back() {
    let folder = folder();
    let store = store(&folder);
    let table = [rows(0..2), Batch::default(), rows(2..3)];
    let entry = write_reference(&store, 4, &table, None).unwrap().unwrap();
    expect![[r#"
        {"checksum":"bfb177054b01daeb","version":2,"rows":3}
        [1,0,1,{"id":0,"name":null}]
        [1,10,1,{"id":1,"name":"name 1"}]
        [1,20,1,{"id":2,"name":"name 2"}]
    "#]]
    .assert_eq(&String::from_utf8(read(&folder, &entry.name)).unwrap());
    let back = read_reference(&store, &entry, schema()).unwrap();
    assert_eq!(texts(&back), texts(&table));
}

#[test]
fn a_large_table_comes_back_in_several_batches() {
    let folder = folder();
    let store = store(&folder);
    let table = [rows(0..20_000)];
    let entry = write_reference(&store, 4, &table, None).unwrap().unwrap();
    let back = read_reference(&store, &entry, schema()).unwrap();
    assert_eq!(back.len(), 3);
    assert_eq!(texts(&back), texts(&table));
}

#[test]
fn a_table_is_written_only_when_it_has_changed() {
    let folder = folder();
    let store = store(&folder);
    let count = || store.list().unwrap().len();
    assert_eq!(write_reference(&store, 4, &[], None).unwrap(), None);
    let first = write_reference(&store, 4, &[rows(0..9)], None).unwrap();
    let objects = count();
    // The same rows in other batches, and by a later generation, are the same table.
    let again = write_reference(&store, 5, &[rows(0..4), rows(4..9)], first.as_ref()).unwrap();
    assert_eq!((&again, count()), (&first, objects));
    let other = write_reference(&store, 5, &[rows(0..8)], first.as_ref()).unwrap();
    assert_ne!(other, first);
    // Back to what it was, in the generation that has written it.
    let back = write_reference(&store, 4, &[rows(0..9)], other.as_ref()).unwrap();
    assert_eq!((back, count()), (first, objects + 1));
}

#[test]
fn a_change_of_any_byte_is_noticed() {
    let folder = folder();
    let store = store(&folder);
    let entry = write_reference(&store, 4, &[rows(0..3)], None)
        .unwrap()
        .unwrap();
    let good = read(&folder, &entry.name);
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 1;
        overwrite(&folder, &entry.name, &bad);
        let error = read_reference(&store, &entry, schema()).unwrap_err();
        assert!(error.is_damage(), "byte {position}: {error}");
        overwrite(&folder, &entry.name, &good[..position]);
        assert!(read_reference(&store, &entry, schema()).is_err());
    }
    // A good table in the place of another.
    let (other, _) = seal(format!("{{{}", texts(&[rows(1..4)])).as_bytes());
    overwrite(&folder, &entry.name, &other);
    assert!(
        read_reference(&store, &entry, schema())
            .unwrap_err()
            .is_damage()
    );
}
