//! Recomputes what a correct job makes of the stream, and compares a job's rows with it.
//!
//! It is apart from the plan, and knows nothing of it: it decodes the published bytes again and
//! fills hash maps, as simply as can be, so that a mistake of the job or of the generator does
//! not hide itself. It holds every event in memory: for tests and the audits of benchmarks.
//!
//! # Invariants
//! * Where duplicates differ, each of their payloads is allowed: which one wins depends on epochs
//!   that only the job knows.
//! * An audit reports every missing, repeated, and wrong row; `examples` shows the first ones.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use crate::generate::{Error, Generator, Options, reference_csv};

/// A result row, or an event when the name of its location is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Where.
    pub geographical_location_oid: i64,
    /// By which camera.
    pub video_camera_oid: i64,
    /// The event's key.
    pub detection_oid: i64,
    /// What was seen.
    pub item_name: String,
    /// When, in milliseconds since 1970.
    pub timestamp_detected: i64,
    /// The column that comes from the reference table.
    pub geographical_location: Option<String>,
}

/// What a correct job counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpectedCounts {
    /// Records of the stream.
    pub records: u64,
    /// Records that can be decoded.
    pub events: u64,
    /// Different keys of these.
    pub distinct: u64,
    /// Events beyond the first of each key.
    pub duplicates: u64,
    /// Distinct events whose location has no name.
    pub unmatched: u64,
    /// Records that cannot be decoded.
    pub dead_letters: u64,
}

/// What a correct job makes of a stream.
#[derive(Clone, Debug)]
pub struct Expected {
    counts: ExpectedCounts,
    /// For each key, the different events that were published with it.
    events: HashMap<i64, Vec<Row>>,
    /// Names of locations.
    reference: HashMap<i64, String>,
    /// Whether an event without a name is a result.
    unmatched_kept: bool,
}

impl Expected {
    /// Generates the stream and recomputes its results.
    ///
    /// # Errors
    /// If an option is out of its range.
    pub fn of(options: &Options) -> Result<Self, Error> {
        let mut counts = ExpectedCounts::default();
        let mut events: HashMap<i64, Vec<Row>> = HashMap::new();
        let reference = read_reference(&reference_csv(options));
        let mut generator = Generator::new(options.clone())?;
        while let Some(record) = generator.next_record() {
            counts.records += 1;
            let Ok(event) = serde_json::from_slice::<Row>(record.value) else {
                counts.dead_letters += 1;
                continue;
            };
            counts.events += 1;
            match events.entry(event.detection_oid) {
                Entry::Vacant(entry) => {
                    counts.distinct += 1;
                    if !reference.contains_key(&event.geographical_location_oid) {
                        counts.unmatched += 1;
                    }
                    entry.insert(vec![event]);
                }
                Entry::Occupied(mut entry) => {
                    counts.duplicates += 1;
                    if !entry.get().contains(&event) {
                        entry.get_mut().push(event);
                    }
                }
            }
        }
        Ok(Self {
            counts,
            events,
            reference,
            unmatched_kept: true,
        })
    }

    /// The same when events without a reference row are no results.
    pub fn without_unmatched(self) -> Self {
        Self {
            unmatched_kept: false,
            ..self
        }
    }

    /// What a correct job counts.
    pub fn counts(&self) -> ExpectedCounts {
        self.counts
    }

    /// How many rows a correct job writes.
    pub fn rows(&self) -> u64 {
        let counts = self.counts;
        counts.distinct
            - if self.unmatched_kept {
                0
            } else {
                counts.unmatched
            }
    }

    /// The rows of which one is right for this key; none if the key has no row.
    pub fn allowed(&self, detection_oid: i64) -> Vec<Row> {
        let events = self.events.get(&detection_oid).into_iter().flatten();
        let joined = events.map(|event| Row {
            geographical_location: self
                .reference
                .get(&event.geographical_location_oid)
                .cloned(),
            ..event.clone()
        });
        joined
            .filter(|row| self.unmatched_kept || row.geographical_location.is_some())
            .collect()
    }

    /// The keys of all rows that a correct job writes.
    pub fn keys(&self) -> impl Iterator<Item = i64> {
        self.events
            .keys()
            .copied()
            .filter(|&key| !self.allowed(key).is_empty())
    }

    /// Begins a comparison with a job's rows.
    pub fn audit(&self) -> Audit<'_> {
        Audit {
            expected: self,
            seen: HashSet::with_capacity(self.events.len()),
            differences: Differences::default(),
        }
    }
}

fn read_reference(csv: &str) -> HashMap<i64, String> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    reader
        .deserialize()
        .map(|row| row.expect("a number and a name"))
        .collect()
}

/// In what a job's rows differ from the expected ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Rows that were looked at.
    pub rows: u64,
    /// Expected rows that did not come.
    pub missing: u64,
    /// Rows that came although one with their key had come before.
    pub repeated: u64,
    /// Rows that cannot be decoded, have an unknown key, or a value that is not allowed.
    pub wrong: u64,
    /// What the first of them are, one a line.
    pub examples: Vec<String>,
}

impl Differences {
    /// Whether there is none.
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.repeated == 0 && self.wrong == 0
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        // Enough to see a pattern, few enough to read.
        if self.examples.len() < 10 {
            self.examples.push(text());
        }
    }
}

/// A comparison of a job's rows with the expected ones.
#[derive(Debug)]
pub struct Audit<'a> {
    expected: &'a Expected,
    seen: HashSet<i64>,
    differences: Differences,
}

impl Audit<'_> {
    /// Looks at the JSON of a row.
    pub fn row(&mut self, value: &[u8]) {
        self.differences.rows += 1;
        let row = match serde_json::from_slice::<Row>(value) {
            Ok(row) => row,
            Err(error) => {
                let text = || format!("wrong: {error}: {}", String::from_utf8_lossy(value));
                return self.wrong(text);
            }
        };
        let allowed = self.expected.allowed(row.detection_oid);
        if !allowed.contains(&row) {
            self.wrong(|| format!("wrong: {row:?}, allowed: {allowed:?}"));
        } else if !self.seen.insert(row.detection_oid) {
            self.differences.repeated += 1;
            self.differences.example(|| format!("repeated: {row:?}"));
        }
    }

    /// Counts what has not come.
    pub fn finish(mut self) -> Differences {
        self.differences.missing = self.expected.rows() - self.seen.len() as u64;
        if self.differences.missing > 0 {
            let missing = self
                .expected
                .keys()
                .filter(|key| !self.seen.contains(key))
                .take(10);
            for key in missing {
                self.differences
                    .example(|| format!("missing: the row of detection_oid {key}"));
            }
        }
        self.differences
    }

    fn wrong(&mut self, text: impl FnOnce() -> String) {
        self.differences.wrong += 1;
        self.differences.example(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Kind;

    fn options() -> Options {
        Options {
            count: 30_000,
            bad_share: 0.05,
            changed_retry_share: 0.3,
            retry_distance: 3_000,
            ..Options::default()
        }
    }

    #[test]
    fn counts_agree_with_what_the_generator_planned() {
        let expected = Expected::of(&options()).unwrap();
        let mut planned = ExpectedCounts::default();
        let mut generator = Generator::new(options()).unwrap();
        while let Some(record) = generator.next_record() {
            planned.records += 1;
            match record.kind {
                Kind::Event => planned.distinct += 1,
                Kind::Retry { .. } => planned.duplicates += 1,
                Kind::Bad(_) => planned.dead_letters += 1,
            }
        }
        planned.events = planned.distinct + planned.duplicates;
        planned.unmatched = expected.counts().unmatched;
        assert_eq!(expected.counts(), planned);
        assert!(
            (200..350).contains(&planned.unmatched),
            "{}",
            planned.unmatched
        );
        assert_eq!(expected.keys().count() as u64, planned.distinct);
        assert_eq!(expected.rows(), planned.distinct);
        let matched = expected.without_unmatched();
        assert_eq!(matched.rows(), planned.distinct - planned.unmatched);
        assert_eq!(matched.keys().count() as u64, matched.rows());
    }

    /// The rows as a job would write them: of each key the first event, joined by hand.
    fn naive_rows() -> Vec<serde_json::Value> {
        let reference = read_reference(&reference_csv(&options()));
        let mut generator = Generator::new(options()).unwrap();
        let mut rows = Vec::new();
        while let Some(record) = generator.next_record() {
            if record.kind == Kind::Event {
                let mut row: serde_json::Value = serde_json::from_slice(record.value).unwrap();
                let location = row["geographical_location_oid"].as_i64().unwrap();
                row["geographical_location"] = reference.get(&location).cloned().into();
                rows.push(row);
            }
        }
        rows
    }

    fn audit(rows: &[serde_json::Value]) -> Differences {
        let expected = Expected::of(&options()).unwrap();
        let mut audit = expected.audit();
        for row in rows {
            audit.row(row.to_string().as_bytes());
        }
        audit.finish()
    }

    #[test]
    fn the_audit_of_right_rows_is_clean() {
        let rows = naive_rows();
        let differences = audit(&rows);
        assert!(differences.is_clean(), "{differences:?}");
        assert_eq!(differences.rows, rows.len() as u64);
    }

    #[test]
    fn the_audit_allows_every_payload_of_a_key_and_no_other() {
        let expected = Expected::of(&options()).unwrap();
        let key = expected
            .keys()
            .find(|&key| expected.allowed(key).len() > 1)
            .unwrap();
        let mut rows = naive_rows();
        let row = rows
            .iter_mut()
            .find(|row| row["detection_oid"] == key)
            .unwrap();
        row["item_name"] = expected.allowed(key)[1].item_name.clone().into();
        assert!(audit(&rows).is_clean());
        let row = rows
            .iter_mut()
            .find(|row| row["detection_oid"] == key)
            .unwrap();
        row["item_name"] = "something else".into();
        assert_eq!(audit(&rows).wrong, 1);
    }

    #[test]
    fn the_audit_reports_a_row_deleted_repeated_changed_or_made_up() {
        let mut rows = naive_rows();
        rows.remove(70);
        rows.push(rows[5].clone());
        rows[100]["geographical_location"] = "elsewhere".into();
        rows[200]["detection_oid"] = 5.into();
        rows.push("no row".into());
        let differences = audit(&rows);
        assert_eq!(
            (differences.missing, differences.repeated, differences.wrong),
            (3, 1, 3),
            "{differences:?}"
        );
        assert_eq!(differences.examples.len(), 7);
    }
}
