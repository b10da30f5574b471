//! Overrides: settings from the environment and from `--set`, put into the tree over the file's.
//!
//! They are apart from `tree` because they have rules of their own for names and values.
//!
//! # Invariants
//! * An override that names nothing known stays in the tree, so that it is refused like a name in
//!   the file; an override is never dropped in silence.
//! * The environment has no order, so variables are applied by the order of their paths.

use std::ffi::OsString;

use crate::config::fault::Faults;
use crate::config::properties::flatten;
use crate::config::settings::{Kind, Table, find};
use crate::config::tree::{Entry, Node, Origin, Value, parse_path, parse_value};

const PREFIX: &str = "DELTAJOIN_";
/// Variables with our prefix that are no settings: tests' seed, the log filter of early start-up.
const OTHER_VARIABLES: &[&str] = &["SEED", "LOG"];

/// A setting that was written elsewhere than in the file.
struct Override {
    path: Vec<String>,
    text: String,
    origin: Origin,
}

/// Makes one table of what the file has below each table of properties, so that overrides and the
/// file have the same names for them.
pub(super) fn flatten_properties(tree: &mut Node) {
    let Value::Table(entries) = &mut tree.value else {
        return;
    };
    for entry in entries {
        let Some(table) = Table::find(&entry.name) else {
            continue;
        };
        let nodes = match &mut entry.node.value {
            Value::List(nodes) => nodes.as_mut_slice(),
            _ => std::slice::from_mut(&mut entry.node),
        };
        for node in nodes {
            let Value::Table(settings) = &mut node.value else {
                continue;
            };
            for written in settings {
                let setting = table.setting(&written.name);
                let is_table = setting.is_some_and(|s| matches!(s.kind, Kind::Properties));
                if is_table && let Value::Table(properties) = &mut written.node.value {
                    *properties = flatten(std::mem::take(properties));
                }
            }
        }
    }
}

/// Applies the variables of the environment that are settings.
pub(super) fn apply_environment(
    tree: &mut Node,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    faults: &mut Faults,
) {
    let mut overrides = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str() else { continue };
        let Some(path) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if is_foreign(path) {
            continue;
        }
        let origin = Origin::Environment(name.to_owned());
        match value.into_string() {
            Ok(text) => overrides.push(Override {
                path: variable_path(path),
                text,
                origin,
            }),
            Err(_) => {
                faults.add(&origin, format!("the value of \"{name}\" is not UTF-8"));
            }
        }
    }
    // By number where parts are numbers, so that element 10 comes after element 9.
    let order = |part: &String| (part.parse().unwrap_or(usize::MAX), part.clone());
    overrides.sort_by_cached_key(|item| item.path.iter().map(order).collect::<Vec<_>>());
    for item in overrides {
        apply(tree, item, faults);
    }
}

/// Applies what was given with `--set`, in order.
pub(super) fn apply_set(tree: &mut Node, set: &[String], faults: &mut Faults) {
    for text in set {
        let Some((name, value)) = split_assignment(text) else {
            faults
                .add(&Origin::Set(text.clone()), "--set has no value")
                .hint("Write it as --set events.topic=x.");
            continue;
        };
        let origin = Origin::Set(name.trim().to_owned());
        let Some(path) = parse_path(name) else {
            faults
                .add(&origin, format!("\"{name}\" is not the path of a setting"))
                .hint("Write it as --set events.topic=x, with quotes around names that have dots.");
            continue;
        };
        let text = value.to_owned();
        apply(tree, Override { path, text, origin }, faults);
    }
}

/// Whether a variable (without the prefix) is somebody else's.
fn is_foreign(name: &str) -> bool {
    // Kubernetes gives each container variables such as DELTAJOIN_SERVICE_HOST and
    // DELTAJOIN_PORT_9090_TCP if there is a service called deltajoin.
    let of_kubernetes = || {
        let mut parts = name.split('_');
        parts.any(|part| part == "SERVICE" || part == "PORT")
    };
    OTHER_VARIABLES.contains(&name) || (!name.contains("__") && of_kubernetes())
}

/// `EVENTS__KAFKA__SASL_PASSWORD` is `events`, `kafka`, `sasl.password`: a shell takes no dot in a
/// name, and no property of librdkafka has an underscore.
fn variable_path(name: &str) -> Vec<String> {
    let mut path: Vec<String> = name.to_lowercase().split("__").map(str::to_owned).collect();
    let below = match find(&path) {
        Some((_, setting, below)) if matches!(setting.kind, Kind::Properties) => below.len(),
        _ => 0,
    };
    let first = path.len() - below;
    for part in &mut path[first..] {
        *part = part.replace('_', ".");
    }
    path
}

/// Cuts `path=value` at the first `=` that is not within quotes.
fn split_assignment(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (index, c) in text.char_indices() {
        match (quote, c) {
            (None, '=') => return Some((&text[..index], &text[index + 1..])),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
    }
    None
}

fn apply(tree: &mut Node, item: Override, faults: &mut Faults) {
    let Override {
        mut path,
        text,
        origin,
    } = item;
    let mut wants_text = false;
    let mut is_table_of_properties = false;
    if let Some((_, setting, below)) = find(&path) {
        wants_text = setting.kind.is_text() && below.is_empty();
        if matches!(setting.kind, Kind::Properties) {
            is_table_of_properties = below.is_empty();
            // To librdkafka all is text, and a password may look like a number.
            wants_text = !below.is_empty();
            // What stands below is one name, with or without quotes around it.
            if !below.is_empty() {
                let name = below.join(".");
                path.truncate(path.len() - below.len());
                path.push(name);
            }
        }
    }
    let mut value = match parse_value(&text, &origin) {
        // Where text is wanted, 007 and true are text.
        Some(Value::Text(quoted)) => Value::Text(quoted),
        Some(value @ (Value::List(_) | Value::Table(_))) => value,
        Some(value) if !wants_text => value,
        _ => Value::Text(text),
    };
    if is_table_of_properties && let Value::Table(entries) = value {
        value = Value::Table(flatten(entries));
    }
    let node = Node {
        value,
        origin: origin.clone(),
    };
    if let Err(depth) = put(tree, &path, node) {
        let parent = path[..depth].join(".");
        faults
            .add(&origin, format!("cannot set \"{}\"", path.join(".")))
            .detail(match depth {
                0 => "The path is empty.".to_owned(),
                _ => format!("\"{parent}\" has no place called \"{}\".", path[depth]),
            })
            .hint("Elements of a list have numbers from 0 on; the next free number adds one.");
    }
}

/// Puts `new` where `path` leads, and makes the tables on the way. The error is the number of parts
/// that lead to something that is no table.
fn put(node: &mut Node, path: &[String], new: Node) -> Result<(), usize> {
    let Some((first, rest)) = path.split_first() else {
        *node = new;
        return Ok(());
    };
    let origin = new.origin.clone();
    let empty = || Node {
        origin: origin.clone(),
        value: match rest.first() {
            Some(next) if next.parse::<usize>().is_ok() => Value::List(Vec::new()),
            _ => Value::Table(Vec::new()),
        },
    };
    let child = match &mut node.value {
        Value::Table(entries) => {
            let index = entries.iter().position(|entry| entry.name == *first);
            let index = index.unwrap_or_else(|| {
                entries.push(Entry {
                    name: first.clone(),
                    origin: origin.clone(),
                    node: empty(),
                });
                entries.len() - 1
            });
            if rest.is_empty() {
                entries[index].origin = origin;
            }
            &mut entries[index].node
        }
        Value::List(nodes) => {
            let index: usize = first.parse().map_err(|_| 0_usize)?;
            if index == nodes.len() {
                nodes.push(empty());
            }
            nodes.get_mut(index).ok_or(0_usize)?
        }
        _ => return Err(0),
    };
    put(child, rest, new).map_err(|depth| depth + 1)
}
