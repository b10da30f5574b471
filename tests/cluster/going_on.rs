//! Jobs of several processes on one host that read a file: killed, each row is written once.

use deltajoin::generate::Expected;
use deltajoin_testkit::{Signal, wait_until};

use crate::case::{Folder, LIMIT, counted, options};
use crate::support::{config, live, send, status, workers};

const ROWS: &str = "joined.jsonl";

#[test]
fn a_cluster_that_loses_processes_and_gets_others_writes_each_row_of_its_file_once() {
    let options = options(300_000);
    let more = "[limits]\nmax_in_flight_bytes = \"1MB\"\n[checkpoint]\ninterval = \"100ms\"\n";
    let folder = Folder::with_case(&(config(3) + more), &options);
    folder.write("secret", "not to be guessed");
    let expected = Expected::of(&options).unwrap();
    let length = || std::fs::metadata(folder.path(ROWS)).map_or(0, |metadata| metadata.len());
    for killed in [0, 2] {
        let mut job = folder.start(&["cluster", "--config", "job.toml"]);
        let before = length();
        wait_until("rows", LIMIT, || length() > before + 2_000_000);
        let generation = status(&folder, 0).map_or(0, |status| status.generation);
        let all = workers(&job);
        let (_, pid) = all.iter().find(|(index, _)| *index == killed).unwrap();
        send("KILL", *pid);
        job.wait_for_line("restarting all processes", LIMIT);
        let generation = live(&folder, 3, generation);
        assert!(generation > 0);
        job.signal(Signal::Terminate);
        job.wait(LIMIT).assert_code(0);
    }
    let outcome = folder.run_job(
        "run",
        &[
            "--until-end",
            "--set",
            "cluster.processes=1",
            "--set",
            "cluster.addresses=[]",
            "--set",
            "cluster.threads=2",
        ],
    );
    outcome.assert_code(0);
    assert!(counted(&outcome, "records") < 300_000);
    folder.assert_expected(ROWS, &expected);
    let dead = folder.line_count("joined.jsonl.dead.jsonl") as u64;
    assert_eq!(dead, expected.counts().dead_letters);
}
