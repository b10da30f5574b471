//! What a job of the tests is told to do: its settings, and what follows from them.
//!
//! Apart from `script` and `crash`, which run it.

use std::sync::Arc;

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::clock::{EventTime, TimeUnit};
use deltajoin_workers::dataflow::{Engine, Plan};
use deltajoin_workers::operators::{Distinct, Join, Keep, Letters, Strategy, Unmatched};
use deltajoin_workers::schema::{Column, ColumnType, Schema};

use crate::script::text;

/// What the time of an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// An integer.
    Integer(TimeUnit),
    /// A timestamp, in microseconds.
    Timestamp,
}

pub(crate) const MILLISECONDS: Option<Time> = Some(Time::Integer(TimeUnit::Milliseconds));

/// How a script is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) engine: Engine,
    pub(crate) workers: usize,
    pub(crate) strategy: Strategy,
    pub(crate) unmatched: Unmatched,
    /// Whether the key is (id, item), which is hashed, instead of the id.
    pub(crate) wide: bool,
    /// How many records a reader puts into one block.
    pub(crate) block: usize,
    pub(crate) keep: Keep,
    pub(crate) revise: bool,
    pub(crate) detect_conflicts: bool,
    /// Whether events have a time, and which.
    pub(crate) time: Option<Time>,
    /// Whether they are remembered by their arrival, and not by their time.
    pub(crate) by_arrival: bool,
    pub(crate) horizon_ms: u64,
    pub(crate) window_ms: u64,
    pub(crate) future_ms: u64,
    /// Whether results have the version of their reference row.
    pub(crate) versions: bool,
    /// Whether nearly all that can leave memory does.
    pub(crate) on_disk: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            engine: Engine::Production,
            workers: 1,
            strategy: Strategy::Broadcast,
            unmatched: Unmatched::Keep,
            wide: false,
            block: 1,
            keep: Keep::First,
            revise: false,
            detect_conflicts: false,
            time: None,
            by_arrival: true,
            horizon_ms: u64::MAX,
            window_ms: u64::MAX,
            future_ms: u64::MAX,
            versions: false,
            on_disk: false,
        }
    }
}

impl Setup {
    pub(crate) fn plan(&self, shards: usize) -> Plan {
        Plan {
            engine: self.engine,
            shards,
            distinct: Distinct {
                time: self.event_time(),
                by_arrival: self.by_arrival,
                horizon_ms: self.horizon_ms,
                future_ms: self.future_ms,
                duplicates: self.join().compares(),
                detect_conflicts: self.detect_conflicts,
            },
            join: self.join(),
            letters: Letters {
                source_name: "events".into(),
                event_text: Arc::new(|batch, row, out| {
                    out.extend_from_slice(text(batch, row).as_bytes());
                }),
            },
        }
    }

    fn event_time(&self) -> Option<EventTime> {
        let unit = match self.time? {
            Time::Integer(unit) => unit,
            Time::Timestamp => TimeUnit::Microseconds,
        };
        Some(EventTime { column: 3, unit })
    }

    fn join(&self) -> Join {
        let mut columns = self.events().schema.columns.clone();
        columns.push(Column::new("name", ColumnType::String).nullable());
        if self.versions {
            columns.push(Column::new("version", ColumnType::Int64).nullable());
        }
        let key = self.events().schema.key.clone();
        Join {
            event_columns: vec![1],
            strategy: self.strategy,
            unmatched: self.unmatched,
            revise: self.revise,
            keep: self.keep,
            detect_conflicts: self.detect_conflicts,
            window_ms: self.window_ms,
            time: self.event_time(),
            reference: reference_schema(self.versions),
            joined: BatchSchema::register(Schema::new(columns, key)),
        }
    }

    /// The schema of events.
    pub(crate) fn events(&self) -> Arc<BatchSchema> {
        let at = match self.time {
            Some(Time::Timestamp) => ColumnType::Timestamp,
            _ => ColumnType::Int64,
        };
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("location", ColumnType::Int64).nullable(),
            Column::new("item", ColumnType::String),
            Column::new("at", at),
        ];
        let key = if self.wide { vec![0, 2] } else { vec![0] };
        BatchSchema::register(Schema::new(columns, key))
    }
}

/// The schema of the reference, with the versions of its rows or without.
pub(crate) fn reference_schema(versions: bool) -> Arc<BatchSchema> {
    let mut columns = vec![
        Column::new("location", ColumnType::Int64),
        Column::new("name", ColumnType::String).nullable(),
    ];
    if !versions {
        return BatchSchema::register(Schema::new(columns, vec![0]));
    }
    columns.push(Column::new("version", ColumnType::Int64).nullable());
    BatchSchema::register_versioned(Schema::new(columns, vec![0]))
}
