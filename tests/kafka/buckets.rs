//! Jobs whose checkpoints are in a bucket of a real server that speaks S3.

use std::process::Command;

use deltajoin::generate::reference_csv;
use deltajoin_testkit::{Broker, BucketServer, Job};

use crate::setup::{LIMIT, Setup, assert_no_errors, quoted};
use crate::stops::kill_after;
use crate::stream::million;
use crate::topics::{Tail, differences};

/// Starts a command of the job with so many threads, and the server's credentials.
fn start(setup: &Setup, threads: usize, command: &str, arguments: &str) -> Job {
    let mut shell = Command::new("sh");
    for (name, value) in BucketServer::environment(BucketServer::shared().address()) {
        shell.env(name, value);
    }
    shell.env("DELTAJOIN_CLUSTER__THREADS", threads.to_string());
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {arguments}")]);
    setup.within(shell, command)
}

#[test]
fn a_killed_job_goes_on_from_its_bucket_with_other_workers() {
    let (broker, stream) = (Broker::shared(), million());
    BucketServer::shared().create_bucket("jobs");
    let setup = Setup::new(broker, "in-bucket")
        .set("events", "topic", quoted(stream.topic))
        .set("limits", "max_in_flight_bytes", quoted("2MB"))
        .set("checkpoint", "location", quoted("s3://jobs/all"))
        .set("checkpoint", "interval", quoted("200ms"))
        .reference(&reference_csv(&stream.options));
    let tail = Tail::new(broker, &setup.joined());
    for (threads, rows) in [(1, 50_000), (3, 100_000), (2, 150_000)] {
        kill_after(start(&setup, threads, "run", ""), &tail, rows);
        let outcome = start(&setup, threads, "state", "--verify").wait(LIMIT);
        outcome.assert_code(0);
        let shown = outcome.stdout.join("\n");
        assert!(shown.contains("manifest-"), "{shown}");
    }
    let outcome = start(&setup, 1, "run", "--until-end").wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
    let found = differences(broker, &setup.joined(), &stream.expected);
    assert!(found.is_clean(), "{found:#?}");
    stream.assert_dead_letters(&setup.dead());
    assert!(!setup.folder().join("state").join("in-bucket").exists());
}
