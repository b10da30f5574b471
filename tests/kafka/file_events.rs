//! Jobs that read a file and write topics: killed and started again, each row is there once.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::process::Command;

use deltajoin::generate::{Expected, Generator, Options, reference_csv, to_lines};
use deltajoin_testkit::Broker;

use crate::setup::{LIMIT, Setup, quoted};
use crate::stops::kill_after;
use crate::support::pace;
use crate::topics::{Tail, dead_letters, differences};

const EVENTS: &str = "events.jsonl";

fn write_events(path: &Path, options: &Options) {
    let generator = Generator::new(options.clone()).unwrap();
    let mut file = BufWriter::new(File::create(path).unwrap());
    to_lines(generator, &mut file, &pace()).unwrap();
}

#[test]
fn a_killed_job_that_reads_a_file_writes_each_row_once_to_its_topics() {
    let broker = Broker::shared();
    let options = Options {
        count: 600_000,
        bad_share: 0.001,
        ..Options::default()
    };
    let expected = Expected::of(&options).unwrap();
    let state = tempfile::tempdir().unwrap();
    let events = state.path().join(EVENTS);
    write_events(&events, &options);
    let setup = |processes: usize| {
        Setup::without_topics(broker, "from-file")
            .events_from(events.to_str().unwrap())
            // Small epochs and many commits, so that most are cut by a kill somewhere.
            .set("limits", "max_in_flight_bytes", quoted("1MB"))
            .set("checkpoint", "interval", quoted("200ms"))
            .state(state.path())
            .reference(&reference_csv(&options))
            .processes(processes)
    };
    broker.create_topic("from-file-joined", 4, &[]);
    broker.create_topic("from-file-dead", 1, &[]);
    let tail = Tail::new(broker, "from-file-joined");
    for (processes, threads, rows) in [(1, 1, 1), (1, 2, 20_000), (2, 1, 60_000), (1, 3, 60_000)] {
        let threads = format!("cluster.threads={threads}");
        let setup = setup(processes);
        kill_after(setup.start(&["--set", &threads]), &tail, rows);
    }
    let last = setup(2);
    last.run_until_end(&[]);
    let found = differences(broker, "from-file-joined", &expected);
    assert!(found.is_clean(), "{found:#?}");
    let letters = dead_letters(broker, "from-file-dead").len() as u64;
    assert_eq!(letters, expected.counts().dead_letters);
    let audited = last.command("audit", &[]).wait(LIMIT);
    audited.assert_code(0);
    assert_eq!(audited.stdout.last().unwrap(), "clean");
    // Forgotten, it writes all again.
    let reset = last.plain("state", &["reset", "--config", "job.toml", "--yes"]);
    reset.wait(LIMIT).assert_code(0);
    assert!(!state.path().join("from-file/bindings.jsonl").exists());
    assert!(events.exists());
}

#[test]
fn what_is_read_from_a_pipe_is_not_exactly_once() {
    let setup = Setup::new(Broker::shared(), "from-pipe").events_from(EVENTS);
    let pipe = setup.folder().join(EVENTS);
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("every system has mkfifo").success());
    // For both: then nobody waits for another.
    let _held = File::options().read(true).write(true).open(&pipe).unwrap();
    let outcome = setup.start(&[]).wait(LIMIT);
    outcome.assert_code(2);
    let said = outcome.stderr.join("\n");
    let message = "what is read from a pipe is not exactly-once";
    assert!(
        said.contains(message) && said.contains("at-least-once"),
        "{said}"
    );
}
