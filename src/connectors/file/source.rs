//! Events from a file of JSON lines.
//!
//! The file is one partition, and a line's number its offset. A thread reads it once, to its end;
//! lines that are added later are for the next start, which goes on behind the lines that were
//! read.
//!
//! # Invariants
//! * A line is an event or a dead letter, unless it is blank. Only the last one is left to the next
//!   start, with a warning, while it has no end and is no whole object.
//! * However long a line is, at most `max_record_bytes` of it are held.
//! * A pipe may be kept open: what it has given is handed over, and does not wait for more.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use deltajoin_workers::batch::{BatchSchema, Origin};
use deltajoin_workers::ports::{Block, Clock, Stop};
use deltajoin_workers::queue::Sender;
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use crate::codec::dead_letter::DeadLetters;
use crate::codec::json::{Decoder, Reject};
use crate::connectors::file::lines::{Line, Lines};
use crate::connectors::file::{Error, Fatal, gone, open, place};

/// A block is handed over when it has so many records, which spreads its cost thinly enough,
const BLOCK_RECORDS_MAX: u64 = 2_000;
/// or so many bytes of text, which still fit into a core's cache.
const BLOCK_BYTES_MAX: usize = 256 << 10;
/// Read from the file at once.
const READ_BYTES: usize = 64 << 10;
/// Read at once while lines are only counted.
const COUNT_BYTES: usize = 1 << 20;
/// What is kept of a line that is too long: enough to find it again.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// So much of the first line tells one file from another.
const FIRST_BYTES: u64 = 64 << 10;
/// The number of the first line, where reading starts.
pub const FIRST_LINE: i64 = 1;

/// A file of events, opened.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
    /// The line that is read first, if the job goes on there.
    from: Option<u64>,
    /// Lines that must be records: the last one of each epoch that is bound.
    bound: VecDeque<u64>,
}

impl Events {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            file: open(path)?,
            from: None,
            bound: VecDeque::new(),
        })
    }

    /// Tells the file from another of the same name, as soon as it has a first line: by the
    /// checksum of that. A copy of the file is the same.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn first_line(&self) -> Result<Option<String>, Error> {
        let mut line = Vec::new();
        let read = self.rewound().and_then(|file| {
            let mut first = BufReader::new(file.take(FIRST_BYTES));
            first.read_until(b'\n', &mut line)
        });
        let read = read.and_then(|_| self.rewound());
        read.map_err(|source| self.unread(source))?;
        let is_whole = line.last() == Some(&b'\n') || line.len() as u64 == FIRST_BYTES;
        Ok(is_whole.then(|| format!("{:016x}", xxh3_64(&line))))
    }

    /// Has reading start at the line `from`, of a file of which epochs are bound to end before
    /// the lines `ends`.
    ///
    /// # Errors
    /// If lines that are bound are gone, if the file cannot be read, or if `stop` is set.
    pub fn resume(&mut self, from: i64, ends: &[i64], stop: &Stop) -> Result<(), Error> {
        let line = |offset: i64| offset.max(FIRST_LINE).unsigned_abs();
        let bound = ends.last().copied().unwrap_or(from);
        let position = self.position(line(from), line(bound), stop)?;
        let mut file = &self.file;
        let sought = file.seek(SeekFrom::Start(position));
        sought.map_err(|source| self.unread(source))?;
        self.from = Some(line(from));
        self.bound = ends.iter().map(|end| line(*end) - 1).collect();
        Ok(())
    }

    /// Where the line `from` begins, in bytes, if there are so many lines before `bound`.
    fn position(&self, from: u64, bound: u64, stop: &Stop) -> Result<u64, Error> {
        let file = self.rewound().map_err(|source| self.unread(source))?;
        let mut reader = BufReader::with_capacity(COUNT_BYTES, file);
        let (mut bytes, mut position) = (0, 0);
        for line in 1..bound {
            if line == from {
                position = bytes;
            }
            let skipped = reader.skip_until(b'\n');
            let skipped = skipped.map_err(|source| self.unread(source))?;
            if skipped == 0 {
                return Err(gone(&self.path, bound - 1));
            }
            if stop.asked() {
                break;
            }
            bytes += skipped as u64;
        }
        Ok(if from < bound { position } else { bytes })
    }

    fn rewound(&self) -> io::Result<&File> {
        let mut file = &self.file;
        file.rewind()?;
        Ok(file)
    }

    fn unread(&self, source: io::Error) -> Error {
        Error::Read {
            path: self.path.clone(),
            source,
        }
    }

    /// Reads the file in a thread of its own, into the queue of one worker, and finishes the
    /// queue at the end of the file. It may grow if it is read from where it was resumed. If
    /// reading fails, `fatal` is told and the queue stays open.
    pub fn read(
        self,
        schema: Arc<BatchSchema>,
        record_bytes_max: usize,
        sender: Sender<Block>,
        clock: Arc<dyn Clock>,
        fatal: Fatal,
    ) -> JoinHandle<()> {
        let reader = BufReader::with_capacity(READ_BYTES, self.file);
        let mut lines = match self.from {
            None => Lines::new(reader, record_bytes_max),
            Some(from) => Lines::behind(reader, record_bytes_max, from - 1),
        };
        let mut collector = Collector::new(self.path, schema, record_bytes_max, self.bound);
        let run = move || match collector.read(&mut lines, &sender, &*clock) {
            Ok(()) => sender.finish(),
            Err(error) => fatal(error),
        };
        std::thread::Builder::new()
            .name("file-events".to_owned())
            .spawn(run)
            .expect("the system has room for a thread")
    }
}

/// Makes blocks of lines.
struct Collector {
    path: PathBuf,
    /// The path as text: what stands for a topic in dead letters.
    topic: String,
    record_bytes_max: usize,
    /// Lines that must be records.
    bound: VecDeque<u64>,
    events: Decoder,
    dead_letters: DeadLetters,
    records: u64,
    text_bytes: usize,
}

impl Collector {
    fn new(
        path: PathBuf,
        schema: Arc<BatchSchema>,
        record_bytes_max: usize,
        bound: VecDeque<u64>,
    ) -> Self {
        Self {
            topic: path.display().to_string(),
            path,
            record_bytes_max,
            bound,
            events: Decoder::new(schema, record_bytes_max),
            dead_letters: DeadLetters::default(),
            records: 0,
            text_bytes: 0,
        }
    }

    /// Reads to the end, or until the worker wants no more.
    fn read(
        &mut self,
        lines: &mut Lines<BufReader<File>>,
        sender: &Sender<Block>,
        clock: &dyn Clock,
    ) -> Result<(), Error> {
        let path = self.path.clone();
        let failed = |source| Error::Read {
            path: path.clone(),
            source,
        };
        let metadata = lines.reader().get_ref().metadata().map_err(failed)?;
        let may_wait = !metadata.is_file();
        let mut published_ms = 0;
        while let Some((number, line)) = lines.next().map_err(failed)? {
            self.pass(number)?;
            if self.records == 0 {
                // A line has no time of its own: that it is read stands for being published.
                published_ms = clock.now_ms();
            }
            self.push(number, line);
            let full = self.records >= BLOCK_RECORDS_MAX || self.text_bytes >= BLOCK_BYTES_MAX;
            let all = may_wait && lines.reader().buffer().is_empty();
            if (full || all) && !self.send(published_ms, sender) {
                return Ok(());
            }
        }
        if let Some(line) = lines.left() {
            let path = self.path.display();
            warn!(%path, line, "left the last line to the next start: it has no end yet");
        }
        self.pass(u64::MAX)?;
        if self.records > 0 {
            // Whether the worker wants the last block makes no difference.
            let _wanted = self.send(published_ms, sender);
        }
        Ok(())
    }

    /// Notes the next record: without the last one of an epoch, that would be waited for.
    fn pass(&mut self, number: u64) -> Result<(), Error> {
        match self.bound.pop_front_if(|line| *line <= number) {
            Some(line) if line < number => Err(gone(&self.path, line)),
            _ => Ok(()),
        }
    }

    fn push(&mut self, number: u64, line: Line<'_>) {
        let origin = Origin {
            partition: 0,
            offset: i64::try_from(number).expect("no file has so many lines"),
        };
        self.records += 1;
        let (raw, result) = match line {
            Line::Whole(line) => (line, self.events.decode(Some(line), origin)),
            Line::TooLong { head, bytes } => {
                let head = &head[..head.len().min(HEAD_BYTES_MAX)];
                (head, Err(Reject::too_large(bytes, self.record_bytes_max)))
            }
        };
        self.text_bytes += raw.len();
        if let Err(reject) = result {
            let place = place(&self.path, number, reject.column());
            let error = format!("{place}: {}", reject.message());
            self.dead_letters
                .push(&self.topic, origin, None, reject.reason, &error, raw);
        }
    }

    /// Hands over what has been collected; false if it is not wanted.
    fn send(&mut self, published_ms: u64, sender: &Sender<Block>) -> bool {
        let bytes = self.events.bytes() + self.dead_letters.bytes();
        let block = Block {
            events: self.events.finish(),
            dead_letters: self.dead_letters.finish(),
            records: std::mem::take(&mut self.records),
            skipped: Vec::new(),
            lags: Vec::new(),
            published_ms,
        };
        self.text_bytes = 0;
        sender.send(block, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use deltajoin_workers::batch::Slot;
    use deltajoin_workers::ports::reason;
    use deltajoin_workers::queue::{InFlight, Receiver, queue};
    use deltajoin_workers::schema::{Column, ColumnType, Schema};

    use super::*;

    struct AtOne;

    impl Clock for AtOne {
        fn now_us(&self) -> u64 {
            1_000
        }
    }

    fn schema() -> Arc<BatchSchema> {
        let id = Column::new("id", ColumnType::Int64);
        BatchSchema::register(Schema::new(vec![id], vec![0]))
    }

    /// All blocks of a file of `text`, read with a small budget.
    fn blocks_of(text: &[u8], record_bytes_max: usize) -> (PathBuf, Vec<Block>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, text).unwrap();
        let (sender, receiver) = queue(InFlight::new(100_000));
        let fatal: Fatal = Arc::new(|error| panic!("{error}"));
        let events = Events::open(&path).unwrap();
        let thread = events.read(schema(), record_bytes_max, sender, Arc::new(AtOne), fatal);
        let blocks = drain(&receiver);
        thread.join().unwrap();
        (path, blocks)
    }

    fn drain(receiver: &Receiver<Block>) -> Vec<Block> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut blocks = Vec::new();
        loop {
            let finished = receiver.finished();
            while let Some((block, bytes)) = receiver.pop() {
                receiver.release(bytes);
                blocks.push(block);
            }
            if finished {
                return blocks;
            }
            assert!(Instant::now() < deadline, "the file is not read to its end");
            std::thread::yield_now();
        }
    }

    #[test]
    fn each_line_is_an_event_or_a_dead_letter_with_its_place() {
        let long = format!("{{\"id\":4,\"x\":\"{}\"}}", "y".repeat(200));
        let text = format!("{{\"id\":1}}\n\n{{\"id\":\"2\"}}\r\n{{\"id\":3\n{long}\n{{\"id\":5}}");
        let (path, blocks) = blocks_of(text.as_bytes(), 100);
        let [block] = &blocks[..] else {
            panic!("one block: {blocks:?}")
        };
        assert_eq!((block.records, block.published_ms), (5, 1));
        assert_eq!(block.events.offsets(), [1, 6]);
        assert_eq!(block.events.slot(0, 1), Slot::Int64(5));
        let letters = &block.dead_letters;
        assert_eq!(letters.offsets(), [3, 4, 5]);
        let text = |column, row| match letters.slot(column, row) {
            Slot::String(text) => text.into_owned(),
            Slot::Bytes(bytes) => String::from_utf8(bytes.into_owned()).unwrap(),
            other => panic!("{other:?}"),
        };
        let path = path.display().to_string();
        let shown: Vec<_> = (0..3)
            .map(|row| (text(2, row), text(3, row).replace(&path, "F")))
            .collect();
        let expected = [
            (
                reason::WRONG_TYPE,
                "F:3:7: field \"id\" is not an int64: \"2\"",
            ),
            (
                reason::MALFORMED,
                "F:4:7: not a JSON object: EOF while parsing an object",
            ),
            (
                reason::TOO_LARGE,
                "F:5:1: record of 215 bytes is larger than max_record_bytes (100)",
            ),
        ];
        let expected = expected.map(|(reason, error)| (reason.to_owned(), error.to_owned()));
        assert_eq!(shown, expected);
        assert_eq!(text(0, 0), path);
        assert_eq!(text(4, 0), "{\"id\":\"2\"}");
        assert_eq!(text(4, 2), long[..100]);
    }

    #[test]
    fn a_long_file_comes_in_blocks_and_in_order() {
        let lines = (1..=10_001).map(|id| format!("{{\"id\":{id}}}\n"));
        let (_, blocks) = blocks_of(lines.collect::<String>().as_bytes(), 100);
        assert!(
            blocks
                .iter()
                .all(|block| block.records <= BLOCK_RECORDS_MAX)
        );
        assert_eq!(blocks.len(), 6);
        let offsets = blocks.iter().flat_map(|block| block.events.offsets());
        assert!(offsets.copied().eq(1..=10_001));
    }

    /// The lines that are read of a file that is resumed so, or why it is not.
    fn resumed(text: &str, from: i64, ends: &[i64]) -> Result<Vec<i64>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, text).unwrap();
        let short = |error: Error| error.to_string().replace(&format!("{path:?}"), "F");
        let mut events = Events::open(&path).unwrap();
        events.resume(from, ends, &Stop::default()).map_err(short)?;
        let (sender, receiver) = queue(InFlight::new(100_000));
        let told = Arc::new(Mutex::new(None));
        let fatal: Fatal = Arc::new({
            let told = Arc::clone(&told);
            move |error| *told.lock().unwrap() = Some(error)
        });
        let thread = events.read(schema(), 100, sender.clone(), Arc::new(AtOne), fatal);
        thread.join().unwrap();
        if let Some(error) = told.lock().unwrap().take() {
            return Err(short(error));
        }
        let blocks = drain(&receiver);
        let offsets = blocks.iter().flat_map(|block| block.events.offsets());
        Ok(offsets.copied().collect())
    }

    #[test]
    fn a_file_is_read_from_where_it_is_resumed() {
        let text = "{\"id\":1}\n\n{\"id\":3}\n{\"id\":4}";
        assert_eq!(resumed(text, 1, &[]), Ok(vec![1, 3, 4]));
        assert_eq!(resumed(text, 2, &[]), Ok(vec![3, 4]));
        assert_eq!(resumed(text, 2, &[4, 5]), Ok(vec![3, 4]));
        assert_eq!(resumed(text, 4, &[]), Ok(vec![4]));
        assert_eq!(resumed(text, 5, &[]), Ok(vec![]));
        assert_eq!(resumed("", 1, &[]), Ok(vec![]));
    }

    #[test]
    fn lines_that_are_bound_and_gone_are_told() {
        let gone = |line| Err(format!("line {line} of file F was read, and is not there"));
        let text = "{\"id\":1}\n{\"id\":2}\n";
        assert_eq!(resumed(text, 4, &[]), gone(3));
        assert_eq!(resumed("", 1, &[2, 4]), gone(3));
        // As many lines, but one is no record any more.
        assert_eq!(resumed(&(text.to_owned() + "{\"id\""), 2, &[4]), gone(3));
        assert_eq!(resumed(&(text.to_owned() + "\n"), 1, &[2, 4]), gone(3));
        assert_eq!(resumed("{\"id\":1}\n\n{\"id\":3}\n", 1, &[3, 4]), gone(2));
    }

    #[test]
    fn a_file_is_known_by_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let known = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Events::open(&path).unwrap().first_line().unwrap()
        };
        assert_eq!([known(""), known("{\"id\":1}")], [None, None]);
        let first = known("{\"id\":1}\n");
        assert!(first.is_some());
        assert_eq!(known("{\"id\":1}\n{\"id\":2}\n"), first);
        assert_ne!(known("{\"id\":2}\n"), first);
        let long = "x".repeat(100_000);
        assert_eq!(known(&long), known(&(long.clone() + "y\n")));
    }

    #[test]
    fn an_empty_file_finishes_without_a_block() {
        assert!(blocks_of(b"", 100).1.is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let absent = Events::open(&folder.path().join("no.jsonl")).unwrap_err();
        assert!(absent.needs_correction());
        assert!(absent.to_string().ends_with("no.jsonl\""), "{absent}");
        assert!(matches!(
            Events::open(folder.path()),
            Err(Error::Open { .. })
        ));
    }

    #[test]
    fn a_reader_ends_when_the_worker_wants_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, "{\"id\":1}\n".repeat(10_000)).unwrap();
        let (sender, receiver) = queue(InFlight::new(1));
        let told = Arc::new(Mutex::new(None));
        let fatal: Fatal = Arc::new({
            let told = Arc::clone(&told);
            move |error| *told.lock().unwrap() = Some(error)
        });
        let events = Events::open(&path).unwrap();
        let thread = events.read(schema(), 100, sender, Arc::new(AtOne), fatal);
        receiver.close();
        thread.join().unwrap();
        assert!(told.lock().unwrap().is_none());
    }
}
