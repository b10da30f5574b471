//! Writes rows as JSON objects.
//!
//! The columns of a batch are downcast once for all its rows, and all that lies between values is
//! rendered when the encoder is made; what is left a row is copying and formatting numbers.
//!
//! # Invariants
//! * Columns come in the order of the schema, key columns in the order of the key.
//! * A null is written, never left out.

use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, StringArray};
use arrow_buffer::NullBuffer;
use chrono::{DateTime, Datelike, Timelike};

use deltajoin_workers::batch::Batch;
use deltajoin_workers::schema::{ColumnType, Schema};

/// Writes rows of one schema.
#[derive(Clone, Debug)]
pub struct Encoder {
    value: Vec<Field>,
    key: Vec<Field>,
}

/// A column's place in an object.
#[derive(Clone, Debug)]
struct Field {
    /// What comes before the value: brace or comma, name and colon.
    prefix: Box<[u8]>,
    /// The column in the batch.
    index: usize,
    column_type: ColumnType,
}

impl Encoder {
    /// An encoder for rows of `schema`.
    ///
    /// # Panics
    /// If a column holds raw bytes: those are only in dead letters, which have their own encoding.
    pub fn new(schema: &Schema) -> Self {
        let fields = |indexes: &mut dyn Iterator<Item = usize>| {
            indexes
                .enumerate()
                .map(|(place, index)| Field::new(schema, place, index))
                .collect()
        };
        Self {
            value: fields(&mut (0..schema.columns.len())),
            key: fields(&mut schema.key.iter().copied()),
        }
    }

    /// Makes the rows of a batch ready to be written.
    pub fn rows<'a>(&'a self, batch: &'a Batch) -> RowEncoder<'a> {
        let columns = |fields: &'a [Field]| {
            // An empty batch may have no columns, and has no row that anyone could ask for.
            let fields = if batch.is_empty() { &[] } else { fields };
            fields
                .iter()
                .map(|field| FieldRows::new(field, &batch.columns()[field.index]))
                .collect()
        };
        RowEncoder {
            value: columns(&self.value),
            key: columns(&self.key),
        }
    }
}

impl Field {
    fn new(schema: &Schema, place: usize, index: usize) -> Self {
        let column = &schema.columns[index];
        assert!(
            column.column_type != ColumnType::Bytes,
            "only dead letters hold raw bytes"
        );
        let mut prefix = vec![if place == 0 { b'{' } else { b',' }];
        write_string(&mut prefix, &column.name);
        prefix.push(b':');
        Self {
            prefix: prefix.into(),
            index,
            column_type: column.column_type,
        }
    }
}

/// Writes the rows of one batch.
#[derive(Debug)]
pub struct RowEncoder<'a> {
    value: Vec<FieldRows<'a>>,
    key: Vec<FieldRows<'a>>,
}

impl RowEncoder<'_> {
    /// Appends the object of all columns of a row.
    ///
    /// # Panics
    /// If the row does not exist.
    pub fn value(&self, row: usize, out: &mut Vec<u8>) {
        write_object(&self.value, row, out);
    }

    /// Appends the object of the key columns of a row.
    ///
    /// # Panics
    /// If the row does not exist.
    pub fn key(&self, row: usize, out: &mut Vec<u8>) {
        write_object(&self.key, row, out);
    }
}

fn write_object(fields: &[FieldRows<'_>], row: usize, out: &mut Vec<u8>) {
    for field in fields {
        out.extend_from_slice(field.prefix);
        field.write(row, out);
    }
    out.push(b'}');
}

/// The values of a column.
#[derive(Debug)]
struct FieldRows<'a> {
    prefix: &'a [u8],
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

#[derive(Debug)]
enum Values<'a> {
    Int64(&'a [i64]),
    Float64(&'a [f64]),
    String(&'a StringArray),
    Bool(&'a BooleanArray),
    Timestamp(&'a [i64]),
    Decimal(&'a [i128], u8),
}

impl<'a> FieldRows<'a> {
    fn new(field: &'a Field, column: &'a ArrayRef) -> Self {
        let values = match field.column_type {
            ColumnType::Int64 => Values::Int64(column.as_primitive::<Int64Type>().values()),
            ColumnType::Float64 => Values::Float64(column.as_primitive::<Float64Type>().values()),
            ColumnType::String => Values::String(column.as_string()),
            ColumnType::Bool => Values::Bool(column.as_boolean()),
            ColumnType::Timestamp => {
                Values::Timestamp(column.as_primitive::<TimestampMicrosecondType>().values())
            }
            ColumnType::Decimal { scale, .. } => {
                Values::Decimal(column.as_primitive::<Decimal128Type>().values(), scale)
            }
            ColumnType::Bytes => unreachable!("refused when the encoder was made"),
        };
        Self {
            prefix: &field.prefix,
            nulls: column.nulls(),
            values,
        }
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.extend_from_slice(b"null");
            return;
        }
        match self.values {
            Values::Int64(values) => {
                out.extend_from_slice(itoa::Buffer::new().format(values[row]).as_bytes());
            }
            Values::Float64(values) => write_serialized(out, &values[row]),
            Values::String(values) => write_string(out, values.value(row)),
            Values::Bool(values) => {
                let text: &[u8] = if values.value(row) { b"true" } else { b"false" };
                out.extend_from_slice(text);
            }
            Values::Timestamp(values) => write_timestamp(out, values[row]),
            Values::Decimal(values, scale) => write_decimal(out, values[row], scale),
        }
    }
}

fn write_serialized(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("writing plain values to memory does not fail");
}

/// Appends a string with its quotes.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    // Looking at every byte, without a way out, is what the compiler turns into vector code.
    let escapes = text.bytes().fold(false, |found, byte| {
        found | (byte < b' ') | (byte == b'"') | (byte == b'\\')
    });
    if escapes {
        write_serialized(out, text);
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Appends an RFC 3339 time in UTC with its quotes.
///
/// # Panics
/// If the time is not within the years 0 to 9999: decoders have checked that.
pub(crate) fn write_timestamp(out: &mut Vec<u8>, micros: i64) {
    let time = DateTime::from_timestamp_micros(micros)
        .filter(|time| (0..=9999).contains(&time.year()))
        .expect("timestamps are within the years 0 to 9999");
    let year = time.year().cast_unsigned();
    out.push(b'"');
    write_two_digits(out, year / 100);
    write_two_digits(out, year % 100);
    for (mark, number) in [
        (b'-', time.month()),
        (b'-', time.day()),
        (b'T', time.hour()),
        (b':', time.minute()),
        (b':', time.second()),
    ] {
        out.push(mark);
        write_two_digits(out, number);
    }
    let fraction = time.timestamp_subsec_micros();
    if fraction > 0 {
        out.push(b'.');
        write_two_digits(out, fraction / 10_000);
        write_two_digits(out, fraction / 100 % 100);
        write_two_digits(out, fraction % 100);
    }
    out.extend_from_slice(b"Z\"");
}

fn write_two_digits(out: &mut Vec<u8>, number: u32) {
    let digit = |value: u32| b'0' + u8::try_from(value % 10).expect("a digit is below ten");
    out.extend_from_slice(&[digit(number / 10), digit(number)]);
}

fn write_decimal(out: &mut Vec<u8>, unscaled: i128, scale: u8) {
    if unscaled < 0 {
        out.push(b'-');
    }
    let magnitude = unscaled.unsigned_abs();
    let one = 10_u128.pow(scale.into());
    let (whole, fraction) = (magnitude / one, magnitude % one);
    out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
    if scale > 0 {
        write!(out, ".{fraction:0width$}", width = usize::from(scale))
            .expect("writing to memory does not fail");
    }
}
