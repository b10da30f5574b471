//! Records that are more than a row: those of a changelog, and lines that remove a row.
//!
//! It is apart from `output`, which reads rows, because these have a form of their own, which is
//! written down here once more.
//!
//! # Invariants
//! * What is not exactly of that form is none of them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use deltajoin_workers::schema::Schema;
use serde::Deserialize;
use serde_json::value::RawValue;

/// How a line ends that removes the row of its key.
const DELETED: &[u8] = b",\"__deleted\":true}";

/// A record of a changelog.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change<'a> {
    #[serde(borrow)]
    pub(super) before: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) after: Option<&'a RawValue>,
    op: Cow<'a, str>,
    pub(super) epoch: u64,
    diff: i64,
}

impl<'a> Change<'a> {
    /// Reads a record; none if it is none of a changelog.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let change: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match (change.before, change.after) {
            (None, None) => Err("it has no row, neither before nor after".to_owned()),
            _ => Ok(change),
        }
    }

    /// Whether operation and diff are those of its rows.
    pub(super) fn agrees(&self) -> bool {
        let told = (&*self.op, self.diff);
        match (self.before.is_some(), self.after.is_some()) {
            (false, true) => told == ("c", 1),
            (true, true) => told == ("u", 0),
            (true, false) => told == ("d", -1),
            (false, false) => false,
        }
    }
}

/// Whether a line removes the row of its key, and has nothing else.
pub(super) fn is_removal(schema: &Schema, line: &[u8]) -> bool {
    if !line.ends_with(DELETED) {
        return false;
    }
    let fields = serde_json::from_slice::<BTreeMap<Cow<'_, str>, &RawValue>>(line);
    fields.is_ok_and(|fields| {
        let mut columns = schema
            .key
            .iter()
            .map(|column| &*schema.columns[*column].name);
        fields.len() == schema.key.len() + 1 && columns.all(|name| fields.contains_key(name))
    })
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::schema::{Column, ColumnType};

    use super::*;

    #[test]
    fn a_change_has_the_operation_and_the_diff_of_its_rows() {
        let cases = [
            (
                r#"{"before":null,"after":{},"op":"c","epoch":1,"diff":1}"#,
                true,
            ),
            (
                r#"{"before":{},"after":{},"op":"u","epoch":1,"diff":0}"#,
                true,
            ),
            (
                r#"{"before":{},"after":null,"op":"d","epoch":1,"diff":-1}"#,
                true,
            ),
            (
                r#"{"before":{},"after":{},"op":"c","epoch":1,"diff":1}"#,
                false,
            ),
            (
                r#"{"before":null,"after":{},"op":"c","epoch":1,"diff":0}"#,
                false,
            ),
        ];
        for (text, agrees) in cases {
            assert_eq!(
                Change::read(text.as_bytes()).unwrap().agrees(),
                agrees,
                "{text}"
            );
        }
        for text in [
            r#"{"before":null,"after":null,"op":"d","epoch":1,"diff":-1}"#,
            r#"{"before":null,"after":{},"op":"c","epoch":1,"diff":1,"more":1}"#,
            r#"{"before":null,"after":{},"op":"c","diff":1}"#,
        ] {
            Change::read(text.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn a_line_that_removes_a_row_has_its_key_and_nothing_else() {
        let columns = ["id", "name"].map(|name| Column::new(name, ColumnType::Int64));
        let schema = Schema::new(columns.to_vec(), vec![0]);
        for (text, removes) in [
            (r#"{"id":1,"__deleted":true}"#, true),
            (r#"{"id":1,"name":2,"__deleted":true}"#, false),
            (r#"{"name":2,"__deleted":true}"#, false),
            (r#"{"id":1,"__deleted":false}"#, false),
            (r#"{"id":1,"name":2}"#, false),
        ] {
            assert_eq!(is_removal(&schema, text.as_bytes()), removes, "{text}");
        }
    }
}
