//! Tests of the records.

use std::borrow::Cow;
use std::sync::Arc;

use deltajoin_workers::batch::{BatchBuilder, BatchSchema, Slot};
use deltajoin_workers::schema::{Column, ColumnType};
use expect_test::expect;

use super::*;
use crate::bindings::testing::{binding, encoded, marker, rows};
use crate::codec::reference_schema;

/// A record is refused with a reason that begins so.
fn check(record: &str, expected: &str) {
    let Fault::Unreadable(reason) = Record::decode(record.as_bytes()).unwrap_err() else {
        panic!("{record} is no record")
    };
    assert!(reason.starts_with(expected), "{record}: {reason}");
}

fn text(record: &[u8]) -> String {
    let record = String::from_utf8(record.to_vec()).unwrap();
    let id = record.split('"').find(|text| text.len() == 32).unwrap();
    record.replace(id, "ID")
}

fn skipped((partition, from, to): (i32, i64, i64)) -> Skipped {
    Skipped {
        partition,
        from,
        to,
    }
}

#[test]
fn records_are_written_for_people_too() {
    let mut marker = marker("process 7 on alpha");
    marker.producers.push(TransactionalId {
        brokers: "alpha:9092".to_owned(),
        id: "job-0".to_owned(),
    });
    marker
        .settings
        .insert("limits.shards".to_owned(), "64".to_owned());
    let mut binding = binding(5);
    binding.reference.push(rows(0..2, 3));
    binding.skipped = [(0, 2, 3), (3, 5, 9)].map(skipped).to_vec();
    binding.clock_ms = Some(7);
    let mut all = text(&marker.encode());
    for record in encoded(&marker, &binding) {
        all.push('\n');
        all.push_str(&text(&record));
    }
    for field in ["\"settings\"", "\"reference\""] {
        all = all.replace(field, &format!("\n{field}"));
    }
    expect![[r#"
        {"version":1,"marker":"ID","started_ms":1767225600000,"holder":"process 7 on alpha",
        "settings":{"limits.shards":"64"},"producers":[{"brokers":"alpha:9092","id":"job-0"}]}
        {"generation":"ID","epoch":5,
        "reference":[[0,0,1,{"id":0,"name":"nnn"}],[0,1,1,{"id":1,"name":"nnn"}]]}
        {"generation":"ID","epoch":5,"ends":{"0":50},"skipped":[[0,2,3],[3,5,9]],"clock":7}"#]]
    .assert_eq(&all);
    let records = encoded(&marker, &binding);
    let decoded = Record::decode(&records[1]).unwrap();
    assert!(matches!(
        decoded,
        Record::Binding { skipped, clock_ms: Some(7), .. }
            if skipped == binding.skipped
    ));
    let encoded = marker.encode();
    let decoded = Record::decode(&encoded).unwrap();
    assert!(matches!(decoded, Record::Marker(decoded) if decoded == marker));
}

/// A reference table with every type, and a key of two columns.
fn every_type() -> Schema {
    let decimal = ColumnType::Decimal {
        precision: 38,
        scale: 6,
    };
    let columns = vec![
        Column::new("f", ColumnType::Float64).nullable(),
        Column::new("a", ColumnType::String),
        Column::new("t", ColumnType::Timestamp).nullable(),
        Column::new("d", decimal).nullable(),
        Column::new("i", ColumnType::Int64),
        Column::new("b", ColumnType::Bool).nullable(),
    ];
    Schema::new(columns, vec![4, 1])
}

#[test]
fn rows_of_every_type_and_removals_come_back_as_they_were() {
    let schema = every_type();
    let registered: Arc<BatchSchema> = reference_schema(&schema);
    let full = [
        Slot::Float64(-0.1),
        Slot::String(Cow::Borrowed("\u{e9}\"\\\n\u{0}")),
        Slot::Timestamp(-1),
        Slot::Decimal(10_i128.pow(38) - 1),
        Slot::Int64(i64::MIN),
        Slot::Bool(true),
    ];
    let mut bare = [const { Slot::Null }; 6];
    bare[1] = Slot::String(Cow::Borrowed(""));
    bare[4] = Slot::Int64(i64::MAX);
    let mut builder = BatchBuilder::new(Arc::clone(&registered));
    let steps = [(&full, 1), (&full, -1), (&bare, 1), (&bare, -1)];
    for (index, (slots, diff)) in (0..).zip(steps) {
        let origin = Origin {
            partition: 7,
            offset: i64::MAX - index,
        };
        builder.push(&slots[..], origin, diff);
    }
    let batch = builder.finish();
    let mut written = Vec::new();
    let binding = Binding {
        epoch: 1,
        ends: Vec::new(),
        reference: vec![batch.clone(), Batch::default()],
        ..Binding::default()
    };
    let encoder = BindingEncoder::new(MarkerId::random(), &schema, 1_000_000);
    let take = |record| {
        written.push(record);
        Ok(())
    };
    encoder.encode(&binding, take).unwrap();
    let Record::Reference { rows, .. } = Record::decode(&written[0]).unwrap() else {
        panic!("reference changes come first")
    };
    let mut decoder = Decoder::new(registered, usize::MAX);
    let decoded = rows.decode(&mut decoder).unwrap();
    assert_eq!(decoded.diffs(), batch.diffs());
    assert_eq!(decoded.offsets(), batch.offsets());
    assert_eq!(decoded.partitions(), batch.partitions());
    for row in 0..batch.len() {
        assert_eq!(decoded.keys().get(row), batch.keys().get(row));
        for column in 0..schema.columns.len() {
            assert_eq!(decoded.slot(column, row), batch.slot(column, row));
        }
    }
    assert_eq!(written.len(), 2);
}

#[test]
fn large_changes_take_several_records_and_a_huge_row_one_of_its_own() {
    let mut binding = binding(1);
    binding.reference = vec![rows(0..20, 100), rows(20..21, 5000), rows(21..23, 100)];
    let records = encoded(&marker("a"), &binding);
    let mut ids = Vec::new();
    for record in &records[..records.len() - 1] {
        let Record::Reference { rows, .. } = Record::decode(record).unwrap() else {
            panic!("reference changes come first")
        };
        assert!(
            record.len() <= 1000 || rows.0.len() == 1,
            "{}",
            rows.0.len()
        );
        ids.extend(rows.0.iter().map(|(_, offset, ..)| *offset));
    }
    assert!(ids.into_iter().eq(0..23));
    assert!(records.len() > 5 && records.len() < 10, "{}", records.len());
    let last = Record::decode(&records[records.len() - 1]).unwrap();
    assert!(matches!(last, Record::Binding { epoch: 1, .. }));
}

#[test]
fn decoding_is_strict() {
    check("", "EOF while parsing a value at line 1 column 0");
    check("{}", "it has not the fields of any kind of record");
    let of_its_epoch = |rest: &str| {
        let id = "0123456789abcdef0123456789abcdef";
        format!("{{\"generation\":\"{id}\",\"epoch\":1{rest}")
    };
    let short = of_its_epoch("}").replace("89ab", "");
    let wrong_id = "\"01234567cdef01234567cdef\" is not an id of 32 hex digits";
    check(&short, wrong_id);
    check(&short.to_uppercase(), "unknown field `GENERATION`");
    for (rest, expected) in [
        ("}", "one of \"reference\" and \"ends\" is needed"),
        (",\"ends\":{}", "EOF while parsing an object"),
        (",\"ends\":{},\"epoch\":1}", "duplicate field `epoch`"),
        (",\"ends\":{},\"time\":5}", "unknown field `time`"),
        (
            ",\"ends\":{},\"version\":1}",
            "it has not the fields of any",
        ),
        (",\"ends\":{\"0\":1,\"0\":2}}", "bad end 2 of partition 0"),
        (",\"ends\":{\"0\":-1}}", "bad end -1 of partition 0"),
        (",\"ends\":{\"x\":1}}", "invalid value"),
        (",\"ends\":{},\"reference\":[]}", "one of \"reference\""),
        (",\"reference\":[[0,1,{}]]}", "invalid type: map"),
        (",\"reference\":[],\"skipped\":[]}", "one of \"reference\""),
        (",\"reference\":[],\"clock\":5}", "one of \"reference\""),
        (
            ",\"ends\":{},\"skipped\":[[0,5,5]]}",
            "partition 0 skips from 5 to 5",
        ),
    ] {
        check(&of_its_epoch(rest), expected);
    }
}

#[test]
fn a_record_of_another_version_is_refused_by_name() {
    for (version, rest) in [(2, ",\"shape\":\"new\""), (0, ",\"started_ms\":1")] {
        let record = format!("{{\"version\":{version},\"marker\":\"x\"{rest}}}");
        let fault = Record::decode(record.as_bytes()).unwrap_err();
        assert_eq!(fault, Fault::Version(version));
        let text = format!("it has version {version}, and this program knows version 1");
        assert_eq!(fault.to_string(), text);
    }
    let mut ours = text(&marker("a").encode()).replace("ID", &"0".repeat(32));
    Record::decode(ours.as_bytes()).unwrap();
    ours = ours.replace("\"version\":1", "\"version\":3");
    let fault = Record::decode(ours.as_bytes()).unwrap_err();
    assert_eq!(fault, Fault::Version(3));
}

#[test]
fn a_marker_is_known_in_every_version() {
    let newer = announced(br#"{"version":9,"marker":"x","started_ms":0,"holder":"p","more":[]}"#);
    let newer = newer.unwrap();
    assert_eq!(newer.marker, "x");
    assert_eq!(newer.to_string(), "p, started at 1970-01-01T00:00:00Z");
    let bare = announced(br#"{"marker":"x"}"#).unwrap();
    assert_eq!(bare.to_string(), "generation x");
    for other in encoded(&marker("a"), &binding(1)) {
        assert_eq!(announced(&other), None);
    }
    assert_eq!(announced(b"junk"), None);
}
