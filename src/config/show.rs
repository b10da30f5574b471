//! The configuration as text: for a person, with the origin of each setting, and as a digest.
//!
//! It is apart from reading, which never needs it.
//!
//! # Invariants
//! * The text is a configuration file that means the same, but for secrets.
//! * No secret is in the text or in the digest.

use sha2::{Digest as _, Sha256};

use crate::config::fault::Document;
use crate::config::model::{Config, EventSource, KafkaTopic, ReferenceSource, Target};
use crate::config::properties::{MASK, is_secret};
use crate::config::section::Sections;
use crate::config::settings::Kind;
use crate::config::tree::{Origin, Value, key};
use crate::config::walk::Field;

/// Every setting, as [`crate::config::Loaded::resolved`] describes.
pub(super) fn resolved(sections: &Sections, document: &Document) -> String {
    let mut blocks = Vec::new();
    for section in &sections.0 {
        let mut lines = Vec::new();
        for field in &section.fields {
            lines.extend(lines_of(field, document));
        }
        // Origins stand in one column, unless a line is very long.
        let width = lines.iter().map(|(line, _)| line.chars().count().min(60));
        let width = width.max().unwrap_or(0);
        let mut block = String::new();
        if !section.table.name.is_empty() {
            block = format!("{}\n", section.table.header());
        }
        for (line, origin) in lines {
            block.push_str(&format!("{line:width$}  # {origin}\n"));
        }
        blocks.push(block);
    }
    blocks.join("\n")
}

/// The lines of a setting, each with its origin: a table has one for each of its names, since each
/// may come from elsewhere.
fn lines_of(field: &Field, document: &Document) -> Vec<(String, String)> {
    let name = field.setting.name;
    let place = |origin: &Origin| match origin {
        Origin::Default => "default".to_owned(),
        written => document.place(written),
    };
    match &field.node.value {
        Value::Table(entries) if !entries.is_empty() => entries
            .iter()
            .map(|entry| {
                let properties = matches!(field.setting.kind, Kind::Properties);
                let value = if properties && is_secret(&entry.name) {
                    Value::Text(MASK.to_owned()).to_toml()
                } else {
                    entry.node.value.to_toml()
                };
                let line = format!("{name}.{} = {value}", key(&entry.name));
                (line, place(&entry.origin))
            })
            .collect(),
        value => vec![(
            format!("{name} = {}", value.to_toml()),
            place(&field.origin),
        )],
    }
}

/// A digest of all that the processes of a job must agree on: everything but telemetry, the path of
/// the secret and the values of secrets. It is the same for the same build only.
pub fn digest(config: &Config) -> String {
    let mut shared = config.clone();
    shared.cluster.secret_file = None;
    shared.telemetry.log.clear();
    shared.telemetry.status_file = None;
    let mut topics: Vec<&mut KafkaTopic> = Vec::new();
    if let EventSource::Kafka { topic, .. } = &mut shared.events.source {
        topics.push(topic);
    }
    if let ReferenceSource::Kafka { topic } = &mut shared.reference.source {
        topics.push(topic);
    }
    let targets = shared.sinks.iter_mut().map(|sink| &mut sink.target);
    for target in targets.chain([&mut shared.dead_letters]) {
        if let Target::Kafka { topic, .. } = target {
            topics.push(topic);
        }
    }
    for topic in topics {
        for (name, value) in &mut topic.properties {
            if is_secret(name) {
                MASK.clone_into(value);
            }
        }
    }
    // All of the configuration is in its debug text, and a new field cannot be forgotten.
    let hash = Sha256::digest(format!("{shared:?}"));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
