//! Rows that may be revised, as objects: Arrow's IPC stream, which other tools read as well.
//!
//! Behind the columns of the rows stand five of ours: `__epoch`, `__partition`, `__offset`,
//! `__diff` and `__replaces`. Keys are not written: they follow from their columns. The manifest
//! has the checksum, the xxh3-64 of all bytes.
//!
//! # Invariants
//! * A row that is read back is the row that was written, with its epoch, origin and diff.
//! * No row is given out before the checksum of its object has been compared.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::types::{Int8Type, Int32Type, Int64Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Int8Array, Int32Array, Int64Array, RecordBatch, UInt64Array,
    cast::AsArray,
};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema as ArrowSchema, SchemaRef};
use deltajoin_workers::batch::{
    BATCH_BYTES_MAX, BATCH_ROWS_MAX, Batch, BatchSchema, Gather, RowIndex,
};
use deltajoin_workers::checkpoint::Kept;
use deltajoin_workers::key::key_group;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::layout::check_groups;
use crate::checkpoint::sealed::damaged;
use crate::checkpoint::store::Store;
use crate::checkpoint::{Error, Groups, Put, hex};

/// The columns behind those of the rows.
const BESIDE: [(&str, DataType); 5] = [
    ("__epoch", DataType::UInt64),
    ("__partition", DataType::Int32),
    ("__offset", DataType::Int64),
    ("__diff", DataType::Int8),
    ("__replaces", DataType::Boolean),
];
/// Rows of an object have so many bytes at most, but for the last batch of them.
const OBJECT_BYTES: usize = 64 << 20;
/// So many neighbours of like size are put together; sizes are alike within this factor.
const TIER: usize = 4;

/// Rows of one worker, as manifests name them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsEntry {
    /// The object.
    pub name: String,
    /// The first key group of a row.
    pub first_group: u16,
    /// The last key group of a row.
    pub last_group: u16,
    /// How many rows it has.
    pub rows: u64,
    /// The time of the latest row, in milliseconds since 1970.
    pub latest_ms: i64,
    /// The size of the object.
    pub bytes: u64,
    /// Its checksum.
    #[serde(with = "hex")]
    pub checksum: u64,
}

impl RowsEntry {
    /// The key groups of its rows.
    pub fn groups(&self) -> Groups {
        Groups {
            first: self.first_group,
            last: self.last_group,
        }
    }
}

/// Writes rows, in their order, as objects with names of `name`. `at_ms` is the time of a row.
///
/// # Errors
/// If they are not known to be there.
pub fn write_rows(
    store: &Store,
    name: impl Fn() -> String,
    kept: &[Kept],
    at_ms: impl Fn(u64, &Batch, usize) -> i64,
) -> Result<Vec<RowsEntry>, Error> {
    let mut entries = Vec::new();
    let mut rest = kept;
    while !rest.is_empty() {
        let mut bytes = 0;
        let mut count = 0;
        while bytes < OBJECT_BYTES && count < rest.len() {
            bytes += rest[count].rows.bytes();
            count += 1;
        }
        let (object, later) = rest.split_at(count);
        rest = later;
        entries.push(write_object(store, name(), object, &at_ms)?);
    }
    Ok(entries)
}

fn write_object(
    store: &Store,
    name: String,
    kept: &[Kept],
    at_ms: impl Fn(u64, &Batch, usize) -> i64,
) -> Result<RowsEntry, Error> {
    let mut entry = RowsEntry {
        name,
        first_group: u16::MAX,
        last_group: 0,
        rows: 0,
        latest_ms: i64::MIN,
        bytes: 0,
        checksum: 0,
    };
    for Kept { epoch, rows, .. } in kept {
        entry.rows += rows.len() as u64;
        for (row, high) in rows.keys().high().iter().enumerate() {
            let group = u16::try_from(key_group(*high)).expect("there are 1024");
            entry.first_group = entry.first_group.min(group);
            entry.last_group = entry.last_group.max(group);
            entry.latest_ms = entry.latest_ms.max(at_ms(*epoch, rows, row));
        }
    }
    let object = encode(kept).expect("columns of one schema make a stream in memory");
    put_object(store, &mut entry, &object)?;
    Ok(entry)
}

/// Puts an object, and notes its size and checksum.
fn put_object(store: &Store, entry: &mut RowsEntry, object: &[u8]) -> Result<(), Error> {
    entry.bytes = object.len() as u64;
    entry.checksum = xxh3_64(object);
    let mut writer = store.writer(&entry.name);
    writer.write(object)?;
    match writer.finish()? {
        Put::Written => Ok(()),
        Put::Taken => Err(Error::Taken {
            name: entry.name.clone(),
        }),
    }
}

fn encode(kept: &[Kept]) -> Result<Vec<u8>, ArrowError> {
    let columns = &kept[0].rows.schema().schema.columns;
    let own = columns.iter().map(|column| {
        let data_type = column.column_type.arrow();
        Field::new(&*column.name, data_type, column.nullable)
    });
    let beside = BESIDE.map(|(name, data_type)| Field::new(name, data_type, false));
    let schema = Arc::new(ArrowSchema::new(own.chain(beside).collect::<Vec<_>>()));
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    let mut rest = kept;
    while !rest.is_empty() {
        let (mut gather, mut rows) = (Gather::default(), Vec::new());
        let (mut epochs, mut replaces) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        // Batches of an epoch are small: those of several are written as one.
        while let Some((kept, later)) = rest.split_first()
            && (rows.is_empty()
                || rows.len() + kept.rows.len() <= BATCH_ROWS_MAX
                    && bytes + kept.rows.bytes() <= BATCH_BYTES_MAX)
        {
            bytes += kept.rows.bytes();
            let (index, count) = (gather.push(kept.rows.clone()), kept.rows.len());
            epochs.extend(std::iter::repeat_n(kept.epoch, count));
            replaces.extend(std::iter::repeat_n(kept.replaces, count));
            rows.extend((0..count).map(|row| (index, row)));
            rest = later;
        }
        let batch = gather.rows(&rows);
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(UInt64Array::from(epochs)));
        columns.push(Arc::new(Int32Array::from(batch.partitions().to_vec())));
        columns.push(Arc::new(Int64Array::from(batch.offsets().to_vec())));
        columns.push(Arc::new(Int8Array::from(batch.diffs().to_vec())));
        columns.push(Arc::new(BooleanArray::from(replaces)));
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
    }
    writer.finish()?;
    writer.into_inner()
}

/// Reads the rows of some key groups back, in their order.
///
/// # Errors
/// If the object is not there, cannot be read, or is damaged.
pub fn read_rows(
    store: &Store,
    entry: &RowsEntry,
    groups: Groups,
    schema: &Arc<BatchSchema>,
) -> Result<Vec<Kept>, Error> {
    let object = verify_rows(store, entry)?;
    let fault = |reason: &dyn ToString| damaged(&entry.name, &reason.to_string());
    let reader = StreamReader::try_new(Cursor::new(object), None);
    let reader = reader.map_err(|error| fault(&error))?;
    let mut kept = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| fault(&error))?;
        let rows = decode(&batch, schema).ok_or_else(|| fault(&"it has not the job's columns"))?;
        for of_epoch in rows {
            let highs = of_epoch.rows.keys().high().iter().enumerate();
            let own = highs.filter(|(_, high)| groups.contains(key_group(**high) as u16));
            let own: Vec<RowIndex> = own.map(|(row, _)| (0, row)).collect();
            if own.len() == of_epoch.rows.len() {
                kept.push(of_epoch);
            } else if !own.is_empty() {
                let mut gather = Gather::default();
                gather.push(of_epoch.rows.clone());
                let rows = gather.rows(&own);
                kept.push(Kept { rows, ..of_epoch });
            }
        }
    }
    Ok(kept)
}

/// Which objects of one worker's rows to put together next, as a range; none if they are few
/// or large. Neighbours only, so that rows stay in order and are forgotten together.
pub fn next_rows_merge(entries: &[RowsEntry]) -> Option<Range<usize>> {
    let tier = |entry: &RowsEntry| entry.bytes.max(1).ilog(TIER as u64);
    let mut start = 0;
    for alike in entries.chunk_by(|left, right| tier(left) == tier(right)) {
        let bytes: u64 = alike.iter().take(TIER).map(|entry| entry.bytes).sum();
        if alike.len() >= TIER && bytes <= OBJECT_BYTES as u64 {
            return Some(start..start + TIER);
        }
        start += alike.len();
    }
    None
}

/// Puts objects of rows, of which there are some, together, in their order, under a new name.
///
/// # Errors
/// If one cannot be read or is damaged, or the new one cannot be written.
pub fn merge_rows(store: &Store, entries: &[RowsEntry], name: String) -> Result<RowsEntry, Error> {
    let mut merged: Option<(RowsEntry, SchemaRef, StreamWriter<Vec<u8>>)> = None;
    for entry in entries {
        let fault = |error: ArrowError| damaged(&entry.name, &error.to_string());
        let object = Cursor::new(verify_rows(store, entry)?);
        let reader = StreamReader::try_new(object, None).map_err(fault)?;
        let (all, schema, writer) = match &mut merged {
            Some(merged) => merged,
            None => {
                let writer = StreamWriter::try_new(Vec::new(), &reader.schema()).map_err(fault)?;
                let first = RowsEntry {
                    name: name.clone(),
                    rows: 0,
                    ..entry.clone()
                };
                merged.insert((first, reader.schema(), writer))
            }
        };
        if reader.schema() != *schema {
            let reason = "it has other columns than those before it";
            return Err(damaged(&entry.name, reason));
        }
        for batch in reader {
            writer.write(&batch.map_err(fault)?).map_err(fault)?;
        }
        all.rows += entry.rows;
        all.first_group = all.first_group.min(entry.first_group);
        all.last_group = all.last_group.max(entry.last_group);
        all.latest_ms = all.latest_ms.max(entry.latest_ms);
    }
    let (mut all, _, mut writer) = merged.expect("there are some");
    let finished = writer.finish().and_then(|()| writer.into_inner());
    let object = finished.map_err(|error| damaged(&all.name, &error.to_string()))?;
    put_object(store, &mut all, &object)?;
    Ok(all)
}

/// Rows of one batch, apart by their epochs.
fn decode(batch: &RecordBatch, schema: &Arc<BatchSchema>) -> Option<Vec<Kept>> {
    let own = schema.schema.columns.len();
    let (columns, beside) = batch.columns().split_at_checked(own)?;
    let [epochs, partitions, offsets, diffs, replaces] = beside else {
        return None;
    };
    let epochs = epochs.as_primitive_opt::<UInt64Type>()?;
    let partitions = partitions.as_primitive_opt::<Int32Type>()?;
    let offsets = offsets.as_primitive_opt::<Int64Type>()?;
    let diffs = diffs.as_primitive_opt::<Int8Type>()?;
    let replaces = replaces.as_boolean_opt()?;
    let alike = |left, right| {
        epochs.value(left) == epochs.value(right) && replaces.value(left) == replaces.value(right)
    };
    let mut kept = Vec::new();
    let mut start = 0;
    for end in 1..=batch.num_rows() {
        if end < batch.num_rows() && alike(start, end) {
            continue;
        }
        let length = end - start;
        let columns: Vec<ArrayRef> = columns
            .iter()
            .map(|column| column.slice(start, length))
            .collect();
        let beside = (
            partitions.values().slice(start, length),
            offsets.values().slice(start, length),
            diffs.values().slice(start, length),
        );
        let rows = Batch::of_columns(Arc::clone(schema), columns, beside)?;
        kept.push(Kept {
            epoch: epochs.value(start),
            rows,
            replaces: replaces.value(start),
        });
        start = end;
    }
    Some(kept)
}

/// Reads every byte of an object of rows, and returns it.
pub(super) fn verify_rows(store: &Store, entry: &RowsEntry) -> Result<Vec<u8>, Error> {
    check_groups(entry.groups()).map_err(|reason| damaged(&entry.name, &reason))?;
    let object = store.get(&entry.name)?;
    let checksum = xxh3_64(&object);
    if checksum != entry.checksum || object.len() as u64 != entry.bytes {
        let expected = entry.checksum;
        let reason = format!("its checksum is {checksum:016x}, not {expected:016x}");
        return Err(damaged(&entry.name, &reason));
    }
    Ok(object)
}

#[cfg(test)]
mod tests;
