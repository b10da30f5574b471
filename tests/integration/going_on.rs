//! Jobs over files that have ended in some way and are started again: each row is there once, and
//! what they cannot go on from is refused.

use deltajoin::generate::{Differences, Expected};
use deltajoin_testkit::{Job, Outcome, Signal, wait_until};

use crate::case::{CONFIG, Fifo, Folder, LIMIT, counted, options};

pub(crate) const ROWS: &str = "joined.jsonl";
pub(crate) const DEAD: &str = "joined.jsonl.dead.jsonl";
pub(crate) const BINDINGS: &str = "state/detections/bindings.jsonl";
/// Small epochs and many checkpoints, so that a kill is within some.
const OFTEN: &str = "[limits]\nmax_in_flight_bytes = \"1MB\"\n[checkpoint]\ninterval = \"100ms\"\n";

/// An event, as a line.
pub(crate) fn event(oid: u64) -> String {
    format!(
        "{{\"geographical_location_oid\":1,\"video_camera_oid\":1,\"detection_oid\":{oid},\
         \"item_name\":\"bag\",\"timestamp_detected\":1767225600000}}\n"
    )
}

/// A folder with a job and so many events.
pub(crate) fn small(count: u64) -> Folder {
    let folder = Folder::with_config(CONFIG);
    folder.write(
        "reference.csv",
        "geographical_location_oid,geographical_location\n1,Here\n",
    );
    folder.write("events.jsonl", (0..count).map(event).collect::<String>());
    folder
}

fn start(folder: &Folder, arguments: &[&str]) -> Job {
    folder.start(&[&["run", "--config", "job.toml"], arguments].concat())
}

/// Runs to the end, without an error.
pub(crate) fn run(folder: &Folder, arguments: &[&str]) -> Outcome {
    let outcome = folder.run_job("run", &[&["--until-end"], arguments].concat());
    outcome.assert_code(0);
    let said = outcome.stderr.join("\n");
    assert!(!said.contains("ERROR"), "{said}");
    outcome
}

/// The keys of all rows, in order.
pub(crate) fn keys(folder: &Folder) -> Vec<u64> {
    let key = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["detection_oid"].as_u64().unwrap()
    };
    let mut keys: Vec<u64> = folder.read(ROWS).lines().map(key).collect();
    keys.sort_unstable();
    keys
}

pub(crate) fn length(folder: &Folder, name: &str) -> u64 {
    std::fs::metadata(folder.path(name)).map_or(0, |metadata| metadata.len())
}

/// Neither a start nor a check goes on; both say why.
pub(crate) fn refused(folder: &Folder, arguments: &[&str], texts: &[&str]) {
    let before = folder.read(ROWS);
    for command in ["check", "run"] {
        let outcome = folder.run_job(command, arguments);
        let said = outcome.stderr.join("\n");
        assert_eq!(outcome.code(), Some(2), "{command}: {said}");
        for text in texts {
            assert!(said.contains(text), "{command}: no {text:?} in:\n{said}");
        }
    }
    assert_eq!(folder.read(ROWS), before);
}

#[test]
fn a_job_that_is_killed_and_gets_other_threads_writes_each_row_once() {
    let options = options(400_000);
    let folder = Folder::with_case(&(CONFIG.to_owned() + OFTEN), &options);
    let expected = Expected::of(&options).unwrap();
    let mut killed = 0;
    for (part, threads) in [1, 2, 4, 1, 3].into_iter().enumerate() {
        let set = format!("cluster.threads={threads}");
        let before = length(&folder, ROWS);
        let mut job = start(&folder, &["--set", &set]);
        // Not always behind as many rows, nor at the same step.
        let more = 2_000_000 + 1_234_567 * part as u64;
        wait_until("more rows, or the end", LIMIT, || {
            length(&folder, ROWS) > before + more || !job.is_running()
        });
        job.kill();
        killed += u64::from(job.wait(LIMIT).code().is_none());
    }
    assert!(killed >= 3, "{killed} kills within the work");
    run(&folder, &["--set", "cluster.threads=2"]);
    let Differences { rows, .. } = folder.audit(ROWS, &expected);
    assert_eq!(rows, expected.rows());
    folder.assert_expected(ROWS, &expected);
    let dead = folder.line_count(DEAD) as u64;
    assert_eq!(dead, expected.counts().dead_letters);
    // Nothing is left to do, and nothing is done.
    let lengths = [ROWS, DEAD].map(|name| length(&folder, name));
    let outcome = run(&folder, &["--set", "cluster.threads=4"]);
    assert_eq!(counted(&outcome, "records"), 0);
    assert_eq!([ROWS, DEAD].map(|name| length(&folder, name)), lengths);
    let outcome = folder.run_job("audit", &[]);
    outcome.assert_code(0);
    assert_eq!(outcome.stdout.last().unwrap(), "clean");
    assert!(outcome.stdout[0].starts_with("epochs"), "{outcome:?}");
}

#[test]
fn a_stopped_job_replays_nothing_and_goes_on_with_the_next_line() {
    let options = options(400_000);
    let folder = Folder::with_case(&(CONFIG.to_owned() + OFTEN), &options);
    let expected = Expected::of(&options).unwrap();
    let mut job = start(&folder, &[]);
    wait_until("rows", LIMIT, || length(&folder, ROWS) > 2_000_000);
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
    let written = length(&folder, ROWS);
    let debug = ["--set", "telemetry.log=debug"];
    let outcome = run(&folder, &debug);
    let took = outcome
        .stderr
        .iter()
        .find(|line| line.contains("took the job over"));
    let took = took.expect("it says so");
    assert!(took.contains("replayed=0"), "{took}");
    let records = counted(&outcome, "records");
    assert!(0 < records && records < 400_000, "{records} are left");
    assert!(length(&folder, ROWS) > written);
    folder.assert_expected(ROWS, &expected);
}

#[test]
fn lines_that_are_added_are_read_by_the_next_start() {
    let folder = small(10);
    run(&folder, &[]);
    let more: String = (5..20).map(event).collect();
    folder.write(
        "events.jsonl",
        (0..10).map(event).collect::<String>() + &more,
    );
    let outcome = run(&folder, &["--set", "cluster.threads=2"]);
    let numbers = ["records", "distinct", "duplicates"].map(|name| counted(&outcome, name));
    assert_eq!(numbers, [15, 10, 5]);
    assert_eq!(keys(&folder), (0..20).collect::<Vec<_>>());
    // What no start has read is not judged.
    let text = folder.read("events.jsonl");
    folder.write("events.jsonl", text + &event(20));
    folder.run_job("audit", &[]).assert_code(0);
}

#[test]
fn a_last_line_that_is_still_being_written_is_left_until_it_is_whole() {
    let folder = small(3);
    let text = folder.read("events.jsonl") + &event(3);
    let cut = text.len() - 10;
    folder.write("events.jsonl", &text[..cut]);
    let outcome = run(&folder, &[]);
    let said = outcome.stderr.join("\n");
    assert!(
        said.contains("left the last line") && said.contains("line=4"),
        "{said}"
    );
    assert_eq!(keys(&folder), [0, 1, 2]);
    // Whole, though without its end.
    folder.write("events.jsonl", text.trim_end());
    run(&folder, &[]);
    assert_eq!(keys(&folder), [0, 1, 2, 3]);
    folder.write("events.jsonl", text + &event(4));
    run(&folder, &[]);
    assert_eq!(keys(&folder), [0, 1, 2, 3, 4]);
    assert_eq!(folder.line_count(DEAD), 0);
}

#[test]
fn rows_are_joined_with_the_reference_table_of_their_time() {
    let folder = small(2);
    let config = folder.read("job.toml");
    let join = "[join]\non_reference_change = \"future-only\"";
    folder.write("job.toml", config.replace("[join]", join));
    run(&folder, &[]);
    folder.write(
        "reference.csv",
        "geographical_location_oid,geographical_location\n1,There\n",
    );
    folder.write("events.jsonl", (0..3).map(event).collect::<String>());
    run(&folder, &[]);
    let rows = folder.read(ROWS);
    let places: Vec<bool> = rows.lines().map(|row| row.contains("\"There\"")).collect();
    assert_eq!(places, [false, false, true]);
    // An audit knows which table each epoch had.
    folder.run_job("audit", &[]).assert_code(0);
    folder.write(ROWS, rows.replace("\"There\"", "\"Where\""));
    folder.run_job("audit", &[]).assert_code(1);
}

#[test]
fn a_changed_reference_table_revises_rows_of_before_the_restart_once() {
    let folder = small(2);
    run(&folder, &[]);
    folder.write(
        "reference.csv",
        "geographical_location_oid,geographical_location\n1,There\n",
    );
    run(&folder, &[]);
    folder.write("events.jsonl", (0..3).map(event).collect::<String>());
    run(&folder, &[]);
    let rows = folder.read(ROWS);
    let places: Vec<bool> = rows.lines().map(|row| row.contains("\"There\"")).collect();
    assert_eq!(places, [false, false, true, true, true], "{rows}");
    assert_eq!(keys(&folder), [0, 0, 1, 1, 2]);
}

#[test]
fn rows_of_other_columns_stay_as_they_are_and_later_ones_are_revised() {
    let folder = small(2);
    run(&folder, &[]);
    // The rows of this start are held by columns that the later ones do not have.
    let config = folder.read("job.toml");
    folder.write("job.toml", config.replace("item_name = \"string\"\n", ""));
    let place = |name: &str| {
        let text = format!("geographical_location_oid,geographical_location\n1,{name}\n");
        folder.write("reference.csv", text);
    };
    place("There");
    folder.write("events.jsonl", (0..3).map(event).collect::<String>());
    run(&folder, &[]);
    place("Far");
    folder.write("events.jsonl", (0..4).map(event).collect::<String>());
    run(&folder, &[]);
    let rows = folder.read(ROWS);
    let told = rows.lines().map(|line| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let place = row["geographical_location"].as_str().unwrap().to_owned();
        (row["detection_oid"].as_u64().unwrap(), place)
    });
    let expected = [
        (0, "Here"),
        (1, "Here"),
        (2, "There"),
        (2, "Far"),
        (3, "Far"),
    ];
    let expected = expected.map(|(oid, place)| (oid, place.to_owned()));
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn a_second_start_while_the_first_runs_ends_with_code_5() {
    let folder = small(1000);
    let _output = Fifo::make(&folder.path("pipe.jsonl"));
    // Nobody reads what it writes: it cannot come to its end.
    folder.write("events.jsonl", (0..5000).map(event).collect::<String>());
    let mut first = start(&folder, &["--set", "sinks.0.path=pipe.jsonl"]);
    first.wait_for_line("the cluster is complete", LIMIT);
    let second = folder.run_job("run", &["--until-end", "--set", "sinks.0.path=other.jsonl"]);
    second.assert_code(5);
    let said = second.stderr.join("\n");
    assert!(
        said.contains(BINDINGS) && said.contains("Its newest marker is of"),
        "{said}"
    );
    let reset = folder.run(&["state", "reset", "--config", "job.toml", "--yes"]);
    reset.assert_code(5);
    assert!(folder.path(BINDINGS).exists());
    assert!(first.is_running());
    first.kill();
    first.wait(LIMIT);
    run(&folder, &["--set", "sinks.0.path=other.jsonl"]);
    assert_eq!(folder.line_count("other.jsonl"), 5000);
}

#[test]
fn events_that_were_read_must_stay_as_they_are() {
    let folder = small(10);
    run(&folder, &[]);
    folder.write("events.jsonl", (0..9).map(event).collect::<String>());
    refused(
        &folder,
        &[],
        &[
            "line 10 of file \"events.jsonl\" was read, and is not there",
            "state reset",
        ],
    );
    folder.write("events.jsonl", (1..20).map(event).collect::<String>());
    refused(
        &folder,
        &[],
        &["events.jsonl\" begins with another line", "state reset"],
    );
    let outcome = folder.run_job("audit", &[]);
    outcome.assert_code(1);
    folder.write("events.jsonl", (0..9).map(event).collect::<String>());
    let outcome = folder.run_job("audit", &[]);
    outcome.assert_code(2);
    let said = outcome.stderr.join("\n");
    assert!(
        said.contains("line 10 of file") && said.contains("needs all events"),
        "{said}"
    );
    folder.write("events.jsonl", "");
    refused(&folder, &[], &["events.jsonl\" begins with another line"]);
    folder.write("copy.jsonl", (0..11).map(event).collect::<String>());
    let path = ["--set", "events.path=copy.jsonl"];
    refused(
        &folder,
        &path,
        &["events.path", "\"events.jsonl\"", "\"copy.jsonl\""],
    );
    folder.write("events.jsonl", (0..11).map(event).collect::<String>());
    run(&folder, &[]);
    assert_eq!(keys(&folder), (0..11).collect::<Vec<_>>());
}

#[test]
fn a_damaged_log_of_bindings_is_told_with_its_place() {
    let folder = small(10);
    run(&folder, &[]);
    let whole = std::fs::read(folder.path(BINDINGS)).unwrap();
    let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mut damaged = whole.clone();
    damaged[second + 60] ^= 1;
    folder.write(BINDINGS, &damaged);
    // A checkpoint reaches behind it; without one all is read.
    run(&folder, &[]);
    let bindings = std::fs::read(folder.path(BINDINGS)).unwrap();
    std::fs::rename(folder.path("state/detections"), folder.path("away")).unwrap();
    std::fs::create_dir(folder.path("state/detections")).unwrap();
    folder.write(BINDINGS, bindings);
    refused(
        &folder,
        &[],
        &["state/detections/bindings.jsonl:2 ", "its checksum is"],
    );
    // Without the log the checkpoints say nothing.
    std::fs::remove_dir_all(folder.path("state/detections")).unwrap();
    std::fs::rename(folder.path("away"), folder.path("state/detections")).unwrap();
    std::fs::remove_file(folder.path(BINDINGS)).unwrap();
    refused(
        &folder,
        &[],
        &["the checkpoints are not of", "bindings.jsonl"],
    );
}

#[test]
fn settings_that_must_last_are_refused_and_those_of_rows_wait_for_a_clean_stop() {
    let folder = small(10);
    run(&folder, &[]);
    refused(
        &folder,
        &["--set", "limits.shards=32"],
        &["limits.shards", "\"64\"", "\"32\""],
    );
    let config = CONFIG.replace(
        "key = [\"detection_oid\"]",
        "key = [\"detection_oid\", \"item_name\"]",
    );
    folder.write("job.toml", config);
    refused(&folder, &[], &["events.key", "item_name: string"]);
    folder.write("job.toml", CONFIG);
    // All rows are written: what they depend on may change.
    folder.write("events.jsonl", (0..11).map(event).collect::<String>());
    run(&folder, &["--set", "join.unmatched=drop"]);
    assert_eq!(keys(&folder), (0..11).collect::<Vec<_>>());
    // Killed before its first checkpoint: the rows of then are to be made again.
    folder.forget();
    let _pipe = Fifo::make(&folder.path("pipe.jsonl"));
    folder.write("events.jsonl", (0..5000).map(event).collect::<String>());
    let mut job = start(&folder, &["--set", "sinks.0.path=pipe.jsonl"]);
    wait_until("bindings", LIMIT, || {
        std::fs::read_to_string(folder.path(BINDINGS)).is_ok_and(|log| log.lines().count() > 4)
    });
    job.kill();
    job.wait(LIMIT);
    folder.write(ROWS, "");
    let dropping = ["--set", "join.unmatched=drop"];
    refused(
        &folder,
        &dropping,
        &["join.unmatched", "not written all rows"],
    );
    std::fs::remove_file(folder.path(ROWS)).unwrap();
    run(&folder, &[]);
    assert_eq!(keys(&folder).len(), 5000);
}

#[test]
fn settings_of_rows_are_refused_also_when_a_damaged_checkpoint_has_more_made_again() {
    let folder = small(10);
    run(&folder, &[]);
    folder.write("events.jsonl", (0..20).map(event).collect::<String>());
    run(&folder, &[]);
    // The keys of the newest checkpoint alone: then rows are made again that all sinks have.
    let files = std::fs::read_dir(folder.path("state/detections")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let run_of_keys = files.filter(|path| path.extension().is_some_and(|ending| ending == "keys"));
    let newest = run_of_keys
        .max()
        .expect("new keys are in a run of their own");
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let dropping = ["--until-end", "--set", "join.unmatched=drop"];
    let outcome = folder.run_job("run", &dropping);
    outcome.assert_code(2);
    let said = outcome.stderr.join("\n");
    for text in [
        "going back to the checkpoint",
        "join.unmatched",
        "not written all rows",
    ] {
        assert!(said.contains(text), "no {text:?} in:\n{said}");
    }
    folder.run_job("run", &["--until-end"]).assert_code(0);
    assert_eq!(keys(&folder), (0..20).collect::<Vec<_>>());
}

#[test]
fn what_is_kept_is_shown_checked_and_forgotten() {
    let folder = small(10);
    let first = folder.run_job("check", &[]);
    first.assert_code(0);
    let said = first.stdout.join("\n") + &first.stderr.join("\n");
    assert!(said.contains("the job makes file"), "{said}");
    assert!(!folder.path("state").exists());
    run(&folder, &[]);
    let checked = folder.run_job("check", &[]);
    checked.assert_code(0);
    let said = checked.stdout.join("\n") + &checked.stderr.join("\n");
    assert!(said.contains("bindings.jsonl\", up to epoch"), "{said}");
    assert!(said.contains("joined.jsonl, written up to epoch"), "{said}");
    let state = folder.run_job("state", &["--verify"]);
    state.assert_code(0);
    let told = state.stdout.join("\n");
    // Partition 0, and the line that is read next, by the checkpoint and by what is bound.
    assert!(
        told.lines()
            .any(|line| line.split_whitespace().eq(["0", "11", "11"])),
        "{told}"
    );
    assert!(told.contains("all are good"), "{told}");
    folder.forget();
    assert!(!folder.path(BINDINGS).exists());
    let outcome = run(&folder, &[]);
    assert_eq!(counted(&outcome, "records"), 10);
    assert_eq!(keys(&folder), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_pipe_of_events_keeps_nothing() {
    let folder = small(0);
    std::fs::remove_file(folder.path("events.jsonl")).unwrap();
    let _pipe = Fifo::make(&folder.path("events.jsonl"));
    for arguments in [
        &["state", "--config", "job.toml"][..],
        &["state", "reset", "--config", "job.toml", "--yes"],
    ] {
        let outcome = folder.run(arguments);
        outcome.assert_code(2);
        let said = outcome.stderr.join("\n");
        assert!(said.contains("its events come from a pipe"), "{said}");
    }
}
