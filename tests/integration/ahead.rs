//! Jobs that have told epochs ahead of the clock, as after a start whose clock stood wrong: new
//! epochs come behind all of them, whichever of the three places has them.
//!
//! Apart from `going_on`, whose clocks stand right: here what a job keeps is written anew.

use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;

use crate::case::Folder;
use crate::going_on::{BINDINGS, DEAD, ROWS, event, keys, run, small};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// The text with the first epoch in it a day later.
fn a_day_later(text: &str) -> String {
    let name = "\"epoch\":";
    let (before, rest) = text.split_once(name).expect("it tells an epoch");
    let rest = rest.trim_start();
    let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap();
    let later = rest[..digits].parse::<u64>().unwrap() + DAY_MS;
    format!("{before}{name}{later}{}", &rest[digits..])
}

/// The same for a line of a checksum and a record.
fn line_a_day_later(line: &str) -> String {
    let record = line.strip_suffix(']').and_then(|line| line.split_once(','));
    let (_, record) = record.expect("a line of a checksum and a record");
    let record = a_day_later(record);
    format!("[\"{:016x}\",{record}]\n", xxh3_64(record.as_bytes()))
}

/// The newest manifest's file.
fn manifest(folder: &Folder) -> PathBuf {
    let files = std::fs::read_dir(folder.path("state/detections")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let manifests = files.filter(|path| path.to_str().unwrap().contains("manifest-"));
    manifests.max().expect("the job has made a checkpoint")
}

/// Adds events up to this one, and runs to the end; then each has one row.
fn goes_on(folder: &Folder, count: u64) {
    folder.write("events.jsonl", (0..count).map(event).collect::<String>());
    let outcome = run(folder, &[]);
    assert_eq!(keys(folder), (0..count).collect::<Vec<_>>());
    let said = outcome.stderr.join("\n");
    assert!(said.contains("clock is behind"), "{said}");
}

#[test]
fn epochs_go_on_behind_what_a_file_has() {
    let folder = small(10);
    run(&folder, &[]);
    let progress = format!("{ROWS}.progress");
    let line = folder.read(&progress);
    folder.write(&progress, line_a_day_later(line.trim_end()));
    goes_on(&folder, 20);
    goes_on(&folder, 30);
}

#[test]
fn epochs_go_on_behind_what_is_bound() {
    let folder = small(10);
    run(&folder, &[]);
    let log = folder.read(BINDINGS);
    let epoch = |line: &str| {
        line.split_once("\"epoch\":")
            .map(|(_, rest)| rest[..13].to_owned())
    };
    let newest = log.lines().filter_map(epoch).next_back();
    let later = log.lines().map(|line| match epoch(line) == newest {
        true => line_a_day_later(line),
        false => format!("{line}\n"),
    });
    let later: String = later.collect();
    // All is made again, of the log alone.
    std::fs::remove_dir_all(folder.path("state/detections")).unwrap();
    std::fs::create_dir(folder.path("state/detections")).unwrap();
    folder.write(BINDINGS, later);
    for name in [ROWS, DEAD] {
        std::fs::remove_file(folder.path(name)).unwrap();
        std::fs::remove_file(folder.path(&format!("{name}.progress"))).unwrap();
    }
    goes_on(&folder, 20);
    goes_on(&folder, 30);
}

#[test]
fn epochs_go_on_behind_a_checkpoint() {
    let folder = small(10);
    run(&folder, &[]);
    let path = manifest(&folder);
    let sealed = std::fs::read_to_string(&path).unwrap();
    let (_, text) = sealed
        .split_once(',')
        .expect("a checksum, and what it is of");
    let text = a_day_later(text);
    let sum = xxh3_64(text.as_bytes());
    std::fs::write(&path, format!("{{\"checksum\":\"{sum:016x}\",{text}")).unwrap();
    goes_on(&folder, 20);
    // What is bound behind it counts, also when the next one is gone.
    let next = manifest(&folder);
    assert_ne!(next, path);
    std::fs::remove_file(next).unwrap();
    goes_on(&folder, 30);
}
