//! Reads a topic with Kafka's own console consumer, a record at a time.
//!
//! It shares no line of code with librdkafka, on which deltajoin stands: what it shows, any
//! consumer sees. Its output is text, so separators are control characters that no test publishes.
//!
//! # Invariants
//! * Output is parsed as it comes; a topic of any size needs the memory of one record.
//! * As many records are parsed as the consumer says it has printed, or the reader panics.

use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::TopicRecord;
use crate::process::Process;

/// When to end reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After so many records; or when no more come for a minute.
    Count(u64),
    /// When no record has come for so long. It includes the consumer's start (1 s, on a busy
    /// machine several).
    Quiet(Duration),
}

/// Ends a record.
const END: &str = "\u{1e}\u{1e}\n";
/// Between the fields of a record.
const FIELD: &str = "\u{1f}\u{1f}";
/// Between headers.
const HEADER: &str = "\u{1c}\u{1c}";
/// In place of null.
const NULL: &str = "\u{1d}null";

/// The records of a topic, from its beginning.
#[derive(Debug)]
pub struct ConsoleReader {
    process: Process,
    output: BufReader<ChildStdout>,
    errors: Option<JoinHandle<String>>,
    line: Vec<u8>,
    records: u64,
}

impl ConsoleReader {
    /// The command must name the program, the broker and the topic.
    pub(crate) fn start(mut command: Command, until: Until) -> Self {
        command.args(["--from-beginning", "--isolation-level", "read_committed"]);
        let quiet = match until {
            Until::Count(count) => {
                command.args(["--max-messages", &count.to_string()]);
                Duration::from_secs(60)
            }
            Until::Quiet(quiet) => quiet,
        };
        command.args(["--timeout-ms", &quiet.as_millis().to_string()]);
        for field in ["timestamp", "partition", "offset", "headers", "key"] {
            command.args(["--property", &format!("print.{field}=true")]);
        }
        let separators = [
            ("key.separator", FIELD),
            ("line.separator", END),
            ("headers.separator", HEADER),
            ("null.literal", NULL),
        ];
        for (name, value) in separators {
            command.args(["--property", &format!("{name}={value}")]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let output = process.child().stdout.take().expect("its output is a pipe");
        let mut errors = process
            .child()
            .stderr
            .take()
            .expect("its errors are a pipe");
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before a failure is all there is to show.
            let _ended = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self {
            process,
            output: BufReader::with_capacity(1 << 20, output),
            errors: Some(errors),
            line: Vec::new(),
            records: 0,
        }
    }

    /// Checks, at the end of the output, that nothing went wrong.
    fn finish(&mut self) {
        let Some(errors) = self.errors.take() else {
            return;
        };
        self.process.wait(Duration::from_secs(30));
        let errors = errors.join().expect("the thread only reads");
        let printed = errors.lines().find_map(|line| {
            line.strip_prefix("Processed a total of ")?
                .strip_suffix(" messages")?
                .parse()
                .ok()
        });
        assert_eq!(
            printed,
            Some(self.records),
            "the console consumer says:\n{errors}"
        );
    }
}

impl Iterator for ConsoleReader {
    type Item = TopicRecord;

    fn next(&mut self) -> Option<TopicRecord> {
        self.line.clear();
        loop {
            let read = self.output.read_until(b'\n', &mut self.line);
            if read.expect("a pipe can be read") == 0 {
                assert!(
                    self.line.is_empty(),
                    "the consumer has ended inside a record"
                );
                self.finish();
                return None;
            }
            if let Some(record) = self.line.strip_suffix(END.as_bytes()) {
                self.records += 1;
                let parsed = parse(record);
                return Some(
                    parsed.unwrap_or_else(|| {
                        panic!("no record: {}", String::from_utf8_lossy(record))
                    }),
                );
            }
        }
    }
}

/// `CreateTime:1 F Partition:0 F Offset:5 F name:value H name:value F key F value`, where F
/// separates fields and H headers.
fn parse(record: &[u8]) -> Option<TopicRecord> {
    let (timestamp, rest) = field(record)?;
    let (partition, rest) = field(rest)?;
    let (offset, rest) = field(rest)?;
    let (headers, rest) = field(rest)?;
    let (key, value) = field(rest)?;
    Some(TopicRecord {
        timestamp_ms: number(timestamp)?,
        partition: i32::try_from(number(partition)?).ok()?,
        offset: number(offset)?,
        headers: parse_headers(headers)?,
        key: nullable(key),
        value: nullable(value),
    })
}

fn field(record: &[u8]) -> Option<(&[u8], &[u8])> {
    split(record, FIELD)
}

fn split<'a>(bytes: &'a [u8], separator: &str) -> Option<(&'a [u8], &'a [u8])> {
    let separator = separator.as_bytes();
    let at = bytes
        .windows(separator.len())
        .position(|window| window == separator)?;
    Some((&bytes[..at], &bytes[at + separator.len()..]))
}

/// The number behind the colon.
fn number(field: &[u8]) -> Option<i64> {
    std::str::from_utf8(field)
        .ok()?
        .split_once(':')?
        .1
        .parse()
        .ok()
}

fn parse_headers(mut bytes: &[u8]) -> Option<Vec<(String, Option<Vec<u8>>)>> {
    let mut headers = Vec::new();
    if bytes == b"NO_HEADERS" {
        return Some(headers);
    }
    loop {
        let (header, rest) = split(bytes, HEADER).unwrap_or((bytes, b""));
        let (name, value) = split(header, ":")?;
        headers.push((String::from_utf8(name.to_vec()).ok()?, nullable(value)));
        if rest.is_empty() {
            return Some(headers);
        }
        bytes = rest;
    }
}

fn nullable(bytes: &[u8]) -> Option<Vec<u8>> {
    (bytes != NULL.as_bytes()).then(|| bytes.to_vec())
}
