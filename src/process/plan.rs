//! The core's plan from the configuration.
//!
//! # Invariants
//! * Schemas are registered here, in one order: batches on the wire name them by number, and the
//!   numbers must be the same in every process.

use std::sync::Arc;

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::dataflow::{Engine, Plan};
use deltajoin_workers::operators::{Join, Unmatched};
use deltajoin_workers::ports::dead_letter_schema;
use deltajoin_workers::schema::Schema;

use crate::codec;
use crate::codec::json::Encoder;
use crate::config::{self, Config, EventSource};

/// The plan of the job.
pub(super) fn plan(config: &Config, engine: Engine) -> Plan {
    let events = BatchSchema::register(config.events.schema.clone());
    dead_letter_schema();
    let reference = codec::reference_schema(&config.reference.schema);
    let joined = BatchSchema::register(joined_schema(config));
    let encoder = Encoder::new(&events.schema);
    Plan {
        engine,
        shards: config.limits.shards,
        join: Join {
            event_columns: config.join.event_columns.clone(),
            unmatched: match config.join.unmatched {
                config::Unmatched::Keep => Unmatched::Keep,
                config::Unmatched::Drop => Unmatched::Drop,
                config::Unmatched::DeadLetter => Unmatched::DeadLetter,
            },
            reference,
            joined,
            source_name: source_name(config),
            event_text: Arc::new(move |batch, row, out| encoder.rows(batch).value(row, out)),
        },
    }
}

/// The columns of a result: the event's, then the reference's without its key, which may be null.
pub(super) fn joined_schema(config: &Config) -> Schema {
    let Schema { columns, key } = &config.reference.schema;
    let mut joined = config.events.schema.columns.clone();
    let values = columns
        .iter()
        .enumerate()
        .filter(|(index, _)| !key.contains(index));
    joined.extend(values.map(|(_, column)| column.clone().nullable()));
    Schema::new(joined, config.events.schema.key.clone())
}

/// What dead letters name as the source of the events.
pub(super) fn source_name(config: &Config) -> Arc<str> {
    match &config.events.source {
        EventSource::Kafka { topic, .. } => topic.topic.as_str().into(),
        EventSource::File { path } => path.display().to_string().into(),
    }
}
