//! Events into the rows that a right output has: the definition of the result, once more.
//!
//! It is apart from the core's operators and shares nothing with them: each event is joined with
//! the table as it is, and which event of a key counts is left to `table`.
//!
//! # Invariants
//! * The row of an event depends on the event, the reference table and the settings alone.

use std::sync::Arc;

use deltajoin_workers::batch::{Batch, BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::schema::Schema;

use crate::audit::canonical::{Canonical, NO_ROW};
use crate::audit::epochs::{Epochs, Judged};
use crate::audit::reference::Reference;
use crate::audit::source::Record;
use crate::audit::table::{Full, Table, pass_of};
use crate::codec::json::{Decoder, Encoder};
use crate::config::{Config, Unmatched};
use crate::failure::Failure;

/// Records that are decoded together: enough to spread what a batch costs.
const CHUNK_ROWS: usize = 1_000;
/// And so many bytes of them, so that large records are not held in thousands.
const CHUNK_BYTES: usize = 4 << 20;

/// Changes of the reference table, each with its epoch.
pub(super) type Changes = Vec<(u64, Batch)>;

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

    /// The row of an event as JSON; none if it has no row or is no event.
    pub(super) fn text(&self, record: Record<'_>) -> Option<String> {
        let mut decoder = self.decoder();
        decoder.decode(record.value, record.origin).ok()?;
        let event = decoder.finish();
        let epoch = self.epoch(record.origin);
        let row = self.row((&event, 0), epoch, &mut Canonical::default())?;
        let mut builder = BatchBuilder::new(Arc::clone(&self.joined));
        builder.push(&row, record.origin, 1);
        let mut text = Vec::new();
        let batch = builder.finish();
        let encoder = Encoder::new(&self.joined.schema);
        encoder.rows(&batch).value(0, &mut text);
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    fn decoder(&self) -> Decoder {
        Decoder::new(Arc::clone(&self.events), self.record_bytes_max)
    }

    /// The row of an event of this epoch, if it has one.
    fn row<'a>(
        &'a self,
        (events, row): (&'a Batch, usize),
        epoch: u64,
        canonical: &mut Canonical,
    ) -> Option<Vec<Slot<'a>>> {
        let columns = self.events.schema.columns.len();
        let mut slots: Vec<_> = (0..columns)
            .map(|column| events.slot(column, row))
            .collect();
        let mut key = self.columns.iter().map(|column| slots[*column].clone());
        let is_null = self.columns.iter().any(|c| slots[*c] == Slot::Null);
        // A null equals nothing, not even a null.
        let key = (!is_null).then(|| canonical.key(&mut key));
        let matched = self.reference.look_up(key, epoch, &mut slots);
        (matched || self.keep_unmatched).then_some(slots)
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
            let origin: Origin = events.origin(row);
            let epoch = self.join.epoch(origin);
            let joined = self.join.row((&events, row), epoch, &mut self.canonical);
            let joined = joined.map_or(NO_ROW, |slots| self.canonical.row(slots.into_iter()));
            table.event(key, joined, origin, epoch)?;
        }
        Ok(())
    }
}
