//! Reads the lines of a file, and never holds more of one than is allowed.
//!
//! It is apart from `source` because the reference table may be JSON lines too.
//!
//! # Invariants
//! * Lines are counted from 1, blank ones included; blank ones are not given out.
//! * A last line without a newline is a line; in a file that may grow, only if it is a whole JSON
//!   object: else somebody may still be writing it, and it is left.

use std::io::{self, BufRead, Read};

use serde::de::IgnoredAny;

/// The mark that some editors put at the start of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It has more bytes than allowed.
    TooLong {
        /// Its first bytes, as many as are allowed.
        head: &'a [u8],
        /// How many bytes it has.
        bytes: u64,
    },
}

/// The lines of a file.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    number: u64,
    line: Vec<u8>,
    line_bytes_max: usize,
    grows: bool,
    left: Option<u64>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R, line_bytes_max: usize) -> Self {
        Self {
            reader,
            number: 0,
            line: Vec::new(),
            line_bytes_max,
            grows: false,
            left: None,
        }
    }

    /// The lines of a file that may grow, of which `number` were read before.
    pub(super) fn behind(reader: R, line_bytes_max: usize, number: u64) -> Self {
        Self {
            number,
            grows: true,
            ..Self::new(reader, line_bytes_max)
        }
    }

    /// The number of the last line if that was left, as it has no end yet.
    pub(super) fn left(&self) -> Option<u64> {
        self.left
    }

    /// What the lines are read from.
    pub(super) fn reader(&self) -> &R {
        &self.reader
    }

    /// The next line that is not blank, with its number.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        // Room for a line of the greatest length with its end.
        let limit = self.line_bytes_max.saturating_add(2);
        loop {
            self.line.clear();
            let mut bounded = self.reader.by_ref().take(limit as u64);
            if bounded.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.line.len() == limit && self.line.last() != Some(&b'\n') {
                let (bytes, ended) = skip_line(&mut self.reader)?;
                let bytes = limit as u64 + bytes;
                if self.grows && !ended {
                    self.left = Some(self.number);
                    return Ok(None);
                }
                let head = &self.line[..self.line_bytes_max];
                return Ok(Some((self.number, Line::TooLong { head, bytes })));
            }
            if self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
                self.line.drain(..BYTE_ORDER_MARK.len());
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        if self.grows && self.line.last() != Some(&b'\n') && !is_whole(&self.line) {
            self.left = Some(self.number);
            return Ok(None);
        }
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(Some((self.number, Line::Whole(line))))
    }
}

/// Whether a line is a JSON object: then it has its end in itself.
fn is_whole(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    line.starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

/// Skips the rest of a line and returns its bytes without the end, and whether it has one.
fn skip_line(reader: &mut impl BufRead) -> io::Result<(u64, bool)> {
    let mut skipped = 0;
    loop {
        let bytes = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let length = end.unwrap_or(bytes.len());
        let at_end = end.is_some() || bytes.is_empty();
        reader.consume(length + usize::from(end.is_some()));
        skipped += length as u64;
        if at_end {
            return Ok((skipped, end.is_some()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &[u8], expected: &[(u64, Line<'_>)]) {
        for capacity in [1, 3, 64] {
            let reader = io::BufReader::with_capacity(capacity, text);
            let mut lines = Lines::new(reader, 4);
            for line in expected {
                assert_eq!(lines.next().unwrap().as_ref(), Some(line));
            }
            assert_eq!(lines.next().unwrap(), None);
        }
    }

    #[test]
    fn lines_end_as_they_like_and_blank_ones_only_count() {
        check(b"", &[]);
        check(b"\n \r\n", &[]);
        check(
            b"\xef\xbb\xbfa\n\nabcd\r\n\t\nb",
            &[
                (1, Line::Whole(b"a")),
                (3, Line::Whole(b"abcd")),
                (5, Line::Whole(b"b")),
            ],
        );
    }

    #[test]
    fn a_last_line_that_may_still_be_written_is_left() {
        let check = |text: &[u8], expected: &[u64], left| {
            let mut lines = Lines::behind(text, 8, 4);
            for number in expected {
                assert_eq!(lines.next().unwrap().unwrap().0, *number);
            }
            assert_eq!(lines.next().unwrap(), None);
            assert_eq!(lines.left(), left);
        };
        check(b"", &[], None);
        check(b"{}\n{\"a\":1}", &[5, 6], None);
        check(b"{}\n{}\n", &[5, 6], None);
        check(b"{}\n{\"a\":", &[5], Some(6));
        check(b"{\"a\":1\n1", &[5], Some(6));
        check(b"123456789012", &[], Some(5));
        check(b"123456789012\n\n ", &[5], None);
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let long = |bytes| Line::TooLong {
            head: b"abcd",
            bytes,
        };
        check(
            b"abcdefgh\nxy\nabcdef\n",
            &[(1, long(8)), (2, Line::Whole(b"xy")), (3, long(6))],
        );
        check(b"abcdefghijkl", &[(1, long(12))]);
        // A byte too many is seen by whoever is given the line.
        check(b"abcde\n", &[(1, Line::Whole(b"abcde"))]);
    }
}
