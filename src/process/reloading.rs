//! The reference table from a file: handed over at the start, and again whenever the file changes.
//!
//! It is apart from `changes`, which says how two contents differ: here it is decided when the file
//! is looked at, and what is told.
//!
//! # Invariants
//! * What has changed between two contents is one block, so it is of one epoch.
//! * A file that cannot be read, or is wrong anywhere, changes nothing; each fault is told once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deltajoin_workers::batch::{Batch, BatchSchema};
use deltajoin_workers::ports::ReferenceBlock;

use crate::codec::reference_schema;
use crate::config::Config;
use crate::connectors::file::{Error, Look, Table, Watched};
use crate::failure::Failure;
use crate::process::changes::{self, Way};
use crate::telemetry::Monitor;

/// How soon a file that has just changed is looked at again: it may be being written.
const STILL: Duration = Duration::from_millis(200);
/// How late a stop or a wish is noticed.
const TURN: Duration = Duration::from_millis(100);
/// A file that is written for so long is told of.
const MOVING_MAX: Duration = Duration::from_secs(10);

/// The reference file of a job.
pub(super) struct Reloading {
    watched: Watched,
    first: Result<Table, Error>,
    schema: Arc<BatchSchema>,
    /// How often to look; never if the file is read once.
    refresh: Option<Duration>,
    /// Set when the file must be looked at at once.
    wished: Arc<AtomicBool>,
}

impl Reloading {
    /// Reads the file at `path`.
    pub(super) fn new(
        path: &Path,
        config: &Config,
        until_end: bool,
        wished: &Arc<AtomicBool>,
    ) -> Self {
        let schema = &config.reference.schema;
        let (watched, first) = Watched::new(path, schema, config.limits.max_record_bytes);
        if let Ok(table) = &first {
            let (rows, path) = (table.rows(), path.display());
            tracing::info!(rows, %path, "read the reference table");
        }
        let follows = !until_end && watched.can_change();
        Self {
            refresh: follows.then_some(config.reference.refresh),
            watched,
            first,
            schema: reference_schema(schema),
            wished: Arc::clone(wished),
        }
    }

    /// A job that begins needs the table, and so does one that reads it only once. Another one has
    /// what is bound, whatever has become of the file; but its name must tell what is in it.
    pub(super) fn needed(&mut self, needed: bool) -> Result<(), Failure> {
        let unknown = matches!(
            self.first,
            Err(Error::UnknownFormat { .. } | Error::NotBuilt { .. } | Error::NoBuckets { .. })
        );
        if !needed && !unknown {
            return Ok(());
        }
        match std::mem::replace(&mut self.first, Ok(Table::default())) {
            Ok(table) => self.first = Ok(table),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Hands the table over, and what changes of it later, on a thread of its own.
    pub(super) fn spawn(
        self,
        way: Way,
        monitor: &Arc<Monitor>,
        stop: &Arc<AtomicBool>,
    ) -> Result<(), Failure> {
        let running = Running {
            way,
            monitor: Arc::clone(monitor),
            stop: Arc::clone(stop),
            told: None,
        };
        std::thread::Builder::new()
            .name("reference".to_owned())
            .spawn(move || running.run(self))
            .map_err(|error| Failure::failed(format!("no thread: {error}")))?;
        Ok(())
    }
}

/// The thread of it.
struct Running {
    way: Way,
    monitor: Arc<Monitor>,
    stop: Arc<AtomicBool>,
    /// The fault that was told last, while the file has it.
    told: Option<String>,
}

impl Running {
    fn run(mut self, reloading: Reloading) {
        let Reloading {
            mut watched,
            first,
            schema,
            refresh,
            wished,
        } = reloading;
        let path = watched.path().to_owned();
        let handed = match first {
            Ok(table) => self.take(table, &schema, &path),
            Err(error) => {
                self.monitor.reference_bound(self.way.bound_ms);
                self.tell(&error, &path);
                self.send(ReferenceBlock::default())
            }
        };
        let Some(refresh) = refresh else {
            self.way.sender.finish();
            return;
        };
        let (mut going, mut pause) = (handed, refresh);
        let mut moving: Option<Instant> = None;
        while going && let Some(at_once) = self.wait(pause, &wished) {
            let look = watched.look(at_once);
            pause = refresh;
            if !matches!(look, Look::Moving) {
                moving = None;
            }
            match look {
                Look::Unchanged if self.told.is_some() => {}
                Look::Unchanged | Look::Same => self.good(&path),
                Look::Moving => {
                    pause = STILL.min(refresh);
                    let since = moving.get_or_insert_with(Instant::now);
                    if since.elapsed() >= MOVING_MAX {
                        *since = Instant::now();
                        let path = path.display();
                        tracing::warn!(%path, "the reference file is written all the time");
                    }
                }
                Look::Changed(table) => {
                    self.good(&path);
                    going = self.take(table, &schema, &path);
                }
                Look::Bad(error) => {
                    if at_once {
                        self.told = None;
                    }
                    self.tell(&error, &path);
                }
            }
        }
    }

    /// Waits; none at the end of the job, else whether a look is wished for.
    fn wait(&self, pause: Duration, wished: &AtomicBool) -> Option<bool> {
        let since = Instant::now();
        loop {
            if self.stop.load(Ordering::Relaxed) || self.way.sender.closed() {
                return None;
            }
            if wished.swap(false, Ordering::Relaxed) {
                return Some(true);
            }
            let left = pause.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Some(false);
            }
            std::thread::sleep(left.min(TURN));
        }
    }

    /// Hands over how a table differs from what holds. Returns false if nobody wants it.
    fn take(&mut self, table: Table, schema: &Arc<BatchSchema>, path: &Path) -> bool {
        let rows = table.rows();
        let now = changes::Table::of(table.into_blocks());
        let all = (&now, &BTreeSet::new());
        let updates = changes::difference(&self.way.bound, all, schema);
        self.way.bound = now;
        self.monitor.reference_good(true);
        if !updates.is_empty() {
            let changes: usize = updates.iter().map(Batch::len).sum();
            let path = path.display();
            tracing::info!(rows, changes, %path, "the reference table is handed over");
        }
        self.send(ReferenceBlock {
            updates,
            complete: true,
        })
    }

    fn send(&self, block: ReferenceBlock) -> bool {
        let bytes = block.bytes();
        let block = ReferenceBlock {
            complete: true,
            ..block
        };
        self.way.sender.send(block, bytes)
    }

    /// Notes that the file has what holds.
    fn good(&mut self, path: &Path) {
        if self.told.take().is_some() {
            let path = path.display();
            tracing::info!(%path, "the reference file is good again");
        }
        self.monitor.reference_good(false);
    }

    /// Tells of a fault of the file, if it is another one than before.
    fn tell(&mut self, error: &Error, path: &Path) {
        let text = in_one_line(error);
        if self.told.as_ref() == Some(&text) {
            return;
        }
        let rows = self.way.bound.len();
        let path = path.display();
        tracing::error!(
            rows, %path,
            "the reference file cannot be taken; the job goes on with the content before: {text}"
        );
        self.monitor.reference_failed(&text);
        self.told = Some(text);
    }
}

/// An error with all that is known of it.
fn in_one_line(error: &Error) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    match error.detail().or(source) {
        Some(detail) => format!("{error}: {}", detail.replace('\n', "; ")),
        None => error.to_string(),
    }
}
