//! Reads JSON objects into rows.
//!
//! There are two ways through a record. The straight one reads it in one pass into slots, as fast
//! as it can, and gives up without a reason at the first surprise. The careful one then reads the
//! record again, field by field: it decides, and says what is wrong and where.
//!
//! # Invariants
//! * What the straight way takes, the careful way takes with the same values.
//! * A row is appended only when all its values are at hand.
//! * Nesting costs no stack: fields that are no column are skipped without recursion.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserializer as _;
use serde::de::{Deserialize, DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use deltajoin_workers::batch::{Batch, BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::ports::reason;
use deltajoin_workers::schema::{ColumnType, Schema};

use crate::codec::json::careful::read_carefully;
use crate::codec::json::reject::Reject;
use crate::codec::reference_schema;
use crate::codec::text;

/// A column that records are searched for.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) name: Arc<str>,
    pub(super) column_type: ColumnType,
    /// Whether a row may lack it.
    pub(super) nullable: bool,
    /// Whether it is part of the key.
    key: bool,
}

/// Collects rows of one schema from JSON objects.
#[derive(Debug)]
pub struct Decoder {
    columns: Vec<Expected>,
    record_bytes_max: usize,
    builder: BatchBuilder,
    /// Room for the slots of one row, kept from record to record.
    slots: Vec<Slot<'static>>,
    /// Which columns the record has, likewise.
    seen: Vec<bool>,
}

impl Decoder {
    /// A decoder of records of at most `record_bytes_max` bytes.
    ///
    /// # Panics
    /// If a column holds raw bytes: no configuration has such a column.
    pub fn new(schema: Arc<BatchSchema>, record_bytes_max: usize) -> Self {
        let columns = expected(&schema.schema);
        Self {
            columns,
            record_bytes_max,
            builder: BatchBuilder::new(schema),
            slots: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// A decoder of rows of a reference table: strict by `schema`, while its batches are of
    /// `reference_schema`, so that removals fit in.
    pub fn for_reference(schema: &Schema, record_bytes_max: usize) -> Self {
        Self {
            columns: expected(schema),
            ..Self::new(reference_schema(schema), record_bytes_max)
        }
    }

    /// Appends a row with diff `+1`, or rejects the record and is as it was.
    pub fn decode(&mut self, payload: Option<&[u8]>, origin: Origin) -> Result<(), Reject> {
        self.append(payload, (origin, 1), false)
    }

    /// Appends the removal of a row: `key` is the JSON object of its key columns. Only for
    /// decoders of reference tables.
    pub fn remove(&mut self, key: Option<&[u8]>, origin: Origin) -> Result<(), Reject> {
        self.append(key, (origin, -1), true)
    }

    /// Appends a row as it was encoded, with its diff: one that is removed too has all columns.
    pub fn replay(&mut self, payload: &[u8], origin: Origin, diff: i8) -> Result<(), Reject> {
        self.append(Some(payload), (origin, diff), false)
    }

    /// How many rows it holds.
    pub fn rows(&self) -> usize {
        self.builder.len()
    }

    /// Whether it holds enough for a batch.
    pub fn is_full(&self) -> bool {
        self.builder.is_full()
    }

    /// About the bytes of memory that its rows take.
    pub fn bytes(&self) -> usize {
        self.builder.bytes()
    }

    /// Takes the rows as a batch, and is empty afterwards.
    pub fn finish(&mut self) -> Batch {
        self.builder.finish()
    }

    #[cfg(test)]
    pub(super) fn columns(&self) -> &[Expected] {
        &self.columns
    }

    /// Appends a row, or with `removal` the key of one.
    fn append(
        &mut self,
        payload: Option<&[u8]>,
        (origin, diff): (Origin, i8),
        removal: bool,
    ) -> Result<(), Reject> {
        let text = text_of(payload, self.record_bytes_max)?;
        let mut slots = emptied(std::mem::take(&mut self.slots));
        slots.resize(self.columns.len(), Slot::Null);
        self.seen.clear();
        self.seen.resize(self.columns.len(), false);
        let row = Row {
            columns: &self.columns,
            slots: &mut slots,
            seen: &mut self.seen,
            removal,
        };
        let mut result = Ok(());
        if row.read(text).is_err() {
            result = read_carefully(&self.columns, text, &mut slots, removal);
        }
        if result.is_ok() {
            self.builder.push(&slots, origin, diff);
        }
        self.slots = emptied(slots);
        result
    }
}

fn expected(schema: &Schema) -> Vec<Expected> {
    let columns = schema.columns.iter().enumerate();
    let columns = columns.map(|(index, column)| {
        assert!(
            column.column_type != ColumnType::Bytes,
            "only dead letters hold raw bytes"
        );
        let key = schema.key.contains(&index);
        Expected {
            name: Arc::clone(&column.name),
            column_type: column.column_type,
            nullable: column.nullable && !key,
            key,
        }
    });
    columns.collect()
}

/// The same memory for slots that borrow from another record.
fn emptied<'a>(mut slots: Vec<Slot<'_>>) -> Vec<Slot<'a>> {
    slots.clear();
    // Collecting a vector into one of the same layout reuses its memory.
    slots
        .into_iter()
        .map(|_| unreachable!("it is empty"))
        .collect()
}

fn text_of(payload: Option<&[u8]>, record_bytes_max: usize) -> Result<&str, Reject> {
    let malformed = |message: &str, column| Reject::new(reason::MALFORMED, message, column);
    let payload = payload.ok_or_else(|| malformed("record has no value", 1))?;
    if payload.len() > record_bytes_max {
        let bytes = payload.len() as u64;
        return Err(Reject::too_large(bytes, record_bytes_max));
    }
    std::str::from_utf8(payload).map_err(|error| {
        let column = error.valid_up_to() + 1;
        malformed(&format!("not UTF-8 at byte {column}"), column)
    })
}

impl Expected {
    /// Whether a record that lacks the column has to be rejected.
    pub(super) fn required(&self, removal: bool) -> bool {
        if removal { self.key } else { !self.nullable }
    }

    #[inline]
    fn typed<'de, D: serde::Deserializer<'de>>(&self, input: D) -> Result<Slot<'de>, D::Error> {
        match self.column_type {
            ColumnType::Int64 => input.deserialize_i64(self),
            // By its text, which tells whether a whole number or a tiny one would be changed.
            ColumnType::Float64 => {
                let value = text::float64(<&RawValue>::deserialize(input)?.get());
                value.map(Slot::Float64).map_err(D::Error::custom)
            }
            ColumnType::String | ColumnType::Timestamp => input.deserialize_str(self),
            ColumnType::Bool => input.deserialize_bool(self),
            ColumnType::Decimal { precision, scale } => {
                let raw = <&RawValue>::deserialize(input)?.get();
                let unscaled = text::decimal(unquoted(raw), precision, scale);
                unscaled.map(Slot::Decimal).map_err(D::Error::custom)
            }
            ColumnType::Bytes => unreachable!("refused when the decoder was made"),
        }
    }
}

/// What stands between the quotes of a string, or all of anything else.
pub(super) fn unquoted(raw: &str) -> &str {
    let inner = raw
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inner.unwrap_or(raw)
}

/// One record on the straight way.
struct Row<'a, 'de> {
    columns: &'a [Expected],
    slots: &'a mut [Slot<'de>],
    seen: &'a mut [bool],
    removal: bool,
}

impl<'de> Row<'_, 'de> {
    fn read(self, text: &'de str) -> Result<(), serde_json::Error> {
        let mut input = serde_json::Deserializer::from_str(text);
        input.deserialize_map(self)?;
        input.end()
    }
}

impl<'de> Visitor<'de> for Row<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let mut next = 0;
        while let Some(found) = map.next_key_seed(Name {
            columns: self.columns,
            next,
            removal: self.removal,
        })? {
            let Some(index) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if std::mem::replace(&mut self.seen[index], true) {
                return Err(M::Error::custom("a field appears twice"));
            }
            self.slots[index] = map.next_value_seed(&self.columns[index])?;
            next = index + 1;
        }
        let mut columns = self.columns.iter().zip(&*self.seen);
        if columns.any(|(column, seen)| !seen && column.required(self.removal)) {
            return Err(M::Error::custom("a field is missing"));
        }
        Ok(())
    }
}

/// Finds the column of a field's name.
pub(super) struct Name<'a> {
    pub(super) columns: &'a [Expected],
    /// The column after the last one found: producers keep an order, so it is mostly this one.
    pub(super) next: usize,
    /// Whether only key columns count.
    pub(super) removal: bool,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    #[inline]
    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    #[inline]
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let is_named = |column: &Expected| *column.name == *name && (column.key || !self.removal);
        if self.columns.get(self.next).is_some_and(is_named) {
            return Ok(Some(self.next));
        }
        Ok(self.columns.iter().position(is_named))
    }
}

impl<'de> DeserializeSeed<'de> for &Expected {
    type Value = Slot<'de>;

    #[inline]
    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Slot<'de>, D::Error> {
        if self.nullable {
            input.deserialize_option(self)
        } else {
            self.typed(input)
        }
    }
}

impl<'de> Visitor<'de> for &Expected {
    type Value = Slot<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.column_type)
    }

    #[inline]
    fn visit_unit<E>(self) -> Result<Slot<'de>, E> {
        Ok(Slot::Null)
    }

    #[inline]
    fn visit_none<E>(self) -> Result<Slot<'de>, E> {
        Ok(Slot::Null)
    }

    #[inline]
    fn visit_some<D: serde::Deserializer<'de>>(self, input: D) -> Result<Slot<'de>, D::Error> {
        self.typed(input)
    }

    #[inline]
    fn visit_bool<E>(self, value: bool) -> Result<Slot<'de>, E> {
        Ok(Slot::Bool(value))
    }

    #[inline]
    fn visit_i64<E>(self, value: i64) -> Result<Slot<'de>, E> {
        Ok(Slot::Int64(value))
    }

    #[inline]
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Slot<'de>, E> {
        i64::try_from(value).map(Slot::Int64).map_err(E::custom)
    }

    #[inline]
    fn visit_borrowed_str<E: serde::de::Error>(self, value: &'de str) -> Result<Slot<'de>, E> {
        match self.column_type {
            ColumnType::Timestamp => self.visit_str(value),
            _ => Ok(Slot::String(Cow::Borrowed(value))),
        }
    }

    #[inline]
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Slot<'de>, E> {
        match self.column_type {
            ColumnType::Timestamp => text::timestamp(value)
                .map(Slot::Timestamp)
                .map_err(E::custom),
            _ => Ok(Slot::String(Cow::Owned(value.to_owned()))),
        }
    }
}
