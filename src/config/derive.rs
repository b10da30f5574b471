//! Defaults that follow from other settings: how retries are found, names of sinks, and the whole
//! of the dead letters.
//!
//! They are apart from `default.toml`, which holds values only. They are put into the tree before
//! the walk, so that they are checked and shown like all others.
//!
//! # Invariants
//! * Nothing that was written is changed.
//! * Nothing is derived from what is missing or wrong; that has been, or will be, reported.

use std::path::Path;

use crate::config::settings::Table;
use crate::config::tree::{Entry, Node, Origin, Value};

/// Puts derived defaults into the tree.
pub(super) fn derive(tree: &mut Node) {
    let Value::Table(entries) = &mut tree.value else {
        return;
    };
    let retry_time = retry_time(entries);
    if child(entries, "distinct").is_none() {
        entries.push(derived("distinct", Value::Table(Vec::new())));
    }
    if let Some(distinct) = child(entries, "distinct") {
        fill(distinct, "retry_time", retry_time);
    }
    if let Some(sinks) = child(entries, "sinks")
        && let Value::List(sinks) = &mut sinks.value
    {
        for sink in sinks {
            name_sink(sink);
        }
    }
    let sinks = entries.iter().find(|entry| entry.name == "sinks");
    let sinks: Vec<Node> = sinks
        .and_then(|entry| entry.node.list())
        .unwrap_or_default()
        .to_vec();
    if child(entries, "dead_letters").is_none() {
        entries.push(derived("dead_letters", Value::Table(Vec::new())));
    }
    if let Some(dead_letters) = child(entries, "dead_letters") {
        address_dead_letters(dead_letters, &sinks);
    }
}

/// By what a retry is found: by its time if that is sure to be the same.
fn retry_time(entries: &[Entry]) -> Value {
    let table = |name: &str| entries.iter().find(|entry| entry.name == name);
    let keep = table("distinct").and_then(|entry| entry.node.get("keep"));
    let first = keep.and_then(Node::text).is_none_or(|keep| keep == "first");
    let timed = table("events").is_some_and(|entry| entry.node.get("time").is_some());
    let found = if first && timed { "same" } else { "may-differ" };
    Value::Text(found.to_owned())
}

fn name_sink(sink: &mut Node) {
    let name = match type_of(sink, "sinks") {
        Some("kafka") => sink.get("topic").and_then(Node::text).map(str::to_owned),
        Some("jsonl") => sink
            .get("path")
            .and_then(Node::text)
            .map(|path| Path::new(path).file_name().unwrap_or(path.as_ref()))
            .map(|name| name.to_string_lossy().into_owned()),
        _ => None,
    };
    if let Some(name) = name {
        fill(sink, "name", Value::Text(name));
    }
}

fn address_dead_letters(dead_letters: &mut Node, sinks: &[Node]) {
    let first = |type_name| {
        sinks
            .iter()
            .find(|sink| type_of(sink, "sinks") == Some(type_name))
    };
    let (kafka, lines) = (first("kafka"), first("jsonl"));
    let type_name = match kafka {
        Some(_) => "kafka",
        None => "jsonl",
    };
    fill(dead_letters, "type", Value::Text(type_name.to_owned()));
    let type_name = dead_letters.get("type").and_then(Node::text);
    match (type_name, kafka, lines) {
        (Some("kafka"), Some(sink), _) => {
            let written = dead_letters.get("brokers").is_some();
            if let Some(brokers) = sink.get("brokers")
                && !written
            {
                // The way to a cluster is its brokers and its properties together.
                fill(dead_letters, "brokers", brokers.value.clone());
                if let Some(properties) = sink.get("kafka") {
                    fill(dead_letters, "kafka", properties.value.clone());
                }
            }
            if let Some(topic) = sink.get("topic").and_then(Node::text) {
                fill(dead_letters, "topic", Value::Text(format!("{topic}.dead")));
            }
        }
        (Some("jsonl"), _, Some(sink)) => {
            if let Some(path) = sink.get("path").and_then(Node::text) {
                let path = format!("{path}.dead.jsonl");
                fill(dead_letters, "path", Value::Text(path));
            }
        }
        _ => {}
    }
    if dead_letters.get("type").and_then(Node::text) == Some("kafka") {
        fill(dead_letters, "kafka", Value::Table(Vec::new()));
        let delivery = kafka.and_then(|sink| sink.get("delivery"));
        if let Some(delivery) = delivery.or_else(|| default_of("sinks", "delivery")) {
            fill(dead_letters, "delivery", delivery.value.clone());
        }
        // Sinks of one cluster are committed together, as often as the most frequent of them.
        let brokers = |node: &Node| Some(node.get("brokers")?.text()?.to_owned());
        let beside = kafka.filter(|sink| brokers(sink) == brokers(dead_letters));
        let interval = beside.and_then(|sink| sink.get("commit_interval"));
        if let Some(interval) = interval.or_else(|| default_of("sinks", "commit_interval")) {
            fill(dead_letters, "commit_interval", interval.value.clone());
        }
    }
}

/// The type of what one of the tables of this name describes.
fn type_of<'a>(node: &'a Node, table: &str) -> Option<&'a str> {
    node.get("type")
        .or_else(|| default_of(table, "type"))?
        .text()
}

/// What `default.toml` has for a setting.
fn default_of(table: &str, setting: &str) -> Option<&'static Node> {
    let table = Table::find(table).expect("it is in the list of tables");
    table.setting(setting)?.default_in(table)
}

fn child<'a>(entries: &'a mut [Entry], name: &str) -> Option<&'a mut Node> {
    let entry = entries.iter_mut().find(|entry| entry.name == name)?;
    Some(&mut entry.node)
}

/// Adds a value to a table that has none of this name.
fn fill(node: &mut Node, name: &str, value: Value) {
    if let Value::Table(entries) = &mut node.value
        && !entries.iter().any(|entry| entry.name == name)
    {
        entries.push(derived(name, value));
    }
}

fn derived(name: &str, value: Value) -> Entry {
    Entry {
        name: name.to_owned(),
        origin: Origin::Default,
        node: Node::default(value),
    }
}
