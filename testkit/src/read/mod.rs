//! Reads topics back, by clients that are not deltajoin's.
//!
//! Apart from the broker, which only says where to read.
//!
//! # Invariants
//! * Only committed records are seen, and each partition in the order of its offsets.

mod client;
mod console;

pub(crate) use client::read_all;
pub use console::{ConsoleReader, Until};

/// A record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRecord {
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// When it was published, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Names and values of its headers; the value of a header may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its key, unless null.
    pub key: Option<Vec<u8>>,
    /// Its value, unless null: then it is a tombstone.
    pub value: Option<Vec<u8>>,
}
