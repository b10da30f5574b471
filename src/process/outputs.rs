//! Sinks and dead letters, connected once a process and then opened for each worker.
//!
//! # Invariants
//! * A Kafka sink is written by every worker; a file by worker 0 alone.
//! * A row that a topic cannot take becomes a dead letter.

use std::sync::{Arc, Mutex, PoisonError};

use deltajoin_workers::ports::Sink;

use crate::codec::Format;
use crate::config::Target;
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;
#[cfg(feature = "kafka")]
use crate::process::inputs::kafka_fatal;
#[cfg(not(feature = "kafka"))]
use crate::process::inputs::without_kafka;
#[cfg(feature = "kafka")]
use crate::process::rejecting::Rejecting;
use crate::process::{Process, plan};

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
}

enum Output {
    /// The file is opened on process 0, and taken by worker 0.
    File(Mutex<Option<file::JsonLines>>),
    #[cfg(feature = "kafka")]
    Kafka {
        destination: Arc<kafka::Destination>,
        /// What dead letters name as their source.
        source_name: Arc<str>,
    },
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
                Output::Kafka {
                    destination,
                    source_name,
                } => {
                    let sink = Rejecting::open(destination, source_name)?;
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
            Ok(Output::Kafka {
                destination: kafka::Destination::connect(options, &process.stop)?,
                source_name: plan::source_name(&process.config),
            })
        }
        #[cfg(not(feature = "kafka"))]
        Target::Kafka { .. } => Err(without_kafka("a sink")),
    }
}
