//! Seals text with a checksum: how manifests and reference tables are written.
//!
//! A sealed text begins with `{"checksum":"` and 16 hexadecimal digits: the xxh3-64 of everything
//! behind the comma that follows. So it is JSON that a person can read, and every byte counts. All
//! versions are sealed so: only what is whole can be said to be of another one.
//!
//! # Invariants
//! * A text in which any byte has changed is refused.

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::Error;
use crate::checkpoint::layout::VERSION;

const BEGIN: &[u8] = b"{\"checksum\":\"";
const DIGITS: usize = 16;
const MIDDLE: &[u8] = b"\",";

/// Seals a text that begins with a JSON object; returns it with its checksum.
pub(super) fn seal(text: &[u8]) -> (Vec<u8>, u64) {
    let rest = text
        .strip_prefix(b"{")
        .expect("an object begins with a brace");
    let checksum = xxh3_64(rest);
    ([opening(checksum), rest.to_vec()].concat(), checksum)
}

/// What a sealed text begins with; behind it is what the checksum is of.
pub(super) fn opening(checksum: u64) -> Vec<u8> {
    [BEGIN, format!("{checksum:016x}").as_bytes(), MIDDLE].concat()
}

/// Checks the seal of a text that was read under this name, and that the object it begins with is
/// of this version; returns the checksum.
pub(super) fn check_seal(name: &str, sealed: &[u8]) -> Result<u64, Error> {
    match (checksum(sealed), version(sealed)) {
        (Ok(checksum), Some(version)) if version == u64::from(VERSION) => Ok(checksum),
        (Ok(_), Some(found)) => Err(Error::Version {
            name: name.to_owned(),
            found,
            known: u64::from(VERSION),
        }),
        (Ok(_), None) => Err(damaged(name, "it has no version")),
        (Err(reason), _) => Err(damaged(name, &reason)),
    }
}

fn checksum(sealed: &[u8]) -> Result<u64, String> {
    let parts = || {
        let rest = sealed.strip_prefix(BEGIN)?;
        let (digits, rest) = rest.split_at_checked(DIGITS)?;
        Some((digits, rest.strip_prefix(MIDDLE)?))
    };
    let (digits, rest) = parts().ok_or("it does not begin with a checksum")?;
    let found = xxh3_64(rest);
    let text = format!("{found:016x}");
    if digits != text.as_bytes() {
        let digits = String::from_utf8_lossy(digits);
        return Err(format!("its checksum is {text}, not {digits}"));
    }
    Ok(found)
}

fn version(sealed: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    // Lines may follow.
    let mut objects = serde_json::Deserializer::from_slice(sealed).into_iter();
    let Version { version } = objects.next()?.ok()?;
    Some(version)
}

/// An object that is not what was written.
pub(super) fn damaged(name: &str, reason: &str) -> Error {
    Error::Damaged {
        name: name.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Checksums as text: JSON's numbers have not the bits for them.
pub(super) mod hex {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::checkpoint) fn serialize<S: Serializer>(
        checksum: &u64,
        output: S,
    ) -> Result<S::Ok, S::Error> {
        output.collect_str(&format_args!("{checksum:016x}"))
    }

    pub(in crate::checkpoint) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> Result<u64, D::Error> {
        let text = String::deserialize(input)?;
        let sum = u64::from_str_radix(&text, 16).ok();
        let sum = sum.filter(|sum| format!("{sum:016x}") == text);
        sum.ok_or_else(|| D::Error::custom(format!("{text:?} is no checksum")))
    }
}
