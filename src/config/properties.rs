//! Settings that are passed through to librdkafka: which are refused, and which are secret.
//!
//! They are apart because they are the only tables whose names are not ours.
//!
//! # Invariants
//! * A property that the job sets itself is never taken from the file: the job would not be right.
//! * The value of a secret is never shown, logged or put into a digest.

use std::collections::BTreeMap;

use crate::config::fault::Faults;
use crate::config::settings::Table;
use crate::config::tree::{Entry, Node, Value};

/// What stands for a secret wherever it would be shown.
pub(super) const MASK: &str = "***";

/// Properties that the job sets itself, and why.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", BROKERS),
    ("metadata.broker.list", BROKERS),
    ("group.id", GROUP),
    ("enable.auto.commit", OFFSETS),
    ("auto.commit.enable", OFFSETS),
    ("enable.auto.offset.store", OFFSETS),
    (
        "auto.offset.reset",
        "The job decides by \"start\" where reading begins.",
    ),
    (
        "enable.partition.eof",
        "The job needs it to know where a partition ends.",
    ),
    (
        "transactional.id",
        "The job makes one of its own name for each process.",
    ),
    (
        "enable.idempotence",
        "The job relies on it to keep the order of rows.",
    ),
    ("acks", ACKS),
    ("request.required.acks", ACKS),
    ("message.timeout.ms", TIMEOUT),
    ("delivery.timeout.ms", TIMEOUT),
    (
        "delivery.report.only.error",
        "The job counts acknowledgements.",
    ),
];

const BROKERS: &str = "The job sets it from \"brokers\".";
const GROUP: &str = "The job assigns partitions itself, and its group has the job's name.";
const OFFSETS: &str = "The job keeps track of offsets itself.";
const ACKS: &str = "A row counts as written when all in-sync replicas have it.";
const TIMEOUT: &str = "The job waits for a broker that is away: a row is never given up.";

/// Why a property cannot be set, if it is the job's own.
pub fn reserved(name: &str) -> Option<&'static str> {
    let (_, reason) = RESERVED.iter().find(|(reserved, _)| *reserved == name)?;
    Some(reason)
}

/// Whether the value of the property called `name` is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let words = [
        "password",
        "secret",
        "key.pem",
        "token",
        "oauthbearer.config",
    ];
    words.iter().any(|word| name.contains(word))
}

/// Whether a line of a file has the name of a secret in it.
pub(super) fn names_secret(line: &str) -> bool {
    // The path of the file that holds the cluster's secret is none itself.
    is_secret(&line.replace("secret_file", ""))
}

/// Joins the names of nested tables by dots: in a file `sasl.password = "x"` is a table in a
/// table, and means one property.
pub(super) fn flatten(entries: Vec<Entry>) -> Vec<Entry> {
    let mut flat = Vec::with_capacity(entries.len());
    for entry in entries {
        match entry.node.value {
            Value::Table(inner) if !inner.is_empty() => {
                for mut below in flatten(inner) {
                    below.name = format!("{}.{}", entry.name, below.name);
                    flat.push(below);
                }
            }
            _ => flat.push(entry),
        }
    }
    flat
}

/// Checks a table of properties.
pub(super) fn read(
    table: &Table,
    node: &Node,
    faults: &mut Faults,
) -> Option<BTreeMap<String, String>> {
    let mut properties = BTreeMap::new();
    let mut all_right = true;
    for entry in node.table()? {
        let name = &entry.name;
        let place = format!("kafka property \"{name}\" {}", table.phrase());
        let text = match checked(name, &place, entry, faults) {
            Some(text) if !properties.contains_key(name) => text,
            Some(_) => {
                faults
                    .add(&entry.origin, format!("{place} is written twice"))
                    .hint("Remove one.");
                all_right = false;
                continue;
            }
            None => {
                all_right = false;
                continue;
            }
        };
        properties.insert(name.clone(), text);
    }
    all_right.then_some(properties)
}

/// The text of one property, if it can be set so.
fn checked(name: &str, place: &str, entry: &Entry, faults: &mut Faults) -> Option<String> {
    if let Some(reason) = reserved(name) {
        faults
            .add(&entry.origin, format!("{place} cannot be set"))
            .detail(reason)
            .hint("Remove it.");
        return None;
    }
    let text = match &entry.node.value {
        Value::Text(text) => text.clone(),
        // As a number 1e5 and 100000.0 are one; as a password they are two.
        value if is_secret(name) => {
            let mut kind = value.describe();
            if matches!(value, Value::Whole(_) | Value::Float(_)) {
                kind = "a number".to_owned();
            }
            faults
                .add(&entry.node.origin, format!("{place} must be text"))
                .detail(format!("It is {kind}."))
                .hint("Write it in quotes.");
            return None;
        }
        value @ (Value::Whole(_) | Value::Float(_) | Value::Flag(_)) => value.to_toml(),
        Value::Time(_) | Value::List(_) | Value::Table(_) => {
            faults
                .add(
                    &entry.node.origin,
                    format!("{place} must be text, a number, true or false"),
                )
                .detail(format!("It is {}.", entry.node.value.describe()));
            return None;
        }
    };
    if let Err(reason) = accepted(name, &text) {
        let fault = faults.add(&entry.origin, format!("librdkafka does not accept {place}"));
        // What it says of a value shows it.
        if !is_secret(name) {
            fault.detail(reason);
        }
        return None;
    }
    Some(text)
}

/// Asks librdkafka whether it knows a property and takes its value; a reason ends in a full stop.
#[cfg(feature = "kafka")]
fn accepted(name: &str, value: &str) -> Result<(), String> {
    use rdkafka::config::ClientConfig;
    use rdkafka::error::KafkaError;

    let set = ClientConfig::new().set(name, value).create_native_config();
    match set {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, reason, ..)) => Err(format!("{reason}.")),
        Err(error) => Err(format!("{error}.")),
    }
}

/// Without librdkafka nobody knows.
#[cfg(not(feature = "kafka"))]
fn accepted(_: &str, _: &str) -> Result<(), String> {
    Ok(())
}
