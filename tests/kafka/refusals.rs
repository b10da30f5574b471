//! What keeps a job from starting: credentials, missing topics, wrong types; and what `check` says
//! of it beforehand.

use std::sync::OnceLock;
use std::time::Duration;

use deltajoin_testkit::{Broker, Login, Outcome, Signal};

use crate::setup::{LIMIT, Setup, quoted, summary};
use crate::topics::{Publisher, detections, event, values};

/// A person waits for a refusal.
const SOON: Duration = Duration::from_secs(30);

const TABLES: &[&str] = &["events", "[sinks]", "dead_letters"];

fn secure() -> &'static Broker {
    static SECURE: OnceLock<Broker> = OnceLock::new();
    SECURE.get_or_init(Broker::start_secure)
}

/// The events of a refusal's test, three of them.
fn publish_three(broker: &Broker, topic: &str) {
    broker.create_topic(topic, 2, &[]);
    let publisher = Publisher::new(broker, topic);
    for detection in 1..=3 {
        publisher.send(0, None, Some(&event(detection, 1)));
    }
    publisher.flush();
}

fn assert_says(outcome: &Outcome, texts: &[&str]) {
    let said = outcome.stderr.join("\n");
    for text in texts {
        assert!(said.contains(text), "{text:?} is missing in:\n{said}");
    }
    assert!(outcome.stdout.is_empty(), "{:?}", outcome.stdout);
}

#[test]
fn a_job_signs_in_with_its_password() {
    let broker = secure();
    publish_three(broker, "secret-events");
    let setup = Setup::new(broker, "secret-events")
        .at(TABLES, broker, Login::Job)
        .processes(2);
    assert_eq!(summary(&setup.run_until_end(&[]))["rows out"], 3);
    let rows = values(broker, &setup.joined());
    assert_eq!(detections(&rows), [1, 2, 3]);
}

#[test]
fn a_wrong_password_ends_every_command_soon_and_says_where() {
    let broker = secure();
    broker.create_topic("password", 1, &[]);
    let setup = Setup::new(broker, "password").at(&["events"], broker, Login::WrongPassword);
    let of_sink =
        Setup::without_topics(broker, "password").at(&["[sinks]"], broker, Login::WrongPassword);
    let of_dead = Setup::without_topics(broker, "password").at(
        &["dead_letters"],
        broker,
        Login::WrongPassword,
    );
    let of_reference = Setup::without_topics(broker, "password")
        .reference_topic(broker, "places")
        .at(&["reference"], broker, Login::WrongPassword);
    let bootstrap = broker.bootstrap();
    for (setup, topic) in [
        (&setup, "password"),
        (&of_sink, "password-joined"),
        (&of_dead, "password-dead"),
        (&of_reference, "places"),
    ] {
        for command in ["run", "check"] {
            let outcome = setup.command(command, &[]).wait(SOON);
            outcome.assert_code(2);
            let topic = format!("topic {topic:?} on {bootstrap}");
            assert_says(
                &outcome,
                &["error: could not authenticate to Kafka", &topic, "hint:"],
            );
        }
    }
    // The supervisor does not try again what cannot succeed.
    let cluster = setup.processes(2).start(&[]).wait(SOON);
    cluster.assert_code(2);
    assert_says(
        &cluster,
        &["error: could not authenticate to Kafka", "not restarted"],
    );
}

#[test]
fn a_job_that_waits_because_one_side_speaks_tls_says_so() {
    let secure = quoted(&secure().bootstrap());
    let plain = quoted(&Broker::shared().bootstrap());
    let tls = r#"{ "security.protocol" = "SSL" }"#;
    for (brokers, properties, hint) in [
        (secure, "{}", "Perhaps this port wants TLS"),
        (plain, tls, "Perhaps this port does not speak TLS"),
    ] {
        let setup = Setup::without_topics(Broker::shared(), "unlike")
            .set("events", "brokers", &*brokers)
            .set("events", "kafka", properties);
        let mut job = setup.start(&[]);
        let line = job.wait_for_line("Perhaps", SOON);
        for text in ["waiting for Kafka", hint, "security.protocol"] {
            assert!(line.contains(text), "{text:?} is missing in: {line}");
        }
        job.signal(Signal::Terminate);
        job.wait(SOON).assert_code(0);
    }
}

#[test]
fn a_user_without_rights_is_told_so() {
    let broker = secure();
    broker.create_topic("private", 1, &[]);
    let setup = Setup::new(broker, "private").at(TABLES, broker, Login::Stranger);
    let outcome = setup.start(&[]).wait(SOON);
    outcome.assert_code(2);
    assert_says(&outcome, &["not authorized", "private", "hint:"]);
}

#[test]
fn a_job_that_may_read_its_sink_and_not_write_to_it_is_told_so() {
    let broker = secure();
    for delivery in ["exactly-once", "at-least-once"] {
        let name = format!("unwritable-{delivery}");
        publish_three(broker, &name);
        let setup = Setup::new(broker, &name)
            .at(TABLES, broker, Login::Job)
            .set("[sinks]", "delivery", quoted(delivery));
        broker.forbid_writing(&setup.joined());
        let topic = format!("not authorized for topic {:?}", setup.joined());
        for command in ["check", "run"] {
            let outcome = setup.command(command, &[]).wait(LIMIT);
            outcome.assert_code(2);
            assert_says(&outcome, &[&topic, "may not write", "hint:"]);
        }
        assert!(values(broker, &setup.joined()).is_empty());
    }
}

#[test]
fn an_unknown_topic_ends_the_job_with_the_names_that_are_alike() {
    let broker = Broker::shared();
    broker.create_topic("detections-of-cameras", 1, &[]);
    let unknown = quoted("detections-of-camera");
    let name = "detections-of-cameras";
    let setup = Setup::new(broker, name).set("events", "topic", &*unknown);
    let of_sink = Setup::without_topics(broker, name).set("[sinks]", "topic", &*unknown);
    let of_dead = Setup::without_topics(broker, name).set("dead_letters", "topic", &*unknown);
    let of_reference =
        Setup::without_topics(broker, name).reference_topic(broker, unknown.trim_matches('"'));
    for setup in [&setup, &of_sink, &of_dead, &of_reference] {
        for command in ["run", "check"] {
            let outcome = setup.command(command, &[]).wait(SOON);
            outcome.assert_code(2);
            let primary = format!(
                "error: topic {unknown} does not exist on {}",
                broker.bootstrap()
            );
            assert_says(
                &outcome,
                &[&primary, "Did you mean \"detections-of-cameras\""],
            );
        }
    }
}

#[test]
fn check_tells_what_is_there_and_writes_nothing() {
    let broker = Broker::shared();
    publish_three(broker, "checked");
    let setup = Setup::new(broker, "checked").processes(2);
    let outcome = setup.command("check", &[]).wait(LIMIT);
    outcome.assert_code(0);
    let events = "topic \"checked\", 2 partitions; of 3 newest records 0 would be dead letters";
    assert_says(
        &outcome,
        &[
            events,
            "reference.csv, 0 rows",
            "topic \"checked-joined\", 4 partitions",
            "dead letters: topic \"checked-dead\", 1 partitions",
            "job.toml is good",
        ],
    );
    assert!(values(broker, &setup.joined()).is_empty());
    assert!(!setup.folder().join("status.json").exists());
}

#[test]
fn check_tells_every_obstacle_and_what_is_good_beside_them() {
    let broker = Broker::shared();
    publish_three(broker, "obstacles");
    let setup = Setup::without_topics(broker, "obstacles")
        .reference("geographical_location_oid,geographical_location\none,here\n")
        .set("checkpoint", "location", quoted("file://reference.csv/x"))
        .set("state", "dir", quoted("reference.csv/y"));
    let outcome = setup.command("check", &[]).wait(LIMIT);
    outcome.assert_code(2);
    let errors = outcome.stderr.iter();
    let errors = errors.filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 5, "{:#?}", outcome.stderr);
    assert_says(
        &outcome,
        &[
            "events: topic \"obstacles\", 2 partitions; of 3 newest records 0 would be",
            "error: reference file \"reference.csv\" has 1 fault",
            "error: topic \"obstacles-joined\" does not exist",
            "error: topic \"obstacles-dead\" does not exist",
            "error: cannot keep checkpoints",
            "error: state.dir = \"reference.csv/y\" cannot be used",
        ],
    );
}

/// A later record of its key makes good, and what is not JSON does not.
#[test]
fn check_finds_a_reference_record_that_would_end_a_start() {
    let broker = Broker::shared();
    publish_three(broker, "places-checked");
    broker.create_topic("places-of-check", 1, &[("cleanup.policy", "compact")]);
    let places = Publisher::new(broker, "places-of-check");
    let row = br#"{"geographical_location_oid":1,"geographical_location":"here"}"#;
    let key = |oid: u8| format!("{{\"geographical_location_oid\":{oid}}}").into_bytes();
    places.send(0, Some(&key(1)), Some(b"junk"));
    places.send(0, Some(&key(1)), Some(row));
    places.flush();
    let setup = Setup::new(broker, "places-checked").reference_topic(broker, "places-of-check");
    let good = setup.command("check", &[]).wait(LIMIT);
    good.assert_code(0);
    assert_says(
        &good,
        &["reference: topic \"places-of-check\", 1 partitions; its 2 newest records are good"],
    );
    places.send(
        0,
        Some(&key(2)),
        Some(b"{\"geographical_location_oid\":\"2\"}"),
    );
    places.flush();
    for command in ["check", "run"] {
        let outcome = setup.command(command, &[]).wait(LIMIT);
        outcome.assert_code(2);
        assert_says(
            &outcome,
            &[
                "could not read reference record places-of-check[0]@2",
                "geographical_location_oid",
            ],
        );
    }
}

#[test]
fn check_finds_columns_that_no_record_has() {
    let broker = Broker::shared();
    publish_three(broker, "mistyped");
    let setup = Setup::new(broker, "mistyped").set(
        "events",
        "columns",
        r#"{ geographical_location_oid = "int64", detection_oid = "int64", item_name = "bool" }"#,
    );
    let outcome = setup.command("check", &[]).wait(LIMIT);
    outcome.assert_code(2);
    assert_says(
        &outcome,
        &[
            "no event of topic \"mistyped\" has the declared types",
            "mistyped[0]@0",
            "item_name",
        ],
    );
}
