//! A batch between processes: raw column buffers under a schema's number.
//!
//! Arrow's own IPC would carry a flatbuffer a message and cost several times as much for small
//! batches. Both ends are the same build and have registered the same schemas in the same order,
//! which the handshake of the cluster has checked.
//!
//! # Layout
//! All numbers are little-endian; each part is padded to 8 bytes.
//! ```text
//! schema u32 | rows u32
//! keys u64[rows]  (low halves u64[rows] if the key is wide)
//! partitions i32[rows]   offsets i64[rows]   diffs i8[rows]
//! each column:  nulls u32 (0 or 1) | value bytes u32
//!               validity bits, if nulls     ends i32[rows + 1], if text or bytes     values
//! ```
//!
//! # Invariants
//! * `length_in_bytes` is exactly what `into_bytes` writes; timely reserves by it.
//! * Reading goes through Arrow's validating constructors: a damaged message ends the process
//!   with a sentence, never with undefined behaviour.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{ByteArrayType, Decimal128Type, Float64Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, GenericByteArray,
    PrimitiveArray, StringArray, types::TimestampMicrosecondType,
};
use arrow_buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType;
use timely::bytes::arc::{Bytes, BytesMut};
use timely::dataflow::channels::ContainerBytes;

use crate::batch::{Batch, BatchSchema, Keys};

const PADDING: [u8; 8] = [0; 8];
const TORN: &str = "a batch on the wire is whole: both ends are the same build";

fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

/// The parts of a column as they are written.
struct Parts<'a> {
    nulls: Option<Cow<'a, [u8]>>,
    ends: Option<Cow<'a, [u8]>>,
    values: Cow<'a, [u8]>,
}

impl<'a> Parts<'a> {
    fn of(column: &'a ArrayRef) -> Self {
        let rows = column.len();
        let nulls = column.nulls().map(|nulls| bits(nulls.inner(), rows));
        let (ends, values) = match column.data_type() {
            DataType::Int64 => (None, primitive::<Int64Type>(column)),
            DataType::Float64 => (None, primitive::<Float64Type>(column)),
            DataType::Timestamp(..) => (None, primitive::<TimestampMicrosecondType>(column)),
            DataType::Decimal128(..) => (None, primitive::<Decimal128Type>(column)),
            DataType::Boolean => (None, bits(column.as_boolean().values(), rows)),
            DataType::Utf8 => text(column.as_string::<i32>()),
            DataType::Binary => text(column.as_binary::<i32>()),
            other => panic!("a column is of a configured type, not {other}"),
        };
        Self {
            nulls,
            ends,
            values,
        }
    }

    fn length(&self) -> usize {
        let optional = |part: &Option<Cow<'_, [u8]>>| part.as_ref().map_or(0, |p| padded(p.len()));
        8 + optional(&self.nulls) + optional(&self.ends) + padded(self.values.len())
    }
}

/// The bits of a buffer, from its first one on.
fn bits(buffer: &BooleanBuffer, rows: usize) -> Cow<'_, [u8]> {
    let length = rows.div_ceil(8);
    if buffer.offset() == 0 {
        return Cow::Borrowed(&buffer.values()[..length]);
    }
    Cow::Owned(buffer.sliced().as_slice()[..length].to_vec())
}

fn primitive<T: ArrowPrimitiveType>(column: &ArrayRef) -> Cow<'_, [u8]> {
    let values = column.as_primitive::<T>().values();
    Cow::Borrowed(values.inner().as_slice())
}

type Text<'a> = (Option<Cow<'a, [u8]>>, Cow<'a, [u8]>);

fn text<T: ByteArrayType<Offset = i32>>(column: &GenericByteArray<T>) -> Text<'_> {
    let ends = column.value_offsets();
    let (first, last) = (ends[0], ends[ends.len() - 1]);
    let ends = if first == 0 {
        Cow::Borrowed(column.offsets().inner().inner().as_slice())
    } else {
        Cow::Owned(
            ends.iter()
                .flat_map(|end| (end - first).to_le_bytes())
                .collect(),
        )
    };
    (
        Some(ends),
        Cow::Borrowed(&column.value_data()[first as usize..last as usize]),
    )
}

fn write(writer: &mut impl Write, part: &[u8]) {
    writer.write_all(part).expect("timely reserved the length");
    writer
        .write_all(&PADDING[..padded(part.len()) - part.len()])
        .expect("timely reserved it");
}

fn header(low: usize, high: usize) -> [u8; 8] {
    let low = u32::try_from(low).expect("a batch is far below 4 GiB");
    let high = u32::try_from(high).expect("a batch is far below 4 GiB");
    (u64::from(high) << 32 | u64::from(low)).to_le_bytes()
}

impl ContainerBytes for Batch {
    fn length_in_bytes(&self) -> usize {
        let rows = self.len();
        let keys = if matches!(self.keys, Keys::Narrow(_)) {
            8
        } else {
            16
        };
        let beside = 8 + rows * (keys + 8) + padded(rows * 4) + padded(rows);
        beside
            + self
                .columns
                .iter()
                .map(|column| Parts::of(column).length())
                .sum::<usize>()
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        write(writer, &header(self.schema().id as usize, self.len()));
        match &self.keys {
            Keys::Narrow(keys) => write(writer, keys.inner()),
            Keys::Wide(high, low) => {
                write(writer, high.inner());
                write(writer, low.inner());
            }
        }
        write(writer, self.partitions.inner());
        write(writer, self.offsets.inner());
        write(writer, self.diffs.inner());
        for column in &self.columns {
            let parts = Parts::of(column);
            write(
                writer,
                &header(usize::from(parts.nulls.is_some()), parts.values.len()),
            );
            for part in parts.nulls.iter().chain(&parts.ends) {
                write(writer, part);
            }
            write(writer, &parts.values);
        }
    }

    fn from_bytes(bytes: Bytes) -> Self {
        let mut reader = Reader {
            buffer: shared(bytes),
            at: 0,
        };
        let (id, rows) = reader.header();
        let schema = BatchSchema::by_id(u32::try_from(id).expect(TORN)).expect(TORN);
        let high = reader.scalars(rows);
        let keys = if schema.schema.key_is_narrow() {
            Keys::Narrow(high)
        } else {
            Keys::Wide(high, reader.scalars(rows))
        };
        let (partitions, offsets) = (reader.scalars(rows), reader.scalars(rows));
        let diffs = reader.scalars(rows);
        let columns = schema
            .types
            .iter()
            .map(|data_type| reader.column(data_type, rows))
            .collect();
        Self {
            schema: Some(schema),
            keys,
            partitions,
            offsets,
            diffs,
            columns,
        }
    }
}

impl Batch {
    /// The batch in bytes that `of_bytes` reads again, in this process.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length_in_bytes());
        self.into_bytes(&mut bytes);
        bytes
    }

    /// The batch of which these are the bytes.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let mut aligned = MutableBuffer::new(bytes.len());
        aligned.extend_from_slice(bytes);
        let mut aligned = BytesMut::from(aligned);
        Self::from_bytes(aligned.extract_to(bytes.len()))
    }
}

/// Shares timely's bytes with Arrow, without a copy.
fn shared(bytes: Bytes) -> Buffer {
    struct Owner(Bytes);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Buffer::from(bytes::Bytes::from_owner(Owner(bytes)))
}

struct Reader {
    buffer: Buffer,
    at: usize,
}

impl Reader {
    fn part(&mut self, length: usize) -> Buffer {
        let part = self.buffer.slice_with_length(self.at, length);
        self.at += padded(length);
        part
    }

    fn header(&mut self) -> (usize, usize) {
        let part = self.part(8);
        let word = u64::from_le_bytes(part.as_slice().try_into().expect(TORN));
        ((word & u64::from(u32::MAX)) as usize, (word >> 32) as usize)
    }

    fn scalars<T: arrow_buffer::ArrowNativeType>(&mut self, rows: usize) -> ScalarBuffer<T> {
        ScalarBuffer::new(self.part(rows * size_of::<T>()), 0, rows)
    }

    fn column(&mut self, data_type: &DataType, rows: usize) -> ArrayRef {
        let (has_nulls, length) = self.header();
        let nulls = (has_nulls == 1)
            .then(|| NullBuffer::new(BooleanBuffer::new(self.part(rows.div_ceil(8)), 0, rows)));
        match data_type {
            DataType::Int64 => self.primitive::<Int64Type>(data_type, rows, nulls),
            DataType::Float64 => self.primitive::<Float64Type>(data_type, rows, nulls),
            DataType::Timestamp(..) => {
                self.primitive::<TimestampMicrosecondType>(data_type, rows, nulls)
            }
            DataType::Decimal128(..) => {
                // The message is aligned to 8 bytes, a decimal to 16: it must be copied.
                let mut aligned = MutableBuffer::new(length);
                aligned.extend_from_slice(self.part(length).as_slice());
                let values = ScalarBuffer::new(aligned.into(), 0, rows);
                let array = PrimitiveArray::<Decimal128Type>::new(values, nulls);
                Arc::new(array.with_data_type(data_type.clone()))
            }
            DataType::Boolean => {
                let values = BooleanBuffer::new(self.part(length), 0, rows);
                Arc::new(BooleanArray::new(values, nulls))
            }
            DataType::Utf8 => {
                let ends = OffsetBuffer::new(self.scalars(rows + 1));
                Arc::new(StringArray::new(ends, self.part(length), nulls))
            }
            DataType::Binary => {
                let ends = OffsetBuffer::new(self.scalars(rows + 1));
                Arc::new(BinaryArray::new(ends, self.part(length), nulls))
            }
            other => panic!("a column is of a configured type, not {other}"),
        }
    }

    fn primitive<T: ArrowPrimitiveType>(
        &mut self,
        data_type: &DataType,
        rows: usize,
        nulls: Option<NullBuffer>,
    ) -> ArrayRef {
        let array = PrimitiveArray::<T>::new(self.scalars(rows), nulls);
        Arc::new(array.with_data_type(data_type.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{BatchBuilder, Gather, Origin, Slot};
    use crate::schema::{Column, ColumnType, Schema};

    fn schema(wide: bool) -> Arc<BatchSchema> {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String).nullable(),
            Column::new(
                "price",
                ColumnType::Decimal {
                    precision: 20,
                    scale: 2,
                },
            )
            .nullable(),
            Column::new("on", ColumnType::Bool).nullable(),
            Column::new("at", ColumnType::Timestamp),
            Column::new("weight", ColumnType::Float64).nullable(),
            Column::new("raw", ColumnType::Bytes),
        ];
        BatchSchema::register(Schema::new(
            columns,
            if wide { vec![0, 1] } else { vec![0] },
        ))
    }

    fn batch(schema: &Arc<BatchSchema>, rows: &[(i64, Option<String>, bool)]) -> Batch {
        let mut builder = BatchBuilder::new(Arc::clone(schema));
        for (index, (id, name, flag)) in rows.iter().enumerate() {
            let nullable = |slot| if *flag { slot } else { Slot::Null };
            let slots = [
                Slot::Int64(*id),
                name.as_ref()
                    .map_or(Slot::Null, |name| Slot::String(name.into())),
                nullable(Slot::Decimal(i128::from(*id) * 7)),
                nullable(Slot::Bool(id % 2 == 0)),
                Slot::Timestamp(*id),
                nullable(Slot::Float64(*id as f64)),
                Slot::Bytes(Cow::Owned(vec![7; index % 5])),
            ];
            let origin = Origin {
                partition: (index % 3) as i32,
                offset: index as i64,
            };
            builder.push(&slots, origin, if *flag { 1 } else { -1 });
        }
        builder.finish()
    }

    fn assert_same(left: &Batch, right: &Batch) {
        assert_eq!(left.len(), right.len());
        for row in 0..left.len() {
            assert_eq!(left.keys().get(row), right.keys().get(row));
            assert_eq!(left.origin(row), right.origin(row));
            assert_eq!(left.diffs()[row], right.diffs()[row]);
            for column in 0..left.columns().len() {
                assert_eq!(left.slot(column, row), right.slot(column, row));
            }
        }
    }

    fn over_the_wire(batch: &Batch) -> Batch {
        let written = batch.to_bytes();
        assert_eq!(written.len(), batch.length_in_bytes());
        Batch::of_bytes(&written)
    }

    proptest! {
        #[test]
        fn a_batch_survives_the_wire(
            rows in prop::collection::vec(
                (any::<i64>(), any::<Option<String>>(), any::<bool>()),
                1..40,
            ),
            wide in any::<bool>(),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
        ) {
            let batch = batch(&schema(wide), &rows);
            assert_same(&batch, &over_the_wire(&batch));
            let mut gather = Gather::default();
            let first = gather.push(batch.clone());
            let second = gather.push(over_the_wire(&batch));
            let picked: Vec<_> = picks.iter().enumerate()
                .map(|(i, pick)| (if i % 2 == 0 { first } else { second }, pick.index(batch.len())))
                .collect();
            let gathered = gather.rows(&picked);
            for (row, (_, from)) in picked.iter().enumerate() {
                assert_eq!(gathered.origin(row), batch.origin(*from));
                assert_eq!(gathered.slot(1, row), batch.slot(1, *from));
            }
            assert_same(&gathered, &over_the_wire(&gathered));
        }
    }
}
