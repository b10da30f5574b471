//! The records of an output into keys and rows, and what is wrong with one that is neither.
//!
//! It is apart from `table`, which judges rows by their hashes: here they are still text.
//!
//! # Invariants
//! * A record is looked at in one pass: that of its key, or the first if it has none.
//! * A row has all columns of a result and no other field, and in a topic the key of its record.
//! * Both rows of a change are of one key.

use std::fmt;
use std::sync::Arc;

use deltajoin_workers::batch::{Batch, Origin};
use deltajoin_workers::schema::Schema;
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use crate::audit::canonical::{Canonical, NO_ROW, hash_of_bytes};
use crate::audit::change::{Change, is_removal};
use crate::audit::expected::Join;
use crate::audit::finding::{Finding, Found, Kind, Why};
use crate::audit::source::Record;
use crate::audit::table::{Full, Table, pass_of};
use crate::audit::told::Told;
use crate::codec::json::Decoder;
use crate::config::Envelope;

/// Records that are decoded together: enough to spread what a batch costs.
const CHUNK_RECORDS: usize = 1_000;
/// And so many bytes of them, so that large rows are not held in thousands.
const CHUNK_BYTES: usize = 4 << 20;

/// Why a record is no row of a result, whatever its values.
const OTHER_FIELDS: &str = "its fields are not the columns of a result";
const OTHER_OPERATION: &str = "its operation or its diff is not that of its rows";
const OTHER_KEY: &str = "its record has another key";

/// The rows of one output in one pass, on their way into the table.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    join: &'a Join,
    rows: Decoder,
    /// The keys of records, and of lines that remove rows.
    keys: Decoder,
    is_keyed: bool,
    envelope: Envelope,
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
    /// A row; the hash of its bytes.
    Row(Row, u128),
    /// The rows before and after; whether the rest agrees; the epoch; the hash of its bytes.
    Change([Option<Row>; 2], bool, u64, u128),
    /// The hash of bytes that are no row.
    Unreadable(u128),
}

/// A row of `rows`, and whether it has the fields of a result.
type Row = (usize, bool);

impl<'a> Rows<'a> {
    pub(super) fn new(
        join: &'a Join,
        (is_keyed, envelope): (bool, Envelope),
        pass: (usize, usize),
    ) -> Self {
        Self {
            join,
            rows: decoder(join),
            keys: keys(join),
            is_keyed,
            envelope,
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
        let removes = |bytes: &[u8]| is_removal(&self.join.joined().schema, bytes);
        let is_line = !self.is_keyed && self.envelope == Envelope::Upsert;
        let line = value.filter(|bytes| is_line && removes(bytes));
        let key = (self.is_keyed || line.is_some()).then(|| line.or(key));
        let key = key.and_then(|key| {
            let read = self.keys.remove(key, origin);
            read.is_ok().then(|| self.keys.rows() - 1)
        });
        let value = match value.filter(|_| line.is_none()) {
            None => {
                self.tombstones += 1;
                Value::Tombstone
            }
            Some(bytes) => self.read(bytes, origin),
        };
        self.steps.push(Step { origin, key, value });
        if self.steps.len() >= CHUNK_RECORDS || self.rows.bytes() >= CHUNK_BYTES {
            self.finish(table, found)?;
        }
        Ok(())
    }

    /// Reads the value of a record.
    fn read(&mut self, bytes: &[u8], origin: Origin) -> Value {
        let hash = hash_of_bytes(bytes);
        let mut row = |bytes: &[u8]| -> Option<Row> {
            self.rows.decode(Some(bytes), origin).ok()?;
            let exact = has_columns(&self.join.joined().schema, bytes);
            Some((self.rows.rows() - 1, exact))
        };
        if self.envelope == Envelope::Upsert {
            return row(bytes).map_or(Value::Unreadable(hash), |row| Value::Row(row, hash));
        }
        let Ok(change) = Change::read(bytes) else {
            return Value::Unreadable(hash);
        };
        let mut agrees = change.agrees();
        let rows = [change.before, change.after].map(|text| {
            let read = row(text?.get().as_bytes());
            agrees &= read.is_some();
            read
        });
        Value::Change(rows, agrees, change.epoch, hash)
    }

    /// Puts what has come into the table.
    pub(super) fn finish(&mut self, table: &mut Table, found: &mut Found) -> Result<(), Full> {
        let rows = self.rows.finish();
        let keyed = self.keys.finish();
        let schema = &self.join.joined().schema;
        let (canonical, mut values) = (&mut self.canonical, Canonical::default());
        let mut key_of = |batch: &Batch, row: usize| {
            let slots = schema.key.iter().map(|column| batch.slot(*column, row));
            canonical.key(slots)
        };
        let (pass, passes) = self.pass;
        for Step { origin, key, value } in self.steps.drain(..) {
            let own: [Option<u128>; 2] = match value {
                Value::Row((row, _), _) => [None, Some(key_of(&rows, row))],
                Value::Change(both, ..) => both.map(|row| Some(key_of(&rows, row?.0))),
                Value::Tombstone | Value::Unreadable(_) => [None; 2],
            };
            let is_removal = matches!(value, Value::Tombstone);
            let identity = match self.is_keyed || is_removal {
                true => key.map(|row| key_of(&keyed, row)),
                false => own[1].or(own[0]),
            };
            let Some(identity) = identity else {
                if pass == 0 && !is_removal {
                    found.push(Kind::Wrong, nobodys(origin));
                }
                continue;
            };
            if pass_of(identity, passes) != pass {
                continue;
            }
            let are_own = own.iter().flatten().all(|key| *key == identity);
            let mut row_of = |row: usize| {
                let columns = 0..schema.columns.len();
                values.row(columns.map(|column| rows.slot(column, row)))
            };
            let told = match value {
                Value::Tombstone => Told::Tombstone,
                Value::Row((row, true), _) if are_own => Told::Row(row_of(row)),
                Value::Change(both, agrees, epoch, _)
                    if are_own && both.iter().flatten().all(|(_, exact)| *exact) =>
                {
                    let [before, after] =
                        both.map(|row| row.map_or(NO_ROW, |(row, _)| row_of(row)));
                    Told::Change {
                        before,
                        after,
                        agrees,
                        epoch,
                    }
                }
                Value::Row(_, hash) | Value::Change(.., hash) | Value::Unreadable(hash) => {
                    Told::Row(hash)
                }
            };
            table.tell(identity, told, origin, found)?;
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
        why: Why::Plain,
        epoch: 0,
    }
}

/// Why a record is no row of a result, or no change of one, if it is none.
pub(super) fn fault(
    join: &Join,
    (is_keyed, envelope): (bool, Envelope),
    record: Record<'_>,
) -> Option<String> {
    let Record { origin, key, value } = record;
    let mut keys = keys(join);
    if is_keyed && let Err(reject) = keys.remove(key, origin) {
        return Some(format!("key: {}", reject.error));
    }
    // A tombstone may be out of place, and is right otherwise.
    let value = value?;
    let values = match envelope {
        Envelope::Upsert if !is_keyed && is_removal(&join.joined().schema, value) => return None,
        Envelope::Upsert => vec![value],
        Envelope::Changelog => match Change::read(value) {
            Err(error) => return Some(error),
            Ok(change) if !change.agrees() => return Some(OTHER_OPERATION.to_owned()),
            Ok(change) => {
                let rows = [change.before, change.after].into_iter().flatten();
                rows.map(|row| row.get().as_bytes()).collect()
            }
        },
    };
    let mut rows = decoder(join);
    for value in values {
        if let Err(reject) = rows.decode(Some(value), origin) {
            return Some(reject.error);
        }
        if !has_columns(&join.joined().schema, value) {
            return Some(OTHER_FIELDS.to_owned());
        }
    }
    let (rows, keys) = (rows.finish(), keys.finish());
    let key = &join.joined().schema.key;
    let hash = |batch: &Batch, row| {
        Canonical::default().key(key.iter().map(|column| batch.slot(*column, row)))
    };
    let mut own = (0..rows.len()).map(|row| hash(&rows, row));
    let first = if is_keyed {
        hash(&keys, 0)
    } else {
        hash(&rows, 0)
    };
    own.any(|own| own != first).then(|| OTHER_KEY.to_owned())
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
