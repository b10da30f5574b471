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

use crate::config::address::wrong_brokers;
use crate::config::fault::{Faults, did_you_mean, guess};
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
    Flag(bool),
    /// A whole number.
    Whole(i128),
    /// A duration.
    Duration(Duration),
    /// A number of bytes.
    Size(usize),
    /// Where reading starts.
    Start(Start),
    /// The column of the event time, and its unit.
    Time(Located<String>, Unit),
    /// A list of names or addresses.
    Names(Vec<Located<String>>),
    /// Columns.
    Columns(Vec<Located<Declared>>),
    /// Pairs of columns; the right one is `None` if it is wrong, which has been reported.
    Pairs(Vec<(Located<String>, Option<Located<String>>)>),
    /// Properties for librdkafka.
    Properties(BTreeMap<String, String>),
}

/// A column as it was written: what is wrong with its type must not hide what is wrong with its
/// use.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    /// Its name.
    pub(super) name: String,
    /// Its type; `None` has been reported.
    pub(super) column_type: Option<ColumnType>,
    /// Whether a row may lack it.
    pub(super) nullable: bool,
}

impl Declared {
    /// The column, if its type is right.
    pub(super) fn column(&self) -> Option<Column> {
        let column = Column::new(&self.name, self.column_type?);
        Some(if self.nullable {
            column.nullable()
        } else {
            column
        })
    }
}

/// The unit of the event time, as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// None was.
    Absent,
    /// This one was.
    Known(TimeUnit),
    /// One that there is not, which has been reported.
    Wrong,
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
            (Kind::Flag, Value::Flag(flag)) => Some(Meaning::Flag(*flag)),
            (Kind::Whole(least, most), Value::Whole(number)) => {
                if (least..=most).contains(number) {
                    return Some(Meaning::Whole(*number));
                }
                self.wrong()
            }
            // A plain number of bytes needs no quotes.
            (Kind::Size(..), Value::Whole(number)) => self.text(&number.to_string()),
            (Kind::Key, Value::List(nodes)) if nodes.is_empty() => self.refuse("is empty"),
            (Kind::Key | Kind::Addresses, Value::List(nodes)) => self.names(nodes),
            (Kind::Columns | Kind::Pairs, Value::Table(entries)) if entries.is_empty() => {
                self.refuse("is empty")
            }
            (Kind::Columns, Value::Table(entries)) => Some(self.columns(entries)),
            (Kind::Pairs, Value::Table(entries)) => Some(self.pairs(entries)),
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
            Kind::Text | Kind::Job | Kind::Topic | Kind::Brokers if text.is_empty() => {
                let message = format!("{} is empty", self.subject());
                self.faults
                    .add(&self.node.origin, message)
                    .detail(plain(self.setting.doc));
                None
            }
            Kind::Job if !is_name(text, 100) => self.refuse_name(text, 100),
            Kind::Topic if !is_name(text, 249) => self.refuse_name(text, 249),
            Kind::OptionalBrokers if text.is_empty() => Some(Meaning::Text(String::new())),
            Kind::Brokers | Kind::OptionalBrokers => self.brokers(text),
            Kind::LogFilter => self.log_filter(text),
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
            Kind::Duration(least, most) => match quantity::duration(text) {
                Ok(value) => self
                    .within(text, value, [least, most].map(quantity::duration))
                    .map(Meaning::Duration),
                Err(error) => self.refuse_quantity("duration", text, &error),
            },
            Kind::Size(least, most) => match quantity::size(text) {
                Ok(value) => self
                    .within(text, value, [least, most].map(quantity::size))
                    .map(Meaning::Size),
                Err(error) => self.refuse_quantity("size", text, &error),
            },
            _ => self.wrong(),
        }
    }

    fn refuse_name<T>(&mut self, text: &str, most: usize) -> Option<T> {
        let noun = self.setting.kind.noun();
        let message = format!("{} is not {noun}: \"{text}\"", self.subject());
        self.faults.add(&self.node.origin, message).detail(format!(
            "A name has 1 to {most} letters (a to z, A to Z), digits, \".\", \"_\" and \"-\", and \
             is not \".\" or \"..\"."
        ));
        None
    }

    fn refuse_quantity<T>(&mut self, noun: &str, text: &str, error: &quantity::Error) -> Option<T> {
        let message = format!("{} is not a {noun}: \"{text}\": {error}", self.subject());
        self.faults
            .add(&self.node.origin, message)
            .maybe_hint(self.setting.kind.example());
        None
    }

    /// Refuses a quantity out of the bounds, which are those of the list of settings.
    fn within<T: PartialOrd>(
        &mut self,
        text: &str,
        value: T,
        bounds: [Result<T, quantity::Error>; 2],
    ) -> Option<T> {
        let [least, most] =
            bounds.map(|bound| bound.expect("the list is constant, and a test reads it"));
        if least <= value && value <= most {
            return Some(value);
        }
        let message = format!("{} must be {}", self.subject(), self.setting.kind.noun());
        self.faults
            .add(&self.node.origin, message)
            .detail(format!("It is {text}."));
        None
    }

    fn brokers(&mut self, text: &str) -> Option<Meaning> {
        let wrong = wrong_brokers(text);
        for broker in &wrong {
            let message = format!("{} names no broker: \"{broker}\"", self.subject());
            self.faults
                .add(&self.node.origin, message)
                .maybe_hint(self.setting.kind.example());
        }
        wrong.is_empty().then(|| Meaning::Text(text.to_owned()))
    }

    fn log_filter(&mut self, text: &str) -> Option<Meaning> {
        const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
        let mut all_known = true;
        for directive in text.split(',') {
            let level = directive.rsplit('=').next().unwrap_or_default().trim();
            if LEVELS.contains(&level) {
                continue;
            }
            all_known = false;
            let message = format!("unknown level \"{level}\" in {}", self.subject());
            self.faults
                .add(&self.node.origin, message)
                .detail(known_values(LEVELS))
                .maybe_hint(self.setting.kind.example());
        }
        all_known.then(|| Meaning::Text(text.to_owned()))
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
        let mut all_text = true;
        for node in nodes {
            let Some(text) = node.text().filter(|text| !text.is_empty()) else {
                all_text = false;
                self.wrong_inside::<()>(node);
                continue;
            };
            if names.iter().any(|name| name.value == text) {
                let message = format!("{} names \"{text}\" twice", self.subject());
                self.faults.add(&node.origin, message).hint("Remove one.");
            }
            names.push(Located {
                value: text.to_owned(),
                origin: node.origin.clone(),
            });
        }
        all_text.then_some(Meaning::Names(names))
    }

    fn columns(&mut self, entries: &[Entry]) -> Meaning {
        let columns = entries.iter().filter_map(|entry| {
            Some(Located {
                value: self.column(entry)?,
                origin: entry.origin.clone(),
            })
        });
        Meaning::Columns(columns.collect())
    }

    fn column(&mut self, entry: &Entry) -> Option<Declared> {
        const KNOWN: &str = "Known types are \"int64\", \"float64\", \"string\", \"bool\", \
            \"timestamp\" and \"decimal(p,s)\" with p from 1 to 38 and s from 0 to p; a \"?\" \
            behind the type makes the column nullable.";
        let subject = format!("column \"{}\" {}", entry.name, self.table.phrase());
        if entry.name.is_empty() {
            let message = format!("a column {} has no name", self.table.phrase());
            self.faults.add(&entry.origin, message);
            return None;
        }
        let mut declared = Declared {
            name: entry.name.clone(),
            column_type: None,
            nullable: false,
        };
        let Some(text) = entry.node.text() else {
            self.faults
                .add(
                    &entry.node.origin,
                    format!("the type of {subject} must be text"),
                )
                .detail(format!("It is {}.", entry.node.value.describe()))
                .maybe_hint(Kind::Columns.example());
            return Some(declared);
        };
        let type_name = text.strip_suffix('?').unwrap_or(text);
        declared.nullable = type_name != text;
        declared.column_type = ColumnType::parse(type_name);
        if declared.column_type.is_none() {
            let simple = ["int64", "float64", "string", "bool", "timestamp"];
            self.faults
                .add(
                    &entry.node.origin,
                    format!("unknown type \"{text}\" of {subject}"),
                )
                .detail(KNOWN)
                .maybe_hint(did_you_mean(type_name, simple.into_iter()));
        }
        Some(declared)
    }

    fn pairs(&mut self, entries: &[Entry]) -> Meaning {
        let mut pairs = Vec::with_capacity(entries.len());
        for entry in entries {
            let left = Located {
                value: entry.name.clone(),
                origin: entry.origin.clone(),
            };
            let right = match entry.node.text() {
                Some(right) => Some(Located {
                    value: right.to_owned(),
                    origin: entry.node.origin.clone(),
                }),
                None => self.wrong_inside(&entry.node),
            };
            pairs.push((left, right));
        }
        Meaning::Pairs(pairs)
    }

    fn time(&mut self, entries: &[Entry]) -> Option<Meaning> {
        const PARTS: &[&str] = &["column", "unit"];
        // What was meant but misspelled is not missing as well.
        let mut meant = None;
        for entry in entries {
            if !PARTS.contains(&&*entry.name) {
                let message = format!("unknown setting \"{}\" of {}", entry.name, self.subject());
                meant = meant.or(guess(&entry.name, PARTS.iter().copied()));
                self.faults
                    .add(&entry.origin, message)
                    .detail(format!(
                        "Known settings are {}.",
                        quoted_list(PARTS.iter().copied(), "and")
                    ))
                    .maybe_hint(did_you_mean(&entry.name, PARTS.iter().copied()));
            }
        }
        let unit = match self.unit() {
            Unit::Absent if meant == Some("unit") => Unit::Wrong,
            unit => unit,
        };
        let column = match self.node.get("column") {
            Some(column) => column,
            None if meant == Some("column") => return None,
            None => return self.refuse("names no column"),
        };
        let Some(name) = column.text() else {
            return self.wrong_inside(column);
        };
        let column = Located {
            value: name.to_owned(),
            origin: column.origin.clone(),
        };
        Some(Meaning::Time(column, unit))
    }

    /// The unit of the event time.
    fn unit(&mut self) -> Unit {
        let Some(unit) = self.node.get("unit") else {
            return Unit::Absent;
        };
        match unit.text() {
            Some("s") => Unit::Known(TimeUnit::Seconds),
            Some("ms") => Unit::Known(TimeUnit::Milliseconds),
            Some("us") => Unit::Known(TimeUnit::Microseconds),
            _ => {
                let written = unit.value.to_toml();
                let message = format!("unknown unit {written} of {}", self.subject());
                self.faults
                    .add(&unit.origin, message)
                    .detail(known_values(&["s", "ms", "us"]));
                Unit::Wrong
            }
        }
    }
}

fn known_values(words: &[&str]) -> String {
    format!("It must be {}.", quoted_list(words.iter().copied(), "or"))
}

fn is_name(text: &str, most: usize) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let right = (1..=most).contains(&text.len()) && text.chars().all(allowed);
    // A folder may be called by it.
    right && text != "." && text != ".."
}
