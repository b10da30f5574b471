//! The house rules, as tests over the checkout: what a reviewer would otherwise have to look for.
//!
//! Each rule is a function from text to faults, so that it can be tried on text that breaks it: a
//! check that cannot fail is worth nothing. `the_rules_hold` applies all of them to every file;
//! the tests in `broken` break each rule once. Rules that tools know stay with the tools: the form
//! is rustfmt's; lengths of functions, `unwrap`, printing and undocumented items are lints in
//! `Cargo.toml` and `clippy.toml`.
//!
//! # Invariants
//! * A fault names the file and the line; all faults are reported at once.

mod arrows;
mod broken;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use deltajoin::config::{self, Sources};

use crate::tidy::arrows::ARROWS;
use crate::tidy::source::{code, identifiers, numbered, paths, without_tests};

/// Lines of a file: one sitting's reading.
const LINES_MAX: usize = 500;
/// Columns of a line: what fits beside another file on a screen.
const COLUMNS_MAX: usize = 100;

/// The files that may hold unsafe code: librdkafka's batch calls, and an encoding that is off by
/// default and cannot be had otherwise (`docs/decisions/0003-abomonation.md`).
const UNSAFE_FILES: [&str; 4] = [
    "src/connectors/kafka/ffi.rs",
    "src/connectors/kafka/ffi/describe.rs",
    "src/connectors/kafka/ffi/producer.rs",
    "workers/src/textbook/abomonated.rs",
];

/// The one pair of versions that the core is written for.
const PINS: [&str; 2] = [
    "timely = \"=0.32.0\"",
    "differential-dataflow = \"=0.26.0\"",
];

/// The outside world comes in by ports.
const FORBIDDEN_IN_CORE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::time::SystemTime",
    "std::time::Instant",
    "rdkafka",
    "tokio",
    "libc",
];

/// Every rule, on every file of the checkout.
#[test]
fn the_rules_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = files(root);
    let known: BTreeSet<&str> = files.iter().map(|file| &*file.path).collect();
    let glossary = files.iter().find(|file| file.path == "docs/glossary.md");
    let words = words_never_said(&glossary.expect("there is a glossary").text);
    assert!(
        words.len() > 5,
        "the glossary lists words not to be used: {words:?}"
    );
    let mut faults = Vec::new();
    for file in &files {
        let File { path, text } = file;
        let mut add = |found: Vec<String>| faults.extend(found);
        if path.ends_with(".rs") {
            let code = code(text);
            add(opening(path, text));
            add(lines(path, text));
            add(safety(path, &code));
            add(arrows(path, &code));
            add(imports(path, &code));
            add(names(path, &code, &words));
        }
        if path.ends_with(".md") {
            add(links(path, text, &known));
        }
        if path.ends_with(".md") || path.ends_with(".rs") {
            add(mentions(path, text, &known));
        }
        if path.ends_with("Cargo.toml") {
            add(manifest(path, text));
        }
        if path.starts_with("configs/") && path.ends_with(".toml") {
            add(configuration(&root.join(path)));
        }
        if path.ends_with(".md") {
            add(shown(path, text));
        }
        add(reminders(path, text));
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// A text file of the checkout; its path is relative and has slashes.
struct File {
    path: String,
    text: String,
}

/// All files of the checkout that are text, but for what is built or hidden.
fn files(root: &Path) -> Vec<File> {
    let mut folders = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let hidden = name.starts_with('.') && name != ".ci";
            if hidden || path.is_symlink() || path.join("CACHEDIR.TAG").exists() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root).unwrap().to_str().unwrap();
                files.push(File {
                    path: path.replace('\\', "/"),
                    text,
                });
            }
        }
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(files.len() > 50, "the checkout is where cargo says it is");
    files
}

/// A file opens by saying what it is.
fn opening(path: &str, text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .count();
    match lines {
        0 => vec![format!("{path}:1: opens without `//!`")],
        1..=40 => Vec::new(),
        _ => vec![format!(
            "{path}:1: opens with {lines} lines of `//!`: make it a page of docs"
        )],
    }
}

/// Files and lines are short, and code is ASCII, so that what is seen is what is compiled.
fn lines(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let count = text.lines().count();
    if count > LINES_MAX {
        faults.push(format!("{path}:{count}: more than {LINES_MAX} lines"));
    }
    for (number, line) in numbered(text) {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            faults.push(format!("{path}:{number}: {columns} columns"));
        }
        if let Some(strange) = line.chars().find(|char| !char.is_ascii()) {
            faults.push(format!("{path}:{number}: {strange:?} is not ASCII"));
        }
    }
    faults
}

/// Unsafe code stands in few files. The compiler denies the rest; this finds who allows it.
fn safety(path: &str, code: &str) -> Vec<String> {
    let words = ["unsafe", "unsafe_code"];
    let found = numbered(code).filter(|(_, line)| {
        identifiers(line).any(|word| words.contains(&word)) && !UNSAFE_FILES.contains(&path)
    });
    found
        .map(|(number, _)| format!("{path}:{number}: unsafe code"))
        .collect()
}

/// Imports go one way, as in `docs/architecture.md`.
fn arrows(path: &str, code: &str) -> Vec<String> {
    if path.starts_with("workers/src/") {
        return core_imports(path, code);
    }
    let Some(inner) = path.strip_prefix("src/") else {
        return Vec::new();
    };
    let part = inner.split(['/', '.']).next().unwrap_or_default();
    let Some(arrow) = ARROWS.iter().find(|arrow| arrow.part == part) else {
        return vec![format!(
            "{path}:1: {part:?} is missing in the table of arrows"
        )];
    };
    let connector = inner.split(['/', '.']).nth(1).unwrap_or_default();
    let mut faults = Vec::new();
    for (number, import) in paths(without_tests(path, code)) {
        let mut segments = import.split("::");
        let (origin, target) = (segments.next(), segments.next().unwrap_or_default());
        let allowed = match origin {
            Some("crate" | "deltajoin") if part == "connectors" && target == part => {
                segments.next() == Some(connector)
            }
            Some("crate" | "deltajoin") => target == part || arrow.shell.contains(&target),
            Some("deltajoin_workers") => arrow.core.contains(&target) || arrow.core == ["*"],
            _ => true,
        };
        if !allowed {
            faults.push(format!("{path}:{number}: {part} must not import {import}"));
        }
    }
    faults
}

/// The core touches nothing outside.
fn core_imports(path: &str, code: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, import) in paths(without_tests(path, code)) {
        for forbidden in FORBIDDEN_IN_CORE {
            let rest = import.strip_prefix(forbidden);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::")) {
                faults.push(format!(
                    "{path}:{number}: the core must not import {import}"
                ));
            }
        }
    }
    faults
}

/// An import names what it takes, from the crate's root.
fn imports(path: &str, code: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in numbered(without_tests(path, code)) {
        // What the configuration's model defines is the module's own face.
        if line.contains("::*") && line != "pub use model::*;" {
            faults.push(format!("{path}:{number}: glob import"));
        }
        if line.contains("super::") {
            faults.push(format!("{path}:{number}: `super::` for `crate::`"));
        }
    }
    faults
}

/// Public names use the words of the glossary.
fn names(path: &str, code: &str, never: &[String]) -> Vec<String> {
    let kinds = [
        "struct", "enum", "trait", "type", "fn", "mod", "const", "static",
    ];
    let mut faults = Vec::new();
    for (number, line) in numbered(code) {
        let mut words = identifiers(line);
        if words.next() != Some("pub") || !words.any(|word| kinds.contains(&word)) {
            continue;
        }
        let name = words.find(|word| !kinds.contains(word)).unwrap_or_default();
        for word in parts(name) {
            if never.contains(&word) {
                faults.push(format!(
                    "{path}:{number}: {name:?} says {word:?}: see the glossary"
                ));
            }
        }
    }
    faults
}

/// Words that the glossary tells not to use in names: those in backquotes below its last heading.
fn words_never_said(glossary: &str) -> Vec<String> {
    let list = glossary.rsplit("\n## ").next().unwrap_or_default();
    list.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// A reminder has the number of an issue, or is not there.
fn reminders(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in numbered(text) {
        for word in [
            concat!("TO", "DO"),
            concat!("FIX", "ME"),
            concat!("XX", "X"),
        ] {
            let found = line.split_once(word).map(|(_, rest)| rest);
            if found.is_some_and(|rest| !rest.starts_with("(#")) {
                faults.push(format!(
                    "{path}:{number}: {word} without the number of an issue"
                ));
            }
        }
    }
    faults
}

/// A file that a text names in backquotes is there, if its name begins with a folder of ours.
fn mentions(path: &str, text: &str, known: &BTreeSet<&str>) -> Vec<String> {
    let folders: BTreeSet<&str> = known
        .iter()
        .filter_map(|known| known.split_once('/'))
        .map(|(folder, _)| folder)
        .collect();
    let mut faults = Vec::new();
    for (number, line) in numbered(text) {
        if path.ends_with(".rs") && !line.trim_start().starts_with("//") {
            continue;
        }
        for name in line.split('`').skip(1).step_by(2) {
            let ours = name
                .split_once('/')
                .is_some_and(|(folder, _)| folders.contains(folder));
            let plain = !name.contains(|char: char| char.is_whitespace() || "<>*{}".contains(char));
            if ours && plain && !is_there(name.trim_end_matches('/'), known) {
                faults.push(format!("{path}:{number}: {name} is not there"));
            }
        }
    }
    faults
}

/// A link to a file or heading of the checkout leads there.
fn links(path: &str, text: &str, known: &BTreeSet<&str>) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut faults = Vec::new();
    for (number, line) in numbered(text) {
        for rest in line.split("](").skip(1) {
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if !outside && !file.is_empty() && !is_there(&resolve(folder, file), known) {
                faults.push(format!(
                    "{path}:{number}: the link {target:?} leads nowhere"
                ));
            }
        }
    }
    faults
}

/// Every member takes the lints of all, and the versions that must not move do not.
fn manifest(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.contains("[lints]\nworkspace = true") {
        faults.push(format!(
            "{path}:1: does not take the lints of the workspace"
        ));
    }
    for pin in PINS {
        let root = text.contains("[workspace]");
        if root && !text.lines().any(|line| line == pin) {
            faults.push(format!("{path}:1: {pin} is missing"));
        }
    }
    faults
}

/// A configuration that we show is one that we take.
fn configuration(file: &Path) -> Vec<String> {
    let sources = Sources {
        file: file.to_owned(),
        environment: [],
        set: Vec::new(),
    };
    config::load(sources)
        .err()
        .map(|error| error.to_string())
        .into_iter()
        .collect()
}

/// So is one that a document shows.
fn shown(path: &str, text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shown.toml");
    let mut faults = Vec::new();
    for block in text.split("```toml\n").skip(1) {
        fs::write(&file, block.split("```").next().unwrap_or_default()).unwrap();
        let found = configuration(&file);
        faults.extend(found.iter().map(|fault| format!("{path}: {fault}")));
    }
    faults
}

/// The words of a name, `StatusFile` as well as `status_file`, in lower case.
fn parts(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for char in name.chars() {
        if char == '_' || char.is_uppercase() && name.contains(char::is_lowercase) {
            words.push(String::new());
        }
        if char != '_' {
            words
                .last_mut()
                .expect("one at least")
                .extend(char.to_lowercase());
        }
    }
    words
}

fn is_there(name: &str, known: &BTreeSet<&str>) -> bool {
    let inside = format!("{name}/");
    known.contains(name) || known.iter().any(|known| known.starts_with(&inside))
}

fn resolve(folder: &str, target: &str) -> String {
    let mut path: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(path.pop()),
            part => path.push(part),
        }
    }
    path.join("/")
}
