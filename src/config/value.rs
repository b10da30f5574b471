//! Values by the kind of their setting: from what was written to what is meant.
//!
//! It is apart from `walk`, which finds the setting that a value belongs to, and from the checks
//! that compare settings with one another: here a value is judged alone.
//!
//! # Invariants
//! * A value that is `None` has been reported.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::DateTime;
use deltajoin_workers::schema::{Column, ColumnType};

use crate::config::fault::{Faults, did_you_mean};
use crate::config::model::{Start, TimeUnit};
use crate::config::properties;
use crate::config::quantity;
use crate::config::settings::{Kind, Setting, Table, plain, quoted_list};
use crate::config::tree::{Entry, Node, Origin, Value};

/// Something that a fault may have to point at.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    /// What was written.
    pub(super) value: T,
    /// Where it was written.
    pub(super) origin: Origin,
}

/// What a value means.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// Text of any kind.
    Text(String),
    /// True or false.
    Flag,
    /// A whole number.
    Whole(i128),
    /// A duration.
    Duration(Duration),
    /// A number of bytes.
    Size(usize),
    /// Where reading starts.
    Start(Start),
    /// The column of the event time, and its unit.
    Time(Located<String>, Option<TimeUnit>),
    /// A list of names or addresses.
    Names(Vec<Located<String>>),
    /// Columns.
    Columns(Vec<Located<Column>>),
    /// Pairs of columns.
    Pairs(Vec<(Located<String>, Located<String>)>),
    /// Properties for librdkafka.
    Properties(BTreeMap<String, String>),
}

/// Reads the value of `setting`.
pub(super) fn read(
    table: &Table,
    setting: &Setting,
    node: &Node,
    faults: &mut Faults,
) -> Option<Meaning> {
    let mut reader = Reader {
        table,
        setting,
        node,
        faults,
    };
    reader.read()
}

struct Reader<'a> {
    table: &'a Table,
    setting: &'a Setting,
    node: &'a Node,
    faults: &'a mut Faults,
}

impl Reader<'_> {
    fn read(&mut self) -> Option<Meaning> {
        match (self.setting.kind, &self.node.value) {
            (Kind::OptionalText, Value::Text(text)) => Some(Meaning::Text(text.clone())),
            (Kind::Start, Value::Text(text) | Value::Time(text)) => self.start(text),
            (_, Value::Text(text)) => self.text(text),
            (Kind::Flag, Value::Flag(_)) => Some(Meaning::Flag),
            (Kind::Whole(least, most), Value::Whole(number)) => {
                if (least..=most).contains(number) {
                    return Some(Meaning::Whole(*number));
                }
                self.wrong()
            }
            // A plain number of bytes needs no quotes.
            (Kind::Size, Value::Whole(number)) => self.text(&number.to_string()),
            (Kind::Key, Value::List(nodes)) if nodes.is_empty() => self.refuse("is empty"),
            (Kind::Key | Kind::Addresses, Value::List(nodes)) => self.names(nodes),
            (Kind::Columns | Kind::Pairs, Value::Table(entries)) if entries.is_empty() => {
                self.refuse("is empty")
            }
            (Kind::Columns, Value::Table(entries)) => self.columns(entries),
            (Kind::Pairs, Value::Table(entries)) => self.pairs(entries),
            (Kind::Time, Value::Table(entries)) => self.time(entries),
            (Kind::Properties, Value::Table(_)) => {
                properties::read(self.table, self.node, self.faults).map(Meaning::Properties)
            }
            _ => self.wrong(),
        }
    }

    /// `"tick" in [limits]`.
    fn subject(&self) -> String {
        format!("\"{}\" {}", self.setting.name, self.table.phrase())
    }

    /// Reports that the value is not of the kind that is wanted.
    fn wrong<T>(&mut self) -> Option<T> {
        let what = self.node.value.describe();
        self.wrong_at(&self.node.origin, &format!("It is {what}."))
    }

    /// Reports that something in the value is not of the kind that is wanted.
    fn wrong_inside<T>(&mut self, node: &Node) -> Option<T> {
        let what = node.value.describe();
        self.wrong_at(&node.origin, &format!("There is {what} in it."))
    }

    fn wrong_at<T>(&mut self, place: &Origin, detail: &str) -> Option<T> {
        let message = format!("{} must be {}", self.subject(), self.setting.kind.noun());
        self.faults
            .add(place, message)
            .detail(detail)
            .maybe_hint(self.setting.kind.example());
        None
    }

    /// Reports something else about the value.
    fn refuse<T>(&mut self, what: &str) -> Option<T> {
        let message = format!("{} {what}", self.subject());
        self.faults
            .add(&self.node.origin, message)
            .maybe_hint(self.setting.kind.example());
        None
    }

    fn text(&mut self, text: &str) -> Option<Meaning> {
        match self.setting.kind {
            Kind::Text | Kind::Job | Kind::Topic if text.is_empty() => {
                let message = format!("{} is empty", self.subject());
                self.faults
                    .add(&self.node.origin, message)
                    .detail(plain(self.setting.doc));
                None
            }
            Kind::Job if !is_name(text, 100) => self.refuse_name(text, 100),
            Kind::Topic if !is_name(text, 249) || text == "." || text == ".." => {
                self.refuse_name(text, 249)
            }
            Kind::Text | Kind::Job | Kind::Topic => Some(Meaning::Text(text.to_owned())),
            Kind::OneOf(words) if words.contains(&text) => Some(Meaning::Text(text.to_owned())),
            Kind::OneOf(words) => {
                let message = format!("unknown value \"{text}\" of {}", self.subject());
                self.faults
                    .add(&self.node.origin, message)
                    .detail(known_values(words))
                    .maybe_hint(did_you_mean(text, words.iter().copied()));
                None
            }
            Kind::Duration => match quantity::duration(text) {
                Ok(duration) => Some(Meaning::Duration(duration)),
                Err(error) => self.refuse_quantity(text, &error),
            },
            Kind::Size => match quantity::size(text) {
                Ok(bytes) => Some(Meaning::Size(bytes)),
                Err(error) => self.refuse_quantity(text, &error),
            },
            _ => self.wrong(),
        }
    }

    fn refuse_name<T>(&mut self, text: &str, most: usize) -> Option<T> {
        let noun = self.setting.kind.noun();
        let message = format!("{} is not {noun}: \"{text}\"", self.subject());
        self.faults.add(&self.node.origin, message).detail(format!(
            "A name has 1 to {most} letters (a to z, A to Z), digits, \".\", \"_\" and \"-\"."
        ));
        None
    }

    fn refuse_quantity<T>(&mut self, text: &str, error: &quantity::Error) -> Option<T> {
        let noun = self.setting.kind.noun();
        let message = format!("{} is not {noun}: \"{text}\": {error}", self.subject());
        self.faults
            .add(&self.node.origin, message)
            .maybe_hint(self.setting.kind.example());
        None
    }

    fn start(&mut self, text: &str) -> Option<Meaning> {
        let start = match text {
            "earliest" => Start::Earliest,
            "latest" => Start::Latest,
            _ => match DateTime::parse_from_rfc3339(text) {
                // Kafka takes negative times for something else.
                Ok(time) if time.timestamp_millis() >= 0 => {
                    Start::Timestamp(time.timestamp_millis())
                }
                Ok(_) => return self.refuse("is before 1970"),
                Err(_) => {
                    let noun = self.setting.kind.noun();
                    return self.refuse(&format!("is not {noun}: \"{text}\""));
                }
            },
        };
        Some(Meaning::Start(start))
    }

    fn names(&mut self, nodes: &[Node]) -> Option<Meaning> {
        let mut names: Vec<Located<String>> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Some(text) = node.text().filter(|text| !text.is_empty()) else {
                return self.wrong_inside(node);
            };
            if names.iter().any(|name| name.value == text) {
                let message = format!("{} names \"{text}\" twice", self.subject());
                self.faults.add(&node.origin, message).hint("Remove one.");
                return None;
            }
            names.push(Located {
                value: text.to_owned(),
                origin: node.origin.clone(),
            });
        }
        Some(Meaning::Names(names))
    }

    fn columns(&mut self, entries: &[Entry]) -> Option<Meaning> {
        let mut columns = Vec::with_capacity(entries.len());
        let mut all_known = true;
        for entry in entries {
            let Some(column) = self.column(entry) else {
                all_known = false;
                continue;
            };
            columns.push(Located {
                value: column,
                origin: entry.origin.clone(),
            });
        }
        all_known.then_some(Meaning::Columns(columns))
    }

    fn column(&mut self, entry: &Entry) -> Option<Column> {
        const KNOWN: &str = "Known types are \"int64\", \"float64\", \"string\", \"bool\", \
            \"timestamp\" and \"decimal(p,s)\" with p from 1 to 38 and s from 0 to p; a \"?\" \
            behind the type makes the column nullable.";
        let subject = format!("column \"{}\" {}", entry.name, self.table.phrase());
        if entry.name.is_empty() {
            let message = format!("a column {} has no name", self.table.phrase());
            self.faults.add(&entry.origin, message);
            return None;
        }
        let Some(text) = entry.node.text() else {
            self.faults
                .add(
                    &entry.node.origin,
                    format!("the type of {subject} must be text"),
                )
                .detail(format!("It is {}.", entry.node.value.describe()))
                .maybe_hint(Kind::Columns.example());
            return None;
        };
        let (type_name, nullable) = match text.strip_suffix('?') {
            Some(type_name) => (type_name, true),
            None => (text, false),
        };
        let Some(column_type) = ColumnType::parse(type_name) else {
            let simple = ["int64", "float64", "string", "bool", "timestamp"];
            self.faults
                .add(
                    &entry.node.origin,
                    format!("unknown type \"{text}\" of {subject}"),
                )
                .detail(KNOWN)
                .maybe_hint(did_you_mean(type_name, simple.into_iter()));
            return None;
        };
        let column = Column::new(&entry.name, column_type);
        Some(if nullable { column.nullable() } else { column })
    }

    fn pairs(&mut self, entries: &[Entry]) -> Option<Meaning> {
        let mut pairs = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(right) = entry.node.text() else {
                return self.wrong_inside(&entry.node);
            };
            let left = Located {
                value: entry.name.clone(),
                origin: entry.origin.clone(),
            };
            let right = Located {
                value: right.to_owned(),
                origin: entry.node.origin.clone(),
            };
            pairs.push((left, right));
        }
        Some(Meaning::Pairs(pairs))
    }

    fn time(&mut self, entries: &[Entry]) -> Option<Meaning> {
        const PARTS: &[&str] = &["column", "unit"];
        const UNITS: &[&str] = &["s", "ms", "us"];
        for entry in entries {
            if !PARTS.contains(&&*entry.name) {
                let message = format!("unknown setting \"{}\" of {}", entry.name, self.subject());
                self.faults
                    .add(&entry.origin, message)
                    .detail(format!(
                        "Known settings are {}.",
                        quoted_list(PARTS.iter().copied(), "and")
                    ))
                    .maybe_hint(did_you_mean(&entry.name, PARTS.iter().copied()));
                return None;
            }
        }
        let Some(column) = self.node.get("column") else {
            return self.refuse("names no column");
        };
        let Some(name) = column.text() else {
            return self.wrong_inside(column);
        };
        let unit = match self.node.get("unit").map(|unit| (unit, unit.text())) {
            None => None,
            Some((_, Some("s"))) => Some(TimeUnit::Seconds),
            Some((_, Some("ms"))) => Some(TimeUnit::Milliseconds),
            Some((_, Some("us"))) => Some(TimeUnit::Microseconds),
            Some((unit, _)) => {
                let written = unit.value.to_toml();
                let message = format!("unknown unit {written} of {}", self.subject());
                self.faults
                    .add(&unit.origin, message)
                    .detail(known_values(UNITS));
                return None;
            }
        };
        let column = Located {
            value: name.to_owned(),
            origin: column.origin.clone(),
        };
        Some(Meaning::Time(column, unit))
    }
}

fn known_values(words: &[&str]) -> String {
    format!("It must be {}.", quoted_list(words.iter().copied(), "or"))
}

fn is_name(text: &str, most: usize) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=most).contains(&text.len()) && text.chars().all(allowed)
}
