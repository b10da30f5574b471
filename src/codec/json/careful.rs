//! The careful way through a record: field by field, ready to say what is wrong and where.
//!
//! It is apart from `decode`, whose straight way gives up without a reason, so that neither slows
//! nor blurs the other. Faults are looked for in a fixed order: syntax, fields that come twice,
//! then each column in the order of the schema.
//!
//! # Invariants
//! * A record is malformed if it is not one JSON object with each column at most once; whatever
//!   else is wrong is a wrong type.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use deltajoin_workers::batch::Slot;
use deltajoin_workers::ports::reason;
use deltajoin_workers::schema::ColumnType;

use crate::codec::json::decode::{Expected, Name, unquoted};
use crate::codec::json::reject::Reject;
use crate::codec::text::{self, Fault};

/// Reads a record into `slots`, or says what is wrong with it.
pub(super) fn read_carefully<'de>(
    columns: &[Expected],
    text: &'de str,
    slots: &mut [Slot<'de>],
    removal: bool,
) -> Result<(), Reject> {
    let malformed = |message: &str, column| Reject::new(reason::MALFORMED, message, column);
    let body = text.trim_start_matches([' ', '\t', '\r', '\n']);
    if body.is_empty() {
        return Err(malformed("record is empty", 1));
    }
    if !body.starts_with('{') {
        let column = text.len() - body.len() + 1;
        return Err(malformed(&format!("not a JSON object: {body}"), column));
    }
    let mut input = serde_json::Deserializer::from_str(text);
    let fields = input.deserialize_map(Fields { columns, removal });
    let fields = fields.and_then(|fields| input.end().map(|()| fields));
    let fields = fields.map_err(|error| Reject::syntax(&error))?;
    let column_of = |raw: &RawValue| raw.get().as_ptr().addr() - text.as_ptr().addr() + 1;
    if let Some((index, raw)) = fields.twice {
        let name = &columns[index].name;
        return Err(malformed(
            &format!("field {name:?} appears twice"),
            column_of(raw),
        ));
    }
    for ((column, raw), slot) in columns.iter().zip(fields.values).zip(slots) {
        let name = &column.name;
        let wrong = |message: &str, at: usize| Err(Reject::new(reason::WRONG_TYPE, message, at));
        *slot = match raw.map(RawValue::get) {
            None if column.required(removal) => {
                return wrong(&format!("field {name:?} is missing"), 1);
            }
            None => Slot::Null,
            Some("null") if column.nullable => Slot::Null,
            Some("null") => {
                let at = raw.map_or(1, column_of);
                return wrong(&format!("field {name:?} is null but not nullable"), at);
            }
            Some(value) => match read_value(column.column_type, value) {
                Ok(slot) => slot,
                Err(fault) => {
                    let at = raw.map_or(1, column_of);
                    return wrong(&format!("field {name:?} {fault}: {value}"), at);
                }
            },
        };
    }
    Ok(())
}

/// Reads one value that is known to be JSON.
fn read_value<'de>(column_type: ColumnType, raw: &'de str) -> Result<Slot<'de>, Fault> {
    let string = |fault| {
        if !raw.starts_with('"') {
            return Err(fault);
        }
        serde_json::from_str::<String>(raw).map_err(|_| Fault::NotUnicode)
    };
    Ok(match column_type {
        ColumnType::Int64 => Slot::Int64(text::int64(raw)?),
        ColumnType::Float64 => Slot::Float64(text::float64(raw)?),
        ColumnType::String => Slot::String(Cow::Owned(string(Fault::NotString)?)),
        ColumnType::Bool => Slot::Bool(text::boolean(raw)?),
        ColumnType::Timestamp => Slot::Timestamp(text::timestamp(&string(Fault::NotTimestamp)?)?),
        ColumnType::Decimal { precision, scale } => {
            Slot::Decimal(text::decimal(unquoted(raw), precision, scale)?)
        }
        ColumnType::Bytes => unreachable!("refused when the decoder was made"),
    })
}

/// The texts of a record's columns.
struct Found<'de> {
    values: Vec<Option<&'de RawValue>>,
    /// A column that comes a second time, and its text there.
    twice: Option<(usize, &'de RawValue)>,
}

/// Finds the texts of a record's columns.
struct Fields<'a> {
    columns: &'a [Expected],
    removal: bool,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Found<'de>, M::Error> {
        let columns = self.columns;
        let mut found = Found {
            values: vec![None; columns.len()],
            twice: None,
        };
        while let Some(index) = map.next_key_seed(Name {
            columns,
            next: 0,
            removal: self.removal,
        })? {
            let raw: &RawValue = map.next_value()?;
            let Some(index) = index else { continue };
            if found.values[index].replace(raw).is_some() {
                found.twice.get_or_insert((index, raw));
            }
        }
        Ok(found)
    }
}
