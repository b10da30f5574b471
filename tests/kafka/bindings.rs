//! The binding log as a topic: two generations, a broker that goes away, topics that are unfit.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deltajoin::bindings::{Appender, Error, Fatal, History, Marker, MarkerId, Records, open};
use deltajoin::codec::reference_schema;
use deltajoin::connectors::kafka::BindingTopic;
use deltajoin::error::ExitCode;
use deltajoin::failure::Failure;
use deltajoin_testkit::{Broker, Login, block_on, wait_until};
use deltajoin_workers::batch::{Batch, BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::bindings::{Binding, BindingLog};
use deltajoin_workers::ports::Stop;
use deltajoin_workers::schema::{Column, ColumnType, Schema};
use rdkafka::admin::{AdminOptions, ResourceSpecifier};

use crate::setup::LIMIT;
use crate::support::topic;
use crate::topics::Publisher;

/// A reference table of an id and a name.
fn reference() -> Arc<BatchSchema> {
    let columns = vec![
        Column::new("id", ColumnType::Int64),
        Column::new("name", ColumnType::String),
    ];
    reference_schema(&Schema::new(columns, vec![0]))
}

/// Rows of that table, each with a name of so many bytes.
fn rows(count: i64, name_bytes: usize) -> Batch {
    let mut builder = BatchBuilder::new(reference());
    for id in 0..count {
        let name = Slot::String("n".repeat(name_bytes).into());
        builder.push(&[Slot::Int64(id), name], Origin::default(), 1);
    }
    builder.finish()
}

fn binding(epoch: u64) -> Binding {
    Binding {
        epoch,
        ends: vec![(0, 7), (3, 42)],
        ..Binding::default()
    }
}

fn log(broker: &Broker, name: &str) -> BindingTopic {
    let topic = topic(broker, name, Login::Admin);
    BindingTopic::open(&topic, 0, &Stop::default()).expect("the topic is fit")
}

/// A generation that has read the log, and what ends it.
struct Generation {
    number: u64,
    history: History,
    appender: Appender,
    told: Receiver<Error>,
}

impl Generation {
    fn start(broker: &Broker, name: &str, holder: &str) -> Self {
        let marker = Marker {
            id: MarkerId::random(),
            started_ms: 0,
            holder: holder.to_owned(),
            settings: BTreeMap::new(),
            producers: Vec::new(),
        };
        let opened = open(log(broker, name), marker, reference(), &Stop::default());
        let opened = opened.expect("nobody has started since");
        let number = opened.generation;
        let (sender, told) = channel();
        let sender = Mutex::new(sender);
        let fatal: Fatal = Arc::new(move |error| {
            let sender = sender.lock().expect("no panic while sending");
            sender.send(error).expect("the test waits");
        });
        let (history, appender) = opened.start(fatal);
        Self {
            number,
            history,
            appender,
            told,
        }
    }

    fn wait_for(&self, count: u64) {
        wait_until("durable bindings", LIMIT, || {
            if let Ok(error) = self.told.try_recv() {
                panic!("{}", Failure::from(error));
            }
            self.appender.durable() >= count
        });
    }

    fn epochs(&self) -> Vec<u64> {
        self.history.bindings.iter().map(|one| one.epoch).collect()
    }
}

/// The settings that a topic has.
fn setting(broker: &Broker, name: &str, key: &str) -> String {
    let topic = [ResourceSpecifier::Topic(name)];
    let described = block_on(
        broker
            .admin()
            .describe_configs(&topic, &AdminOptions::new()),
    );
    let described = described.expect("the broker answers").remove(0);
    let described = described.expect("the topic is there");
    let entry = described.get(key).expect("the setting is known");
    entry.value.clone().expect("it is no secret")
}

#[test]
fn a_second_generation_supersedes_the_first_at_its_next_append() {
    let broker = Broker::shared();
    let name = "two-bindings";
    let mut first = Generation::start(broker, name, "process 1 on alpha");
    assert_eq!((first.number, first.epochs()), (0, vec![]));
    for (key, value) in [("cleanup.policy", "delete"), ("retention.ms", "-1")] {
        assert_eq!(setting(broker, name, key), value);
    }
    let mut large = binding(2);
    // Three records, and more than one request.
    large.reference = vec![rows(20, 100_000)];
    first.appender.append(binding(1));
    first.appender.append(large);
    first.appender.append(binding(3));
    first.wait_for(3);

    let mut second = Generation::start(broker, name, "process 2 on beta");
    assert_eq!(second.epochs(), [1, 2, 3]);
    assert_eq!(second.history.bindings[0].ends, [(0, 7), (3, 42)]);
    let changes = &second.history.bindings[1].reference;
    assert_eq!(changes.iter().map(Batch::len).sum::<usize>(), 20);
    assert!(changes.len() > 1, "the changes take several records");
    second.appender.append(binding(5));
    second.wait_for(1);

    first.appender.append(binding(4));
    let error = first.told.recv_timeout(LIMIT).expect("it is superseded");
    assert_eq!(error.exit_code(), ExitCode::Superseded);
    let text = Failure::from(error).to_string();
    assert!(
        text.contains(name) && text.contains("process 2 on beta"),
        "{text}"
    );
    assert_eq!(first.appender.durable(), 3);

    let third = Generation::start(broker, name, "process 3 on alpha");
    assert_eq!(
        third.epochs(),
        [1, 2, 3, 5],
        "the late binding counts for nobody"
    );
}

#[test]
fn many_bindings_share_an_append_and_keep_their_order() {
    let broker = Broker::shared();
    let mut first = Generation::start(broker, "many-bindings", "a");
    for epoch in 1..=20_000 {
        first.appender.append(binding(epoch));
    }
    first.wait_for(20_000);
    let second = Generation::start(broker, "many-bindings", "b");
    assert!(second.epochs().into_iter().eq(1..=20_000));
    assert_eq!(second.number, 20_001);
}

#[test]
fn a_stranger_in_the_log_is_told_and_is_no_newer_generation() {
    let broker = Broker::shared();
    let name = "stranger-bindings";
    let mut generation = Generation::start(broker, name, "a");
    let publisher = Publisher::new(broker, name);
    publisher.send(0, None, Some(b"junk"));
    publisher.flush();
    generation.appender.append(binding(1));
    let error = generation.told.recv_timeout(LIMIT).expect("it is read");
    assert_eq!(error.exit_code(), ExitCode::Usage, "{error}");
    let place = format!("cannot read record {name}[0]@1 of the binding log");
    assert!(error.to_string().starts_with(&place), "{error}");
    let topic = topic(broker, name, Login::Admin);
    let mut log = BindingTopic::open(&topic, 0, &Stop::default()).unwrap();
    let mut offsets = Vec::new();
    log.read(1, &Stop::default(), &mut |offset, _| {
        offsets.push(offset);
        Ok(true)
    })
    .unwrap();
    assert_eq!(offsets, [1, 2]);
    let marker = Marker {
        id: MarkerId::random(),
        started_ms: 0,
        holder: String::new(),
        settings: BTreeMap::new(),
        producers: Vec::new(),
    };
    let error = open(log, marker, reference(), &Stop::default())
        .err()
        .unwrap();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let text = error.to_string();
    assert!(text.contains("stranger-bindings[0]@1"), "{text}");
}

#[test]
fn a_broker_that_is_killed_in_the_middle_costs_no_binding() {
    let broker = Broker::start();
    let mut generation = Generation::start(&broker, "killed-bindings", "a");
    let mut epochs = 1..;
    let mut more = |generation: &mut Generation, count: usize| {
        for epoch in epochs.by_ref().take(count) {
            generation.appender.append(binding(epoch));
        }
    };
    more(&mut generation, 1000);
    generation.wait_for(1000);
    for round in 1..=2 {
        // Appends are under way when it dies, and come when it is gone.
        more(&mut generation, 500);
        broker.kill();
        more(&mut generation, 500);
        broker.restart();
        generation.wait_for(1000 + round * 1000);
    }
    drop(generation);
    let next = Generation::start(&broker, "killed-bindings", "b");
    assert!(next.epochs().into_iter().eq(1..=3000));
}

#[test]
fn an_appender_ends_although_its_broker_is_away() {
    let broker = Broker::start();
    let mut generation = Generation::start(&broker, "away-bindings", "a");
    broker.kill();
    generation.appender.append(binding(1));
    let asked = Instant::now();
    drop(generation.appender);
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert!(generation.told.try_recv().is_err(), "an end is no error");
}

#[test]
fn an_unfit_topic_is_refused_with_what_to_do() {
    let broker = Broker::shared();
    let refused = |name: &str, partitions: i32, settings: &[(&str, &str)]| {
        broker.create_topic(name, partitions, settings);
        let topic = topic(broker, name, Login::Admin);
        let error = BindingTopic::open(&topic, 0, &Stop::default()).err();
        let failure = Failure::from(error.expect("the topic is unfit"));
        assert_eq!(failure.code, ExitCode::Usage);
        failure.to_string()
    };
    let text = refused("wide-bindings", 3, &[("retention.ms", "-1")]);
    let expected = format!("topic \"wide-bindings\" on {}", broker.bootstrap());
    assert!(text.contains(&expected), "{text}");
    assert!(text.contains("It has 3 partitions, and needs 1."), "{text}");
    assert!(text.contains("Delete it"), "{text}");
    let compacted = [("cleanup.policy", "compact"), ("retention.ms", "-1")];
    let text = refused("compacted-bindings", 1, &compacted);
    assert!(text.contains("cleanup.policy is \"compact\""), "{text}");
    assert!(
        text.contains("--add-config cleanup.policy=delete"),
        "{text}"
    );
    let text = refused("short-bindings", 1, &[]);
    assert!(text.contains("retention.ms is \"604800000\""), "{text}");
    broker.create_topic("right-bindings", 1, &[("retention.ms", "-1")]);
    let generation = Generation::start(broker, "right-bindings", "a");
    assert_eq!(generation.number, 0);
}
