//! What survives a crash, and the durable steps that make it: bindings, rows and progress, parts of
//! checkpoints.
//!
//! Apart from `crash`, which runs the job and judges what it leaves.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use deltajoin_workers::batch::{Batch, BatchBuilder, Origin, Slot};
use deltajoin_workers::bindings::{Binding, BindingLog};
use deltajoin_workers::checkpoint::{self, Checkpoints, KeyRun, Part, Told};
use deltajoin_workers::key::{KEY_GROUPS, Ownership, key_group};
use deltajoin_workers::ports::Sink;
use deltajoin_workers::queue::Waker;
use deltajoin_workers::state::{ColdRun, Found, Freeze};

use crate::script::text;
use crate::setup::reference_schema;

/// Units of ownership.
pub(crate) const SHARDS: usize = 16;

/// The table of the reference as a test holds it.
pub(crate) type Table = BTreeMap<i64, String>;

/// What survives a crash.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) bindings: Vec<Binding>,
    pub(crate) sinks: BTreeMap<&'static str, KeptSink>,
    /// What workers have handed over, by epoch and worker.
    pub(crate) parts: BTreeMap<(u64, usize), Part>,
    /// The newest checkpoint: its epoch, all keys seen up to then, by bucket, and all rows.
    pub(crate) checkpoint: (u64, BTreeMap<i64, KeyRun>, Vec<checkpoint::Kept>),
    /// The conflicts that were told in its minute.
    pub(crate) told: Told,
    /// Its expiry clock.
    pub(crate) clock_ms: Option<i64>,
    /// How many were published.
    pub(crate) published: usize,
    /// Durable steps since the start of the run.
    pub(crate) steps: u64,
    /// From this step on nothing is kept.
    pub(crate) dies_at: u64,
}

/// What one sink has committed.
#[derive(Clone, Default)]
pub(crate) struct KeptSink {
    pub(crate) rows: BTreeMap<u64, Vec<(String, i64)>>,
    /// For each shard the newest epoch that is committed.
    pub(crate) progress: [u64; SHARDS],
}

impl Kept {
    /// Does a durable step, if the run still lives.
    pub(crate) fn step(&mut self, step: impl FnOnce(&mut Self)) {
        self.steps += 1;
        if self.steps < self.dies_at {
            step(self);
        }
    }

    /// The reference as the bindings up to an epoch make it.
    pub(crate) fn table(&self, epoch: u64) -> Table {
        let rows = self.versions(epoch).into_iter();
        rows.map(|(location, (name, _))| (location, name)).collect()
    }

    /// The same as a change that makes all of it, for a job with versions or without.
    pub(crate) fn whole_table(&self, epoch: u64, versions: bool) -> Batch {
        let mut rows = BatchBuilder::new(reference_schema(versions));
        for (location, (name, version)) in self.versions(epoch) {
            let slots = [
                Slot::Int64(location),
                Slot::String(name.into()),
                Slot::Int64(version.cast_signed()),
            ];
            rows.push(&slots[..2 + usize::from(versions)], Origin::default(), 1);
        }
        rows.finish()
    }

    /// With each row the epoch from which on it is as it is.
    fn versions(&self, epoch: u64) -> BTreeMap<i64, (String, u64)> {
        let mut table = BTreeMap::<i64, (String, u64)>::new();
        for binding in self.bindings.iter().filter(|one| one.epoch <= epoch) {
            let last: BTreeMap<_, _> = binding.reference.iter().flat_map(changes).collect();
            for (location, name) in last {
                match (name, table.get(&location)) {
                    (None, _) => drop(table.remove(&location)),
                    (Some(name), Some((known, _))) if name == *known => {}
                    (Some(name), _) => drop(table.insert(location, (name, binding.epoch))),
                }
            }
        }
        table
    }
}

/// Keys of any width, whole.
pub(crate) fn keys_of(run: &KeyRun) -> Vec<u128> {
    match run {
        KeyRun::Narrow(keys) => keys.iter().map(|key| u128::from(*key) << 64).collect(),
        KeyRun::Wide(keys) => keys.clone(),
    }
}

/// The high half of a key.
pub(crate) fn high(key: u128) -> u64 {
    (key >> 64) as u64
}

/// The changes of a batch: a location, and its new name if it has one.
pub(crate) fn changes(batch: &Batch) -> impl Iterator<Item = (i64, Option<String>)> {
    (0..batch.len()).map(|row| {
        let Slot::Int64(location) = batch.slot(0, row) else {
            panic!("a location is a number");
        };
        match batch.slot(1, row) {
            Slot::String(name) if batch.diffs()[row] > 0 => (location, Some(name.into_owned())),
            _ => (location, None),
        }
    })
}

/// What turns one table into another.
pub(crate) fn difference(from: &Table, to: &Table) -> Vec<(i64, Option<String>)> {
    let removed = from.keys().filter(|location| !to.contains_key(location));
    let changed = to
        .iter()
        .filter(|(location, name)| from.get(location) != Some(name));
    removed
        .map(|location| (*location, None))
        .chain(changed.map(|(location, name)| (*location, Some(name.clone()))))
        .collect()
}

/// A log whose appends become durable one by one, some time after they are made.
pub(crate) struct Log {
    kept: Arc<Mutex<Kept>>,
    pending: Mutex<VecDeque<Binding>>,
    durable: AtomicU64,
    /// How often it was asked what is durable.
    asked: AtomicU64,
    waker: Option<Waker>,
}

impl Log {
    pub(crate) fn new(kept: &Arc<Mutex<Kept>>) -> Self {
        Self {
            kept: Arc::clone(kept),
            pending: Mutex::default(),
            durable: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            waker: None,
        }
    }
}

impl BindingLog for Log {
    fn append(&mut self, binding: Binding) {
        self.pending.lock().unwrap().push_back(binding);
        self.waker.as_ref().unwrap()();
    }

    fn durable(&self) -> u64 {
        let mut pending = self.pending.lock().unwrap();
        // Not at once: rows that did not wait would be seen before.
        let waits = !self.asked.fetch_add(1, Relaxed).is_multiple_of(3);
        if !waits && let Some(binding) = pending.pop_front() {
            let mut kept = self.kept.lock().unwrap();
            kept.step(|kept| kept.bindings.push(binding));
            self.durable.fetch_add(1, Relaxed);
        }
        if waits || !pending.is_empty() {
            self.waker.as_ref().unwrap()();
        }
        self.durable.load(Relaxed)
    }

    fn wake_by(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }
}

/// A sink that commits an epoch's rows and how far it is, both or neither.
pub(crate) struct Committing {
    kept: Arc<Mutex<Kept>>,
    name: &'static str,
    ownership: Ownership,
    committed: KeptSink,
    open: Vec<(usize, String, i64)>,
    written: u64,
}

impl Committing {
    pub(crate) fn port(
        kept: &Arc<Mutex<Kept>>,
        name: &'static str,
        workers: usize,
    ) -> Box<dyn Sink> {
        let committed = kept.lock().unwrap().sinks.get(name).cloned();
        Box::new(Self {
            kept: Arc::clone(kept),
            name,
            ownership: Ownership::new(SHARDS, workers),
            committed: committed.unwrap_or_default(),
            open: Vec::new(),
            written: 0,
        })
    }
}

impl Sink for Committing {
    fn write(&mut self, epoch: u64, rows: Batch) {
        for row in 0..rows.len() {
            let shard = self.ownership.shard(key_group(rows.keys().high()[row]));
            if epoch > self.committed.progress[shard] {
                let diff = i64::from(rows.diffs()[row]);
                self.open.push((shard, text(&rows, row), diff));
            }
        }
    }

    fn close(&mut self, epoch: u64) {
        self.written = epoch + 1;
        let rows = std::mem::take(&mut self.open);
        if rows.is_empty() {
            return;
        }
        self.kept.lock().unwrap().step(|kept| {
            let bound = kept.bindings.last().map_or(0, |binding| binding.epoch);
            assert!(epoch <= bound, "no row is seen before its epoch is bound");
            let sink = kept.sinks.entry(self.name).or_default();
            for (shard, text, diff) in rows {
                sink.progress[shard] = epoch;
                sink.rows.entry(epoch).or_default().push((text, diff));
            }
        });
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn wake_by(&mut self, _: Waker) {}
}

/// Keys that have left memory.
#[derive(Debug)]
pub(crate) struct Cold(BTreeSet<u128>);

impl Cold {
    /// Keys that had left it before.
    pub(crate) fn from(keys: impl Iterator<Item = u128>) -> Arc<dyn ColdRun> {
        Arc::new(Self(keys.collect()))
    }

    fn of(freeze: &Freeze) -> Self {
        let sets = freeze.sets.iter();
        let mut keys: BTreeSet<u128> = sets
            .flat_map(|set| (0..KEY_GROUPS).flat_map(|group| set.group(group)))
            .collect();
        for key in keys_of(&freeze.later) {
            assert!(keys.remove(&key), "they are in memory");
        }
        for before in &freeze.cold {
            let before: &dyn Any = &**before;
            keys.extend(&before.downcast_ref::<Self>().unwrap().0);
        }
        Self(keys)
    }
}

impl ColdRun for Cold {
    fn find(&self, key: u128) -> Found {
        match self.0.contains(&key) {
            true => Found::Yes,
            false => Found::No,
        }
    }

    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn retire(&self) {}
}

/// Makes checkpoints all the time; a worker's part and the publishing are durable steps.
pub(crate) struct Keeping {
    kept: Arc<Mutex<Kept>>,
    worker: usize,
    parts: VecDeque<u64>,
    frozen: VecDeque<(i64, Option<Arc<dyn ColdRun>>)>,
    /// The epoch that was asked for last is settled.
    idle: bool,
    settled: u64,
    waker: Option<Waker>,
}

impl Keeping {
    pub(crate) fn port(kept: &Arc<Mutex<Kept>>, worker: usize) -> Box<dyn Checkpoints> {
        Box::new(Self {
            kept: Arc::clone(kept),
            worker,
            parts: VecDeque::new(),
            frozen: VecDeque::new(),
            idle: true,
            settled: 0,
            waker: None,
        })
    }
}

impl Checkpoints for Keeping {
    fn due(&mut self) -> bool {
        std::mem::replace(&mut self.idle, false)
    }

    fn freeze(&mut self, part: Part) {
        let epoch = part.epoch;
        for freeze in &part.frozen {
            // Now and then it cannot be done.
            let done = !epoch.is_multiple_of(5);
            let run = done.then(|| Arc::new(Cold::of(freeze)) as _);
            self.frozen.push_back((freeze.bucket, run));
        }
        let step = |kept: &mut Kept| drop(kept.parts.insert((epoch, self.worker), part));
        self.kept.lock().unwrap().step(step);
        self.parts.push_back(epoch);
        self.waker.as_ref().unwrap()();
    }

    fn durable(&mut self) -> Option<(u64, Vec<u8>)> {
        let epoch = self.parts.pop_front()?;
        Some((epoch, vec![self.worker as u8]))
    }

    fn frozen(&mut self) -> Option<(i64, Option<Arc<dyn ColdRun>>)> {
        self.frozen.pop_front()
    }

    fn publish(&mut self, epoch: u64, clock_ms: Option<i64>, parts: Vec<Vec<u8>>) {
        self.kept.lock().unwrap().step(|kept| {
            let bound = kept.bindings.iter().any(|binding| binding.epoch == epoch);
            assert!(
                bound,
                "otherwise a newer generation may have bound some before it"
            );
            kept.checkpoint.0 = epoch;
            kept.clock_ms = clock_ms;
            kept.told.clear();
            for (worker, description) in parts.iter().enumerate() {
                assert_eq!(*description, [worker as u8], "in the order of the workers");
                let part = kept.parts[&(epoch, worker)].clone();
                for (bucket, run) in part.keys {
                    let none = KeyRun::none(run.is_narrow());
                    kept.checkpoint.1.entry(bucket).or_insert(none).extend(&run);
                }
                kept.checkpoint.2.extend(part.rows);
                for (group, letters) in part.told {
                    let before = kept.told.insert(group, letters);
                    assert_eq!(before, None, "a key group has one owner");
                }
            }
            kept.published += 1;
        });
        (self.settled, self.idle) = (epoch, true);
        self.waker.as_ref().unwrap()();
    }

    fn settled(&self) -> u64 {
        self.settled
    }

    fn wake_by(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }
}
