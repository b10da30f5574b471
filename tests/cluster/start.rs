//! Starts that cannot succeed: who refuses whom, and what is said.

use std::net::TcpListener;

use deltajoin_testkit::{Signal, wait_until};

use crate::case::{Folder, LIMIT, options};
use crate::support::{SOON, address, config, held, live, status, worker};

/// Process 0 waits for its peers, and a process 1 with `difference` is refused: both say why.
fn refused(difference: &[&str], why: &str) {
    let (folder, _pipe) = held(&config(2));
    folder.write("other-secret", "guessed");
    let mut first = worker(&folder, 0, &[]);
    wait_until("its start", LIMIT, || status(&folder, 0).is_some());
    let outcome = worker(&folder, 1, difference).wait(SOON);
    outcome.assert_code(2);
    let last = outcome
        .stderr
        .iter()
        .find(|line| line.starts_with("error: "));
    let last = last.expect("an error");
    assert!(last.contains("refused") && last.contains(why), "{last}");
    let line = first.wait_for_line(why, SOON);
    assert!(line.contains("refused"), "{line}");
    // The right one is still welcome.
    let mut second = worker(&folder, 1, &[]);
    live(&folder, 2, 0);
    first.signal(Signal::Terminate);
    first.wait(LIMIT).assert_code(0);
    second.signal(Signal::Terminate);
    second.wait(LIMIT).assert_code(0);
}

#[test]
fn a_process_with_another_secret_is_refused() {
    refused(&["--set", "cluster.secret_file=other-secret"], "secret");
}

#[test]
fn a_process_of_another_job_is_refused() {
    refused(&["--set", "job=other"], "job");
}

#[test]
fn a_process_with_other_settings_is_refused() {
    refused(&["--set", "join.unmatched=drop"], "settings");
}

#[test]
fn a_process_with_another_engine_is_refused() {
    refused(&["--engine", "textbook"], "settings");
}

#[test]
fn an_address_in_use_is_named_and_no_result_is_lost() {
    let folder = Folder::with_case(&config(2), &options(100));
    folder.write("secret", "not to be guessed");
    let alone = ["cluster.processes=1", "cluster.addresses=[]"];
    let alone = ["--set", alone[0], "--set", alone[1], "--until-end"];
    folder.run_job("run", &alone).assert_code(0);
    let results = folder.read("joined.jsonl");
    assert!(!results.is_empty());
    let address = address(&folder, 0);
    let _taken = TcpListener::bind(&address).expect("the port is free");
    let outcome = worker(&folder, 0, &[]).wait(SOON);
    outcome.assert_code(1);
    let said = outcome.stderr.join("\n");
    let primary = format!("error: could not listen on \"{address}\" for process 0");
    assert!(said.contains(&primary), "{said}");
    assert!(said.contains("in use"), "{said}");
    assert_eq!(folder.read("joined.jsonl"), results);
}

#[test]
fn the_supervisor_gives_up_after_so_many_restarts_and_names_the_cause() {
    let folder = Folder::with_case(&config(2), &options(100));
    folder.write("secret", "not to be guessed");
    let _taken = TcpListener::bind(address(&folder, 0)).expect("the port is free");
    let outcome = folder.run_job("cluster", &["--set", "cluster.restarts=1"]);
    outcome.assert_code(1);
    let last = outcome.stderr.last().expect("it says why");
    assert!(
        last.contains("gave up") && last.contains("process 0"),
        "{last}"
    );
    // With the error of the last start, as a whole.
    for part in [
        "exit code 1 (failed): could not listen on",
        &address(&folder, 0),
        "; detail: ",
        "in use",
    ] {
        assert!(last.contains(part), "{part:?} is missing in {last}");
    }
    let errors = outcome.stderr.iter();
    let errors = errors.filter(|line| line.starts_with("error: could not listen"));
    assert_eq!(errors.count(), 2);
}

#[test]
fn what_another_start_cannot_heal_is_not_restarted() {
    let folder = Folder::with_case(&config(3), &options(100));
    folder.write("secret", "not to be guessed");
    folder.write("reference.csv", "a,b\n");
    let outcome = folder.run_job("cluster", &["--until-end"]);
    outcome.assert_code(2);
    let said = outcome.stderr.join("\n");
    assert!(said.contains("are missing; the header has"), "{said}");
    assert_eq!(said.matches("started a process").count(), 3, "{said}");
    assert!(!said.contains("restarting"), "{said}");
}

#[test]
fn a_process_that_waits_for_its_peers_can_be_stopped() {
    let (folder, _pipe) = held(&config(2));
    let mut first = worker(&folder, 0, &[]);
    wait_until("its start", LIMIT, || status(&folder, 0).is_some());
    first.wait_for_line("process 1", LIMIT);
    first.signal(Signal::Terminate);
    first.wait(SOON).assert_code(0);
}

#[test]
fn a_process_that_does_not_see_the_pipe_of_the_others_is_refused() {
    // What is read from a pipe is kept by nobody, and what is read from a file by all.
    let config = config(2);
    let (folder, _pipe) = held(&config);
    let elsewhere = Folder::with_config(&config);
    elsewhere.write("secret", folder.read("secret"));
    let mut first = worker(&folder, 0, &[]);
    wait_until("its start", LIMIT, || status(&folder, 0).is_some());
    let outcome = worker(&elsewhere, 1, &[]).wait(SOON);
    outcome.assert_code(2);
    let said = outcome.stderr.join("\n");
    assert!(
        said.contains("refused") && said.contains("settings"),
        "{said}"
    );
    first.signal(Signal::Terminate);
    first.wait(LIMIT).assert_code(0);
}
