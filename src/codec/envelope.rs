//! Rows that are given out and taken back, as the records of a topic or the lines of a file.
//!
//! | envelope | a new row | one in the place of another | one that is taken back for good |
//! |---|---|---|---|
//! | `upsert` | the row | the row | no value; in a file, its key and `"__deleted":true` |
//! | `changelog` | `"op":"c"` | one record, `"op":"u"`, with both | `"op":"d"` |
//!
//! A record of `changelog` is `{"before":ROW,"after":ROW,"op":O,"epoch":E,"diff":D}`: rows are null
//! where there is none, and the diff is by how many rows the key has more.
//!
//! # Invariants
//! * A retraction that stands right before a row of its key, in one batch, is told with that row.
//! * Who applies all records of a key in order holds its row, or none.

use std::io::Write;

use deltajoin_workers::batch::Batch;

use crate::codec::json::RowEncoder;

/// How changes of a key's row are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// By the row that holds from now on.
    Upsert,
    /// By the rows before and after.
    Changelog,
}

/// Encodes the rows of one batch of an epoch.
#[derive(Debug)]
pub struct Changes<'a> {
    pub(super) rows: RowEncoder<'a>,
    pub(super) batch: &'a Batch,
    pub(super) epoch: u64,
    pub(super) envelope: Envelope,
}

impl Changes<'_> {
    /// Whether a row has no record of its own, as the next one takes its place.
    #[inline]
    pub(super) fn told_by_next(&self, row: usize) -> bool {
        self.batch.diffs()[row] < 0 && self.replaces(row + 1)
    }

    /// Whether a row takes the place of the one before it.
    fn replaces(&self, row: usize) -> bool {
        let (diffs, keys) = (self.batch.diffs(), self.batch.keys());
        row > 0
            && row < self.batch.len()
            && diffs[row] > 0
            && diffs[row - 1] < 0
            && keys.get(row) == keys.get(row - 1)
    }

    /// Whether a row's record has no value.
    #[inline]
    pub(super) fn is_tombstone(&self, row: usize) -> bool {
        self.envelope == Envelope::Upsert && self.batch.diffs()[row] < 0
    }

    /// Appends the value of a row's record.
    pub(super) fn value(&self, row: usize, out: &mut Vec<u8>) {
        if self.envelope == Envelope::Upsert {
            self.rows.value(row, out);
            return;
        }
        let removed = self.batch.diffs()[row] < 0;
        let (before, after, op, diff) = match (removed, self.replaces(row)) {
            (true, _) => (Some(row), None, 'd', -1),
            (false, true) => (Some(row - 1), Some(row), 'u', 0),
            (false, false) => (None, Some(row), 'c', 1),
        };
        for (name, row) in [("{\"before\":", before), (",\"after\":", after)] {
            out.extend_from_slice(name.as_bytes());
            match row {
                Some(row) => self.rows.value(row, out),
                None => out.extend_from_slice(b"null"),
            }
        }
        let epoch = self.epoch;
        write!(out, ",\"op\":\"{op}\",\"epoch\":{epoch},\"diff\":{diff}}}")
            .expect("writing to memory does not fail");
    }

    /// Appends the line of a row, for files.
    pub(super) fn line(&self, row: usize, out: &mut Vec<u8>) {
        if !self.is_tombstone(row) {
            self.value(row, out);
            return;
        }
        self.rows.key(row, out);
        out.pop();
        out.extend_from_slice(b",\"__deleted\":true}");
    }
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::batch::{BatchBuilder, BatchSchema, Origin, Slot};
    use deltajoin_workers::schema::{Column, ColumnType, Schema};
    use expect_test::expect;

    use super::*;
    use crate::codec::Format;

    /// Every kind of change, and neighbours that have nothing to do with one another.
    fn batch() -> (Schema, Batch) {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String).nullable(),
        ];
        let schema = Schema::new(columns, vec![0]);
        let mut builder = BatchBuilder::new(BatchSchema::register(schema.clone()));
        let rows = [
            (1, "new", 1),
            (2, "o", -1),
            (2, "new", 1),
            (3, "gone", -1),
            (4, "new", 1),
            (5, "gone", -1),
        ];
        for (id, name, diff) in rows {
            let slots = [Slot::Int64(id), Slot::String(name.into())];
            builder.push(&slots, Origin::default(), diff);
        }
        (schema, builder.finish())
    }

    fn told(envelope: Envelope, file: bool) -> String {
        let (schema, batch) = batch();
        let format = Format::rows(&schema, envelope);
        let encoder = format.of(&batch, 7);
        let mut out = Vec::new();
        for row in 0..batch.len() {
            if encoder.told_by_next(row) {
                continue;
            }
            match (file, encoder.is_tombstone(row)) {
                (true, _) => encoder.line(row, &mut out),
                (false, true) => {
                    encoder.key(row, &mut out);
                    out.extend_from_slice(b" -");
                }
                (false, false) => encoder.value(row, &mut out),
            }
            out.push(b'\n');
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn changes_are_told_by_the_rows_that_hold_or_by_those_before_and_after() {
        expect![[r#"
            {"id":1,"name":"new"}
            {"id":2,"name":"new"}
            {"id":3} -
            {"id":4,"name":"new"}
            {"id":5} -
        "#]]
        .assert_eq(&told(Envelope::Upsert, false));
        expect![[r#"
            {"id":1,"name":"new"}
            {"id":2,"name":"new"}
            {"id":3,"__deleted":true}
            {"id":4,"name":"new"}
            {"id":5,"__deleted":true}
        "#]]
        .assert_eq(&told(Envelope::Upsert, true));
        expect![[r#"
            {"before":null,"after":{"id":1,"name":"new"},"op":"c","epoch":7,"diff":1}
            {"before":{"id":2,"name":"o"},"after":{"id":2,"name":"new"},"op":"u","epoch":7,"diff":0}
            {"before":{"id":3,"name":"gone"},"after":null,"op":"d","epoch":7,"diff":-1}
            {"before":null,"after":{"id":4,"name":"new"},"op":"c","epoch":7,"diff":1}
            {"before":{"id":5,"name":"gone"},"after":null,"op":"d","epoch":7,"diff":-1}
        "#]]
        .assert_eq(&told(Envelope::Changelog, false));
    }
}
