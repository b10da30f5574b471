//! Dead letters: records that cannot become results, as rows and as JSON.
//!
//! They have an encoding of their own because they carry raw bytes, which rows of a configured
//! schema never do, and their origin, which results do not show.
//!
//! # Invariants
//! * The raw bytes come out as they came in: as text if they are UTF-8, else as base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::io::Write;

use deltajoin_workers::batch::{Batch, BatchBuilder, Origin, Slot};
use deltajoin_workers::ports::dead_letter_schema;

use crate::codec::json::{write_string, write_timestamp};
use crate::codec::text::timestamp_in_range;

/// Places of the columns of `dead_letter_schema`.
const TOPIC: usize = 0;
const TIMESTAMP: usize = 1;
const REASON: usize = 2;
const ERROR: usize = 3;
const RAW: usize = 4;

/// Collects dead letters.
#[derive(Debug)]
pub struct DeadLetters(BatchBuilder);

impl Default for DeadLetters {
    fn default() -> Self {
        Self(BatchBuilder::new(dead_letter_schema()))
    }
}

impl DeadLetters {
    /// Adds a record of a topic, or of a file of that name, with what is wrong with it.
    ///
    /// `timestamp_ms` is when it was published; a time that RFC 3339 cannot name is left out.
    pub fn push(
        &mut self,
        topic: &str,
        origin: Origin,
        timestamp_ms: Option<i64>,
        reason: &'static str,
        error: &str,
        raw: &[u8],
    ) {
        let micros = timestamp_ms.and_then(|milliseconds| milliseconds.checked_mul(1000));
        let timestamp = micros.filter(|micros| timestamp_in_range(*micros));
        let slots = [
            Slot::String(Cow::Borrowed(topic)),
            timestamp.map_or(Slot::Null, Slot::Timestamp),
            Slot::String(Cow::Borrowed(reason)),
            Slot::String(Cow::Borrowed(error)),
            Slot::Bytes(Cow::Borrowed(raw)),
        ];
        self.0.push(&slots, origin, 1);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// About the bytes of memory that they take.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Takes them as a batch, and is empty afterwards.
    pub fn finish(&mut self) -> Batch {
        self.0.finish()
    }
}

/// Appends the JSON object of one dead letter.
pub fn encode(batch: &Batch, row: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"reason\":");
    write_slot(batch, REASON, row, out);
    out.extend_from_slice(b",\"error\":");
    write_slot(batch, ERROR, row, out);
    out.push(b',');
    write_origin(batch, row, out);
    out.extend_from_slice(b",\"timestamp\":");
    write_slot(batch, TIMESTAMP, row, out);
    let raw = batch.slot(RAW, row);
    let is_text = matches!(&raw, Slot::Bytes(bytes) if std::str::from_utf8(bytes).is_ok());
    out.extend_from_slice(if is_text {
        b",\"raw\":"
    } else {
        b",\"raw_base64\":"
    });
    write_slot(batch, RAW, row, out);
    out.push(b'}');
}

/// Appends the JSON object that names one dead letter: where its record stands.
pub fn encode_key(batch: &Batch, row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    write_origin(batch, row, out);
    out.push(b'}');
}

fn write_origin(batch: &Batch, row: usize, out: &mut Vec<u8>) {
    let Origin { partition, offset } = batch.origin(row);
    out.extend_from_slice(b"\"topic\":");
    write_slot(batch, TOPIC, row, out);
    write!(out, ",\"partition\":{partition},\"offset\":{offset}")
        .expect("writing to memory does not fail");
}

fn write_slot(batch: &Batch, column: usize, row: usize, out: &mut Vec<u8>) {
    match batch.slot(column, row) {
        Slot::Null => out.extend_from_slice(b"null"),
        Slot::Timestamp(micros) => write_timestamp(out, micros),
        Slot::String(text) => write_string(out, &text),
        Slot::Bytes(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => write_string(out, text),
            Err(_) => write_string(out, &STANDARD.encode(&bytes)),
        },
        other => panic!("dead letters have no such column: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::ports::reason;

    use super::*;

    #[test]
    fn a_dead_letter_tells_what_came_from_where_and_what_is_wrong() {
        let mut letters = DeadLetters::default();
        assert!(letters.is_empty());
        let origin = Origin {
            partition: 3,
            offset: 1842,
        };
        let error = "field \"amount\" is missing";
        let time = Some(1_700_000_000_123);
        letters.push(
            "events",
            origin,
            time,
            reason::WRONG_TYPE,
            error,
            b"{\"a\":\"e\"}",
        );
        letters.push(
            "events",
            origin,
            Some(i64::MAX),
            reason::MALFORMED,
            "",
            b"\xff\x00",
        );
        letters.push("events", origin, None, reason::MALFORMED, "", b"");
        assert!(letters.bytes() > 0);
        let batch = letters.finish();
        let mut out = Vec::new();
        for row in 0..batch.len() {
            encode(&batch, row, &mut out);
            out.push(b'\n');
        }
        encode_key(&batch, 0, &mut out);
        expect_test::expect![[r#"
            {"reason":"wrong-type",
              "error":"field \"amount\" is missing",
              "topic":"events",
              "partition":3,
              "offset":1842,
              "timestamp":"2023-11-14T22:13:20.123000Z",
              "raw":"{\"a\":\"e\"}"}
            {"reason":"malformed",
              "error":"",
              "topic":"events",
              "partition":3,
              "offset":1842,
              "timestamp":null,
              "raw_base64":"/wA="}
            {"reason":"malformed",
              "error":"",
              "topic":"events",
              "partition":3,
              "offset":1842,
              "timestamp":null,
              "raw":""}
            {"topic":"events",
              "partition":3,
              "offset":1842}"#]]
        .assert_eq(&String::from_utf8(out).unwrap().replace(",\"", ",\n  \""));
    }
}
