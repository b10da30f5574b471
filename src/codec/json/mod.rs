//! JSON: one object a row, by the names of its columns.
//!
//! | type | in | out |
//! |---|---|---|
//! | `int64` | a number without fraction or exponent | the same |
//! | `float64` | a number; one of digits alone must fit | the shortest that reads back the same |
//! | `string`, `bool` | a string; `true` or `false` | the same |
//! | `timestamp` | RFC 3339 | RFC 3339 in UTC, microseconds if there are any |
//! | `decimal(p,s)` | a number, or a string that holds one | a number of `s` decimal places |
//!
//! # Invariants
//! * Nothing is converted in silence: another type than the column's is rejected. Only a `float64`
//!   with a point or an exponent is rounded, to the nearest there is.
//! * Fields that are no column are ignored, but must be JSON.
//! * The encoder writes what the decoder reads back as the same values.

mod careful;
mod decode;
mod encode;
mod reject;
mod sample;
#[cfg(test)]
mod tests;

pub use decode::Decoder;
pub use encode::{Encoder, RowEncoder};
pub(crate) use encode::{write_string, write_timestamp};
pub use reject::Reject;
pub(crate) use reject::shorten;
pub use sample::Sample;
