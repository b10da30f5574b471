//! Reads one value from its text, exactly or not at all.
//!
//! It is apart from `json` because CSV fields hold the same texts.
//!
//! # Invariants
//! * Nothing is cut or guessed: a value that the column cannot hold is a fault. Nothing is rounded
//!   but a `float64` that is written with a point or an exponent, to the nearest there is.
//! * A timestamp lies within the years 0 to 9999 in UTC, so it can be written as RFC 3339.

use chrono::DateTime;

/// Microseconds since 1970 at which the year 0 begins.
const TIMESTAMP_MIN: i64 = -62_167_219_200_000_000;
/// The last microsecond of the year 9999.
const TIMESTAMP_MAX: i64 = 253_402_300_799_999_999;

/// From here on not every whole number is a `float64`: 2 to the power of 53.
const FLOAT64_GAPS: f64 = 9_007_199_254_740_992.0;

/// Why a column cannot hold a value; shown between the column's name and the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not an integer.
    #[error("is not an int64")]
    NotInt64,
    /// Not a number.
    #[error("is not a number")]
    NotNumber,
    /// Not text.
    #[error("is not a string")]
    NotString,
    /// Text with half a surrogate pair.
    #[error("is not valid Unicode")]
    NotUnicode,
    /// Not a truth value.
    #[error("is not true or false")]
    NotBool,
    /// Not a time.
    #[error("is not an RFC 3339 time")]
    NotTimestamp,
    /// A number or time that the type does not reach.
    #[error("is out of range for {0}")]
    OutOfRange(&'static str),
    /// A time with a fraction that would be lost.
    #[error("is finer than a microsecond")]
    FinerThanMicroseconds,
    /// A decimal with a fraction that would be lost.
    #[error("has more than {0} digits after the point")]
    FractionDigits(u8),
    /// A decimal that is too large.
    #[error("has more than {0} digits before the point")]
    WholeDigits(u8),
}

/// Reads an integer.
pub fn int64(text: &str) -> Result<i64, Fault> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !all_digits(digits) {
        return Err(Fault::NotInt64);
    }
    text.parse().map_err(|_| Fault::OutOfRange("int64"))
}

/// Reads a finite number. One with a point or an exponent becomes the nearest `f64`, though zero
/// only if it is zero; any other is held exactly or not at all.
pub fn float64(text: &str) -> Result<f64, Fault> {
    let in_numbers = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    if text.starts_with('+') || !text.as_bytes().iter().all(in_numbers) {
        return Err(Fault::NotNumber);
    }
    let value: f64 = text.parse().map_err(|_| Fault::NotNumber)?;
    let held = if value == 0.0 {
        is_zero(text)
    } else {
        value.abs() < FLOAT64_GAPS || value.is_finite() && no_digit_is_lost(text, value)
    };
    if held {
        Ok(value)
    } else {
        Err(Fault::OutOfRange("float64"))
    }
}

/// Whether a number is zero as it is written, its exponent aside.
fn is_zero(number: &str) -> bool {
    let mut mantissa = number.bytes().take_while(|byte| !b"eE".contains(byte));
    mantissa.all(|byte| !matches!(byte, b'1'..=b'9'))
}

/// Whether a large number, if it is written as digits alone, is exactly `value`.
fn no_digit_is_lost(number: &str, value: f64) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    // With a precision, all digits of the value are written, not the fewest that tell it.
    !all_digits(digits) || format!("{:.0}", value.abs()) == digits.trim_start_matches('0')
}

/// Reads a truth value.
pub fn boolean(text: &str) -> Result<bool, Fault> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Fault::NotBool),
    }
}

/// Reads an RFC 3339 time as microseconds since 1970.
pub fn timestamp(text: &str) -> Result<i64, Fault> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| Fault::NotTimestamp)?;
    // The fraction is looked at in the text, because chrono drops digits beyond nanoseconds.
    if let Some((_, fraction)) = text.split_once('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit);
        if digits.skip(6).any(|digit| digit != b'0') {
            return Err(Fault::FinerThanMicroseconds);
        }
    }
    let micros = time.timestamp_micros();
    if timestamp_in_range(micros) {
        Ok(micros)
    } else {
        Err(Fault::OutOfRange("timestamp"))
    }
}

/// Whether RFC 3339 can name a time, given in microseconds since 1970.
pub fn timestamp_in_range(micros: i64) -> bool {
    (TIMESTAMP_MIN..=TIMESTAMP_MAX).contains(&micros)
}

/// Reads a decimal, with an exponent or without, as its unscaled digits.
pub fn decimal(text: &str, precision: u8, scale: u8) -> Result<i128, Fault> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) if all_digits(fraction) => (whole, fraction),
        Some(_) => return Err(Fault::NotNumber),
        None => (mantissa, ""),
    };
    if !all_digits(whole) {
        return Err(Fault::NotNumber);
    }
    // The value is the digits, shifted to the left by so many places of the unscaled number.
    let length = |digits: &str| i64::try_from(digits.len()).expect("a text fits into memory");
    let shift = exponent + i64::from(scale) - length(fraction);
    let kept = usize::try_from(length(whole) + length(fraction) + shift.min(0)).unwrap_or(0);
    let mut digits = whole.bytes().chain(fraction.bytes());
    let mut unscaled = Some(0_i128);
    for digit in digits.by_ref().take(kept) {
        let shifted = unscaled.and_then(|value| value.checked_mul(10));
        unscaled = shifted.and_then(|value| value.checked_add(i128::from(digit - b'0')));
    }
    if digits.any(|digit| digit != b'0') {
        return Err(Fault::FractionDigits(scale));
    }
    let places = u32::try_from(shift.max(0)).unwrap_or(u32::MAX);
    let unscaled = match unscaled {
        Some(0) => return Ok(0),
        Some(value) => 10_i128
            .checked_pow(places)
            .and_then(|power| value.checked_mul(power)),
        None => None,
    };
    match unscaled {
        Some(value) if value < 10_i128.pow(precision.into()) => {
            Ok(if negative { -value } else { value })
        }
        _ => Err(Fault::WholeDigits(precision - scale)),
    }
}

/// Reads an exponent; one that is far too large stays far too large.
fn exponent_of(text: &str) -> Result<i64, Fault> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !all_digits(digits) {
        return Err(Fault::NotNumber);
    }
    // Half of the range leaves room to add the lengths of the digits.
    let value = digits.parse().unwrap_or(i64::MAX).min(i64::MAX / 2);
    Ok(if text.starts_with('-') { -value } else { value })
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_is_read_exactly_or_refused() {
        let read = |text| decimal(text, 6, 2);
        for (text, unscaled) in [
            ("0", 0),
            ("-0", 0),
            ("0.000e99999999999999999999", 0),
            ("1", 100),
            ("-12.5", -1250),
            ("12.50", 1250),
            ("12.5000", 1250),
            ("0012.5", 1250),
            ("9999.99", 999_999),
            ("1.25e1", 1250),
            ("125E-1", 1250),
            ("12500e-4", 125),
            ("100000e-7", 1),
        ] {
            assert_eq!(read(text), Ok(unscaled), "{text}");
        }
        for (text, fault) in [
            ("12.505", Fault::FractionDigits(2)),
            ("1e-3", Fault::FractionDigits(2)),
            ("1e-99999999999999999999", Fault::FractionDigits(2)),
            ("10000", Fault::WholeDigits(4)),
            ("1e4", Fault::WholeDigits(4)),
            ("1e99999999999999999999", Fault::WholeDigits(4)),
            (
                "99999999999999999999999999999999999999999",
                Fault::WholeDigits(4),
            ),
            ("", Fault::NotNumber),
            ("-", Fault::NotNumber),
            ("+1", Fault::NotNumber),
            (".5", Fault::NotNumber),
            ("5.", Fault::NotNumber),
            ("1e", Fault::NotNumber),
            ("1.2.3", Fault::NotNumber),
            ("12,50", Fault::NotNumber),
            (" 1", Fault::NotNumber),
            ("NaN", Fault::NotNumber),
        ] {
            assert_eq!(read(text), Err(fault), "{text}");
        }
        let largest = "9".repeat(38);
        assert_eq!(decimal(&largest, 38, 0), Ok(10_i128.pow(38) - 1));
    }

    #[test]
    fn a_time_keeps_its_microseconds_and_refuses_finer_ones() {
        assert_eq!(timestamp("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(timestamp("1970-01-01T01:00:00.000001+01:00"), Ok(1));
        assert_eq!(timestamp("1970-01-01T00:00:00.1234560000000Z"), Ok(123_456));
        assert_eq!(timestamp("1969-12-31T23:59:59.999999Z"), Ok(-1));
        assert_eq!(timestamp("0000-01-01T00:00:00Z"), Ok(TIMESTAMP_MIN));
        assert_eq!(timestamp("9999-12-31T23:59:59.999999Z"), Ok(TIMESTAMP_MAX));
        for (text, fault) in [
            ("1970-01-01T00:00:00.0000001Z", Fault::FinerThanMicroseconds),
            (
                "1970-01-01T00:00:00.0000000000001Z",
                Fault::FinerThanMicroseconds,
            ),
            ("9999-12-31T23:59:59-01:00", Fault::OutOfRange("timestamp")),
            ("0000-01-01T00:00:00+01:00", Fault::OutOfRange("timestamp")),
            ("1970-01-01T00:00:00", Fault::NotTimestamp),
            ("1970-02-30T00:00:00Z", Fault::NotTimestamp),
            ("10000-01-01T00:00:00Z", Fault::NotTimestamp),
            ("0", Fault::NotTimestamp),
            ("", Fault::NotTimestamp),
        ] {
            assert_eq!(timestamp(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn numbers_are_in_range_or_refused() {
        assert_eq!(int64("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(
            int64("9223372036854775808"),
            Err(Fault::OutOfRange("int64"))
        );
        for text in ["", "-", "+1", "5.7", "5.0", "1e3", " 1", "0x1"] {
            assert_eq!(int64(text), Err(Fault::NotInt64), "{text}");
        }
        assert_eq!(float64("-1.5e3"), Ok(-1500.0));
        for text in ["", "+1", "NaN", "inf", "-inf", "infinity", "1 ", "e"] {
            assert_eq!(float64(text), Err(Fault::NotNumber), "{text}");
        }
        assert_eq!(boolean("TRUE"), Err(Fault::NotBool));
    }

    #[test]
    fn a_float_is_the_nearest_but_a_whole_number_is_exact_or_refused() {
        for (text, value) in [
            ("0.1", 0.1_f64),
            ("-0", -0.0),
            ("0.000e-999", 0.0),
            ("5e-324", 5e-324),
            ("9007199254740992", 9_007_199_254_740_992.0),
            ("-0009007199254740994", -9_007_199_254_740_994.0),
            ("9007199254740993.0", 9_007_199_254_740_992.0),
            ("18446744073709551616", 18_446_744_073_709_551_616.0),
            ("10000000000000000000000", 1e22),
            ("1e23", 1e23),
        ] {
            let read = float64(text).map(f64::to_bits);
            assert_eq!(read, Ok(value.to_bits()), "{text}");
        }
        for text in [
            "1e400",
            "-1e400",
            "1e-400",
            "-0.001e-330",
            "9007199254740993",
            "-9007199254740993",
            "18446744073709551615",
            "100000000000000000000000",
            &"9".repeat(400),
        ] {
            assert_eq!(float64(text), Err(Fault::OutOfRange("float64")), "{text}");
        }
    }
}
