//! Faults that have neighbours: none of them may hide another.
//!
//! They are apart because each file here has several faults, all of which must be told.

use crate::config::tests::{edited, load_with};

/// The primary lines of the report on an edited file.
fn faults(edits: &[(&str, &str)]) -> Vec<String> {
    let Err(error) = load_with(&edited(edits), &[], &[]) else {
        panic!("something is wrong");
    };
    let report = error.to_string();
    let lines = report.lines();
    lines
        .filter_map(|line| line.strip_prefix("error: "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_wrong_type_hides_no_fault_in_the_use_of_columns() {
    let found = faults(&[
        ("key = [\"id\"]", "key = [\"ids\", \"item\", \"place\"]"),
        ("column = \"at\"", "column = \"att\""),
        ("place = \"int64\", item", "place = \"int46?\", item"),
        ("label = \"string\"", "label = 5"),
        (
            "on = { place = \"place\" }",
            "on = { plaice = \"place\", id = \"label\" }",
        ),
    ]);
    assert_eq!(
        found,
        [
            "key in [events] names an unknown column \"ids\"",
            "key column \"item\" in [events] is nullable",
            "key column \"place\" in [events] is nullable",
            "\"time\" in [events] names an unknown column \"att\"",
            "unknown type \"int46?\" of column \"place\" in [events]",
            "the type of column \"label\" in [reference] must be text",
            "\"on\" in [join] names an unknown column \"plaice\"",
            "\"on\" in [join] names \"label\", which is no key",
        ]
    );
}

#[test]
fn a_wrong_element_hides_no_other() {
    let found = faults(&[
        ("key = [\"id\"]", "key = [7, \"id\", \"id\", 8]"),
        (
            "on = { place = \"place\" }",
            "on = { place = 3, plaice = 4, id = \"label\" }",
        ),
        (
            "time = { column = \"at\", unit = \"ms\" }",
            "time = { column = \"att\", unit = \"ns\", zone = \"UTC\" }",
        ),
    ]);
    assert_eq!(
        found,
        [
            "\"key\" in [events] must be a list of column names",
            "\"key\" in [events] names \"id\" twice",
            "\"key\" in [events] must be a list of column names",
            "\"time\" in [events] names an unknown column \"att\"",
            "unknown unit \"ns\" of \"time\" in [events]",
            "unknown setting \"zone\" of \"time\" in [events]",
            "\"on\" in [join] must be a table of column names",
            "\"on\" in [join] names an unknown column \"plaice\"",
            "\"on\" in [join] must be a table of column names",
            "columns of \"on\" in [join] differ in type: \"id\" and \"label\"",
            "\"on\" in [join] names \"label\", which is no key",
        ]
    );
}

#[test]
fn faults_of_kafka_are_told_with_the_others() {
    let found = faults(&[
        (
            "brokers = \"k1:9092\"\ntopic = \"events\"",
            "brokers = \"nonsense, k1:9092, k2:0\"\ntopic = \"events\"\n\
             kafka = { \"lingr.ms\" = 5, \"linger.ms\" = \"soon\", \"sasl.password\" = 12345 }",
        ),
        (
            "topic = \"joined\"",
            "topic = \"joined\"\nkafka = { acks = 1 }",
        ),
        ("", "[cluster]\nprocesses = 0\naddresses = [\"a\"]"),
    ]);
    assert_eq!(
        found,
        [
            "\"brokers\" in [events] names no broker: \"nonsense\"",
            "\"brokers\" in [events] names no broker: \"k2:0\"",
            "librdkafka does not accept kafka property \"lingr.ms\" in [events]",
            "librdkafka does not accept kafka property \"linger.ms\" in [events]",
            "kafka property \"sasl.password\" in [events] must be text",
            "kafka property \"acks\" in [[sinks]] cannot be set",
            "\"processes\" in [cluster] must be a whole number from 1 to 1024",
            "not an address: \"a\"",
        ]
    );
}

#[test]
fn dead_letters_are_told_with_the_others() {
    let found = faults(&[
        ("key = [\"id\"]", "key = [\"ids\"]"),
        ("[[sinks]]\nbrokers = \"k1:9092\"\ntopic = \"joined\"\n", ""),
        ("", "[dead_letters]\ntype = \"kafka\"\ntopc = \"dead\""),
    ]);
    assert_eq!(
        found,
        [
            "key in [events] names an unknown column \"ids\"",
            "missing setting \"brokers\" in [dead_letters]",
            "unknown setting \"topc\" in [dead_letters]",
        ]
    );
}

#[test]
fn a_secret_is_not_shown_by_any_fault() {
    let properties = "topic = \"events\"\nkafka = { \"sasl.password\" = 98765, \
                      \"ssl.key.password\" = [\"98765\"], \"oauthbearer.token\" = \"98765\" }";
    let report = load_with(&edited(&[("topic = \"events\"", properties)]), &[], &[]);
    let report = report.err().expect("something is wrong").to_string();
    assert_eq!(report.matches("error: ").count(), 3, "{report}");
    assert!(!report.contains("98765"), "{report}");
}
