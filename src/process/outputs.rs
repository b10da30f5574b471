//! Sinks and dead letters, connected once a process and then opened for each worker.
//!
//! # Invariants
//! * A Kafka sink is written by every worker; a file by worker 0 alone.
//! * A row that a topic cannot take becomes a dead letter. Each sink of each worker has a
//!   collector of its own, since only that sink's operator still holds the row's epoch.

use std::sync::{Arc, Mutex, PoisonError};

use deltajoin_workers::batch::Batch;
use deltajoin_workers::ports::Sink;
use deltajoin_workers::queue::Waker;

use crate::codec::Format;
use crate::codec::dead_letter::DeadLetters;
use crate::config::Target;
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;
#[cfg(feature = "kafka")]
use crate::process::inputs::kafka_fatal;
#[cfg(not(feature = "kafka"))]
use crate::process::inputs::without_kafka;
use crate::process::{Process, plan};

/// Rows that a sink could not take, as dead letters to be.
#[cfg(feature = "kafka")]
type Rejected = Arc<Mutex<DeadLetters>>;

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
    /// What dead letters name as their source.
    source_name: Arc<str>,
}

enum Output {
    /// The file is opened on process 0, and taken by worker 0.
    File(Mutex<Option<file::JsonLines>>),
    #[cfg(feature = "kafka")]
    Kafka(Arc<kafka::Destination>),
}

impl Outputs {
    pub(super) fn connect(process: &Process) -> Result<Self, Failure> {
        let Process { config, .. } = process;
        // Kafka first: a file is emptied when it is opened, which must not happen in vain.
        let is_file = |target: &Target| matches!(target, Target::JsonLines { .. });
        let mut order: Vec<usize> = (0..config.sinks.len()).collect();
        order.sort_by_key(|index| is_file(&config.sinks[*index].target));
        let mut outputs: Vec<Option<Output>> = config.sinks.iter().map(|_| None).collect();
        let mut dead_letters = None;
        if !is_file(&config.dead_letters) {
            dead_letters = Some(connect(process, &config.dead_letters, true)?);
        }
        for index in order {
            let target = &config.sinks[index].target;
            outputs[index] = Some(connect(process, target, false)?);
        }
        let dead_letters = match dead_letters {
            Some(dead_letters) => dead_letters,
            None => connect(process, &config.dead_letters, true)?,
        };
        let names = config.sinks.iter().map(|sink| sink.name.clone());
        let results = names
            .zip(outputs)
            .filter_map(|(name, output)| Some((name, output?)));
        Ok(Self {
            results: results.collect(),
            dead_letters,
            source_name: plan::source_name(config),
        })
    }

    /// What one worker writes to; a file is given to the first worker of the job.
    pub(super) fn open(&self, first_of_job: bool) -> Result<WorkerSinks, Failure> {
        let open = |name: &str, output: &Output| -> Result<SendSink, Failure> {
            match output {
                Output::File(file) => {
                    let file = first_of_job
                        .then(|| file.lock().unwrap_or_else(PoisonError::into_inner).take())
                        .flatten();
                    let sink = file.map(|sink| Box::new(sink) as _);
                    Ok((name.to_owned(), true, sink))
                }
                #[cfg(feature = "kafka")]
                Output::Kafka(destination) => {
                    let rejected = Rejected::default();
                    let sink = destination.open(collect(&self.source_name, &rejected))?;
                    let sink = Passing { sink, rejected };
                    Ok((name.to_owned(), false, Some(Box::new(sink))))
                }
            }
        };
        let results = self.results.iter().map(|(name, output)| open(name, output));
        Ok(WorkerSinks {
            results: results.collect::<Result<_, _>>()?,
            dead_letters: open("dead-letters", &self.dead_letters)?,
        })
    }
}

fn connect(process: &Process, target: &Target, dead_letters: bool) -> Result<Output, Failure> {
    let format = if dead_letters {
        Format::DeadLetters
    } else {
        Format::rows(&plan::joined_schema(&process.config))
    };
    let fatal = process.fatal;
    match target {
        Target::JsonLines { path } => {
            let fatal: file::Fatal = Arc::new(move |error| fatal(&error.into()));
            let file = (process.index == 0).then(|| file::JsonLines::create(path, format, fatal));
            Ok(Output::File(Mutex::new(file.transpose()?)))
        }
        #[cfg(feature = "kafka")]
        Target::Kafka { topic, partitioner } => {
            let options = kafka::SinkOptions {
                topic: topic.clone(),
                partitioner: *partitioner,
                format,
                fail: kafka_fatal(fatal),
            };
            Ok(Output::Kafka(kafka::Destination::connect(
                options,
                &process.stop,
            )?))
        }
        #[cfg(not(feature = "kafka"))]
        Target::Kafka { .. } => Err(without_kafka("a sink")),
    }
}

/// Makes a dead letter of a row that a topic cannot take.
#[cfg(feature = "kafka")]
fn collect(source_name: &Arc<str>, rejected: &Rejected) -> kafka::OnRejected {
    let (source_name, rejected) = (Arc::clone(source_name), Arc::clone(rejected));
    Arc::new(move |row: kafka::Rejected| {
        let error = format!("sink topic {:?}: {}", row.topic, row.error);
        let mut rejected = rejected.lock().unwrap_or_else(PoisonError::into_inner);
        rejected.push(&source_name, row.origin, None, row.reason, &error, &row.raw);
    })
}

/// A sink that also passes on rejected rows.
#[cfg(feature = "kafka")]
struct Passing<S> {
    sink: S,
    rejected: Rejected,
}

#[cfg(feature = "kafka")]
impl<S: Sink> Sink for Passing<S> {
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
}
