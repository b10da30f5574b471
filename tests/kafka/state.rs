//! `deltajoin state`, and how a job is forgotten.

use deltajoin_testkit::Broker;

use crate::setup::{LIMIT, Setup};
use crate::topics::{Publisher, event, values};

#[test]
fn what_a_job_keeps_is_shown_verified_and_forgotten() {
    let broker = Broker::shared();
    broker.create_topic("kept", 2, &[]);
    let setup = Setup::new(broker, "kept");
    let publisher = Publisher::new(broker, "kept");
    for oid in 0..10 {
        publisher.send(0, None, Some(&event(oid, 1)));
    }
    publisher.flush();
    setup.run_until_end(&[]);
    let show = |arguments: &[&str]| {
        let outcome = setup.command("state", arguments).wait(LIMIT);
        (
            outcome.code(),
            outcome.stdout.join("\n"),
            outcome.stderr.join("\n"),
        )
    };
    let (code, shown, said) = show(&["--verify"]);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "manifest-",
        "kept-joined",
        "all are good",
        "0                      10             10",
        "topic \"kept.bindings\": 0 bindings behind manifest-",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in:\n{shown}");
    }

    // One byte of the keys is another.
    let folder = setup.folder().join("state").join("kept");
    let files = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let run = files
        .filter(|path| path.extension().is_some_and(|ending| ending == "keys"))
        .max()
        .unwrap();
    let good = std::fs::read(&run).unwrap();
    let mut damaged = good.clone();
    damaged[20] ^= 1;
    std::fs::write(&run, damaged).unwrap();
    let (code, _, said) = show(&["--verify"]);
    assert_eq!(code, Some(1), "{said}");
    let name = run.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name), "{said}");
    std::fs::write(&run, good).unwrap();

    let reset = |arguments: &[&str]| {
        let all = [&["reset", "--config", "job.toml"], arguments].concat();
        setup.plain("state", &all).wait(LIMIT)
    };
    let refused = reset(&[]);
    refused.assert_code(2);
    assert!(refused.stderr.join("\n").contains("--yes"), "it asks");
    setup.run_until_end(&[]);
    assert_eq!(values(broker, &setup.joined()).len(), 10);
    let local = setup.folder().join("state/local/process-0/kept");
    assert!(local.is_dir());
    reset(&["--yes"]).assert_code(0);
    assert!(!local.exists(), "nor is anything left on the local disk");
    // Its next start is its first.
    setup.run_until_end(&[]);
    assert_eq!(values(broker, &setup.joined()).len(), 20);

    // What stands in the topics and is none of the job's is found there.
    for topic in ["kept.bindings", "kept.progress"] {
        let publisher = Publisher::new(broker, topic);
        publisher.send(0, Some(b"key"), Some(b"not JSON"));
        publisher.flush();
    }
    let (code, _, said) = show(&["--verify"]);
    assert_eq!(code, Some(1), "{said}");
    for part in ["2 faults", "kept.bindings", "kept.progress"] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}
