//! Checks of columns: keys, the event time, and the two sides of the join.
//!
//! They are apart from the other checks because they alone make schemas.
//!
//! # Invariants
//! * Checks go by the lists of columns as written, so that a fault in a key hides no fault in the
//!   join, and one in a type hides none in the use of any column.

use deltajoin_workers::schema::{ColumnType, Schema};

use crate::config::fault::{Faults, did_you_mean};
use crate::config::model::{EventTime, Join, TimeUnit, Unmatched};
use crate::config::section::Sections;
use crate::config::settings::quoted_list;
use crate::config::value::{Declared, Located, Unit};
use crate::config::walk::Section;

type Columns = [Located<Declared>];

/// The columns and the key of a table.
pub(super) fn schema(section: &Section, faults: &mut Faults) -> Option<Schema> {
    let (columns, names) = (section.columns("columns")?, section.names("key")?);
    let mut key = Vec::with_capacity(names.len());
    for name in names {
        let what = format!("key {}", section.table.phrase());
        let Some(index) = index_of(columns, name, &what, section, faults) else {
            continue;
        };
        if columns[index].value.nullable {
            let message = format!(
                "key column \"{}\" {} is nullable",
                name.value,
                section.table.phrase()
            );
            faults
                .add(&name.origin, message)
                .detail("A row without a key could not be told from others.")
                .hint("Remove the \"?\" behind its type.");
            continue;
        }
        key.push(index);
    }
    let columns = columns.iter().map(|column| column.value.column());
    let columns: Vec<_> = columns.collect::<Option<_>>()?;
    (key.len() == names.len()).then(|| Schema::new(columns, key))
}

/// The column of the event time. The outer option is `None` if there is a fault.
pub(super) fn event_time(events: &Section, faults: &mut Faults) -> Option<Option<EventTime>> {
    if events.field("time").is_none() {
        return Some(None);
    }
    let (name, unit) = events.time("time")?;
    let columns = events.columns("columns")?;
    let column = index_of(columns, name, "\"time\" in [events]", events, faults)?;
    let unit = match (columns[column].value.column_type?, unit) {
        (ColumnType::Int64, Unit::Wrong) => return None,
        (ColumnType::Int64, Unit::Known(unit)) => unit,
        // A timestamp is kept in microseconds.
        (ColumnType::Timestamp, Unit::Absent) => TimeUnit::Microseconds,
        (ColumnType::Int64, Unit::Absent) => {
            let message = format!("the event time \"{}\" in [events] has no unit", name.value);
            faults
                .add(&name.origin, message)
                .detail("Its type is \"int64\", which says nothing of seconds.")
                .hint("Add unit = \"s\", \"ms\" or \"us\".");
            return None;
        }
        (ColumnType::Timestamp, Unit::Known(_) | Unit::Wrong) => {
            let message = format!(
                "the event time \"{}\" in [events] takes no unit",
                name.value
            );
            faults
                .add(events.place(&["time"]), message)
                .detail("A \"timestamp\" has its unit in itself.")
                .hint("Remove the unit.");
            return None;
        }
        (other, _) => {
            let message = format!("the event time \"{}\" in [events] is no time", name.value);
            faults.add(&name.origin, message).detail(format!(
                "Its type is \"{other}\"; a time is \"int64\" or \"timestamp\"."
            ));
            return None;
        }
    };
    if columns[column].value.nullable {
        let message = format!("the event time \"{}\" in [events] may be null", name.value);
        let fault = faults.add(&name.origin, message);
        fault
            .hint("Remove the \"?\" from its type: an event without a time is a dead letter then.");
        return None;
    }
    Some(Some(EventTime { column, unit }))
}

/// How events meet the reference.
pub(super) fn join(sections: &Sections, faults: &mut Faults) -> Option<Join> {
    let (events, reference) = (sections.get("events")?, sections.get("reference")?);
    let join = sections.get("join")?;
    no_clash(events, reference, faults);
    let left_columns = events.columns("columns");
    let right_columns = reference.columns("columns");
    let mut sides = Vec::new();
    for (left, right) in join.pairs("on").unwrap_or_default() {
        let index = |all: Option<&Columns>, name, section, faults: &mut Faults| {
            index_of(all?, name, "\"on\" in [join]", section, faults)
        };
        let left_index = index(left_columns, left, events, faults);
        let Some(right) = right else { continue };
        let right_index = index(right_columns, right, reference, faults);
        let type_of = |all: Option<&Columns>, index: Option<usize>| all?[index?].value.column_type;
        let left_type = type_of(left_columns, left_index);
        let right_type = type_of(right_columns, right_index);
        if let (Some(left_type), Some(right_type)) = (left_type, right_type)
            && left_type != right_type
        {
            let message = format!(
                "columns of \"on\" in [join] differ in type: \"{}\" and \"{}\"",
                left.value, right.value
            );
            faults.add(&left.origin, message).detail(format!(
                "In [events] it is \"{left_type}\", in [reference] it is \"{right_type}\"."
            ));
        }
        sides.extend(left_index.map(|left_index| (left_index, right)));
    }
    let key = reference.names("key")?;
    right_sides_are_the_key(join, key, faults);
    let unmatched = match join.text("unmatched")? {
        "keep" => Unmatched::Keep,
        "drop" => Unmatched::Drop,
        _ => Unmatched::DeadLetter,
    };
    let side_of = |name: &Located<String>| {
        let side = sides.iter().find(|(_, right)| right.value == name.value);
        side.map(|(left, _)| *left)
    };
    Some(Join {
        event_columns: key.iter().map(side_of).collect::<Option<_>>()?,
        partitioned: join.text("strategy")? == "partitioned",
        unmatched,
        revise: join.text("on_reference_change")? == "revise",
        revise_window: join.duration("revise_window")?,
        version_column: version_column(join, [events, reference], faults)?,
    })
}

/// The column of versions, if one is wanted. The outer option is `None` if there is a fault.
fn version_column(
    join: &Section,
    tables: [&Section; 2],
    faults: &mut Faults,
) -> Option<Option<String>> {
    let name = join.text("version_column")?;
    if name.is_empty() {
        return Some(None);
    }
    for table in tables {
        let mut columns = table.columns("columns").unwrap_or_default().iter();
        if columns.any(|column| column.value.name == name) {
            let header = table.table.header();
            let message = format!("\"version_column\" in [join] is a column of {header} as well");
            faults
                .add(join.place(&["version_column"]), message)
                .detail(format!(
                    "A result has each name once; \"{name}\" would be there twice."
                ));
            return None;
        }
    }
    Some(Some(name.to_owned()))
}

fn right_sides_are_the_key(join: &Section, key: &[Located<String>], faults: &mut Faults) {
    let Some(pairs) = join.pairs("on") else {
        return;
    };
    let key_text = quoted_list(key.iter().map(|name| &*name.value), "and");
    let rights = || pairs.iter().filter_map(|(_, right)| right.as_ref());
    for (index, right) in rights().enumerate() {
        let is_key = key.iter().any(|name| name.value == right.value);
        let is_first = rights()
            .take(index)
            .all(|earlier| earlier.value != right.value);
        let fault = match (is_key, is_first) {
            (true, true) => continue,
            (false, _) => format!(
                "\"on\" in [join] names \"{}\", which is no key",
                right.value
            ),
            (true, false) => format!("\"on\" in [join] names \"{}\" twice", right.value),
        };
        faults.add(&right.origin, fault).detail(format!(
            "The right sides must be the key of [reference], which is {key_text}."
        ));
    }
    if rights().count() < pairs.len() {
        // What was meant by one that is wrong nobody knows.
        return;
    }
    for name in key {
        if rights().all(|right| right.value != name.value) {
            let message = format!("\"on\" in [join] lacks the key column \"{}\"", name.value);
            faults
                .add(join.place(&["on"]), message)
                .detail(format!("The key of [reference] is {key_text}."));
        }
    }
}

/// A result has the events' columns and the reference's without its key: no name may come twice.
fn no_clash(events: &Section, reference: &Section, faults: &mut Faults) {
    let (Some(left), Some(right)) = (events.columns("columns"), reference.columns("columns"))
    else {
        return;
    };
    let key = reference.names("key").unwrap_or_default();
    for column in right {
        let name = &column.value.name;
        let is_key = key.iter().any(|key| key.value == *name);
        if !is_key && left.iter().any(|other| other.value.name == *name) {
            let message =
                format!("column \"{name}\" of [reference] is a column of [events] as well");
            faults
                .add(&column.origin, message)
                .detail(
                    "A result has the events' columns and the reference's without its key, and \
                     each name once.",
                )
                .hint("Leave it out of one of them, or rename it where it comes from.");
        }
    }
}

fn index_of(
    columns: &Columns,
    name: &Located<String>,
    what: &str,
    section: &Section,
    faults: &mut Faults,
) -> Option<usize> {
    let index = columns
        .iter()
        .position(|column| column.value.name == name.value);
    if index.is_none() {
        let known = || columns.iter().map(|column| &*column.value.name);
        let message = format!("{what} names an unknown column \"{}\"", name.value);
        let header = section.table.header();
        faults
            .add(&name.origin, message)
            .detail(format!(
                "Columns of {header} are {}.",
                quoted_list(known(), "and")
            ))
            .maybe_hint(did_you_mean(&name.value, known()));
    }
    index
}
