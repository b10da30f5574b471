//! Count, then crash: the job dies before and after each of its durable steps, and comes back with
//! another number of workers; what its sinks then hold is compared with what the bindings say.
//!
//! Dying is modelled by what survives: from the fatal step on, nothing that the run does is kept,
//! though the run itself is told that it is. The next run starts from what was kept.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deltajoin_workers::batch::Gather;
use deltajoin_workers::bindings::{Binding, Replay};
use deltajoin_workers::checkpoint::{self, KeyRun, Told};
use deltajoin_workers::clock::ExpiryClock;
use deltajoin_workers::dataflow::{Ports, SinkPort, reader};
use deltajoin_workers::key::{Ownership, key_group};
use deltajoin_workers::operators::Strategy;
use deltajoin_workers::ports::{Block, Stop};
use deltajoin_workers::queue::{InFlight, Sender, queue};
use deltajoin_workers::state::{BucketRing, KeySet, Limit, RecentRows};
use deltajoin_workers::worker::{self, Settings};

use crate::disk::row_limit;
use crate::kept::{
    Cold, Committing, Keeping, Kept, Log, SHARDS, Table, changes, difference, high, keys_of,
};
use crate::naive::naive;
use crate::oracle::{Random, in_unit, seeds};
use crate::pairwise::pairwise;
use crate::script::{Epoch, Event, block, reference_block};
use crate::setup::Setup;
use crate::step_loop::{Seen, Since};

/// What the job reads and is told to do, which crashes do not change.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) partitions: Vec<Vec<Option<Event>>>,
    /// The reference at first, and after a change.
    pub(crate) tables: [Table; 2],
}

impl World {
    fn random(random: &mut Random, setup: Setup) -> Self {
        // Of few keys, conflicts are more than are told.
        let ids = if setup.detect_conflicts { 6 } else { 60 };
        let record = |random: &mut Random| {
            (random.below(20) > 0).then(|| Event {
                id: random.below(ids) as i64,
                location: (random.below(15) > 0).then(|| random.below(8) as i64),
                item: format!("item{}", random.below(3)),
                // Epochs are named by the milliseconds of a run, of which there are about as many.
                at: in_unit(setup, 59_970 + random.below(60) as i64, random),
            })
        };
        let partitions = 1 + random.below(3);
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
            setup,
            partitions: (0..partitions)
                .map(|_| (0..20 + random.below(40)).map(|_| record(random)).collect())
                .collect(),
            tables: [first, second],
        }
    }

    /// Hands over what a worker reads, from where each partition starts, in blocks of any size.
    fn read(
        &self,
        (worker, workers): (usize, usize),
        seed: u64,
        starts: &BTreeMap<i32, i64>,
        sender: &Sender<Block>,
    ) {
        let mut random = Random::new(seed + worker as u64);
        let start = |partition: usize| *starts.get(&(partition as i32)).unwrap_or(&0) as usize;
        let mut next: BTreeMap<usize, usize> = (0..self.partitions.len())
            .filter(|partition| reader(*partition as i32, workers) == worker)
            .map(|partition| (partition, start(partition)))
            .filter(|(partition, start)| *start < self.partitions[*partition].len())
            .collect();
        while let Some((&partition, _)) = {
            let index = random.below(next.len().max(1) as u64) as usize;
            next.iter().nth(index)
        } {
            let records = &self.partitions[partition];
            let from = next[&partition];
            let to = (from + 1 + random.below(30) as usize).min(records.len());
            let block = block(
                &self.setup.events(),
                partition as i32,
                from as i64,
                &records[from..to],
            );
            let lags = vec![(partition as i32, to < records.len())];
            assert!(sender.send(Block { lags, ..block }, 10 * (to - from)));
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

/// What a worker starts from.
struct Start {
    /// Bindings, on worker 0.
    replay: Replay,
    /// Where each partition is read from.
    offsets: BTreeMap<i32, i64>,
    clock_ms: Option<i64>,
    keys: BucketRing,
    recent: (u64, RecentRows),
    told: Told,
}

fn recover(kept: &Kept, setup: Setup, (worker, workers): (usize, usize)) -> Start {
    let (epoch, keys, rows) = &kept.checkpoint;
    let mut replay = Replay::default();
    let mut offsets = BTreeMap::new();
    let clock_ms = kept.clock_ms;
    for binding in &kept.bindings {
        if binding.epoch > *epoch {
            replay.bindings.push_back(binding.clone());
        } else {
            offsets.extend(binding.ends.iter().copied());
        }
        replay.newest = binding.epoch;
    }
    replay.newest = replay.newest.max(*epoch);
    // The table of the checkpoint comes as a binding of its epoch.
    replay.bindings.push_front(Binding {
        epoch: *epoch,
        reference: vec![kept.whole_table(*epoch, setup.versions)],
        clock_ms,
        ..Binding::default()
    });
    if worker != 0 {
        replay = Replay::default();
    }
    let ownership = Ownership::new(SHARDS, workers);
    let own = |high: u64| ownership.worker(key_group(high)) == worker;
    let buckets = keys.iter().map(|(bucket, keys)| {
        let mut set = KeySet::new(!setup.wide);
        let own = keys_of(keys).into_iter().filter(|key| own(high(*key)));
        if bucket % 2 == 0 && setup.on_disk {
            return (*bucket, set, vec![Cold::from(own)]);
        }
        set.extend(&match setup.wide {
            true => KeyRun::Wide(own.collect()),
            false => KeyRun::Narrow(own.map(high).collect()),
        });
        (*bucket, set, Vec::new())
    });
    let keys = BucketRing::partly_cold(!setup.wide, buckets.collect());
    // Few keys leave memory, so that many do.
    let few = Limit {
        bytes: 0,
        keys_min: 2,
    };
    let rows = rows.iter().map(|kept| {
        let mut gather = Gather::default();
        gather.push(kept.rows.clone());
        let highs = kept.rows.keys().high().iter().enumerate();
        let own = highs.filter(|(_, high)| own(**high));
        let own: Vec<_> = own.map(|(row, _)| (0, row)).collect();
        checkpoint::Kept {
            rows: gather.rows(&own),
            ..kept.clone()
        }
    });
    let join = setup.plan(SHARDS).join;
    let mut recent = join.recent_rows(setup.on_disk.then(row_limit));
    rows.filter(|kept| !kept.rows.is_empty())
        .for_each(|kept| recent.restore(kept));
    let told = kept.told.iter();
    let told = told.filter(|(group, _)| ownership.worker(usize::from(**group)) == worker);
    Start {
        replay,
        offsets,
        clock_ms,
        keys: if setup.on_disk {
            keys.limited(few)
        } else {
            keys
        },
        recent: (*epoch, recent),
        told: told.map(|(group, letters)| (*group, *letters)).collect(),
    }
}

/// Runs the job from what was kept until it has read all.
pub(crate) fn run(world: &Arc<World>, kept: &Arc<Mutex<Kept>>, workers: usize, seed: u64) {
    let (world, kept) = (Arc::clone(world), Arc::clone(kept));
    let clock = Arc::new(Since(Instant::now()));
    // Room for a few blocks: readers are throttled, also within bound epochs.
    let in_flight = InFlight::new(400);
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let index = worker.index();
        let (sender, events) = queue(Arc::clone(&in_flight));
        let (changes, reference) = queue(InFlight::new(1 << 20));
        let start = recover(&kept.lock().unwrap(), world.setup, (index, worker.peers()));
        if index == 0 {
            // The table that is there now, as a difference from the one that is bound.
            let mut table = kept.lock().unwrap().table(u64::MAX);
            let world = Arc::clone(&world);
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
        let setup = world.setup;
        let partitions = 0..world.partitions.len() as i32;
        let offsets = start.offsets;
        std::thread::spawn(move || world.read(at, seed, &offsets, &sender));
        let first = index == 0;
        let log = Log::new(&kept);
        let ports = Ports {
            first_of_process: first,
            events: Rc::new(events),
            epoch_bytes_max: 100,
            reference: first.then(|| Rc::new(reference)),
            replay: start.replay,
            bindings: first.then(|| Box::new(log) as _),
            clock: ExpiryClock::new(start.clock_ms, partitions),
            keys: start.keys,
            recent: start.recent,
            told: start.told,
            checkpoints: Some(Keeping::port(&kept, index)),
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
            plan: setup.plan(SHARDS),
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
            let mut epoch = Epoch {
                time: (binding.epoch, binding.clock_ms),
                ..Epoch::default()
            };
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
    let expected = naive(world.setup, &script);
    for (name, expected) in [("rows", expected.rows), ("dead", expected.dead_letters)] {
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
    let (mut steps, mut published) = (0, 0);
    for seed in seeds(1) {
        let mut random = Random::new(seed);
        for setup in pairwise(&mut random, &[10, 40]) {
            println!("DELTAJOIN_SEED={seed} {setup:?}");
            let world = Arc::new(World::random(&mut random, setup));
            for workers in [1, 2, 4] {
                let done = die_at_each_step(&world, workers, &mut random);
                steps += done.0;
                published += done.1;
            }
        }
    }
    assert!(steps > 1000, "there are steps to die at: {steps}");
    assert!(
        published > 1000,
        "there are checkpoints to start from: {published}"
    );
}

/// Begins on so many workers, dies at each step, and comes back on others. Returns how many steps
/// there are, and how many checkpoints were published.
fn die_at_each_step(world: &Arc<World>, workers: usize, random: &mut Random) -> (u64, usize) {
    // A run may have another strategy, whatever the one before it had.
    let strategy = match world.setup.strategy {
        Strategy::Broadcast => Strategy::Partitioned,
        Strategy::Partitioned => Strategy::Broadcast,
    };
    let mut other = World::clone(world);
    other.setup.strategy = strategy;
    let other = Arc::new(other);
    let mut published = 0;
    for dies_at in 1.. {
        let kept = Arc::new(Mutex::new(Kept {
            dies_at,
            ..Kept::default()
        }));
        let seed = random.below(1000);
        run(world, &kept, workers, seed);
        let lived = kept.lock().unwrap().steps < dies_at;
        if lived {
            check(world, &kept.lock().unwrap());
            return (dies_at, published);
        }
        // It dies once more while it comes back, then lives.
        let again = 1 + random.below(8);
        for (world, dies_at) in [(&other, again), (world, u64::MAX)] {
            let mut now = kept.lock().unwrap();
            (now.steps, now.dies_at) = (0, dies_at);
            drop(now);
            let workers = 1 + random.below(4) as usize;
            run(world, &kept, workers, seed + dies_at % 7);
        }
        let kept = kept.lock().unwrap();
        check(world, &kept);
        assert!(!kept.checkpoint.1.is_empty(), "the end is kept");
        published += kept.published;
    }
    unreachable!("a run has an end")
}
