//! Builds batches from whole rows.
//!
//! Arrow's own builders cannot take back half a row; this one takes a row only when all its
//! values are at hand, so a bad record is rejected alone.

use std::sync::Arc;

use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{ArrayRef, BinaryArray, BooleanArray, PrimitiveArray, StringArray};
use arrow_buffer::{BooleanBufferBuilder, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType;

use crate::batch::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, Batch, BatchSchema, Keys, Origin, Slot};
use crate::key;
use crate::schema::ColumnType;

/// Collects rows of one schema into a batch.
#[derive(Debug)]
pub struct BatchBuilder {
    schema: Arc<BatchSchema>,
    key_high: Vec<u64>,
    /// Empty when keys are narrow.
    key_low: Vec<u64>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    diffs: Vec<i8>,
    columns: Vec<ColumnBuilder>,
    scratch: Vec<u8>,
    bytes: usize,
}

impl BatchBuilder {
    /// An empty builder.
    pub fn new(schema: Arc<BatchSchema>) -> Self {
        let columns = schema
            .schema
            .columns
            .iter()
            .map(|column| ColumnBuilder::new(column.column_type));
        Self {
            columns: columns.collect(),
            schema,
            key_high: Vec::new(),
            key_low: Vec::new(),
            partitions: Vec::new(),
            offsets: Vec::new(),
            diffs: Vec::new(),
            scratch: Vec::new(),
            bytes: 0,
        }
    }

    /// Appends a row; its key is taken from the key columns of the schema.
    ///
    /// # Panics
    /// If the slots do not have the types of the schema: decoders have checked that.
    pub fn push(&mut self, slots: &[Slot<'_>], origin: Origin, diff: i8) {
        let key = &self.schema.schema.key;
        if self.schema.schema.key_is_narrow() {
            let Slot::Int64(value) = slots[key[0]] else {
                panic!("a narrow key is an integer")
            };
            self.push_with_key(
                slots,
                u128::from(key::mix64(value.cast_unsigned())) << 64,
                origin,
                diff,
            );
        } else {
            let columns = key.iter().map(|index| &slots[*index]);
            let hash = key::hash_slots(columns, &mut self.scratch);
            self.push_with_key(slots, hash, origin, diff);
        }
    }

    /// Appends a row whose key is already known.
    ///
    /// # Panics
    /// If the slots do not have the types of the schema.
    pub fn push_with_key(&mut self, slots: &[Slot<'_>], key: u128, origin: Origin, diff: i8) {
        assert_eq!(
            slots.len(),
            self.columns.len(),
            "a row has a value for each column"
        );
        self.key_high.push((key >> 64) as u64);
        if !self.schema.schema.key_is_narrow() {
            self.key_low.push(key as u64);
        }
        self.partitions.push(origin.partition);
        self.offsets.push(origin.offset);
        self.diffs.push(diff);
        self.bytes += 29;
        for (column, slot) in self.columns.iter_mut().zip(slots) {
            self.bytes += column.push(slot);
        }
    }

    /// How many rows it holds.
    pub fn len(&self) -> usize {
        self.diffs.len()
    }

    /// Whether it holds no row.
    pub fn is_empty(&self) -> bool {
        self.diffs.is_empty()
    }

    /// About the bytes of memory that its rows take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it holds enough for a batch.
    pub fn is_full(&self) -> bool {
        self.len() >= BATCH_ROWS_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    /// Takes the rows as a batch, and is empty afterwards.
    pub fn finish(&mut self) -> Batch {
        if self.is_empty() {
            return Batch::default();
        }
        self.bytes = 0;
        let high = ScalarBuffer::from(std::mem::take(&mut self.key_high));
        let keys = if self.schema.schema.key_is_narrow() {
            Keys::Narrow(high)
        } else {
            Keys::Wide(high, ScalarBuffer::from(std::mem::take(&mut self.key_low)))
        };
        let types = &self.schema.types;
        Batch {
            keys,
            partitions: ScalarBuffer::from(std::mem::take(&mut self.partitions)),
            offsets: ScalarBuffer::from(std::mem::take(&mut self.offsets)),
            diffs: ScalarBuffer::from(std::mem::take(&mut self.diffs)),
            columns: self
                .columns
                .iter_mut()
                .zip(types)
                .map(|(c, t)| c.finish(t))
                .collect(),
            schema: Some(Arc::clone(&self.schema)),
        }
    }
}

/// The values of one column.
#[derive(Debug)]
struct ColumnBuilder {
    values: Values,
    /// Which rows have a value; made when the first null comes.
    valid: Option<BooleanBufferBuilder>,
    rows: usize,
}

#[derive(Debug)]
enum Values {
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Timestamp(Vec<i64>),
    Decimal(Vec<i128>),
    Bool(BooleanBufferBuilder),
    /// End of each value, after a leading 0, and the bytes of all of them.
    String(Vec<i32>, Vec<u8>),
    Bytes(Vec<i32>, Vec<u8>),
}

impl ColumnBuilder {
    fn new(column_type: ColumnType) -> Self {
        let values = match column_type {
            ColumnType::Int64 => Values::Int64(Vec::new()),
            ColumnType::Float64 => Values::Float64(Vec::new()),
            ColumnType::Timestamp => Values::Timestamp(Vec::new()),
            ColumnType::Decimal { .. } => Values::Decimal(Vec::new()),
            ColumnType::Bool => Values::Bool(BooleanBufferBuilder::new(0)),
            ColumnType::String => Values::String(vec![0], Vec::new()),
            ColumnType::Bytes => Values::Bytes(vec![0], Vec::new()),
        };
        Self {
            values,
            valid: None,
            rows: 0,
        }
    }

    /// Appends a value and returns the bytes that it takes.
    fn push(&mut self, slot: &Slot<'_>) -> usize {
        let is_null = matches!(slot, Slot::Null);
        if is_null && self.valid.is_none() {
            let mut valid = BooleanBufferBuilder::new(self.rows + 1);
            valid.append_n(self.rows, true);
            self.valid = Some(valid);
        }
        if let Some(valid) = &mut self.valid {
            valid.append(!is_null);
        }
        self.rows += 1;
        match (&mut self.values, slot) {
            (Values::Int64(values), Slot::Int64(value)) => values.push(*value),
            (Values::Timestamp(values), Slot::Timestamp(value)) => values.push(*value),
            (Values::Int64(values) | Values::Timestamp(values), Slot::Null) => values.push(0),
            (Values::Float64(values), Slot::Float64(value)) => values.push(*value),
            (Values::Float64(values), Slot::Null) => values.push(0.0),
            (Values::Decimal(values), Slot::Decimal(value)) => values.push(*value),
            (Values::Decimal(values), Slot::Null) => values.push(0),
            (Values::Bool(values), Slot::Bool(value)) => values.append(*value),
            (Values::Bool(values), Slot::Null) => values.append(false),
            (Values::String(ends, bytes), Slot::String(text)) => {
                return push_bytes(ends, bytes, text.as_bytes());
            }
            (Values::Bytes(ends, bytes), Slot::Bytes(value)) => {
                return push_bytes(ends, bytes, value);
            }
            (Values::String(ends, bytes) | Values::Bytes(ends, bytes), Slot::Null) => {
                return push_bytes(ends, bytes, &[]);
            }
            (values, slot) => panic!("a slot has the type of its column: {slot:?} in {values:?}"),
        }
        if matches!(self.values, Values::Decimal(_)) {
            16
        } else {
            8
        }
    }

    fn finish(&mut self, data_type: &DataType) -> ArrayRef {
        let nulls = self
            .valid
            .take()
            .map(|mut valid| NullBuffer::new(valid.finish()));
        self.rows = 0;
        match &mut self.values {
            Values::Int64(values) => {
                let values = ScalarBuffer::from(std::mem::take(values));
                Arc::new(PrimitiveArray::<Int64Type>::new(values, nulls))
            }
            Values::Float64(values) => {
                let values = ScalarBuffer::from(std::mem::take(values));
                Arc::new(PrimitiveArray::<Float64Type>::new(values, nulls))
            }
            Values::Timestamp(values) => {
                let values = ScalarBuffer::from(std::mem::take(values));
                let array = PrimitiveArray::<TimestampMicrosecondType>::new(values, nulls);
                Arc::new(array.with_data_type(data_type.clone()))
            }
            Values::Decimal(values) => {
                let values = ScalarBuffer::from(std::mem::take(values));
                let array = PrimitiveArray::<Decimal128Type>::new(values, nulls);
                Arc::new(array.with_data_type(data_type.clone()))
            }
            Values::Bool(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::String(ends, bytes) => {
                let (offsets, bytes) = take_bytes(ends, bytes);
                // The text was checked when it was decoded; checking it again costs a few
                // nanoseconds a row, and is the safe constructor's price.
                Arc::new(StringArray::new(offsets, bytes.into(), nulls))
            }
            Values::Bytes(ends, bytes) => {
                let (offsets, bytes) = take_bytes(ends, bytes);
                Arc::new(BinaryArray::new(offsets, bytes.into(), nulls))
            }
        }
    }
}

fn push_bytes(ends: &mut Vec<i32>, bytes: &mut Vec<u8>, value: &[u8]) -> usize {
    bytes.extend_from_slice(value);
    ends.push(i32::try_from(bytes.len()).expect("a batch is closed long before 2 GiB of text"));
    4 + value.len()
}

fn take_bytes(ends: &mut Vec<i32>, bytes: &mut Vec<u8>) -> (OffsetBuffer<i32>, Vec<u8>) {
    let ends = std::mem::replace(ends, vec![0]);
    (
        OffsetBuffer::new(ScalarBuffer::from(ends)),
        std::mem::take(bytes),
    )
}
