//! What a job tells of itself: the status file.

use std::collections::BTreeSet;

use deltajoin::telemetry::{State, Status};
use deltajoin_testkit::{wait_for, wait_until};

use crate::case::{CONFIG, Fifo, Folder, LIMIT, options};

#[test]
fn the_status_file_is_whole_at_any_moment_and_tells_each_stage() {
    let tables = "[telemetry]\nstatus_file = \"status.json\"\n";
    let config = CONFIG.replace("events.jsonl", "held.jsonl") + tables;
    let folder = Folder::with_case(&config, &options(5_000));
    let mut events = Fifo::make(&folder.path("held.jsonl"));
    // As long as the table is not complete, the job is starting.
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
    let starting = wait("the start", &|_| true);
    assert_eq!(starting.state, State::Starting);
    assert_eq!((starting.job.as_str(), starting.process), ("detections", 0));
    wait_until("its opening", LIMIT, || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", job.pid())).unwrap();
        let mut links = files.map(|file| std::fs::read_link(file.unwrap().path()));
        links.any(|link| link.is_ok_and(|link| link.ends_with("reference.csv")))
    });
    reference.give(table.as_bytes());
    drop(reference);
    wait("the state live", &|status| status.state == State::Live);
    events.give(&std::fs::read(folder.path("events.jsonl")).unwrap());
    let live = wait("all records", &|status| status.counts.records == 5_000);
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
    assert_eq!(
        (live.counts.keys, live.counts.rows_out),
        (live.counts.distinct, live.counts.distinct)
    );
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
