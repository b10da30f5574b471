//! Count, then crash: the job dies before and after each of its durable steps, and comes back with
//! another number of workers; what its sinks then hold is compared with what the bindings say.
//!
//! Dying is modelled by what survives: from the fatal step on, nothing that the run does is kept,
//! though the run itself is told that it is. The next run starts from what was kept.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deltajoin_workers::batch::{Batch, Slot};
use deltajoin_workers::bindings::{Binding, BindingLog, Replay};
use deltajoin_workers::dataflow::{Engine, Plan, Ports, SinkPort, reader};
use deltajoin_workers::key::{Ownership, key_group};
use deltajoin_workers::operators::Unmatched;
use deltajoin_workers::ports::{Block, Sink, Stop};
use deltajoin_workers::queue::{InFlight, Sender, Waker, queue};
use deltajoin_workers::worker::{self, Settings};

use crate::oracle::{Random, naive, seeds};
use crate::script::{
    Epoch, Event, Setup, block, event_schema, join_settings, reference_block, text,
};
use crate::step_loop::{Seen, Since};

const SHARDS: usize = 16;

/// The table of the reference as a test holds it.
type Table = BTreeMap<i64, String>;

/// What survives a crash.
#[derive(Default)]
struct Kept {
    bindings: Vec<Binding>,
    sinks: BTreeMap<&'static str, KeptSink>,
    /// Durable steps since the start of the run.
    steps: u64,
    /// From this step on nothing is kept.
    dies_at: u64,
}

/// What one sink has committed.
#[derive(Clone, Default)]
struct KeptSink {
    rows: BTreeMap<u64, Vec<(String, i64)>>,
    /// For each shard the newest epoch that is committed.
    progress: [u64; SHARDS],
}

impl Kept {
    /// Does a durable step, if the run still lives.
    fn step(&mut self, step: impl FnOnce(&mut Self)) {
        self.steps += 1;
        if self.steps < self.dies_at {
            step(self);
        }
    }

    /// The reference as the bindings make it.
    fn table(&self) -> Table {
        let mut table = Table::new();
        let batches = self.bindings.iter().flat_map(|binding| &binding.reference);
        for (location, name) in batches.flat_map(changes) {
            match name {
                Some(name) => table.insert(location, name),
                None => table.remove(&location),
            };
        }
        table
    }
}

/// The changes of a batch: a location, and its new name if it has one.
fn changes(batch: &Batch) -> impl Iterator<Item = (i64, Option<String>)> {
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
fn difference(from: &Table, to: &Table) -> Vec<(i64, Option<String>)> {
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
struct Log {
    kept: Arc<Mutex<Kept>>,
    pending: Mutex<VecDeque<Binding>>,
    durable: std::sync::atomic::AtomicU64,
    waker: Option<Waker>,
}

impl BindingLog for Log {
    fn append(&mut self, binding: Binding) {
        self.pending.lock().unwrap().push_back(binding);
        self.waker.as_ref().unwrap()();
    }

    fn durable(&self) -> u64 {
        use std::sync::atomic::Ordering::Relaxed;
        let mut pending = self.pending.lock().unwrap();
        if let Some(binding) = pending.pop_front() {
            let mut kept = self.kept.lock().unwrap();
            kept.step(|kept| kept.bindings.push(binding));
            self.durable.fetch_add(1, Relaxed);
            self.waker.as_ref().unwrap()();
        }
        self.durable.load(Relaxed)
    }

    fn wake_by(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }
}

/// A sink that commits an epoch's rows and how far it is, both or neither.
struct Committing {
    kept: Arc<Mutex<Kept>>,
    name: &'static str,
    ownership: Ownership,
    committed: KeptSink,
    open: Vec<(usize, String, i64)>,
    written: u64,
}

impl Committing {
    fn port(kept: &Arc<Mutex<Kept>>, name: &'static str, workers: usize) -> Box<dyn Sink> {
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

/// What the job reads, which crashes do not change.
struct World {
    partitions: Vec<Vec<Option<Event>>>,
    /// The reference at first, and after a change.
    tables: [Table; 2],
}

impl World {
    fn random(random: &mut Random) -> Self {
        let record = |random: &mut Random| {
            (random.below(20) > 0).then(|| Event {
                id: random.below(80) as i64,
                location: (random.below(15) > 0).then(|| random.below(8) as i64),
                item: format!("item{}", random.below(3)),
            })
        };
        let partitions = 1 + random.below(4);
        let table = |random: &mut Random, name: &str| {
            let rows = (0..8).filter(|_| random.below(5) > 0);
            rows.map(|location| (location, format!("{name}{location}")))
                .collect()
        };
        // Rows of the two tables differ in parts.
        let first: Table = table(random, "a");
        let mut second = first.clone();
        second.extend(
            table(random, "b")
                .into_iter()
                .filter(|(location, _)| location % 2 == 0),
        );
        second.remove(&(random.below(8) as i64));
        Self {
            partitions: (0..partitions)
                .map(|_| {
                    (0..40 + random.below(120))
                        .map(|_| record(random))
                        .collect()
                })
                .collect(),
            tables: [first, second],
        }
    }

    /// Hands over what a worker reads, from the beginning, in blocks of any size.
    fn read(&self, worker: usize, workers: usize, seed: u64, sender: &Sender<Block>) {
        let mut random = Random::new(seed + worker as u64);
        let mut next: BTreeMap<usize, usize> = (0..self.partitions.len())
            .filter(|partition| reader(*partition as i32, workers) == worker)
            .map(|partition| (partition, 0))
            .collect();
        while let Some((&partition, _)) = {
            let index = random.below(next.len().max(1) as u64) as usize;
            next.iter().nth(index)
        } {
            let records = &self.partitions[partition];
            let from = next[&partition];
            let to = (from + 1 + random.below(30) as usize).min(records.len());
            let block = block(
                &event_schema(false),
                partition as i32,
                from as i64,
                &records[from..to],
            );
            assert!(sender.send(block, 10 * (to - from)));
            if to == records.len() {
                next.remove(&partition);
            } else {
                next.insert(partition, to);
            }
            if random.below(4) == 0 {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        sender.finish();
    }
}

/// Runs the job from what was kept until it has read all.
fn run(world: &Arc<World>, kept: &Arc<Mutex<Kept>>, workers: usize, seed: u64) {
    let (world, kept) = (Arc::clone(world), Arc::clone(kept));
    let clock = Arc::new(Since(Instant::now()));
    // Room for a few blocks: readers are throttled, also within bound epochs.
    let in_flight = InFlight::new(400);
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let index = worker.index();
        let (sender, events) = queue(Arc::clone(&in_flight));
        let (changes, reference) = queue(InFlight::new(1 << 20));
        let mut replay = Replay::default();
        if index == 0 {
            let kept = kept.lock().unwrap();
            replay.bindings = kept.bindings.iter().cloned().collect();
            replay.newest = kept.bindings.last().map_or(0, |binding| binding.epoch);
            // The table that is there now, as a difference from the one that is bound.
            let (mut table, world) = (kept.table(), Arc::clone(&world));
            std::thread::spawn(move || {
                for now in &world.tables[(seed % 2) as usize..] {
                    // A refusal means that the job is done.
                    let rows = difference(&table, now);
                    if !changes.send(reference_block(&rows, true), 1) {
                        return;
                    }
                    table.clone_from(now);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let (world, at) = (Arc::clone(&world), (index, worker.peers()));
        std::thread::spawn(move || world.read(at.0, at.1, seed, &sender));
        let first = index == 0;
        let log = Log {
            kept: Arc::clone(&kept),
            pending: Mutex::default(),
            durable: Default::default(),
            waker: None,
        };
        let ports = Ports {
            first_of_process: first,
            events: Rc::new(events),
            epoch_bytes_max: 100,
            reference: first.then(|| Rc::new(reference)),
            replay,
            bindings: first.then(|| Box::new(log) as _),
            sinks: vec![SinkPort {
                name: "rows".to_owned(),
                single_writer: false,
                sink: Some(Committing::port(&kept, "rows", at.1)),
            }],
            dead_letters: SinkPort {
                name: "dead".to_owned(),
                single_writer: true,
                sink: first.then(|| Committing::port(&kept, "dead", at.1)),
            },
        };
        let settings = Settings {
            plan: Plan {
                engine: Engine::Production,
                shards: SHARDS,
                narrow_key: true,
                join: join_settings(Unmatched::Keep, false),
            },
            tick: Duration::from_micros(200),
            clock: Arc::<Since>::clone(&clock) as _,
            observer: Arc::new(Seen::default()),
            stop: Arc::<Stop>::default(),
        };
        worker::run(worker, settings, ports);
    });
    drop(guards.unwrap());
}

/// What the bindings say that the sinks must hold, by epoch.
fn check(world: &World, kept: &Kept) {
    let mut from: BTreeMap<i32, i64> = BTreeMap::new();
    let script: Vec<Epoch> = kept
        .bindings
        .iter()
        .map(|binding| {
            let mut epoch = Epoch::default();
            for (partition, end) in &binding.ends {
                let from = from.insert(*partition, *end).unwrap_or(0);
                assert!(from < *end, "a partition only goes on");
                let records = &world.partitions[*partition as usize];
                let range = &records[from as usize..*end as usize];
                epoch.records.insert(*partition, range.to_vec());
            }
            for batch in &binding.reference {
                epoch.reference.extend(changes(batch));
            }
            epoch
        })
        .collect();
    for (partition, records) in world.partitions.iter().enumerate() {
        let bound = from.get(&(partition as i32)).copied().unwrap_or(0);
        assert_eq!(bound, records.len() as i64, "all records are bound");
    }
    let setup = Setup {
        engine: Engine::Production,
        workers: 1,
        unmatched: Unmatched::Keep,
        wide: false,
        block: 1,
    };
    let expected = naive(setup, &script);
    let epochs: Vec<u64> = kept.bindings.iter().map(|binding| binding.epoch).collect();
    for (name, expected) in [("rows", expected.rows), ("dead", expected.dead_letters)] {
        let expected: BTreeMap<u64, _> = expected
            .into_iter()
            .map(|(index, rows)| (epochs[index as usize - 1], rows))
            .collect();
        let mut sink = kept.sinks.get(name).cloned().unwrap_or_default();
        sink.rows.values_mut().for_each(|rows| rows.sort_unstable());
        assert_eq!(sink.rows, expected, "sink {name}");
    }
}

#[test]
#[allow(
    clippy::print_stdout,
    reason = "shown when the test fails, wherever in it"
)]
fn whatever_step_it_dies_at_each_row_is_written_once() {
    let mut steps = 0;
    for seed in seeds(3) {
        println!("DELTAJOIN_SEED={seed}");
        let mut random = Random::new(seed);
        let world = Arc::new(World::random(&mut random));
        let mut dies_at = 1;
        loop {
            let kept = Arc::new(Mutex::new(Kept {
                dies_at,
                ..Kept::default()
            }));
            let workers = || 1 + random.below(4) as usize;
            let mut workers: Vec<usize> = std::iter::repeat_with(workers).take(3).collect();
            run(&world, &kept, workers.pop().unwrap(), seed);
            let lived = kept.lock().unwrap().steps < dies_at;
            if lived {
                check(&world, &kept.lock().unwrap());
                break;
            }
            // It dies once more while it comes back, then lives.
            let again = 1 + random.below(8);
            for (workers, dies_at) in workers.into_iter().zip([again, u64::MAX]) {
                let mut now = kept.lock().unwrap();
                (now.steps, now.dies_at) = (0, dies_at);
                drop(now);
                run(&world, &kept, workers, seed + dies_at % 7);
            }
            check(&world, &kept.lock().unwrap());
            dies_at += 1;
        }
        steps += dies_at;
    }
    assert!(steps > 10, "there are steps to die at: {steps}");
}
