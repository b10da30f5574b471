//! Reads runs: the index first, then the blocks of some key groups, in pieces of bounded size.
//!
//! Apart from writing, because it judges bytes that may be damaged.
//!
//! # Invariants
//! * Whatever the bytes are, the outcome is the keys that were written or an error that names the
//!   object; never a panic.
//! * A piece is read by one request.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::Error;
use crate::checkpoint::layout::{VERSION, check_groups};
use crate::checkpoint::run::{
    Block, FOOTER_BYTES, Fault, Footer, Groups, HEADER_BYTES, Key, KeyRun, RunEntry, Tail, header,
};
use crate::checkpoint::store::Store;

/// The end of a run that is read first: the whole index of most.
const TAIL_BYTES: u64 = 1 << 16;
/// Blocks are read together up to this size, or one alone.
const PIECE_BYTES: u64 = 1 << 22;

/// A run whose index has been read.
pub struct Run<'a> {
    store: &'a Store,
    entry: RunEntry,
    tail: Tail,
}

impl<'a> Run<'a> {
    /// Reads the index of a run.
    ///
    /// # Errors
    /// If the object is not there, cannot be read, or is not what the manifest says.
    pub fn open(store: &'a Store, entry: &RunEntry) -> Result<Self, Error> {
        let name = &entry.name;
        let failed = |fault| fault_of(name, fault);
        let short = || failed(Fault::Damaged("it is too short for a run".to_owned()));
        if entry.bytes < HEADER_BYTES + FOOTER_BYTES {
            return Err(short());
        }
        check_groups(entry.groups()).map_err(|reason| failed(Fault::Damaged(reason)))?;
        let begin = entry.bytes - entry.bytes.min(TAIL_BYTES);
        let mut end = store.get_range(name, begin..entry.bytes)?;
        let footer = end.last_chunk().ok_or_else(short)?;
        let footer = Footer::decode(footer).map_err(failed)?;
        if footer.checksum != entry.checksum {
            let (found, written) = (footer.checksum, entry.checksum);
            let reason = format!("its checksum is {found:016x}, not {written:016x}");
            return Err(failed(Fault::Damaged(reason)));
        }
        let range = footer.tail(entry.bytes).map_err(failed)?;
        if range.start < begin {
            end = store.get_range(name, range)?;
        } else {
            let before = usize::try_from(range.start - begin).expect("less than `TAIL_BYTES`");
            end.drain(..before);
        }
        let tail = Tail::decode(&end, &footer, entry.bytes).map_err(failed)?;
        // Nothing depends on it; but each byte is to be as it was written.
        let begin = store.get_range(name, 0..HEADER_BYTES)?;
        if begin != header(tail.key_bytes) {
            let reason = "it does not begin as a run does".to_owned();
            return Err(failed(Fault::Damaged(reason)));
        }
        Ok(Self {
            store,
            entry: entry.clone(),
            tail,
        })
    }

    /// Whether its keys are narrow.
    pub fn is_narrow(&self) -> bool {
        self.tail.key_bytes == u64::BYTES
    }

    /// The part of the run that is in these key groups, as a manifest may name it; none if it has
    /// no keys there.
    pub fn restrict(&self, groups: Groups) -> Option<RunEntry> {
        let groups = groups.overlap(self.entry.groups())?;
        let blocks = self.tail.blocks.iter();
        let inside = blocks.filter(|block| groups.contains(block.group));
        let (mut keys, mut first, mut last) = (0, None, None);
        for block in inside {
            keys += u64::from(block.keys);
            first = first.or(Some(block.group));
            last = Some(block.group);
        }
        Some(RunEntry {
            first_group: first?,
            last_group: last?,
            keys,
            ..self.entry.clone()
        })
    }

    /// The keys of these key groups, as far as they count, in order and in pieces.
    pub fn read(&self, groups: Groups) -> Pieces<'_> {
        self.pieces(groups, PIECE_BYTES)
    }

    /// The same in pieces of this size, or of one block.
    pub(in crate::checkpoint) fn pieces(&self, groups: Groups, bytes: u64) -> Pieces<'_> {
        let blocks = &self.tail.blocks;
        let range = match groups.overlap(self.entry.groups()) {
            Some(Groups { first, last }) => {
                blocks.partition_point(|block| block.group < first)
                    ..blocks.partition_point(|block| block.group <= last)
            }
            None => 0..0,
        };
        let before = blocks[..range.start].iter().map(|block| self.bytes(block));
        Pieces {
            offset: HEADER_BYTES + before.sum::<u64>(),
            run: self,
            range,
            piece_bytes: bytes,
        }
    }

    /// Reads every byte behind the header, which was read first.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub fn verify(&self) -> Result<(), Error> {
        let mut whole = Pieces {
            run: self,
            range: 0..self.tail.blocks.len(),
            offset: HEADER_BYTES,
            piece_bytes: PIECE_BYTES,
        };
        whole.try_for_each(|piece| piece.map(drop))?;
        let counted = self.restrict(Groups::ALL).map_or(0, |entry| entry.keys);
        if counted != self.entry.keys {
            let named = self.entry.keys;
            return Err(self.damaged(format!("it has {counted} keys, not {named}")));
        }
        Ok(())
    }

    fn bytes(&self, block: &Block) -> u64 {
        u64::from(block.keys) * u64::from(self.tail.key_bytes)
    }

    fn damaged(&self, reason: String) -> Error {
        fault_of(&self.entry.name, Fault::Damaged(reason))
    }
}

fn fault_of(name: &str, fault: Fault) -> Error {
    let name = name.to_owned();
    match fault {
        Fault::Damaged(reason) => Error::Damaged { name, reason },
        Fault::Version(found) => Error::Version {
            name,
            found: u64::from(found),
            known: u64::from(VERSION),
        },
    }
}

/// Keys of a run, in order.
pub struct Pieces<'a> {
    run: &'a Run<'a>,
    /// Blocks that are still to be read, and where they begin.
    range: Range<usize>,
    offset: u64,
    piece_bytes: u64,
}

impl Pieces<'_> {
    fn next_piece(&mut self) -> Result<KeyRun, Error> {
        let run = self.run;
        run.store.check_stop()?;
        let rest = &run.tail.blocks[self.range.clone()];
        let mut bytes = 0;
        let mut blocks = 0;
        for block in rest {
            let more = bytes + run.bytes(block);
            if blocks > 0 && more > self.piece_bytes {
                break;
            }
            bytes = more;
            blocks += 1;
        }
        let (offset, end) = (self.offset, self.offset + bytes);
        self.range.start += blocks;
        self.offset = end;
        let text = run.store.get_range(&run.entry.name, offset..end)?;
        let mut from = 0;
        for block in &rest[..blocks] {
            let to = from + usize::try_from(run.bytes(block)).expect("the piece is in memory");
            if xxh3_64(&text[from..to]) != block.checksum {
                let group = block.group;
                return Err(run.damaged(format!("the checksum of key group {group} is another")));
            }
            from = to;
        }
        let keys = if run.is_narrow() {
            ordered::<u64>(&text, &rest[..blocks])
        } else {
            ordered::<u128>(&text, &rest[..blocks])
        };
        keys.ok_or_else(|| run.damaged("its keys are not in order".to_owned()))
    }
}

/// The keys of whole blocks, if they stand where they may.
fn ordered<K: Key>(bytes: &[u8], blocks: &[Block]) -> Option<KeyRun> {
    let keys = K::all(bytes);
    let ascending = keys.is_sorted_by(|left, right| left < right);
    let groups = blocks
        .iter()
        .flat_map(|block| std::iter::repeat_n(block.group, block.keys as usize));
    let in_place = keys
        .iter()
        .zip(groups)
        .all(|(key, group)| key.group() == group);
    (ascending && in_place).then(|| K::run(keys))
}

impl Iterator for Pieces<'_> {
    type Item = Result<KeyRun, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        let piece = self.next_piece();
        if piece.is_err() {
            // What comes behind a fault is not in order.
            self.range.start = self.range.end;
        }
        Some(piece)
    }
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces")
            .field("run", self.run)
            .field("blocks", &self.range)
            .finish_non_exhaustive()
    }
}
