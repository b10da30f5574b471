//! Which checkpoint a start goes on from, and the state in it: each process loads its part, and
//! finds faults while it does. If one has found a fault, all load the checkpoint before.
//!
//! It is apart from `checkpoints`, which makes them while the job runs.
//!
//! # Invariants
//! * A checkpoint is taken only if every key of it, the reference table and the manifest are good.
//!   One that is not is told of, and the one before it is taken, if the log of bindings reaches
//!   back to it.
//! * All processes of a generation go on from the same one, which process 0 names.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::{Binding, Ends};
use deltajoin_workers::checkpoint::Told;
use deltajoin_workers::key::{KEY_GROUPS, Ownership};
use deltajoin_workers::operators::Join;
use deltajoin_workers::ports::Stop;
use deltajoin_workers::state::{BucketRing, ColdRuns, KeySet, RecentRows, bytes_of_key};

use crate::bindings::{History, Place};
use crate::checkpoint::{
    Error, Groups, Manifest, RowsEntry, Run, RunEntry, Start, Store, list, newest, newest_below,
    read_reference, read_rows, read_start, write_start,
};
use crate::failure::Failure;
use crate::process::Remembered;
use crate::process::cold::Cold;
use crate::process::recorded::Recorded;

/// How long the others wait for what process 0 has written where checkpoints are kept.
const SHARED: Duration = Duration::from_secs(30);

/// What to do if process 0 cannot write there.
const TOLD_THERE: &str = "The processes of a job must be told there what they go on from: make \
                          the location writable, or start the job with one process.";

/// What the log must be read from, if it begins at offset `first`: behind the oldest checkpoint
/// that it reaches back to.
pub(super) fn place(store: &Store, first: u64) -> Result<Option<Place>, Failure> {
    let Some(newest) = newest(store)?.manifest else {
        return Ok(None);
    };
    let all = list(store)?.into_iter().filter_map(|one| one.manifest.ok());
    let oldest = all.into_iter().find(|manifest| manifest.log.next >= first);
    Ok(Some(oldest.unwrap_or(newest).place()?))
}

/// Up to which epoch everything is written, as checkpoints tell it; 0 if there is none.
pub(super) fn made(store: &Store) -> Result<u64, Failure> {
    let newest = newest(store)?.manifest;
    Ok(newest.map_or(0, |manifest| manifest.epoch))
}

/// By partition where it is read from, and how far it is bound.
pub(super) type Ranges = BTreeMap<i32, (i64, i64)>;

/// What a process has loaded.
pub(super) struct Loaded {
    /// The checkpoint; none if there is none.
    pub(super) checkpoint: Option<Manifest>,
    /// What it has bound: where each partition is read from, and the reference table.
    pub(super) bound: Option<Binding>,
    /// By partition where it is read from, and how far it is bound.
    pub(super) ranges: Ranges,
    /// What the generation's marker says of the topics of sinks.
    pub(super) recorded: Recorded,
    /// What each worker of this process remembers.
    pub(super) state: Vec<Option<Remembered>>,
    /// On process 0, the runs of all workers, each in one worker's key groups.
    pub(super) runs: Vec<RunEntry>,
    /// The rows of all workers, if they may be revised still.
    pub(super) rows: Vec<RowsEntry>,
}

/// What rows of the window must have been held with, so that they can be revised.
pub(super) struct RowSettings {
    /// The schema that they have: that of events, or of results.
    pub(super) schema: Arc<BatchSchema>,
    /// How they are found and forgotten.
    pub(super) join: Join,
    /// The settings, as markers have them.
    pub(super) settings: BTreeMap<String, String>,
}

/// Loads, further back at each attempt.
pub(super) struct Loading {
    store: Arc<Store>,
    cold: Cold,
    reference: Arc<BatchSchema>,
    rows: RowSettings,
    /// The key groups of each worker of the job, and which of them are of this process.
    groups: Vec<Groups>,
    own: Range<usize>,
    /// On process 0, which chooses, from where on the log has been read.
    reaches: Option<u64>,
    attempt: u32,
    /// On process 0, what is loaded at this attempt.
    chosen: Option<(Start, Option<Manifest>)>,
    /// The checkpoint that has a fault, and which, if this process has found it.
    faulty: Option<(Manifest, Option<Error>)>,
    /// The number of the next checkpoint.
    pub(super) number: u64,
    /// What was loaded at the last attempt, if that is good.
    pub(super) loaded: Option<Loaded>,
}

impl Loading {
    /// Of a process with the workers `own`; `reaches` is from where on process 0 has read the log.
    pub(super) fn new(
        (store, cold): (Arc<Store>, Cold),
        reference: Arc<BatchSchema>,
        rows: RowSettings,
        (groups, own): (Vec<Groups>, Range<usize>),
        reaches: Option<u64>,
    ) -> Self {
        Self {
            store,
            cold,
            reference,
            rows,
            groups,
            own,
            reaches,
            attempt: 0,
            chosen: None,
            faulty: None,
            number: 0,
            loaded: None,
        }
    }

    /// The key groups of each worker of the job.
    pub(super) fn groups(&self) -> &[Groups] {
        &self.groups
    }

    /// Chooses the newest checkpoint, or the one before the last attempt's, and tells the other
    /// processes: for process 0, which knows what is bound behind it.
    pub(super) fn choose(&mut self, generation: u64, history: &History) -> Result<(), Failure> {
        let Some(reaches) = self.reaches else {
            return Ok(());
        };
        self.unload();
        let chosen = self.newest_below_fault(reaches)?;
        let marker = history.markers.last();
        let start = Start {
            checkpoint: chosen.as_ref().map(|manifest| manifest.number),
            ranges: ranges(chosen.as_ref(), &history.bindings),
            settings: marker.map_or_else(BTreeMap::new, |(_, own)| own.settings.clone()),
        };
        // A process that is alone tells nobody.
        if self.own.len() < self.groups.len() {
            let written = write_start(&self.store, (generation, self.attempt), &start);
            written.map_err(|error| Failure::from(error).hint(TOLD_THERE))?;
        }
        self.chosen = Some((start, chosen));
        Ok(())
    }

    /// Makes room for what is loaded next. What was loaded, others have found a fault in.
    fn unload(&mut self) {
        let before = self.loaded.take().and_then(|loaded| loaded.checkpoint);
        if let Some(manifest) = before {
            self.faulty = Some((manifest, None));
        }
    }

    /// Loads the checkpoint that process 0 has chosen. Returns whether this process has found no
    /// fault in it.
    pub(super) fn attempt(&mut self, generation: u64, stop: &Stop) -> Result<bool, Failure> {
        self.unload();
        let attempt = (generation, self.attempt);
        self.attempt += 1;
        let chosen = match self.chosen.take() {
            Some(chosen) => Ok(chosen),
            None => read_start(&self.store, attempt, SHARED, stop),
        };
        let manifest = match &chosen {
            Ok((_, checkpoint)) => checkpoint.clone(),
            Err(_) => None,
        };
        match chosen.and_then(|(start, checkpoint)| self.load(checkpoint, start)) {
            Ok(loaded) => self.loaded = Some(loaded),
            // The manifest is of this program's version, and so is what it names.
            Err(error) if error.is_damage() || matches!(error, Error::Version { .. }) => {
                let number = manifest.as_ref().map(|manifest| manifest.number);
                tracing::error!(%error, number, "going back to the checkpoint before this one");
                self.faulty = manifest.map(|manifest| (manifest, Some(error)));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(self.loaded.is_some())
    }

    /// The checkpoint to be loaded, on process 0.
    fn newest_below_fault(&mut self, reaches: u64) -> Result<Option<Manifest>, Error> {
        let Some((faulty, error)) = self.faulty.take() else {
            let newest = newest(&self.store)?;
            self.number = newest.next_number;
            return Ok(newest.manifest);
        };
        let found = match newest_below(&self.store, faulty.number) {
            Err(none) if none.is_damage() => None,
            found => found?.manifest,
        };
        // The log tells what comes behind it only so far back.
        match found.filter(|manifest| manifest.log.next >= reaches) {
            Some(manifest) => Ok(Some(manifest)),
            None => Err(error.unwrap_or_else(|| Error::Damaged {
                name: faulty.name(),
                reason: "another process has found a fault in what it names".to_owned(),
            })),
        }
    }

    /// Loads this process's part of a checkpoint.
    fn load(&self, checkpoint: Option<Manifest>, start: Start) -> Result<Loaded, Error> {
        let (ranges, recorded) = (start.ranges, Recorded(start.settings));
        let own = &self.groups[self.own.clone()];
        let Some(manifest) = checkpoint else {
            let empty = (0..own.len()).map(|local| {
                Some(Remembered {
                    keys: BucketRing::new(self.narrow()).limited(self.cold.limit),
                    recent: self.no_rows(local),
                    told: Told::new(),
                })
            });
            return Ok(Loaded {
                checkpoint: None,
                bound: None,
                ranges,
                recorded,
                state: empty.collect(),
                runs: Vec::new(),
                rows: Vec::new(),
            });
        };
        let rows = self.rows_to_revise(&manifest)?;
        let store = &*self.store;
        let bound = bound(store, &manifest, &self.reference)?;
        let runs = match self.reaches {
            Some(_) => runs(store, &manifest, &self.groups)?,
            None => Vec::new(),
        };
        let state = std::thread::scope(|scope| {
            let of_worker = |local: usize| {
                let (manifest, rows) = (&manifest, &rows);
                scope.spawn(move || self.of_worker(manifest, rows, local))
            };
            let readers: Vec<_> = (0..own.len()).map(of_worker).collect();
            let sets = readers.into_iter().map(|reader| match reader.join() {
                Ok(set) => set.map(Some),
                Err(panic) => std::panic::resume_unwind(panic),
            });
            sets.collect::<Result<_, _>>()
        })?;
        Ok(Loaded {
            checkpoint: Some(manifest),
            bound: Some(bound),
            ranges,
            recorded,
            state,
            runs,
            rows,
        })
    }

    /// The rows of a checkpoint, unless they were written with other settings. Then no later
    /// checkpoint has them either: by its settings one could not tell them from its own.
    fn rows_to_revise(&self, manifest: &Manifest) -> Result<Vec<RowsEntry>, Error> {
        if manifest.rows.is_empty() {
            return Ok(Vec::new());
        }
        let made = manifest.place()?.marker.1.settings;
        let mut settings = self.rows.settings.iter();
        // One of which a marker says nothing was not known to whoever wrote it.
        if !settings.all(|(name, now)| made.get(name).is_none_or(|made| made == now)) {
            tracing::warn!("rows that were written with other settings are not revised");
            return Ok(Vec::new());
        }
        Ok(manifest.rows.clone())
    }

    fn narrow(&self) -> bool {
        self.rows.schema.schema.key_is_narrow()
    }

    /// The rows of the window of a worker of this process, before any is loaded.
    fn no_rows(&self, local: usize) -> RecentRows {
        self.rows.join.recent_rows(Some(self.cold.rows(local)))
    }

    /// What a worker of this process remembers.
    fn of_worker(
        &self,
        manifest: &Manifest,
        held: &[RowsEntry],
        local: usize,
    ) -> Result<Remembered, Error> {
        let (store, groups) = (&*self.store, self.groups[self.own.start + local]);
        let keys = keys((store, &self.cold), manifest, groups, self.narrow())?;
        let own = |entry: &&RowsEntry| entry.groups().overlap(groups).is_some();
        // One object after the other: what is too much of them is on disk before the next is read.
        let mut recent = self.no_rows(local);
        for entry in held.iter().filter(own) {
            let rows = read_rows(store, entry, groups, &self.rows.schema)?;
            rows.into_iter().for_each(|kept| recent.restore(kept));
        }
        let told = manifest.told.range(groups.first..=groups.last);
        let told = told.map(|(group, letters)| (*group, *letters)).collect();
        Ok(Remembered { keys, recent, told })
    }
}

/// The key groups of each worker.
pub(super) fn groups(ownership: &Ownership, workers: usize) -> Vec<Groups> {
    let of_worker = |worker: usize| {
        let mut own = (0..KEY_GROUPS).filter(|group| ownership.worker(*group) == worker);
        let first = own.next().expect("a worker owns a key group at least");
        let group = |group| u16::try_from(group).expect("there are 1024");
        Groups {
            first: group(first),
            last: group(own.next_back().unwrap_or(first)),
        }
    };
    (0..workers).map(of_worker).collect()
}

/// The keys of these key groups: the newest buckets in memory, as far as they fit into half of what
/// there may be.
fn keys(
    (store, cold): (&Store, &Cold),
    manifest: &Manifest,
    groups: Groups,
    narrow: bool,
) -> Result<BucketRing, Error> {
    let mut buckets: BTreeMap<i64, Vec<(RunEntry, Run<'_>)>> = BTreeMap::new();
    for entry in &manifest.runs {
        if entry.groups().overlap(groups).is_none() {
            continue;
        }
        let run = Run::open(store, entry)?;
        if let Some(own) = run.restrict(groups) {
            buckets.entry(entry.bucket).or_default().push((own, run));
        }
    }
    let mut room = cold.limit.bytes / 2;
    let mut loaded = Vec::new();
    for (bucket, mut runs) in buckets.into_iter().rev() {
        let keys: u64 = runs.iter().map(|(own, _)| own.keys).sum();
        let bytes = keys * bytes_of_key(narrow);
        let mut on_disk: ColdRuns = Vec::new();
        if bytes <= room {
            room -= bytes;
        } else {
            let mut stay = Vec::new();
            for (own, run) in runs {
                let leaves = own.keys >= cold.limit.keys_min;
                let file = leaves.then(|| cold.load(&run, &own)).transpose()?;
                match file.flatten() {
                    Some(file) => on_disk.push(file),
                    None => stay.push((own, run)),
                }
            }
            runs = stay;
        }
        let set = keys_of_bucket(&runs, groups, narrow)?;
        loaded.push((bucket, set, on_disk));
    }
    Ok(BucketRing::partly_cold(narrow, loaded).limited(cold.limit))
}

fn keys_of_bucket(
    runs: &[(RunEntry, Run<'_>)],
    groups: Groups,
    narrow: bool,
) -> Result<KeySet, Error> {
    let mut set = KeySet::new(narrow);
    for group in groups.first..=groups.last {
        let only = Groups::only(group);
        let parts = runs.iter().filter_map(|(_, run)| run.restrict(only));
        set.reserve(usize::from(group), parts.map(|part| part.keys).sum());
    }
    for (_, run) in runs {
        for piece in run.read(groups) {
            set.extend(&piece?);
        }
    }
    Ok(set)
}

/// The runs of a checkpoint, each cut into the key groups of single workers.
fn runs(store: &Store, manifest: &Manifest, groups: &[Groups]) -> Result<Vec<RunEntry>, Error> {
    let mut runs = Vec::new();
    for entry in &manifest.runs {
        let run = Run::open(store, entry)?;
        let parts = groups.iter().filter_map(|groups| run.restrict(*groups));
        let parts: Vec<RunEntry> = parts.collect();
        let keys: u64 = parts.iter().map(|part| part.keys).sum();
        if keys != entry.keys {
            let reason = format!("it has {keys} keys, not {}", entry.keys);
            let name = entry.name.clone();
            return Err(Error::Damaged { name, reason });
        }
        runs.extend(parts);
    }
    Ok(runs)
}

/// What a checkpoint has bound: where each partition is read from, and the reference table.
fn bound(store: &Store, manifest: &Manifest, schema: &Arc<BatchSchema>) -> Result<Binding, Error> {
    let reference = match &manifest.reference {
        Some(entry) => read_reference(store, entry, Arc::clone(schema))?,
        None => Vec::new(),
    };
    let offsets = manifest.offsets.iter();
    Ok(Binding {
        epoch: manifest.epoch,
        ends: offsets.map(|(partition, end)| (*partition, *end)).collect(),
        reference,
        skipped: Vec::new(),
        clock_ms: manifest.clock_ms,
    })
}

/// Where each partition is read from, and how far it is bound: of a job with these bindings that
/// goes on from a checkpoint, or from its first binding. A partition that came later is read from
/// its beginning, and one of which nothing was left from where reading went on.
fn ranges(checkpoint: Option<&Manifest>, bindings: &[Binding]) -> Ranges {
    let (first, behind): (Ends, u64) = match checkpoint {
        Some(manifest) => {
            let offsets = manifest.offsets.iter();
            let ends = offsets.map(|(partition, end)| (*partition, *end));
            (ends.collect(), manifest.epoch)
        }
        None => {
            let first = bindings.first();
            first.map_or_else(Default::default, |first| (first.ends.clone(), first.epoch))
        }
    };
    let first = first.iter();
    let mut ranges: Ranges = first
        .map(|(partition, end)| (*partition, (*end, *end)))
        .collect();
    for binding in bindings.iter().filter(|binding| binding.epoch > behind) {
        extend(&mut ranges, binding);
    }
    ranges
}

/// Takes in the next binding.
pub(super) fn extend(ranges: &mut Ranges, binding: &Binding) {
    for skipped in &binding.skipped {
        let range = ranges.entry(skipped.partition).or_insert((0, 0));
        // What is bound before it must be made again: then it is not gone on without it.
        if *range == (skipped.from, skipped.from) {
            *range = (skipped.to, skipped.to);
        }
    }
    for (partition, end) in &binding.ends {
        ranges.entry(*partition).or_insert((0, 0)).1 = *end;
    }
}

#[cfg(test)]
mod tests;
