//! What a setting is: its type, its default, and what it means.
//!
//! It is apart from `table`, the list of all settings, so that the list reads as a list. Known
//! names, type checks, guesses, refusals and the manual all come from that one list.
//!
//! # Invariants
//! * Defaults stand in `default.toml` and nowhere else; a test compares it with the list.

use std::sync::LazyLock;

use crate::config::table::TABLES;
use crate::config::tree::{Node, parse_default};

/// A table of the file.
pub(super) struct Table {
    /// Its name; empty for the settings that stand before any table.
    pub(super) name: &'static str,
    /// Whether it is a list of tables, as `[[sinks]]`.
    pub(super) list: bool,
    /// What it is about, for the manual.
    pub(super) doc: &'static str,
    /// Its settings, in the order of the manual.
    pub(super) settings: &'static [Setting],
}

impl Table {
    /// The table called `name`.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        TABLES.iter().find(|table| table.name == name)
    }

    /// Its setting called `name`.
    pub(super) fn setting(&self, name: &str) -> Option<&'static Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    /// Where a setting of it stands, for messages: `in [events]`.
    pub(super) fn phrase(&self) -> String {
        if self.name.is_empty() {
            "at the top level".to_owned()
        } else {
            format!("in {}", self.header())
        }
    }

    /// Its header in the file: `[events]` or `[[sinks]]`.
    pub(super) fn header(&self) -> String {
        if self.list {
            format!("[[{}]]", self.name)
        } else {
            format!("[{}]", self.name)
        }
    }
}

/// A setting.
pub(super) struct Setting {
    /// Its name within its table.
    pub(super) name: &'static str,
    /// What may be written.
    pub(super) kind: Kind,
    /// What holds if nothing is written.
    pub(super) fallback: Fallback,
    /// The one `type` of its table that it belongs to, if it does not belong to all.
    pub(super) only_for: Option<&'static str>,
    /// What it means, for the manual: sentences in Markdown.
    pub(super) doc: &'static str,
}

/// What may be written as the value of a setting.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Text that is not empty.
    Text,
    /// Text; empty is as good as nothing.
    OptionalText,
    /// As `Brokers`, or nothing.
    OptionalBrokers,
    /// A name for the job.
    Job,
    /// A name that Kafka takes for a topic.
    Topic,
    /// Addresses of brokers with commas between them.
    Brokers,
    /// Levels of log lines, by module.
    LogFilter,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// True or false.
    Flag,
    /// A whole number within these bounds.
    Whole(i128, i128),
    /// A duration within these bounds.
    Duration(&'static str, &'static str),
    /// A size in bytes within these bounds.
    Size(&'static str, &'static str),
    /// Where reading starts.
    Start,
    /// The column of the event time.
    Time,
    /// Names of columns.
    Key,
    /// Columns and their types.
    Columns,
    /// Pairs of columns.
    Pairs,
    /// Network addresses.
    Addresses,
    /// Settings for librdkafka.
    Properties,
}

impl Kind {
    /// Whether the value is text, so that an override needs no quotes.
    pub(super) fn is_text(self) -> bool {
        match self {
            Self::Text
            | Self::OptionalText
            | Self::Job
            | Self::Topic
            | Self::Brokers
            | Self::OptionalBrokers => true,
            Self::LogFilter | Self::OneOf(_) | Self::Start => true,
            Self::Duration(..) | Self::Size(..) => true,
            Self::Flag | Self::Whole(..) | Self::Time | Self::Key | Self::Columns => false,
            Self::Pairs | Self::Addresses | Self::Properties => false,
        }
    }

    /// What may be written, as a noun.
    pub(super) fn noun(self) -> String {
        match self {
            Self::Text | Self::OptionalText => "text".to_owned(),
            Self::Job => "a name".to_owned(),
            Self::Topic => "the name of a topic".to_owned(),
            Self::OneOf(words) => quoted_list(words.iter().copied(), "or"),
            Self::Brokers | Self::OptionalBrokers => "addresses of brokers".to_owned(),
            Self::LogFilter => "a log filter".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Whole(least, most) => format!("a whole number from {least} to {most}"),
            Self::Duration(least, most) => format!("a duration from {least} to {most}"),
            Self::Size(least, most) => format!("a size from {least} to {most}"),
            Self::Start => "\"earliest\", \"latest\" or a time".to_owned(),
            Self::Time => "a table of column and unit".to_owned(),
            Self::Key => "a list of column names".to_owned(),
            Self::Columns => "a table of column names and types".to_owned(),
            Self::Pairs => "a table of column names".to_owned(),
            Self::Addresses => "a list of addresses".to_owned(),
            Self::Properties => "a table of librdkafka settings".to_owned(),
        }
    }

    /// How it is written, with an example.
    pub(super) fn example(self) -> Option<&'static str> {
        Some(match self {
            Self::Text | Self::OptionalText | Self::Job | Self::Topic => "Write text in quotes.",
            Self::Brokers | Self::OptionalBrokers => {
                "Write host:port, with commas between several, as \"10.0.0.1:9092\"."
            }
            Self::LogFilter => {
                "Write a level, as \"info\", or levels by module, as \"info,deltajoin=debug\"."
            }
            Self::Duration(..) => {
                "Write a whole number and ms, s, m, h or d, as \"10ms\", \"20s\" or \"24h\"."
            }
            Self::Size(..) => {
                "Write a whole number of bytes, or one with KB, MB, GB (1000) or KiB, MiB, GiB \
                 (1024), as \"64MB\"."
            }
            Self::Start => {
                "Write a time as RFC 3339 has it, with its zone, as \"2026-01-31T12:00:00Z\"."
            }
            Self::Time => "Write it as { column = \"created\", unit = \"ms\" }.",
            Self::Key => "Write it as [\"id\"].",
            Self::Columns => "Write it as { id = \"int64\", name = \"string?\" }.",
            Self::Pairs => "Write it as { event_column = \"reference_column\" }.",
            Self::Addresses => "Write it as [\"10.0.0.1:9000\", \"10.0.0.2:9000\"].",
            Self::Properties => "Write it as { \"security.protocol\" = \"SSL\" }.",
            Self::OneOf(_) | Self::Flag | Self::Whole(..) => return None,
        })
    }
}

/// What holds if a setting is not written.
pub(super) enum Fallback {
    /// The value in `default.toml`.
    Default,
    /// Nothing: it must be written.
    Required,
    /// Nothing, or a value that follows from other settings, as this text says.
    Derived(&'static str),
}

impl Setting {
    /// A setting whose default is in `default.toml`.
    pub(super) const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self {
            name,
            kind,
            fallback: Fallback::Default,
            only_for: None,
            doc,
        }
    }

    /// The same, but it must be written.
    pub(super) const fn required(mut self) -> Self {
        self.fallback = Fallback::Required;
        self
    }

    /// The same, but its default follows from others.
    pub(super) const fn derived(mut self, how: &'static str) -> Self {
        self.fallback = Fallback::Derived(how);
        self
    }

    /// The same, but for one `type` only.
    pub(super) const fn only_for(mut self, type_name: &'static str) -> Self {
        self.only_for = Some(type_name);
        self
    }

    /// Whether it belongs to a table of this `type`.
    pub(super) fn applies_to(&self, type_name: &str) -> bool {
        self.only_for.is_none_or(|only| only == type_name)
    }

    /// Its default, if `default.toml` has one.
    pub(super) fn default_in(&self, table: &Table) -> Option<&'static Node> {
        static DEFAULTS: LazyLock<Node> =
            LazyLock::new(|| parse_default(include_str!("default.toml")));
        let root: &'static Node = &DEFAULTS;
        let node = match (table.name, table.list) {
            ("", _) => root,
            (name, false) => root.get(name)?,
            (name, true) => root.get(name)?.list()?.first()?,
        };
        node.get(self.name)
    }
}

/// The setting that a path leads to, its table, and what of the path is left below it.
pub(super) fn find(path: &[String]) -> Option<(&'static Table, &'static Setting, &[String])> {
    let first = path.first()?;
    let (table, rest) = match Table::find(first) {
        Some(table) if table.list => (table, path.get(2..)?),
        Some(table) => (table, &path[1..]),
        None => (Table::find("")?, path),
    };
    let (name, below) = rest.split_first()?;
    Some((table, table.setting(name)?, below))
}

/// A sentence of the manual without its Markdown, for messages.
pub(super) fn plain(text: &str) -> String {
    text.replace('`', "\"")
}

/// Words in quotes: `"a", "b" or "c"`.
pub(super) fn quoted_list<'a>(words: impl Iterator<Item = &'a str>, last: &str) -> String {
    let words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match words.split_last() {
        Some((only, [])) => only.clone(),
        Some((end, start)) => format!("{} {last} {end}", start.join(", ")),
        None => String::new(),
    }
}
