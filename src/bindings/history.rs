//! The reader's rule: a binding counts if and only if the nearest marker before it is its own
//! generation's.
//!
//! So what an older generation appends late, behind a newer one's marker, counts for nobody, and
//! what it appended before that counts for every generation after it.
//!
//! # Invariants
//! * The epochs of bindings that count are strictly increasing.
//! * Reference changes count with the binding of their epoch; a crash between them leaves nothing.
//! * Every record has been seen, from offset 0 on or from the place where the reader begins.

use std::sync::Arc;

use deltajoin_workers::batch::{Batch, BatchSchema};
use deltajoin_workers::bindings::Binding;

use crate::bindings::{Error, Fault, Marker, MarkerId, Record, Visit, announced};
use crate::codec::json::Decoder;

/// What a binding log holds.
#[derive(Debug, Default)]
pub struct History {
    /// The markers with their offsets, in order; the last is the newest generation's.
    pub markers: Vec<(u64, Marker)>,
    /// For each marker the newest epoch that its generation has bound; 0 if none was read.
    pub bound: Vec<u64>,
    /// The bindings that count, in order.
    pub bindings: Vec<Binding>,
    /// The offset of the next record.
    pub next: u64,
}

/// A place in a log, as a checkpoint names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The nearest marker before it, and that one's offset.
    pub marker: (u64, Marker),
    /// The offset of the record behind it.
    pub next: u64,
}

impl Place {
    /// Whether it is a place in the log that `read` reads from an offset on.
    ///
    /// # Errors
    /// If that log has not the marker, or cannot be read.
    pub fn check(
        &self,
        log: &str,
        read: impl FnOnce(u64, Visit<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (offset, marker) = &self.marker;
        let mut is_there = false;
        read(*offset, &mut |found, bytes| {
            // If it is trimmed, what follows it is there.
            let own = announced(bytes).is_some_and(|found| found.marker == marker.id.to_string());
            is_there = found > *offset || own;
            Ok(false)
        })?;
        match is_there {
            true => Ok(()),
            false => Err(Error::OtherLog {
                log: log.to_owned(),
                offset: *offset,
            }),
        }
    }
}

/// Makes a history of the records of a log.
#[derive(Debug)]
pub struct Reader {
    decoder: Decoder,
    history: History,
    /// The epoch of the last binding that counts.
    newest: Option<u64>,
    /// Reference changes that wait for the binding of their epoch.
    unbound: Option<(u64, Vec<Batch>)>,
}

impl Reader {
    /// A reader of a log from its beginning, or from a place on; reference changes are of
    /// `reference`, as `codec::reference_schema` makes it.
    pub fn new(reference: Arc<BatchSchema>, from: Option<Place>) -> Self {
        let mut history = History::default();
        if let Some(Place { marker, next }) = from {
            history.markers.push(marker);
            history.bound.push(0);
            history.next = next;
        }
        Self {
            decoder: Decoder::new(reference, usize::MAX),
            history,
            newest: None,
            unbound: None,
        }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// If it cannot be understood, or cannot stand there.
    pub fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let next = self.history.next;
        if offset != next {
            return Err(Fault::Missing { next });
        }
        match Record::decode(bytes)? {
            Record::Marker(marker) => {
                self.unbound = None;
                self.history.markers.push((offset, marker));
                self.history.bound.push(0);
            }
            Record::Reference {
                generation,
                epoch,
                rows,
            } => {
                if self.counts(generation)? {
                    self.expect_epoch(epoch)?;
                    let batch = rows.decode(&mut self.decoder)?;
                    let (_, batches) = self.unbound.get_or_insert((epoch, Vec::new()));
                    batches.push(batch);
                }
            }
            Record::Binding {
                generation,
                epoch,
                ends,
                skipped,
                clock_ms,
            } => {
                if self.counts(generation)? {
                    self.expect_epoch(epoch)?;
                    let reference = self.unbound.take();
                    self.newest = Some(epoch);
                    if let Some(bound) = self.history.bound.last_mut() {
                        *bound = epoch;
                    }
                    self.history.bindings.push(Binding {
                        epoch,
                        ends,
                        reference: reference.map_or_else(Vec::new, |(_, batches)| batches),
                        skipped,
                        clock_ms,
                    });
                }
            }
        }
        self.history.next = offset + 1;
        Ok(())
    }

    /// What has been read so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The bindings that count and were not taken before: who takes them need not hold all.
    pub fn take_bindings(&mut self) -> Vec<Binding> {
        std::mem::take(&mut self.history.bindings)
    }

    /// All that has been read.
    pub fn finish(self) -> History {
        self.history
    }

    /// Whether a record of this generation counts here.
    fn counts(&self, generation: MarkerId) -> Result<bool, Fault> {
        let (_, nearest) = self.history.markers.last().ok_or(Fault::NoMarker)?;
        Ok(nearest.id == generation)
    }

    /// An epoch comes after those that are bound, and is that of the changes that wait.
    fn expect_epoch(&self, epoch: u64) -> Result<(), Fault> {
        if let Some((unbound, _)) = self.unbound
            && unbound != epoch
        {
            return Err(Fault::Unbound { unbound });
        }
        match self.newest {
            Some(last) if last >= epoch => Err(Fault::EpochOrder { epoch, last }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
