//! Rows of the reference table from CSV with a header.
//!
//! It is apart from `reference` because CSV has questions of its own: which column stands where,
//! what an empty field is, and where in the text a field begins.
//!
//! # Invariants
//! * An empty field is null where the column may be null, and else the empty string or a fault.
//! * Every record has as many fields as the header.
//! * What the `csv` crate would guess at is a fault: a quote that is never closed, text behind a
//!   closing quote. So are zero bytes, which no text has.

use std::borrow::Cow;

use csv::{ByteRecord, Position, Reader, ReaderBuilder};
use deltajoin_workers::batch::{Batch, BatchBuilder, Slot};
use deltajoin_workers::schema::{Column, ColumnType, Schema};

use crate::codec::json::shorten;
use crate::codec::reference_schema;
use crate::codec::text;
use crate::connectors::file::reference::{Faults, origin};

/// Reads all rows; what is wrong goes to `faults`.
pub(super) fn read(text: &[u8], schema: &Schema, faults: &mut Faults) -> Vec<Batch> {
    // A mark of the byte order is no part of the first name.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(text);
    let mut record = ByteRecord::new();
    if !next(&mut reader, &mut record) {
        faults.push(1, 1, "the header is missing".to_owned());
        return Vec::new();
    }
    let mut place = Place::start(text);
    if let Some((at, message)) = place.guessed_at(end_of(&reader)) {
        faults.push(at.line, at.column(), message);
        return Vec::new();
    }
    let header_fields = record.len();
    let Some(fields) = fields_of(schema, &record, faults) else {
        return Vec::new();
    };
    let mut builder = BatchBuilder::new(reference_schema(schema));
    let mut blocks = Vec::new();
    while next(&mut reader, &mut record) {
        let position = record.position().expect("a record that was read has one");
        place.move_to(offset(position));
        place.skip_line_ends();
        if let Some((at, message)) = place.guessed_at(end_of(&reader)) {
            faults.push(at.line, at.column(), message);
            continue;
        }
        let mut fault = |field, message: String| {
            let at = place.of_field(field);
            faults.push(at.line, at.column(), message);
        };
        if record.len() != header_fields {
            let count = record.len();
            fault(
                0,
                format!("{count} fields, where the header has {header_fields}"),
            );
            continue;
        }
        let Some(slots) = slots_of(schema, &fields, &record, &mut fault) else {
            continue;
        };
        builder.push(&slots, origin(place.line), 1);
        if builder.is_full() {
            blocks.push(builder.finish());
        }
    }
    if !builder.is_empty() {
        blocks.push(builder.finish());
    }
    blocks
}

fn next(reader: &mut Reader<&[u8]>, record: &mut ByteRecord) -> bool {
    reader
        .read_byte_record(record)
        .expect("any bytes in memory are records of some length")
}

/// How much of the text has been read.
fn end_of(reader: &Reader<&[u8]>) -> usize {
    offset(reader.position())
}

fn offset(position: &Position) -> usize {
    usize::try_from(position.byte()).expect("it is in memory")
}

/// Which field holds each column; none if one is missing.
fn fields_of(schema: &Schema, header: &ByteRecord, faults: &mut Faults) -> Option<Vec<usize>> {
    let names: Vec<_> = header.iter().map(String::from_utf8_lossy).collect();
    let quoted = |names: &mut dyn Iterator<Item = &str>| {
        let quoted: Vec<_> = names.map(|name| format!("{name:?}")).collect();
        quoted.join(", ")
    };
    let is_missing = |column: &&Column| !names.iter().any(|name| **name == *column.name);
    let missing: Vec<_> = schema.columns.iter().filter(is_missing).collect();
    if !missing.is_empty() {
        let (columns, are) = match missing.len() {
            1 => ("column", "is"),
            _ => ("columns", "are"),
        };
        let missing = quoted(&mut missing.iter().map(|column| &*column.name));
        let there = quoted(&mut names.iter().map(|name| &**name));
        let message = format!("{columns} {missing} {are} missing; the header has {there}");
        faults.push(1, 1, message);
        return None;
    }
    let mut fields = Vec::new();
    for column in &schema.columns {
        let mut found = (0..names.len()).filter(|field| *names[*field] == *column.name);
        fields.extend(found.next());
        if found.next().is_some() {
            let name = &column.name;
            faults.push(1, 1, format!("column {name:?} is twice in the header"));
        }
    }
    Some(fields)
}

/// The values of a record, or none and a call of `fault` for each that is wrong.
fn slots_of<'a>(
    schema: &Schema,
    fields: &[usize],
    record: &'a ByteRecord,
    fault: &mut impl FnMut(usize, String),
) -> Option<Vec<Slot<'a>>> {
    let mut texts = Vec::with_capacity(record.len());
    for (field, bytes) in record.iter().enumerate() {
        match std::str::from_utf8(bytes) {
            Ok(text) => texts.push(text),
            Err(_) => {
                fault(field, "not UTF-8".to_owned());
                return None;
            }
        }
    }
    let mut slots = Vec::with_capacity(fields.len());
    for (index, (column, field)) in schema.columns.iter().zip(fields).enumerate() {
        let nullable = column.nullable && !schema.key.contains(&index);
        match slot_of(column, nullable, texts[*field]) {
            Ok(slot) => slots.push(slot),
            Err(message) => fault(*field, message),
        }
    }
    (slots.len() == fields.len()).then_some(slots)
}

fn slot_of<'a>(column: &Column, nullable: bool, text: &'a str) -> Result<Slot<'a>, String> {
    let name = &column.name;
    if text.is_empty() && nullable {
        return Ok(Slot::Null);
    }
    if text.is_empty() && column.column_type != ColumnType::String {
        return Err(format!("column {name:?} is empty but not nullable"));
    }
    let slot = match column.column_type {
        ColumnType::Int64 => text::int64(text).map(Slot::Int64),
        ColumnType::Float64 => text::float64(text).map(Slot::Float64),
        ColumnType::String => Ok(Slot::String(Cow::Borrowed(text))),
        ColumnType::Bool => text::boolean(text).map(Slot::Bool),
        ColumnType::Timestamp => text::timestamp(text).map(Slot::Timestamp),
        ColumnType::Decimal { precision, scale } => {
            text::decimal(text, precision, scale).map(Slot::Decimal)
        }
        ColumnType::Bytes => panic!("only dead letters hold raw bytes"),
    };
    slot.map_err(|fault| shorten(&format!("column {name:?} {fault}: {text:?}")))
}

/// A place in a text.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
    line_start: usize,
}

impl<'a> Place<'a> {
    fn start(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            line: 1,
            line_start: 0,
        }
    }

    /// In bytes from 1.
    fn column(&self) -> usize {
        self.at - self.line_start + 1
    }

    fn move_to(&mut self, end: usize) {
        for at in self.at..end {
            if self.text[at] == b'\n' {
                self.line += 1;
                self.line_start = at + 1;
            }
        }
        self.at = end;
    }

    /// The reader leaves line ends, and blank lines, to the record behind them.
    fn skip_line_ends(&mut self) {
        let rest = self.text[self.at..].iter();
        let ends = rest.take_while(|byte| matches!(byte, b'\r' | b'\n'));
        self.move_to(self.at + ends.count());
    }

    /// The place of a field of the record that begins here.
    fn of_field(mut self, field: usize) -> Self {
        let mut fields = 0;
        let mut state = State::FieldStart;
        for (at, byte) in self.text.iter().enumerate().skip(self.at) {
            if fields == field {
                self.move_to(at);
                break;
            }
            state = state.after(*byte);
            if *byte == b',' && state == State::FieldStart {
                fields += 1;
            }
        }
        self
    }

    /// The first byte, in the record from here to `end`, that the reader passes by a guess, and
    /// what is wrong with it.
    fn guessed_at(mut self, end: usize) -> Option<(Self, String)> {
        let mut state = State::FieldStart;
        let mut opened = self;
        for at in self.at..end {
            let byte = self.text[at];
            let behind_quotes = state == State::Closed && !b"\",\r\n".contains(&byte);
            if byte == 0 || behind_quotes {
                self.move_to(at);
                let (line, column) = (opened.line, opened.column());
                let message = match byte {
                    0 => "a zero byte: this is no text".to_owned(),
                    _ => format!("text behind a closing quote, opened at {line}:{column}"),
                };
                return Some((self, message));
            }
            if state == State::FieldStart && byte == b'"' {
                opened.move_to(at);
            }
            state = state.after(byte);
        }
        (state == State::Quoted).then(|| (opened, "this quote is never closed".to_owned()))
    }
}

/// Where in a field a byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    FieldStart,
    Unquoted,
    Quoted,
    /// Behind a quote within quotes: the closing one, unless another follows.
    Closed,
}

impl State {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::FieldStart | Self::Closed, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::Closed,
            (Self::Quoted, _) => Self::Quoted,
            (_, b',' | b'\r' | b'\n') => Self::FieldStart,
            _ => Self::Unquoted,
        }
    }
}
