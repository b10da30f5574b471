//! Quantities with a unit: durations, as `20s`, and sizes, as `64MB`.
//!
//! They are apart because they are a small language of their own, with clear faults. The crate
//! `humantime` is not used: it takes months and years, which have no fixed length.
//!
//! # Invariants
//! * A quantity is a whole number greater than 0.

use std::time::Duration;

/// What is wrong with a quantity.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No digits at the start.
    #[error("no number")]
    NoNumber,
    /// Digits and a point.
    #[error("not a whole number")]
    NotWhole,
    /// Digits alone.
    #[error("no unit")]
    NoUnit,
    /// Letters that are no unit.
    #[error("unknown unit \"{0}\"")]
    UnknownUnit(String),
    /// Zero.
    #[error("it must be more than 0")]
    Zero,
    /// More than 64 bits hold.
    #[error("too large")]
    TooLarge,
}

/// Reads a duration.
pub(super) fn duration(text: &str) -> Result<Duration, Error> {
    let (number, unit) = split(text)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(Error::NoUnit),
        _ => return Err(Error::UnknownUnit(unit.to_owned())),
    };
    multiply(number, milliseconds).map(Duration::from_millis)
}

/// Writes a duration as it is read, in the largest unit of which it is a whole number.
pub(super) fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ];
    let unit = units
        .into_iter()
        .find(|(_, of)| milliseconds.is_multiple_of(*of));
    let (unit, of) = unit.unwrap_or(("ms", 1));
    format!("{}{unit}", milliseconds / of)
}

/// Reads a size in bytes.
pub fn size(text: &str) -> Result<usize, Error> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(Error::UnknownUnit(unit.to_owned())),
    };
    let bytes = multiply(number, bytes)?;
    usize::try_from(bytes).map_err(|_| Error::TooLarge)
}

fn split(text: &str) -> Result<(u64, &str), Error> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(Error::NoNumber);
    }
    if unit.starts_with(['.', ',']) {
        return Err(Error::NotWhole);
    }
    let number = digits.parse().map_err(|_| Error::TooLarge)?;
    Ok((number, unit.trim_start()))
}

fn multiply(number: u64, unit: u64) -> Result<u64, Error> {
    match number.checked_mul(unit) {
        Some(0) => Err(Error::Zero),
        Some(product) if i64::try_from(product).is_ok() => Ok(product),
        _ => Err(Error::TooLarge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, milliseconds) in [
            ("10ms", 10),
            ("20s", 20_000),
            ("5 m", 300_000),
            ("24h", 86_400_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        assert_eq!(duration("10"), Err(Error::NoUnit));
        assert_eq!(duration("s"), Err(Error::NoNumber));
        assert_eq!(duration("-1s"), Err(Error::NoNumber));
        assert_eq!(duration("1.5s"), Err(Error::NotWhole));
        assert_eq!(duration("2w"), Err(Error::UnknownUnit("w".to_owned())));
        assert_eq!(duration("0s"), Err(Error::Zero));
        assert_eq!(duration("99999999999999999d"), Err(Error::TooLarge));
    }

    #[test]
    fn sizes_count_by_1000_or_by_1024() {
        for (text, bytes) in [
            ("123", 123),
            ("64MB", 64_000_000),
            ("2KB", 2_000),
            ("2KiB", 2_048),
            ("3MiB", 3_145_728),
            ("1GiB", 1_073_741_824),
        ] {
            assert_eq!(size(text), Ok(bytes));
        }
        assert_eq!(size("64mb"), Err(Error::UnknownUnit("mb".to_owned())));
        assert_eq!(size(""), Err(Error::NoNumber));
        assert_eq!(size("0"), Err(Error::Zero));
        assert_eq!(size("99999999999GB"), Err(Error::TooLarge));
    }
}
