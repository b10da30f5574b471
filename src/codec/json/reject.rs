//! Why a record is rejected, in words for the dead letters.
//!
//! # Invariants
//! * A message is one line and short, however large or strange the record is.

use deltajoin_workers::ports::reason;

/// Messages are cut to this many characters: enough for a name and the start of a value.
const MESSAGE_CHARACTERS_MAX: usize = 100;

/// Why a record cannot become a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// One of `ports::reason`.
    pub reason: &'static str,
    /// What is wrong, with the place in the record if it is no JSON.
    pub error: String,
    /// How much of `error` is left when the place is told in another way.
    message_bytes: usize,
    /// Where in the record, in bytes from 1; of use for records of one line.
    column: usize,
}

impl Reject {
    pub(super) fn new(reason: &'static str, message: &str, column: usize) -> Self {
        let error = shorten(message);
        Self {
            reason,
            message_bytes: error.len(),
            error,
            column,
        }
    }

    pub(super) fn syntax(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let place = format!(" at line {line} column {column}");
        let text = error.to_string().replace('`', "'");
        let text = text.strip_suffix(&place).unwrap_or(&text);
        let message = format!("not a JSON object: {text}");
        let mut reject = Self::new(reason::MALFORMED, &message, column.max(1));
        reject.error.push_str(&place);
        reject
    }

    /// A record of `bytes` bytes, which are too many.
    pub fn too_large(bytes: u64, record_bytes_max: usize) -> Self {
        let message =
            format!("record of {bytes} bytes is larger than max_record_bytes ({record_bytes_max})");
        Self::new(reason::TOO_LARGE, &message, 1)
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.error[..self.message_bytes]
    }

    /// The place in a record of one line, in bytes from 1.
    pub fn column(&self) -> usize {
        self.column
    }
}

/// Cuts a message that has become too long, and keeps it on one line.
pub(crate) fn shorten(message: &str) -> String {
    let mut characters = message.chars();
    let shown = characters.by_ref().take(MESSAGE_CHARACTERS_MAX);
    let mut short: String = shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if characters.next().is_some() {
        short.push_str("...");
    }
    short
}
