//! What an audit has found, for people and programs, and the texts of the rows that it shows.
//!
//! It is apart from judging because the texts are read again, and only those that are shown.
//!
//! # Invariants
//! * Reading again changes no count: a record that is gone meanwhile is shown without its text.

use std::collections::HashMap;

use deltajoin_workers::batch::Origin;
use serde::Serialize;

use crate::audit::expected::Join;
use crate::audit::finding::{Finding, Found, Kind, Why};
use crate::audit::output::fault;
use crate::audit::source::Source;
use crate::config::Envelope;
use crate::failure::Failure;

/// What an audit has found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether every output is as it should be.
    pub clean: bool,
    /// How often everything was read.
    pub passes: usize,
    /// The epochs that were judged; none if the job has no binding log, or nothing in it.
    pub epochs: Option<EpochRange>,
    /// What was counted of the events, of these epochs.
    pub events: EventCounts,
    /// Rows of the reference table.
    pub reference_rows: u64,
    /// What was found in the output of each sink.
    pub sinks: Vec<SinkReport>,
}

/// Epochs that were judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EpochRange {
    /// The first with records.
    pub first: u64,
    /// The last with records.
    pub last: u64,
}

/// What was counted of the events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventCounts {
    /// Where they were read.
    pub source: String,
    /// Records.
    pub records: u64,
    /// Records that are no events.
    pub undecodable: u64,
    /// Different keys.
    pub keys: u64,
    /// Keys of which any of several rows is right.
    pub undecided: u64,
    /// Keys that must have a row.
    pub rows: u64,
}

/// What was found in the output of one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SinkReport {
    /// The sink.
    pub name: String,
    /// Where it writes.
    pub output: String,
    /// Records.
    pub records: u64,
    /// Those of them that are tombstones.
    pub tombstones: u64,
    /// Keys whose row is right.
    pub right: u64,
    /// Keys that should have a row, and have none.
    pub missing: u64,
    /// Rows for keys that had their row already.
    pub doubled: u64,
    /// Repeats that were allowed.
    pub repeats: u64,
    /// Rows that are not right.
    pub wrong: u64,
    /// Rows for keys that should have none.
    pub unexpected: u64,
    /// The first of each kind.
    pub findings: Vec<Shown>,
}

impl SinkReport {
    /// Whether the output is as it should be.
    pub fn is_clean(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.count(*kind) == 0)
    }

    /// How many findings there are of a kind.
    pub fn count(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Missing => self.missing,
            Kind::Doubled => self.doubled,
            Kind::Wrong => self.wrong,
            Kind::Unexpected => self.unexpected,
        }
    }
}

/// A row that is not as it should be, with its places and texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// In what way.
    pub kind: Kind,
    /// Where the row is, unless it is missing.
    pub place: Option<String>,
    /// Where the event of its key is, if there is one.
    pub event: Option<String>,
    /// For a doubled row the one before it; for a missing one the tombstone that removed it.
    pub before: Option<String>,
    /// The row that is there.
    pub row: Option<String>,
    /// The row that should be there.
    pub right: Option<String>,
    /// What else is known.
    pub note: Option<String>,
}

/// Reads the first findings again and puts them into words.
pub(super) fn show(
    found: &Found,
    join: &Join,
    events: &Source,
    (output, envelope): (&Source, Envelope),
) -> Result<Vec<Shown>, Failure> {
    let all = || {
        Kind::ALL
            .into_iter()
            .flat_map(|kind| found.first(kind).map(move |f| (kind, f)))
    };
    let mut wanted: Vec<Origin> = all().filter_map(|(_, finding)| finding.event).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut epochs: Vec<(Origin, u64)> = all()
        .filter_map(|(_, finding)| Some((finding.event?, finding.epoch)))
        .collect();
    epochs.sort_unstable();
    epochs.dedup();
    let mut right = HashMap::new();
    events.get(&wanted, |record| {
        let own = epochs.iter().filter(|(event, _)| *event == record.origin);
        right.extend(own.map(|place| (*place, join.text(record, place.1))));
    })?;
    let rows = all().filter(|(kind, _)| *kind != Kind::Missing);
    let mut wanted: Vec<Origin> = rows.map(|(_, finding)| finding.place).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut rows = HashMap::new();
    output.get(&wanted, |record| {
        let text = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
        rows.insert(
            record.origin,
            (text, fault(join, (output.is_keyed(), envelope), record)),
        );
    })?;
    let shown = all().map(|(kind, finding)| {
        let is_there = kind != Kind::Missing;
        let (row, fault) = rows.get(&finding.place).cloned().unzip();
        let right = finding
            .event
            .and_then(|event| right.get(&(event, finding.epoch))?.clone());
        Shown {
            kind,
            place: is_there.then(|| output.place(finding.place)),
            event: finding.event.map(|event| events.place(event)),
            before: finding.before.map(|before| output.place(before)),
            row: row.filter(|_| is_there),
            right: right.filter(|_| matches!(kind, Kind::Missing | Kind::Wrong)),
            note: note(kind, finding, fault.flatten()),
        }
    });
    Ok(shown.collect())
}

/// What is to be said about a finding beside its rows.
fn note(kind: Kind, finding: &Finding, fault: Option<String>) -> Option<String> {
    let told = match kind {
        Kind::Wrong if fault.is_some() => return fault,
        Kind::Missing | Kind::Wrong if finding.why == Why::Undecided => {
            "events of its key differ: one of several rows would be right"
        }
        Kind::Missing if finding.why == Why::Removal => {
            "its reference row was removed: a record that removes the row is missing"
        }
        Kind::Wrong if finding.why == Why::Order => "a later record of its key stands before it",
        Kind::Wrong if finding.why == Why::Stale => {
            "it is the last of its key, and should have been replaced"
        }
        Kind::Unexpected if finding.event.is_some() => "its event has no reference row",
        Kind::Unexpected => "no event has its key",
        _ => return None,
    };
    Some(told.to_owned())
}
