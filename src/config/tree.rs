//! The tree of what was written: TOML values, each with the place that it comes from.
//!
//! It is apart from `walk`, which compares the tree with the list of settings, because here no
//! setting has a meaning yet. The `toml` crate parses; the tree of ours is needed because values
//! from the environment and the command line have no span.
//!
//! # Invariants
//! * Tables keep the order of the file: the order of the columns is their order in every output.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nowhere: it is a default, or missing.
    Default,
    /// These bytes of the file.
    File(Range<usize>),
    /// The environment variable of this name.
    Environment(String),
    /// `--set` with this path.
    Set(String),
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The value.
    pub(super) value: Value,
    /// Its place. A table's is its header.
    pub(super) origin: Origin,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Text.
    Text(String),
    /// A whole number; wider than TOML's, so that a range check can name what was written.
    Whole(i128),
    /// A number with a point.
    Float(f64),
    /// True or false.
    Flag(bool),
    /// A date or a time, as written.
    Time(String),
    /// A list.
    List(Vec<Node>),
    /// A table, in the order of the file.
    Table(Vec<Entry>),
}

/// A name in a table, and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The name.
    pub(super) name: String,
    /// Where the name was written.
    pub(super) origin: Origin,
    /// The value.
    pub(super) node: Node,
}

impl Node {
    /// A value that was not written.
    pub(super) fn default(value: Value) -> Self {
        Self {
            value,
            origin: Origin::Default,
        }
    }

    /// The entries, if it is a table.
    pub(super) fn table(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// The elements, if it is a list.
    pub(super) fn list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(nodes) => Some(nodes),
            _ => None,
        }
    }

    /// The text, if it is text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value called `name`, if it is a table that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let entry = self.table()?.iter().find(|entry| entry.name == name)?;
        Some(&entry.node)
    }
}

impl Value {
    /// What it is, for messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(_) => format!("the text {}", self.to_toml()),
            Self::Whole(_) | Self::Float(_) => format!("the number {}", self.to_toml()),
            Self::Flag(_) => self.to_toml(),
            Self::Time(_) => "a date or time".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
        }
    }

    /// The value as it is written in a file.
    pub(super) fn to_toml(&self) -> String {
        match self {
            Self::Text(text) => toml::Value::String(text.clone()).to_string(),
            Self::Whole(number) => number.to_string(),
            Self::Float(number) => toml::Value::Float(*number).to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Time(text) => text.clone(),
            Self::List(nodes) => {
                let texts: Vec<_> = nodes.iter().map(|node| node.value.to_toml()).collect();
                format!("[{}]", texts.join(", "))
            }
            Self::Table(entries) if entries.is_empty() => "{}".to_owned(),
            Self::Table(entries) => {
                let pair = |entry: &Entry| {
                    format!("{} = {}", key(&entry.name), entry.node.value.to_toml())
                };
                let texts: Vec<_> = entries.iter().map(pair).collect();
                format!("{{ {} }}", texts.join(", "))
            }
        }
    }
}

/// A name as it is written in a file: in quotes only if it must be.
pub(super) fn key(name: &str) -> String {
    let table = toml::Table::from_iter([(name.to_owned(), toml::Value::Integer(0))]);
    let line = table.to_string();
    line.trim_end().trim_end_matches(" = 0").to_owned()
}

/// Reads a whole file; the origin of a value is its span.
///
/// # Errors
/// Every syntax error that the parser finds.
pub(super) fn parse(text: &str) -> Result<Node, Vec<toml::de::Error>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors);
    }
    let origin = &mut |span| Origin::File(span);
    Ok(Node {
        origin: origin(table.span()),
        value: from_table(table.into_inner(), origin),
    })
}

/// Reads the defaults.
pub(super) fn parse_default(text: &str) -> Node {
    let table = DeTable::parse(text).expect("default.toml is part of the program, and tested");
    Node::default(from_table(table.into_inner(), &mut |_| Origin::Default))
}

/// Reads one value, as an override has it: `None` if it is not TOML.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Option<Value> {
    let value = DeValue::parse(text.trim()).ok()?;
    Some(from_value(value.into_inner(), &mut |_| origin.clone()))
}

/// Reads a path, as `events.kafka."sasl.password"`: `None` if it is none.
pub(super) fn parse_path(text: &str) -> Option<Vec<String>> {
    let assignment = format!("{} = 0", text.trim());
    let mut value = DeValue::Table(DeTable::parse(&assignment).ok()?.into_inner());
    let mut path = Vec::new();
    while let DeValue::Table(table) = value {
        let mut entries = table.into_iter();
        let (name, next) = entries.next()?;
        if entries.next().is_some() {
            return None;
        }
        path.push(name.into_inner().into_owned());
        value = next.into_inner();
    }
    Some(path)
}

fn from_table(table: DeTable<'_>, origin: &mut impl FnMut(Range<usize>) -> Origin) -> Value {
    let mut entries = Vec::with_capacity(table.len());
    for (name, node) in table {
        entries.push(Entry {
            origin: origin(name.span()),
            name: name.into_inner().into_owned(),
            node: Node {
                origin: origin(node.span()),
                value: from_value(node.into_inner(), origin),
            },
        });
    }
    Value::Table(entries)
}

fn from_value(value: DeValue<'_>, origin: &mut impl FnMut(Range<usize>) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            // What does not even fit 128 bits is out of every bound.
            let whole = i128::from_str_radix(number.as_str(), number.radix());
            Value::Whole(whole.unwrap_or(i128::MAX))
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Datetime(time) => Value::Time(time.to_string()),
        DeValue::Array(nodes) => {
            let mut list = Vec::with_capacity(nodes.len());
            for node in nodes {
                list.push(Node {
                    origin: origin(node.span()),
                    value: from_value(node.into_inner(), origin),
                });
            }
            Value::List(list)
        }
        DeValue::Table(table) => from_table(table, origin),
    }
}
