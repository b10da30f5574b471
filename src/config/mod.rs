//! Configuration: one TOML file, the environment and the command line, checked as a whole before
//! anything starts.
//!
//! Reading goes by these steps, one file each: `tree` and `overrides` gather what was written,
//! with its place; `derive` adds what follows from it; `walk` compares it with the list in
//! `table`; `check`, `columns` and `targets` compare settings with one another; `read` makes a
//! [`Config`]; `effect` finds what was written and does nothing.
//!
//! # Invariants
//! * All faults are reported at once; a fault never hides one of another setting.
//! * Nothing here reads any other file than the configuration, nor the environment itself. Of other
//!   files it is only asked which they are.

mod address;
mod check;
mod columns;
mod derive;
mod effect;
mod fault;
mod identity;
#[cfg(test)]
mod manual;
mod model;
mod overrides;
mod properties;
mod quantity;
mod read;
mod section;
mod settings;
mod show;
mod table;
mod targets;
#[cfg(test)]
mod tests;
mod tree;
mod value;
mod walk;

use std::ffi::OsString;
use std::path::PathBuf;

pub use address::{share_a_broker, wrong_brokers};
pub use fault::Error;
pub use identity::FileIdentity;
pub use model::*;
pub use properties::reserved;
pub use quantity::{Error as QuantityError, size};
pub use show::digest;

use crate::config::fault::{Document, Faults};
use crate::config::section::Sections;
use crate::config::tree::{Node, Origin};

/// Where settings come from; later ones win, in the order of the fields.
#[derive(Clone, Debug)]
pub struct Sources<E> {
    /// The TOML file.
    pub file: PathBuf,
    /// The environment, as [`std::env::vars_os`] gives it; `DELTAJOIN_EVENTS__TOPIC` and its like
    /// are settings.
    pub environment: E,
    /// `path=value` of each `--set`, in order.
    pub set: Vec<String>,
}

/// A configuration without faults, and where its settings come from.
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    sections: Sections,
    document: Document,
}

impl Loaded {
    /// Every setting with its value and origin, as a file that means the same. Secrets are masked,
    /// and settings that this build does not act on are comments.
    pub fn resolved(&self) -> String {
        show::resolved(&self.sections, &self.document)
    }

    /// A line for each setting that was written and has no effect beside the others: which, why and
    /// where.
    pub fn idle(&self) -> Vec<String> {
        effect::idle(&self.sections, &self.document)
    }

    /// Refuses what was written and the textbook engine has not.
    ///
    /// # Errors
    /// All such settings.
    pub fn check_textbook(&self) -> Result<(), Error> {
        let mut faults = Faults::default();
        effect::beyond_textbook(&self.sections, &mut faults);
        match faults.is_empty() {
            true => Ok(()),
            false => Err(faults.into_error(&self.document)),
        }
    }

    /// Where a setting was written, for messages: `job.toml:12:9`, or `the default`.
    pub fn place(&self, table: &str, setting: &str) -> String {
        let section = self.sections.get(table);
        let field = section.and_then(|section| section.field(setting));
        match field.map_or(&Origin::Default, |field| &field.node.origin) {
            Origin::Default => "the default".to_owned(),
            written => self.document.place(written),
        }
    }

    /// The report of a fault that the file alone does not show: what is wrong with the value of a
    /// setting, and why. Of tables of one name, `number` says which it is, from 0.
    pub fn fault(
        &self,
        (table, number): (&str, usize),
        setting: &str,
        message: &str,
        detail: &str,
    ) -> Error {
        let section = self.sections.all(table).nth(number);
        let place = section.map_or(&Origin::Default, |section| section.place(&[setting]));
        let mut faults = Faults::default();
        faults.add(place, message).detail(detail);
        faults.into_error(&self.document)
    }
}

/// Reads and checks the configuration.
///
/// # Errors
/// All faults that there are, as one report. None goes away by another try, so the exit code is 2.
pub fn load<E>(sources: Sources<E>) -> Result<Loaded, Error>
where
    E: IntoIterator<Item = (OsString, OsString)>,
{
    let mut faults = Faults::default();
    let text = match std::fs::read(&sources.file) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let start = error.into_bytes()[..valid].to_vec();
            let line = start.iter().filter(|byte| **byte == b'\n').count() + 1;
            faults
                .add(&Origin::Default, "the configuration is not UTF-8")
                .detail(format!("The first byte that is wrong is in line {line}."));
        }),
        Err(error) => {
            faults
                .add(
                    &Origin::Default,
                    format!("could not read the configuration: {error}"),
                )
                .hint("Name a TOML file that this user can read with --config.");
            Err(())
        }
    };
    let document = Document::new(&sources.file, text.unwrap_or_default());
    if !faults.is_empty() {
        return Err(faults.into_error(&document));
    }
    let Some(mut tree) = parse(&document, &mut faults) else {
        return Err(faults.into_error(&document));
    };
    overrides::apply_environment(&mut tree, sources.environment, &mut faults);
    overrides::apply_set(&mut tree, &sources.set, &mut faults);
    derive::derive(&mut tree);
    let sections = Sections(walk::walk(&tree, &mut faults));
    let config = read::read(&sections, &mut faults);
    check::check(&sections, &mut faults);
    targets::check(&sections, &sources.file, &mut faults);
    match config {
        Some(config) if faults.is_empty() => Ok(Loaded {
            config,
            sections,
            document,
        }),
        _ => {
            assert!(!faults.is_empty(), "what cannot be read has been reported");
            Err(faults.into_error(&document))
        }
    }
}

fn parse(document: &Document, faults: &mut Faults) -> Option<Node> {
    match tree::parse(document.text()) {
        Ok(mut tree) => {
            overrides::flatten_properties(&mut tree);
            Some(tree)
        }
        Err(errors) => {
            // The parser goes on after a fault, but takes what follows for something else: only
            // names that come twice disturb nothing behind them.
            let twice = |error: &toml::de::Error| error.message() == "duplicate key";
            let all_stand = errors.iter().all(twice);
            let count = if all_stand { errors.len() } else { 1 };
            for error in errors
                .iter()
                .filter(|error| all_stand || !twice(error))
                .take(count)
            {
                let place = error.span().map_or(Origin::Default, Origin::File);
                faults.add(&place, format!("not TOML: {}", error.message()));
            }
            None
        }
    }
}
