//! Stopping: by a signal, by a second one.

use std::time::Duration;

use deltajoin_testkit::{Signal, wait_until};

use crate::case::{CONFIG, Fifo, Folder, LIMIT};

/// Events of the case, from this number on.
fn events(from: u64, count: u64) -> String {
    let event = |oid: u64| {
        format!(
            "{{\"geographical_location_oid\":1,\"video_camera_oid\":1,\"detection_oid\":{oid},\
             \"item_name\":\"bag\",\"timestamp_detected\":1767225600000}}\n"
        )
    };
    (from..from + count).map(event).collect()
}

fn held() -> (Folder, Fifo) {
    let folder = Folder::with_config(CONFIG);
    folder.write(
        "reference.csv",
        "geographical_location_oid,geographical_location\n1,one\n",
    );
    let pipe = Fifo::make(&folder.path("events.jsonl"));
    (folder, pipe)
}

#[test]
fn a_signal_stops_a_job_when_all_that_was_read_is_written() {
    for signal in [Signal::Terminate, Signal::Interrupt] {
        let (folder, mut pipe) = held();
        let mut job = folder.start(&["run", "--config", "job.toml"]);
        // Each part comes through at once: a pipe that stays open gives what it has.
        for part in 0..3 {
            pipe.give(events(part * 10, 10).as_bytes());
            let lines = usize::try_from(part + 1).unwrap() * 10;
            wait_until("rows", LIMIT, || folder.line_count("joined.jsonl") == lines);
        }
        job.signal(signal);
        let outcome = job.wait(LIMIT);
        outcome.assert_code(0);
        assert!(outcome.stdout.is_empty());
        assert_eq!(folder.line_count("joined.jsonl"), 30);
        let said = outcome.stderr.join("\n");
        assert!(said.contains("stopping cleanly"), "{said}");
        assert!(
            !said.contains("ERROR") && !said.contains("error:"),
            "{said}"
        );
    }
}

#[test]
fn a_second_signal_ends_a_job_that_cannot_write_at_once() {
    let (folder, mut pipe) = held();
    // Nobody reads what it writes: it cannot stop cleanly.
    let _output = Fifo::make(&folder.path("joined.jsonl"));
    let set = "telemetry.status_file=status.json";
    let mut job = folder.start(&["run", "--config", "job.toml", "--set", set]);
    pipe.give(events(0, 2_000).as_bytes());
    let state = |name: &str| folder.read("status.json").contains(name);
    wait_until("a live job", LIMIT, || {
        folder.path("status.json").exists() && state("\"records\":2000")
    });
    job.signal(Signal::Terminate);
    job.wait_for_line("stopping cleanly", LIMIT);
    // As `timeout` sends it: to the process, and to its group.
    job.signal(Signal::Terminate);
    wait_until("the state", LIMIT, || state("\"state\":\"stopping\""));
    std::thread::sleep(Duration::from_secs(1));
    assert!(job.is_running());
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(130);
    assert!(outcome.stderr.join("\n").contains("second signal"));
}
