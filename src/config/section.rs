//! Access to the settings of a table by name, once they are read.
//!
//! It is apart from `walk`, which makes sections, so that the checks behind it say only what they
//! want: a value, and where it was written.
//!
//! # Invariants
//! * The type asked for is the one in the list of settings. Were it another, there would be
//!   neither a value nor a fault, and `load` would refuse every file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::model::{KafkaTopic, Start};
use crate::config::tree::Origin;
use crate::config::value::{Declared, Located, Meaning, Unit};
use crate::config::walk::{Field, Section};

/// A column of the events and the one of the reference that it must equal, if that is right.
type Pair = (Located<String>, Option<Located<String>>);

/// The sections of the whole file.
pub(super) struct Sections(pub(super) Vec<Section>);

impl Sections {
    /// The only section of the table called `name`.
    pub(super) fn get(&self, name: &str) -> Option<&Section> {
        self.all(name).next()
    }

    /// All sections of the table called `name`.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Section> {
        self.0
            .iter()
            .filter(move |section| section.table.name == name)
    }
}

impl Section {
    /// The setting called `name`, if it holds for this `type`.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.setting.name == name)
    }

    /// Where the value of the first of `names` that was written stands, or else the table.
    pub(super) fn place(&self, names: &[&str]) -> &Origin {
        let mut places = names.iter().filter_map(|name| self.field(name));
        let written = places.find(|field| field.node.origin != Origin::Default);
        written.map_or(&self.place, |field| &field.node.origin)
    }

    fn meaning(&self, name: &str) -> Option<&Meaning> {
        self.field(name)?.meaning.as_ref()
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.meaning(name)? {
            Meaning::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A path; the working directory is its base.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// A path that may be empty, which is none.
    pub(super) fn optional_path(&self, name: &str) -> Option<Option<PathBuf>> {
        let path = self.path(name)?;
        Some((!path.as_os_str().is_empty()).then_some(path))
    }

    /// A whole number.
    pub(super) fn whole<T: TryFrom<i128>>(&self, name: &str) -> Option<T> {
        match self.meaning(name)? {
            Meaning::Whole(number) => T::try_from(*number).ok(),
            _ => None,
        }
    }

    /// A duration.
    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        match self.meaning(name)? {
            Meaning::Duration(duration) => Some(*duration),
            _ => None,
        }
    }

    /// True or false.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.meaning(name)? {
            Meaning::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// A size in bytes.
    pub(super) fn size(&self, name: &str) -> Option<usize> {
        match self.meaning(name)? {
            Meaning::Size(bytes) => Some(*bytes),
            _ => None,
        }
    }

    /// Where reading starts.
    pub(super) fn start(&self, name: &str) -> Option<Start> {
        match self.meaning(name)? {
            Meaning::Start(start) => Some(*start),
            _ => None,
        }
    }

    /// The column of the event time.
    pub(super) fn time(&self, name: &str) -> Option<(&Located<String>, Unit)> {
        match self.meaning(name)? {
            Meaning::Time(column, unit) => Some((column, *unit)),
            _ => None,
        }
    }

    /// A list of names or addresses.
    pub(super) fn names(&self, name: &str) -> Option<&[Located<String>]> {
        match self.meaning(name)? {
            Meaning::Names(names) => Some(names),
            _ => None,
        }
    }

    /// Columns.
    pub(super) fn columns(&self, name: &str) -> Option<&[Located<Declared>]> {
        match self.meaning(name)? {
            Meaning::Columns(columns) => Some(columns),
            _ => None,
        }
    }

    /// Pairs of columns.
    pub(super) fn pairs(&self, name: &str) -> Option<&[Pair]> {
        match self.meaning(name)? {
            Meaning::Pairs(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// Properties for librdkafka.
    pub(super) fn properties(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        match self.meaning(name)? {
            Meaning::Properties(properties) => Some(properties),
            _ => None,
        }
    }

    /// The topic that `brokers`, `topic` and `kafka` describe.
    pub(super) fn kafka_topic(&self) -> Option<KafkaTopic> {
        Some(KafkaTopic {
            brokers: self.text("brokers")?.to_owned(),
            topic: self.text("topic")?.to_owned(),
            properties: self.properties("kafka").cloned().unwrap_or_default(),
        })
    }
}
