//! The core's plan from the configuration.
//!
//! # Invariants
//! * Schemas are registered here, in one order: batches on the wire name them by number, and the
//!   numbers must be the same in every process.

use std::sync::Arc;
use std::time::Duration;

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::clock::{EventTime, TimeUnit};
use deltajoin_workers::dataflow::{Engine, Plan};
use deltajoin_workers::operators::{Distinct, Join, Keep, Letters, Strategy, Unmatched};
use deltajoin_workers::ports::dead_letter_schema;
use deltajoin_workers::schema::{Column, ColumnType, Schema};

use crate::codec;
use crate::codec::json::Encoder;
use crate::config::{self, Config, EventSource};

/// The plan of the job.
pub(super) fn plan(config: &Config, engine: Engine) -> Plan {
    let events = BatchSchema::register(config.events.schema.clone());
    dead_letter_schema();
    codec::reference_schema(&config.reference.schema);
    let join = join(config);
    let encoder = Encoder::new(&events.schema);
    Plan {
        engine,
        shards: config.limits.shards,
        distinct: Distinct {
            time: join.time,
            by_arrival: config.distinct.by_arrival,
            horizon_ms: milliseconds(config.distinct.horizon),
            future_ms: milliseconds(config.distinct.future),
            duplicates: join.compares(),
            detect_conflicts: config.distinct.detect_conflicts,
        },
        join,
        letters: Letters {
            source_name: source_name(config),
            event_text: Arc::new(move |batch, row, out| encoder.rows(batch).value(row, out)),
        },
    }
}

/// How events meet the reference.
pub(super) fn join(config: &Config) -> Join {
    Join {
        event_columns: config.join.event_columns.clone(),
        strategy: match config.join.partitioned {
            true => Strategy::Partitioned,
            false => Strategy::Broadcast,
        },
        unmatched: match config.join.unmatched {
            config::Unmatched::Keep => Unmatched::Keep,
            config::Unmatched::Drop => Unmatched::Drop,
            config::Unmatched::DeadLetter => Unmatched::DeadLetter,
        },
        revise: config.join.revise,
        keep: match config.distinct.keep {
            config::Keep::First => Keep::First,
            config::Keep::Earliest => Keep::Earliest,
            config::Keep::Latest => Keep::Latest,
        },
        detect_conflicts: config.distinct.detect_conflicts,
        window_ms: milliseconds(config.join.revise_window),
        time: config.events.time.as_ref().map(event_time),
        reference: reference_schema(config),
        joined: BatchSchema::register(joined_schema(config)),
    }
}

pub(super) fn event_time(time: &config::EventTime) -> EventTime {
    EventTime {
        column: time.column,
        unit: match time.unit {
            config::TimeUnit::Seconds => TimeUnit::Seconds,
            config::TimeUnit::Milliseconds => TimeUnit::Milliseconds,
            config::TimeUnit::Microseconds => TimeUnit::Microseconds,
        },
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The schema of changes of the reference table, as they are bound.
pub(super) fn reference_schema(config: &Config) -> Arc<BatchSchema> {
    let version = config.join.version_column.as_deref();
    codec::versioned_schema(&config.reference.schema, version)
}

/// The columns of a result: the event's, then the reference's without its key, and its version.
/// All but the event's may be null.
pub(super) fn joined_schema(config: &Config) -> Schema {
    let Schema { columns, key } = &config.reference.schema;
    let mut joined = config.events.schema.columns.clone();
    let values = columns
        .iter()
        .enumerate()
        .filter(|(index, _)| !key.contains(index));
    joined.extend(values.map(|(_, column)| column.clone().nullable()));
    let version = config.join.version_column.as_deref();
    joined.extend(version.map(|name| Column::new(name, ColumnType::Int64).nullable()));
    Schema::new(joined, config.events.schema.key.clone())
}

/// What dead letters name as the source of the events.
pub(super) fn source_name(config: &Config) -> Arc<str> {
    match &config.events.source {
        EventSource::Kafka { topic, .. } => topic.topic.as_str().into(),
        EventSource::File { path } => path.display().to_string().into(),
    }
}
