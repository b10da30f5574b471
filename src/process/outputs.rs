//! Sinks and dead letters, connected once a process and then opened for each worker.
//!
//! # Invariants
//! * A Kafka sink is written by every worker; a file by worker 0 alone.
//! * A file of a job that goes on keeps its rows.
//! * A row that a topic cannot take becomes a dead letter of its epoch, at every replay again.
//!   Where a topic turns out to take less than it said, the sinks of a process share one collector,
//!   and whichever of them looks next passes on what it holds.

use std::sync::{Arc, Mutex, PoisonError};

use deltajoin_workers::batch::Batch;
use deltajoin_workers::ports::Sink;
use deltajoin_workers::queue::Waker;

use crate::codec::dead_letter::DeadLetters;
use crate::codec::{Envelope, Format};
#[cfg(feature = "kafka")]
use crate::config::Delivery;
use crate::config::{self, DEAD_LETTERS, Target};
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;
use crate::process::durable::{self, Durable};
#[cfg(feature = "kafka")]
use crate::process::inputs::kafka_fatal;
#[cfg(not(feature = "kafka"))]
use crate::process::inputs::without_kafka;
use crate::process::recorded::Recorded;
use crate::process::{Process, plan};

/// Dead letters that do not come from the events' readers: rows that sinks could not take, and
/// changes of the reference that could not be read.
pub(super) type Rejected = Arc<Mutex<DeadLetters>>;

/// What one worker writes to.
pub(super) struct WorkerSinks {
    pub(super) results: Vec<SendSink>,
    pub(super) dead_letters: SendSink,
}

/// A sink as one worker is given it: its name, whether worker 0 writes for all, and the sink.
pub(super) type SendSink = (String, bool, Option<Box<dyn Sink + Send>>);

/// What a process writes to.
pub(super) struct Outputs {
    results: Vec<(String, Output)>,
    dead_letters: Output,
    rejected: Rejected,
}

enum Output {
    /// The file is reserved by process 0, and taken by worker 0.
    File(Mutex<Option<OutputFile>>),
    #[cfg(feature = "kafka")]
    Kafka(Arc<kafka::Destination>, Delivery),
}

/// A file to be written, from which nothing is taken before the job begins.
struct OutputFile {
    reserved: file::Reserved,
    format: Format,
    fatal: file::Fatal,
}

impl OutputFile {
    fn start(self) -> Result<file::JsonLines, file::Error> {
        file::JsonLines::start(self.reserved, self.format, self.fatal)
    }
}

impl Outputs {
    pub(super) fn connect(process: &Process, rejected: Rejected) -> Result<Self, Failure> {
        let Process { config, .. } = process;
        let results = config.sinks.iter().map(|sink| {
            let envelope = match sink.envelope {
                config::Envelope::Upsert => Envelope::Upsert,
                config::Envelope::Changelog => Envelope::Changelog,
            };
            let format = Format::rows(&plan::joined_schema(config), envelope);
            let output = connect(process, &sink.name, format, (&sink.target, &rejected))?;
            Ok((sink.name.clone(), output))
        });
        Ok(Self {
            results: results.collect::<Result<_, Failure>>()?,
            dead_letters: connect(
                process,
                DEAD_LETTERS,
                Format::DeadLetters,
                (&config.dead_letters, &rejected),
            )?,
            rejected,
        })
    }

    /// What the topics of sinks are like.
    pub(super) fn found(&self) -> Recorded {
        let results = self.results.iter();
        let results = results.map(|(name, output)| (&**name, output));
        let all = results.chain([(DEAD_LETTERS, &self.dead_letters)]);
        Recorded::new(all.filter_map(|one| match one {
            (_, Output::File(_)) => None,
            #[cfg(feature = "kafka")]
            (name, Output::Kafka(destination, _)) => {
                Some((name, destination.topic(), destination.limits()))
            }
        }))
    }

    /// Has rows go by what the topics were like when the job began to write to them.
    pub(super) fn hold(&mut self, durable: Option<&Durable>) {
        let Some(durable) = durable else { return };
        let results = self.results.iter_mut();
        let results = results.map(|(name, output)| (&**name, output));
        for (name, output) in results.chain([(DEAD_LETTERS, &mut self.dead_letters)]) {
            match (output, durable.recorded.of(name)) {
                (Output::File(_), _) => {}
                #[cfg(feature = "kafka")]
                (Output::Kafka(destination, _), limits) => {
                    let limits = limits.unwrap_or_else(|| destination.limits());
                    *destination = destination.within(limits);
                }
            }
        }
    }

    /// The last epoch that a file has; 0 when none.
    pub(super) fn written(&self) -> u64 {
        let results = self.results.iter().map(|(_, output)| output);
        let outputs = results.chain([&self.dead_letters]);
        outputs.map(Output::written).max().unwrap_or(0)
    }

    /// What one worker of the job writes to; a file is given to the first.
    pub(super) fn open(
        &self,
        worker: usize,
        durable: Option<&Durable>,
    ) -> Result<WorkerSinks, Failure> {
        let mut results = Vec::new();
        for (name, output) in &self.results {
            let sink = output.open(name, worker, durable)?.map(|sink| {
                Box::new(Passing {
                    sink,
                    left_out: output.left_out(durable.is_some()),
                    rejected: Arc::clone(&self.rejected),
                }) as Box<dyn Sink + Send>
            });
            results.push((name.clone(), output.single_writer(), sink));
        }
        let dead_letters = &self.dead_letters;
        let sink = dead_letters.open(DEAD_LETTERS, worker, durable)?;
        let dead_letters = (DEAD_LETTERS.to_owned(), dead_letters.single_writer(), sink);
        Ok(WorkerSinks {
            results,
            dead_letters,
        })
    }
}

impl Output {
    fn written(&self) -> u64 {
        match self {
            Self::File(file) => {
                let file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.as_ref().map_or(0, |file| file.reserved.written())
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(..) => 0,
        }
    }

    /// What takes out of rows those that this can never take; a job that goes on has them numbered
    /// if they may be repeated.
    fn left_out(&self, goes_on: bool) -> LeftOut {
        #[cfg(not(feature = "kafka"))]
        let _ = goes_on;
        match self {
            Self::File(_) => Box::new(|_, _| Batch::default()),
            #[cfg(feature = "kafka")]
            Self::Kafka(destination, delivery) => {
                let destination = Arc::clone(destination);
                let marked = goes_on && matches!(delivery, Delivery::AtLeastOnce);
                Box::new(move |epoch, rows| destination.leave_out((epoch, rows), marked))
            }
        }
    }

    fn single_writer(&self) -> bool {
        matches!(self, Self::File(_))
    }

    fn open(
        &self,
        name: &str,
        worker: usize,
        durable: Option<&Durable>,
    ) -> Result<Option<Box<dyn Sink + Send>>, Failure> {
        #[cfg(not(feature = "kafka"))]
        let _ = name;
        match self {
            Self::File(file) if worker == 0 => {
                let file = file.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(file) = file else { return Ok(None) };
                let written = file.reserved.written();
                let sink = file.start()?;
                Ok(Some(match durable {
                    Some(durable) => durable.file(name, sink, written),
                    None => Box::new(sink),
                }))
            }
            Self::File(_) => Ok(None),
            #[cfg(feature = "kafka")]
            Self::Kafka(destination, delivery) => Ok(Some(match durable {
                Some(durable) => durable.sink(name, destination, *delivery, worker)?,
                None => Box::new(destination.open(None)?),
            })),
        }
    }
}

fn connect(
    process: &Process,
    name: &str,
    format: Format,
    (target, rejected): (&Target, &Rejected),
) -> Result<Output, Failure> {
    let fatal = process.fatal;
    match target {
        Target::JsonLines { path } => {
            let fatal: file::Fatal = Arc::new(move |error| fatal(&error.into()));
            let inputs = process.config.input_files();
            if process.index > 0 {
                return Ok(Output::File(Mutex::new(None)));
            }
            let reserved = file::Reserved::open(path, &inputs)?;
            let reserved = if durable::goes_on(process) {
                reserved.go_on(&process.config.job, name)?
            } else {
                reserved.begin_again()?
            };
            Ok(Output::File(Mutex::new(Some(OutputFile {
                reserved,
                format,
                fatal,
            }))))
        }
        #[cfg(feature = "kafka")]
        Target::Kafka {
            topic,
            partitioner,
            delivery,
        } => {
            let options = kafka::SinkOptions {
                topic: topic.clone(),
                partitioner: *partitioner,
                format,
                on_rejected: collect(&plan::source_name(&process.config), rejected),
                letter_of: letter_of(&plan::source_name(&process.config)),
                fail: kafka_fatal(fatal),
            };
            let destination = kafka::Destination::connect(options, &process.stop)?;
            Ok(Output::Kafka(destination, *delivery))
        }
        #[cfg(not(feature = "kafka"))]
        Target::Kafka { .. } => {
            let _ = rejected;
            Err(without_kafka("a sink"))
        }
    }
}

/// Collects dead letters of rows that a topic cannot take.
#[cfg(feature = "kafka")]
fn collect(source_name: &Arc<str>, rejected: &Rejected) -> kafka::OnRejected {
    let (source_name, rejected) = (Arc::clone(source_name), Arc::clone(rejected));
    Arc::new(move |row: kafka::Rejected| {
        let mut rejected = rejected.lock().unwrap_or_else(PoisonError::into_inner);
        add_letter(&mut rejected, &source_name, &row);
    })
}

/// Makes a dead letter of such a row.
#[cfg(feature = "kafka")]
fn letter_of(source_name: &Arc<str>) -> kafka::LetterOf {
    let source_name = Arc::clone(source_name);
    Arc::new(move |row| {
        let mut letters = DeadLetters::default();
        add_letter(&mut letters, &source_name, row);
        letters.finish()
    })
}

#[cfg(feature = "kafka")]
fn add_letter(letters: &mut DeadLetters, source_name: &str, row: &kafka::Rejected) {
    let error = format!("sink topic {:?}: {}", row.topic, row.error);
    letters.push(source_name, row.origin, None, row.reason, &error, &row.raw);
}

/// Takes out of the rows of an epoch those that a sink can never take, and makes dead letters of
/// them.
type LeftOut = Box<dyn Fn(u64, &mut Batch) -> Batch + Send>;

/// A sink of results that also passes on what was rejected. That of dead letters must not: behind
/// it, nothing would take them.
struct Passing {
    sink: Box<dyn Sink + Send>,
    left_out: LeftOut,
    rejected: Rejected,
}

impl Sink for Passing {
    fn leave_out(&self, epoch: u64, rows: &mut Batch) -> Batch {
        (self.left_out)(epoch, rows)
    }

    fn write(&mut self, epoch: u64, rows: Batch) {
        self.sink.write(epoch, rows);
    }

    fn close(&mut self, epoch: u64) {
        self.sink.close(epoch);
    }

    fn written(&self) -> u64 {
        self.sink.written()
    }

    fn wake_by(&mut self, waker: Waker) {
        self.sink.wake_by(waker);
    }

    fn rejected(&mut self) -> Batch {
        self.rejected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .finish()
    }

    fn written_dead_letters(&mut self) -> u64 {
        self.sink.written_dead_letters()
    }
}
