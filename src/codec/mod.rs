//! Codecs: bytes into rows, and rows into bytes.
//!
//! They are apart from the connectors because a Kafka topic and a file carry the same records.
//! Nothing here touches the outside world.
//!
//! | file | what it does |
//! |---|---|
//! | `text` | one value from its text |
//! | `json` | a row from a JSON object, and back |
//! | `envelope` | rows that take the place of others, or are taken back |
//! | `dead_letter` | records that could not be decoded, as rows and as JSON |
//!
//! # Invariants
//! * What is encoded decodes to the same values.
//! * A record is decoded whole or not at all, and any bytes either decode or are rejected.

pub mod dead_letter;
mod envelope;
pub mod json;
pub mod text;

use std::sync::Arc;

use deltajoin_workers::batch::{Batch, BatchSchema};
use deltajoin_workers::schema::{Column, ColumnType, Schema};

use crate::codec::envelope::Changes;
pub use crate::codec::envelope::Envelope;
use crate::codec::json::Encoder;

/// How a sink writes the rows that it is given.
#[derive(Clone, Debug)]
pub enum Format {
    /// Results: each a JSON object of its columns, or what has become of it.
    Rows(Encoder, Envelope),
    /// Dead letters: each a JSON object that tells what came, from where and what is wrong with it.
    DeadLetters,
}

impl Format {
    /// Results of the given schema.
    pub fn rows(schema: &Schema, envelope: Envelope) -> Self {
        Self::Rows(Encoder::new(schema), envelope)
    }

    /// The encoder of the rows of one batch of an epoch.
    pub fn of<'a>(&'a self, batch: &'a Batch, epoch: u64) -> BatchEncoder<'a> {
        match self {
            Self::Rows(encoder, envelope) => BatchEncoder::Rows(Changes {
                rows: encoder.rows(batch),
                batch,
                epoch,
                envelope: *envelope,
            }),
            Self::DeadLetters => BatchEncoder::DeadLetters(batch),
        }
    }
}

/// Encodes the rows of one batch.
#[derive(Debug)]
pub enum BatchEncoder<'a> {
    /// Results.
    Rows(Changes<'a>),
    /// Dead letters.
    DeadLetters(&'a Batch),
}

impl BatchEncoder<'_> {
    /// Whether a row has no record of its own, as the record of the next row tells it as well.
    #[inline]
    pub fn told_by_next(&self, row: usize) -> bool {
        match self {
            Self::Rows(rows) => rows.told_by_next(row),
            Self::DeadLetters(_) => false,
        }
    }

    /// Whether the record of a row has no value: its key has no row any more.
    #[inline]
    pub fn is_tombstone(&self, row: usize) -> bool {
        match self {
            Self::Rows(rows) => rows.is_tombstone(row),
            Self::DeadLetters(_) => false,
        }
    }

    /// Appends the JSON object of a row.
    pub fn value(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Rows(rows) => rows.value(row, out),
            Self::DeadLetters(batch) => dead_letter::encode(batch, row, out),
        }
    }

    /// Appends the JSON object of a row as a line of a file has it, where nothing but the line
    /// tells that it is removed.
    pub fn line(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Rows(rows) => rows.line(row, out),
            Self::DeadLetters(batch) => dead_letter::encode(batch, row, out),
        }
    }

    /// Appends the JSON object that names a row: its key columns, or a dead letter's origin.
    pub fn key(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Rows(rows) => rows.rows.key(row, out),
            Self::DeadLetters(batch) => dead_letter::encode_key(batch, row, out),
        }
    }
}

/// The schema of a reference table's changes: a removal carries its key and nothing else, so all
/// other columns are nullable.
///
/// It is registered here: a plan must ask for it in every process, at the same place in the order
/// of schemas.
pub fn reference_schema(schema: &Schema) -> Arc<BatchSchema> {
    BatchSchema::register(changes_of(schema))
}

/// The same, with a last column of this name, if there is one, for the epoch of each row.
pub fn versioned_schema(schema: &Schema, version: Option<&str>) -> Arc<BatchSchema> {
    let Some(version) = version else {
        return reference_schema(schema);
    };
    let mut schema = changes_of(schema);
    let version = Column::new(version, ColumnType::Int64).nullable();
    schema.columns.push(version);
    BatchSchema::register_versioned(schema)
}

fn changes_of(schema: &Schema) -> Schema {
    let mut schema = schema.clone();
    for (index, column) in schema.columns.iter_mut().enumerate() {
        if !schema.key.contains(&index) {
            column.nullable = true;
        }
    }
    schema
}
