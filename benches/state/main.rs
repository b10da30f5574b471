//! A day of keys in little memory: `make bench-state`, or with another number of keys,
//! `make bench-state KEYS=100000000`.
//!
//! Apart from the other figures, because it needs no broker, takes minutes and 10 GB of disk. One
//! worker of the real dataflow is given made-up events as fast as it takes them: 10,000 new keys
//! for each second of a day, and one retry in twenty, of any age. Nothing is decoded or written.

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "it prints figures"
)]

mod sets;

use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deltajoin::checkpoint::{ColdFile, ColdFolder, Options, Run, RunEntry, Store, write_run};
use deltajoin_workers::batch::{Batch, BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::bindings::Replay;
use deltajoin_workers::checkpoint::{Checkpoints, KeyRun, Part};
use deltajoin_workers::clock::{EventTime, ExpiryClock, TimeUnit};
use deltajoin_workers::dataflow::{Engine, Plan, Ports, SinkPort};
use deltajoin_workers::key::{KEY_GROUPS, key_group, mix64};
use deltajoin_workers::operators::{Distinct, Join, Keep, Letters, Strategy, Unmatched};
use deltajoin_workers::ports::{Block, Clock, Observer, Progress, ReferenceBlock, Sink, Stop};
use deltajoin_workers::queue::{self, InFlight, Waker};
use deltajoin_workers::schema::{Column, ColumnType, Schema};
use deltajoin_workers::state::{BucketRing, ColdRun, Found, Freeze, KeySet, Limit};
use deltajoin_workers::worker::{self, Settings};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// One event in so many is a retry.
const RETRY: u64 = 20;
const LIMIT: Limit = Limit {
    bytes: 1_700_000_000,
    keys_min: 1 << 16,
};

fn main() {
    let count = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let keys: u64 = count.unwrap_or(864_000_000);
    sets::sets(10_000_000);
    let folder = tempfile::tempdir().expect("the system has room for a folder");
    let files = fill(folder.path(), keys);
    let disk: u64 = std::fs::read_dir(folder.path().join("process-0/bench"))
        .expect("it is there")
        .map(|file| {
            file.expect("it is read")
                .metadata()
                .map_or(0, |file| file.len())
        })
        .sum();
    let cold: u64 = files.iter().map(|file| file.len()).sum();
    println!(
        "disk: {:.2} bytes for each of {cold} keys",
        disk as f64 / cold as f64
    );
    reads(&files, keys);
    let entries: Vec<RunEntry> = files.iter().map(|file| file.entry().clone()).collect();
    drop(files);
    restart(folder.path(), &entries, keys);
}

/// The resident bytes of this process that are not files'.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.map(|line| line.trim_end_matches("kB").trim().parse::<u64>());
    kilobytes.and_then(Result::ok).unwrap_or(0) * 1024
}

/// What threads whose names begin so have computed, in seconds.
fn computed(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let of_task = |task: std::fs::DirEntry| {
        let path = task.path();
        let own = std::fs::read_to_string(path.join("comm")).ok()?;
        let times = std::fs::read_to_string(path.join("schedstat")).ok()?;
        let nanoseconds: f64 = times.split(' ').next()?.parse().ok()?;
        own.starts_with(name).then_some(nanoseconds / 1e9)
    };
    tasks.filter_map(of_task).sum()
}

fn cold_folder(path: &Path) -> Arc<ColdFolder> {
    let fault = Box::new(|error: &deltajoin::checkpoint::Error| panic!("{error}"));
    let folder = ColdFolder::open(path, ("bench", 0), Arc::default(), fault);
    Arc::new(folder.expect("it can be written"))
}

/// Runs the dataflow over all events, and returns what is on disk then.
fn fill(path: &Path, keys: u64) -> Vec<Arc<ColdFile>> {
    let folder = cold_folder(path);
    let files: Arc<Mutex<Vec<Arc<ColdFile>>>> = Arc::default();
    let (progress, peak) = (Arc::new(Told::default()), Arc::new(Mutex::new(0)));
    let stop = Arc::new(Stop::default());
    let begun = Instant::now();
    let watching = {
        let (stop, peak) = (Arc::clone(&stop), Arc::clone(&peak));
        std::thread::spawn(move || {
            while !stop.asked() {
                let mut peak = peak.lock().expect("no panic");
                *peak = resident().max(*peak);
                drop(peak);
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    };
    let guards = {
        let (files, progress) = (Arc::clone(&files), Arc::clone(&progress));
        timely::execute(timely::Config::process(1), move |worker| {
            let ports = ports(keys, &folder, &files);
            let settings = Settings {
                plan: plan(),
                tick: Duration::from_millis(1),
                clock: Arc::new(Wall),
                observer: Arc::<Told>::clone(&progress),
                stop: Arc::default(),
            };
            worker::run(worker, settings, ports);
            computed("timely:work")
        })
    };
    let cpu = guards
        .expect("it starts")
        .join()
        .remove(0)
        .expect("it ends");
    stop.ask();
    watching.join().expect("watching does not fail");
    let seconds = begun.elapsed().as_secs_f64();
    let counts = progress.0.lock().expect("no panic").counts;
    assert_eq!((counts.distinct, counts.keys), (keys, keys), "{counts:?}");
    let million = counts.events as f64 / 1e6;
    println!(
        "\n{keys} keys of a day, {} retries of any age, one worker",
        counts.duplicates
    );
    println!(
        "events: {:.2} million/s by the clock, {:.2} million/s of the worker's CPU",
        million / seconds,
        million / cpu
    );
    println!(
        "memory: {} MB at most; keys and filters {} MB at the end; {} keys of them on disk",
        *peak.lock().expect("no panic") / 1_000_000,
        counts.key_bytes / 1_000_000,
        counts.cold_keys
    );
    println!(
        "asked on disk: {} times, {} reads, {} found",
        counts.cold_probes, counts.cold_reads, counts.cold_found
    );
    let mut files = files.lock().expect("no panic");
    std::mem::take(&mut *files)
}

/// Looks for keys of any age on disk, as fast as one thread does.
fn reads(files: &[Arc<ColdFile>], keys: u64) {
    let count = 1_000_000;
    let begun = Instant::now();
    let mut found = 0;
    for n in 0..count {
        let key = u128::from(mix64(mix64(n) % keys)) << 64;
        found += u64::from(files.iter().any(|file| file.find(key) == Found::Yes));
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "cold reads: {:.0} thousand/s on one thread, from the page cache as far as it has them",
        found as f64 / seconds / 1e3
    );
}

/// What a start does: opens what is on disk, and loads the newest hour from the checkpoint.
fn restart(path: &Path, entries: &[RunEntry], keys: u64) {
    let location = format!("file://{}", path.join("checkpoint").display());
    let store = Store::open(&location, "bench", Options::default(), Arc::default());
    let store = store.expect("it can be written");
    let mut newest: Vec<u64> = (0..keys / 24).map(mix64).collect();
    newest.sort_unstable();
    let name = deltajoin::checkpoint::run_name(1);
    let run = write_run(&store, (&name, 0), &KeyRun::Narrow(newest));
    let run = run.expect("it is written").expect("there are keys");
    let begun = Instant::now();
    let folder = cold_folder(path);
    let files = entries.iter().filter_map(|entry| folder.find(entry));
    let files: Vec<_> = files.collect();
    assert_eq!(files.len(), entries.len(), "all are there");
    let opened = begun.elapsed().as_secs_f64();
    let run = Run::open(&store, &run).expect("it is there");
    let mut set = KeySet::new(true);
    let mut counts = vec![0; KEY_GROUPS];
    (0..keys / 24).for_each(|n| counts[key_group(mix64(n))] += 1);
    let begun = Instant::now();
    counts
        .iter()
        .enumerate()
        .for_each(|(group, keys)| set.reserve(group, *keys));
    for piece in run.read(deltajoin::checkpoint::Groups::ALL) {
        set.extend(&piece.expect("it is whole"));
    }
    let loaded = begun.elapsed().as_secs_f64();
    println!(
        "restart on a kept disk: {opened:.1} s for {} files, {loaded:.1} s for {} keys in memory",
        files.len(),
        set.len()
    );
}

fn columns() -> Vec<Column> {
    vec![
        Column::new("id", ColumnType::Int64),
        Column::new("location", ColumnType::Int64),
        Column::new("at", ColumnType::Int64),
    ]
}

fn plan() -> Plan {
    let place = vec![
        Column::new("location", ColumnType::Int64),
        Column::new("name", ColumnType::String).nullable(),
    ];
    let mut joined = columns();
    joined.push(Column::new("name", ColumnType::String).nullable());
    let time = Some(EventTime {
        column: 2,
        unit: TimeUnit::Milliseconds,
    });
    Plan {
        engine: Engine::Production,
        shards: 64,
        distinct: Distinct {
            time,
            by_arrival: false,
            horizon_ms: DAY_MS,
            future_ms: u64::MAX,
            duplicates: false,
            detect_conflicts: false,
        },
        join: Join {
            event_columns: vec![1],
            strategy: Strategy::Broadcast,
            unmatched: Unmatched::Keep,
            revise: false,
            keep: Keep::First,
            detect_conflicts: false,
            window_ms: 0,
            time,
            reference: BatchSchema::register(Schema::new(place, vec![0])),
            joined: BatchSchema::register(Schema::new(joined, vec![0])),
        },
        letters: Letters {
            source_name: "events".into(),
            event_text: Arc::new(|_, _, _| {}),
        },
    }
}

fn ports(keys: u64, folder: &Arc<ColdFolder>, files: &Arc<Mutex<Vec<Arc<ColdFile>>>>) -> Ports {
    let (sender, events) = queue::queue(InFlight::new(64 << 20));
    std::thread::Builder::new()
        .name("make".to_owned())
        .spawn(move || make(keys, &sender))
        .expect("the system has room for a thread");
    let (changes, reference) = queue::queue(InFlight::new(1 << 20));
    let sent = changes.send(
        ReferenceBlock {
            complete: true,
            ..ReferenceBlock::default()
        },
        1,
    );
    assert!(sent, "the worker takes it");
    changes.finish();
    let sink = |name: &str| SinkPort {
        name: name.to_owned(),
        single_writer: false,
        sink: Some(Box::new(Nowhere(0))),
    };
    Ports {
        first_of_process: true,
        events: Rc::new(events),
        epoch_bytes_max: 16 << 20,
        reference: Some(Rc::new(reference)),
        replay: Replay::default(),
        bindings: None,
        clock: ExpiryClock::new(None, [0]),
        keys: BucketRing::new(true).limited(LIMIT),
        recent: (0, plan().join.recent_rows(None)),
        told: std::collections::BTreeMap::new(),
        checkpoints: Some(Box::new(Freezing::start(folder, files))),
        sinks: vec![sink("rows")],
        dead_letters: sink("dead"),
    }
}

/// Makes events: key `n` is of the time at which it comes, 10,000 a second.
fn make(keys: u64, sender: &queue::Sender<Block>) {
    let schema = BatchSchema::register(Schema::new(columns(), vec![0]));
    let mut builder = BatchBuilder::new(schema);
    let (mut next, mut offset) = (0, 0);
    while next < keys {
        for _ in 0..8192.min(keys - next) {
            let retry = offset % RETRY == RETRY - 1 && next > 0;
            let id = if retry { mix64(offset) % next } else { next };
            next += u64::from(!retry);
            let slots = [id, id % 1000, id * DAY_MS / keys];
            let slots = slots.map(|value| Slot::Int64(value.cast_signed()));
            let origin = Origin {
                partition: 0,
                offset: offset.cast_signed(),
            };
            builder.push(&slots, origin, 1);
            offset += 1;
        }
        let events = builder.finish();
        let block = Block {
            records: events.len() as u64,
            lags: vec![(0, next < keys)],
            events,
            ..Block::default()
        };
        if !sender.send(block, 8192 * 60) {
            return;
        }
    }
    sender.finish();
}

/// Takes rows and forgets them.
struct Nowhere(u64);

impl Sink for Nowhere {
    fn write(&mut self, _: u64, _: Batch) {}

    fn close(&mut self, epoch: u64) {
        self.0 = epoch + 1;
    }

    fn written(&self) -> u64 {
        self.0
    }

    fn wake_by(&mut self, _: Waker) {}
}

/// A bucket, and its keys on disk.
type Frozen = (i64, Arc<ColdFile>);

/// Checkpoints that only move keys to disk, on a thread of their own.
struct Freezing {
    work: SyncSender<(u64, Vec<Freeze>)>,
    done: Receiver<(u64, Vec<Frozen>)>,
    frozen: VecDeque<Frozen>,
    files: Arc<Mutex<Vec<Arc<ColdFile>>>>,
    due_at: Instant,
    settled: u64,
}

impl Freezing {
    fn start(folder: &Arc<ColdFolder>, files: &Arc<Mutex<Vec<Arc<ColdFile>>>>) -> Self {
        let (work, taken) = sync_channel::<(u64, Vec<Freeze>)>(100);
        let (told, done) = sync_channel(100);
        let folder = Arc::clone(folder);
        std::thread::Builder::new()
            .name("freeze".to_owned())
            .spawn(move || {
                for (epoch, frozen) in taken {
                    folder.collect();
                    let write = |freeze: &Freeze| {
                        let file = folder.freeze(freeze).expect("the disk has room");
                        (freeze.bucket, file)
                    };
                    if told
                        .send((epoch, frozen.iter().map(write).collect()))
                        .is_err()
                    {
                        return;
                    }
                }
            })
            .expect("the system has room for a thread");
        Self {
            work,
            done,
            frozen: VecDeque::new(),
            files: Arc::clone(files),
            due_at: Instant::now(),
            settled: 0,
        }
    }
}

impl Checkpoints for Freezing {
    fn due(&mut self) -> bool {
        let due = Instant::now() >= self.due_at;
        if due {
            self.due_at = Instant::now() + Duration::from_secs(1);
        }
        due
    }

    fn freeze(&mut self, part: Part) {
        let sent = self.work.send((part.epoch, part.frozen));
        sent.expect("the thread lives");
    }

    fn durable(&mut self) -> Option<(u64, Vec<u8>)> {
        let (epoch, frozen) = self.done.try_recv().ok()?;
        self.frozen.extend(frozen);
        Some((epoch, Vec::new()))
    }

    fn frozen(&mut self) -> Option<(i64, Option<Arc<dyn ColdRun>>)> {
        let (bucket, file) = self.frozen.pop_front()?;
        let mut files = self.files.lock().expect("no panic");
        files.retain(|other| other.entry().bucket != bucket);
        files.push(Arc::clone(&file));
        Some((bucket, Some(file)))
    }

    fn publish(&mut self, epoch: u64, _: Option<i64>, _: Vec<Vec<u8>>) {
        self.settled = epoch;
    }

    fn settled(&self) -> u64 {
        self.settled
    }

    fn wake_by(&mut self, _: Waker) {}
}

#[derive(Default)]
struct Told(Mutex<Progress>);

impl Observer for Told {
    fn live(&self) {}

    fn written(&self, _: u64, _: u64) {}

    fn lag_records(&self) -> u64 {
        0
    }

    fn progress(&self, progress: &Progress) {
        *self.0.lock().expect("no panic") = progress.clone();
    }
}

/// The time of day.
struct Wall;

impl Clock for Wall {
    #[allow(
        clippy::disallowed_methods,
        reason = "epochs are named by the time of day"
    )]
    fn now_us(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
    }
}
