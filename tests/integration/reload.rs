//! A reference file that changes while a job runs: what is taken, when, and what is not.

use std::collections::BTreeMap;

use deltajoin::telemetry::Status;
#[cfg(feature = "s3")]
use deltajoin_testkit::BucketServer;
use deltajoin_testkit::{Job, Signal, wait_for, wait_until};

use crate::case::{CONFIG, Fifo, Folder, LIMIT};

const ROWS: &str = "joined.jsonl";
const BINDINGS: &str = "state/detections/bindings.jsonl";
/// Longer than any test.
const NEVER: &str = "refresh = \"1d\"";
const OFTEN: &str = "refresh = \"100ms\"";

/// The job of the case that looks at its reference file so often, and tells its status.
fn config(refresh: &str) -> String {
    let config = CONFIG.replace("[reference]\n", &format!("[reference]\n{refresh}\n"));
    config + "[telemetry]\nstatus_file = \"status.json\"\n"
}

/// Events at a location, from this number on.
fn events(location: u64, oids: std::ops::Range<u64>) -> String {
    let event = |oid: u64| {
        format!(
            "{{\"geographical_location_oid\":{location},\"video_camera_oid\":1,\
             \"detection_oid\":{oid},\"item_name\":\"bag\",\"timestamp_detected\":1767225600000}}\n"
        )
    };
    oids.map(event).collect()
}

/// Puts a table in the place of the one before.
fn put(folder: &Folder, rows: &[(u64, &str)]) {
    let header = "geographical_location_oid,geographical_location\n".to_owned();
    let rows = rows.iter().map(|(oid, name)| format!("{oid},{name}\n"));
    folder.write("next.csv", header + &rows.collect::<String>());
    std::fs::rename(folder.path("next.csv"), folder.path("reference.csv")).unwrap();
}

/// A job whose events come from a pipe, with two locations.
fn held(refresh: &str) -> (Folder, Fifo) {
    let folder = Folder::with_config(&config(refresh));
    put(&folder, &[(1, "Here"), (2, "There")]);
    let pipe = Fifo::make(&folder.path("events.jsonl"));
    (folder, pipe)
}

/// What the rows say of each key, one after the other.
fn places(folder: &Folder) -> BTreeMap<u64, Vec<String>> {
    let text = std::fs::read_to_string(folder.path(ROWS)).unwrap_or_default();
    let mut places: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for row in text.split_inclusive('\n').filter(|row| row.ends_with('\n')) {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let place = row["geographical_location"].as_str().unwrap_or("null");
        let of_key = places.entry(row["detection_oid"].as_u64().unwrap());
        of_key.or_default().push(place.to_owned());
    }
    places
}

fn wait_for_places(folder: &Folder, expected: &[(u64, &[&str])]) {
    let expected: BTreeMap<u64, Vec<String>> = expected
        .iter()
        .map(|(key, places)| {
            (
                *key,
                places.iter().map(|place| (*place).to_owned()).collect(),
            )
        })
        .collect();
    wait_until(&format!("{expected:?}"), LIMIT, || {
        places(folder) == expected
    });
}

fn wait_for_status(folder: &Folder, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
    wait_for(what, LIMIT, || {
        let text = std::fs::read(folder.path("status.json")).ok()?;
        let status: Status = serde_json::from_slice(&text).expect("it is always whole");
        holds(&status).then_some(status)
    })
}

fn said(job: &Job, text: &str) -> usize {
    let lines = job.stderr();
    lines.iter().filter(|line| line.contains(text)).count()
}

#[test]
fn a_changed_file_is_taken_while_the_job_runs_and_recent_rows_are_revised() {
    let (folder, mut pipe) = held(OFTEN);
    let mut job = folder.start(&["run", "--config", "job.toml"]);
    pipe.give((events(1, 0..1) + &events(2, 1..2) + &events(3, 2..3)).as_bytes());
    wait_for_places(&folder, &[(0, &["Here"]), (1, &["There"]), (2, &["null"])]);
    let before = wait_for_status(&folder, "a row", |status| status.counts.rows_out == 3);
    // One is renamed, one goes, one comes.
    put(&folder, &[(1, "Elsewhere"), (3, "New")]);
    wait_for_places(
        &folder,
        &[
            (0, &["Here", "Elsewhere"]),
            (1, &["There", "null"]),
            (2, &["null", "New"]),
        ],
    );
    pipe.give(events(1, 3..4).as_bytes());
    wait_until("the next", LIMIT, || places(&folder).len() == 4);
    assert_eq!(places(&folder)[&3], ["Elsewhere"]);
    let after = wait_for_status(&folder, "four rows", |status| status.counts.distinct == 4);
    assert!(before.reference_loaded_ms > 0);
    assert!(after.reference_loaded_ms > before.reference_loaded_ms);
    assert_eq!(
        (after.reference_failures, after.reference_error),
        (0, String::new())
    );
    // The same content in another file is no change.
    let handed = said(&job, "is handed over");
    put(&folder, &[(1, "Elsewhere"), (3, "New")]);
    wait_for_status(&folder, "a later look", |status| {
        status.written_ms > after.written_ms + 2_000 && status.reference_age_s < 2
    });
    assert_eq!((handed, said(&job, "is handed over")), (2, 2));
    assert_eq!(places(&folder)[&0], ["Here", "Elsewhere"]);
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
}

#[test]
fn a_file_that_cannot_be_taken_changes_nothing_and_is_told_once() {
    let (folder, mut pipe) = held(OFTEN);
    let mut job = folder.start(&["run", "--config", "job.toml"]);
    pipe.give(events(1, 0..1).as_bytes());
    wait_for_places(&folder, &[(0, &["Here"])]);
    let bad = |text: &str| {
        let header = "geographical_location_oid,geographical_location\n";
        folder.write("next.csv", text.replace("HEADER\n", header));
        std::fs::rename(folder.path("next.csv"), folder.path("reference.csv")).unwrap();
    };
    let faults = [
        ("HEADER\n1,Wrong\nx,y\n", "reference.csv:3:1: column"),
        (
            "HEADER\n1,Wrong\n1,Y\n",
            "reference.csv:3:1: key {\"geographical_location_oid\":1} is on line 2",
        ),
        ("id,name\n1,Wrong\n", "reference.csv:1:1: columns"),
    ];
    for (count, (text, place)) in (1..).zip(faults) {
        bad(text);
        wait_for_status(&folder, place, |status| {
            status.reference_failures == count
                && status.reference_error.contains(place)
                && status.counts.reference_rows == 2
        });
        job.wait_for_line(place, LIMIT);
    }
    std::fs::remove_file(folder.path("reference.csv")).unwrap();
    let missing = "could not open file \"reference.csv\": No such file";
    // Its age grows, and it is looked for all the time.
    let status = wait_for_status(&folder, "its age", |status| {
        status.reference_age_s >= 3 && status.reference_failures == 4
    });
    assert!(status.reference_error.contains(missing), "{status:?}");
    for text in [faults[0].1, faults[1].1, faults[2].1, missing] {
        assert_eq!(said(&job, text), 1, "{text}");
    }
    assert_eq!(said(&job, "ERROR"), 4);
    pipe.give(events(1, 1..2).as_bytes());
    wait_for_places(&folder, &[(0, &["Here"]), (1, &["Here"])]);
    // The content before is no change; another one is.
    put(&folder, &[(1, "Here"), (2, "There")]);
    job.wait_for_line("the reference file is good again", LIMIT);
    let status = wait_for_status(&folder, "a good file", |status| {
        status.reference_error.is_empty() && status.reference_age_s < 2
    });
    assert_eq!(status.reference_failures, 4);
    put(&folder, &[(1, "Right")]);
    wait_for_places(&folder, &[(0, &["Here", "Right"]), (1, &["Here", "Right"])]);
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
}

#[test]
fn a_hangup_has_the_file_read_at_once_by_run_and_by_cluster() {
    for command in ["run", "cluster"] {
        let (folder, mut pipe) = held(NEVER);
        let mut job = folder.start(&[command, "--config", "job.toml"]);
        pipe.give(events(1, 0..1).as_bytes());
        wait_for_places(&folder, &[(0, &["Here"])]);
        put(&folder, &[(1, "Second")]);
        job.signal(Signal::Hangup);
        wait_for_places(&folder, &[(0, &["Here", "Second"])]);
        // A fault is told each time that someone asks.
        folder.write("reference.csv", "wrong\n");
        for count in 1..=2 {
            job.signal(Signal::Hangup);
            wait_until("a fault", LIMIT, || {
                said(&job, "reference.csv:1:1: columns") == count
            });
        }
        put(&folder, &[(1, "Third")]);
        job.signal(Signal::Hangup);
        wait_for_places(&folder, &[(0, &["Here", "Second", "Third"])]);
        job.signal(Signal::Terminate);
        job.wait(LIMIT).assert_code(0);
    }
}

/// A job that was killed when a reload was bound, and nothing was written: how many events were
/// bound is unknown.
fn killed_after_a_reload(count: u64) -> Folder {
    let folder =
        Folder::with_config(&(config(OFTEN) + "[limits]\nmax_in_flight_bytes = \"1MB\"\n"));
    folder.write("events.jsonl", events(1, 0..count));
    put(&folder, &[(1, "First")]);
    // Nobody reads what it writes: it cannot come to its end.
    let _output = Fifo::make(&folder.path("pipe.jsonl"));
    let to = "sinks.0.path=pipe.jsonl";
    let mut job = folder.start(&["run", "--config", "job.toml", "--set", to]);
    let bound = || std::fs::read(folder.path(BINDINGS)).unwrap_or_default();
    wait_for_status(&folder, "events", |status| status.counts.records > 100);
    put(&folder, &[(1, "Second")]);
    wait_until("the binding", LIMIT, || {
        String::from_utf8_lossy(&bound()).contains("Second")
    });
    job.kill();
    job.wait(LIMIT);
    folder
}

#[test]
fn a_replay_sees_the_table_that_was_read_again_though_the_file_has_changed_twice_since() {
    let folder = killed_after_a_reload(60_000);
    put(&folder, &[(1, "Third")]);
    put(&folder, &[(1, "Fourth")]);
    folder.run_job("run", &["--until-end"]).assert_code(0);
    let places = places(&folder);
    assert_eq!(places.len(), 60_000);
    assert_eq!(places[&0], ["First", "Second", "Fourth"]);
    assert_eq!(places[&59_999], ["Fourth"]);
    let ways: std::collections::BTreeSet<&Vec<String>> = places.values().collect();
    assert_eq!(ways.len(), 2, "{ways:?}");
}

#[test]
fn a_restart_goes_on_without_the_file_and_a_first_start_does_not() {
    let folder = killed_after_a_reload(60_000);
    std::fs::remove_file(folder.path("reference.csv")).unwrap();
    // For an end there is no later, at which the file could be good.
    folder.run_job("run", &["--until-end"]).assert_code(2);
    let outcome = folder.run_job("run", &[]);
    outcome.assert_code(0);
    let told = outcome.stderr.join("\n");
    let missing = "could not open file \"reference.csv\": No such file";
    assert!(told.contains("ERROR") && told.contains(missing), "{told}");
    let rows = places(&folder);
    assert_eq!(rows.len(), 60_000);
    assert_eq!(
        (&rows[&0][..], &rows[&59_999][..]),
        (
            &["First".to_owned(), "Second".to_owned()][..],
            &["Second".to_owned()][..]
        )
    );
    folder.forget();
    let outcome = folder.run_job("run", &[]);
    outcome.assert_code(2);
    assert!(
        outcome
            .stderr
            .join("\n")
            .contains("could not open file \"reference.csv\"")
    );
    // It has begun nothing.
    put(&folder, &[(1, "Fifth")]);
    folder.run_job("run", &["--until-end"]).assert_code(0);
    assert_eq!(places(&folder)[&0], ["Fifth"]);
}

/// What the rows say of each key, with the version: its place among all versions, from 0.
fn versions(folder: &Folder) -> BTreeMap<u64, Vec<(String, Option<usize>)>> {
    let rows: Vec<serde_json::Value> = folder
        .read(ROWS)
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    let version = |row: &serde_json::Value| row["since"].as_u64();
    let all: std::collections::BTreeSet<u64> = rows.iter().filter_map(version).collect();
    let mut versions: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for row in &rows {
        let place = row["geographical_location"].as_str().unwrap_or("null");
        let rank = version(row).map(|own| all.range(..own).count());
        let of_key = versions.entry(row["detection_oid"].as_u64().unwrap());
        of_key.or_default().push((place.to_owned(), rank));
    }
    versions
}

#[test]
fn a_row_tells_the_version_of_its_reference_row_which_restarts_and_equal_rows_leave() {
    for strategy in ["broadcast", "partitioned"] {
        versions_with(strategy);
    }
}

fn versions_with(strategy: &str) {
    let settings = format!("[join]\nversion_column = \"since\"\nstrategy = {strategy:?}");
    let config = config(OFTEN).replace("[join]", &settings);
    let folder = Folder::with_config(&config);
    put(&folder, &[(1, "Here"), (2, "There")]);
    let run = |count: u64| {
        let all = (0..count).map(|oid| events(1 + oid % 3, oid..oid + 1));
        folder.write("events.jsonl", all.collect::<String>());
        let threads = ["--until-end", "--set", "cluster.threads=3"];
        folder.run_job("run", &threads).assert_code(0);
    };
    run(3);
    // The first is renamed, the second stays, the third comes.
    put(&folder, &[(3, "New"), (2, "There"), (1, "Elsewhere")]);
    run(6);
    // Its checkpoint has the versions, and so has the log.
    put(&folder, &[(2, "There"), (3, "New")]);
    run(9);
    let row = |place: &str, version| (place.to_owned(), version);
    let expected = [
        vec![
            row("Here", Some(0)),
            row("Elsewhere", Some(1)),
            row("null", None),
        ],
        vec![row("There", Some(0))],
        vec![row("null", None), row("New", Some(1))],
        vec![row("Elsewhere", Some(1)), row("null", None)],
        vec![row("There", Some(0))],
        vec![row("New", Some(1))],
        vec![row("null", None)],
        vec![row("There", Some(0))],
        vec![row("New", Some(1))],
    ];
    assert_eq!(
        versions(&folder),
        (0..).zip(expected).collect::<BTreeMap<_, _>>()
    );
    folder.run_job("audit", &[]).assert_code(0);
    let said = folder.run_job("run", &["--until-end", "--engine", "textbook"]);
    said.assert_code(2);
    assert!(
        said.stderr
            .join("\n")
            .contains("the textbook engine has no \"version_column\"")
    );
    let other = folder.run_job("run", &["--set", "join.version_column=version"]);
    other.assert_code(2);
    assert!(other.stderr.join("\n").contains("join.version_column"));
}

/// Puts a table in Parquet in the place of the one before.
#[cfg(feature = "parquet")]
fn put_parquet(folder: &Folder, rows: &[(i64, &str)]) {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    let oids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    let columns = [
        ("geographical_location", names),
        ("geographical_location_oid", oids),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(folder.path("next.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    std::fs::rename(
        folder.path("next.parquet"),
        folder.path("reference.parquet"),
    )
    .unwrap();
}

#[cfg(feature = "parquet")]
#[test]
fn a_table_in_parquet_is_followed_and_a_bad_one_leaves_what_was() {
    let config = config(OFTEN).replace("reference.csv", "reference.parquet");
    let folder = Folder::with_config(&config);
    put_parquet(&folder, &[(1, "Here"), (2, "There")]);
    let mut pipe = Fifo::make(&folder.path("events.jsonl"));
    let mut job = folder.start(&["run", "--config", "job.toml"]);
    pipe.give((events(1, 0..1) + &events(2, 1..2)).as_bytes());
    wait_for_places(&folder, &[(0, &["Here"]), (1, &["There"])]);
    put_parquet(&folder, &[(1, "Wrong"), (2, "Wrong"), (1, "Wrong")]);
    let place = "reference.parquet: row 3: key {\"geographical_location_oid\":1} is in row 1";
    job.wait_for_line(place, LIMIT);
    folder.write("next.parquet", "half a file");
    std::fs::rename(
        folder.path("next.parquet"),
        folder.path("reference.parquet"),
    )
    .unwrap();
    job.wait_for_line("reference.parquet: no Parquet file", LIMIT);
    put_parquet(&folder, &[(1, "Elsewhere"), (2, "There")]);
    wait_for_places(&folder, &[(0, &["Here", "Elsewhere"]), (1, &["There"])]);
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
}

#[cfg(feature = "s3")]
#[test]
fn a_table_in_a_bucket_is_followed_and_one_that_is_bad_or_gone_leaves_what_was() {
    let (server, object) = (BucketServer::shared(), "tables/some/reference.csv");
    server.create_bucket("tables");
    let put = |rows: &[(u64, &str)]| {
        let header = "geographical_location_oid,geographical_location\n".to_owned();
        let rows = rows.iter().map(|(oid, name)| format!("{oid},{name}\n"));
        server.put(object, (header + &rows.collect::<String>()).as_bytes());
    };
    let path = format!("s3://{object}");
    let folder = Folder::with_config(&config(OFTEN).replace("reference.csv", &path));
    let start = |command: &str, arguments: &[&str]| {
        let arguments = [&[command, "--config", "job.toml"], arguments].concat();
        let mut command = folder.command(&arguments);
        Job::spawn_command(command.envs(BucketServer::environment(server.address())))
    };
    let mut pipe = Fifo::make(&folder.path("events.jsonl"));
    for (path, fault) in [
        (&*path, "there is no such object"),
        ("s3://nowhere/x.csv", "there is no such object"),
        ("s3://tables.csv", "it names no object"),
    ] {
        let setting = format!("reference.path={path}");
        let outcome = start("check", &["--set", &setting]).wait(LIMIT);
        outcome.assert_code(2);
        let said = outcome.stderr.join("\n");
        let message = format!("could not open file {path:?}");
        assert!(said.contains(&message) && said.contains(fault), "{said}");
    }

    // In several parts.
    let many: Vec<(u64, String)> = (3..300_000)
        .map(|n| (n, format!("Place {n:020}")))
        .collect();
    let mut all: Vec<(u64, &str)> = vec![(1, "Here"), (2, "There")];
    all.extend(many.iter().map(|(n, name)| (*n, name.as_str())));
    put(&all);
    let mut job = start("run", &[]);
    pipe.give((events(1, 0..1) + &events(2, 1..2) + &events(299_999, 2..3)).as_bytes());
    let last = "Place 00000000000000299999";
    wait_for_places(&folder, &[(0, &["Here"]), (1, &["There"]), (2, &[last])]);
    put(&[(1, "Wrong"), (2, "Wrong"), (1, "Wrong")]);
    job.wait_for_line(&format!("{path}:4:1: key"), LIMIT);
    server.delete(object);
    job.wait_for_line("there is no such object", LIMIT);
    put(&[(1, "Elsewhere"), (2, "There"), (299_999, last)]);
    wait_for_places(
        &folder,
        &[(0, &["Here", "Elsewhere"]), (1, &["There"]), (2, &[last])],
    );
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
}
