//! Workers that are busy for longer than a peer may be silent.
//!
//! Apart from `loss`, whose processes are lost: this one's are not.

use deltajoin_testkit::{Signal, wait_until};

use crate::case::LIMIT;
use crate::support::{config, events, held, live};

/// So many rows take a worker longer to correct than a process may be silent, but in a build that
/// is optimized.
const ROWS: u64 = 150_000;

#[test]
fn a_correction_that_takes_longer_than_the_time_out_loses_nobody() {
    let config = config(2).replace("\"3s\"", "\"1s\"");
    let refresh = "[reference]\nrefresh = \"100ms\"\n";
    let (folder, mut pipe) = held(&config.replace("[reference]\n", refresh));
    let mut job = folder.start(&["cluster", "--config", "job.toml"]);
    live(&folder, 2, 0);
    pipe.give(events(0, ROWS).as_bytes());
    let rows = ROWS as usize;
    wait_until("rows", LIMIT, || folder.line_count("joined.jsonl") == rows);
    // All of them are at the location that is renamed, and are corrected at once.
    folder.write(
        "next.csv",
        "geographical_location_oid,geographical_location\n1,another\n",
    );
    std::fs::rename(folder.path("next.csv"), folder.path("reference.csv")).expect("one folder");
    wait_until("corrected rows", LIMIT, || {
        folder.line_count("joined.jsonl") == 2 * rows
    });
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    let told = |line: &&String| line.contains("lost process") || line.contains("restarting");
    assert_eq!(outcome.stderr.iter().find(told), None);
}
