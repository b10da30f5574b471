//! Loading by two processes that share a folder: what one of them finds, and where both go then.

use std::path::Path;

use deltajoin_workers::batch::{BatchBuilder, Origin, Slot};
use deltajoin_workers::bindings::Skipped;
use deltajoin_workers::checkpoint::{Kept, KeyRun};
use deltajoin_workers::key::mix64;
use deltajoin_workers::operators::{Keep, Strategy, Unmatched};
use deltajoin_workers::schema::{Column, ColumnType, Schema};
use deltajoin_workers::state::{Limit, RowLimit};
use tempfile::TempDir;

use super::*;
use crate::bindings::{Marker, MarkerId};
use crate::checkpoint::{
    LogPosition, OnFault, Options, put_manifest, rows_name, run_name, write_rows, write_run,
};
use crate::codec::reference_schema;
use crate::error::ExitCode;

const GENERATION: u64 = 3;

/// A folder with checkpoints of two workers, each with a run of 100 keys for each of them.
struct Shared {
    folder: TempDir,
    groups: Vec<Groups>,
    /// The runs of each checkpoint, by worker.
    runs: Vec<Vec<RunEntry>>,
    /// The rows of all of them.
    rows: Vec<RowsEntry>,
}

fn open(folder: &Path) -> Arc<Store> {
    let location = format!("file://{}", folder.display());
    let options = Options {
        environment: Vec::new(),
        patience: Duration::from_secs(2),
    };
    Arc::new(Store::open(&location, "test", options, Arc::default()).unwrap())
}

impl Shared {
    fn new(checkpoints: u64) -> Self {
        Self::with_rows(checkpoints, &[])
    }

    /// Each checkpoint has these rows too.
    fn with_rows(checkpoints: u64, rows: &[Kept]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let groups = groups(&Ownership::new(4, 2), 2);
        let store = open(folder.path());
        let written = rows.chunks(1).flat_map(|rows| {
            write_rows(&store, || rows_name(1), rows, |_, _, _| i64::MAX).unwrap()
        });
        let mut shared = Self {
            rows: written.collect(),
            runs: Vec::new(),
            folder,
            groups,
        };
        for number in 0..checkpoints {
            let mut runs = Vec::new();
            for worker in 0..2 {
                let keys = (number * 1000..).map(mix64);
                let own = |key: &u64| {
                    let group = u16::try_from(deltajoin_workers::key::key_group(*key)).unwrap();
                    shared.groups[worker].contains(group)
                };
                let mut keys: Vec<u64> = keys.filter(own).take(100).collect();
                keys.sort_unstable();
                let run = write_run(&store, (&run_name(1), 0), &KeyRun::Narrow(keys));
                runs.push(run.unwrap().unwrap());
            }
            let mut manifest = Manifest {
                job: "test".to_owned(),
                number,
                generation: 1,
                epoch: 10 + number,
                written_ms: 0,
                log: LogPosition {
                    marker: serde_json::from_slice(&marker().encode()).unwrap(),
                    next: 20 + number,
                },
                offsets: BTreeMap::new(),
                clock_ms: None,
                rows: shared.rows.clone(),
                runs: runs.clone(),
                reference: None,
                told: BTreeMap::from([(0, 2), (511, 3), (512, 1)]),
            };
            put_manifest(&store, &mut manifest).unwrap();
            shared.runs.push(runs);
        }
        shared
    }

    fn process(&self, index: usize, reaches: Option<u64>) -> Loading {
        self.limited(index, reaches, Limit::NONE)
    }

    fn limited(&self, index: usize, reaches: Option<u64>, limit: Limit) -> Loading {
        let columns = vec![Column::new("id", ColumnType::Int64)];
        let dir = self.folder.path().join("local");
        let on_fault: OnFault = Box::new(|error| panic!("{error}"));
        let cold = Cold::at(&dir, ("test", index), &Arc::default(), on_fault, limit);
        Loading::new(
            (open(self.folder.path()), cold.unwrap()),
            reference_schema(&Schema::new(columns, vec![0])),
            RowSettings {
                schema: events(),
                join: by_key(),
                settings: BTreeMap::new(),
            },
            (self.groups.clone(), index..index + 1),
            reaches,
        )
    }

    /// Changes one byte of a run.
    fn damage(&self, run: &RunEntry, place: usize) {
        let path = self.folder.path().join("test").join(&run.name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[place] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
}

fn events() -> Arc<BatchSchema> {
    let columns = vec![Column::new("id", ColumnType::Int64)];
    BatchSchema::register(Schema::new(columns, vec![0]))
}

/// A join that holds rows by their key.
fn by_key() -> Join {
    Join {
        event_columns: vec![0],
        strategy: Strategy::Broadcast,
        unmatched: Unmatched::Keep,
        revise: false,
        keep: Keep::Latest,
        detect_conflicts: false,
        window_ms: 1000,
        time: None,
        reference: events(),
        joined: events(),
    }
}

fn marker() -> Marker {
    Marker {
        id: MarkerId::random(),
        started_ms: 0,
        holder: "a test".to_owned(),
        settings: BTreeMap::new(),
        producers: Vec::new(),
    }
}

fn try_attempt(process: &mut Loading) -> Result<bool, Failure> {
    process.choose(GENERATION, &History::default())?;
    process.attempt(GENERATION, &Stop::default())
}

fn attempt(process: &mut Loading) -> bool {
    try_attempt(process).unwrap()
}

/// The number of the checkpoint that is loaded, and how many keys it has.
fn loaded(process: &Loading) -> (u64, u64) {
    let loaded = process.loaded.as_ref().unwrap();
    let state = loaded.state.iter().flatten();
    let keys = state.map(|state| state.keys.len()).sum();
    (loaded.checkpoint.as_ref().unwrap().number, keys)
}

#[test]
fn each_worker_goes_on_from_the_conflicts_that_were_told_of_its_key_groups() {
    let shared = Shared::new(1);
    let told = [(0, Some(0)), (1, None)].map(|(index, reaches)| {
        let mut process = shared.process(index, reaches);
        assert!(attempt(&mut process));
        let state = &process.loaded.as_ref().unwrap().state;
        state[0].as_ref().unwrap().told.clone()
    });
    let groups = [vec![(0, 2), (511, 3)], vec![(512, 1)]];
    assert_eq!(told.map(Vec::from_iter), groups);
}

#[test]
fn a_fault_that_one_process_finds_has_both_go_back_until_none_finds_any() {
    let shared = Shared::new(3);
    let (mut first, mut second) = (shared.process(0, Some(0)), shared.process(1, None));
    shared.damage(&shared.runs[2][1], 100);
    shared.damage(&shared.runs[1][0], 30);
    assert_eq!([&mut first, &mut second].map(attempt), [true, false]);
    assert_eq!(loaded(&first), (2, 100));
    assert_eq!([&mut first, &mut second].map(attempt), [false, true]);
    assert_eq!([&mut first, &mut second].map(attempt), [true, true]);
    assert_eq!([&first, &second].map(loaded), [(0, 100); 2]);
    let runs = &first.loaded.as_ref().unwrap().runs;
    assert_eq!(
        *runs, shared.runs[0],
        "process 0 knows those of all workers"
    );
    assert_eq!(first.number, 3, "no number is used again");
}

#[test]
fn without_one_that_the_log_reaches_back_to_the_fault_is_told() {
    for (reaches, goes_back) in [(20, true), (21, false)] {
        let shared = Shared::new(2);
        let (mut first, mut second) = (shared.process(0, Some(reaches)), shared.process(1, None));
        shared.damage(&shared.runs[1][1], 100);
        assert_eq!([&mut first, &mut second].map(attempt), [true, false]);
        let again = try_attempt(&mut first);
        if goes_back {
            assert_eq!(again, Ok(true));
            continue;
        }
        let failure = again.unwrap_err();
        assert_eq!(failure.code, ExitCode::Usage);
        let told = failure.to_string();
        assert!(told.contains("another process has found a fault"), "{told}");
        assert!(told.contains("manifest-00000000000000000001"), "{told}");
    }
}

#[test]
fn every_byte_is_looked_at_by_some_process() {
    let shared = Shared::new(1);
    let run = &shared.runs[0][0];
    let path = shared.folder.path().join("test").join(&run.name);
    let good = std::fs::read(&path).unwrap();
    for place in 0..good.len() {
        shared.damage(run, place);
        assert!(!attempt(&mut shared.process(0, Some(0))), "byte {place}");
        std::fs::write(&path, &good).unwrap();
        let start = shared.folder.path().join("test");
        std::fs::remove_file(start.join(format!("start-{GENERATION:020}-000"))).unwrap();
    }
}

#[test]
fn beyond_the_limit_keys_are_on_disk_and_what_is_kept_there_is_not_fetched_again() {
    let shared = Shared::new(1);
    let limit = Limit {
        bytes: 1000,
        keys_min: 100,
    };
    let start = || {
        let mut process = shared.limited(0, Some(0), limit);
        attempt(&mut process).then(|| {
            let state = process.loaded.as_ref().unwrap().state[0].as_ref().unwrap();
            (state.keys.len(), state.keys.cold_len())
        })
    };
    assert_eq!(start(), Some((100, 100)));
    // In the middle of the keys, which are not read then.
    let run = &shared.runs[0][0];
    shared.damage(run, 400);
    assert_eq!(start(), Some((100, 100)));
    let kept = shared.folder.path().join("local/process-0/test");
    for entry in std::fs::read_dir(&kept).unwrap() {
        std::fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    assert_eq!(start(), None, "it is fetched, and found to be damaged too");
    shared.damage(run, 400);
    assert_eq!(start(), Some((100, 100)));
    // Where the disk takes nothing they are in memory.
    let mut process = shared.limited(0, Some(0), limit);
    std::fs::remove_dir_all(&kept).unwrap();
    assert!(attempt(&mut process));
    assert_eq!(loaded(&process), (0, 100));
}

#[test]
fn rows_beyond_the_limit_leave_memory_while_they_are_loaded() {
    let rows = |ids: Range<i64>| {
        let mut builder = BatchBuilder::new(events());
        for offset in ids {
            let origin = Origin {
                partition: 0,
                offset,
            };
            builder.push(&[Slot::Int64(offset)], origin, 1);
        }
        Kept {
            epoch: 5,
            rows: builder.finish(),
            replaces: false,
        }
    };
    // Half of the rows of each object are this worker's, and a segment is full with these.
    let count = 3 * i64::from(RowLimit::SEGMENT_ROWS);
    let kept = [rows(0..count), rows(count..2 * count)];
    let shared = Shared::with_rows(2, &kept);
    let limit = Limit {
        bytes: 1000,
        keys_min: u64::MAX,
    };
    let local = shared.folder.path().join("local/process-0/test");
    let on_disk = || std::fs::read_dir(&local).unwrap().count();
    let mut process = shared.limited(0, Some(0), limit);
    for number in [1, 0] {
        assert!(attempt(&mut process));
        assert_eq!(loaded(&process), (number, 100));
        assert_eq!(on_disk(), 2, "each object fills a segment");
        process.cold.folder.clean().unwrap();
        assert_eq!(on_disk(), 2, "they are needed");
    }
    drop(process);
    assert_eq!(on_disk(), 0);
}

#[test]
fn what_was_skipped_is_skipped_again_if_nothing_before_it_is_made_again() {
    let binding = |epoch, ends: &[(i32, i64)], skipped: &[(i32, i64, i64)]| Binding {
        epoch,
        ends: ends.to_vec(),
        skipped: skipped
            .iter()
            .map(|(partition, from, to)| Skipped {
                partition: *partition,
                from: *from,
                to: *to,
            })
            .collect(),
        ..Binding::default()
    };
    let bindings = [
        binding(1, &[(0, 10), (1, 10), (2, 10)], &[]),
        binding(2, &[(0, 20), (1, 12)], &[(0, 10, 20)]),
        binding(
            3,
            &[(0, 31), (1, 40), (3, 9)],
            &[(0, 20, 30), (1, 12, 33), (3, 0, 7)],
        ),
    ];
    let expected = [(0, (30, 31)), (1, (10, 40)), (2, (10, 10)), (3, (7, 9))];
    assert_eq!(ranges(None, &bindings), BTreeMap::from(expected));
}
