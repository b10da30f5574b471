//! Writes the bytes of each record: the JSON of an event, or something that is not.
//!
//! Apart from the plan, because this is what costs time: it feeds benchmarks, so a record is made
//! of copied bytes and numbers in a buffer that the next record uses again.
//!
//! # Invariants
//! * A record that is not bad is an object of the five columns in their order, without spaces.
//! * A retry that is not changed has the value of its event, byte for byte.
//! * No value holds a line feed.

use crate::generate::names;
use crate::generate::plan::{Event, Fault, Kind, Plan};
use crate::generate::{Error, Options};

/// A record, until the next one is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its index in the stream, from 0.
    pub position: u64,
    /// The partition that it goes to.
    pub partition: i32,
    /// The record's key: the number of the detection, in decimal.
    pub key: &'a [u8],
    /// The record's value: a JSON object, unless the record is bad.
    pub value: &'a [u8],
    /// What it is.
    pub kind: Kind,
}

/// Makes the stream.
///
/// ```
/// use deltajoin::generate::{Generator, Options};
///
/// let mut generator = Generator::new(Options { count: 3, ..Options::default() })?;
/// while let Some(record) = generator.next_record() {
///     assert!(record.value.starts_with(b"{\"geographical_location_oid\":"));
/// }
/// assert_eq!(generator.position(), 3);
/// # Ok::<(), deltajoin::generate::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Generator {
    options: Options,
    plan: Plan,
    items: Vec<String>,
    position: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Generator {
    /// Begins the stream.
    ///
    /// # Errors
    /// If an option is out of its range.
    pub fn new(options: Options) -> Result<Self, Error> {
        options.check()?;
        Ok(Self {
            plan: Plan::new(&options),
            items: names::items(),
            options,
            position: 0,
            key: Vec::new(),
            value: Vec::new(),
        })
    }

    /// What the stream was asked to be.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The position of the next record.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on at this position, before or behind.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// The next record, or `None` after the last one.
    pub fn next_record(&mut self) -> Option<Record<'_>> {
        if self.position >= self.options.count {
            return None;
        }
        let position = self.position;
        self.position += 1;
        let kind = self.plan.kind(position);
        let (event, fault) = match kind {
            Kind::Event => (self.plan.event(position), None),
            Kind::Retry { of, changed: false } => (self.plan.event(of), None),
            Kind::Retry { of, changed: true } => (self.plan.changed_event(position, of), None),
            Kind::Bad(fault) => (self.plan.event(position), Some(fault)),
        };
        self.key.clear();
        push_number(&mut self.key, event.detection);
        self.value.clear();
        let item = &self.items[event.item];
        write_value(&mut self.value, &event, item, self.options.padding, fault);
        Some(Record {
            position,
            partition: self.plan.partition(position),
            key: &self.key,
            value: &self.value,
            kind,
        })
    }
}

fn write_value(
    value: &mut Vec<u8>,
    event: &Event,
    item: &str,
    padding: usize,
    fault: Option<Fault>,
) {
    if fault == Some(Fault::NotJson) {
        value.extend_from_slice(b"camera ");
        push_number(value, event.camera);
        value.extend_from_slice(b" restarted: no signal since frame ");
        push_number(value, event.detection);
        return;
    }
    value.extend_from_slice(b"{\"geographical_location_oid\":");
    match fault {
        Some(Fault::WrongType) => value.extend_from_slice(b"\"somewhere\""),
        _ => push_number(value, event.location),
    }
    value.extend_from_slice(b",\"video_camera_oid\":");
    push_number(value, event.camera);
    match fault {
        Some(Fault::MissingKey) => {}
        Some(Fault::NullKey) => value.extend_from_slice(b",\"detection_oid\":null"),
        _ => {
            value.extend_from_slice(b",\"detection_oid\":");
            push_number(value, event.detection);
        }
    }
    value.extend_from_slice(b",\"item_name\":\"");
    if fault == Some(Fault::BrokenUtf8) {
        // A first byte without its second, and one that UTF-8 never has.
        value.extend_from_slice(b"\xc3 \xff ");
    }
    value.extend_from_slice(item.as_bytes());
    value.resize(value.len() + padding, b'.');
    value.extend_from_slice(b"\",\"timestamp_detected\":");
    push_number(value, event.detected_ms);
    value.push(b'}');
    if fault == Some(Fault::Truncated) {
        value.truncate(value.len() / 2);
    }
}

fn push_number(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn generator(options: Options) -> Generator {
        Generator::new(options).unwrap()
    }

    #[test]
    fn equal_options_give_equal_bytes_and_another_seed_others() {
        let options = Options {
            count: 20_000,
            bad_share: 0.1,
            ..Options::default()
        };
        let mut first = generator(options.clone());
        let mut second = generator(options.clone());
        let mut other = generator(Options { seed: 2, ..options });
        let mut differing = 0;
        while let Some(record) = first.next_record() {
            assert_eq!(Some(record), second.next_record());
            differing += usize::from(Some(record) != other.next_record());
        }
        assert_eq!(second.next_record(), None);
        assert!(differing > 19_900, "only {differing} records differ");
    }

    #[test]
    fn the_first_records_are_what_they_were_in_every_release() {
        let options = Options {
            count: 3,
            rate: 1,
            ..Options::default()
        };
        let mut generator = generator(options);
        let mut text = String::new();
        while let Some(record) = generator.next_record() {
            let value = std::str::from_utf8(record.value)
                .unwrap()
                .replace(",\"", ",\n  \"");
            text += &format!("{} {:?} {value}\n", record.partition, record.kind);
        }
        expect_test::expect![[r#"
            2 Event {"geographical_location_oid":4384,
              "video_camera_oid":43849,
              "detection_oid":1000000000000,
              "item_name":"group of people, yellow, moving south in lane 2",
              "timestamp_detected":1767225600000}
            2 Event {"geographical_location_oid":7305,
              "video_camera_oid":73053,
              "detection_oid":1000000000001,
              "item_name":"group of people, green, moving south in lane 2",
              "timestamp_detected":1767225601000}
            1 Event {"geographical_location_oid":1111,
              "video_camera_oid":11116,
              "detection_oid":1000000000002,
              "item_name":"motorcycle, white, moving south in lane 2",
              "timestamp_detected":1767225602000}
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn an_event_takes_about_180_bytes() {
        let mut generator = generator(Options {
            count: 100_000,
            ..Options::default()
        });
        let mut bytes = 0;
        while let Some(record) = generator.next_record() {
            bytes += record.value.len();
        }
        let mean = bytes as f64 / 1e5;
        assert!((170.0..190.0).contains(&mean), "{mean} bytes");
    }

    #[test]
    fn padding_makes_records_of_any_size() {
        let mut generator = generator(Options {
            padding: 1 << 20,
            ..Options::default()
        });
        assert!(generator.next_record().unwrap().value.len() > 1 << 20);
    }

    #[test]
    fn an_unchanged_retry_has_the_bytes_of_its_event() {
        let mut generator = generator(Options {
            count: 100_000,
            ..Options::default()
        });
        let mut published = HashMap::new();
        let mut retries = 0;
        while let Some(record) = generator.next_record() {
            match record.kind {
                Kind::Event => {
                    published.insert(record.position, record.value.to_vec());
                }
                Kind::Retry { of, .. } => {
                    assert_eq!(published[&of], record.value);
                    retries += 1;
                }
                Kind::Bad(_) => unreachable!("none were asked for"),
            }
        }
        assert!(retries > 9_000);
    }

    #[test]
    fn seeking_makes_the_same_record_again() {
        let mut generator = generator(Options::default());
        generator.seek(777);
        let value = generator.next_record().unwrap().value.to_vec();
        assert_eq!(generator.position(), 778);
        generator.seek(777);
        assert_eq!(generator.next_record().unwrap().value, value);
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let options = Options {
            hot_share: 0.9,
            orphan_share: 0.2,
            ..Options::default()
        };
        let error = Generator::new(options).unwrap_err();
        assert_eq!(
            error.to_string(),
            "option \"hot_share + orphan_share\" is 1.1, not from 0 to 1"
        );
    }
}
