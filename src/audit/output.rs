//! The records of an output into keys and rows, and what is wrong with one that is neither.
//!
//! It is apart from `table`, which judges rows by their hashes: here they are still text.
//!
//! # Invariants
//! * A record is looked at in one pass: that of its key, or the first if it has none.
//! * A row has all columns of a result and no other field, and in a topic the key of its record.

use std::fmt;
use std::sync::Arc;

use deltajoin_workers::batch::{Batch, Origin};
use deltajoin_workers::schema::Schema;
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use crate::audit::canonical::{Canonical, hash_of_bytes};
use crate::audit::expected::Join;
use crate::audit::finding::{Finding, Found, Kind};
use crate::audit::source::Record;
use crate::audit::table::{Full, Table, pass_of};
use crate::codec::json::Decoder;

/// Records that are decoded together: enough to spread what a batch costs.
const CHUNK_RECORDS: usize = 1_000;
/// And so many bytes of them, so that large rows are not held in thousands.
const CHUNK_BYTES: usize = 4 << 20;

/// Why a record is no row of a result, whatever its values.
const OTHER_FIELDS: &str = "its fields are not the columns of a result";
const OTHER_KEY: &str = "its record has another key";

/// The rows of one output in one pass, on their way into the table.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    join: &'a Join,
    rows: Decoder,
    /// The keys of records; lines of a file have none.
    keys: Option<Decoder>,
    steps: Vec<Step>,
    canonical: Canonical,
    pass: (usize, usize),
    /// Records that have come.
    pub(super) records: u64,
    /// Those of them that are tombstones.
    pub(super) tombstones: u64,
}

/// A record that has come.
#[derive(Debug)]
struct Step {
    origin: Origin,
    /// Its key's row in `keys`, if it can be read.
    key: Option<usize>,
    value: Value,
}

/// The value of a record.
#[derive(Debug)]
enum Value {
    Tombstone,
    /// A row of `rows`; whether it has the fields of a result; the hash of its bytes.
    Row(usize, bool, u128),
    /// The hash of bytes that are no row.
    Unreadable(u128),
}

impl<'a> Rows<'a> {
    pub(super) fn new(join: &'a Join, is_keyed: bool, pass: (usize, usize)) -> Self {
        Self {
            join,
            rows: decoder(join),
            keys: is_keyed.then(|| keys(join)),
            steps: Vec::new(),
            canonical: Canonical::default(),
            pass,
            records: 0,
            tombstones: 0,
        }
    }

    /// Takes a record.
    pub(super) fn take(
        &mut self,
        record: Record<'_>,
        table: &mut Table,
        found: &mut Found,
    ) -> Result<(), Full> {
        let Record { origin, key, value } = record;
        self.records += 1;
        let key = self.keys.as_mut().and_then(|keys| {
            let read = keys.remove(key, origin);
            read.is_ok().then(|| keys.rows() - 1)
        });
        let value = match value {
            None => {
                self.tombstones += 1;
                Value::Tombstone
            }
            Some(bytes) => match self.rows.decode(Some(bytes), origin) {
                Ok(()) => {
                    let exact = has_columns(&self.join.joined().schema, bytes);
                    Value::Row(self.rows.rows() - 1, exact, hash_of_bytes(bytes))
                }
                Err(_) => Value::Unreadable(hash_of_bytes(bytes)),
            },
        };
        self.steps.push(Step { origin, key, value });
        if self.steps.len() >= CHUNK_RECORDS || self.rows.bytes() >= CHUNK_BYTES {
            self.finish(table, found)?;
        }
        Ok(())
    }

    /// Puts what has come into the table.
    pub(super) fn finish(&mut self, table: &mut Table, found: &mut Found) -> Result<(), Full> {
        let rows = self.rows.finish();
        let keyed = self.keys.as_mut().map(Decoder::finish);
        let key = &self.join.joined().schema.key;
        let (pass, passes) = self.pass;
        for Step {
            origin,
            key: place,
            value,
        } in self.steps.drain(..)
        {
            let mut key_of = |batch: &Batch, row: usize| {
                let slots = key.iter().map(|column| batch.slot(*column, row));
                self.canonical.key(slots)
            };
            let own = match value {
                Value::Row(row, ..) => Some(key_of(&rows, row)),
                Value::Tombstone | Value::Unreadable(_) => None,
            };
            let identity = match &keyed {
                Some(keyed) => place.map(|row| key_of(keyed, row)),
                None => own,
            };
            let Some(identity) = identity else {
                if pass == 0 && !matches!(value, Value::Tombstone) {
                    found.push(Kind::Wrong, nobodys(origin));
                }
                continue;
            };
            if pass_of(identity, passes) != pass {
                continue;
            }
            let hash = match value {
                Value::Tombstone => {
                    table.tombstone(identity, origin);
                    continue;
                }
                Value::Row(row, true, _) if own == Some(identity) => {
                    let columns = 0..self.join.joined().schema.columns.len();
                    self.canonical
                        .row(columns.map(|column| rows.slot(column, row)))
                }
                Value::Row(_, _, hash) | Value::Unreadable(hash) => hash,
            };
            table.row(identity, hash, origin, found)?;
        }
        Ok(())
    }
}

/// A row that belongs to no key.
fn nobodys(place: Origin) -> Finding {
    Finding {
        place,
        event: None,
        before: None,
        undecided: false,
    }
}

/// Why a record is no row of a result, if it is none.
pub(super) fn fault(join: &Join, is_keyed: bool, record: Record<'_>) -> Option<String> {
    let Record { origin, key, value } = record;
    let mut keys = keys(join);
    if is_keyed && let Err(reject) = keys.remove(key, origin) {
        return Some(format!("key: {}", reject.error));
    }
    let mut rows = decoder(join);
    if let Err(reject) = rows.decode(value, origin) {
        return Some(reject.error);
    }
    if !has_columns(&join.joined().schema, value.unwrap_or_default()) {
        return Some(OTHER_FIELDS.to_owned());
    }
    let (rows, keys) = (rows.finish(), keys.finish());
    let key = &join.joined().schema.key;
    let hash =
        |batch: &Batch| Canonical::default().key(key.iter().map(|column| batch.slot(*column, 0)));
    (is_keyed && hash(&rows) != hash(&keys)).then(|| OTHER_KEY.to_owned())
}

fn decoder(join: &Join) -> Decoder {
    Decoder::new(Arc::clone(join.joined()), usize::MAX)
}

/// A decoder of which only removals are wanted: they have keys and nothing else.
fn keys(join: &Join) -> Decoder {
    Decoder::for_reference(join.events(), usize::MAX)
}

/// Whether the fields of a JSON object that a decoder takes are the columns of the schema: it
/// ignores fields that are no column, and lets columns be left out that may be null.
fn has_columns(schema: &Schema, value: &[u8]) -> bool {
    let mut input = serde_json::Deserializer::from_slice(value);
    let fields = input.deserialize_map(Fields(schema));
    fields.is_ok_and(|known| known == Some(schema.columns.len()))
}

/// Counts the fields of an object; none if there is one that is no column.
struct Fields<'a>(&'a Schema);

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut count = 0;
        let mut all_known = true;
        while let Some(known) = map.next_key_seed(Name(self.0, count))? {
            map.next_value::<IgnoredAny>()?;
            all_known &= known;
            count += 1;
        }
        Ok(all_known.then_some(count))
    }
}

/// Whether a field's name is that of a column, probably of the one at this place.
struct Name<'a>(&'a Schema, usize);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<bool, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        let Self(schema, place) = self;
        let likely = schema.columns.get(place);
        Ok(likely.is_some_and(|column| &*column.name == name) || schema.index_of(name).is_some())
    }
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::schema::{Column, ColumnType};

    use super::*;

    #[test]
    fn a_row_has_all_columns_and_no_other_field() {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String).nullable(),
        ];
        let schema = Schema::new(columns, vec![0]);
        for (text, right) in [
            (r#"{"id":1,"name":null}"#, true),
            (r#"{"name":"a","id":1}"#, true),
            (r#"{"\u0069d":1,"name":"a"}"#, true),
            (r#"{"id":1}"#, false),
            (r#"{"id":1,"name":"a","more":{}}"#, false),
            (r#"{"id":1,"more":2}"#, false),
        ] {
            assert_eq!(has_columns(&schema, text.as_bytes()), right, "{text}");
        }
    }
}
