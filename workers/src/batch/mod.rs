//! Batches: rows as Arrow columns, with key, origin and diff beside them; what flows between
//! operators.
//!
//! A row's columns are known only once the configuration is read, so there is no Rust type for
//! a row. A batch holds Arrow's memory format, which Parquet, DataFusion and pandas read without
//! conversion; why not rows or structs is told in `docs/decisions/0002-batch-container.md`.
//!
//! | file | what it adds |
//! |---|---|
//! | `builder` | whole rows in, a batch out |
//! | `gather` | the rows of some batches, in a given order, as one new batch |
//! | `wire` | a batch between processes |
//! | `distribute` | a batch to the workers that own its keys |
//!
//! # Invariants
//! * All columns of a batch have the same length, and the types of its schema.
//! * A batch between operators is never empty: timely refuses empty containers.
//! * A batch is immutable and cheap to clone: its columns are shared.

mod builder;
mod distribute;
mod gather;
mod wire;

use std::borrow::Cow;
use std::sync::{Arc, RwLock};

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::ScalarBuffer;
use arrow_schema::DataType;
use timely::container::Accountable;

use crate::key;
use crate::schema::{ColumnType, Schema};

pub use builder::BatchBuilder;
pub use distribute::{ByOwner, ToAsker, ToEach, ToWorker};
pub use gather::{Gather, RowIndex};

/// Rows of a batch at most, where batches are made: enough that a row costs little, few enough that
/// what an epoch emits is not held twice.
pub const BATCH_ROWS_MAX: usize = 8192;
/// Bytes of such a batch at most, unless it is of one row, or of a row and the one that it takes
/// back: rows of some kilobytes do not notice it, and a column is far from 2 GiB, where Arrow's
/// offsets end.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// One value of one row, on its way into or out of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Slot<'a> {
    /// No value; only in nullable columns.
    Null,
    /// An `int64`.
    Int64(i64),
    /// A `float64`; finite.
    Float64(f64),
    /// A `string`.
    String(Cow<'a, str>),
    /// A `bool`.
    Bool(bool),
    /// A `timestamp`, in microseconds since 1970.
    Timestamp(i64),
    /// A `decimal`, as its unscaled digits.
    Decimal(i128),
    /// Raw bytes.
    Bytes(Cow<'a, [u8]>),
}

/// Where a record stands in its source: the partition and the offset in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The partition of the topic; 0 for a file.
    pub partition: i32,
    /// The offset in the partition; the line, counted from 1, for a file.
    pub offset: i64,
}

/// A schema that batches can refer to, known by the same number in every process.
#[derive(Debug)]
pub struct BatchSchema {
    /// Its number on the wire: schemas are registered in the order of the plan, which is the
    /// same in every process of a job.
    pub(crate) id: u32,
    /// Its columns and key.
    pub schema: Schema,
    /// Whether its last column holds the epoch of each row. Rows do not differ by it.
    pub versioned: bool,
    /// The Arrow types of its columns, in order.
    pub(crate) types: Vec<DataType>,
}

/// Every schema of this process. It is global because timely decodes a container without any
/// context but its bytes.
static SCHEMAS: RwLock<Vec<Arc<BatchSchema>>> = RwLock::new(Vec::new());

impl BatchSchema {
    /// Registers a schema, or finds it if it is registered already.
    pub fn register(schema: Schema) -> Arc<Self> {
        Self::register_as(schema, false)
    }

    /// Registers a schema whose last column, an `int64` that may be null, holds the epoch of each
    /// row.
    pub fn register_versioned(schema: Schema) -> Arc<Self> {
        Self::register_as(schema, true)
    }

    fn register_as(schema: Schema, versioned: bool) -> Arc<Self> {
        let mut schemas = SCHEMAS
            .write()
            .expect("no panic while registering a schema");
        let same = |known: &&Arc<Self>| known.schema == schema && known.versioned == versioned;
        if let Some(known) = schemas.iter().find(same) {
            return Arc::clone(known);
        }
        let types = schema
            .columns
            .iter()
            .map(|column| column.column_type.arrow())
            .collect();
        let id = u32::try_from(schemas.len()).expect("a job has few schemas");
        let registered = Arc::new(Self {
            id,
            schema,
            versioned,
            types,
        });
        schemas.push(Arc::clone(&registered));
        registered
    }

    fn by_id(id: u32) -> Option<Arc<Self>> {
        let schemas = SCHEMAS.read().expect("no panic while registering a schema");
        schemas.get(id as usize).map(Arc::clone)
    }
}

/// The keys of a batch's rows: one number or two a row.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Exact 64-bit keys, mixed.
    Narrow(ScalarBuffer<u64>),
    /// 128-bit hashes: their high and their low halves.
    Wide(ScalarBuffer<u64>, ScalarBuffer<u64>),
}

impl Default for Keys {
    fn default() -> Self {
        Self::Narrow(ScalarBuffer::from(Vec::new()))
    }
}

impl Keys {
    /// The high 64 bits of each key: what key groups go by.
    #[inline]
    pub fn high(&self) -> &[u64] {
        match self {
            Self::Narrow(keys) | Self::Wide(keys, _) => keys,
        }
    }

    /// The key of one row, as 128 bits.
    #[inline]
    pub fn get(&self, row: usize) -> u128 {
        match self {
            Self::Narrow(keys) => u128::from(keys[row]) << 64,
            Self::Wide(high, low) => u128::from(high[row]) << 64 | u128::from(low[row]),
        }
    }

    /// The bytes of memory that they take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Narrow(keys) => keys.len() * size_of::<u64>(),
            Self::Wide(keys, _) => keys.len() * size_of::<u128>(),
        }
    }
}

/// Rows of one schema, by column.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    schema: Option<Arc<BatchSchema>>,
    keys: Keys,
    partitions: ScalarBuffer<i32>,
    offsets: ScalarBuffer<i64>,
    diffs: ScalarBuffer<i8>,
    columns: Vec<ArrayRef>,
}

impl Accountable for Batch {
    fn record_count(&self) -> i64 {
        i64::try_from(self.len()).expect("a batch has far fewer rows")
    }
}

impl Batch {
    /// How many rows it has.
    #[inline]
    pub fn len(&self) -> usize {
        self.diffs.len()
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.diffs.is_empty()
    }

    /// Its schema.
    ///
    /// # Panics
    /// If the batch is empty by default: such a batch has no schema.
    pub fn schema(&self) -> &Arc<BatchSchema> {
        self.schema
            .as_ref()
            .expect("a batch with rows has a schema")
    }

    /// The keys of its rows.
    #[inline]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The partition of each row's origin.
    #[inline]
    pub fn partitions(&self) -> &[i32] {
        &self.partitions
    }

    /// The offset of each row's origin.
    #[inline]
    pub fn offsets(&self) -> &[i64] {
        &self.offsets
    }

    /// The origin of one row.
    #[inline]
    pub fn origin(&self, row: usize) -> Origin {
        Origin {
            partition: self.partitions[row],
            offset: self.offsets[row],
        }
    }

    /// The diff of each row: `+1` or `-1`.
    #[inline]
    pub fn diffs(&self) -> &[i8] {
        &self.diffs
    }

    /// Its data columns.
    #[inline]
    pub fn columns(&self) -> &[ArrayRef] {
        &self.columns
    }

    /// Rows of these columns, with what stands beside them: partitions, offsets and diffs. Their
    /// keys are made of the key columns. None if the columns do not fit the schema.
    pub fn of_columns(
        schema: Arc<BatchSchema>,
        columns: Vec<ArrayRef>,
        (partitions, offsets, diffs): (ScalarBuffer<i32>, ScalarBuffer<i64>, ScalarBuffer<i8>),
    ) -> Option<Self> {
        let types = columns.iter().map(|column| column.data_type());
        let rows = diffs.len();
        let lengths = columns.iter().map(|column| column.len());
        if !types.eq(&schema.types) || lengths.into_iter().any(|length| length != rows) {
            return None;
        }
        let mut batch = Self {
            keys: Keys::default(),
            partitions,
            offsets,
            diffs,
            columns,
            schema: Some(Arc::clone(&schema)),
        };
        let (mut high, mut low) = (Vec::with_capacity(rows), Vec::new());
        let mut scratch = Vec::new();
        for row in 0..rows {
            let key = batch.key_of(&schema.schema.key, row, &mut scratch)?;
            high.push((key >> 64) as u64);
            if !schema.schema.key_is_narrow() {
                low.push(key as u64);
            }
        }
        let high = ScalarBuffer::from(high);
        batch.keys = match schema.schema.key_is_narrow() {
            true => Keys::Narrow(high),
            false => Keys::Wide(high, ScalarBuffer::from(low)),
        };
        Some(batch)
    }

    /// The same rows, each with this diff.
    pub(crate) fn with_diff(self, diff: i8) -> Self {
        let rows = self.len();
        self.with_diffs(std::iter::repeat_n(diff, rows))
    }

    /// The same rows, whose partition is a worker to which they go; see `ToAsker`.
    pub(crate) fn for_worker(mut self, worker: u32) -> Self {
        let worker = i32::try_from(worker).expect("at most 1024 workers");
        self.partitions = ScalarBuffer::from(vec![worker; self.len()]);
        self
    }

    /// The same rows with other diffs.
    ///
    /// # Panics
    /// If there is not one for each row.
    pub(crate) fn with_diffs(mut self, diffs: impl Iterator<Item = i8>) -> Self {
        let diffs: Vec<i8> = diffs.collect();
        assert_eq!(diffs.len(), self.len(), "each row has a diff");
        self.diffs = ScalarBuffer::from(diffs);
        self
    }

    /// The same rows under another schema, which has the first of their columns.
    ///
    /// # Panics
    /// If they have others.
    pub fn prefix(mut self, schema: &Arc<BatchSchema>) -> Self {
        self.columns.truncate(schema.types.len());
        self.extended(Arc::clone(schema), Vec::new())
    }

    /// The same rows under another schema: `columns` are appended to those it has.
    ///
    /// # Panics
    /// If the columns do not fit the schema.
    pub fn extended(mut self, schema: Arc<BatchSchema>, columns: Vec<ArrayRef>) -> Self {
        self.columns.extend(columns);
        assert_eq!(
            self.columns.len(),
            schema.types.len(),
            "a batch has the columns of its schema"
        );
        for (column, data_type) in self.columns.iter().zip(&schema.types) {
            assert_eq!(
                column.len(),
                self.diffs.len(),
                "columns are as long as their batch"
            );
            assert_eq!(
                column.data_type(),
                data_type,
                "columns have the types of their schema"
            );
        }
        self.schema = Some(schema);
        self
    }

    /// The value at one column and row.
    pub fn slot(&self, column: usize, row: usize) -> Slot<'_> {
        let column_type = self.schema().schema.columns[column].column_type;
        slot_of(&self.columns[column], column_type, row)
    }

    /// The rows from `start` on, so many, of the same memory.
    pub(crate) fn slice(&self, start: usize, rows: usize) -> Self {
        let columns = self.columns.iter();
        Self {
            schema: self.schema.clone(),
            keys: match &self.keys {
                Keys::Narrow(keys) => Keys::Narrow(keys.slice(start, rows)),
                Keys::Wide(high, low) => {
                    Keys::Wide(high.slice(start, rows), low.slice(start, rows))
                }
            },
            partitions: self.partitions.slice(start, rows),
            offsets: self.offsets.slice(start, rows),
            diffs: self.diffs.slice(start, rows),
            columns: columns.map(|column| column.slice(start, rows)).collect(),
        }
    }

    /// About the bytes that the largest of its rows takes.
    pub(crate) fn row_bytes_max(&self) -> usize {
        let sizes = Sizes::of(self);
        let bytes = (0..self.len()).map(|row| sizes.bytes(row));
        bytes.max().unwrap_or(0)
    }

    /// The bytes of memory that its rows take.
    pub fn bytes(&self) -> usize {
        let beside = self.len() * (4 + 8 + 1);
        self.keys.bytes() + beside + self.columns.iter().map(column_bytes).sum::<usize>()
    }

    /// The join key of one row: the mixed key of some columns, or `None` if one of them is null,
    /// since null equals nothing.
    pub fn key_of(&self, columns: &[usize], row: usize, scratch: &mut Vec<u8>) -> Option<u128> {
        if let [column] = columns
            && let Some(integers) = self.columns[*column].as_primitive_opt::<Int64Type>()
        {
            let mixed = || key::mix64(integers.value(row).cast_unsigned());
            return integers.is_valid(row).then(|| u128::from(mixed()) << 64);
        }
        let slots: Vec<_> = columns
            .iter()
            .map(|column| self.slot(*column, row))
            .collect();
        if slots.contains(&Slot::Null) {
            return None;
        }
        Some(key::hash_slots(slots.iter(), scratch))
    }
}

/// What each row of a batch takes.
struct Sizes<'a> {
    /// Beside its text.
    fixed: usize,
    /// Where the text of each row ends, after where the first one begins; of each such column.
    ends: Vec<&'a [i32]>,
}

impl<'a> Sizes<'a> {
    fn of(batch: &'a Batch) -> Self {
        let (mut fixed, mut ends) = (4 + 8 + 1 + 16, Vec::new());
        for column in &batch.columns {
            match column.data_type() {
                DataType::Utf8 => ends.push(column.as_string::<i32>().value_offsets()),
                DataType::Binary => ends.push(column.as_binary::<i32>().value_offsets()),
                other => fixed += other.primitive_width().unwrap_or(1),
            }
        }
        fixed += 4 * ends.len();
        Self { fixed, ends }
    }

    #[inline]
    fn bytes(&self, row: usize) -> usize {
        let text = self.ends.iter();
        self.fixed
            + text
                .map(|ends| (ends[row + 1] - ends[row]) as usize)
                .sum::<usize>()
    }
}

/// The value of `row` in a column of the given type.
fn slot_of(column: &ArrayRef, column_type: ColumnType, row: usize) -> Slot<'_> {
    if column.is_null(row) {
        return Slot::Null;
    }
    match column_type {
        ColumnType::Int64 => Slot::Int64(column.as_primitive::<Int64Type>().value(row)),
        ColumnType::Float64 => Slot::Float64(column.as_primitive::<Float64Type>().value(row)),
        ColumnType::String => Slot::String(Cow::Borrowed(column.as_string::<i32>().value(row))),
        ColumnType::Bool => Slot::Bool(column.as_boolean().value(row)),
        ColumnType::Timestamp => {
            Slot::Timestamp(column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        ColumnType::Decimal { .. } => {
            Slot::Decimal(column.as_primitive::<Decimal128Type>().value(row))
        }
        ColumnType::Bytes => Slot::Bytes(Cow::Borrowed(column.as_binary::<i32>().value(row))),
    }
}

/// The bytes that the rows of a column take, which is less than its buffers when it is a slice
/// or came in one message with others.
fn column_bytes(column: &ArrayRef) -> usize {
    let rows = column.len();
    let values = match column.data_type() {
        DataType::Utf8 => {
            let offsets = column.as_string::<i32>().value_offsets();
            (offsets[rows] - offsets[0]) as usize + rows * 4
        }
        DataType::Binary => {
            let offsets = column.as_binary::<i32>().value_offsets();
            (offsets[rows] - offsets[0]) as usize + rows * 4
        }
        DataType::Boolean => rows.div_ceil(8),
        other => {
            rows * other
                .primitive_width()
                .expect("other columns are primitive")
        }
    };
    values + column.nulls().map_or(0, |_| rows.div_ceil(8))
}
