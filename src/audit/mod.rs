//! Audits: recomputes the result of a job from its input and compares its output with that.
//!
//! It is how one proves that a job is right, so it must not share the job's mistakes: it has
//! nothing of the core's operators and state, and takes from the job no more than reading and
//! decoding. It is slow and simple where the job is fast and incremental.
//!
//! Keys are kept as hashes with what is known of them, in a table of bounded memory. When the
//! table has no room for all keys, everything is read several times, and each pass looks at a part
//! of the keys.
//!
//! | file | what it does |
//! |---|---|
//! | `source` | topics and files as they stand, as records |
//! | `bound`, `epochs` | for a job with a log of bindings: which epoch each record is of |
//! | `reference`, `expected` | events into the rows that they must have |
//! | `window` | what is too late, forgotten, or out of the window of revisions |
//! | `output`, `change`, `told` | records of the output into keys and what they say of them |
//! | `table`, `entry`, `steps`, `canonical` | keys and rows as hashes; the judging |
//! | `finding`, `report` | what was found, and its texts |
//!
//! # Invariants
//! * Nothing is written anywhere.
//! * The number of passes changes nothing but the time that it takes.

mod bound;
mod canonical;
mod change;
mod entry;
mod epochs;
mod expected;
mod finding;
mod output;
mod reference;
mod report;
mod source;
mod steps;
mod table;
mod told;
mod window;

pub use finding::Kind;
pub use report::{EpochRange, EventCounts, Report, Shown, SinkReport};

use crate::audit::expected::{Events, Join};
use crate::audit::finding::Found;
use crate::audit::output::Rows;
use crate::audit::report::show;
use crate::audit::source::Source;
use crate::audit::steps::STEP_BYTES;
use crate::audit::table::{By, KeyCounts, Table};
use crate::config::{Config, Keep, Sink};
use crate::failure::Failure;

/// More passes would take longer than anyone waits, and a little more memory saves them.
const PASSES_MAX: usize = 64;
/// How many records are read between two steps of the progress.
const STEP_RECORDS: u64 = 4096;

/// How an audit is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What the keys may take of memory, beside the reference table.
    pub memory_bytes: usize,
    /// How many findings of each kind are shown.
    pub show: usize,
    /// Whether a row may be written again, as it was.
    pub allow_repeats: bool,
    /// The first epoch that is judged; all events before it count as seen.
    pub from: Option<u64>,
    /// The last epoch that is judged.
    pub to: Option<u64>,
}

/// Where an audit stands.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The pass, from 1.
    pub pass: usize,
    /// How many there are.
    pub passes: usize,
    /// What is being read.
    pub reading: &'a str,
    /// How much of all is done, from 0 to 1.
    pub done: f64,
}

/// Told how an audit goes.
pub trait Watcher {
    /// It begins, and will read so many records so often; it may begin again, with more passes.
    fn begin(&mut self, records: u64, passes: usize);

    /// It goes on.
    fn step(&mut self, step: Step<'_>);
}

/// Audits the output of all sinks of a job.
///
/// # Errors
/// If something cannot be read, or `memory_bytes` are too few.
pub fn run(
    config: &Config,
    options: &Options,
    watcher: &mut dyn Watcher,
) -> Result<Report, Failure> {
    let audit = Audit::connect(config, options)?;
    let mut passes = audit.passes()?;
    loop {
        watcher.begin(audit.records(), passes);
        if let Some(tally) = audit.attempt(passes, watcher)? {
            return audit.report(tally, passes);
        }
        if passes == PASSES_MAX {
            return Err(audit.too_little_memory());
        }
        // Rows of unknown keys, or keys with many rows, need room that nobody could foresee.
        passes = (passes * 2).min(PASSES_MAX);
    }
}

/// An audit, connected to all that it reads.
struct Audit<'a> {
    options: &'a Options,
    join: Join,
    events: Source,
    outputs: Vec<(&'a Sink, Source)>,
    /// What keys may take of memory.
    memory_bytes: usize,
    /// Without epochs: whether results are revised.
    revised: bool,
}

/// What all passes have counted and found.
struct Tally {
    records: u64,
    undecodable: u64,
    keys: KeyCounts,
    outputs: Vec<OutputTally>,
}

/// What was counted and found in one output.
struct OutputTally {
    records: u64,
    tombstones: u64,
    right: u64,
    found: Found,
}

impl<'a> Audit<'a> {
    fn connect(config: &'a Config, options: &'a Options) -> Result<Self, Failure> {
        if config.distinct.keep != Keep::First {
            return Err(Failure::usage(
                "an audit knows distinct.keep = \"first\" and nothing else",
            )
            .detail("By another setting a later event may take the place of the first.")
            .hint("What such a job writes cannot be audited."));
        }
        let Some(log) = bound::Log::open(config)? else {
            return Self::unbound(config, options);
        };
        let outputs = outputs(config, true)?;
        let bound = log.read(config, options)?;
        Ok(Self {
            options,
            events: bound.events(config)?,
            outputs,
            memory_bytes: options.memory_bytes - bound.epochs.bytes(),
            revised: config.join.revise,
            join: Join::new(config, Some((bound.epochs, bound.changes)))?,
        })
    }

    /// An audit of a job without a log of bindings: of all that is there.
    fn unbound(config: &'a Config, options: &'a Options) -> Result<Self, Failure> {
        if options.from.or(options.to).is_some() {
            return Err(
                Failure::usage("this job has no binding log to tell its epochs")
                    .detail(
                        "A job has one once it has been started, but for one that reads a pipe.",
                    )
                    .hint("Leave out --from and --to."),
            );
        }
        if let Some(name) = &config.join.version_column {
            return Err(Failure::usage(format!(
                "nothing tells what must be in column {name:?}, the join.version_column"
            ))
            .detail(
                "A job's binding log has the epochs of reference rows, and this one has none.",
            ));
        }
        // Ends are taken before anything is read: first those of the events.
        let events = Source::of_events(&config.events.source, config.limits.max_record_bytes)?;
        Ok(Self {
            options,
            events,
            outputs: outputs(config, false)?,
            memory_bytes: options.memory_bytes,
            revised: config.join.revise,
            join: Join::new(config, None)?,
        })
    }

    /// How many records a pass reads at most.
    fn records(&self) -> u64 {
        let outputs = self.outputs.iter().map(|(_, source)| source.records_max());
        self.events.records_max() + outputs.sum::<u64>()
    }

    /// How many keys the table has room for; never more than there can be.
    fn entries_max(&self) -> usize {
        let outputs = self.outputs.iter().map(|(_, source)| source.records_max());
        let needed = self.events.records_max() + outputs.max().unwrap_or_default();
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        Table::entries_in(self.table_bytes()).min(needed)
    }

    /// What the entries of keys may take of memory: the rest is for keys with several records.
    fn table_bytes(&self) -> usize {
        match self.join.times() {
            Some(_) => self.memory_bytes / 3 * 2,
            None => self.memory_bytes,
        }
    }

    /// By what keys are judged.
    fn by(&self) -> By {
        match (self.join.judged(), self.join.times()) {
            (Some(judged), Some(times)) => By::Epochs {
                judged,
                times: times.clone(),
                steps_max: (self.memory_bytes - self.table_bytes()) / STEP_BYTES,
            },
            _ => By::Rows {
                revised: self.revised,
            },
        }
    }

    /// How many passes it takes if every event has a key of its own.
    fn passes(&self) -> Result<usize, Failure> {
        let entries_max = Table::entries_in(self.table_bytes()) as f64;
        let events = self.events.records_max() as f64;
        let fits = |passes: &usize| match passes {
            1 => events <= entries_max,
            passes => {
                let share = events / *passes as f64;
                // Hashes spread evenly, give or take five standard deviations.
                share + 5.0 * share.sqrt() <= entries_max
            }
        };
        let passes = (1..=PASSES_MAX).find(fits);
        passes.ok_or_else(|| self.too_little_memory())
    }

    fn too_little_memory(&self) -> Failure {
        let records = self.events.records_max();
        let share = usize::try_from(records / PASSES_MAX as u64).unwrap_or(usize::MAX / 2);
        // A third may be for keys with several records.
        let megabytes = (Table::bytes_of(share + share / 8) / 2 * 3).div_ceil(1_000_000);
        Failure::usage(format!(
            "auditing {records} records within {} bytes needs more than {PASSES_MAX} passes",
            self.memory_bytes
        ))
        .hint(format!(
            "Give it more: --memory {megabytes}MB, or twice that."
        ))
    }

    /// All passes; none if the table had too little room.
    fn attempt(&self, passes: usize, watcher: &mut dyn Watcher) -> Result<Option<Tally>, Failure> {
        let mut tally = Tally::new(self.outputs.len(), self.options);
        let mut progress = Progress {
            watcher,
            passes,
            done: 0,
            all: self.records() * passes as u64,
        };
        for pass in 0..passes {
            if !self.pass((pass, passes), &mut tally, &mut progress)? {
                return Ok(None);
            }
        }
        Ok(Some(tally))
    }

    /// One pass; false if the table had too little room.
    fn pass(
        &self,
        pass: (usize, usize),
        tally: &mut Tally,
        progress: &mut Progress<'_>,
    ) -> Result<bool, Failure> {
        let mut table = Table::new(self.entries_max(), self.by());
        let mut full = false;
        let mut events = Events::new(&self.join, pass);
        progress.read(&self.events, pass.0, |record| {
            full = events.take(record, &mut table).is_err();
            !full
        })?;
        if full || events.finish(&mut table).is_err() {
            return Ok(false);
        }
        tally.records = events.records;
        tally.undecodable = events.undecodable;
        let keys = table.end_events();
        tally.keys.keys += keys.keys;
        tally.keys.undecided += keys.undecided;
        tally.keys.rows += keys.rows;
        for ((sink, source), tally) in self.outputs.iter().zip(&mut tally.outputs) {
            let mut rows = Rows::new(&self.join, (source.is_keyed(), sink.envelope), pass);
            progress.read(source, pass.0, |record| {
                full = rows.take(record, &mut table, &mut tally.found).is_err();
                !full
            })?;
            if full || rows.finish(&mut table, &mut tally.found).is_err() {
                return Ok(false);
            }
            tally.records = rows.records;
            tally.tombstones = rows.tombstones;
            tally.right += table.end_rows(&mut tally.found);
        }
        Ok(true)
    }

    fn report(&self, tally: Tally, passes: usize) -> Result<Report, Failure> {
        let mut sinks = Vec::new();
        for ((sink, source), tally) in self.outputs.iter().zip(tally.outputs) {
            let found = &tally.found;
            sinks.push(SinkReport {
                name: sink.name.clone(),
                output: source.name(),
                records: tally.records,
                tombstones: tally.tombstones,
                right: tally.right,
                missing: found.count(Kind::Missing),
                doubled: found.count(Kind::Doubled),
                repeats: found.repeats,
                wrong: found.count(Kind::Wrong),
                unexpected: found.count(Kind::Unexpected),
                findings: show(found, &self.join, &self.events, (source, sink.envelope))?,
            });
        }
        Ok(Report {
            clean: sinks.iter().all(SinkReport::is_clean),
            passes,
            epochs: self
                .join
                .found()
                .map(|(first, last)| EpochRange { first, last }),
            events: EventCounts {
                source: self.events.name(),
                records: tally.records,
                undecodable: tally.undecodable,
                keys: tally.keys.keys,
                undecided: tally.keys.undecided,
                rows: tally.keys.rows,
            },
            reference_rows: self.join.reference_rows(),
            sinks,
        })
    }
}

/// What the sinks have written, as it stands now.
fn outputs(config: &Config, goes_on: bool) -> Result<Vec<(&Sink, Source)>, Failure> {
    let outputs = config.sinks.iter().map(|sink| {
        let source = Source::of_sink(&sink.target, goes_on)?;
        Ok((sink, source))
    });
    outputs.collect()
}

impl Tally {
    fn new(outputs: usize, options: &Options) -> Self {
        let output = || OutputTally {
            records: 0,
            tombstones: 0,
            right: 0,
            found: Found::new(options.show, options.allow_repeats),
        };
        Self {
            records: 0,
            undecodable: 0,
            keys: KeyCounts::default(),
            outputs: (0..outputs).map(|_| output()).collect(),
        }
    }
}

/// Counts what has been read, for whoever watches.
struct Progress<'a> {
    watcher: &'a mut dyn Watcher,
    passes: usize,
    done: u64,
    all: u64,
}

impl Progress<'_> {
    /// Reads a source once.
    fn read(
        &mut self,
        source: &Source,
        pass: usize,
        mut visit: impl FnMut(source::Record<'_>) -> bool,
    ) -> Result<(), Failure> {
        let name = source.name();
        let before = self.done;
        let mut read = 0;
        self.tell(pass, &name);
        source.scan(|record| {
            read += 1;
            if read % STEP_RECORDS == 0 {
                self.done = before + read;
                self.tell(pass, &name);
            }
            visit(record)
        })?;
        self.done = before + source.records_max();
        Ok(())
    }

    fn tell(&mut self, pass: usize, reading: &str) {
        self.watcher.step(Step {
            pass: pass + 1,
            passes: self.passes,
            reading,
            done: self.done as f64 / self.all.max(1) as f64,
        });
    }
}
