//! Records of the reference topic on their way to becoming changes, and which of them are bad.
//!
//! It is apart from `reference`, which reads the topic: here a record is judged by itself and by
//! what comes after it with the same key.
//!
//! # Invariants
//! * A bad record changes nothing. It is bad until a later record of its key is good.

use std::collections::BTreeMap;

use deltajoin_workers::batch::{Batch, Gather, Origin};
use deltajoin_workers::ports::reason;

use crate::codec::json::{Decoder, Reject};
use crate::connectors::kafka::Rejected;
use crate::connectors::kafka::ffi::Record;
use crate::connectors::kafka::fit::start_of;
use crate::connectors::kafka::reference::ReferenceOptions;

/// Records on their way to becoming changes.
pub(super) struct Changes {
    rows: Decoder,
    /// The keys of rows that are no tombstones, to be compared with those in the rows.
    keys: Decoder,
    steps: Vec<Step>,
    /// Bad records by key: a later record of the same key makes good.
    bad: BTreeMap<Vec<u8>, Bad>,
    /// Bad records that were not told before the next one of their key came.
    outdated: Vec<Rejected>,
    topic: String,
    record_bytes_max: usize,
}

/// The bad records of a key.
struct Bad {
    /// The first of them: it says whether the initial content is bad.
    first: Origin,
    /// The key, if that can be decoded. One that cannot is no row's.
    key: Option<u128>,
    /// Where the newest of them stands, and what is wrong with it.
    error: String,
    /// The newest of them, unless it was told.
    untold: Option<Rejected>,
}

/// One record.
struct Step {
    key: Vec<u8>,
    /// Where the key of a record with a value is in `keys`, if it can be decoded.
    key_row: Option<usize>,
    origin: Origin,
    raw: Vec<u8>,
    decoded: Result<Decoded, Reject>,
}

/// Where a record's row is.
enum Decoded {
    /// A row of `rows`.
    Row(usize),
    /// A removal in `rows`.
    Removal(usize),
    /// The removal of a key that no row can have.
    Nothing,
}

impl Changes {
    pub(super) fn new(options: &ReferenceOptions) -> Self {
        let decoder = || Decoder::for_reference(&options.schema, options.record_bytes_max);
        Self {
            rows: decoder(),
            keys: decoder(),
            steps: Vec::new(),
            bad: BTreeMap::new(),
            outdated: Vec::new(),
            topic: options.topic.topic.clone(),
            record_bytes_max: options.record_bytes_max,
        }
    }

    pub(super) fn take(&mut self, record: Record<'_>) {
        let origin = Origin {
            partition: record.partition(),
            offset: record.offset(),
        };
        self.push(record.key(), record.value(), origin);
    }

    fn push(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, origin: Origin) {
        let mut key_row = None;
        let decoded = match value {
            // A key that cannot be decoded has no row to remove.
            None => Ok(match self.rows.remove(key, origin) {
                Ok(()) => Decoded::Removal(self.rows.rows() - 1),
                Err(_) => Decoded::Nothing,
            }),
            Some(_) => match self.keys.remove(key, origin) {
                Ok(()) => {
                    key_row = Some(self.keys.rows() - 1);
                    let row = self.rows.decode(value, origin);
                    row.map(|()| Decoded::Row(self.rows.rows() - 1))
                }
                Err(mut reject) => {
                    reject.error.insert_str(0, "key: ");
                    Err(reject)
                }
            },
        };
        self.steps.push(Step {
            key: key.unwrap_or_default().to_vec(),
            key_row,
            origin,
            raw: start_of(value.unwrap_or_default(), self.record_bytes_max).to_vec(),
            decoded,
        });
    }

    /// Takes the changes, without bad records.
    pub(super) fn finish(&mut self) -> Batch {
        let (rows, keys) = (self.rows.finish(), self.keys.finish());
        let mut kept = Vec::with_capacity(rows.len());
        for step in std::mem::take(&mut self.steps) {
            let before = self.bad.remove(&step.key);
            let first = before.as_ref().map_or(step.origin, |bad| bad.first);
            self.outdated.extend(before.and_then(|bad| bad.untold));
            let key = step.key_row.map(|row| keys.keys().get(row));
            let (reason, error) = match step.decoded {
                Ok(Decoded::Row(row)) if Some(rows.keys().get(row)) != key => (
                    reason::MALFORMED,
                    "the key differs from the key columns".to_owned(),
                ),
                Ok(Decoded::Row(row) | Decoded::Removal(row)) => {
                    kept.push((0, row));
                    continue;
                }
                Ok(Decoded::Nothing) => continue,
                Err(reject) => (reject.reason, reject.error),
            };
            let rejected = Rejected {
                topic: self.topic.clone(),
                origin: step.origin,
                reason,
                error,
                raw: step.raw,
            };
            let bad = Bad {
                first,
                key,
                error: format!("{}: {}", place(&rejected), rejected.error),
                untold: Some(rejected),
            };
            self.bad.insert(step.key, bad);
        }
        if kept.len() == rows.len() {
            return rows;
        }
        let mut gather = Gather::default();
        gather.push(rows);
        gather.rows(&kept)
    }

    /// Forgets the bad records that another record of their key came after.
    pub(super) fn forget_outdated(&mut self) {
        self.outdated.clear();
    }

    /// The bad records that were not told yet.
    pub(super) fn untold(&mut self) -> Vec<Rejected> {
        let mut untold = std::mem::take(&mut self.outdated);
        untold.extend(self.bad.values_mut().filter_map(|bad| bad.untold.take()));
        untold.sort_by_key(|bad| bad.origin);
        untold
    }

    /// What is wrong with the newest record of a key, if any is bad.
    pub(super) fn fault(&self) -> Option<&str> {
        self.bad.values().next().map(|bad| &*bad.error)
    }

    /// The keys whose newest records are bad.
    pub(super) fn bad_keys(&self) -> Vec<u128> {
        self.bad.values().filter_map(|bad| bad.key).collect()
    }

    /// The first bad record below the ends of the partitions, and what is wrong with the newest of
    /// its key.
    pub(super) fn first_bad(&self, ends: &[i64]) -> Option<&Rejected> {
        let is_below = |bad: &&Bad| bad.first.offset < ends[index(bad.first.partition)];
        let bad = self.bad.values().filter(is_below);
        let first = bad.min_by_key(|bad| bad.first)?;
        first.untold.as_ref()
    }
}

/// How messages name a record.
pub(super) fn place(record: &Rejected) -> String {
    let Origin { partition, offset } = record.origin;
    format!("{}[{partition}]@{offset}", record.topic)
}

/// The place of a partition in a list of all.
pub(super) fn index(partition: i32) -> usize {
    usize::try_from(partition).expect("partitions are counted from 0")
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::batch::Slot;
    use deltajoin_workers::schema::{Column, ColumnType, Schema};

    use super::*;
    use crate::config::KafkaTopic;

    fn changes() -> Changes {
        let columns = vec![
            Column::new("id", ColumnType::Int64),
            Column::new("name", ColumnType::String),
        ];
        Changes::new(&ReferenceOptions {
            topic: KafkaTopic {
                brokers: String::new(),
                topic: "places".to_owned(),
                properties: BTreeMap::default(),
            },
            schema: Schema::new(columns, vec![0]),
            record_bytes_max: 1000,
            until_end: false,
        })
    }

    fn push(changes: &mut Changes, offset: i64, key: &str, value: Option<&str>) {
        let origin = Origin {
            partition: 0,
            offset,
        };
        changes.push(Some(key.as_bytes()), value.map(str::as_bytes), origin);
    }

    #[test]
    fn a_tombstone_removes_and_a_bad_record_leaves_the_others_alone() {
        let mut changes = changes();
        push(
            &mut changes,
            0,
            r#"{"id":1}"#,
            Some(r#"{"id":1,"name":"a"}"#),
        );
        push(
            &mut changes,
            1,
            r#"{"id":2}"#,
            Some(r#"{"id":3,"name":"b"}"#),
        );
        push(&mut changes, 2, r#"{"id":4}"#, Some(r#"{"id":4}"#));
        push(&mut changes, 3, "x", Some(r#"{"id":5,"name":"c"}"#));
        push(&mut changes, 4, r#"{"id":1}"#, None);
        push(
            &mut changes,
            5,
            r#"{"id":6}"#,
            Some(r#"{"id":6,"name":"d"}"#),
        );
        let batch = changes.finish();
        assert_eq!(batch.diffs(), [1, -1, 1]);
        assert_eq!(batch.offsets(), [0, 4, 5]);
        assert_eq!(batch.slot(1, 1), Slot::Null);
        assert_eq!(
            changes.first_bad(&[i64::MAX]).map(|bad| bad.origin.offset),
            Some(1)
        );
        assert_eq!(changes.bad_keys().len(), 2, "one key is none");
        let bad = changes.untold();
        let errors: Vec<_> = bad.iter().map(|bad| &*bad.error).collect();
        assert_eq!(errors[0], "the key differs from the key columns");
        assert!(errors[1].contains("\"name\" is missing"), "{errors:?}");
        assert!(errors[2].starts_with("key: "), "{errors:?}");
    }

    #[test]
    fn what_comes_behind_the_initial_content_does_not_make_that_bad() {
        let mut changes = changes();
        push(&mut changes, 7, r#"{"id":1}"#, Some("junk"));
        push(&mut changes, 8, r#"{"id":1}"#, Some("more junk"));
        changes.finish();
        assert!(changes.first_bad(&[7]).is_none());
        assert_eq!(
            changes.first_bad(&[8]).map(|bad| bad.origin.offset),
            Some(8),
            "the newest is told"
        );
    }

    #[test]
    fn a_later_record_of_the_same_key_makes_good() {
        let mut changes = changes();
        push(&mut changes, 0, r#"{"id":1}"#, Some("junk"));
        push(&mut changes, 1, "x", Some("junk"));
        changes.finish();
        assert!(changes.first_bad(&[i64::MAX]).is_some());
        push(
            &mut changes,
            2,
            r#"{"id":1}"#,
            Some(r#"{"id":1,"name":"a"}"#),
        );
        push(&mut changes, 3, "x", None);
        assert!(
            changes
                .fault()
                .is_some_and(|fault| fault.starts_with("places[0]@"))
        );
        assert_eq!(changes.finish().len(), 1);
        assert!(changes.first_bad(&[i64::MAX]).is_none());
        assert_eq!(changes.fault(), None);
        // Whoever follows the topic is told of both all the same.
        assert_eq!(changes.untold().len(), 2);
        assert_eq!(changes.untold(), []);
    }
}
