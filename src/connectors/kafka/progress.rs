//! How far each sink has come, by shard: records of a compacted topic, written in the transactions
//! of the rows that they tell of or, at-least-once, after those rows.
//!
//! It is apart from `transactions` and `recorder` because it is a durable format, which other parts
//! read as well.
//!
//! # Invariants
//! * The progress of a shard is the greatest epoch of all records that cover it. So it does not
//!   matter how many workers wrote them, and over which ranges.
//! * What cannot be read is an error that says where, never no progress.

use std::collections::BTreeMap;
use std::ops::Range;

use deltajoin_workers::ports::Stop;
use serde::{Deserialize, Serialize};

use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::Error;
use crate::connectors::kafka::own_topic::OwnTopic;
use crate::connectors::kafka::scan::Scan;

/// The format that is written, and the only one that is read.
const VERSION: u64 = 1;
/// What the topic must be like.
pub(super) const TOPIC: OwnTopic = OwnTopic {
    purpose: "the progress of sinks",
    settings: &[
        ("cleanup.policy", "compact"),
        // It is written at every commit, and read whole at every start.
        ("segment.bytes", "16777216"),
        ("segment.ms", "3600000"),
    ],
    checked: &["cleanup.policy"],
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key<'a> {
    sink: std::borrow::Cow<'a, str>,
    first_shard: usize,
    last_shard: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    version: u64,
    epoch: u64,
    generation: u64,
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

/// The progress of a worker's shards in one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgressRecord {
    /// The shards.
    pub shards: Range<usize>,
    /// All rows of epochs up to this one are committed.
    pub epoch: u64,
    /// The generation that committed them.
    pub generation: u64,
}

/// The progress of all sinks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    sinks: BTreeMap<String, Vec<ProgressRecord>>,
}

impl Progress {
    /// The last epoch that a sink has committed for a shard; 0 when none.
    pub fn of(&self, sink: &str, shard: usize) -> u64 {
        let records = self.sinks.get(sink).into_iter().flatten();
        let covering = records.filter(|record| record.shards.contains(&shard));
        covering.map(|record| record.epoch).max().unwrap_or(0)
    }

    /// The last epoch that a sink has committed for each of some shards.
    pub fn of_shards(&self, sink: &str, shards: Range<usize>) -> Vec<u64> {
        shards.map(|shard| self.of(sink, shard)).collect()
    }

    /// The last epoch that any sink has committed; 0 when none.
    pub fn newest(&self) -> u64 {
        let epochs = self.records().map(|(_, record)| record.epoch);
        epochs.max().unwrap_or(0)
    }

    /// Everything that is known, by sink.
    pub fn records(&self) -> impl Iterator<Item = (&str, &ProgressRecord)> {
        let all = self.sinks.iter();
        all.flat_map(|(sink, records)| records.iter().map(move |record| (&**sink, record)))
    }

    /// Adds what another topic says.
    pub fn merge(&mut self, other: Self) {
        for (sink, mut records) in other.sinks {
            self.sinks.entry(sink).or_default().append(&mut records);
        }
    }

    /// Takes one record of the topic: a later one of the same sink and shards replaces it.
    fn take(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), String> {
        let key: Key<'_> = serde_json::from_slice(key.unwrap_or_default())
            .map_err(|error| format!("its key is not one of progress: {error}"))?;
        if key.first_shard > key.last_shard {
            let (first, last) = (key.first_shard, key.last_shard);
            return Err(format!("its shards are {first} to {last}"));
        }
        let shards = key.first_shard..key.last_shard + 1;
        let records = self.sinks.entry(key.sink.into_owned()).or_default();
        records.retain(|record| record.shards != shards);
        // A tombstone: forgotten on purpose.
        let Some(value) = value else { return Ok(()) };
        let not_progress = |error| format!("its value is not one of progress: {error}");
        let Version { version } = serde_json::from_slice(value).map_err(not_progress)?;
        if version != VERSION {
            return Err(format!(
                "its version is {version}, and this release reads version {VERSION}"
            ));
        }
        let value: Value = serde_json::from_slice(value).map_err(not_progress)?;
        records.push(ProgressRecord {
            shards,
            epoch: value.epoch,
            generation: value.generation,
        });
        Ok(())
    }
}

/// The key and the value of a record.
pub(super) fn encode(sink: &str, record: &ProgressRecord) -> (Vec<u8>, Vec<u8>) {
    let key = Key {
        sink: sink.into(),
        first_shard: record.shards.start,
        last_shard: record.shards.end - 1,
    };
    let value = Value {
        version: VERSION,
        epoch: record.epoch,
        generation: record.generation,
    };
    let written = "numbers and text are always JSON";
    (
        serde_json::to_vec(&key).expect(written),
        serde_json::to_vec(&value).expect(written),
    )
}

/// Reads a topic of progress to its end: what is committed when this is called. Producers that
/// must not write any more are fenced before; waits for a broker that is away.
///
/// # Errors
/// If there is no such topic, Kafka refuses, or a record cannot be read; or if `stop` is set.
pub fn read_progress(topic: &KafkaTopic, stop: &Stop) -> Result<Progress, Error> {
    let scan = Scan::connect_committed(topic, Start::Earliest, stop)?;
    let mut progress = Progress::default();
    let mut result = Ok(());
    scan.run(stop, |record| {
        result = progress.take(record.key, record.value).map_err(|reason| {
            let topic = topic.topic.clone();
            let offset = record.origin.offset;
            Error::BadProgress {
                topic,
                offset,
                reason,
            }
        });
        result.is_ok()
    })?;
    result.map(|()| progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(shards: Range<usize>, epoch: u64) -> ProgressRecord {
        let generation = 17;
        ProgressRecord {
            shards,
            epoch,
            generation,
        }
    }

    fn progress(records: &[(&str, Range<usize>, u64)]) -> Progress {
        let mut progress = Progress::default();
        for (sink, shards, epoch) in records {
            let (key, value) = encode(sink, &record(shards.clone(), *epoch));
            progress.take(Some(&key), Some(&value)).unwrap();
        }
        progress
    }

    #[test]
    fn the_published_format_never_changes() {
        let (key, value) = encode("joined", &record(0..32, 1_750_000_000_123));
        assert_eq!(
            String::from_utf8(key).unwrap(),
            r#"{"sink":"joined","first_shard":0,"last_shard":31}"#
        );
        assert_eq!(
            String::from_utf8(value).unwrap(),
            r#"{"version":1,"epoch":1750000000123,"generation":17}"#
        );
    }

    #[test]
    fn a_shard_has_the_greatest_epoch_of_all_records_that_cover_it() {
        let progress = progress(&[
            ("joined", 0..64, 5),
            ("joined", 0..32, 7),
            ("joined", 32..64, 4),
            ("dead", 0..64, 9),
            ("joined", 0..32, 8),
        ]);
        assert_eq!(progress.of_shards("joined", 31..33), [8, 5]);
        assert_eq!(progress.of("dead", 63), 9);
        assert_eq!(progress.of("dead", 64), 0);
        assert_eq!(progress.of("new", 0), 0);
        assert_eq!(progress.newest(), 9);
        assert_eq!(progress.records().count(), 4);
    }

    #[test]
    fn a_tombstone_forgets_a_record() {
        let mut progress = progress(&[("joined", 0..64, 5)]);
        let (key, _) = encode("joined", &record(0..64, 0));
        progress.take(Some(&key), None).unwrap();
        assert_eq!(progress.of("joined", 0), 0);
    }

    #[test]
    fn what_is_no_record_of_progress_is_refused_with_its_reason() {
        let key: &[u8] = br#"{"sink":"joined","first_shard":0,"last_shard":31}"#;
        let value: &[u8] = br#"{"version":1,"epoch":5,"generation":17}"#;
        let newer = br#"{"version":2,"epochs":[5]}"#;
        let backwards = br#"{"sink":"joined","first_shard":3,"last_shard":2}"#;
        let refusal = |key, value| {
            Progress::default()
                .take(Some(key), Some(value))
                .unwrap_err()
        };
        assert!(refusal(b"any", value).starts_with("its key is not one of progress"));
        assert!(refusal(key, b"{}").starts_with("its value is not one of progress"));
        assert_eq!(
            refusal(key, newer),
            "its version is 2, and this release reads version 1"
        );
        assert_eq!(refusal(backwards, value), "its shards are 3 to 2");
        assert!(Progress::default().take(None, Some(value)).is_err());
    }
}
