//! Checkpoints of which a byte is another: whichever process finds it, the job goes on from the one
//! before, and without one it says so. And checkpoints without their log, or part of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use deltajoin::connectors::kafka::delete_topic;
use deltajoin_testkit::{Broker, Login, Signal, wait_until};
use deltajoin_workers::ports::Stop;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

use crate::setup::{LIMIT, Setup, quoted};
use crate::support::topic;
use crate::topics::{Publisher, detections, event, values};

/// After so long a job trims its log at the next checkpoint: it does so once a minute at most.
const TRIMMED_AFTER: Duration = Duration::from_secs(61);

/// The newest manifest of a job, and where its objects are.
fn newest(setup: &Setup, name: &str) -> (PathBuf, Value) {
    let folder = setup.folder().join("state").join(name);
    let files = std::fs::read_dir(&folder).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let manifests = files.filter(|path| path.to_str().unwrap().contains("manifest-"));
    let text = std::fs::read(manifests.max().unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    (folder, manifest["manifest"].clone())
}

/// Changes a key in the last run of a process of two; gives its name.
fn damage(setup: &Setup, name: &str, process: u64) -> String {
    let (folder, manifest) = newest(setup, name);
    let runs = manifest["runs"].as_array().unwrap();
    let own = |run: &&Value| run["first_group"].as_u64().unwrap() / 512 == process;
    let run = runs.iter().rfind(own).unwrap()["name"].as_str().unwrap();
    let mut bytes = std::fs::read(folder.join(run)).unwrap();
    bytes[20] ^= 1;
    std::fs::write(folder.join(run), bytes).unwrap();
    run.to_owned()
}

#[test]
fn a_damaged_checkpoint_is_stepped_over_whichever_process_finds_it() {
    let broker = Broker::shared();
    for (name, process) in [("damaged-first", 0), ("damaged-second", 1)] {
        broker.create_topic(name, 2, &[]);
        let setup = Setup::new(broker, name).processes(2);
        let publisher = Publisher::new(broker, name);
        let publish = |oids: std::ops::Range<i64>| {
            for oid in oids {
                publisher.send((oid % 2) as i32, None, Some(&event(oid, 1)));
            }
            publisher.flush();
        };
        let assert_rows = |count: i64| {
            let rows = values(broker, &setup.joined()).into_iter();
            let mut oids: Vec<_> = rows
                .map(|row| row["detection_oid"].as_i64().unwrap())
                .collect();
            oids.sort_unstable();
            assert_eq!(oids, (0..count).collect::<Vec<_>>());
        };
        publish(0..100);
        setup.run_until_end(&[]);
        publish(50..200);
        setup.run_until_end(&[]);
        let run = damage(&setup, name, process);
        publish(150..300);
        let outcome = setup.start(&["--until-end"]).wait(LIMIT);
        outcome.assert_code(0);
        let said = outcome.stderr.join("\n");
        let told = said
            .lines()
            .filter(|line| line.contains("going back to the checkpoint"));
        let told: BTreeSet<_> = told.collect();
        assert_eq!(told.len(), 1, "{said}");
        assert!(told.iter().all(|line| line.contains(&run)), "{said}");
        assert_rows(300);
        // The number of the damaged one is not used again, and the job goes on from the new one.
        assert_eq!(newest(&setup, name).1["number"], 2);
        publish(250..310);
        setup.run_until_end(&[]);
        assert_rows(310);

        // Every run that is named: now there is none to go back to.
        let (folder, _) = newest(&setup, name);
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "keys") {
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[20] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
        }
        let outcome = setup.start(&["--until-end"]).wait(LIMIT);
        outcome.assert_code(2);
        let said = outcome.stderr.join("\n");
        assert!(said.contains("is damaged"), "{said}");
        assert_rows(310);
    }
}

#[test]
fn checkpoints_without_their_log_are_not_gone_on_from() {
    let (broker, name) = (Broker::shared(), "damaged-log");
    broker.create_topic(name, 1, &[]);
    let setup = Setup::new(broker, name);
    let publisher = Publisher::new(broker, name);
    publisher.send(0, None, Some(&event(1, 1)));
    publisher.flush();
    setup.run_until_end(&[]);
    delete_topic(
        &topic(broker, "damaged-log.bindings", Login::Admin),
        &Stop::default(),
    )
    .unwrap();
    for command in ["check", "run"] {
        let outcome = setup.command(command, &[]).wait(LIMIT);
        let said = outcome.stderr.join("\n");
        assert_eq!(outcome.code(), Some(2), "{command}: {said}");
        assert!(said.contains("the checkpoints are not of topic"), "{said}");
        assert!(said.contains("state reset"), "{said}");
    }
    let reset = ["reset", "--config", "job.toml", "--yes"];
    setup.plain("state", &reset).wait(LIMIT).assert_code(0);
    setup.run_until_end(&[]);
    assert_eq!(values(broker, &setup.joined()).len(), 2);
}

#[test]
fn rows_are_not_written_again_if_the_log_is_gone_and_there_is_no_checkpoint() {
    let broker = Broker::shared();
    for (name, delivery) in [
        ("lost-log-exactly", "exactly-once"),
        ("lost-log-least", "at-least-once"),
    ] {
        broker.create_topic(name, 1, &[]);
        let setup = Setup::new(broker, name).set("[sinks]", "delivery", quoted(delivery));
        let publisher = Publisher::new(broker, name);
        publisher.send(0, None, Some(&event(1, 1)));
        publisher.flush();
        setup.run_until_end(&[]);
        broker.delete_topic(&format!("{name}.bindings"));
        std::fs::remove_dir_all(setup.folder().join("state")).unwrap();
        // A start makes the log anew, and the next must not take that for the log that was lost.
        for command in ["check", "run", "run"] {
            let outcome = setup.command(command, &[]).wait(LIMIT);
            let said = outcome.stderr.join("\n");
            assert_eq!(outcome.code(), Some(2), "{command}: {said}");
            assert!(said.contains("and nothing is bound in topic"), "{said}");
            assert!(said.contains("state reset"), "{said}");
        }
        assert_eq!(values(broker, &setup.joined()).len(), 1);
        let reset = ["reset", "--config", "job.toml", "--yes"];
        setup.plain("state", &reset).wait(LIMIT).assert_code(0);
        setup.run_until_end(&[]);
        assert_eq!(values(broker, &setup.joined()).len(), 2);
    }
}

/// Gives a log records that are older than any that must be kept.
fn age(broker: &Broker, log: &str) {
    let mut records = Vec::new();
    broker.read(log, |record| records.push(record));
    broker.delete_topic(log);
    broker.create_topic(log, 1, &[("retention.ms", "-1")]);
    let aged = Publisher::new(broker, log);
    for record in records {
        let before = record.timestamp_ms - 2 * 3600 * 1000;
        aged.send_at(0, None, record.value.as_deref(), Some(before));
    }
    aged.flush();
}

#[test]
fn the_log_is_kept_from_the_older_of_two_checkpoints_on() {
    let (broker, name) = (Broker::shared(), "trimmed");
    broker.create_topic(name, 1, &[]);
    let setup = Setup::new(broker, name)
        .set("checkpoint", "interval", quoted("1h"))
        .set("checkpoint", "bindings_retention", quoted("1h"));
    let publisher = Publisher::new(broker, name);
    let publish = |oids: std::ops::Range<i64>| {
        oids.for_each(|oid| publisher.send(0, None, Some(&event(oid, 1))));
        publisher.flush();
    };
    publish(0..10);
    setup.run_until_end(&[]);
    age(broker, "trimmed.bindings");
    let older = newest(&setup, name).1;
    // It is trimmed once a minute at most, with the checkpoint of a clean stop here.
    let mut job = setup.start_live();
    let started = Instant::now();
    publish(10..20);
    wait_until("rows", LIMIT, || setup.status()["rows_out"] == 10);
    wait_until("a minute of the job", LIMIT, || {
        started.elapsed() > TRIMMED_AFTER
    });
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
    assert_ne!(newest(&setup, name).1["log"]["next"], older["log"]["next"]);
    let consumer: BaseConsumer = broker.client().create().unwrap();
    let (first, _) = consumer
        .fetch_watermarks("trimmed.bindings", 0, LIMIT)
        .unwrap();
    assert_eq!(older["log"]["next"], first);
    // So one can go back to it.
    damage(&setup, name, 0);
    publish(20..30);
    let outcome = setup.start(&["--until-end"]).wait(LIMIT);
    outcome.assert_code(0);
    let said = outcome.stderr.join("\n");
    assert!(said.contains("going back to the checkpoint"), "{said}");
    let rows = detections(&values(broker, &setup.joined()));
    assert_eq!(rows, (0..30).collect::<Vec<_>>());
    // Without any checkpoint nothing is guessed.
    std::fs::remove_dir_all(setup.folder().join("state").join(name)).unwrap();
    let outcome = setup.start(&["--until-end"]).wait(LIMIT);
    outcome.assert_code(2);
    let said = outcome.stderr.join("\n");
    assert!(
        said.contains("the records from offset 0 up to it are gone"),
        "{said}"
    );
    assert_eq!(values(broker, &setup.joined()).len(), 30);
}
