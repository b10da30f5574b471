//! The reference table of a checkpoint, as an object.
//!
//! The first line is sealed: `{"checksum":C,"version":1,"rows":N}`; the checksum is of all bytes
//! behind it, the rows included. Each row follows on a line, `[partition,offset,diff,{row}]`, as
//! changes stand in the binding log.
//!
//! # Invariants
//! * A table that has not changed is not written again.
//! * A row that is read back is the row that was written, origin included.

use std::io::Write;
use std::sync::Arc;

use deltajoin_workers::batch::{Batch, BatchSchema, Origin};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::Xxh3;

use crate::checkpoint::layout::{VERSION, reference_name};
use crate::checkpoint::sealed::{check_seal, damaged, opening};
use crate::checkpoint::store::{Put, Store};
use crate::checkpoint::{Error, hex};
use crate::codec::json::{Decoder, Encoder};

/// A reference table, as manifests name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceEntry {
    /// The object.
    pub name: String,
    /// How many rows it has.
    pub rows: u64,
    /// The size of the object.
    pub bytes: u64,
    /// Its checksum.
    #[serde(with = "hex")]
    pub checksum: u64,
}

/// What the first line says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(rename = "checksum")]
    _checksum: String,
    #[serde(rename = "version")]
    _version: u32,
    rows: u64,
}

/// Writes the rows of a reference table, all with diff `+1`, in an order that is always the same
/// for the same table. `before` is the table of the checkpoint before: if this one is equal,
/// nothing is written. A table without rows has no object.
///
/// # Errors
/// If it is not known to be there.
pub fn write_reference(
    store: &Store,
    generation: u64,
    batches: &[Batch],
    before: Option<&ReferenceEntry>,
) -> Result<Option<ReferenceEntry>, Error> {
    let rows: usize = batches.iter().map(Batch::len).sum();
    if rows == 0 {
        return Ok(None);
    }
    // A large table is made text twice, so that it is not as a whole in memory once more.
    let (mut hasher, mut bytes) = (Xxh3::new(), opening(0).len());
    for part in parts(batches, rows) {
        hasher.update(&part);
        bytes += part.len();
    }
    let checksum = hasher.digest();
    let entry = ReferenceEntry {
        name: reference_name(generation, checksum),
        rows: rows as u64,
        bytes: bytes as u64,
        checksum,
    };
    let same = |before: &&ReferenceEntry| {
        (before.rows, before.bytes, before.checksum) == (entry.rows, entry.bytes, checksum)
    };
    if let Some(before) = before.filter(same) {
        return Ok(Some(before.clone()));
    }
    let mut writer = store.writer(&entry.name);
    writer.write(&opening(checksum))?;
    for part in parts(batches, rows) {
        writer.write(&part)?;
    }
    // The table was like this before, in this generation.
    if writer.finish()? == Put::Taken
        && let Err(error) = verify_reference(store, &entry)
    {
        return Err(match error.is_damage() {
            true => Error::Taken { name: entry.name },
            false => error,
        });
    }
    Ok(Some(entry))
}

/// What is sealed: the rest of the first line, and the rows of each batch.
fn parts(batches: &[Batch], rows: usize) -> impl Iterator<Item = Vec<u8>> {
    let first = format!("\"version\":{VERSION},\"rows\":{rows}}}\n").into_bytes();
    let batches = batches.iter().filter(|batch| !batch.is_empty());
    let lines = batches.map(|batch| {
        let mut text = Vec::new();
        let encoder = Encoder::new(&batch.schema().schema);
        let encoder = encoder.rows(batch);
        for row in 0..batch.len() {
            let Origin { partition, offset } = batch.origin(row);
            let diff = batch.diffs()[row];
            write!(text, "[{partition},{offset},{diff},").expect("memory takes all");
            encoder.value(row, &mut text);
            text.extend_from_slice(b"]\n");
        }
        text
    });
    std::iter::once(first).chain(lines)
}

/// Reads a reference table back; `schema` is its own, as `codec::reference_schema` makes it.
///
/// # Errors
/// If it is not there, cannot be read, or is damaged.
pub fn read_reference(
    store: &Store,
    entry: &ReferenceEntry,
    schema: Arc<BatchSchema>,
) -> Result<Vec<Batch>, Error> {
    let object = verify_reference(store, entry)?;
    let fault = |reason: &str| damaged(&entry.name, reason);
    let mut decoder = Decoder::new(schema, usize::MAX);
    let mut batches = Vec::new();
    for line in object.split_inclusive(|byte| *byte == b'\n').skip(1) {
        let row: (i32, i64, i8, &RawValue) =
            serde_json::from_slice(line).map_err(|error| fault(&error.to_string()))?;
        let (partition, offset, diff, row) = row;
        let origin = Origin { partition, offset };
        let replayed = decoder.replay(row.get().as_bytes(), origin, diff);
        replayed.map_err(|reject| fault(&format!("row at {origin:?}: {}", reject.error)))?;
        if decoder.is_full() {
            batches.push(decoder.finish());
        }
    }
    if decoder.rows() > 0 {
        batches.push(decoder.finish());
    }
    Ok(batches)
}

/// Reads every byte of a reference table, and returns it.
pub(super) fn verify_reference(store: &Store, entry: &ReferenceEntry) -> Result<Vec<u8>, Error> {
    let object = store.get(&entry.name)?;
    let checksum = check_seal(&entry.name, &object)?;
    if checksum != entry.checksum {
        let reason = format!(
            "its checksum is {checksum:016x}, not {:016x}",
            entry.checksum
        );
        return Err(damaged(&entry.name, &reason));
    }
    let mut objects = serde_json::Deserializer::from_slice(&object).into_iter();
    let header: Option<Header> = objects.next().and_then(Result::ok);
    let lines = object.iter().filter(|byte| **byte == b'\n').count();
    let fits = header.is_some_and(|header| header.rows == entry.rows);
    if !fits || lines as u64 != entry.rows + 1 || object.len() as u64 != entry.bytes {
        return Err(damaged(
            &entry.name,
            "it has not the rows that its manifest says",
        ));
    }
    Ok(object)
}

#[cfg(test)]
mod tests;
