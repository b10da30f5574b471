//! What the job remembers, and for how long: what a checkpoint must have, and what it need not.
//!
//! It is apart from `checkpoints` because it is a question of settings alone.
//!
//! # Invariants
//! * What the operators may ask for after a restart is in the checkpoint: they forget by the same
//!   rules.

use deltajoin_workers::batch::Batch;
use deltajoin_workers::clock::EventTime;
use deltajoin_workers::state::Buckets;

use crate::checkpoint::{Groups, RowsEntry, RunEntry};
use crate::config::{Config, Keep};
use crate::process::plan;

/// What the job remembers, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Where an event has its time, if it has one.
    time: Option<EventTime>,
    /// Whether keys are remembered by arrival.
    by_arrival: bool,
    buckets: Buckets,
    window_ms: i64,
    /// Whether a row may be forgotten before one that it has replaced.
    keeps_earliest: bool,
}

impl Memory {
    /// That of a job.
    pub(super) fn of(config: &Config) -> Self {
        let window_ms = plan::milliseconds(config.join.revise_window);
        Self {
            time: config.events.time.as_ref().map(plan::event_time),
            by_arrival: config.distinct.by_arrival,
            buckets: Buckets::new(plan::milliseconds(config.distinct.horizon)),
            window_ms: i64::try_from(window_ms).unwrap_or(i64::MAX),
            keeps_earliest: config.distinct.keep == Keep::Earliest,
        }
    }

    /// The time of a row of an epoch.
    pub(super) fn at_ms(&self, epoch: u64, rows: &Batch, row: usize) -> i64 {
        let time = self.time.map(|time| time.of(rows, row));
        time.unwrap_or(epoch.cast_signed())
    }

    /// Whether a run may be asked for after an epoch with this clock.
    pub(super) fn has_run(&self, run: &RunEntry, (epoch, clock_ms): (u64, Option<i64>)) -> bool {
        let now_ms = match self.by_arrival {
            true => Some(epoch.cast_signed()),
            false => clock_ms,
        };
        run.bucket >= self.buckets.oldest(now_ms)
    }

    /// Forgets rows, which are in their order, of which none may be revised after an epoch with
    /// this clock. If earlier rows replace others, what stands behind rows that stay does so too:
    /// it may tell which of them have been replaced.
    pub(super) fn forget_rows(
        &self,
        rows: &mut Vec<RowsEntry>,
        (epoch, clock_ms): (u64, Option<i64>),
    ) {
        let now_ms = match self.time {
            Some(_) => clock_ms,
            None => Some(epoch.cast_signed()),
        };
        let Some(now_ms) = now_ms else { return };
        let oldest_ms = now_ms.saturating_sub(self.window_ms);
        let mut stay: Vec<Groups> = Vec::new();
        rows.retain(|rows| {
            let shares = |groups: &Groups| groups.overlap(rows.groups()).is_some();
            let stays = rows.latest_ms > oldest_ms || stay.iter().any(shares);
            if stays && self.keeps_earliest && !stay.contains(&rows.groups()) {
                stay.push(rows.groups());
            }
            stays
        });
    }
}
