//! The step loop as the shell runs it: epochs minted by the clock, workers that end together.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deltajoin_workers::bindings::Replay;
use deltajoin_workers::clock::ExpiryClock;
use deltajoin_workers::dataflow::{Ports, SinkPort};
use deltajoin_workers::ports::{Block, Clock, Observer, Progress, ReferenceBlock, Stop};
use deltajoin_workers::queue::{InFlight, Sender, queue};
use deltajoin_workers::state::BucketRing;
use deltajoin_workers::worker::{self, Settings};

use crate::script::{Collect, Event, Output, block, reference_block};
use crate::setup::Setup;

pub(crate) struct Since(pub(crate) Instant);

impl Clock for Since {
    fn now_us(&self) -> u64 {
        // Soon a minute is over.
        59_980_000 + self.0.elapsed().as_micros() as u64
    }
}

#[derive(Default)]
pub(crate) struct Seen {
    written: AtomicU64,
    progress: Mutex<Progress>,
}

impl Observer for Seen {
    fn live(&self) {}

    fn written(&self, records: u64, _: u64) {
        self.written.fetch_add(records, Ordering::Relaxed);
    }

    fn lag_records(&self) -> u64 {
        0
    }

    fn progress(&self, progress: &Progress) {
        *self.progress.lock().unwrap() = progress.clone();
    }
}

struct Job {
    rows: Arc<Mutex<Output>>,
    seen: Arc<Seen>,
    stop: Arc<Stop>,
    in_flight: Arc<InFlight>,
}

/// Runs the step loop on some workers; `feed` is called on each of them with its ends of the
/// queues, and must not block.
fn run(
    workers: usize,
    bytes_max: usize,
    feed: impl Fn(usize, Sender<Block>, Sender<ReferenceBlock>, Arc<Stop>) + Send + Sync + 'static,
) -> Job {
    let job = Job {
        rows: Arc::default(),
        seen: Arc::default(),
        stop: Arc::default(),
        in_flight: InFlight::new(bytes_max),
    };
    let (rows, seen) = (Arc::clone(&job.rows), Arc::clone(&job.seen));
    let (stop, in_flight) = (Arc::clone(&job.stop), Arc::clone(&job.in_flight));
    let clock = Arc::new(Since(Instant::now()));
    let dead_letters = Arc::default();
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (sender, events) = queue(Arc::clone(&in_flight));
        let (reference_sender, reference) = queue(InFlight::new(bytes_max));
        feed(worker.index(), sender, reference_sender, Arc::clone(&stop));
        let sink = |name: &str, rows| SinkPort {
            name: name.to_owned(),
            single_writer: true,
            sink: (worker.index() == 0).then(|| Box::new(Collect::new(rows)) as _),
        };
        let plan = Setup::default().plan(64);
        let ports = Ports {
            first_of_process: worker.index() == 0,
            events: Rc::new(events),
            epoch_bytes_max: bytes_max / 4,
            reference: (worker.index() == 0).then(|| Rc::new(reference)),
            replay: Replay::default(),
            bindings: None,
            clock: ExpiryClock::default(),
            keys: BucketRing::new(true),
            recent: (0, plan.join.recent_rows(None)),
            told: BTreeMap::new(),
            checkpoints: None,
            sinks: vec![sink("rows", &rows)],
            dead_letters: sink("dead", &dead_letters),
        };
        let settings = Settings {
            plan,
            tick: Duration::from_millis(1),
            clock: Arc::<Since>::clone(&clock) as _,
            observer: Arc::<Seen>::clone(&seen) as _,
            stop: Arc::clone(&stop),
        };
        worker::run(worker, settings, ports);
    });
    drop(guards.unwrap());
    job
}

fn events(from: i64, count: i64) -> Vec<Option<Event>> {
    let event = |id| Event {
        id,
        location: Some(id % 7),
        item: "item".to_owned(),
        at: 0,
    };
    (from..from + count).map(|id| Some(event(id))).collect()
}

#[test]
fn it_ends_by_itself_when_all_is_read_and_written() {
    for workers in [1, 2, 3] {
        // A budget of ten blocks: the readers are throttled again and again.
        let job = run(workers, 1000, |index, sender, reference, _| {
            std::thread::spawn(move || {
                if index == 0 {
                    let rows: Vec<_> = (0..7).map(|l| (l, Some(format!("n{l}")))).collect();
                    assert!(reference.send(reference_block(&rows, true), 1));
                }
                for part in 0..100 {
                    let offset = part * 50;
                    let records = events(offset, 50);
                    let block = block(&Setup::default().events(), index as i32, offset, &records);
                    assert!(sender.send(block, 100));
                }
                sender.finish();
            });
        });
        let rows: usize = job.rows.lock().unwrap().values().map(Vec::len).sum();
        assert_eq!(rows, 5000, "each key once, on {workers} workers");
        let progress = job.seen.progress.lock().unwrap().clone();
        assert_eq!(progress.counts.records, 5000 * workers as u64);
        assert_eq!(progress.counts.distinct, 5000);
        assert_eq!(progress.counts.keys, 5000);
        assert_eq!(progress.counts.reference_rows, 7);
        assert_eq!(
            job.seen.written.load(Ordering::Relaxed),
            5000 * workers as u64
        );
        assert_eq!(job.in_flight.bytes(), 0, "all bytes are given back");
        let unmatched = |text: &String| text.contains("null");
        assert!(
            !job.rows
                .lock()
                .unwrap()
                .values()
                .flatten()
                .any(|(text, _)| unmatched(text))
        );
    }
}

#[test]
fn a_key_that_comes_ten_million_times_is_one_row_and_no_memory() {
    const BLOCK: i64 = 10_000;
    const BLOCKS: i64 = 500;
    let (workers, bytes_max) = (2, 1 << 20);
    let job = run(workers, bytes_max, |index, sender, reference, _| {
        std::thread::spawn(move || {
            if index == 0 {
                let rows = [(1, Some("one".to_owned()))];
                assert!(reference.send(reference_block(&rows, true), 1));
            }
            let event = || Event {
                id: 8,
                location: Some(1),
                item: "item".to_owned(),
                at: 0,
            };
            let records: Vec<_> = (0..BLOCK).map(|_| Some(event())).collect();
            for part in 0..BLOCKS {
                let block = block(
                    &Setup::default().events(),
                    index as i32,
                    part * BLOCK,
                    &records,
                );
                assert!(sender.send(block, 1 << 16));
            }
            sender.finish();
        });
    });
    let rows: usize = job.rows.lock().unwrap().values().map(Vec::len).sum();
    assert_eq!(rows, 1);
    let counts = job.seen.progress.lock().unwrap().counts;
    let all = 2 * (BLOCK * BLOCKS).unsigned_abs();
    assert_eq!((counts.events, counts.keys), (all, 1));
    assert_eq!(counts.duplicates, all - 1);
    assert!(counts.key_bytes < 1 << 20, "{}", counts.key_bytes);
    assert_eq!(job.in_flight.bytes(), 0, "all bytes are given back");
}

#[test]
fn no_event_is_released_before_the_reference_is_complete() {
    let job = run(2, 1 << 20, |index, sender, reference, _| {
        std::thread::spawn(move || {
            let block = block(&Setup::default().events(), index as i32, 0, &events(0, 10));
            assert!(sender.send(block, 100));
            sender.finish();
            if index == 0 {
                // The events are at hand; the table comes in pieces, over several epochs.
                for location in 0..7 {
                    std::thread::sleep(Duration::from_millis(30));
                    let change = [(location, Some(format!("n{location}")))];
                    assert!(reference.send(reference_block(&change, location == 6), 1));
                }
            }
        });
    });
    let rows = job.rows.lock().unwrap();
    let texts: Vec<_> = rows
        .values()
        .flatten()
        .map(|(text, _)| text.clone())
        .collect();
    assert_eq!(texts.len(), 10);
    assert!(texts.iter().all(|text| !text.contains("null")), "{texts:?}");
}

#[test]
fn a_stop_ends_an_endless_job_after_writing_what_was_read() {
    let job = run(2, 1 << 20, |index, sender, reference, stop| {
        std::thread::spawn(move || {
            if index == 0 {
                assert!(reference.send(reference_block(&[], true), 1));
            }
            let mut offset = 0;
            loop {
                let records = events(offset, 10);
                if !sender.send(
                    block(&Setup::default().events(), index as i32, offset, &records),
                    100,
                ) {
                    return;
                }
                offset += 10;
                if offset == 500 && index == 1 {
                    stop.ask();
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
    });
    assert!(job.stop.asked());
    let rows: usize = job.rows.lock().unwrap().values().map(Vec::len).sum();
    let progress = job.seen.progress.lock().unwrap().clone();
    assert_eq!(
        rows as u64, progress.counts.distinct,
        "what was stamped is written"
    );
    assert!(rows > 0);
}
