//! Reference tables in Parquet, written by the crate that reads them: good ones against CSV of the
//! same rows, and each way to be bad.

use std::path::Path;
use std::sync::Arc;

use arrow_array::types::{Decimal128Type, TimestampMicrosecondType};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array,
    PrimitiveArray, RecordBatch, StringArray, TimestampMillisecondArray, TimestampNanosecondArray,
    UInt64Array,
};
use deltajoin_workers::batch::{BATCH_BYTES_MAX, BATCH_ROWS_MAX};
use expect_test::{Expect, expect};
use parquet::arrow::ArrowWriter;
use parquet::basic::ZstdLevel;
use parquet::file::properties::WriterProperties;

use crate::codec::json::Encoder;
use crate::connectors::file::reference::tests::schema;
use crate::connectors::file::{Error, Look, Table, Watched};

use super::*;

/// The column of a key alone.
fn oid() -> Schema {
    Schema::new(vec![Column::new("oid", ColumnType::Int64)], vec![0])
}

fn int64(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn text(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn decimals(values: &[Option<i128>], precision: u8, scale: i8) -> ArrayRef {
    let values: PrimitiveArray<Decimal128Type> = values.iter().copied().collect();
    Arc::new(values.with_precision_and_scale(precision, scale).unwrap())
}

fn micros(values: &[Option<i64>]) -> ArrayRef {
    let values: PrimitiveArray<TimestampMicrosecondType> = values.iter().copied().collect();
    Arc::new(values.with_timezone("+02:00"))
}

/// The bytes of a file with these columns, of which each may be null.
fn parquet(columns: &[(&str, ArrayRef)], codec: Compression, group_rows: usize) -> Vec<u8> {
    let columns = columns.iter();
    let batch = columns.map(|(name, values)| (*name, Arc::clone(values), true));
    let batch = RecordBatch::try_from_iter_with_nullable(batch).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_max_row_group_row_count(Some(group_rows))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn plain(columns: &[(&str, ArrayRef)]) -> Vec<u8> {
    parquet(columns, Compression::UNCOMPRESSED, 1000)
}

fn read_as(name: &str, bytes: &[u8], schema: &Schema) -> Result<Table, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Table::read(&path, schema, 200)
}

/// The rows as JSON, one a line.
fn shown(table: &Table) -> String {
    let mut json = Vec::new();
    for block in table.blocks() {
        let encoder = Encoder::new(&block.schema().schema);
        for row in 0..block.len() {
            encoder.rows(block).value(row, &mut json);
            json.push(b'\n');
        }
    }
    let json = String::from_utf8(json).unwrap();
    json.replace(",\"fee", ",\n  \"fee")
}

fn check_faults(bytes: &[u8], schema: &Schema, expected: Expect) {
    let error = read_as("r.parquet", bytes, schema).unwrap_err();
    assert!(error.needs_correction());
    let Error::Faults { path, .. } = &error else {
        panic!("{error}")
    };
    let folder = format!("{}/", path.parent().unwrap().display());
    let detail = error.detail().unwrap();
    expected.assert_eq(&format!("{error}\n{detail}\n").replace(&folder, ""));
}

#[test]
fn a_table_is_the_same_as_from_csv() {
    let since = 1_704_067_200_000_000;
    let columns = [
        (
            "place",
            text(&[Some("a,\nb"), Some("say \"hi\""), Some("")]),
        ),
        ("extra", int64(&[7, 8, 9])),
        ("since", micros(&[Some(since), None, Some(since + 1)])),
        (
            "area",
            Arc::new(Float64Array::from(vec![Some(2.5), None, Some(1e3)])) as ArrayRef,
        ),
        ("oid", int64(&[1, -2, 3])),
        (
            "open",
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        ),
        ("fee", decimals(&[Some(1250), None, Some(-5)], 6, 2)),
    ];
    let csv = "oid,place,area,fee,open,since\n\
               1,\"a,\nb\",2.5,12.5,true,2024-01-01T00:00:00Z\n\
               -2,\"say \"\"hi\"\"\",,,,\n\
               3,,1e3,-0.05,false,2024-01-01T00:00:00.000001Z\n";
    let expected = shown(&read_as("r.csv", csv.as_bytes(), &schema()).unwrap());
    assert_eq!(expected.lines().count(), 6);
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        for group_rows in [1, 2, 1000] {
            let bytes = parquet(&columns, codec, group_rows);
            let table = read_as("r.PARQUET", &bytes, &schema()).unwrap();
            assert_eq!(shown(&table), expected, "{codec} {group_rows}");
        }
    }
}

#[test]
fn narrower_types_are_taken_as_they_are() {
    let columns = [
        ("oid", Arc::new(Int32Array::from(vec![-1, 2])) as ArrayRef),
        ("place", text(&[Some("a"), Some("b")])),
        ("area", Arc::new(Float32Array::from(vec![0.5, -3.0]))),
        ("fee", decimals(&[Some(-125), Some(99_999)], 5, 1)),
        ("open", Arc::new(BooleanArray::from(vec![true, false]))),
        (
            "since",
            Arc::new(TimestampMillisecondArray::from(vec![1, -1]).with_timezone("UTC")),
        ),
    ];
    let table = read_as("r.parquet", &plain(&columns), &schema());
    expect![[r#"
        {"oid":-1,"place":"a","area":0.5,
          "fee":-12.50,"open":true,"since":"1970-01-01T00:00:00.001000Z"}
        {"oid":2,"place":"b","area":-3.0,
          "fee":9999.90,"open":false,"since":"1969-12-31T23:59:59.999000Z"}
    "#]]
    .assert_eq(&shown(&table.unwrap()));
}

#[test]
fn values_that_a_column_cannot_hold_are_told_with_their_rows() {
    let nanos = TimestampNanosecondArray::from(vec![1000, 1001, 0, 0, 0]).with_timezone("UTC");
    let area = Float64Array::from(vec![f64::NAN, 1.0, f64::INFINITY, 2.0, 3.0]);
    let columns = [
        (
            "oid",
            Arc::new(Int64Array::from(vec![
                Some(1),
                Some(2),
                None,
                Some(4),
                Some(1),
            ])) as ArrayRef,
        ),
        (
            "place",
            text(&[Some("a"), Some("b"), Some("c"), None, Some("e")]),
        ),
        ("area", Arc::new(area)),
        (
            "fee",
            decimals(&[None, Some(10_000), Some(9_999), None, None], 9, 0),
        ),
        ("open", Arc::new(BooleanArray::from(vec![true; 5]))),
        ("since", Arc::new(nanos)),
    ];
    check_faults(
        &plain(&columns),
        &schema(),
        expect![[r#"
        reference file "r.parquet" has 6 faults
        r.parquet: row 1: column "area" is not a number
        r.parquet: row 2: column "fee" has more than 4 digits before the point
        r.parquet: row 2: column "since" is finer than a microsecond
        r.parquet: row 3: column "oid" is null but not nullable
        r.parquet: row 3: column "area" is not a number
        r.parquet: row 4: column "place" is null but not nullable
    "#]],
    );
    let late = micros(&[Some(i64::MAX)]);
    let columns = [("since", late), ("oid", int64(&[1]))];
    let since = Column::new("since", ColumnType::Timestamp);
    let schema = Schema::new([oid().columns, vec![since]].concat(), vec![0]);
    check_faults(
        &plain(&columns),
        &schema,
        expect![[r#"
        reference file "r.parquet" has 1 fault
        r.parquet: row 1: column "since" is out of range for timestamp
    "#]],
    );
}

#[test]
fn missing_columns_and_other_types_are_told_with_what_is_there() {
    let zoneless = TimestampMillisecondArray::from(vec![1]);
    let columns = [
        ("oid", Arc::new(UInt64Array::from(vec![1])) as ArrayRef),
        ("place", Arc::new(BooleanArray::from(vec![true]))),
        ("area", text(&[Some("2.5")])),
        ("fee", decimals(&[Some(1)], 6, 3)),
        ("open", Arc::new(BinaryArray::from(vec![&b"x"[..]]))),
        ("since", Arc::new(zoneless)),
    ];
    check_faults(
        &plain(&columns),
        &schema(),
        expect![[r#"
        reference file "r.parquet" has 6 faults
        r.parquet: column "oid" is uint64, where int64 is expected
        r.parquet: column "place" is bool, where string is expected
        r.parquet: column "area" is string, where float64 is expected
        r.parquet: column "fee" is decimal(6,3), where decimal(6,2) is expected
        r.parquet: column "open" is binary, not marked as text, where bool is expected
        r.parquet: column "since" is timestamp without time zone, where timestamp is expected
    "#]],
    );
    let columns = [("id", int64(&[1])), ("name", text(&[Some("1")]))];
    check_faults(
        &plain(&columns),
        &oid(),
        expect![[r#"
        reference file "r.parquet" has 1 fault
        r.parquet: column "oid" is missing; the file has ["id", "name"]
    "#]],
    );
}

#[test]
fn a_file_that_is_no_parquet_says_so() {
    check_faults(
        b"",
        &oid(),
        expect![[r#"
        reference file "r.parquet" has 1 fault
        r.parquet: no Parquet file: it does not begin with "PAR1"
    "#]],
    );
    check_faults(
        b"oid,place\n1,a\n2,b\n",
        &oid(),
        expect![[r#"
        reference file "r.parquet" has 1 fault
        r.parquet: no Parquet file: it does not begin with "PAR1"
    "#]],
    );
    let whole = plain(&[("oid", int64(&[1, 2, 3]))]);
    check_faults(
        &whole[..whole.len() - 1],
        &oid(),
        expect![[r#"
        reference file "r.parquet" has 1 fault
        r.parquet: cut off: it begins as Parquet and does not end so
    "#]],
    );
    let mut damaged = whole.clone();
    let footer = damaged.len() - 8;
    damaged[footer..footer + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    check_faults(
        &damaged,
        &oid(),
        expect![[r#"
        reference file "r.parquet" has 1 fault
        r.parquet: damaged: EOF: Parquet file too small. Size is 507 but need 4294967303
    "#]],
    );
    let encrypted = [b"PARE", &whole[4..whole.len() - 4], b"PARE"].concat();
    check_faults(
        &encrypted,
        &oid(),
        expect![[r#"
        reference file "r.parquet" has 1 fault
        r.parquet: encrypted Parquet, which cannot be read
    "#]],
    );
    let error = Table::read(Path::new("/dev/null/r.parquet"), &oid(), 100).unwrap_err();
    assert!(matches!(error, Error::Open { .. }));
}

/// Only its own mark is changed, in the metadata behind the column's name: gzip is not in this
/// build, so no writer of ours makes it.
#[test]
fn a_codec_that_is_not_built_in_is_named_with_its_column() {
    let mut bytes = plain(&[("oid", int64(&[1, 2, 3])), ("x", int64(&[1, 2, 3]))]);
    let mut mark = |name: &[u8], codec| {
        let before = [&[0x19, 0x18, name.len() as u8], name, &[0x15]].concat();
        let mut places = bytes.windows(before.len());
        let at = places.position(|place| *place == before).unwrap() + before.len();
        bytes[at] = codec;
        bytes.clone()
    };
    let elsewhere = mark(b"x", 4);
    assert_eq!(read_as("r.parquet", &elsewhere, &oid()).unwrap().rows(), 3);
    check_faults(
        &mark(b"oid", 4),
        &oid(),
        expect![[r#"
        reference file "r.parquet" has 1 fault
        r.parquet: column "oid" is compressed with gzip; only snappy, zstd and none can be read
    "#]],
    );
    check_faults(
        &mark(b"oid", 14),
        &oid(),
        expect![[r#"
        reference file "r.parquet" has 1 fault
        r.parquet: column "oid" is compressed with lz4_raw; only snappy, zstd and none can be read
    "#]],
    );
}

#[test]
fn a_damaged_byte_is_a_fault_or_another_table_and_never_a_panic() {
    let place = Column::new("place", ColumnType::String);
    let schema = Schema::new([oid().columns, vec![place]].concat(), vec![0]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.parquet");
    let mut faults = 0;
    for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
        let places = text(&[Some("a"), Some("a"), Some("b")]);
        let whole = parquet(&[("oid", int64(&[1, 2, 3])), ("place", places)], codec, 2);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            std::fs::write(&path, &damaged).unwrap();
            match Table::read(&path, &schema, 200) {
                Ok(table) => assert!(table.rows() <= 6, "{at}"),
                Err(Error::Faults { .. }) => faults += 1,
                Err(error) => panic!("{at}: {error}"),
            }
        }
    }
    assert!(faults > 400, "{faults}");
}

#[test]
fn a_large_table_is_made_in_blocks() {
    for count in [0, 1, BATCH_ROWS_MAX, 2 * BATCH_ROWS_MAX + 1] {
        let values: Vec<_> = (0..count as i64).collect();
        let columns = [("oid", int64(&values))];
        let bytes = parquet(&columns, Compression::SNAPPY, 7000);
        let table = read_as("r.parquet", &bytes, &oid()).unwrap();
        let blocks = table.into_blocks();
        assert!(blocks.iter().all(|block| block.len() <= BATCH_ROWS_MAX));
        let read = blocks.iter().flat_map(|block| {
            (0..block.len()).map(|row| (block.slot(0, row), block.offsets()[row]))
        });
        let expected = (0..count as i64).map(|value| (Slot::Int64(value), value + 1));
        assert!(read.eq(expected), "{count}");
    }
}

#[test]
fn large_rows_fill_a_block_by_their_bytes() {
    let columns = vec![
        Column::new("id", ColumnType::Int64),
        Column::new("place", ColumnType::String),
    ];
    let schema = Schema::new(columns, vec![0]);
    let place = "p".repeat(1 << 20);
    let rows: String = (0..20).map(|id| format!("{id},{place}\n")).collect();
    let line = |id| format!("{{\"id\":{id},\"place\":\"{place}\"}}\n");
    let lines: String = (0..20).map(line).collect();
    let values: Vec<i64> = (0..20).collect();
    let places = text(&[Some(&*place); 20]);
    let columns = [("id", int64(&values)), ("place", places)];
    let packed = parquet(&columns, Compression::UNCOMPRESSED, 20);
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("r.csv", format!("id,place\n{rows}").into_bytes()),
        ("r.jsonl", lines.into_bytes()),
        ("r.parquet", packed),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let table = Table::read(&path, &schema, 2 << 20).unwrap();
        assert_eq!(table.rows(), 20);
        let blocks = table.blocks();
        let bounded = |block: &Batch| block.bytes() < BATCH_BYTES_MAX + (2 << 20);
        assert!(blocks.iter().all(bounded), "{} blocks", blocks.len());
    }
}

#[test]
fn a_changed_file_is_read_again_and_a_bad_one_leaves_what_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.parquet");
    let put = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
    let good = plain(&[("oid", int64(&[1, 2]))]);
    put(&good);
    let (mut watched, first) = Watched::new(&path, &oid(), 100);
    assert_eq!(first.unwrap().rows(), 2);
    put(&plain(&[("oid", int64(&[1, 2, 1]))]));
    let Look::Bad(error) = watched.look(true) else {
        panic!("a key comes twice")
    };
    let detail = error.detail().unwrap();
    assert!(
        detail.ends_with("r.parquet: row 3: key {\"oid\":1} is in row 1 already"),
        "{detail}"
    );
    put(&good);
    assert!(matches!(watched.look(true), Look::Same));
    put(&plain(&[("oid", int64(&[3]))]));
    let Look::Changed(table) = watched.look(true) else {
        panic!("it has changed")
    };
    assert_eq!(shown(&table), "{\"oid\":3}\n");
}
