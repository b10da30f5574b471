//! Events into the rows that a right output has: the definition of the result, once more.
//!
//! It is apart from the core's operators and shares nothing with them: each event is joined with
//! the table as it is, and again with each change of it that acts on the event. Which event of a
//! key counts is left to `table`.
//!
//! # Invariants
//! * The rows of an event depend on the event, the reference table and the settings alone.
//! * An event that is too late or too far in the future for its epoch counts as none.

use std::sync::Arc;

use deltajoin_workers::batch::{Batch, BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::schema::{Column, ColumnType, Schema};

use crate::audit::canonical::{Canonical, NO_ROW};
use crate::audit::entry::Event;
use crate::audit::epochs::{Epochs, Judged};
use crate::audit::reference::{Changes, Place, Reference};
use crate::audit::source::Record;
use crate::audit::steps::Revised;
use crate::audit::table::{Full, Table, pass_of};
use crate::audit::window::Times;
use crate::codec::json::{Decoder, Encoder};
use crate::config::{Config, Unmatched};
use crate::failure::Failure;

/// Records that are decoded together: enough to spread what a batch costs.
const CHUNK_ROWS: usize = 1_000;
/// And so many bytes of them, so that large records are not held in thousands.
const CHUNK_BYTES: usize = 4 << 20;

/// Joins events with the reference table.
#[derive(Debug)]
pub(super) struct Join {
    events: Arc<BatchSchema>,
    joined: Arc<BatchSchema>,
    reference: Reference,
    /// The event's columns that must equal the key of the table.
    columns: Vec<usize>,
    keep_unmatched: bool,
    record_bytes_max: usize,
    /// Of each event, if they are known.
    epochs: Option<Epochs>,
}

impl Join {
    /// With the reference table that is given with epochs; else it reads it as it is now.
    pub(super) fn new(config: &Config, bound: Option<(Epochs, Changes)>) -> Result<Self, Failure> {
        let Schema { columns, key } = &config.reference.schema;
        let mut joined = config.events.schema.columns.clone();
        for (index, column) in columns.iter().enumerate() {
            if !key.contains(&index) {
                joined.push(column.clone().nullable());
            }
        }
        let version = config.join.version_column.as_deref();
        joined.extend(version.map(|name| Column::new(name, ColumnType::Int64).nullable()));
        let joined = Schema::new(joined, config.events.schema.key.clone());
        let (epochs, reference) = match bound {
            Some((epochs, changes)) => {
                let from = epochs.judged.from;
                let reference = Reference::of_changes(config, changes, from);
                (Some(epochs), reference)
            }
            None => (None, Reference::read(config)?),
        };
        Ok(Self {
            events: BatchSchema::register(config.events.schema.clone()),
            joined: BatchSchema::register(joined),
            reference,
            epochs,
            columns: config.join.event_columns.clone(),
            keep_unmatched: match config.join.unmatched {
                Unmatched::Keep => true,
                Unmatched::Drop | Unmatched::DeadLetter => false,
            },
            record_bytes_max: config.limits.max_record_bytes,
        })
    }

    /// The columns of events.
    pub(super) fn events(&self) -> &Schema {
        &self.events.schema
    }

    /// The columns of results.
    pub(super) fn joined(&self) -> &Arc<BatchSchema> {
        &self.joined
    }

    /// The epochs that are judged; none if epochs are not known.
    pub(super) fn judged(&self) -> Option<Judged> {
        self.epochs.as_ref().map(|epochs| epochs.judged)
    }

    /// The first and the last epoch with records of those.
    pub(super) fn found(&self) -> Option<(u64, u64)> {
        self.epochs.as_ref()?.found
    }

    /// The epoch of an event, or what stands for it; 0 if epochs are not known.
    fn epoch(&self, origin: Origin) -> u64 {
        self.epochs.as_ref().map_or(0, |epochs| epochs.of(origin))
    }

    /// How many rows the reference table has.
    pub(super) fn reference_rows(&self) -> u64 {
        self.reference.rows()
    }

    /// The row of an event at an epoch as JSON; none if it has no row or is no event.
    pub(super) fn text(&self, record: Record<'_>, epoch: u64) -> Option<String> {
        let mut decoder = self.decoder();
        decoder.decode(record.value, record.origin).ok()?;
        let event = decoder.finish();
        let key = self.join_key((&event, 0), &mut Canonical::default());
        let found = self.reference.find(key, epoch);
        let row = self.row((&event, 0), found)?;
        let mut builder = BatchBuilder::new(Arc::clone(&self.joined));
        builder.push(&row, record.origin, 1);
        let mut text = Vec::new();
        let batch = builder.finish();
        let encoder = Encoder::new(&self.joined.schema);
        encoder.rows(&batch).value(0, &mut text);
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// The times by which it is told what is too late; none if epochs are not known.
    pub(super) fn times(&self) -> Option<&Times> {
        self.epochs.as_ref().map(|epochs| &epochs.times)
    }

    fn decoder(&self) -> Decoder {
        Decoder::new(Arc::clone(&self.events), self.record_bytes_max)
    }

    /// The key of an event's reference row; none if one of its values is null.
    fn join_key(&self, (events, row): (&Batch, usize), canonical: &mut Canonical) -> Option<u128> {
        let mut slots = self.columns.iter().map(|column| events.slot(*column, row));
        // A null equals nothing, not even a null.
        let is_null = slots.clone().any(|slot| slot == Slot::Null);
        (!is_null).then(|| canonical.key(&mut slots))
    }

    /// The row of an event with a reference row, or without one; none if it has none then.
    fn row<'a>(
        &'a self,
        (events, row): (&'a Batch, usize),
        found: Option<Place>,
    ) -> Option<Vec<Slot<'a>>> {
        if found.is_none() && !self.keep_unmatched {
            return None;
        }
        let columns = 0..self.events.schema.columns.len();
        let mut slots: Vec<_> = columns.map(|column| events.slot(column, row)).collect();
        self.reference.append(found, &mut slots);
        Some(slots)
    }

    /// The hash of a row, or `NO_ROW`.
    fn hash(
        &self,
        event: (&Batch, usize),
        found: Option<Place>,
        canonical: &mut Canonical,
    ) -> u128 {
        let row = self.row(event, found);
        row.map_or(NO_ROW, |slots| canonical.row(slots.into_iter()))
    }
}

/// The events of one pass, on their way into the table.
#[derive(Debug)]
pub(super) struct Events<'a> {
    join: &'a Join,
    decoder: Decoder,
    canonical: Canonical,
    /// Which pass this is, and of how many.
    pass: (usize, usize),
    /// What becomes of the row of an event.
    revised: Vec<Revised>,
    /// Records of the epochs that are judged.
    pub(super) records: u64,
    /// Those of them that are no events.
    pub(super) undecodable: u64,
}

impl<'a> Events<'a> {
    pub(super) fn new(join: &'a Join, pass: (usize, usize)) -> Self {
        Self {
            join,
            decoder: join.decoder(),
            canonical: Canonical::default(),
            pass,
            revised: Vec::new(),
            records: 0,
            undecodable: 0,
        }
    }

    /// Takes a record.
    pub(super) fn take(&mut self, record: Record<'_>, table: &mut Table) -> Result<(), Full> {
        let epoch = self.join.epoch(record.origin);
        let judged = self.join.judged();
        let counts = u64::from(judged.is_none_or(|judged| judged.contains(epoch)));
        self.records += counts;
        if self.decoder.decode(record.value, record.origin).is_err() {
            self.undecodable += counts;
        }
        if self.decoder.rows() >= CHUNK_ROWS || self.decoder.bytes() >= CHUNK_BYTES {
            self.finish(table)?;
        }
        Ok(())
    }

    /// Puts what has come into the table.
    pub(super) fn finish(&mut self, table: &mut Table) -> Result<(), Full> {
        let events = self.decoder.finish();
        let key = &self.join.events.schema.key;
        for row in 0..events.len() {
            let slots = key.iter().map(|column| events.slot(*column, row));
            let key = self.canonical.key(slots);
            let (pass, passes) = self.pass;
            if pass_of(key, passes) != pass {
                continue;
            }
            self.put((&events, row), key, table)?;
        }
        Ok(())
    }

    /// Puts an event into the table, with the rows that it must have.
    fn put(
        &mut self,
        event @ (events, row): (&Batch, usize),
        key: u128,
        table: &mut Table,
    ) -> Result<(), Full> {
        let join = self.join;
        let origin: Origin = events.origin(row);
        let epoch = join.epoch(origin);
        let canonical = &mut self.canonical;
        let join_key = join.join_key(event, canonical);
        let found = join.reference.find(join_key, epoch);
        let mut told = Event {
            key,
            row: NO_ROW,
            origin,
            epoch,
            mark: 0,
            steady: true,
        };
        self.revised.clear();
        let Some(Epochs { times, judged, .. }) = &join.epochs else {
            told.row = join.hash(event, found, canonical);
            return table.event(told, &self.revised);
        };
        let at_ms = times.of(events, row);
        let bucket = times.bucket_of(at_ms);
        let oldest = join.epochs.as_ref().map(|epochs| epochs.oldest_at(epoch));
        if times.is_future(at_ms, epoch) || bucket < oldest.filter(|_| bucket.is_some()) {
            return Ok(());
        }
        // They are near to one another, so the last bits tell them apart.
        told.mark = bucket.unwrap_or_else(|| times.stretch(epoch)) as i32;
        told.row = join.hash(event, found, canonical);
        if times.revises() && epoch <= judged.to {
            told.steady = epoch >= judged.from || join.reference.is_steady(join_key);
            let behind = epoch.max(judged.from.saturating_sub(1));
            let window_ms = times.window_time(at_ms, epoch);
            let revisions = join.reference.revisions(join_key, behind, window_ms);
            for revision in revisions {
                let before = join.hash(event, revision.before, canonical);
                let row = join.hash(event, revision.after, canonical);
                // A row that comes without any value is a change, and told as one.
                let appears = revision.before.is_some() != revision.after.is_some();
                if before != row || appears && row != NO_ROW {
                    self.revised.push(Revised {
                        epoch: revision.epoch,
                        before,
                        row,
                    });
                }
            }
        }
        table.event(told, &self.revised)
    }
}
