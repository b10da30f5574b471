//! Codecs: bytes into rows, and rows into bytes.
//!
//! They are apart from the connectors because a Kafka topic and a file carry the same records.
//! Nothing here touches the outside world.
//!
//! | file | what it does |
//! |---|---|
//! | `text` | one value from its text |
//! | `json` | a row from a JSON object, and back |
//! | `dead_letter` | records that could not be decoded, as rows and as JSON |
//!
//! # Invariants
//! * What is encoded decodes to the same values.
//! * A record is decoded whole or not at all, and any bytes either decode or are rejected.

pub mod dead_letter;
pub mod json;
pub mod text;

use std::sync::Arc;

use deltajoin_workers::batch::{Batch, BatchSchema};
use deltajoin_workers::schema::Schema;

use crate::codec::json::{Encoder, RowEncoder};

/// How a sink writes the rows that it is given.
#[derive(Clone, Debug)]
pub enum Format {
    /// Results: each a JSON object of its columns.
    Rows(Encoder),
    /// Dead letters: each a JSON object that tells what came, from where and what is wrong with it.
    DeadLetters,
}

impl Format {
    /// Results of the given schema.
    pub fn rows(schema: &Schema) -> Self {
        Self::Rows(Encoder::new(schema))
    }

    /// The encoder of the rows of one batch.
    pub fn of<'a>(&'a self, batch: &'a Batch) -> BatchEncoder<'a> {
        match self {
            Self::Rows(encoder) => BatchEncoder::Rows(encoder.rows(batch)),
            Self::DeadLetters => BatchEncoder::DeadLetters(batch),
        }
    }
}

/// Encodes the rows of one batch.
#[derive(Debug)]
pub enum BatchEncoder<'a> {
    /// Results.
    Rows(RowEncoder<'a>),
    /// Dead letters.
    DeadLetters(&'a Batch),
}

impl BatchEncoder<'_> {
    /// Appends the JSON object of a row.
    pub fn value(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Rows(rows) => rows.value(row, out),
            Self::DeadLetters(batch) => dead_letter::encode(batch, row, out),
        }
    }

    /// Appends the JSON object that names a row: its key columns, or a dead letter's origin.
    pub fn key(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Rows(rows) => rows.key(row, out),
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
    let mut schema = schema.clone();
    for (index, column) in schema.columns.iter_mut().enumerate() {
        if !schema.key.contains(&index) {
            column.nullable = true;
        }
    }
    BatchSchema::register(schema)
}
