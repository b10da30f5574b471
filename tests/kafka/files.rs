//! Jobs that read Kafka and write files: killed and started again, each row is there once.

use std::fs;
use std::path::Path;

use deltajoin::generate::{Differences, reference_csv};
use deltajoin_testkit::{Broker, wait_until};

use crate::setup::{LIMIT, Setup, assert_no_errors, quoted};
use crate::stream::{Stream, million};
use crate::topics::{Publisher, differences, event};

const ROWS: &str = "joined.jsonl";
const DEAD: &str = "dead.jsonl";

/// What stands in a file, compared with what is expected.
fn differences_in(path: &Path, stream: &Stream) -> Differences {
    let mut audit = stream.expected.audit();
    let text = fs::read(path).expect("the job has made it");
    assert_eq!(text.last(), Some(&b'\n'), "the last row is whole");
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        audit.row(line);
    }
    audit.finish()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[test]
fn a_killed_job_writes_each_row_once_to_a_file_beside_topics_of_both_deliveries() {
    let (broker, stream) = (Broker::shared(), million());
    let setup = Setup::new(broker, "mixed")
        .set("[sinks]", "delivery", quoted("exactly-once"))
        .set("limits", "shards", "16")
        .set("events", "topic", quoted(stream.topic))
        .set("limits", "max_in_flight_bytes", quoted("4MB"))
        .dead_letters_to(DEAD)
        .sink(&format!("type = \"jsonl\"\npath = {ROWS:?}"))
        .reference(&reference_csv(&stream.options));
    let (rows, dead) = (setup.folder().join(ROWS), setup.folder().join(DEAD));
    for threads in [1, 2, 4, 1, 3] {
        let threads = format!("cluster.threads={threads}");
        let before = length(&rows);
        let mut job = setup.start(&["--set", &threads]);
        wait_until("more rows", LIMIT, || length(&rows) > before + 3_000_000);
        job.kill();
        let outcome = job.wait(LIMIT);
        assert_eq!(outcome.code(), None, "{}", outcome.stderr.join("\n"));
        assert_no_errors(&outcome.stderr);
    }
    let until_end = |threads: &str| {
        let outcome = setup.start(&["--until-end", "--set", threads]).wait(LIMIT);
        outcome.assert_code(0);
        assert_no_errors(&outcome.stderr);
    };
    until_end("cluster.threads=2");
    let found = differences_in(&rows, stream);
    assert!(found.is_clean(), "{found:#?}");
    let found = differences(broker, &setup.joined(), &stream.expected);
    assert!(found.is_clean(), "{found:#?}");
    let letters = fs::read_to_string(&dead).unwrap();
    let count = letters.lines().count() as u64;
    assert_eq!(count, stream.expected.counts().dead_letters);
    // Nothing is left to do, and nothing is done.
    let lengths = [length(&rows), length(&dead)];
    until_end("cluster.threads=4");
    assert_eq!([length(&rows), length(&dead)], lengths);
}

#[test]
fn a_file_that_is_not_as_it_was_left_keeps_its_job_from_starting_and_stays_as_it_is() {
    let broker = Broker::shared();
    broker.create_topic("left-alone", 1, &[]);
    let publisher = Publisher::new(broker, "left-alone");
    for detection in 1..=3 {
        publisher.send(0, None, Some(&event(detection, 1)));
    }
    publisher.flush();
    let setup = Setup::without_topics(broker, "left-alone")
        .dead_letters_to(DEAD)
        .rows_to(ROWS);
    let path = setup.folder().join(ROWS);
    let beside = setup.folder().join(format!("{ROWS}.progress"));
    let refused = |texts: &[&str]| {
        let before = fs::read(&path).unwrap_or_default();
        let outcome = setup.start(&["--until-end"]).wait(LIMIT);
        outcome.assert_code(2);
        let report = outcome.stderr.join("\n");
        for text in texts.iter().chain(&["hint:"]) {
            assert!(report.contains(text), "{text:?} is missing in:\n{report}");
        }
        assert_eq!(fs::read(&path).unwrap_or_default(), before);
    };
    fs::write(&path, "of somebody else\n").unwrap();
    refused(&["joined.jsonl", "is not empty"]);
    fs::remove_file(&path).unwrap();
    setup.run_until_end(&[]);
    let whole = fs::read_to_string(&path).unwrap();
    assert_eq!(whole.lines().count(), 3);

    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused(&["joined.jsonl", "were written"]);
    fs::write(&path, format!("{whole}{{\"torn")).unwrap();
    let recorded = fs::read(&beside).unwrap();
    let mut damaged = recorded.clone();
    damaged[30] ^= 1;
    fs::write(&beside, damaged).unwrap();
    refused(&["joined.jsonl.progress", "checksum"]);

    fs::write(&beside, recorded).unwrap();
    setup.run_until_end(&[]);
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    // Without both files it is a new sink, which gets what comes after the checkpoint.
    fs::remove_file(&path).unwrap();
    refused(&["joined.jsonl", "were written"]);
    fs::remove_file(&path).unwrap_or_default();
    fs::remove_file(&beside).unwrap();
    let outcome = setup.run_until_end(&[]);
    let said = outcome.stderr.join("\n");
    assert!(
        said.contains("is new, and begins behind the checkpoint"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
}
