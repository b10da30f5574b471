//! Rows of the reference table from Parquet.
//!
//! It is apart from `reference` because Parquet has questions of its own: which of its types a
//! column can be read from without a guess, and how its pages are packed.
//!
//! # Invariants
//! * Columns are found by their names, at the top of the file's schema; what else it holds is not
//!   read.
//! * A value is taken as it is or is a fault: nothing is rounded, and a time without a zone is no
//!   point in time. Types that are a part of the wanted one are taken.
//! * No damage of a file panics; what the crate prints of its own panics is told beside the fault.
//! * In memory is what the rows take, and beside it a page of each column and one block of rows.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, UInt8Type,
    UInt16Type, UInt32Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema as ArrowSchema, TimeUnit};
use deltajoin_workers::batch::{Batch, BatchBuilder, Slot};
use deltajoin_workers::schema::{Column, ColumnType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use crate::codec::json::shorten;
use crate::codec::reference_schema;
use crate::codec::text::{Fault, timestamp_in_range};
use crate::connectors::file::Spot;
use crate::connectors::file::reference::{Faults, origin};

/// So many rows are read at once: few enough that large ones fit into memory together.
const READ_ROWS: usize = 1024;
/// What a file begins and ends with.
const MAGIC: &[u8; 4] = b"PAR1";

/// Reads all rows; what is wrong goes to `faults`.
pub(super) fn read(mut file: File, schema: &Schema, faults: &mut Faults) -> io::Result<Vec<Batch>> {
    if let Some(message) = no_parquet(&mut file)? {
        faults.push_at(Spot::File, message.to_owned());
        return Ok(Vec::new());
    }
    // The crate takes some lengths that it finds for true, and panics when they are not.
    let result = catch_unwind(AssertUnwindSafe(|| blocks(file, schema, faults)));
    let message = match result {
        Ok(Ok(blocks)) => return Ok(blocks),
        Ok(Err(ParquetError::External(error))) => match error.downcast::<io::Error>() {
            Ok(error) if is_of_system(&error) => return Err(*error),
            Ok(error) => error.to_string(),
            Err(error) => error.to_string(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            text.unwrap_or("it cannot be decoded").to_owned()
        }
    };
    faults.push_at(Spot::File, shorten(&format!("damaged: {message}")));
    Ok(Vec::new())
}

/// What shows that a file is something else, before much of it is read.
fn no_parquet(file: &mut File) -> io::Result<Option<&'static str>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Some("only a regular file can be read as Parquet"));
    }
    let (mut first, mut last) = ([0; 4], [0; 4]);
    if metadata.len() >= 12 {
        file.read_exact(&mut first)?;
        file.seek(SeekFrom::End(-4))?;
        file.read_exact(&mut last)?;
    }
    Ok(match (first == *MAGIC, last == *MAGIC) {
        (true, true) => None,
        (true, false) => Some("cut off: it begins as Parquet and does not end so"),
        (false, _) if first == *b"PARE" => Some("encrypted Parquet, which cannot be read"),
        (false, _) => Some("no Parquet file: it does not begin with \"PAR1\""),
    })
}

/// Whether the disk refused, and not a decoder; one that is led astray may seek to nowhere.
fn is_of_system(error: &io::Error) -> bool {
    error.raw_os_error().is_some() && error.kind() != io::ErrorKind::InvalidInput
}

fn blocks(file: File, schema: &Schema, faults: &mut Faults) -> Result<Vec<Batch>, ParquetError> {
    // The file's own types; what Arrow's writers add would bring dictionaries and views.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)?;
    let Some(mut fields) = fields_of(schema, builder.schema(), faults) else {
        return Ok(Vec::new());
    };
    if !codecs_are_known(schema, builder.metadata(), faults) {
        return Ok(Vec::new());
    }
    let wanted = ProjectionMask::roots(builder.parquet_schema(), fields.iter().copied());
    // What is read has the order of the file, without what is not wanted.
    let mut in_order = fields.clone();
    in_order.sort_unstable();
    for field in &mut fields {
        *field = in_order.partition_point(|other| other < field);
    }
    let reader = builder.with_projection(wanted);
    let mut builder = BatchBuilder::new(reference_schema(schema));
    let mut blocks = Vec::new();
    let mut row = 0;
    for read in reader.with_batch_size(READ_ROWS).build()? {
        let to = (&mut builder, &mut blocks);
        row = push_rows(to, schema, &fields, &read?, row, faults);
    }
    if !builder.is_empty() {
        blocks.push(builder.finish());
    }
    Ok(blocks)
}

/// Which field of the file holds each column; none if one is missing or of another type.
fn fields_of(schema: &Schema, there: &ArrowSchema, faults: &mut Faults) -> Option<Vec<usize>> {
    let mut fields = Vec::new();
    for column in &schema.columns {
        let name = &column.name;
        let mut found = (0..there.fields.len()).filter(|at| there.field(*at).name() == &**name);
        let Some(field) = found.next() else {
            let names: Vec<_> = there.fields.iter().map(|field| field.name()).collect();
            let message = format!("column {name:?} is missing; the file has {names:?}");
            faults.push_at(Spot::File, shorten(&message));
            continue;
        };
        let found_type = there.field(field).data_type();
        if found.next().is_some() {
            faults.push_at(Spot::File, format!("column {name:?} is there twice"));
        } else if holds(column.column_type, found_type) {
            fields.push(field);
        } else {
            let (wanted, found) = (column.column_type, described(found_type));
            let message = format!("column {name:?} is {found}, where {wanted} is expected");
            faults.push_at(Spot::File, message);
        }
    }
    (fields.len() == schema.columns.len()).then_some(fields)
}

/// Whether every value of a type of the file is one of the column, or can be told not to be.
fn holds(column_type: ColumnType, there: &DataType) -> bool {
    use DataType as Type;
    match column_type {
        ColumnType::Int64 => {
            there.is_signed_integer() || matches!(there, Type::UInt8 | Type::UInt16 | Type::UInt32)
        }
        ColumnType::Float64 => matches!(there, Type::Float32 | Type::Float64),
        ColumnType::String => *there == Type::Utf8,
        ColumnType::Bool => *there == Type::Boolean,
        ColumnType::Timestamp => matches!(there, Type::Timestamp(_, Some(_))),
        ColumnType::Decimal { scale, .. } => match there {
            Type::Decimal128(_, digits) => (0..=scale.cast_signed()).contains(digits),
            _ => false,
        },
        ColumnType::Bytes => panic!("only dead letters hold raw bytes"),
    }
}

/// A type of the file in the words of the configuration.
fn described(there: &DataType) -> String {
    use DataType as Type;
    match there {
        Type::Utf8 => "string".to_owned(),
        Type::Boolean => "bool".to_owned(),
        Type::Binary => "binary, not marked as text".to_owned(),
        Type::Timestamp(_, Some(_)) => "timestamp".to_owned(),
        Type::Timestamp(_, None) => "timestamp without time zone".to_owned(),
        Type::Decimal128(precision, scale) | Type::Decimal256(precision, scale) => {
            format!("decimal({precision},{scale})")
        }
        other => shorten(&other.to_string().to_lowercase()),
    }
}

/// Whether all pages can be unpacked.
fn codecs_are_known(schema: &Schema, metadata: &ParquetMetaData, faults: &mut Faults) -> bool {
    for group in metadata.row_groups() {
        for packed in group.columns() {
            let name = packed.column_path().parts().first();
            let wanted = |column: &Column| name.is_some_and(|name| **name == *column.name);
            let codec = match packed.compression() {
                Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) => continue,
                _ if !schema.columns.iter().any(wanted) => continue,
                codec => codec.to_string(),
            };
            let codec = codec.split('(').next().unwrap_or_default().to_lowercase();
            let message = format!(
                "column {:?} is compressed with {codec}; only snappy, zstd and none can be read",
                packed.column_path().string()
            );
            faults.push_at(Spot::File, message);
            return false;
        }
    }
    true
}

/// Adds rows that were read together; `row` came before them. Returns how many there are now.
fn push_rows(
    (builder, blocks): (&mut BatchBuilder, &mut Vec<Batch>),
    schema: &Schema,
    fields: &[usize],
    read: &RecordBatch,
    mut row: u64,
    faults: &mut Faults,
) -> u64 {
    let mut slots = Vec::with_capacity(fields.len());
    for index in 0..read.num_rows() {
        row += 1;
        slots.clear();
        for (at, (column, field)) in schema.columns.iter().zip(fields).enumerate() {
            let nullable = column.nullable && !schema.key.contains(&at);
            match slot_of(column, nullable, read.column(*field), index) {
                Ok(slot) => slots.push(slot),
                Err(message) => faults.push_at(Spot::Row(row), message),
            }
        }
        if slots.len() == fields.len() {
            builder.push(&slots, origin(row), 1);
            if builder.is_full() {
                blocks.push(builder.finish());
            }
        }
    }
    row
}

fn slot_of<'a>(
    column: &Column,
    nullable: bool,
    array: &'a ArrayRef,
    row: usize,
) -> Result<Slot<'a>, String> {
    let name = &column.name;
    if array.is_null(row) {
        return match nullable {
            true => Ok(Slot::Null),
            false => Err(format!("column {name:?} is null but not nullable")),
        };
    }
    let slot = match column.column_type {
        ColumnType::Int64 => Ok(Slot::Int64(integer(array, row))),
        ColumnType::Float64 => float(array, row).map(Slot::Float64),
        ColumnType::String => {
            let text = array.as_string::<i32>().value(row);
            Ok(Slot::String(Cow::Borrowed(text)))
        }
        ColumnType::Bool => Ok(Slot::Bool(array.as_boolean().value(row))),
        ColumnType::Timestamp => timestamp(array, row).map(Slot::Timestamp),
        ColumnType::Decimal { precision, scale } => {
            decimal(array, row, precision, scale).map(Slot::Decimal)
        }
        ColumnType::Bytes => panic!("only dead letters hold raw bytes"),
    };
    slot.map_err(|fault| format!("column {name:?} {fault}"))
}

fn integer(array: &ArrayRef, row: usize) -> i64 {
    match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        _ => array.as_primitive::<Int64Type>().value(row),
    }
}

fn float(array: &ArrayRef, row: usize) -> Result<f64, Fault> {
    let value = match array.data_type() {
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).into(),
        _ => array.as_primitive::<Float64Type>().value(row),
    };
    match value.is_finite() {
        true => Ok(value),
        false => Err(Fault::NotNumber),
    }
}

fn timestamp(array: &ArrayRef, row: usize) -> Result<i64, Fault> {
    let out_of_range = Fault::OutOfRange("timestamp");
    let micros = match array.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            let millis = array.as_primitive::<TimestampMillisecondType>().value(row);
            millis.checked_mul(1000).ok_or(out_of_range)?
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let nanos = array.as_primitive::<TimestampNanosecondType>().value(row);
            if nanos % 1000 != 0 {
                return Err(Fault::FinerThanMicroseconds);
            }
            nanos / 1000
        }
        _ => array.as_primitive::<TimestampMicrosecondType>().value(row),
    };
    match timestamp_in_range(micros) {
        true => Ok(micros),
        false => Err(out_of_range),
    }
}

fn decimal(array: &ArrayRef, row: usize, precision: u8, scale: u8) -> Result<i128, Fault> {
    let DataType::Decimal128(_, digits) = array.data_type() else {
        panic!("the types were compared before")
    };
    let value = array.as_primitive::<Decimal128Type>().value(row);
    let missing = u32::from(scale - digits.cast_unsigned());
    let scaled = 10_i128.pow(missing).checked_mul(value);
    let fits = |value: &i128| value.unsigned_abs() < 10_u128.pow(precision.into());
    scaled
        .filter(fits)
        .ok_or(Fault::WholeDigits(precision - scale))
}

#[cfg(test)]
mod tests;
