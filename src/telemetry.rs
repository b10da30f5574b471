//! What the job tells of itself: logs, the progress line, the status file.
//!
//! The core calls the `Observer` from its workers' threads, which only adds numbers; a thread of
//! this module writes what a person or a supervisor reads, once a second and at each stage.
//!
//! # Invariants
//! * Nothing here can slow a worker: no I/O happens in the observer's calls.
//! * The status file is replaced whole, so a reader never sees half of one.

mod clock;
mod memory;

use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deltajoin_workers::ports::{Clock, Counts, Observer, Progress, Stop};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::config::StatusFile;
pub use crate::telemetry::clock::WallClock;
use crate::telemetry::memory::Crowded;
pub use crate::telemetry::memory::MemoryLimit;

/// The latency that is told apart at most: an hour, in microseconds.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Sets up logging to standard error.
///
/// # Errors
/// If `filter` is no filter of log levels.
pub fn log_to_stderr(filter: &str) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::builder()
        .parse(filter)
        .map_err(|error| error.to_string())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // A log line that cannot be written must not panic: that would hide the first cause.
        .log_internal_errors(false)
        .init();
    Ok(())
}

/// What stage a process is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It connects to Kafka and to its peers.
    #[default]
    Starting,
    /// The reference table or a checkpoint is being read.
    Loading,
    /// Events are being joined.
    Live,
    /// It writes what it has read, and ends.
    Stopping,
}

/// What the status file says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The stage.
    pub state: State,
    /// The job's name.
    pub job: String,
    /// This process's index.
    pub process: usize,
    /// The number of this start of the job.
    pub generation: u64,
    /// The newest closed epoch, in milliseconds since 1970; 0 before the first. Known to process
    /// 0, as everything below except the latency.
    pub epoch: u64,
    /// The newest epoch of which all sinks of the job have all rows; 0 before the first. Known to
    /// every process.
    pub written_epoch: u64,
    /// What all workers of the job have counted since its start.
    #[serde(flatten)]
    pub counts: Counts,
    /// When the content of the reference file that holds was taken, or the topic's had been read,
    /// in milliseconds since 1970.
    pub reference_loaded_ms: u64,
    /// For how many seconds the file has not been found to have that content, at most about
    /// `refresh` as long as all is well; or for how many the newest record of some key of the topic
    /// has been bad.
    pub reference_age_s: u64,
    /// How many faults of the file, or bad records of the topic, have been told since the start.
    pub reference_failures: u64,
    /// What is wrong with the file or topic now; empty if nothing is.
    pub reference_error: String,
    /// Milliseconds from a record's publication until all sinks had written its epoch, in the
    /// last second of this process; half of the records were at most so late. None without records.
    pub latency_p50_ms: Option<f64>,
    /// The same for 99 of 100 records.
    pub latency_p99_ms: Option<f64>,
    /// When this was written, in milliseconds since 1970.
    pub written_ms: u64,
}

/// Collects what the workers of a process tell.
pub struct Monitor {
    clock: Arc<WallClock>,
    /// Once it is asked, the job is stopping.
    stop: Arc<Stop>,
    /// One thread at a time writes it.
    status_file: Option<Mutex<StatusFile>>,
    /// Records behind the source; set once the source is connected.
    lag: Mutex<Option<Arc<dyn Fn() -> u64 + Send + Sync>>>,
    /// All sinks of the job have written all epochs before this one.
    settled: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    status: Status,
    progress: Progress,
    latency: Histogram<u64>,
    /// When the reference file was last found to have the content that holds; 0 if never. Of a
    /// topic since when records are bad; 0 if none is.
    reference_ms: u64,
    crowded: Crowded,
}

/// A poisoned lock means that another thread has panicked: the process is ending anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor {
    /// A monitor of one process of this job.
    ///
    /// # Errors
    /// If the status file cannot be written, unless it may be later.
    pub fn start(
        clock: Arc<WallClock>,
        stop: Arc<Stop>,
        job: &str,
        process: usize,
        status_file: Option<&Path>,
    ) -> Result<Arc<Self>, StatusError> {
        let status = Status {
            job: job.to_owned(),
            process,
            ..Status::default()
        };
        let latency = Histogram::new_with_bounds(1, LATENCY_US_MAX, 2);
        let monitor = Self {
            clock,
            stop,
            status_file: status_file.map(|path| Mutex::new(StatusFile::of(path, process))),
            lag: Mutex::new(None),
            settled: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                status,
                progress: Progress::default(),
                latency: latency.expect("the bounds are constants"),
                reference_ms: 0,
                crowded: Crowded::default(),
            }),
        };
        if let Some(file) = &monitor.status_file
            && let Err(error) = replace(&lock(file), &monitor.status())
        {
            // As while the job runs, which does not need it.
            match error.may_pass() {
                true => error.warn(),
                false => return Err(error),
            }
        }
        Ok(Arc::new(monitor))
    }

    /// The first epoch that not all sinks of the job are known to have written.
    pub fn settled_before(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// Sets what tells how many records the process is behind.
    pub fn measure_lag(&self, lag: Arc<dyn Fn() -> u64 + Send + Sync>) {
        *lock(&self.lag) = Some(lag);
    }

    /// Sets how `state.memory_limit` is spoken of.
    pub fn name_memory_limit(&self, limit: MemoryLimit) {
        lock(&self.inner).crowded.limit = Some(limit);
    }

    /// Warns of a limit that workers need more than.
    fn tell_crowded(&self) {
        let news = lock(&self.inner).crowded.news();
        if let Some((message, hint)) = news {
            tracing::warn!(hint, "{message}");
        }
    }

    /// Notes the stage that the process has come to, and says so in the status file at once: it may
    /// be over within a second.
    pub fn enter(&self, state: State) {
        lock(&self.inner).status.state = state;
        self.report(&self.status());
    }

    /// Notes the generation.
    pub fn generation(&self, generation: u64) {
        lock(&self.inner).status.generation = generation;
    }

    /// Notes that the reference file has the content that holds, or that what it has holds now.
    pub fn reference_good(&self, changed: bool) {
        let now_ms = self.clock.now_ms();
        let mut inner = lock(&self.inner);
        inner.reference_ms = now_ms;
        inner.status.reference_error.clear();
        if changed {
            inner.status.reference_loaded_ms = now_ms;
        }
    }

    /// Notes what is wrong with the reference file, or a record of the topic.
    pub fn reference_failed(&self, error: &str) {
        let mut inner = lock(&self.inner);
        inner.status.reference_failures += 1;
        error.clone_into(&mut inner.status.reference_error);
    }

    /// Notes that all of the reference topic is read.
    pub fn reference_followed(&self) {
        lock(&self.inner).status.reference_loaded_ms = self.clock.now_ms();
    }

    /// Notes what is wrong with the newest record of a key of the reference topic; nothing if none
    /// is bad.
    pub fn reference_fault(&self, fault: Option<&str>) {
        let mut inner = lock(&self.inner);
        inner.reference_ms = match (fault, inner.reference_ms) {
            (None, _) => 0,
            (Some(_), 0) => self.clock.now_ms(),
            (Some(_), since_ms) => since_ms,
        };
        inner.status.reference_error = fault.unwrap_or_default().to_owned();
    }

    /// Notes that the content of an earlier start holds, which was bound then.
    pub fn reference_bound(&self, bound_ms: u64) {
        let mut inner = lock(&self.inner);
        inner.reference_ms = bound_ms;
        inner.status.reference_loaded_ms = bound_ms;
    }

    /// Notes that the process ends.
    pub fn finish(&self) {
        self.tell_crowded();
        self.enter(State::Stopping);
    }

    fn report(&self, status: &Status) {
        let Some(file) = &self.status_file else {
            return;
        };
        if let Err(error) = replace(&lock(file), status) {
            error.warn();
        }
    }

    /// What all workers have done so far, as last told.
    pub fn last_progress(&self) -> Progress {
        lock(&self.inner).progress.clone()
    }

    /// The status now; latencies start anew with each call.
    pub fn status(&self) -> Status {
        let mut inner = lock(&self.inner);
        let Progress { counts, epoch } = inner.progress.clone();
        if self.stop.asked() {
            inner.status.state = State::Stopping;
        }
        let any = !inner.latency.is_empty();
        let quantile = |q| any.then(|| inner.latency.value_at_quantile(q) as f64 / 1000.0);
        let (latency_p50_ms, latency_p99_ms) = (quantile(0.5), quantile(0.99));
        inner.latency.reset();
        let written_ms = self.clock.now_ms();
        let reference_age_s = match inner.reference_ms {
            0 => 0,
            good_ms => written_ms.saturating_sub(good_ms) / 1000,
        };
        inner.status = Status {
            epoch,
            written_epoch: self.settled_before().saturating_sub(1),
            counts,
            latency_p50_ms,
            latency_p99_ms,
            reference_age_s,
            written_ms,
            ..inner.status.clone()
        };
        inner.status.clone()
    }
}

impl Observer for Monitor {
    fn live(&self) {
        let mut inner = lock(&self.inner);
        if inner.status.state == State::Loading {
            inner.status.state = State::Live;
        }
    }

    fn written(&self, records: u64, published_ms: u64) {
        let now_us = self.clock.now_us();
        let late_us = now_us
            .saturating_sub(published_ms * 1000)
            .clamp(1, LATENCY_US_MAX);
        let mut inner = lock(&self.inner);
        inner
            .latency
            .record_n(late_us, records)
            .expect("the latency is within the bounds");
    }

    fn settled(&self, epoch: u64) {
        self.settled.fetch_max(epoch, Ordering::Release);
    }

    fn crowded(&self, needed: u64, rows: u64, _: u64) {
        lock(&self.inner).crowded.note(needed, rows);
    }

    fn lag_records(&self) -> u64 {
        lock(&self.lag).as_ref().map_or(0, |lag| lag())
    }

    fn progress(&self, progress: &Progress) {
        lock(&self.inner).progress = progress.clone();
    }
}

/// Writes the status file, and a progress line if `line` is given, every second.
///
/// # Errors
/// If no thread can be started.
pub fn report_every_second(monitor: Arc<Monitor>, line: Option<fn(&str)>) -> std::io::Result<()> {
    let run = move || {
        let mut before = Status::default();
        let mut told = 0;
        loop {
            monitor.clock.tell_leap(&mut told);
            monitor.tell_crowded();
            let now = monitor.status();
            monitor.report(&now);
            if let Some(line) = line
                && now.state == State::Live
            {
                line(&progress_line(&before, &now));
            }
            before = now;
            std::thread::sleep(Duration::from_secs(1));
        }
    };
    let thread = std::thread::Builder::new().name("telemetry".to_owned());
    thread.spawn(run).map(drop)
}

/// The status file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write status file {path:?}")]
pub struct StatusError {
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    pub source: std::io::Error,
}

impl StatusError {
    /// Whether the disk is full, or read-only since the file was written.
    fn may_pass(&self) -> bool {
        match self.source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => true,
            ErrorKind::ReadOnlyFilesystem => self.path.exists(),
            _ => false,
        }
    }

    fn warn(&self) {
        let path = self.path.display();
        tracing::warn!(error = %self.source, %path, "could not write the status");
    }
}

/// Replaces the status file.
fn replace(file: &StatusFile, status: &Status) -> Result<(), StatusError> {
    let mut text = serde_json::to_vec(status).expect("a status is plain data");
    text.push(b'\n');
    // A status is not state: it need not survive a crash, so it need not be synced.
    #[allow(clippy::disallowed_methods)]
    let written = std::fs::write(&file.beside, text);
    let replaced = written.and_then(|()| std::fs::rename(&file.beside, &file.path));
    replaced.map_err(|source| StatusError {
        path: file.path.clone(),
        source,
    })
}

/// One line that says how the job does, from two statuses a second apart.
pub fn progress_line(before: &Status, now: &Status) -> String {
    let seconds = (now.written_ms.saturating_sub(before.written_ms)).max(1) as f64 / 1000.0;
    let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
    let ms = |latency: Option<f64>| latency.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
    format!(
        "events/s {:>7}  results/s {:>7}  duplicates {}  unmatched {}  dead letters {}  lag {}  \
         epoch {}  latency p50 {} ms p99 {} ms",
        rate(now.counts.records, before.counts.records),
        rate(now.counts.rows_out, before.counts.rows_out),
        now.counts.duplicates,
        now.counts.unmatched,
        now.counts.dead_letters,
        now.counts.lag_records,
        now.epoch,
        ms(now.latency_p50_ms),
        ms(now.latency_p99_ms),
    )
}
