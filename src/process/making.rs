//! The thread that makes checkpoints: writes workers' parts, moves keys to disk, publishes, merges.
//!
//! It is apart from `checkpoints`, which is how workers and the process reach it.
//!
//! # Invariants
//! * A part is durable before its worker tells of it, and a run that takes the place of others is
//!   in the same checkpoint as their going.
//! * What cannot be written is tried again, or stays in memory, loudly.

use std::collections::BTreeMap;
use std::sync::Arc;

use deltajoin_workers::batch::Batch;
use deltajoin_workers::checkpoint::{KeyRun, Part, Told};
use deltajoin_workers::state::{ColdRun, Freeze};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{
    Error, Groups, LogPosition, Manifest, Merging, RowsEntry, RunEntry, clean, merge_rows,
    next_merge, next_rows_merge, put_manifest, rows_name, run_name, write_reference, write_rows,
    write_run,
};
use crate::fault_point;
use crate::process::checkpoints::{Options, Shared, Work};
use crate::process::ledger::Bound;
use crate::process::verdict;

/// What a worker's part of a checkpoint is made of.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    runs: Vec<RunEntry>,
    rows: Vec<RowsEntry>,
    /// Buckets of which a run has all keys: it takes the place of those before.
    replaced: Vec<i64>,
    told: Told,
}

/// The thread itself.
pub(super) struct Making {
    pub(super) shared: Arc<Shared>,
    pub(super) options: Options,
    /// A merge that is under way.
    pub(super) merging: Option<Merging>,
}

impl Making {
    pub(super) fn run(&mut self) {
        while let Some(work) = self.shared.take() {
            match work {
                Work::Part(local, part) => self.keep(local, part),
                Work::Publish(epoch, clock_ms, parts) => self.publish((epoch, clock_ms), &parts),
            }
        }
    }

    /// Tries until it succeeds; none when the end comes before.
    fn insist<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T, Error>) -> Option<T> {
        loop {
            let error = match attempt() {
                Ok(done) => return Some(done),
                Err(superseded @ Error::Superseded { .. }) => self.judge(superseded),
                Err(error) => error,
            };
            if self.shared.lock().ending {
                return None;
            }
            let (detail, hint) = (error.detail(), error.hint());
            tracing::error!(%error, detail, hint, "{what}; the job goes on without checkpoints");
            if !self.shared.pause() {
                return None;
            }
        }
    }

    /// Ends the process: a newer generation has put a manifest, and the log tells what that means.
    fn judge(&self, superseded: Error) -> ! {
        let Options {
            fatal,
            bindings,
            generation,
            store_stop,
            ..
        } = &self.options;
        fatal(&verdict::judge(
            bindings,
            *generation,
            superseded.into(),
            store_stop,
        ))
    }

    /// Makes a worker's part durable.
    fn keep(&self, local: usize, part: Part) {
        let Part {
            epoch,
            keys,
            rows,
            told,
            frozen,
        } = part;
        let Options {
            store,
            generation,
            memory,
            cold,
            ..
        } = &self.options;
        let mut written = Written {
            told,
            ..Written::default()
        };
        cold.collect();
        for freeze in frozen {
            let Some(run) = self.freeze(local, &freeze) else {
                return;
            };
            if let Some(run) = run {
                written.runs.push(run);
                written.replaced.push(freeze.bucket);
            }
        }
        let new = |(bucket, _): &(i64, KeyRun)| !written.replaced.contains(bucket);
        let keys = keys.into_iter().filter(new).collect();
        for (bucket, keys) in sorted(keys) {
            let write = || write_run(store, (&run_name(*generation), bucket), &keys);
            let Some(run) = self.insist("could not write new keys", write) else {
                return;
            };
            written.runs.extend(run);
        }
        let name = || rows_name(*generation);
        let at_ms = |epoch, rows: &Batch, row| memory.at_ms(epoch, rows, row);
        let write = || write_rows(store, name, &rows, at_ms);
        let Some(rows) = self.insist("could not write new rows", write) else {
            return;
        };
        written.rows = rows;
        fault_point::reach("checkpoint.part");
        let description = serde_json::to_vec(&written).expect("plain values are always JSON");
        self.shared
            .tell(|state| state.durable[local].push_back((epoch, description)));
    }

    /// Moves the keys of a bucket to disk, and makes the same run durable. None when the end comes
    /// before; no run if they stay in memory.
    fn freeze(&self, local: usize, freeze: &Freeze) -> Option<Option<RunEntry>> {
        let Options {
            store,
            cold,
            generation,
            ..
        } = &self.options;
        let file = match cold.freeze(freeze) {
            Ok(file) => Some(file),
            Err(error) => {
                let detail = error.detail();
                tracing::error!(%error, detail, "could not write to state.dir; its keys stay here");
                None
            }
        };
        let run = file.clone().map(|file| file as Arc<dyn ColdRun>);
        self.shared
            .tell(|state| state.frozen[local].push_back((freeze.bucket, run)));
        let Some(file) = file else {
            return Some(None);
        };
        let upload = || cold.upload(&file, store, &run_name(*generation));
        self.insist("could not write keys that left memory", upload)
            .map(Some)
    }

    /// Publishes a checkpoint of which all parts are durable.
    fn publish(&mut self, (epoch, clock_ms): (u64, Option<i64>), parts: &[Vec<u8>]) {
        self.take_merged();
        let publishing = self.options.publishing.as_mut();
        let publishing = publishing.expect("only process 0 publishes");
        let mut told = Told::new();
        for (description, groups) in parts.iter().zip(&publishing.groups) {
            let written = serde_json::from_slice(description);
            let written = written.expect("a worker of this build has made it");
            let Written {
                runs,
                rows,
                replaced,
                told: of_worker,
            } = written;
            told.extend(of_worker);
            publishing.runs.retain(|run| {
                !(replaced.contains(&run.bucket) && groups.contains(run.first_group))
            });
            publishing.runs.extend(runs);
            publishing.rows.extend(rows);
        }
        let Bound { ends, reference } = publishing.ledger.fold(epoch);
        let (memory, now) = (self.options.memory, (epoch, clock_ms));
        publishing.runs.retain(|run| memory.has_run(run, now));
        memory.forget_rows(&mut publishing.rows, now);
        let next = publishing.appended.next(epoch);

        let publishing = self.options.publishing.as_ref();
        let publishing = publishing.expect("only process 0 publishes");
        let before = publishing.newest.as_ref();
        let (store, generation) = (&self.options.store, self.options.generation);
        let put = || {
            let before = before.and_then(|manifest| manifest.reference.as_ref());
            let reference = match &reference {
                Some(rows) => write_reference(store, generation, rows, before)?,
                None => before.cloned(),
            };
            let mut manifest = Manifest {
                job: publishing.job.clone(),
                number: publishing.number,
                generation,
                epoch,
                written_ms: publishing.clock.now_ms(),
                log: LogPosition {
                    marker: publishing.marker.clone(),
                    next,
                },
                offsets: ends.clone(),
                clock_ms,
                runs: publishing.runs.clone(),
                rows: publishing.rows.clone(),
                reference,
                told: told.clone(),
            };
            fault_point::reach("manifest.put");
            put_manifest(store, &mut manifest)?;
            Ok(manifest)
        };
        let Some(manifest) = self.insist("could not publish a checkpoint", put) else {
            return;
        };
        tracing::debug!(
            epoch,
            number = manifest.number,
            keys = manifest.keys(),
            "published a checkpoint"
        );
        fault_point::reach("manifest.published");
        self.shared.tell(|state| state.settled = epoch);
        self.after(manifest);
        self.merge_rows();
    }

    /// What need not be done before a checkpoint counts.
    fn after(&mut self, manifest: Manifest) {
        let publishing = self.options.publishing.as_mut();
        let publishing = publishing.expect("only process 0 publishes");
        publishing.number = manifest.number + 1;
        (publishing.published)(&manifest, publishing.newest.as_ref());
        publishing.newest = Some(manifest);
        let (store, generation) = (&self.options.store, self.options.generation);
        if let Err(error) = clean(store, generation) {
            tracing::warn!(%error, "could not delete what no checkpoint needs; tried again later");
        }
        if self.merging.is_some() {
            return;
        }
        let mut by_worker: BTreeMap<(usize, i64), Vec<RunEntry>> = BTreeMap::new();
        for run in &publishing.runs {
            let own = |groups: &Groups| groups.contains(run.first_group);
            let worker = publishing.groups.iter().position(own);
            let worker = worker.expect("each key group has an owner");
            let runs = by_worker.entry((worker, run.bucket)).or_default();
            runs.push(run.clone());
        }
        for ((worker, _), runs) in by_worker {
            let groups = &publishing.groups[worker];
            if let Some(chosen) = next_merge(&runs) {
                let chosen = chosen.into_iter().map(|index| runs[index].clone());
                let (store, name) = (Arc::clone(store), run_name(generation));
                self.merging = Some(Merging::start(store, chosen.collect(), *groups, name));
                return;
            }
        }
    }

    /// Puts objects of rows together, those of one worker at a time: they are small.
    fn merge_rows(&mut self) {
        let publishing = self.options.publishing.as_mut();
        let publishing = publishing.expect("only process 0 merges");
        for groups in &publishing.groups {
            // Rows of one key stay in order: what other numbers of workers have left is between.
            let shares = |rows: &&RowsEntry| groups.overlap(rows.groups()).is_some();
            let own = |rows: &RowsEntry| groups.overlap(rows.groups()) == Some(rows.groups());
            let all: Vec<RowsEntry> = publishing.rows.iter().filter(shares).cloned().collect();
            let mut neighbours = all.split(|rows| !own(rows));
            let chosen = neighbours.find_map(|own| next_rows_merge(own).map(|range| &own[range]));
            let Some(chosen) = chosen else {
                continue;
            };
            let name = rows_name(self.options.generation);
            match merge_rows(&self.options.store, chosen, name) {
                Ok(merged) => {
                    let first = publishing.rows.iter().position(|rows| *rows == chosen[0]);
                    publishing.rows[first.expect("it was chosen of these")] = merged;
                    publishing.rows.retain(|rows| !chosen.contains(rows));
                }
                Err(error) => tracing::warn!(%error, "could not merge rows; tried again later"),
            }
        }
    }

    /// Puts a merged run in the place of those that it is made of.
    fn take_merged(&mut self) {
        let Some(merging) = self.merging.take_if(|merging| merging.is_finished()) else {
            return;
        };
        let merged = merging.runs.clone();
        match merging.finish() {
            Ok(run) => {
                let publishing = self.options.publishing.as_mut();
                let publishing = publishing.expect("only process 0 merges");
                if !merged.iter().all(|run| publishing.runs.contains(run)) {
                    // A run that has all keys of the bucket has taken their place.
                    return;
                }
                publishing.runs.retain(|run| !merged.contains(run));
                publishing.runs.extend(run);
            }
            Err(error) => tracing::error!(%error, "could not merge runs; tried again later"),
        }
    }
}

/// The keys of each bucket, in order.
fn sorted(runs: Vec<(i64, KeyRun)>) -> BTreeMap<i64, KeyRun> {
    let mut sorted: BTreeMap<i64, KeyRun> = BTreeMap::new();
    for (bucket, run) in runs {
        match (sorted.get_mut(&bucket), run) {
            (None, run) => drop(sorted.insert(bucket, run)),
            (Some(KeyRun::Narrow(all)), KeyRun::Narrow(keys)) => all.extend(keys),
            (Some(KeyRun::Wide(all)), KeyRun::Wide(keys)) => all.extend(keys),
            _ => unreachable!("a job has keys of one width"),
        }
    }
    for run in sorted.values_mut() {
        match run {
            KeyRun::Narrow(keys) => keys.sort_unstable(),
            KeyRun::Wide(keys) => keys.sort_unstable(),
        }
    }
    sorted
}

#[cfg(test)]
mod tests;
