//! What a job tells of itself: the status file.

use std::collections::BTreeSet;

use deltajoin::telemetry::{State, Status};
#[cfg(feature = "fault-points")]
use deltajoin_testkit::Signal;
use deltajoin_testkit::{wait_for, wait_until};
use deltajoin_workers::ports::Counts;

use crate::case::{CONFIG, Fifo, Folder, LIMIT, options};

#[test]
fn the_status_file_is_whole_at_any_moment_and_tells_each_stage() {
    let tables = "[telemetry]\nstatus_file = \"status.json\"\n";
    let config = CONFIG.replace("events.jsonl", "held.jsonl") + tables;
    let folder = Folder::with_case(&config, &options(5_000));
    let mut events = Fifo::make(&folder.path("held.jsonl"));
    // As long as the table is not complete, the job is loading.
    let table = folder.read("reference.csv");
    std::fs::remove_file(folder.path("reference.csv")).unwrap();
    let mut reference = Fifo::make(&folder.path("reference.csv"));
    let job = folder.start(&["run", "--config", "job.toml"]);
    let mut seen = BTreeSet::new();
    let mut wait = |what: &str, holds: &dyn Fn(&Status) -> bool| {
        wait_for(what, LIMIT, || {
            let text = std::fs::read(folder.path("status.json")).ok()?;
            let status: Status = serde_json::from_slice(&text).expect("it is always whole");
            seen.insert(status.written_ms);
            holds(&status).then_some(status)
        })
    };
    let loading = wait("the state loading", &|status| {
        status.state != State::Starting
    });
    assert_eq!(loading.state, State::Loading);
    assert_eq!((loading.job.as_str(), loading.process), ("detections", 0));
    wait_until("its opening", LIMIT, || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", job.pid())).unwrap();
        let mut links = files.map(|file| std::fs::read_link(file.unwrap().path()));
        links.any(|link| link.is_ok_and(|link| link.ends_with("reference.csv")))
    });
    reference.give(table.as_bytes());
    drop(reference);
    wait("the state live", &|status| status.state == State::Live);
    events.give(&std::fs::read(folder.path("events.jsonl")).unwrap());
    let live = wait("all records and their rows", &|status| {
        let Counts {
            records,
            distinct,
            rows_out,
            ..
        } = status.counts;
        records == 5_000 && rows_out == distinct
    });
    assert_eq!(live.state, State::Live);
    assert!(
        live.generation > 0 && live.epoch > 1_700_000_000_000,
        "{live:?}"
    );
    assert_eq!(live.counts.events + live.counts.dead_letters, 5_000);
    assert_eq!(
        live.counts.events,
        live.counts.distinct + live.counts.duplicates
    );
    assert_eq!(live.counts.keys, live.counts.distinct);
    assert_eq!(live.counts.reference_rows, 1_000);
    assert!(live.counts.key_bytes > 0 && live.counts.unmatched > 0);
    // The next ones go on without events, and say that time goes on.
    let idle = wait("two more", &|status| {
        status.written_ms > live.written_ms + 1_500
    });
    assert!(idle.epoch > live.epoch);
    drop(events);
    job.wait(LIMIT).assert_code(0);
    let last = wait("the end", &|status| status.state == State::Stopping);
    assert_eq!(
        (last.generation, last.counts.records),
        (live.generation, 5_000)
    );
    assert!(seen.len() >= 4, "{seen:?}");
    assert!(!folder.path("status.json.new").exists());
}

/// The process is held up when it has read its checkpoint, and tells nothing by itself then.
#[test]
#[cfg(feature = "fault-points")]
fn a_job_that_reads_its_checkpoint_is_loading() {
    let config = CONFIG.to_owned() + "[telemetry]\nstatus_file = \"status.json\"\n";
    let folder = Folder::with_case(&config, &options(500));
    folder.run_job("run", &["--until-end"]).assert_code(0);
    std::fs::remove_file(folder.path("status.json")).unwrap();
    folder.write("fault-point", "pause progress.read");
    let mut job = folder.start(&["run", "--config", "job.toml", "--until-end"]);
    let reached = folder.path("fault-point.reached");
    wait_until("the fault point", LIMIT, || reached.exists());
    let text = folder.read("status.json");
    let status: Status = serde_json::from_str(&text).expect("it is whole");
    assert_eq!(status.state, State::Loading);
    assert!(status.generation > 0, "{status:?}");
    wait_until("its stop", LIMIT, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", job.pid())).unwrap();
        stat.contains(") T ")
    });
    job.signal(Signal::Continue);
    job.wait(LIMIT).assert_code(0);
}
