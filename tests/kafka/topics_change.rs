//! Topics that change while a job lives: partitions are added, records are deleted before they are
//! read, a topic is deleted and made again.
//!
//! Apart from `shapes`, whose topics stay as they are.

use deltajoin_testkit::{Broker, Job, Signal, block_on, wait_until};
use rdkafka::admin::{AdminOptions, NewPartitions};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::setup::{LIMIT, Setup, assert_no_errors, quoted, summary};
use crate::stops::{kill, pid_of};
use crate::topics::{Publisher, Tail, detections, event, values};

/// A job that makes checkpoints often, on a topic that is there.
fn setup(broker: &Broker, name: &str) -> Setup {
    Setup::without_topics(broker, name).set("checkpoint", "interval", quoted("200ms"))
}

fn create_outputs(broker: &Broker, name: &str) {
    broker.create_topic(&format!("{name}-joined"), 2, &[]);
    broker.create_topic(&format!("{name}-dead"), 1, &[]);
}

/// Gives a topic more partitions, and waits until they can be used.
pub(crate) fn grow(broker: &Broker, topic: &str, partitions: usize) {
    let more = NewPartitions::new(topic, partitions);
    let options = AdminOptions::new().operation_timeout(Some(LIMIT));
    let results = block_on(broker.admin().create_partitions([&more], &options));
    for result in results.expect("the broker answers") {
        result.expect("a topic may get more partitions");
    }
    broker.wait_for_partitions(topic, i32::try_from(partitions).unwrap());
}

/// Publishes events with these numbers to a partition.
fn publish(broker: &Broker, topic: &str, partition: i32, detections: std::ops::Range<i64>) {
    let publisher = Publisher::new(broker, topic);
    for detection in detections {
        publisher.send(partition, None, Some(&event(detection, 1)));
    }
    publisher.flush();
}

/// Stops a job cleanly, with nothing to complain of.
fn stop(mut job: Job) {
    job.signal(Signal::Terminate);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(0);
    assert_no_errors(&outcome.stderr);
}

fn assert_rows(broker: &Broker, setup: &Setup, expected: std::ops::Range<i64>) {
    let rows = detections(&values(broker, &setup.joined()));
    assert_eq!(rows, expected.collect::<Vec<_>>());
}

#[test]
fn partitions_that_are_added_while_the_job_runs_are_read_from_their_beginning() {
    let (broker, name) = (Broker::shared(), "grown");
    broker.create_topic(name, 1, &[]);
    create_outputs(broker, name);
    let state = tempfile::tempdir().unwrap();
    let of = |processes| setup(broker, name).state(state.path()).processes(processes);
    let tail = Tail::new(broker, &of(1).joined());
    let wait_for = |rows: usize| (0..rows).for_each(|_| drop(tail.next(LIMIT)));

    let two = of(2);
    let job = two.start_live();
    publish(broker, name, 0, 0..10);
    wait_for(10);
    grow(broker, name, 4);
    for partition in 0..4 {
        publish(
            broker,
            name,
            partition,
            10 + 10 * i64::from(partition)..20 + 10 * i64::from(partition),
        );
    }
    job.wait_for_line("found new partitions", LIMIT);
    wait_for(40);
    // What was read of them is not read again, and what comes now is.
    kill(&pid_of(
        &job.wait_for_line("started a process process=1", LIMIT),
    ));
    job.wait_for_line("restarting all processes", LIMIT);
    publish(broker, name, 3, 50..60);
    wait_for(10);
    assert_rows(broker, &two, 0..60);
    let mut job = job;
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);

    let three = of(3);
    let job = three.start_live();
    publish(broker, name, 2, 60..70);
    wait_for(10);
    stop(job);
    of(1).run_until_end(&[]);
    assert_rows(broker, &three, 0..70);
}

#[test]
fn partitions_that_are_added_between_two_runs_are_read_from_their_beginning() {
    let (broker, name) = (Broker::shared(), "grown-between");
    broker.create_topic(name, 1, &[]);
    create_outputs(broker, name);
    // New partitions are no matter of where reading starts.
    let setup = setup(broker, name).set("events", "start", quoted("latest"));
    let job = setup.start_live();
    publish(broker, name, 0, 0..10);
    wait_until("rows", LIMIT, || setup.status()["rows_out"] == 10);
    stop(job);
    grow(broker, name, 3);
    publish(broker, name, 2, 10..20);
    setup.run_until_end(&[]);
    setup.run_until_end(&[]);
    assert_rows(broker, &setup, 0..20);
}

/// Deletes a topic, and makes another of its name with these records in it.
fn replace(broker: &Broker, topic: &str, records: std::ops::Range<i64>) {
    broker.delete_topic(topic);
    broker.create_topic(topic, 1, &[]);
    publish(broker, topic, 0, records);
}

/// The ids that a refusal names, and what else it must say.
fn assert_replaced(stderr: &[String], topic: &str) {
    let text = stderr.join("\n");
    let (_, ids) = text
        .split_once(&format!(
            "error: topic {topic:?} is not the one that the job reads: its id is "
        ))
        .unwrap_or_else(|| panic!("no word of another topic:\n{text}"));
    let (now, before) = ids.lines().next().unwrap().split_once(", not ").unwrap();
    assert_eq!((now.len(), before.len()), (22, 22), "{ids}");
    assert_ne!(now, before);
    assert!(text.contains("deltajoin state reset"), "{text}");
}

#[test]
fn a_topic_that_was_made_again_between_two_runs_is_refused_with_both_ids() {
    let (broker, name) = (Broker::shared(), "replaced-between");
    broker.create_topic(name, 1, &[]);
    let setup = Setup::new(broker, name);
    publish(broker, name, 0, 0..10);
    setup.run_until_end(&[]);
    // It has more records than the one before: no offset tells.
    replace(broker, name, 100..120);
    let outcome = setup.start(&["--until-end"]).wait(LIMIT);
    outcome.assert_code(2);
    assert_replaced(&outcome.stderr, name);
    assert_rows(broker, &setup, 0..10);
    setup
        .plain("state", &["reset", "--config", "job.toml", "--yes"])
        .wait(LIMIT)
        .assert_code(0);
    setup.run_until_end(&[]);
    let rows = detections(&values(broker, &setup.joined()));
    assert!(rows.into_iter().eq((0..10).chain(100..120)));
}

#[test]
fn a_topic_that_is_made_again_while_the_job_runs_ends_it_with_code_2() {
    let (broker, name) = (Broker::shared(), "replaced");
    broker.create_topic(name, 1, &[]);
    let setup = Setup::new(broker, name).processes(2);
    publish(broker, name, 0, 0..10);
    let job = setup.start_live();
    wait_until("rows", LIMIT, || setup.status()["rows_out"] == 10);
    replace(broker, name, 100..120);
    let outcome = job.wait(LIMIT);
    outcome.assert_code(2);
    assert_replaced(&outcome.stderr, name);
    let outcome = setup.start(&[]).wait(LIMIT);
    outcome.assert_code(2);
    assert_replaced(&outcome.stderr, name);
}

/// Does what retention does: deletes the records of a partition before an offset.
fn delete_before(broker: &Broker, topic: &str, partition: i32, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))
        .unwrap();
    let options = AdminOptions::new().operation_timeout(Some(LIMIT));
    let deleted = block_on(broker.admin().delete_records(&list, &options)).unwrap();
    deleted.elements()[0].error().unwrap();
}

fn assert_says(stderr: &[String], words: &[&str]) {
    let text = stderr.join("\n");
    for words in words {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
}

/// A job that goes on without what is gone.
fn lenient(broker: &Broker, name: &str) -> Setup {
    setup(broker, name).set("events", "on_missing_offsets", quoted("earliest"))
}

#[test]
fn records_that_were_deleted_before_they_were_read_end_a_start_or_are_counted_once() {
    let (broker, name) = (Broker::shared(), "deleted");
    broker.create_topic(name, 1, &[]);
    create_outputs(broker, name);
    let strict = setup(broker, name);
    publish(broker, name, 0, 0..10);
    strict.run_until_end(&[]);
    publish(broker, name, 0, 10..30);
    delete_before(broker, name, 0, 22);

    let outcome = strict.command("check", &[]).wait(LIMIT);
    outcome.assert_code(2);
    let texts = ["deleted[0]@10 is no longer in the topic", "at offset 22"];
    assert_says(&outcome.stderr, &texts);
    let outcome = strict.start(&["--until-end"]).wait(LIMIT);
    outcome.assert_code(2);
    assert_says(
        &outcome.stderr,
        &[
            "error: deleted[0]@10 is no longer in the topic",
            "the partition has offsets 22 to 30",
            "events.on_missing_offsets",
        ],
    );

    let state = |setup: Setup| setup.state(&strict.folder().join("state"));
    let lenient = state(lenient(broker, name));
    let outcome = lenient.run_until_end(&[]);
    assert_eq!(summary(&outcome)["missing"], 12);
    assert_says(&outcome.stderr, &["from=10 to=22 offsets=12"]);
    // It is bound, and so neither counted again nor refused.
    assert_eq!(summary(&lenient.run_until_end(&[]))["missing"], 0);
    strict.run_until_end(&[]);
    let rows = detections(&values(broker, &strict.joined()));
    assert!(rows.into_iter().eq((0..10).chain(22..30)));
}

#[test]
fn a_replay_goes_on_without_what_was_gone_on_without_on_any_number_of_processes() {
    let (broker, name) = (Broker::shared(), "deleted-replay");
    broker.create_topic(name, 2, &[]);
    create_outputs(broker, name);
    let state = tempfile::tempdir().unwrap();
    let of = |setup: Setup, processes| setup.state(state.path()).processes(processes);
    // The partition of another process than the one that reads the log of bindings.
    publish(broker, name, 1, 0..10);
    of(setup(broker, name), 1).run_until_end(&[]);
    publish(broker, name, 1, 10..30);
    delete_before(broker, name, 1, 22);
    // Only the clean stop would make a checkpoint, and it does not come to that.
    let job = of(lenient(broker, name), 2).set("checkpoint", "interval", quoted("1h"));
    let mut running = job.start_live();
    wait_until("rows", LIMIT, || job.status()["rows_out"] == 8);
    assert_eq!(job.status()["missing_offsets"], 12);
    let tail = Tail::new(broker, &job.joined());
    (0..18).for_each(|_| drop(tail.next(LIMIT)));
    running.kill();
    running.wait(LIMIT);

    publish(broker, name, 0, 30..40);
    for processes in [3, 1] {
        let outcome = of(setup(broker, name), processes).run_until_end(&[]);
        assert_eq!(summary(&outcome)["missing"], 0);
    }
    let rows = detections(&values(broker, &job.joined()));
    assert!(rows.into_iter().eq((0..10).chain(22..40)));
}

#[test]
fn records_that_are_bound_and_deleted_end_a_start_whatever_is_allowed() {
    let (broker, name) = (Broker::shared(), "deleted-bound");
    broker.create_topic(name, 1, &[]);
    create_outputs(broker, name);
    let setup = lenient(broker, name).set("checkpoint", "interval", quoted("1h"));
    let mut job = setup.start_live();
    publish(broker, name, 0, 0..10);
    let tail = Tail::new(broker, &setup.joined());
    (0..10).for_each(|_| drop(tail.next(LIMIT)));
    job.kill();
    job.wait(LIMIT);
    delete_before(broker, name, 0, 5);
    let outcome = setup.start(&[]).wait(LIMIT);
    outcome.assert_code(2);
    assert_says(
        &outcome.stderr,
        &[
            "error: deleted-bound[0]@0 is bound, and no longer in the topic",
            "offsets up to 10 are bound; the partition has offsets 5 to 10",
            "deltajoin state reset",
        ],
    );
}

/// Freezes a job that waits for records, and lets it go on when most of a hundred are deleted.
fn overtake(broker: &Broker, name: &str, setup: &Setup) -> Job {
    broker.create_topic(name, 1, &[]);
    create_outputs(broker, name);
    let mut job = setup.start_live();
    publish(broker, name, 0, 0..10);
    wait_until("rows", LIMIT, || setup.status()["rows_out"] == 10);
    job.signal(Signal::Stop);
    // It may have asked for more; the answer has this one record, and no other.
    publish(broker, name, 0, 10..11);
    publish(broker, name, 0, 11..100);
    delete_before(broker, name, 0, 90);
    job.signal(Signal::Continue);
    job
}

#[test]
fn a_reader_that_is_overtaken_by_retention_ends_the_job_with_code_2() {
    let (broker, name) = (Broker::shared(), "overtaken");
    let setup = setup(broker, name);
    let outcome = overtake(broker, name, &setup).wait(LIMIT);
    outcome.assert_code(2);
    let gone = "the partition has offsets 90 to 100";
    assert_says(&outcome.stderr, &["error: overtaken[0]@1", gone]);
}

#[test]
fn a_reader_that_is_overtaken_by_retention_goes_on_and_counts_if_it_may() {
    let (broker, name) = (Broker::shared(), "overtaken-lenient");
    let setup = lenient(broker, name);
    let job = overtake(broker, name, &setup);
    publish(broker, name, 0, 100..110);
    wait_until("the last row", LIMIT, || {
        setup.status()["lag_records"] == 0 && setup.status()["rows_out"].as_u64() >= Some(30)
    });
    let missing = setup.status()["missing_offsets"].as_u64().unwrap();
    stop(job);
    let rows = detections(&values(broker, &setup.joined()));
    assert_eq!(rows.len() as u64 + missing, 110, "{rows:?}");
    assert!(missing >= 79, "{missing}");
    let outcome = setup.run_until_end(&[]);
    assert_eq!(summary(&outcome)["missing"], 0);
    assert_eq!(detections(&values(broker, &setup.joined())), rows);
}

/// Rows for it would wait for ever, and nobody would hear of it.
#[test]
fn a_topic_that_is_deleted_while_the_job_writes_to_it_ends_the_job() {
    let broker = Broker::shared();
    let gone = |setup: &Setup, topic: &str| {
        let tail = Tail::new(broker, &setup.joined());
        let events = setup.joined().replace("-joined", "");
        let job = setup.start_live();
        publish(broker, &events, 0, 0..1);
        assert_eq!(tail.next_value(LIMIT)["detection_oid"], 0);
        broker.delete_topic(topic);
        publish(broker, &events, 0, 1..2);
        job
    };
    let setups = ["exactly-once", "at-least-once"].map(|delivery| {
        let name = format!("deleted-{delivery}");
        broker.create_topic(&name, 1, &[]);
        create_outputs(broker, &name);
        setup(broker, &name).set("[sinks]", "delivery", quoted(delivery))
    });
    let log = setup(broker, "deleted-log").rows_to("rows.jsonl");
    broker.create_topic("deleted-log", 1, &[]);
    broker.create_topic(&log.dead(), 1, &[]);
    let mut jobs: Vec<(Job, String)> = setups
        .iter()
        .map(|setup| (gone(setup, &setup.joined()), setup.joined()))
        .collect();
    let job = log.start_live();
    wait_until("a live job", LIMIT, || log.status()["state"] == "live");
    broker.delete_topic("deleted-log.bindings");
    publish(broker, "deleted-log", 0, 0..1);
    jobs.push((job, "deleted-log.bindings".to_owned()));
    for (job, topic) in jobs {
        let outcome = job.wait(LIMIT);
        assert_ne!(outcome.code(), Some(0));
        let said = outcome.stderr.join("\n");
        for text in [&*format!("topic \"{topic}\""), "does not exist any more"] {
            assert!(said.contains(text), "no {text:?} in:\n{said}");
        }
    }
}
