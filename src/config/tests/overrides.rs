//! Overrides from the environment and from `--set`, and messages about them.
//!
//! They are apart because they have no place in the file.

use expect_test::{Expect, expect};

use crate::config::tests::{VALID, check_with, load_with};
use crate::config::{EventSource, Loaded, Target};

fn refused(environment: &[(&str, &str)], set: &[&str], expect: Expect) {
    check_with(VALID, environment, set, &expect);
}

fn loaded(environment: &[(&str, &str)], set: &[&str]) -> Loaded {
    match load_with(VALID, environment, set) {
        Ok(loaded) => loaded,
        Err(error) => panic!("{error}"),
    }
}

fn events_topic(loaded: &Loaded) -> &str {
    match &loaded.config.events.source {
        EventSource::Kafka { topic, .. } => &topic.topic,
        EventSource::File { .. } => panic!("events come from Kafka"),
    }
}

#[test]
fn the_command_line_goes_before_the_environment_and_that_before_the_file() {
    let variable = [("DELTAJOIN_EVENTS__TOPIC", "variable")];
    assert_eq!(events_topic(&loaded(&[], &[])), "events");
    assert_eq!(events_topic(&loaded(&variable, &[])), "variable");
    let set = ["events.topic=first", "events.topic = \"second\""];
    assert_eq!(events_topic(&loaded(&variable, &set)), "second");
}

#[test]
fn text_needs_no_quotes() {
    for (written, topic) in [
        ("007", "007"),
        ("true", "true"),
        ("\"x\"", "x"),
        ("a-b", "a-b"),
    ] {
        let set = format!("events.topic={written}");
        assert_eq!(events_topic(&loaded(&[], &[&set])), topic);
    }
    let set = [
        "events.start=2026-01-31T12:00:00Z",
        "limits.max_record_bytes=5000",
    ];
    assert_eq!(loaded(&[], &set).config.limits.max_record_bytes, 5000);
}

#[test]
fn elements_of_lists_have_numbers() {
    let environment = [
        ("DELTAJOIN_SINKS__0__TOPIC", "other"),
        ("DELTAJOIN_SINKS__2__TYPE", "jsonl"),
        ("DELTAJOIN_SINKS__2__PATH", "third.jsonl"),
    ];
    let loaded = loaded(&environment, &["sinks.1.name=file", "events.key.0=at"]);
    let names: Vec<_> = loaded.config.sinks.iter().map(|sink| &*sink.name).collect();
    assert_eq!(names, ["other", "file", "third.jsonl"]);
    assert_eq!(loaded.config.events.schema.key, [3]);
}

#[test]
fn properties_have_dots_in_their_names() {
    let environment = [("DELTAJOIN_SINKS__0__KAFKA__SASL_PASSWORD", "hush")];
    let set = [
        "sinks.0.kafka.\"sasl.username\"=u",
        "sinks.0.kafka.linger.ms=5",
        "sinks.0.kafka.'socket.keepalive.enable'=true",
    ];
    let loaded = loaded(&environment, &set);
    let properties = |target: &Target| match target {
        Target::Kafka { topic, .. } => topic.properties.clone(),
        Target::JsonLines { .. } => panic!("both are topics"),
    };
    let of_sink = properties(&loaded.config.sinks[0].target);
    assert_eq!(properties(&loaded.config.dead_letters), of_sink);
    expect![[r#"
        {
            "linger.ms": "5",
            "sasl.password": "hush",
            "sasl.username": "u",
            "socket.keepalive.enable": "true",
        }
    "#]]
    .assert_debug_eq(&of_sink);
    assert!(!loaded.resolved().contains("hush"));
}

#[test]
fn a_password_may_look_like_a_number() {
    for password in ["12345", "1e5", "0x10", "007", "true"] {
        let environment = [("DELTAJOIN_EVENTS__KAFKA__SASL_PASSWORD", password)];
        let EventSource::Kafka { topic, .. } = loaded(&environment, &[]).config.events.source
        else {
            panic!("events come from Kafka");
        };
        assert_eq!(topic.properties["sasl.password"], password);
    }
}

#[test]
fn variables_of_others_are_no_settings() {
    let environment = [
        ("DELTAJOIN_SEED", "5"),
        ("DELTAJOIN_LOG", "debug"),
        ("DELTAJOIN_SERVICE_HOST", "10.0.0.1"),
        ("DELTAJOIN_PORT_9090_TCP", "tcp://10.0.0.1:9090"),
        ("PATH", "/bin"),
    ];
    assert_eq!(events_topic(&loaded(&environment, &[])), "events");
}

#[test]
fn an_override_of_something_unknown_is_refused() {
    refused(
        &[
            ("DELTAJOIN_EVENTS__TOPC", "x"),
            ("DELTAJOIN_EVENTS_TOPIC", "x"),
        ],
        &["events.topc=x", "cluster.threads=many"],
        expect![[r#"
            error: unknown setting "events_topic" at the top level
              --> DELTAJOIN_EVENTS_TOPIC
              detail: Before any table there is only "job"; other settings stand in a table.
              hint: Two underscores separate levels, as in DELTAJOIN_EVENTS__TOPIC.

            error: unknown setting "topc" in [events]
              --> --set events.topc
              detail: Known settings are "type", "brokers", "topic", "format", "start",
                "key", "time", "columns", "on_missing_offsets" and "kafka".
              hint: Did you mean "topic"?

            error: "threads" in [cluster] must be a whole number from 1 to 1024
              --> --set cluster.threads
              detail: It is the text "many".

            3 faults in job.toml
        "#]],
    );
}

#[test]
fn an_override_has_a_path_and_a_value() {
    refused(
        &[],
        &[
            "events.topic",
            "events..topic=x",
            "sinks.5.topic=x",
            "job.name=x",
        ],
        expect![[r#"
            error: --set has no value
              --> --set events.topic
              hint: Write it as --set events.topic=x.

            error: "events..topic" is not the path of a setting
              --> --set events..topic
              hint: Write it as --set events.topic=x, with quotes around names that have
                dots.

            error: cannot set "sinks.5.topic"
              --> --set sinks.5.topic
              detail: "sinks" has no place called "5".
              hint: Elements of a list have numbers from 0 on; the next free number adds
                one.

            error: cannot set "job.name"
              --> --set job.name
              detail: "job" has no place called "name".
              hint: Elements of a list have numbers from 0 on; the next free number adds
                one.

            4 faults in job.toml
        "#]],
    );
}
