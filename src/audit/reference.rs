//! The reference table as it is now, whole and in memory.
//!
//! It is apart from `expected`, which joins with it, because of the two ways in which it is read.
//!
//! # Invariants
//! * Of each key the latest row counts, and none if that was a removal.

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
    /// Block and row of each key.
    rows: HashMap<u128, (usize, usize)>,
    /// The columns that results have of it.
    values: Vec<usize>,
}

impl Reference {
    /// Reads the table.
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
        let mut rows = HashMap::new();
        let mut canonical = Canonical::default();
        for (index, block) in blocks.iter().enumerate() {
            for row in 0..block.len() {
                let key = canonical.key(schema.key.iter().map(|column| block.slot(*column, row)));
                if block.diffs()[row] > 0 {
                    rows.insert(key, (index, row));
                } else {
                    rows.remove(&key);
                }
            }
        }
        let columns = 0..schema.columns.len();
        let values = columns.filter(|column| !schema.key.contains(column));
        Ok(Self {
            blocks,
            rows,
            values: values.collect(),
        })
    }

    /// How many rows it has.
    pub(super) fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Appends what a result has of the table: the row of a key, or nulls. False if there is none.
    pub(super) fn look_up<'a>(&'a self, key: Option<u128>, slots: &mut Vec<Slot<'a>>) -> bool {
        let place = key.and_then(|key| self.rows.get(&key));
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
