//! Has the progress recorded of sinks that write at least once.
//!
//! It is apart from `durable` because it begins when all of that is done, and is process 0's alone:
//! what is recorded is true of all processes.
//!
//! # Invariants
//! * A binding is noted before its epoch can be written, so nothing that has rows goes unrecorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deltajoin_workers::bindings::{Binding, BindingLog};
use deltajoin_workers::queue::Waker;

use crate::bindings::Appender;
use crate::connectors::kafka::{Error, Fail, Progress, Recorder, RecorderOptions};
use crate::process::ledger::Ledger;
use crate::process::promises::Settings;
use crate::telemetry::Monitor;

/// The last epoch that is bound.
pub(super) type NewestBound = Arc<AtomicU64>;

/// A log that notes what it is given.
pub(super) struct Noting {
    pub(super) log: Appender,
    pub(super) newest: NewestBound,
    pub(super) ledger: Ledger,
}

impl BindingLog for Noting {
    fn append(&mut self, binding: Binding) {
        self.newest.fetch_max(binding.epoch, Ordering::AcqRel);
        self.ledger.push(binding.clone());
        self.log.append(binding);
    }

    fn durable(&self) -> u64 {
        self.log.durable()
    }

    fn wake_by(&mut self, waker: Waker) {
        self.log.wake_by(waker);
    }
}

/// Starts a recorder for each cluster that needs one.
pub(super) fn start(
    settings: &Settings<'_>,
    generation: u64,
    progress: &Progress,
    newest: &NewestBound,
    monitor: &Arc<Monitor>,
    fail: &Fail,
) -> Result<Vec<Recorder>, Error> {
    let shards = settings.config.limits.shards;
    let recorded = |sink: &str| {
        let epochs = progress.of_shards(sink, 0..shards).into_iter();
        (sink.to_owned(), epochs.max().unwrap_or(0))
    };
    let clusters = settings.at_least_once.iter();
    let recorders = clusters.map(|(cluster, sinks)| {
        let (newest, monitor) = (Arc::clone(newest), Arc::clone(monitor));
        Recorder::start(RecorderOptions {
            progress: settings.progress[cluster].clone(),
            sinks: sinks.iter().map(|sink| recorded(sink)).collect(),
            shards,
            generation,
            newest: Arc::new(move || newest.load(Ordering::Acquire)),
            settled: Arc::new(move || monitor.settled_before()),
            fail: Arc::clone(fail),
        })
    });
    recorders.collect()
}
