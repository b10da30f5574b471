//! What a good file becomes: the checked configuration, its text, its digest; and the manual.
//!
//! They are apart from the messages, because here nothing is wrong.

use expect_test::{expect, expect_file};

use crate::config::manual::manual;
use crate::config::model::{Delivery, ReferenceSource, Start, TimeUnit, Unmatched};
use crate::config::settings::Fallback;
use crate::config::table::TABLES;
use crate::config::tests::{VALID, check, edited, load_with, without_directory};
use crate::config::value::read;
use crate::config::{Config, EventSource, Sources, Target, digest, fault::Faults, load};

fn config(text: &str) -> Config {
    match load_with(text, &[], &[]) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn defaults_are_complete() {
    for table in TABLES {
        for setting in table.settings {
            let default = setting.default_in(table);
            let wanted = matches!(setting.fallback, Fallback::Default);
            assert_eq!(
                default.is_some(),
                wanted,
                "{} {}",
                setting.name,
                table.phrase()
            );
            if let Some(node) = default {
                let mut faults = Faults::default();
                let meaning = read(table, setting, node, &mut faults);
                assert!(meaning.is_some(), "{} {}", setting.name, table.phrase());
            }
        }
    }
}

#[test]
fn defaults_alone_lack_only_what_is_required() {
    let Err(error) = load_with(include_str!("../default.toml"), &[], &[]) else {
        panic!("a job needs more than defaults");
    };
    let report = error.to_string();
    let unexpected = report.lines().filter(|line| {
        line.starts_with("error: ")
            && !line.starts_with("error: missing setting")
            && !line.contains("belongs to type \"kafka\"")
    });
    assert_eq!(unexpected.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn the_manual_is_up_to_date() {
    expect_file!["../../../docs/configuration.md"].assert_eq(&manual());
}

#[test]
fn every_setting_is_shown_with_its_origin() {
    let text = edited(&[(
        "topic = \"events\"",
        "topic = \"events\"\nkafka = { \"sasl.password\" = \"hush\", \"linger.ms\" = 5 }",
    )]);
    let environment = [("DELTAJOIN_CLUSTER__THREADS", "2")];
    let set = [
        "events.kafka.\"sasl.username\"=u",
        "join.on_reference_change=future-only",
    ];
    let loaded = match load_with(&text, &environment, &set) {
        Ok(loaded) => loaded,
        Err(error) => panic!("{error}"),
    };
    expect_file!["resolved.toml"].assert_eq(&without_directory(&loaded.resolved()));
}

#[test]
fn what_is_shown_means_the_same() {
    let text = edited(&[
        (
            "item = ",
            r#"'it"em' = "bool", "x\ny = 0" = "bool", item = "#,
        ),
        (
            "topic = \"joined\"",
            "topic = \"joined\"\nkafka.ssl.ca.pem = \"a\\nb\"",
        ),
    ]);
    let loaded = match load_with(&text, &[], &["limits.shards=8"]) {
        Ok(loaded) => loaded,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(digest(&config(&loaded.resolved())), digest(&loaded.config));
}

#[test]
fn a_file_without_dead_letters_has_them_beside_its_first_sink() {
    let Target::Kafka { topic, .. } = config(VALID).dead_letters else {
        panic!("the first sink is a topic");
    };
    assert_eq!((&*topic.brokers, &*topic.topic), ("k1:9092", "joined.dead"));
    let first = "[[sinks]]\nbrokers = \"k1:9092\"\ntopic = \"joined\"\n";
    let Target::JsonLines { path } = config(&edited(&[(first, "")])).dead_letters else {
        panic!("the only sink is a file");
    };
    assert_eq!(path.to_str(), Some("out/joined.jsonl.dead.jsonl"));
}

#[test]
fn dead_letters_are_delivered_as_the_first_topic_is_else_exactly_once() {
    let at_least_once = (
        "topic = \"joined\"",
        "topic = \"joined\"\ndelivery = \"at-least-once\"",
    );
    let no_topic = ("[[sinks]]\nbrokers = \"k1:9092\"\ntopic = \"joined\"\n", "");
    let elsewhere = "[dead_letters]\ntype = \"kafka\"\nbrokers = \"k2:9092\"\ntopic = \"dead\"\n";
    let explicit = format!("{elsewhere}delivery = \"exactly-once\"\n");
    for (edits, expected) in [
        (vec![], true),
        (vec![at_least_once], false),
        (vec![("", elsewhere)], true),
        (vec![no_topic, ("", elsewhere)], true),
        (vec![at_least_once, ("", elsewhere)], false),
        (vec![at_least_once, ("", &*explicit)], true),
    ] {
        let Target::Kafka { delivery, .. } = config(&edited(&edits)).dead_letters else {
            panic!("they go to a topic");
        };
        let exactly_once = matches!(delivery, Delivery::ExactlyOnce { .. });
        assert_eq!(exactly_once, expected, "{edits:?}");
    }
}

#[test]
fn values_are_read_as_they_are_meant() {
    let text = edited(&[
        (
            "topic = \"events\"",
            "topic = \"events\"\nstart = 2026-01-31T12:00:00+01:00",
        ),
        ("unit = \"ms\"", "unit = \"us\""),
        ("[join]", "[join]\nunmatched = \"dead-letter\""),
        (
            "path = \"reference.csv\"",
            "type = \"kafka\"\nbrokers = \"k:9092\"\ntopic = \"places\"",
        ),
        (
            "",
            "[limits]\ntick = \"5ms\"\nmax_in_flight_bytes = \"1MiB\"\nmax_record_bytes = 100",
        ),
    ]);
    let config = config(&text);
    let EventSource::Kafka { start, .. } = config.events.source else {
        panic!("events come from Kafka");
    };
    assert_eq!(start, Start::Timestamp(1_769_857_200_000));
    let time = config.events.time.expect("it was written");
    assert_eq!((time.column, time.unit), (3, TimeUnit::Microseconds));
    let names: Vec<_> = config
        .events
        .schema
        .columns
        .iter()
        .map(|c| &*c.name)
        .collect();
    assert_eq!(names, ["id", "place", "item", "at"]);
    assert!(config.events.schema.columns[2].nullable);
    assert_eq!(config.join.event_columns, [1]);
    assert_eq!(config.join.unmatched, Unmatched::DeadLetter);
    assert!(matches!(
        config.reference.source,
        ReferenceSource::Kafka { .. }
    ));
    assert_eq!(config.limits.tick.as_millis(), 5);
    assert_eq!(config.limits.max_in_flight_bytes, 1 << 20);
}

#[test]
fn the_pairs_of_the_join_follow_the_key_of_the_reference() {
    let text = edited(&[
        ("key = [\"place\"]", "key = [\"label\", \"place\"]"),
        (
            "on = { place = \"place\" }",
            "on = { place = \"place\", item = \"label\" }",
        ),
    ]);
    assert_eq!(config(&text).join.event_columns, [2, 1]);
}

#[test]
fn the_digest_holds_all_that_processes_must_agree_on() {
    let plain = digest(&config(VALID));
    assert_eq!(plain.len(), 64);
    for same in [
        "[telemetry]\nlog = \"debug\"\nstatus_file = \"x\"",
        "[cluster]\nsecret_file = \"x\"",
    ] {
        assert_eq!(digest(&config(&edited(&[("", same)]))), plain, "{same}");
    }
    for other in ["[limits]\nshards = 32", "[cluster]\nthreads = 2"] {
        assert_ne!(digest(&config(&edited(&[("", other)]))), plain, "{other}");
    }
    let with = |password: &str| {
        let line = format!("topic = \"joined\"\nkafka.sasl.password = \"{password}\"");
        digest(&config(&edited(&[("topic = \"joined\"", &line)])))
    };
    assert_eq!(with("one"), with("two"));
    assert_ne!(with("one"), plain);
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let Err(error) = load(Sources {
        file: "no-such.toml".into(),
        environment: [],
        set: Vec::new(),
    }) else {
        panic!("there is no such file");
    };
    expect![[r#"
        error: could not read the configuration: No such file or directory (os error 2)
          --> no-such.toml
          hint: Name a TOML file that this user can read with --config."#]]
    .assert_eq(&error.to_string());
}

#[test]
fn a_file_that_is_not_utf8_is_a_fault() {
    let directory = tempfile::tempdir().expect("there is a directory for temporary files");
    let file = directory.path().join("job.toml");
    std::fs::write(&file, b"job = 1\nx = \"\xff\"").expect("a new file can be written");
    let Err(error) = load(Sources {
        file,
        environment: [],
        set: Vec::new(),
    }) else {
        panic!("it is not text");
    };
    expect![[r#"
        error: the configuration is not UTF-8
          --> job.toml
          detail: The first byte that is wrong is in line 2."#]]
    .assert_eq(&without_directory(&error.to_string()));
}

#[test]
fn lines_end_as_they_like_and_tabs_are_kept() {
    check(
        &[("topic = \"events\"\n", "\ttopic =\t5\r\n")],
        expect![[r#"
            error: "topic" in [events] must be the name of a topic
              --> job.toml:5:10
              |
            5 | 	topic =	5
              | 	       	^
              detail: It is the number 5.
              hint: Write text in quotes.
        "#]],
    );
}

#[test]
fn a_damaged_file_never_ends_in_a_panic() {
    let ends: Vec<usize> = VALID.char_indices().map(|(index, _)| index).collect();
    for end in ends {
        for text in [
            VALID[..end].to_owned(),
            format!("{}\u{e9}{}", &VALID[..end], &VALID[end + 1..]),
            format!("{}\r\n{}", &VALID[..end], &VALID[end..]),
            format!("{}\"{}", &VALID[..end], &VALID[end..]),
        ] {
            if let Err(error) = load_with(&text, &[], &[]) {
                assert!(error.to_string().starts_with("error: "), "{text}");
            }
        }
    }
}
