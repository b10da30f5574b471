//! The reference table, whole and in memory: as it is now, or as it was at each epoch.
//!
//! It is apart from `expected`, which joins with it, because of the ways in which it is read.
//!
//! # Invariants
//! * Of each key the latest row up to an epoch counts, and none if that was a removal.

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
    rows: HashMap<u128, Vec<Version>>,
    /// The columns that results have of it.
    values: Vec<usize>,
}

/// What a key has from an epoch on: block and row, or nothing.
type Version = (u64, Option<(usize, usize)>);

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
                    on_rejected: Arc::new(|_| {}),
                };
                read_topic(options)?
            }
            #[cfg(not(feature = "kafka"))]
            ReferenceSource::Kafka { .. } => return Err(without_kafka("[reference]")),
        };
        let changes = blocks.into_iter().map(|block| (0, block));
        Ok(Self::of_changes(config, changes, 0))
    }

    /// The table as changes make it, each with its epoch; before the epoch `from` nobody asks.
    pub(super) fn of_changes(
        config: &Config,
        changes: impl IntoIterator<Item = (u64, Batch)>,
        from: u64,
    ) -> Self {
        let schema = &config.reference.schema;
        let mut blocks = Vec::new();
        let mut rows: HashMap<u128, Vec<Version>> = HashMap::new();
        let mut canonical = Canonical::default();
        for (epoch, block) in changes {
            for row in 0..block.len() {
                let key = canonical.key(schema.key.iter().map(|column| block.slot(*column, row)));
                let place = (block.diffs()[row] > 0).then_some((blocks.len(), row));
                let versions = rows.entry(key).or_default();
                versions.pop_if(|(last, _)| *last == epoch || epoch <= from);
                versions.push((epoch, place));
            }
            blocks.push(block);
        }
        let columns = 0..schema.columns.len();
        let values = columns.filter(|column| !schema.key.contains(column));
        Self {
            blocks,
            rows,
            values: values.collect(),
        }
    }

    /// How many rows it has in the end.
    pub(super) fn rows(&self) -> u64 {
        let last = self.rows.values().filter_map(|versions| versions.last());
        last.filter(|(_, place)| place.is_some()).count() as u64
    }

    /// Appends what a result has of the table at an epoch: the row of a key, or nulls. False if
    /// there is none.
    pub(super) fn look_up<'a>(
        &'a self,
        key: Option<u128>,
        epoch: u64,
        slots: &mut Vec<Slot<'a>>,
    ) -> bool {
        let versions = key.and_then(|key| self.rows.get(&key));
        let mut versions = versions.map_or(&[][..], Vec::as_slice).iter();
        let last = versions.rfind(|(since, _)| *since <= epoch);
        let place = last.and_then(|(_, place)| place.as_ref());
        slots.extend(self.values.iter().map(|column| match place {
            Some((block, row)) => self.blocks[*block].slot(*column, *row),
            None => Slot::Null,
        }));
        place.is_some()
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
    let reading = topic.spawn(sender, Arc::default(), fail)?;
    if let Err(panic) = reading.join() {
        std::panic::resume_unwind(panic);
    }
    let error = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(error) = error {
        return Err(error.into());
    }
    let blocks = std::iter::from_fn(|| receiver.pop());
    let blocks = blocks.map(|(block, _)| block.updates);
    Ok(blocks.filter(|block| !block.is_empty()).collect())
}
