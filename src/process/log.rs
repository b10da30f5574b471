//! The job's log of bindings, wherever it is: in a topic, or in a file beside the checkpoints.
//!
//! It is apart so that whoever takes the job over, judges it or looks at it need not know which.
//!
//! # Invariants
//! * Only a log that was prepared is made, claimed or locked; a look changes nothing.

use std::path::PathBuf;

use deltajoin_workers::ports::Stop;

use crate::bindings::{self, Log, Records};
use crate::config::Bindings;
use crate::connectors::file::{BindingFile, BindingReader};
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::failure::Failure;
#[cfg(not(feature = "kafka"))]
use crate::process::inputs::without_kafka;

/// A log that is not open yet.
pub(super) enum Prepared {
    File(PathBuf),
    #[cfg(feature = "kafka")]
    Topic(kafka::BindingProducer),
}

impl Prepared {
    /// Does what takes a while.
    pub(super) fn new(bindings: &Bindings) -> Result<Self, Failure> {
        match bindings {
            Bindings::File(path) => Ok(Self::File(path.clone())),
            #[cfg(feature = "kafka")]
            Bindings::Topic(topic) => Ok(Self::Topic(kafka::BindingProducer::new(topic)?)),
            #[cfg(not(feature = "kafka"))]
            Bindings::Topic(_) => Err(without_kafka("[events]")),
        }
    }

    /// Opens the log, which is made if it is not there; a topic with so many replicas. The folder
    /// of checkpoints must be there.
    pub(super) fn open(self, replicas: u16, stop: &Stop) -> Result<Box<dyn Log>, bindings::Error> {
        #[cfg(not(feature = "kafka"))]
        let _ = (replicas, stop);
        match self {
            Self::File(path) => Ok(Box::new(BindingFile::open(&path)?)),
            #[cfg(feature = "kafka")]
            Self::Topic(producer) => Ok(Box::new(producer.open(replicas, stop)?)),
        }
    }
}

/// Opens a log to be read, also while a job appends to it; none if it is not there.
pub(super) fn look(
    bindings: &Bindings,
    stop: &Stop,
) -> Result<Option<Box<dyn Records>>, bindings::Error> {
    #[cfg(not(feature = "kafka"))]
    let _ = stop;
    match bindings {
        Bindings::File(path) => {
            let reader = BindingReader::open(path)?;
            Ok(reader.map(|reader| Box::new(reader) as _))
        }
        #[cfg(feature = "kafka")]
        Bindings::Topic(topic) => {
            let Some(reader) = kafka::BindingReader::open(topic, stop)? else {
                return Ok(None);
            };
            reader.check()?;
            Ok(Some(Box::new(reader)))
        }
        #[cfg(not(feature = "kafka"))]
        Bindings::Topic(_) => Ok(None),
    }
}

/// Names a log, as it is called in the settings.
pub(super) fn name(bindings: &Bindings) -> String {
    match bindings {
        Bindings::File(path) => format!("file {path:?}"),
        Bindings::Topic(topic) => format!("topic {:?}", topic.topic),
    }
}
