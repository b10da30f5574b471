//! Encoded rows on their way to the producer, one lane for each output partition.
//!
//! Librdkafka keeps one request of an idempotent partition under way, and its thread spins for as
//! long as more messages wait behind it: that costs as much as all else about writing. So rows wait
//! here: a lane gives a request's worth to the producer, and more only when all of it is reported.
//! At a low rate, rows thereby gather for as long as a request takes, and no longer.
//!
//! # Invariants
//! * Rows of a lane are given to the producer in the order in which they were encoded.
//! * What a lane gives at a time fits into one request.
//! * Room is bounded by what waits, and is used again while it is in the cache: a lane that only
//!   grew would be copied, and its new pages cleared, at each burst.

use std::collections::VecDeque;

use deltajoin_workers::batch::Batch;

use crate::codec::BatchEncoder;
use crate::config::Partitioner;
use crate::connectors::kafka::messages::{Mark, Outgoing};
use crate::connectors::kafka::partitioner::{by_key_group, by_murmur2};
use crate::connectors::kafka::writer::request_bytes;

/// What a message takes in a request beside key and value, at most: headers of batch and record.
pub(super) const MESSAGE_OVERHEAD: usize = 128;
/// What the headers of a mark take beside that: names of 13 bytes, digits, lengths.
const MARK_OVERHEAD: usize = 64;

/// A chunk of a lane holds what fits into the largest request, and is free when that is given.
const CHUNK_BYTES: usize = request_bytes(usize::MAX);
/// Bytes of room that a chunk keeps when nothing waits.
const ROOM_KEPT: usize = 64 << 10;

/// The lanes of a sink.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    partitioner: Partitioner,
    /// Room for the row that is being encoded.
    scratch: Vec<u8>,
    /// Empty chunks: their room is taken again while it is still in the cache.
    spare: Vec<Chunk>,
    /// Bytes that all lanes hold.
    bytes: usize,
}

/// The rows for one partition.
#[derive(Debug, Default)]
struct Lane {
    /// In the order in which they were filled; none is empty.
    chunks: VecDeque<Chunk>,
    /// How many rows that were given are not reported.
    in_flight: usize,
    /// The request that is under way, or the last one.
    request: Request,
}

/// What was given to the producer at a time, for one partition.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Request {
    /// How many rows it has.
    pub(super) rows: usize,
    /// Their bytes, each row's as `push` counts them.
    pub(super) bytes: usize,
}

/// Some rows of a lane.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    rows: Vec<Encoded>,
    /// How many of the rows were given to the producer.
    given: usize,
    /// What all its rows take in requests, at most.
    takes: usize,
}

/// Where a row's bytes are in its chunk.
#[derive(Clone, Copy, Debug)]
struct Encoded {
    key: u32,
    value: u32,
    end: u32,
    /// A retraction: the key's row is removed.
    tombstone: bool,
    token: usize,
    mark: Option<Mark>,
}

impl Lanes {
    /// A lane for each partition.
    pub(super) fn new(partitions: usize, partitioner: Partitioner) -> Self {
        Self {
            lanes: (0..partitions).map(|_| Lane::default()).collect(),
            partitioner,
            scratch: Vec::new(),
            spare: Vec::new(),
            bytes: 0,
        }
    }

    /// The bytes that all lanes hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many lanes there are.
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Encodes a row, unless its message would be larger than `bytes_max`. Returns its size.
    pub(super) fn push(
        &mut self,
        encoder: &BatchEncoder<'_>,
        (batch, row): (&Batch, usize),
        (token, mark): (usize, Option<Mark>),
        bytes_max: usize,
    ) -> usize {
        let key = encode(encoder, row, &mut self.scratch);
        let tombstone = encoder.is_tombstone(row);
        let bytes = self.scratch.len() + overhead(mark.is_some());
        if bytes > bytes_max {
            return bytes;
        }
        let partitions = self.lanes.len();
        let partition = match (encoder, self.partitioner) {
            // Those of one source partition stay together and in order.
            (BatchEncoder::DeadLetters(_), _) => {
                batch.origin(row).partition.unsigned_abs() as usize % partitions
            }
            (_, Partitioner::KeyGroup) => by_key_group(batch.keys().high()[row], partitions),
            (_, Partitioner::Murmur2) => by_murmur2(&self.scratch[..key], partitions),
        };
        let chunks = &mut self.lanes[partition].chunks;
        let fits = |chunk: &Chunk| chunk.takes + bytes <= CHUNK_BYTES;
        if !chunks.back().is_some_and(fits) {
            chunks.push_back(self.spare.pop().unwrap_or_default());
        }
        let chunk = chunks.back_mut().expect("one was pushed if there was none");
        let start = chunk.bytes.len();
        let place = |at: usize| u32::try_from(start + at).expect("a chunk is far below 4 GiB");
        chunk.takes += bytes;
        chunk.rows.push(Encoded {
            key: place(0),
            value: place(key),
            end: place(self.scratch.len()),
            tombstone,
            token,
            mark,
        });
        chunk.bytes.extend_from_slice(&self.scratch);
        self.bytes += self.scratch.len();
        bytes
    }

    /// How many bytes of a lane may be given now, in one request or a few.
    pub(super) fn waiting(&self, partition: usize) -> usize {
        let lane = &self.lanes[partition];
        let chunk = lane.chunks.front().filter(|_| lane.in_flight == 0);
        chunk.map_or(0, |chunk| {
            let next = &chunk.rows[chunk.given];
            chunk.bytes.len() - next.key as usize
        })
    }

    /// The next request of a lane: as many rows as fit into `bytes_max`, at least one; none while
    /// rows that were given are not reported.
    pub(super) fn request(
        &self,
        partition: usize,
        bytes_max: usize,
    ) -> impl Iterator<Item = Outgoing<'_>> {
        let lane = &self.lanes[partition];
        let waiting = lane.in_flight == 0;
        let chunk = lane.chunks.front().filter(|_| waiting);
        let rows = chunk.map_or(&[][..], |chunk| &chunk.rows[chunk.given..]);
        let room = chunk.map_or(&[][..], |chunk| &chunk.bytes[..]);
        let mut bytes = 0;
        let fits = move |row: &&Encoded| {
            let first = bytes == 0;
            bytes += row.bytes();
            first || bytes <= bytes_max
        };
        rows.iter().take_while(fits).map(move |row| {
            let value = &room[row.value as usize..row.end as usize];
            Outgoing {
                key: Some(&room[row.key as usize..row.value as usize]),
                value: (!row.tombstone).then_some(value),
                token: row.token,
                mark: row.mark,
            }
        })
    }

    /// Says that the producer took the first `count` rows of a lane's request.
    pub(super) fn given(&mut self, partition: usize, count: usize) {
        let lane = &mut self.lanes[partition];
        let Some(chunk) = lane.chunks.front_mut() else {
            return;
        };
        if count > 0 {
            let rows = &chunk.rows[chunk.given..chunk.given + count];
            let bytes = rows.iter().map(Encoded::bytes).sum();
            lane.request = Request { rows: count, bytes };
        }
        chunk.given += count;
        lane.in_flight += count;
        if chunk.given == chunk.rows.len() {
            let chunk = lane.chunks.pop_front().expect("it is there");
            self.bytes -= chunk.bytes.len();
            self.spare.push(chunk.emptied());
        }
        if self.bytes == 0 {
            // A burst leaves no room behind that nobody uses.
            self.spare
                .retain(|chunk| chunk.bytes.capacity() <= ROOM_KEPT);
        }
    }

    /// Says that a row of a lane was reported.
    #[inline]
    pub(super) fn reported(&mut self, partition: usize) {
        self.lanes[partition].in_flight -= 1;
    }

    /// The request of a lane that is under way, or the last one.
    pub(super) fn last_request(&self, partition: usize) -> Request {
        self.lanes[partition].request
    }

    /// Forgets all rows; those that were given must have been reported.
    pub(super) fn clear(&mut self) {
        for lane in &mut self.lanes {
            assert_eq!(lane.in_flight, 0, "what was given is reported");
            lane.chunks.clear();
        }
        self.bytes = 0;
    }
}

impl Chunk {
    /// The same room without rows.
    fn emptied(mut self) -> Self {
        self.bytes.clear();
        self.rows.clear();
        Self {
            bytes: self.bytes,
            rows: self.rows,
            ..Self::default()
        }
    }
}

impl Encoded {
    /// What it takes in a request, at most.
    fn bytes(&self) -> usize {
        (self.end - self.key) as usize + overhead(self.mark.is_some())
    }
}

/// What a message takes in a request beside key and value.
fn overhead(marked: bool) -> usize {
    MESSAGE_OVERHEAD + if marked { MARK_OVERHEAD } else { 0 }
}

/// Makes a row's key and value of `bytes`, and returns how long the key is.
fn encode(encoder: &BatchEncoder<'_>, row: usize, bytes: &mut Vec<u8>) -> usize {
    bytes.clear();
    encoder.key(row, bytes);
    let key = bytes.len();
    if !encoder.is_tombstone(row) {
        encoder.value(row, bytes);
    }
    key
}

/// The size of a row's message, as `push` counts it; 0 if it has none. `bytes` is room for it.
pub(super) fn size(
    encoder: &BatchEncoder<'_>,
    row: usize,
    marked: bool,
    bytes: &mut Vec<u8>,
) -> usize {
    if encoder.told_by_next(row) {
        return 0;
    }
    encode(encoder, row, bytes);
    bytes.len() + overhead(marked)
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::batch::{BatchBuilder, BatchSchema, Origin, Slot};
    use deltajoin_workers::schema::{Column, ColumnType, Schema};

    use super::*;
    use crate::codec::{Envelope, Format};

    #[test]
    fn a_burst_is_given_in_order_and_leaves_no_room_behind() {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("text", ColumnType::String),
        ];
        let schema = Schema::new(columns, vec![0]);
        let mut builder = BatchBuilder::new(BatchSchema::register(schema.clone()));
        let text = "x".repeat(1000);
        for id in 0..2000 {
            let slots = [Slot::Int64(id), Slot::String(text.as_str().into())];
            builder.push(&slots, Origin::default(), 1);
        }
        let batch = builder.finish();
        let format = Format::rows(&schema, Envelope::Upsert);
        let encoder = format.of(&batch, 1);
        let mut lanes = Lanes::new(1, Partitioner::Murmur2);
        for row in 0..2000 {
            lanes.push(&encoder, (&batch, row), (row, None), usize::MAX);
        }
        assert!(lanes.bytes() > 2 * CHUNK_BYTES);
        let mut tokens = Vec::new();
        while lanes.bytes() > 0 {
            let before = lanes.bytes();
            let request = lanes.request(0, CHUNK_BYTES);
            let given: Vec<usize> = request.map(|message| message.token).collect();
            lanes.given(0, given.len());
            assert!(lanes.bytes() < before, "what is given makes room");
            assert_eq!(lanes.waiting(0), 0, "it is under way");
            given.iter().for_each(|_| lanes.reported(0));
            tokens.extend(given);
        }
        assert!(tokens.into_iter().eq(0..2000));
        let rooms = lanes.spare.iter().map(|chunk| chunk.bytes.capacity());
        assert_eq!(rooms.sum::<usize>(), 0);
    }

    #[test]
    fn a_lane_gives_a_request_at_a_time_and_keeps_its_order() {
        let schema = Schema::new(vec![Column::new("id", ColumnType::Int64)], vec![0]);
        let mut builder = BatchBuilder::new(BatchSchema::register(schema.clone()));
        for id in 0..10 {
            builder.push(
                &[Slot::Int64(id)],
                Origin::default(),
                if id == 3 { -1 } else { 1 },
            );
        }
        let batch = builder.finish();
        let format = Format::rows(&schema, Envelope::Upsert);
        let encoder = format.of(&batch, 1);
        let mut lanes = Lanes::new(1, Partitioner::Murmur2);
        for row in 0..10 {
            assert!(lanes.push(&encoder, (&batch, row), (row, None), 1000) < 1000);
        }
        assert!(
            lanes.push(&encoder, (&batch, 0), (10, None), 100) > 100,
            "too large"
        );
        let mut tokens = Vec::new();
        while lanes.bytes() > 0 {
            let request: Vec<_> = lanes.request(0, 3 * (MESSAGE_OVERHEAD + 18)).collect();
            for message in &request {
                assert_eq!(
                    message.key,
                    Some(format!("{{\"id\":{}}}", message.token).as_bytes())
                );
                assert_eq!(message.value.is_none(), message.token == 3);
            }
            tokens.extend(request.iter().map(|message| message.token));
            // The producer has no room for the last one.
            let count = request.len().div_ceil(2);
            tokens.truncate(tokens.len() - (request.len() - count));
            lanes.given(0, count);
            for _ in 0..count {
                assert_eq!(lanes.request(0, 1000).count(), 0);
                lanes.reported(0);
            }
        }
        assert!(tokens.into_iter().eq(0..10));
    }
}
