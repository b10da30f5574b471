//! A Kafka sink that makes dead letters of the rows that its topic cannot take.
//!
//! It is apart from `outputs` because only topics reject rows, and because neither the connector
//! nor the core knows how a row becomes a dead letter.
//!
//! # Invariants
//! * Each sink of each worker has a collector of its own: only that sink's operator still holds the
//!   row's epoch, and the operator of the dead letters' own sink passes nothing on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deltajoin_workers::batch::Batch;
use deltajoin_workers::ports::Sink;
use deltajoin_workers::queue::Waker;

use crate::codec::dead_letter::DeadLetters;
use crate::connectors::kafka::{Destination, Error, KafkaSink, OnRejected, Rejected};

/// Dead letters that the writer's thread adds and the worker's takes.
type Collector = Arc<Mutex<DeadLetters>>;

/// A sink, and the rows that it could not take.
pub(super) struct Rejecting {
    sink: KafkaSink,
    rejected: Collector,
}

impl Rejecting {
    /// A sink for one worker; its dead letters name `source_name` as their source.
    pub(super) fn open(
        destination: &Arc<Destination>,
        source_name: &Arc<str>,
    ) -> Result<Self, Error> {
        let rejected = Collector::default();
        let sink = destination.open(collect(source_name, &rejected))?;
        Ok(Self { sink, rejected })
    }
}

fn collect(source_name: &Arc<str>, rejected: &Collector) -> OnRejected {
    let (source_name, rejected) = (Arc::clone(source_name), Arc::clone(rejected));
    Arc::new(move |row: Rejected| {
        let error = format!("sink topic {:?}: {}", row.topic, row.error);
        lock(&rejected).push(&source_name, row.origin, None, row.reason, &error, &row.raw);
    })
}

/// A poisoned lock means that another thread has panicked: the process is ending anyway.
fn lock(rejected: &Collector) -> MutexGuard<'_, DeadLetters> {
    rejected.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink for Rejecting {
    fn write(&mut self, epoch: u64, rows: Batch) {
        self.sink.write(epoch, rows);
    }

    fn close(&mut self, epoch: u64) {
        self.sink.close(epoch);
    }

    fn written(&self) -> u64 {
        self.sink.written()
    }

    fn wake_by(&mut self, waker: Waker) {
        self.sink.wake_by(waker);
    }

    fn rejected(&mut self) -> Batch {
        lock(&self.rejected).finish()
    }
}
