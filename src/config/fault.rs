//! The report of everything that is wrong: each fault with its place, its line and a hint.
//!
//! It is apart from those who find faults, so that all faults look alike, whoever finds them, and
//! come in the order of the file.
//!
//! # Invariants
//! * A line of the file that names a secret is never shown.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::properties::names_secret;
use crate::config::tree::Origin;

/// Something wrong with the configuration: the whole report, ready to be shown.
#[derive(Debug, thiserror::Error)]
#[error("{report}")]
pub struct Error {
    report: String,
}

/// The file: its name, for places, and its text.
pub(super) struct Document {
    name: String,
    text: String,
}

impl Document {
    /// The file at `path`, with what was read from it.
    pub(super) fn new(path: &Path, text: String) -> Self {
        Self {
            name: path.display().to_string(),
            text,
        }
    }

    /// Its text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// A place, as `file:line:column`, a variable's name, or `--set` and a path.
    pub(super) fn place(&self, origin: &Origin) -> String {
        match origin {
            Origin::Default => self.name.clone(),
            Origin::File(span) => {
                let (line, column) = self.position(span.start);
                format!("{}:{line}:{column}", self.name)
            }
            Origin::Environment(name) => name.clone(),
            Origin::Set(path) => format!("--set {path}"),
        }
    }

    /// Line and column of a byte, counted from 1; columns count characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..offset.min(self.text.len())];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// The line of a span, with the span marked below it.
    fn snippet(&self, start: usize, end: usize) -> Option<String> {
        let (number, column) = self.position(start);
        let line = self.text.lines().nth(number - 1)?;
        if names_secret(line) {
            return None;
        }
        let before = line.chars().take(column - 1);
        // A tab is as wide below as it is above.
        let margin: String = before.map(|c| if c == '\t' { c } else { ' ' }).collect();
        let marked = self.text[start..end].chars().take_while(|c| *c != '\n');
        let width = marked
            .count()
            .min((line.chars().count() + 1).saturating_sub(column));
        let gutter = " ".repeat(number.to_string().len());
        let marks = "^".repeat(width.max(1));
        Some(format!(
            "{gutter} |\n{number} | {line}\n{gutter} | {margin}{marks}\n"
        ))
    }
}

/// One thing that is wrong.
pub(super) struct Fault {
    place: Origin,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Fault {
    /// Adds a sentence that explains it.
    pub(super) fn detail(&mut self, detail: impl Into<String>) -> &mut Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a sentence that says what to do.
    pub(super) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a hint, if there is one.
    pub(super) fn maybe_hint(&mut self, hint: Option<impl Into<String>>) -> &mut Self {
        self.hint = hint.map(Into::into);
        self
    }

    fn order(&self) -> (u8, usize, &str) {
        match &self.place {
            Origin::Default => (0, 0, ""),
            Origin::File(span) => (1, span.start, ""),
            Origin::Environment(name) => (2, 0, name),
            Origin::Set(_) => (3, 0, ""),
        }
    }

    fn render(&self, document: &Document, report: &mut String) -> std::fmt::Result {
        writeln!(report, "error: {}", self.message)?;
        writeln!(report, "  --> {}", document.place(&self.place))?;
        if let Origin::File(span) = &self.place
            && let Some(snippet) = document.snippet(span.start, span.end)
        {
            report.push_str(&snippet);
        }
        if let Some(detail) = &self.detail {
            report.push_str(&wrap(&format!("  detail: {detail}"), "    ", 80));
        }
        if let Some(hint) = &self.hint {
            report.push_str(&wrap(&format!("  hint: {hint}"), "    ", 80));
        }
        Ok(())
    }
}

/// All faults found so far.
#[derive(Default)]
pub(super) struct Faults {
    faults: Vec<Fault>,
}

impl Faults {
    /// Adds one.
    pub(super) fn add(&mut self, place: &Origin, message: impl Into<String>) -> &mut Fault {
        self.faults.push(Fault {
            place: place.clone(),
            message: message.into(),
            detail: None,
            hint: None,
        });
        self.faults.last_mut().expect("one was just pushed")
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// The report, in the order of places.
    pub(super) fn into_error(mut self, document: &Document) -> Error {
        self.faults
            .sort_by(|left, right| left.order().cmp(&right.order()));
        let mut report = String::new();
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                report.push('\n');
            }
            fault
                .render(document, &mut report)
                .expect("a string takes whatever is written");
        }
        if self.faults.len() > 1 {
            let summary = format!("\n{} faults in {}", self.faults.len(), document.name);
            report.push_str(&summary);
        }
        Error {
            report: report.trim_end().to_owned(),
        }
    }
}

/// Breaks text into lines of `width` columns; all but the first begin with `indent`.
pub(super) fn wrap(text: &str, indent: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for (index, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if index > 0 && column + 1 + length > width {
            lines.push('\n');
            lines.push_str(indent);
            column = indent.len();
        } else if index > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines.push('\n');
    lines
}

/// The known word that comes nearest to `word`, if one is near.
pub(super) fn guess<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Below this a guess is more often wrong than right.
    const NEAR: f64 = 0.82;
    let word = word.to_lowercase();
    known
        .map(|known| (strsim::jaro_winkler(&word, known), known))
        .filter(|(nearness, _)| *nearness >= NEAR)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, known)| known)
}

/// `Did you mean ...?`, if a known word is near.
pub(super) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    guess(word, known).map(|known| format!("Did you mean \"{known}\"?"))
}
