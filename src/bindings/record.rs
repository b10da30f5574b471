//! The records of the log: one JSON object each, so that a person can read them.
//!
//! | record | object |
//! |---|---|
//! | marker | `{"version":1,"marker":ID,"started_ms":T,"holder":H,"settings":S,"producers":P}` |
//! | reference changes | `{"generation":ID,"epoch":E,"reference":[CHANGE,..]}` |
//! | binding | `{"generation":ID,"epoch":E,"ends":{"0":17},"skipped":[[3,5,40]],"clock":T}` |
//!
//! The marker says when and whose the generation is, which settings must last, and which
//! transactional ids it uses. A change is `[partition,offset,diff,{row}]`: origin, diff, and the
//! row as results have it. Changes of the reference table stand before the binding of their epoch,
//! in as many records as their size takes. What was skipped, because it was deleted before it was
//! read, is partition, first offset and the offset after the last; the clock is the expiry clock of
//! the epoch, in milliseconds since 1970. Both fields are left out if there is none. The version is
//! the marker's; records of its generation are of the same.
//!
//! # Invariants
//! * What is encoded decodes to the same values; a row has the form that results have.
//! * Decoding is strict: a field that is unknown, missing or double is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use deltajoin_workers::batch::{Batch, Origin};
use deltajoin_workers::bindings::{Binding, Skipped};
use deltajoin_workers::schema::Schema;

use crate::bindings::{Error, Fault};
use crate::codec::json::{Decoder, Encoder, shorten, write_timestamp};
use crate::codec::text::timestamp_in_range;

/// The version of the records that are written and read.
pub(super) const VERSION: u64 = 1;

/// What tells a generation from every other: 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkerId(u128);

impl MarkerId {
    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system has random bytes");
        Self(u128::from_le_bytes(bytes))
    }
}

impl fmt::Display for MarkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for MarkerId {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MarkerId {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let id = u128::from_str_radix(&text, 16).map(Self);
        // What is written in another way would be another text for the same number.
        let id = id.ok().filter(|id| id.to_string() == text);
        id.ok_or_else(|| D::Error::custom(format!("{text:?} is not an id of 32 hex digits")))
    }
}

/// A transactional id that a generation uses, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransactionalId {
    /// `bootstrap.servers` of the cluster.
    pub brokers: String,
    /// `transactional.id`.
    pub id: String,
}

/// The beginning of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Its id, which its bindings carry.
    pub id: MarkerId,
    /// When it was started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Whose it is, for people: process and host.
    pub holder: String,
    /// The settings that what is bound depends on, by name: they never change in a job's life.
    pub settings: BTreeMap<String, String>,
    /// Every transactional id that it will use.
    pub producers: Vec<TransactionalId>,
}

impl Marker {
    /// Reads it back.
    ///
    /// # Errors
    /// If it is no marker of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        match Record::decode(bytes)? {
            Record::Marker(marker) => Ok(marker),
            _ => Err(unreadable("it is no marker")),
        }
    }

    /// As a record.
    pub fn encode(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Written<'a> {
            version: u64,
            marker: MarkerId,
            started_ms: u64,
            holder: &'a str,
            settings: &'a BTreeMap<String, String>,
            producers: &'a [TransactionalId],
        }
        let written = Written {
            version: VERSION,
            marker: self.id,
            started_ms: self.started_ms,
            holder: &self.holder,
            settings: &self.settings,
            producers: &self.producers,
        };
        serde_json::to_vec(&written).expect("writing plain values to memory does not fail")
    }
}

/// A record that was read.
#[derive(Debug)]
pub enum Record<'a> {
    /// The beginning of a generation.
    Marker(Marker),
    /// Changes of the reference table.
    Reference {
        /// The marker of the generation that wrote it.
        generation: MarkerId,
        /// The epoch that they are of.
        epoch: u64,
        /// The rows.
        rows: Rows<'a>,
    },
    /// What an epoch is made of.
    Binding {
        /// The marker of the generation that wrote it.
        generation: MarkerId,
        /// The epoch.
        epoch: u64,
        /// As in `Binding`.
        ends: Vec<(i32, i64)>,
        /// As in `Binding`.
        skipped: Vec<Skipped>,
        /// As in `Binding`.
        clock_ms: Option<i64>,
    },
}

/// Rows of the reference table that are not decoded.
#[derive(Debug)]
pub struct Rows<'a>(Vec<Row<'a>>);

/// Partition, offset, diff and row.
type Row<'a> = (i32, i64, i8, &'a RawValue);

impl Rows<'_> {
    /// Decodes the rows by the reference table's schema.
    pub(super) fn decode(&self, decoder: &mut Decoder) -> Result<Batch, Fault> {
        for (index, (partition, offset, diff, row)) in self.0.iter().enumerate() {
            let origin = Origin {
                partition: *partition,
                offset: *offset,
            };
            if ![1, -1].contains(diff) {
                return Err(unreadable(&format!("row {index} has diff {diff}")));
            }
            let replayed = decoder.replay(row.get().as_bytes(), origin, *diff);
            replayed
                .map_err(|reject| Fault::Unreadable(format!("row {index}: {}", reject.error)))?;
        }
        Ok(decoder.finish())
    }
}

/// Every field of every record.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    version: Option<u64>,
    marker: Option<MarkerId>,
    started_ms: Option<u64>,
    holder: Option<String>,
    settings: Option<BTreeMap<String, String>>,
    producers: Option<Vec<TransactionalId>>,
    generation: Option<MarkerId>,
    epoch: Option<u64>,
    #[serde(borrow)]
    reference: Option<Vec<Row<'a>>>,
    ends: Option<Ends>,
    skipped: Option<Vec<(i32, i64, i64)>>,
    clock: Option<i64>,
}

impl<'a> Record<'a> {
    /// Reads a record.
    ///
    /// # Errors
    /// If it is no record of this version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let fields: Fields<'a> = serde_json::from_slice(bytes).map_err(|error| {
            // Another version may have other fields.
            let version = serde_json::from_slice(bytes).map(|Version { version }| version);
            match version {
                Ok(Some(other)) if other != VERSION => Fault::Version(other),
                _ => unreadable(&error.to_string()),
            }
        })?;
        match fields {
            Fields {
                version: Some(other),
                ..
            } if other != VERSION => Err(Fault::Version(other)),
            Fields {
                version: Some(_),
                marker: Some(id),
                started_ms: Some(started_ms),
                holder: Some(holder),
                settings: Some(settings),
                producers: Some(producers),
                generation: None,
                epoch: None,
                reference: None,
                ends: None,
                skipped: None,
                clock: None,
            } => Ok(Self::Marker(Marker {
                id,
                started_ms,
                holder,
                settings,
                producers,
            })),
            Fields {
                version: None,
                marker: None,
                started_ms: None,
                holder: None,
                settings: None,
                producers: None,
                generation: Some(generation),
                epoch: Some(epoch),
                reference,
                ends,
                skipped,
                clock,
            } => match (reference, ends, skipped) {
                (Some(rows), None, None) if clock.is_none() => Ok(Self::Reference {
                    generation,
                    epoch,
                    rows: Rows(rows),
                }),
                (None, Some(Ends(ends)), skipped) => Ok(Self::Binding {
                    generation,
                    epoch,
                    ends,
                    skipped: skipped_of(skipped.unwrap_or_default())?,
                    clock_ms: clock,
                }),
                _ => Err(unreadable("one of \"reference\" and \"ends\" is needed")),
            },
            _ => Err(unreadable("it has not the fields of any kind of record")),
        }
    }
}

fn skipped_of(written: Vec<(i32, i64, i64)>) -> Result<Vec<Skipped>, Fault> {
    let skipped = written.into_iter().map(|(partition, from, to)| {
        let skipped = Skipped {
            partition,
            from,
            to,
        };
        let right = partition >= 0 && 0 <= from && from < to;
        right
            .then_some(skipped)
            .ok_or_else(|| unreadable(&format!("partition {partition} skips from {from} to {to}")))
    });
    skipped.collect()
}

fn unreadable(reason: &str) -> Fault {
    Fault::Unreadable(shorten(reason))
}

/// A record's version, whatever else it has.
#[derive(Deserialize)]
struct Version {
    version: Option<u64>,
}

/// Ends by partition, in the order in which they stand there.
struct Ends(Vec<(i32, i64)>);

impl<'de> Deserialize<'de> for Ends {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_map(EndsVisitor)
    }
}

struct EndsVisitor;

impl<'de> Visitor<'de> for EndsVisitor {
    type Value = Ends;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of offsets by partition")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Ends, M::Error> {
        let mut ends: Vec<(i32, i64)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((partition, offset)) = map.next_entry()? {
            if partition < 0 || offset < 0 || !seen.insert(partition) {
                let end = format!("bad end {offset} of partition {partition}");
                return Err(M::Error::custom(end));
            }
            ends.push((partition, offset));
        }
        Ok(Ends(ends))
    }
}

/// A generation as its marker tells of it, in this version of the records or another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Announced {
    /// The marker's id.
    pub marker: String,
    /// When the generation was started, in milliseconds since 1970.
    started_ms: Option<u64>,
    /// Whose it is.
    holder: Option<String>,
}

/// Reads a record only to see whether it is a marker: that much holds for every version.
pub fn announced(bytes: &[u8]) -> Option<Announced> {
    serde_json::from_slice(bytes).ok()
}

impl fmt::Display for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Some(holder) => f.write_str(holder)?,
            None => write!(f, "generation {}", self.marker)?,
        }
        let started_ms = self
            .started_ms
            .and_then(|started| i64::try_from(started).ok());
        let micros = started_ms.and_then(|started| started.checked_mul(1000));
        if let Some(micros) = micros.filter(|micros| timestamp_in_range(*micros)) {
            let mut time = Vec::new();
            write_timestamp(&mut time, micros);
            let time = String::from_utf8_lossy(&time);
            write!(f, ", started at {}", time.trim_matches('"'))?;
        }
        Ok(())
    }
}

/// Makes records of the bindings of one generation.
#[derive(Debug)]
pub(super) struct BindingEncoder {
    generation: MarkerId,
    rows: Encoder,
    record_bytes_max: usize,
}

impl BindingEncoder {
    /// An encoder of bindings with changes of a reference table of this schema, in records of at
    /// most `record_bytes_max` bytes; a row that alone takes more has a record for itself.
    pub(super) fn new(generation: MarkerId, schema: &Schema, record_bytes_max: usize) -> Self {
        Self {
            generation,
            rows: Encoder::new(schema),
            record_bytes_max,
        }
    }

    /// Gives the records of a binding to `take`, in order.
    ///
    /// # Errors
    /// What `take` returns.
    pub(super) fn encode(
        &self,
        binding: &Binding,
        mut take: impl FnMut(Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut record = Vec::new();
        let mut row_text = Vec::new();
        for batch in &binding.reference {
            let rows = self.rows.rows(batch);
            for row in 0..batch.len() {
                row_text.clear();
                let Origin { partition, offset } = batch.origin(row);
                let diff = batch.diffs()[row];
                write!(row_text, "[{partition},{offset},{diff},").expect("memory takes all");
                rows.value(row, &mut row_text);
                row_text.push(b']');
                // Two bytes end the record.
                let bytes = record.len() + 1 + row_text.len() + 2;
                if !record.is_empty() && bytes > self.record_bytes_max {
                    record.extend_from_slice(b"]}");
                    take(std::mem::take(&mut record))?;
                }
                if record.is_empty() {
                    self.begin(binding.epoch, &mut record);
                    record.extend_from_slice(b"\"reference\":[");
                } else {
                    record.push(b',');
                }
                record.extend_from_slice(&row_text);
            }
        }
        if !record.is_empty() {
            record.extend_from_slice(b"]}");
            take(std::mem::take(&mut record))?;
        }
        self.begin(binding.epoch, &mut record);
        record.extend_from_slice(b"\"ends\":{");
        for (index, (partition, offset)) in binding.ends.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(record, "{comma}\"{partition}\":{offset}").expect("memory takes all");
        }
        record.push(b'}');
        for (index, skipped) in binding.skipped.iter().enumerate() {
            let before = if index == 0 { ",\"skipped\":[" } else { "," };
            let Skipped {
                partition,
                from,
                to,
            } = skipped;
            write!(record, "{before}[{partition},{from},{to}]").expect("memory takes all");
        }
        if !binding.skipped.is_empty() {
            record.push(b']');
        }
        if let Some(clock_ms) = binding.clock_ms {
            write!(record, ",\"clock\":{clock_ms}").expect("memory takes all");
        }
        record.push(b'}');
        take(record)
    }

    fn begin(&self, epoch: u64, record: &mut Vec<u8>) {
        let generation = self.generation;
        write!(
            record,
            "{{\"generation\":\"{generation}\",\"epoch\":{epoch},"
        )
        .expect("memory takes all");
    }
}

#[cfg(test)]
mod tests;
