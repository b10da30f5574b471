//! The names of objects, and the one object that says what a location is.
//!
//! | name | what |
//! |---|---|
//! | `checkpoints.json` | `{"version":2,"job":JOB}`: what the location is |
//! | `manifest-NUMBER.json` | a checkpoint |
//! | `run-GENERATION-RANDOM.keys` | keys in order |
//! | `rows-GENERATION-RANDOM.arrow` | rows that may be revised |
//! | `reference-GENERATION-CHECKSUM.jsonl` | the reference table |
//! | `start-GENERATION-ATTEMPT` | the number of the manifest that the generation loads |
//!
//! Numbers have 20 digits, so the order of names is theirs.
//!
//! # Invariants
//! * An object that a generation may delete has in its name which generation wrote it.
//! * A name is never used for two contents: it has a random part, or the content's checksum.

use crate::checkpoint::store::{Put, Store};
use crate::checkpoint::{Error, Groups};

/// The version of all objects.
pub(super) const VERSION: u32 = 2;

/// Says what the location is.
pub(super) const ABOUT: &str = "checkpoints.json";

/// What a name tells of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A manifest of this number.
    Manifest(u64),
    /// A run of this generation.
    Run(u64),
    /// Rows of this generation.
    Rows(u64),
    /// A reference table of this generation.
    Reference(u64),
    /// What this generation goes on from.
    Start(u64),
    /// Not ours to touch.
    Other,
}

impl Kind {
    pub(super) fn of(name: &str) -> Self {
        Self::parse(name).unwrap_or(Self::Other)
    }

    fn parse(name: &str) -> Option<Self> {
        let (word, rest) = name.split_once('-')?;
        let (digits, rest) = rest.split_at_checked(20)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number = digits.parse().ok()?;
        let named = |ending: &str| {
            let hex = rest.strip_prefix('-')?.strip_suffix(ending)?;
            let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            (hex.len() == 16 && hex.bytes().all(is_hex)).then_some(number)
        };
        match word {
            "manifest" => (rest == ".json").then_some(Self::Manifest(number)),
            "run" => named(".keys").map(Self::Run),
            "rows" => named(".arrow").map(Self::Rows),
            "reference" => named(".jsonl").map(Self::Reference),
            "start" => {
                let attempt = rest.strip_prefix('-')?;
                let is_number = attempt.bytes().all(|byte| byte.is_ascii_digit());
                (attempt.len() == 3 && is_number).then_some(Self::Start(number))
            }
            _ => None,
        }
    }
}

/// The name of a manifest.
pub(super) fn manifest_name(number: u64) -> String {
    format!("manifest-{number:020}.json")
}

/// A new name for a run of a generation.
pub fn run_name(generation: u64) -> String {
    format!("run-{generation:020}-{}.keys", random())
}

/// A new name for rows of a generation.
pub fn rows_name(generation: u64) -> String {
    format!("rows-{generation:020}-{}.arrow", random())
}

/// The name of a reference table.
pub(super) fn reference_name(generation: u64, checksum: u64) -> String {
    format!("reference-{generation:020}-{checksum:016x}.jsonl")
}

/// The name of what tells which checkpoint a generation loads, at this attempt.
pub(super) fn start_name((generation, attempt): (u64, u32)) -> String {
    format!("start-{generation:020}-{attempt:03}")
}

/// Random bits, in 16 hexadecimal digits.
pub(super) fn random() -> String {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system has random bytes");
    format!("{:016x}", u64::from_le_bytes(bytes))
}

/// Says what the location is, if it is new. It also shows that the store can be written and does
/// not replace: the same name is put with other bytes, and must keep those that it has. A location
/// that is of the job already and takes nothing now is told of, and can be gone on from.
pub(super) fn establish(store: &Store) -> Result<(), Error> {
    let about = about(store.job());
    let other = format!("{about} ");
    let is_known = recognize(store)?;
    if !is_known && store.put(ABOUT, about.as_bytes())? == Put::Taken {
        recognize(store)?;
    }
    let second = match store.put(ABOUT, other.as_bytes()) {
        Err(error @ (Error::Refused { .. } | Error::Full { .. })) if is_known => {
            let (location, detail) = (store.location(), error.detail());
            tracing::error!(%error, detail, location, "the job goes on without checkpoints");
            return Ok(());
        }
        second => second?,
    };
    if second == Put::Written || store.get(ABOUT)?.ends_with(b" ") {
        store.delete(ABOUT)?;
        let location = store.location().to_owned();
        return Err(Error::NoConditionalPuts { location });
    }
    Ok(())
}

/// Whether the location is this job's already; none that this program does not know.
pub(super) fn recognize(store: &Store) -> Result<bool, Error> {
    let text = match store.get(ABOUT) {
        Err(Error::Missing { .. }) => return Ok(false),
        text => text?,
    };
    if text.trim_ascii() == about(store.job()).as_bytes() {
        return Ok(true);
    }
    #[derive(serde::Deserialize)]
    struct Version {
        version: u64,
    }
    let name = ABOUT.to_owned();
    match serde_json::from_slice(&text) {
        Ok(Version { version }) if version != u64::from(VERSION) => Err(Error::Version {
            name,
            found: version,
            known: u64::from(VERSION),
        }),
        _ => Err(Error::Damaged {
            name,
            reason: format!("it does not say that it is of job {:?}", store.job()),
        }),
    }
}

fn about(job: &str) -> String {
    format!("{{\"version\":{VERSION},\"job\":{job:?}}}")
}

/// Refuses groups that are none.
pub(super) fn check_groups(groups: Groups) -> Result<(), String> {
    if groups.is_valid() {
        return Ok(());
    }
    let Groups { first, last } = groups;
    Err(format!("key groups {first} to {last} are not a range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_they_name() {
        for (name, kind) in [
            (manifest_name(7), Kind::Manifest(7)),
            (run_name(u64::MAX), Kind::Run(u64::MAX)),
            (rows_name(8), Kind::Rows(8)),
            (reference_name(3, 9), Kind::Reference(3)),
            (start_name((4, 1)), Kind::Start(4)),
        ] {
            assert_eq!(Kind::of(&name), kind, "{name}");
            assert_eq!(Kind::of(&format!("{name}x")), Kind::Other);
        }
        for strange in [
            ABOUT,
            "",
            "run-",
            "run-00000000000000000001",
            "run-+0000000000000000001-0000000000000000.keys",
            "run-00000000000000000001-000000000000000/.keys",
            "manifest-99999999999999999999.json",
        ] {
            assert_eq!(Kind::of(strange), Kind::Other, "{strange}");
        }
    }
}
