//! The binding log of a job as a topic of one partition.
//!
//! It has a producer of its own, apart from `writer`, because here the offset of every record
//! matters, and the next append may begin only when that of the last one is known.
//!
//! # Invariants
//! * One append is under way at a time; all in-sync replicas have it when it returns.
//! * A broker that is away is waited for. An acknowledgement without an offset, and an error of
//!   the client as a whole, leave the outcome unknown, and that is what is told.
//! * Nothing but the job removes records: the topic is kept for ever, and not compacted.

use std::ops::Range;

use deltajoin_workers::ports::Stop;

use crate::bindings::{self, Log, Records, Visit};
use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::delivery::deliver;
use crate::connectors::kafka::error::place;
use crate::connectors::kafka::ffi::{Producer, Topic};
use crate::connectors::kafka::own_topic::OwnTopic;
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::scan::Scan;
use crate::connectors::kafka::settings::Linger;
use crate::connectors::kafka::{Error, settings};

/// What the topic must be like.
const TOPIC: OwnTopic = OwnTopic {
    purpose: "a binding log",
    settings: &[
        ("cleanup.policy", "delete"),
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("max.message.bytes", "16777216"),
    ],
    checked: &["cleanup.policy", "retention.ms", "retention.bytes"],
};
/// Small enough for a broker's default limit.
const MESSAGE_BYTES_MAX: usize = 1_000_000;

/// What appends to a binding log. Librdkafka takes half a second until an idempotent producer may
/// send: it is made before everything else that a start does.
pub struct BindingProducer {
    topic: KafkaTopic,
    native: Topic,
    producer: Producer,
}

/// A binding log in a topic, only to be read.
pub struct BindingReader {
    topic: KafkaTopic,
    partitions: usize,
    connection: Connection,
}

impl BindingReader {
    /// Looks for the topic; none if it is not there. Waits for a broker that is away.
    ///
    /// # Errors
    /// If Kafka refuses, or if `stop` is set.
    pub fn open(topic: &KafkaTopic, stop: &Stop) -> Result<Option<Self>, Error> {
        let mut connection = Connection::open(&reading(topic))?;
        match connection.partitions(stop) {
            Err(Error::UnknownTopic { .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(partitions) => Ok(Some(Self {
                topic: topic.clone(),
                partitions,
                connection,
            })),
        }
    }

    /// Whether the topic can hold a log.
    ///
    /// # Errors
    /// If it would lose records or mix their order.
    pub fn check(&self) -> Result<(), Error> {
        TOPIC.check(&self.topic, self.partitions, &self.connection)
    }
}

impl Records for BindingReader {
    fn name(&self) -> String {
        place(&self.topic)
    }

    fn first(&mut self, stop: &Stop) -> Result<u64, bindings::Error> {
        let starts = self.connection.starts(1, Start::Earliest, stop)?;
        Ok(starts[0].unsigned_abs())
    }

    fn read(&mut self, from: u64, stop: &Stop, visit: Visit<'_>) -> Result<(), bindings::Error> {
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        let scan = Scan::of_rest(&mut self.connection, from, stop)?;
        let mut wanted = Ok(true);
        scan.run(stop, |record| {
            let offset = record.origin.offset;
            let visited = visit(offset.unsigned_abs(), record.value.unwrap_or_default());
            let place = || format!("{}[0]@{offset}", self.topic.topic);
            wanted = visited.map_err(|fault| fault.at(place()));
            matches!(wanted, Ok(true))
        })?;
        wanted.map(|_| ())
    }
}

/// A binding log in a topic.
pub struct BindingTopic {
    topic: KafkaTopic,
    reader: BindingReader,
    native: Topic,
    producer: Producer,
    patience: Patience,
}

impl BindingProducer {
    /// Makes a client, which connects by itself.
    ///
    /// # Errors
    /// If a setting is refused.
    pub fn new(topic: &KafkaTopic) -> Result<Self, Error> {
        let config = settings::producer(topic, MESSAGE_BYTES_MAX, Linger::None)?;
        let failed = |error| Error::from_client(error, topic);
        let producer = Producer::new(&config).map_err(failed)?;
        Ok(Self {
            native: producer.topic(&topic.topic).map_err(failed)?,
            producer,
            topic: topic.clone(),
        })
    }

    /// Makes the topic if it is not there, with so many replicas or, for 0, the broker's default,
    /// and checks it if it is; waits for a broker that is away.
    ///
    /// # Errors
    /// If the topic cannot hold a binding log, if Kafka refuses, or if `stop` is set.
    pub fn open(self, replicas: u16, stop: &Stop) -> Result<BindingTopic, Error> {
        let connection = TOPIC.open(&reading(&self.topic), replicas, stop)?;
        let Self {
            topic,
            native,
            producer,
        } = self;
        Ok(BindingTopic {
            patience: Patience::later(&topic),
            reader: BindingReader {
                topic: topic.clone(),
                partitions: 1,
                connection,
            },
            topic,
            native,
            producer,
        })
    }
}

impl BindingTopic {
    /// Opens the log at once.
    ///
    /// # Errors
    /// As `BindingProducer::open`.
    pub fn open(topic: &KafkaTopic, replicas: u16, stop: &Stop) -> Result<Self, Error> {
        BindingProducer::new(topic)?.open(replicas, stop)
    }
}

impl Records for BindingTopic {
    fn name(&self) -> String {
        self.reader.name()
    }

    fn first(&mut self, stop: &Stop) -> Result<u64, bindings::Error> {
        self.reader.first(stop)
    }

    fn read(&mut self, from: u64, stop: &Stop, visit: Visit<'_>) -> Result<(), bindings::Error> {
        self.reader.read(from, stop, visit)
    }
}

impl Log for BindingTopic {
    fn record_bytes_max(&self) -> usize {
        // A tenth is left for what Kafka adds.
        MESSAGE_BYTES_MAX * 9 / 10
    }

    fn append(&mut self, records: &[Vec<u8>], stop: &Stop) -> Result<Range<u64>, bindings::Error> {
        let unknown = |log, reason: &str| bindings::Error::OutcomeUnknown {
            log,
            reason: reason.to_owned(),
        };
        let values = records.iter().map(|record| (None, &**record));
        let to = (&mut self.producer, &self.native);
        let delivery = match deliver(to, values, &mut self.patience, || stop.asked()) {
            Ok(delivery) => delivery,
            Err(Error::Stopped) => {
                self.producer.purge();
                return Err(bindings::Error::Stopped);
            }
            Err(Error::Failed { reason, .. }) => return Err(unknown(self.name(), &reason)),
            Err(error) => return Err(error.into()),
        };
        if let Some(code) = delivery.failure {
            return Err(Error::delivery(&self.topic, code).into());
        }
        let offsets = delivery.offsets.into_iter().map(|offset| {
            let offset = offset.map(i64::unsigned_abs);
            offset.ok_or_else(|| unknown(self.name(), "an acknowledgement has no offset"))
        });
        let offsets: Vec<u64> = offsets.collect::<Result<_, _>>()?;
        // An idempotent producer's records are in the order in which they were given.
        let (first, last) = (offsets.first(), offsets.last());
        let first = first.expect("an append has a record");
        Ok(*first..last.expect("and so a last one") + 1)
    }
}

/// Removes records of a log before an offset that were appended before `oldest_ms`, in
/// milliseconds since 1970.
///
/// # Errors
/// If Kafka refuses, or if `stop` is set.
pub fn trim_bindings(
    topic: &KafkaTopic,
    before: u64,
    oldest_ms: u64,
    stop: &Stop,
) -> Result<(), Error> {
    let mut connection = Connection::open(&reading(topic))?;
    let oldest = Start::Timestamp(i64::try_from(oldest_ms).unwrap_or(i64::MAX));
    let kept = connection.starts(1, oldest, stop)?[0];
    let before = kept.min(i64::try_from(before).unwrap_or(i64::MAX));
    if before > connection.starts(1, Start::Earliest, stop)?[0] {
        connection.delete_before(before, stop)?;
    }
    Ok(())
}

/// The topic for clients that read it. Whatever stands in the log must be seen, also what a
/// stranger has left in an open transaction.
fn reading(topic: &KafkaTopic) -> KafkaTopic {
    let mut topic = topic.clone();
    let level = ("isolation.level", "read_uncommitted");
    topic
        .properties
        .insert(level.0.to_owned(), level.1.to_owned());
    topic
}

impl From<Error> for bindings::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Stopped => Self::Stopped,
            error => Self::Connector {
                needs_correction: error.is_configuration(),
                message: error.to_string(),
                detail: error.detail().map(str::to_owned),
                hint: error.hint(),
            },
        }
    }
}
