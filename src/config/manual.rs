//! The manual of settings, `docs/configuration.md`, made from the list of settings.
//!
//! It is apart from `show`, which tells of one configuration; this tells of all. Only a test uses
//! it: `UPDATE_EXPECT=1 cargo test -p deltajoin manual` writes the file anew.
//!
//! # Invariants
//! * Every setting is in the manual, with its default.

use std::fmt::Write as _;

use crate::config::fault::wrap;
use crate::config::settings::{Fallback, Kind, Setting, Table, quoted_list};
use crate::config::table::TABLES;

const PREFACE: &str = include_str!("manual.md");

/// The text of the manual.
pub(super) fn manual() -> String {
    let mut text = PREFACE.to_owned();
    for table in TABLES {
        let title = match table.name {
            "" => "Before any table".to_owned(),
            _ => format!("`{}`", table.header()),
        };
        write!(text, "\n## {title}\n\n").expect("a string takes whatever is written");
        if !table.name.is_empty() {
            text.push_str(&wrap(table.doc, "", 100));
            text.push('\n');
        }
        for setting in table.settings {
            text.push_str(&item(table, setting));
        }
    }
    text
}

fn item(table: &Table, setting: &Setting) -> String {
    let noun = match setting.kind {
        Kind::OneOf(words) => quoted_list(words.iter().copied(), "or").replace('"', "`"),
        kind => kind.noun(),
    };
    let mut words = format!("* **`{}`**: {noun}", setting.name);
    if let Some(only) = setting.only_for {
        write!(words, "; for `type = \"{only}\"`").expect("a string takes whatever is written");
    }
    let default = match (&setting.fallback, setting.default_in(table)) {
        (Fallback::Required, _) => "required".to_owned(),
        (Fallback::Derived(how), _) => format!("default: {how}"),
        (Fallback::Default, Some(node)) => format!("default: `{}`", node.value.to_toml()),
        (Fallback::Default, None) => unreachable!("a test finds all defaults in default.toml"),
    };
    write!(words, "; {default}. {}", setting.doc).expect("a string takes whatever is written");
    wrap(&words, "  ", 100)
}
