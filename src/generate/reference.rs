//! The reference table of the case: a name for each location, as a file or as a topic.
//!
//! Apart from the events, because a job reads it from elsewhere.
//!
//! # Invariants
//! * Locations are numbered from 1 to `reference_rows`; orphans of the stream lie above.
//! * File and topic hold the same rows.

use crate::generate::{Options, names};

/// A row as a record of a compacted topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceRecord {
    /// The JSON of the key columns.
    pub key: String,
    /// The JSON of the row.
    pub value: String,
}

/// The table as CSV with a header.
pub fn reference_csv(options: &Options) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let sentence = "writing to memory does not fail";
    writer
        .write_record(["geographical_location_oid", "geographical_location"])
        .expect(sentence);
    for oid in 1..=options.reference_rows {
        writer
            .write_record([oid.to_string(), names::location(oid)])
            .expect(sentence);
    }
    let bytes = writer.into_inner().expect(sentence);
    String::from_utf8(bytes).expect("made of strings")
}

/// The table as records of a compacted topic, in the order of the key.
pub fn reference_records(options: &Options) -> impl Iterator<Item = ReferenceRecord> {
    (1..=options.reference_rows).map(|oid| {
        let name = serde_json::Value::from(names::location(oid));
        ReferenceRecord {
            key: format!("{{\"geographical_location_oid\":{oid}}}"),
            value: format!(
                "{{\"geographical_location_oid\":{oid},\"geographical_location\":{name}}}"
            ),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_topic_hold_the_same_rows() {
        let options = Options {
            reference_rows: 100,
            ..Options::default()
        };
        let csv = reference_csv(&options);
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let rows: Vec<(u64, String)> = reader.deserialize().map(|row| row.unwrap()).collect();
        assert_eq!(rows.len(), 100);
        assert!(rows.iter().any(|(_, name)| name.contains("\"Old Gate\", ")));
        for (record, (oid, name)) in reference_records(&options).zip(rows) {
            let value: serde_json::Value = serde_json::from_str(&record.value).unwrap();
            assert_eq!(value["geographical_location_oid"], oid);
            assert_eq!(value["geographical_location"], name.as_str());
            let key: serde_json::Value = serde_json::from_str(&record.key).unwrap();
            assert_eq!(key, serde_json::json!({ "geographical_location_oid": oid }));
        }
    }
}
