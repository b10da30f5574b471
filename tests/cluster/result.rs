//! The result of several processes is that of one.

use deltajoin::generate::Expected;
use deltajoin_testkit::Job;

use crate::case::{Folder, LIMIT, counted, options};
use crate::support::{config, worker};

fn with_case(config: &str, count: u64) -> (Folder, Expected) {
    let options = options(count);
    let folder = Folder::with_case(config, &options);
    folder.write("secret", "not to be guessed");
    let expected = Expected::of(&options).expect("the options are right");
    (folder, expected)
}

#[test]
fn three_processes_under_a_supervisor_give_the_result() {
    let (folder, expected) = with_case(&config(3), 100_000);
    for engine in ["production", "textbook"] {
        let outcome = folder.run_job("cluster", &["--until-end", "--engine", engine]);
        outcome.assert_code(0);
        folder.assert_expected("joined.jsonl", &expected);
        let counts = expected.counts();
        assert_eq!(counted(&outcome, "records"), counts.records);
        assert_eq!(counted(&outcome, "rows out"), expected.rows());
        let dead = folder.line_count("joined.jsonl.dead.jsonl") as u64;
        assert_eq!(dead, counts.dead_letters);
        // One summary, and no error line.
        assert_eq!(outcome.stdout.len(), 14, "{:?}", outcome.stdout);
        let errors = outcome.stderr.iter().any(|line| line.contains("ERROR"));
        assert!(!errors, "{:#?}", outcome.stderr);
        folder.forget();
    }
}

#[test]
fn processes_started_by_hand_in_any_order_find_each_other() {
    let two_threads = config(3).replace("[cluster]\n", "[cluster]\nthreads = 2\n");
    for order in [[2, 0, 1], [1, 2, 0], [0, 1, 2]] {
        let (folder, expected) = with_case(&two_threads, 20_000);
        let mut jobs: Vec<(usize, Job)> = Vec::new();
        for process in order {
            // Each is there, and waits, before the next one comes.
            if let Some((last, _)) = jobs.last() {
                let written = || crate::support::status(&folder, *last).is_some();
                deltajoin_testkit::wait_until("its start", LIMIT, written);
            }
            jobs.push((process, worker(&folder, process, &["--until-end"])));
        }
        for (process, job) in jobs {
            let outcome = job.wait(LIMIT);
            outcome.assert_code(0);
            assert_eq!(outcome.stdout.is_empty(), process != 0);
        }
        folder.assert_expected("joined.jsonl", &expected);
    }
}
