//! What a process has that goes on where others have ended: handed out to its workers.
//!
//! It is apart from `joining`, which makes it.
//!
//! # Invariants
//! * What a worker needs is taken once, by that worker.

use std::sync::{Arc, Mutex, PoisonError};

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::{BindingLog, Replay};
use deltajoin_workers::checkpoint::Checkpoints;
use deltajoin_workers::clock::ExpiryClock;
use deltajoin_workers::dataflow::Engine;
use deltajoin_workers::key::Ownership;
use deltajoin_workers::ports::{ReferenceBlock, Sink};
use deltajoin_workers::queue::Sender;

use crate::config::DEAD_LETTERS;
use crate::connectors::file::JsonLines;
use crate::process::changes::Way;
use crate::process::checkpoints::Keeper;
use crate::process::ledger::Noting;
use crate::process::promises::outlives;
use crate::process::recorded::Recorded;
use crate::process::skipping::Skipping;
use crate::process::topics::Topics;
use crate::process::{Process, Remembered};

/// Whether the job goes on where it has ended. The textbook engine keeps no bindings.
pub(super) fn goes_on(process: &Process) -> bool {
    outlives(&process.config) && process.engine != Engine::Textbook
}

/// What makes a process go on where others have ended.
pub(super) struct Durable {
    /// What was bound; worker 0 takes it.
    pub(super) replay: Mutex<Replay>,
    pub(super) log: Mutex<Option<Noting>>,
    /// What it has at the clusters of sinks.
    pub(super) topics: Topics,
    /// What they were like when sinks began to write to them.
    pub(super) recorded: Recorded,
    pub(super) ownership: Ownership,
    /// The expiry clock as it stands; worker 0 takes it.
    pub(super) clock: Mutex<ExpiryClock>,
    /// What each worker of this process remembers, until it takes it.
    pub(super) state: Mutex<Vec<Option<Remembered>>>,
    /// The epoch at the end of which that was.
    pub(super) restored: u64,
    pub(super) keeper: Keeper,
    /// The epoch of the checkpoint that is gone on from, if it has keys.
    pub(super) begins_behind: Option<u64>,
}

impl Durable {
    /// What was bound, and where it goes on; taken by worker 0.
    pub(super) fn bindings(&self) -> (Replay, Option<Box<dyn BindingLog>>) {
        let mut replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let log = log.take().map(|log| Box::new(log) as _);
        (std::mem::take(&mut *replay), log)
    }

    /// The expiry clock; taken by worker 0.
    pub(super) fn clock(&self) -> ExpiryClock {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *clock)
    }

    /// What one worker of this process remembers, and what it hands its parts of checkpoints to.
    pub(super) fn state(&self, local: usize) -> (Remembered, Option<Box<dyn Checkpoints>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state[local].take().expect("a worker takes its state once");
        (state, Some(self.keeper.of_worker(local)))
    }

    /// The way to worker 0, with what is bound of the reference table.
    pub(super) fn reference(
        &self,
        sender: Sender<ReferenceBlock>,
        schema: &Arc<BatchSchema>,
    ) -> Way {
        let replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        Way::new(sender, &replay.bindings, schema)
    }

    /// A sink to a file, on worker 0, which gets what it does not have: all epochs after `written`.
    pub(super) fn file(&self, name: &str, sink: JsonLines, written: u64) -> Box<dyn Sink + Send> {
        if written == 0 && name != DEAD_LETTERS {
            self.tell_new(name);
        }
        let shards = self.ownership.shards();
        let ownership = self.ownership.clone();
        let committed = vec![written; shards];
        Box::new(Skipping::new(sink, ownership, 0..shards, committed))
    }

    /// A sink that has nothing gets what is not in the checkpoint.
    pub(super) fn tell_new(&self, sink: &str) {
        if let Some(checkpoint) = self.begins_behind {
            tracing::warn!(
                sink,
                checkpoint,
                "the sink is new, and begins behind the checkpoint"
            );
        }
    }

    /// Commits and records how far sinks have come, now that all rows are written.
    pub(super) fn end(self) {
        self.keeper.end();
        self.topics.end();
    }
}
