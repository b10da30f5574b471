//! What the decoder and the encoder promise together.
//!
//! They are tested in one place because one's output is the other's input.

use std::borrow::Cow;
use std::sync::Arc;

use deltajoin_workers::batch::{Batch, BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::ports::reason;
use deltajoin_workers::schema::{Column, ColumnType, Schema};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use crate::codec::json::careful::read_carefully;
use crate::codec::json::{Decoder, Encoder, Reject};

const AT: Origin = Origin {
    partition: 2,
    offset: 40,
};

/// A column of each type, and a nullable one of each.
fn every_type() -> Schema {
    let decimal = ColumnType::Decimal {
        precision: 12,
        scale: 2,
    };
    let types = [
        ("i", ColumnType::Int64),
        ("f", ColumnType::Float64),
        ("s", ColumnType::String),
        ("b", ColumnType::Bool),
        ("t", ColumnType::Timestamp),
        ("d", decimal),
    ];
    let mut columns: Vec<_> = types.map(|(name, of)| Column::new(name, of)).into();
    columns.extend(types.map(|(name, of)| Column::new(&format!("{name}?"), of).nullable()));
    Schema::new(columns, vec![2, 0])
}

fn small() -> Schema {
    let columns = vec![
        Column::new("id", ColumnType::Int64),
        Column::new("name", ColumnType::String),
        Column::new("amount", ColumnType::Float64).nullable(),
    ];
    Schema::new(columns, vec![0])
}

fn decoder(schema: Schema) -> Decoder {
    Decoder::new(BatchSchema::register(schema), 1000)
}

fn decode_one(schema: Schema, payload: &str) -> Result<Batch, Reject> {
    let mut decoder = decoder(schema);
    decoder.decode(Some(payload.as_bytes()), AT)?;
    Ok(decoder.finish())
}

fn encode(batch: &Batch) -> String {
    let encoder = Encoder::new(&batch.schema().schema);
    let rows = encoder.rows(batch);
    let mut out = Vec::new();
    for row in 0..batch.len() {
        rows.key(row, &mut out);
        out.push(b' ');
        rows.value(row, &mut out);
        out.push(b'\n');
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn every_type_is_read_and_written() {
    let payload = r#" {"s":"a\u0062\n\"", "i":-7, "x":{"i":[1,{}]}, "f":2, "b":true,
        "t":"2024-02-29T12:30:00.5+02:00", "d":"1.5", "d?":125e-1, "t?":null,
        "f?":1e300, "i?":-0} "#;
    let batch = decode_one(every_type(), payload).unwrap();
    assert_eq!(batch.origin(0), AT);
    assert_eq!(batch.diffs(), [1]);
    expect![[r#"
        {"s":"ab\n\"","i":-7} {"i":-7,"f":2.0,"s":"ab\n\"","b":true,
        "t":"2024-02-29T10:30:00.500000Z","d":1.50,"i?":0,"f?":1e+300,"s?":null,"b?":null,
        "t?":null,"d?":12.50}
    "#]]
    .assert_eq(&encode(&batch).replace(",\"t", ",\n\"t"));
}

/// Each payload with its reject: reason, column and error.
fn check_rejects(schema: Schema, payloads: &[&str], expected: Expect) {
    let mut decoder = decoder(schema);
    let mut shown = String::new();
    for payload in payloads {
        let reject = decoder.decode(Some(payload.as_bytes()), AT).unwrap_err();
        let (reason, column) = (reject.reason, reject.column());
        shown.push_str(&format!("{reason} {column}: {}\n", reject.error));
        assert!(reject.error.starts_with(reject.message()));
    }
    assert_eq!(decoder.rows(), 0);
    expected.assert_eq(&shown);
}

#[test]
fn what_is_no_json_object_is_malformed() {
    check_rejects(
        small(),
        &[
            "",
            "  ",
            "hello\nworld",
            " [1]",
            r#"{"id":1,"name":"a""#,
            r#"{"id":1 "name":"a"}"#,
            r#"{"id":1,"name":"a"} {}"#,
            r#"{"id":1,"name":"a",}"#,
            r#"{"id":1,"name":"a","x":nul}"#,
            r#"{"id":1,"name":"a","x":1,"id":2}"#,
            r#"{"id":01,"name":"a"}"#,
            r#"{"id":"one","name":"a"#,
            r#"{"id":NaN,"name":"a"}"#,
        ],
        expect![[r#"
            malformed 1: record is empty
            malformed 1: record is empty
            malformed 1: not a JSON object: hello world
            malformed 2: not a JSON object: [1]
            malformed 18: not a JSON object: EOF while parsing an object at line 1 column 18
            malformed 9: not a JSON object: expected ',' or '}' at line 1 column 9
            malformed 21: not a JSON object: trailing characters at line 1 column 21
            malformed 20: not a JSON object: trailing comma at line 1 column 20
            malformed 27: not a JSON object: expected ident at line 1 column 27
            malformed 31: field "id" appears twice
            malformed 8: not a JSON object: invalid number at line 1 column 8
            malformed 21: not a JSON object: EOF while parsing a string at line 1 column 21
            malformed 7: not a JSON object: expected value at line 1 column 7
        "#]],
    );
}

#[test]
fn what_no_column_can_hold_is_a_wrong_type() {
    check_rejects(
        small(),
        &[
            "{}",
            r#"{"id":1}"#,
            r#"{"id":1,"name":null}"#,
            r#"{"id":"1","name":"a"}"#,
            r#"{"id":5.7,"name":"a"}"#,
            r#"{"id":5.0,"name":"a"}"#,
            r#"{"id":1e3,"name":"a"}"#,
            r#"{"id":9223372036854775808,"name":"a"}"#,
            r#"{"id":true,"name":"a"}"#,
            r#"{"id":1,"name":5}"#,
            r#"{"id":1,"name":"\ud800"}"#,
            r#"{"id":1,"name":"a","amount":"12,50"}"#,
            r#"{"id":1,"name":"a","amount":1e400}"#,
            r#"{"id":1,"name":"a","amount":1e-400}"#,
            r#"{"id":1,"name":"a","amount":9007199254740993}"#,
        ],
        expect![[r#"
            wrong-type 1: field "id" is missing
            wrong-type 1: field "name" is missing
            wrong-type 16: field "name" is null but not nullable
            wrong-type 7: field "id" is not an int64: "1"
            wrong-type 7: field "id" is not an int64: 5.7
            wrong-type 7: field "id" is not an int64: 5.0
            wrong-type 7: field "id" is not an int64: 1e3
            wrong-type 7: field "id" is out of range for int64: 9223372036854775808
            wrong-type 7: field "id" is not an int64: true
            wrong-type 16: field "name" is not a string: 5
            wrong-type 16: field "name" is not valid Unicode: "\ud800"
            wrong-type 29: field "amount" is not a number: "12,50"
            wrong-type 29: field "amount" is out of range for float64: 1e400
            wrong-type 29: field "amount" is out of range for float64: 1e-400
            wrong-type 29: field "amount" is out of range for float64: 9007199254740993
        "#]],
    );
    check_rejects(
        Schema::new(every_type().columns[3..6].to_vec(), vec![1]),
        &[
            r#"{"b":1,"t":"","d":1}"#,
            r#"{"b":true,"t":0,"d":1}"#,
            r#"{"b":true,"t":"2024-01-01","d":1}"#,
            r#"{"b":true,"t":"2024-01-01T00:00:00.1234567Z","d":1}"#,
            r#"{"b":true,"t":"2024-01-01T00:00:00Z","d":1.005}"#,
            r#"{"b":true,"t":"2024-01-01T00:00:00Z","d":"10000000000"}"#,
            r#"{"b":true,"t":"2024-01-01T00:00:00Z","d":[1,
                2]}"#,
        ],
        expect![[r#"
            wrong-type 6: field "b" is not true or false: 1
            wrong-type 15: field "t" is not an RFC 3339 time: 0
            wrong-type 15: field "t" is not an RFC 3339 time: "2024-01-01"
            wrong-type 15: field "t" is finer than a microsecond: "2024-01-01T00:00:00.1234567Z"
            wrong-type 42: field "d" has more than 2 digits after the point: 1.005
            wrong-type 42: field "d" has more than 10 digits before the point: "10000000000"
            wrong-type 42: field "d" is not a number: [1,                 2]
        "#]],
    );
}

#[test]
fn a_message_is_short_and_one_line() {
    let long = format!("{{\"id\":\"{}\",\"name\":\"a\"}}", "\u{e9}".repeat(400));
    let reject = decode_one(small(), &long).unwrap_err();
    assert_eq!(reject.error.chars().count(), 103);
    assert!(reject.error.ends_with("..."));
}

#[test]
fn missing_bytes_too_many_and_broken_ones_are_rejected() {
    let mut decoder = decoder(small());
    let missing = decoder.decode(None, AT).unwrap_err();
    assert_eq!(
        (missing.reason, &*missing.error),
        (reason::MALFORMED, "record has no value")
    );
    let large = decoder.decode(Some(&[b' '; 1001]), AT).unwrap_err();
    assert_eq!(
        (large.reason, &*large.error),
        (
            reason::TOO_LARGE,
            "record of 1001 bytes is larger than max_record_bytes (1000)"
        )
    );
    for payload in [
        &b"{\"id\":1,\"name\":\"\xff\"}"[..],
        b"{\"id\":1,\"name\":\"a\",\"x\":\"\xff\"}",
    ] {
        let broken = decoder.decode(Some(payload), AT).unwrap_err();
        assert_eq!(broken.reason, reason::MALFORMED);
        assert!(broken.error.starts_with("not UTF-8 at byte "), "{broken:?}");
        assert_eq!(payload[broken.column() - 1], 0xff);
    }
}

#[test]
fn deep_nesting_in_an_ignored_field_costs_no_stack() {
    let depth = 1_000_000;
    let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let mut decoder = Decoder::new(BatchSchema::register(small()), 4 * depth);
    let payload = format!("{{\"x\":{nested},\"id\":1,\"name\":\"a\"}}");
    decoder.decode(Some(payload.as_bytes()), AT).unwrap();
    for payload in [
        format!("{{\"id\":{nested},\"name\":\"a\"}}"),
        "[".repeat(depth),
        format!("{{\"x\":{}", "[".repeat(depth)),
    ] {
        decoder.decode(Some(payload.as_bytes()), AT).unwrap_err();
    }
    assert_eq!(decoder.rows(), 1);
}

#[test]
fn a_bad_record_costs_the_batch_nothing_else() {
    let mut decoder = decoder(small());
    for id in 0..100 {
        let payload = match id % 10 {
            3 => format!("{{\"id\":{id},\"name\":\"half"),
            7 => format!("{{\"id\":{id},\"name\":{id}}}"),
            _ => format!("{{\"id\":{id},\"name\":\"n\"}}"),
        };
        let result = decoder.decode(Some(payload.as_bytes()), AT);
        assert_eq!(result.is_err(), id % 10 == 3 || id % 10 == 7);
    }
    assert_eq!(decoder.rows(), 80);
    assert!(decoder.bytes() > 0);
    let batch = decoder.finish();
    let ids = (0..batch.len()).map(|row| batch.slot(0, row));
    let expected = (0..100).filter(|id| id % 10 != 3 && id % 10 != 7);
    assert!(ids.eq(expected.map(Slot::Int64)));
    assert_eq!(decoder.rows(), 0);
}

#[test]
fn a_removal_has_its_key_and_nothing_else() {
    let mut decoder = Decoder::for_reference(&small(), 1000);
    decoder.remove(Some(br#"{"id":7,"name":5}"#), AT).unwrap();
    decoder.decode(Some(br#"{"id":7,"name":"a"}"#), AT).unwrap();
    let lacks_name = decoder.decode(Some(br#"{"id":7}"#), AT).unwrap_err();
    assert_eq!(lacks_name.error, "field \"name\" is missing");
    let lacks_key = decoder.remove(Some(b"{}"), AT).unwrap_err();
    assert_eq!(lacks_key.error, "field \"id\" is missing");
    let batch = decoder.finish();
    assert_eq!(batch.diffs(), [-1, 1]);
    assert_eq!(batch.keys().get(0), batch.keys().get(1));
    assert_eq!(batch.slot(1, 0), Slot::Null);
    assert_eq!(batch.slot(1, 1), Slot::String(Cow::Borrowed("a")));
}

#[test]
fn a_null_in_a_key_is_rejected_even_if_the_column_is_nullable() {
    let columns = vec![Column::new("id", ColumnType::Int64).nullable()];
    let error = decode_one(Schema::new(columns, vec![0]), r#"{"id":null}"#).unwrap_err();
    assert_eq!(error.error, "field \"id\" is null but not nullable");
}

fn any_slot(column_type: ColumnType) -> BoxedStrategy<Slot<'static>> {
    let years = -62_167_219_200_000_000..=253_402_300_799_999_999_i64;
    match column_type {
        ColumnType::Int64 => any::<i64>().prop_map(Slot::Int64).boxed(),
        ColumnType::Float64 => prop_oneof![
            proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO,
            (-1000..1000_i32).prop_map(f64::from),
        ]
        .prop_map(Slot::Float64)
        .boxed(),
        ColumnType::String => any::<String>()
            .prop_map(|text| Slot::String(Cow::Owned(text)))
            .boxed(),
        ColumnType::Bool => any::<bool>().prop_map(Slot::Bool).boxed(),
        ColumnType::Timestamp => prop_oneof![
            years.clone(),
            years.prop_map(|micros| micros / 1_000_000 * 1_000_000)
        ]
        .prop_map(Slot::Timestamp)
        .boxed(),
        ColumnType::Decimal { precision, .. } => {
            let end = 10_i128.pow(precision.into());
            (1 - end..end).prop_map(Slot::Decimal).boxed()
        }
        ColumnType::Bytes => unreachable!("no configuration has it"),
    }
}

fn any_type() -> impl Strategy<Value = ColumnType> {
    let decimal = (1..=38_u8).prop_flat_map(|precision| {
        (0..=precision).prop_map(move |scale| ColumnType::Decimal { precision, scale })
    });
    prop_oneof![
        Just(ColumnType::Int64),
        Just(ColumnType::Float64),
        Just(ColumnType::String),
        Just(ColumnType::Bool),
        Just(ColumnType::Timestamp),
        decimal,
    ]
}

/// Some columns with strange names, and some rows for them.
fn any_rows() -> impl Strategy<Value = (Schema, Vec<Vec<Slot<'static>>>)> {
    let column = (any::<String>(), any_type(), any::<bool>());
    proptest::collection::vec(column, 1..8).prop_flat_map(|columns| {
        let columns = columns.into_iter().enumerate();
        let columns: Vec<_> = columns
            .map(|(index, (name, column_type, nullable))| Column {
                name: format!("{name}{index}").into(),
                column_type,
                nullable: nullable && index > 0,
            })
            .collect();
        let row: Vec<_> = columns
            .iter()
            .map(|column| {
                let slot = any_slot(column.column_type);
                let null = if column.nullable { 1 } else { 0 };
                prop_oneof![null => Just(Slot::Null), 4 => slot]
            })
            .collect();
        let rows = proptest::collection::vec(row, 1..4);
        (Just(Schema::new(columns, vec![0])), rows)
    })
}

/// JSON, almost JSON, and not JSON at all.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "null",
        "true",
        "-0",
        "1",
        "5.7",
        "1e3",
        "-9e99",
        "1e999",
        "\"id\"",
        "\"name\"",
        "\"amount\"",
        "\"d\"",
        "\"t\"",
        "\"\\ud800\"",
        "\"a\\n\"",
        " ",
        "\"2024-01-01T00:00:00Z\"",
        "18446744073709551615",
        "\"1.50\"",
        "\"x\":",
        "\u{e9}",
    ]);
    let pair = prop::sample::select(vec![
        "\"id\":1",
        "\"id\":-0",
        "\"id\":1.5",
        "\"id\":null",
        "\"name\":\"a\"",
        "\"name\":\"\\t\"",
        "\"name\":null",
        "\"amount\":1",
        "\"amount\":-0",
        "\"amount\":null",
        "\"amount\":1e999",
        "\"amount\":1e-999",
        "\"amount\":-9007199254740993",
        "\"amount\":0.1",
        "\"x\":[{}]",
        "\"x\":1e999",
        "\"na\\u006de\":\"a\"",
        "\"x\":\"\\ud800\"",
        "\"x\"",
        "",
    ]);
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        proptest::collection::vec(token, 0..20).prop_map(|tokens| tokens.concat().into_bytes()),
        proptest::collection::vec(pair, 0..5)
            .prop_map(|pairs| format!("{{{}}}", pairs.join(",")).into_bytes()),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same_values((schema, rows) in any_rows()) {
        let schema = BatchSchema::register(schema);
        let mut builder = BatchBuilder::new(Arc::clone(&schema));
        for row in &rows {
            builder.push(row, AT, 1);
        }
        let batch = builder.finish();
        let encoder = Encoder::new(&schema.schema);
        let encoded = encoder.rows(&batch);
        let mut decoder = Decoder::new(Arc::clone(&schema), usize::MAX);
        for row in 0..rows.len() {
            let mut out = Vec::new();
            encoded.value(row, &mut out);
            let decoded = decoder.decode(Some(&out), AT);
            prop_assert_eq!(decoded, Ok(()), "{}", String::from_utf8_lossy(&out));
        }
        let decoded = decoder.finish();
        for (row, slots) in rows.iter().enumerate() {
            for (column, slot) in slots.iter().enumerate() {
                prop_assert_eq!(&decoded.slot(column, row), slot);
                if let (Slot::Float64(a), Slot::Float64(b)) = (decoded.slot(column, row), slot) {
                    prop_assert_eq!(a.to_bits(), b.to_bits());
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_rejected(payload in any_payload()) {
        let mut decoder = decoder(small());
        let result = decoder.decode(Some(&payload), AT);
        prop_assert_eq!(decoder.rows(), usize::from(result.is_ok()));
        if let Err(reject) = result {
            prop_assert!(reject.column() >= 1 && reject.column() <= payload.len() + 1);
            prop_assert!(!reject.error.contains('\n'));
        }
    }

    #[test]
    fn the_straight_way_takes_nothing_that_the_careful_way_refuses(payload in any_payload()) {
        let mut decoder = decoder(small());
        let Ok(text) = std::str::from_utf8(&payload) else { return Ok(()) };
        let mut slots = vec![Slot::Null; 3];
        let careful = read_carefully(decoder.columns(), text, &mut slots, false);
        prop_assert_eq!(decoder.decode(Some(&payload), AT), careful.clone());
        if careful.is_ok() {
            let batch = decoder.finish();
            let decoded: Vec<_> = (0..3).map(|column| batch.slot(column, 0)).collect();
            prop_assert_eq!(decoded, slots);
        }
    }
}
