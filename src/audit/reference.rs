//! The reference table, whole and in memory: as it is now, or as it was at each epoch.
//!
//! It is apart from `expected`, which joins with it, because of the ways in which it is read.
//!
//! # Invariants
//! * Of each key the latest row up to an epoch counts, and none if that was a removal.
//! * An event's result is revised by a change of its row if the event is later than the change's
//!   floor.
//! * A row is as old as the change that made it what it is; what leaves it as it was is none.

use std::collections::HashMap;
#[cfg(feature = "kafka")]
use std::sync::{Arc, Mutex, PoisonError};

use deltajoin_workers::batch::{Batch, Slot};
#[cfg(feature = "kafka")]
use deltajoin_workers::ports::Stop;
#[cfg(feature = "kafka")]
use deltajoin_workers::queue::{InFlight, queue};

use crate::audit::canonical::Canonical;
#[cfg(not(feature = "kafka"))]
use crate::audit::source::without_kafka;
use crate::config::{Config, ReferenceSource};
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;

/// The reference table.
#[derive(Debug)]
pub(super) struct Reference {
    blocks: Vec<Batch>,
    /// What each key has had, in the order of epochs.
    rows: HashMap<u128, Versions>,
    /// The columns that results have of it.
    values: Vec<usize>,
    /// Whether results tell the epoch of their row.
    versioned: bool,
    /// The floors of the epochs with changes.
    floors: Vec<(u64, i64)>,
    /// Whether changes before the first epoch that is judged are not known.
    trimmed: bool,
}

/// Changes of an epoch.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) epoch: u64,
    /// Results of events that are later than this are revised.
    pub(super) floor_ms: i64,
    pub(super) rows: Batch,
}

/// All changes, in the order of their epochs.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) all: Vec<Change>,
    /// Whether there were more before them.
    pub(super) trimmed: bool,
}

/// What a key has had.
#[derive(Debug, Default)]
struct Versions {
    all: Vec<Version>,
    /// Whether there were others, before the first epoch that is judged.
    earlier: bool,
}

/// What a key has from an epoch on: a row, or nothing.
type Version = (u64, Option<Place>);

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    block: usize,
    row: usize,
    /// The epoch of the change that made it what it is.
    since: u64,
}

/// A change that revises a result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revision {
    pub(super) epoch: u64,
    pub(super) before: Option<Place>,
    pub(super) after: Option<Place>,
}

impl Reference {
    /// Reads the table as it is now.
    pub(super) fn read(config: &Config) -> Result<Self, Failure> {
        let schema = &config.reference.schema;
        let blocks = match &config.reference.source {
            ReferenceSource::File { path } => {
                let table = file::Table::read(path, schema, config.limits.max_record_bytes)?;
                table.blocks().to_vec()
            }
            #[cfg(feature = "kafka")]
            ReferenceSource::Kafka { topic } => {
                let options = kafka::ReferenceOptions {
                    topic: topic.clone(),
                    schema: schema.clone(),
                    record_bytes_max: config.limits.max_record_bytes,
                    until_end: true,
                };
                read_topic(options)?
            }
            #[cfg(not(feature = "kafka"))]
            ReferenceSource::Kafka { .. } => return Err(without_kafka("[reference]")),
        };
        let all = blocks.into_iter().map(|rows| Change {
            epoch: 0,
            floor_ms: i64::MAX,
            rows,
        });
        let all = all.collect();
        let trimmed = false;
        Ok(Self::of_changes(config, Changes { all, trimmed }, 0))
    }

    /// The table as changes make it; of what was before the epoch `from`, only the end is kept.
    pub(super) fn of_changes(config: &Config, changes: Changes, from: u64) -> Self {
        let schema = &config.reference.schema;
        let columns = 0..schema.columns.len();
        let values = columns.filter(|column| !schema.key.contains(column));
        let mut this = Self {
            blocks: Vec::new(),
            rows: HashMap::new(),
            values: values.collect(),
            versioned: config.join.version_column.is_some(),
            floors: Vec::new(),
            trimmed: changes.trimmed,
        };
        for change in changes.all {
            this.take(&schema.key, change);
        }
        for versions in this.rows.values_mut() {
            let before = versions.all.partition_point(|(epoch, _)| *epoch < from);
            versions.earlier = versions.all.drain(..before.saturating_sub(1)).len() > 0;
        }
        this
    }

    fn take(&mut self, key: &[usize], change: Change) {
        let (epoch, block) = (change.epoch, change.rows);
        if self.floors.last().is_none_or(|(last, _)| *last < epoch) {
            self.floors.push((epoch, change.floor_ms));
        }
        // A table that stands for changes that are gone tells how old its rows are.
        let is_whole = self.trimmed && self.floors.len() == 1;
        let mut canonical = Canonical::default();
        for row in 0..block.len() {
            let key = canonical.key(key.iter().map(|column| block.slot(*column, row)));
            let versions = self.rows.entry(key).or_default();
            versions.all.pop_if(|(last, _)| *last == epoch);
            let before = versions.all.last().and_then(|(_, place)| *place);
            let same = |before: &Place| {
                let known = &self.blocks[before.block];
                let mut values = self.values.iter();
                values.all(|column| known.slot(*column, before.row) == block.slot(*column, row))
            };
            let since = match (before.filter(|_| self.versioned).filter(same), is_whole) {
                (Some(before), _) => before.since,
                (None, true) => told_version(&block, row).unwrap_or(epoch),
                (None, false) => epoch,
            };
            let place = Place {
                block: self.blocks.len(),
                row,
                since,
            };
            let place = (block.diffs()[row] > 0).then_some(place);
            versions.all.push((epoch, place));
        }
        self.blocks.push(block);
    }

    /// How many rows it has in the end.
    pub(super) fn rows(&self) -> u64 {
        let last = self
            .rows
            .values()
            .filter_map(|versions| versions.all.last());
        last.filter(|(_, place)| place.is_some()).count() as u64
    }

    /// The row of a key at an epoch, if it has one.
    pub(super) fn find(&self, key: Option<u128>, epoch: u64) -> Option<Place> {
        let mut versions = self.versions(key).iter();
        let last = versions.rfind(|(since, _)| *since <= epoch);
        last.and_then(|(_, place)| *place)
    }

    /// The changes of a key behind an epoch that revise the result of an event of this time.
    pub(super) fn revisions(
        &self,
        key: Option<u128>,
        behind: u64,
        at_ms: i64,
    ) -> impl Iterator<Item = Revision> {
        let versions = self.versions(key);
        let mut before = None;
        versions.iter().filter_map(move |(epoch, after)| {
            let before = std::mem::replace(&mut before, *after);
            let place = self.floors.binary_search_by_key(epoch, |(epoch, _)| *epoch);
            let floor_ms = place.map_or(i64::MAX, |place| self.floors[place].1);
            (*epoch > behind && at_ms > floor_ms).then_some(Revision {
                epoch: *epoch,
                before,
                after: *after,
            })
        })
    }

    /// Whether no result with this key can have been revised before the epochs that are judged.
    pub(super) fn is_steady(&self, key: Option<u128>) -> bool {
        let versions = key.and_then(|key| self.rows.get(&key));
        let begun = self.floors.first().map_or(0, |(epoch, _)| *epoch);
        let is_first = |versions: &Versions| {
            let first = versions.all.first();
            !versions.earlier && first.is_none_or(|(epoch, _)| *epoch == begun)
        };
        !self.trimmed && versions.is_none_or(is_first)
    }

    fn versions(&self, key: Option<u128>) -> &[Version] {
        let versions = key.and_then(|key| self.rows.get(&key));
        versions.map_or(&[], |versions| &versions.all)
    }

    /// Appends what a result has of the table: a row, or nulls.
    pub(super) fn append<'a>(&'a self, place: Option<Place>, slots: &mut Vec<Slot<'a>>) {
        slots.extend(self.values.iter().map(|column| match place {
            Some(place) => self.blocks[place.block].slot(*column, place.row),
            None => Slot::Null,
        }));
        if self.versioned {
            let since = place.map(|place| Slot::Int64(place.since.cast_signed()));
            slots.push(since.unwrap_or(Slot::Null));
        }
    }
}

/// The epoch that a row has in its last column, if it has one.
fn told_version(block: &Batch, row: usize) -> Option<u64> {
    let last = block.columns().len() - 1;
    match block.slot(last, row) {
        Slot::Int64(since) if block.schema().versioned => Some(since.cast_unsigned()),
        _ => None,
    }
}

/// All changes that a topic of the table holds.
#[cfg(feature = "kafka")]
fn read_topic(options: kafka::ReferenceOptions) -> Result<Vec<Batch>, Failure> {
    let topic = kafka::Reference::connect(options, &Stop::default())?;
    // The table is held in memory as a whole, so nothing is gained by a bound of the way to it.
    let (sender, receiver) = queue(InFlight::new(usize::MAX));
    let failed = Arc::new(Mutex::new(None));
    let fail: kafka::Fail = Arc::new({
        let failed = Arc::clone(&failed);
        move |error| *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error)
    });
    let reading = topic.spawn(sender, Box::new(()), Arc::default(), fail)?;
    if let Err(panic) = reading.join() {
        std::panic::resume_unwind(panic);
    }
    let error = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(error) = error {
        return Err(error.into());
    }
    let blocks = std::iter::from_fn(|| receiver.pop());
    Ok(blocks.flat_map(|(block, _)| block.updates).collect())
}
