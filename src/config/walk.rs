//! The walk over the tree: each name is looked up in the list of settings, each value is read, and
//! defaults are filled in.
//!
//! It is apart from `check`, which compares settings with one another, because everything here
//! follows from the list alone.
//!
//! # Invariants
//! * Every name in the tree either is a known setting that this build acts on, or is a fault.
//! * A field without a meaning has been reported, or is left out and needs none.
//! * What is derived from something that was reported is not reported again.

use crate::config::fault::{Faults, did_you_mean, guess};
use crate::config::settings::{Fallback, Kind, Setting, Table, plain, quoted_list};
use crate::config::table::TABLES;
use crate::config::tree::{Entry, Node, Origin};
use crate::config::value::{Meaning, read};

/// A table of the file, read.
#[derive(Clone)]
pub(super) struct Section {
    /// What it is.
    pub(super) table: &'static Table,
    /// Its header, if it was written.
    pub(super) place: Origin,
    /// Its settings that hold for its `type`, in the order of the list.
    pub(super) fields: Vec<Field>,
}

/// A setting that holds.
#[derive(Clone)]
pub(super) struct Field {
    /// What it is.
    pub(super) setting: &'static Setting,
    /// Where its name was written.
    pub(super) origin: Origin,
    /// Its value as written, or the default.
    pub(super) node: Node,
    /// What the value means.
    pub(super) meaning: Option<Meaning>,
}

/// Reads the settings before any table, and all tables, in the order of the list.
pub(super) fn walk(tree: &Node, faults: &mut Faults) -> Vec<Section> {
    let entries = tree.table().unwrap_or_default();
    let mut sections = Vec::new();
    for table in TABLES {
        // Dead letters follow from sinks: where those are not told, no more can be said of these.
        let tell_derived = table.name == "dead_letters" && sinks_are_told(&sections);
        sections.extend(sections_of(table, entries, tell_derived, faults));
    }
    sections
}

/// The sections of one table.
fn sections_of(
    table: &'static Table,
    entries: &[Entry],
    tell_derived: bool,
    faults: &mut Faults,
) -> Vec<Section> {
    if table.name.is_empty() {
        let own: Vec<_> = entries
            .iter()
            .filter(|entry| Table::find(&entry.name).is_none())
            .collect();
        return vec![section(table, &Origin::Default, &own, tell_derived, faults)];
    }
    let Some(entry) = entries.iter().find(|entry| entry.name == table.name) else {
        missing_table(table, faults);
        let defaults = (!table.list).then(|| defaults_of(table));
        return defaults.into_iter().collect();
    };
    let nodes = match entry.node.list() {
        _ if !table.list => std::slice::from_ref(&entry.node),
        Some(nodes) => nodes,
        None => {
            not_a_table(table, entry, faults);
            return Vec::new();
        }
    };
    if nodes.is_empty() {
        missing_table(table, faults);
    }
    let mut sections = Vec::new();
    for node in nodes {
        match node.table() {
            Some(inner) => {
                let inner: Vec<_> = inner.iter().collect();
                sections.push(section(table, &node.origin, &inner, tell_derived, faults));
            }
            None => not_a_table(table, entry, faults),
        }
    }
    sections
}

/// Whether it is told, without a fault, where each sink writes, and how.
fn sinks_are_told(sections: &[Section]) -> bool {
    let mut sinks = sections
        .iter()
        .filter(|section| section.table.name == "sinks")
        .peekable();
    let is_told = |sink: &Section| {
        let Some(type_name) = sink.text("type") else {
            return false;
        };
        let mut settings = sink.table.settings.iter().filter(|setting| {
            let leads_there = matches!(setting.fallback, Fallback::Required)
                || matches!(setting.kind, Kind::Properties)
                || matches!(setting.name, "delivery" | "commit_interval");
            leads_there && setting.applies_to(type_name)
        });
        let is_right = |field: &Field| field.meaning.is_some();
        settings.all(|setting| sink.field(setting.name).is_some_and(is_right))
    };
    sinks.peek().is_some() && sinks.all(is_told)
}

fn section(
    table: &'static Table,
    place: &Origin,
    entries: &[&Entry],
    tell_derived: bool,
    faults: &mut Faults,
) -> Section {
    let type_name = type_of(table, entries);
    let mut fields = Vec::new();
    // What was meant but misspelled is not missing as well.
    let mut meant = Vec::new();
    for entry in entries {
        match table.setting(&entry.name) {
            None => meant.extend(unknown(table, type_name, entry, faults)),
            Some(setting) => {
                let field = field(table, setting, type_name, entry, tell_derived, faults);
                if let Some(field) = field {
                    fields.push(field);
                }
            }
        }
    }
    for setting in table.settings {
        if entries.iter().any(|entry| entry.name == setting.name) {
            continue;
        }
        // Without a known type nobody knows what is missing.
        let applies = match type_name {
            Some(type_name) => setting.applies_to(type_name),
            None => setting.only_for.is_none(),
        };
        match setting.default_in(table) {
            Some(node) if applies => fields.push(Field {
                setting,
                origin: Origin::Default,
                node: node.clone(),
                meaning: read(table, setting, node, faults),
            }),
            None if applies && !meant.contains(&setting.name) => match setting.fallback {
                Fallback::Required => missing(table, setting, place, faults),
                // It would have been derived, if there were anything to derive it from.
                Fallback::Derived(_) if tell_derived => missing(table, setting, place, faults),
                _ => {}
            },
            _ => {}
        }
    }
    let order = |setting: &Setting| table.settings.iter().position(|s| s.name == setting.name);
    fields.sort_by_key(|field| order(field.setting));
    Section {
        table,
        place: place.clone(),
        fields,
    }
}

fn defaults_of(table: &'static Table) -> Section {
    // What is missing has been reported for the whole table.
    section(table, &Origin::Default, &[], false, &mut Faults::default())
}

/// The `type` of a table: `None` if what is written there is wrong. Tables without one have "".
fn type_of(table: &'static Table, entries: &[&Entry]) -> Option<&'static str> {
    let Some(setting) = table.setting("type") else {
        return Some("");
    };
    let Kind::OneOf(words) = setting.kind else {
        unreachable!("a type is one of some words");
    };
    let written = entries.iter().find(|entry| entry.name == "type");
    let node = match written {
        Some(entry) => Some(&entry.node),
        None => setting.default_in(table),
    };
    let text = node?.text()?;
    words.iter().copied().find(|word| *word == text)
}

fn field(
    table: &'static Table,
    setting: &'static Setting,
    type_name: Option<&'static str>,
    entry: &Entry,
    tell_derived: bool,
    faults: &mut Faults,
) -> Option<Field> {
    let written = entry.node.origin != Origin::Default;
    if let Some(type_name) = type_name
        && !setting.applies_to(type_name)
    {
        let only = setting.only_for.unwrap_or_default();
        faults
            .add(
                &entry.origin,
                format!(
                    "setting \"{}\" {} belongs to type \"{only}\"",
                    setting.name,
                    table.phrase()
                ),
            )
            .detail(format!("The type of this table is \"{type_name}\"."))
            .hint(format!("Remove it, or write type = \"{only}\"."));
        return None;
    }
    let meaning = if written || tell_derived {
        read(table, setting, &entry.node, faults)
    } else {
        // What it was derived from has been reported if it is wrong; once is enough.
        read(table, setting, &entry.node, &mut Faults::default())
    };
    Some(Field {
        setting,
        origin: entry.origin.clone(),
        node: entry.node.clone(),
        meaning,
    })
}

/// Reports a name that is no setting. The result is the setting that was meant, by a guess.
fn unknown(
    table: &'static Table,
    type_name: Option<&str>,
    entry: &Entry,
    faults: &mut Faults,
) -> Option<&'static str> {
    if table.name.is_empty() {
        unknown_at_the_top(table, entry, faults);
        return None;
    }
    let known = || {
        let settings = table.settings.iter();
        let applying = settings.filter(|s| type_name.is_none_or(|name| s.applies_to(name)));
        applying.map(|setting| setting.name)
    };
    let meant = guess(&entry.name, known());
    let hint = match meant {
        Some(meant) => Some(format!("Did you mean \"{meant}\"?")),
        None => elsewhere(&entry.name),
    };
    let message = format!("unknown setting \"{}\" {}", entry.name, table.phrase());
    faults
        .add(&entry.origin, message)
        .detail(format!(
            "Known settings are {}.",
            quoted_list(known(), "and")
        ))
        .maybe_hint(hint);
    meant
}

fn unknown_at_the_top(table: &Table, entry: &Entry, faults: &mut Faults) {
    let tables = || {
        TABLES
            .iter()
            .map(|table| table.name)
            .filter(|n| !n.is_empty())
    };
    let is_list_of_tables = |nodes: &[Node]| nodes.iter().any(|node| node.table().is_some());
    if entry.node.table().is_some() || entry.node.list().is_some_and(is_list_of_tables) {
        faults
            .add(&entry.origin, format!("unknown table [{}]", entry.name))
            .detail(format!(
                "Known tables are {}.",
                quoted_list(tables(), "and")
            ))
            .maybe_hint(did_you_mean(&entry.name, tables()));
        return;
    }
    let known = || table.settings.iter().map(|setting| setting.name);
    let hint = if let Origin::Environment(_) = entry.origin {
        Some("Two underscores separate levels, as in DELTAJOIN_EVENTS__TOPIC.".to_owned())
    } else {
        did_you_mean(&entry.name, known()).or_else(|| elsewhere(&entry.name))
    };
    let message = format!("unknown setting \"{}\" {}", entry.name, table.phrase());
    faults
        .add(&entry.origin, message)
        .detail(format!(
            "Before any table there is only {}; other settings stand in a table.",
            quoted_list(known(), "and")
        ))
        .maybe_hint(hint);
}

/// Says in which table there is a setting of this name.
fn elsewhere(name: &str) -> Option<String> {
    let table = TABLES.iter().find(|table| table.setting(name).is_some())?;
    Some(format!("\"{name}\" is a setting {}.", table.phrase()))
}

/// Reports a setting that must be written and is not.
fn missing(table: &Table, setting: &Setting, place: &Origin, faults: &mut Faults) {
    let detail = match setting.fallback {
        Fallback::Derived(how) => plain(&format!("It would be {how}, but there is none.")),
        _ => plain(setting.doc),
    };
    let example = match setting.kind.example() {
        _ if matches!(setting.kind, Kind::Text | Kind::Job | Kind::Topic) => {
            format!("Write {} = \"...\".", setting.name)
        }
        Some(example) => example.to_owned(),
        None => format!("It must be {}.", setting.kind.noun()),
    };
    faults
        .add(
            place,
            format!("missing setting \"{}\" {}", setting.name, table.phrase()),
        )
        .detail(detail)
        .hint(example);
}

fn missing_table(table: &'static Table, faults: &mut Faults) {
    let required = table
        .settings
        .iter()
        .filter(|setting| matches!(setting.fallback, Fallback::Required))
        .filter(|setting| type_of(table, &[]).is_some_and(|t| setting.applies_to(t)));
    let required: Vec<_> = required.map(|setting| setting.name).collect();
    if required.is_empty() {
        return;
    }
    let required = quoted_list(required.into_iter(), "and");
    faults
        .add(
            &Origin::Default,
            format!("missing table {}", table.header()),
        )
        .detail(plain(table.doc))
        .hint(format!("It needs {required}."));
}

fn not_a_table(table: &Table, entry: &Entry, faults: &mut Faults) {
    let what = if table.list {
        "a list of tables"
    } else {
        "a table"
    };
    faults
        .add(&entry.origin, format!("\"{}\" must be {what}", table.name))
        .detail(format!("It is {}.", entry.node.value.describe()))
        .hint(format!("Begin it with the line {}.", table.header()));
}
