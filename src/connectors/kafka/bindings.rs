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

use std::time::Duration;

use deltajoin_workers::ports::Stop;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::bindings::{self, Log, Visit};
use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::error::place;
use crate::connectors::kafka::ffi::{Consumer, Producer};
use crate::connectors::kafka::messages::{Item, Outgoing, Report};
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::{Error, settings};

/// What the topic is made with.
const SETTINGS: &[(&str, &str)] = &[
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    // A reference row of the greatest size fits in, with what JSON adds to it.
    ("max.message.bytes", "16777216"),
];
/// Those of them that a topic that is there already must have.
const CHECKED: [&str; 3] = ["cleanup.policy", "retention.ms", "retention.bytes"];
/// Small enough for a broker's default limit.
const RECORD_BYTES_MAX: usize = 900_000;
/// Records that are read at a time.
const BATCH_RECORDS_MAX: usize = 1_000;
/// How late a stop is noticed.
const WAIT: Duration = Duration::from_millis(100);

/// A binding log in a topic.
pub struct BindingTopic {
    topic: KafkaTopic,
    connection: Connection,
    producer: Producer,
    patience: Patience,
    message_bytes_max: usize,
}

impl BindingTopic {
    /// Makes the topic if it is not there, and checks it if it is; waits for a broker that is
    /// away.
    ///
    /// # Errors
    /// If the topic cannot hold a binding log, if Kafka refuses, or if `stop` is set.
    pub fn open(topic: &KafkaTopic, stop: &Stop) -> Result<Self, Error> {
        let mut connection = Connection::open(&reading(topic))?;
        let partitions = match connection.partitions(stop) {
            Err(Error::UnknownTopic { .. }) => {
                connection.create(1, SETTINGS, stop)?;
                connection.partitions(stop)?
            }
            known => known?,
        };
        check(topic, partitions, &connection)?;
        let message_bytes_max = connection.message_bytes_max();
        let config = settings::producer(topic, message_bytes_max)?;
        let producer = Producer::new(&config, &topic.topic);
        Ok(Self {
            producer: producer.map_err(|error| Error::from_client(error, topic))?,
            patience: Patience::later(topic),
            topic: topic.clone(),
            connection,
            message_bytes_max,
        })
    }

    /// Gives the records to the producer and waits for what becomes of each.
    fn deliver(&mut self, records: &[Vec<u8>], stop: &Stop) -> Result<Delivery, Error> {
        let mut delivery = Delivery {
            offsets: vec![None; records.len()],
            unreported: records.len(),
            failure: None,
        };
        let mut given = 0;
        // Between appends nothing is expected of Kafka.
        self.patience.rest();
        while delivery.unreported > 0 {
            let rest = records.iter().enumerate().skip(given);
            let messages = rest.map(|(token, record)| Outgoing {
                key: None,
                value: Some(record),
                token,
            });
            let mut refused = Vec::new();
            given += self.producer.produce(0, messages, &mut refused);
            for (_, code) in refused {
                delivery.unreported -= 1;
                delivery.failure = Some(code);
            }
            let before = delivery.unreported;
            let handle = self.producer.handle();
            let report = |report| delivery.reported(report);
            self.patience.serve(handle, WAIT, report)?;
            if delivery.unreported < before {
                self.patience.back();
            }
            if stop.asked() {
                self.producer.purge();
                return Err(Error::Stopped);
            }
        }
        Ok(delivery)
    }
}

/// What has become of the records of an append.
#[derive(Debug)]
struct Delivery {
    /// The offset of each, if the broker has told it.
    offsets: Vec<Option<i64>>,
    unreported: usize,
    /// An error that no waiting cures.
    failure: Option<Code>,
}

impl Delivery {
    fn reported(&mut self, report: Report) {
        self.unreported -= 1;
        match report.result {
            Ok(()) => self.offsets[report.token] = report.offset,
            Err(code) => self.failure = Some(code),
        }
    }
}

impl Log for BindingTopic {
    fn name(&self) -> String {
        place(&self.topic)
    }

    fn record_bytes_max(&self) -> usize {
        // A tenth is left for what Kafka adds.
        RECORD_BYTES_MAX.min(self.message_bytes_max * 9 / 10)
    }

    fn read(&mut self, from: u64, stop: &Stop, visit: Visit<'_>) -> Result<(), bindings::Error> {
        let starts = self.connection.starts(1, Start::Earliest, stop)?;
        let ends = self.connection.ends(1, stop)?;
        let mut next = i64::try_from(from).unwrap_or(i64::MAX).max(starts[0]);
        if next >= ends[0] {
            return Ok(());
        }
        let config = settings::consumer(&reading(&self.topic))?;
        let consumer = Consumer::new(&config, &self.topic.topic, BATCH_RECORDS_MAX);
        let mut consumer = consumer.map_err(|error| Error::from_client(error, &self.topic))?;
        let started = consumer.start(0, next);
        started.map_err(|code| Error::failed(&self.topic, &code.to_string()))?;
        let mut patience = Patience::later(&self.topic);
        while next < ends[0] {
            if stop.asked() {
                return Err(bindings::Error::Stopped);
            }
            if consumer.fill(WAIT) > 0 {
                patience.back();
            }
            for item in consumer.batch() {
                match item {
                    Item::Record(record) => {
                        let offset = record.offset();
                        let value = record.value().unwrap_or_default();
                        let visited = visit(offset.unsigned_abs(), value);
                        let place = || format!("{}[0]@{offset}", self.topic.topic);
                        visited.map_err(|fault| fault.at(place()))?;
                        next = offset + 1;
                    }
                    Item::End { offset, .. } => next = offset.max(next),
                    Item::Fault { code, reason, .. } => {
                        patience.fault(consumer.handle(), (0, next), code, &reason)?;
                    }
                }
            }
            patience.serve(consumer.handle(), Duration::ZERO, |_| {})?;
        }
        Ok(())
    }

    fn append(&mut self, records: &[Vec<u8>], stop: &Stop) -> Result<u64, bindings::Error> {
        let unknown = |log, reason: &str| bindings::Error::OutcomeUnknown {
            log,
            reason: reason.to_owned(),
        };
        let delivery = match self.deliver(records, stop) {
            Ok(delivery) => delivery,
            Err(Error::Failed { reason, .. }) => return Err(unknown(self.name(), &reason)),
            Err(error) => return Err(error.into()),
        };
        if let Some(code) = delivery.failure {
            return Err(Error::undelivered(&self.topic, code).into());
        }
        let mut offsets = delivery.offsets.iter();
        let acknowledged = |offset: &Option<i64>| {
            let offset = offset.map(i64::unsigned_abs);
            offset.ok_or_else(|| unknown(self.name(), "an acknowledgement has no offset"))
        };
        let first = offsets.next().expect("an append has a record");
        let first = acknowledged(first)?;
        for (expected, offset) in (first + 1..).zip(offsets) {
            let found = acknowledged(offset)?;
            if found != expected {
                let log = self.name();
                return Err(bindings::Error::Gap {
                    log,
                    expected,
                    found,
                });
            }
        }
        Ok(first)
    }
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

/// Refuses a topic that would lose bindings or mix their order.
fn check(topic: &KafkaTopic, partitions: usize, connection: &Connection) -> Result<(), Error> {
    let unfit = |reason, hint| Error::Unfit {
        place: place(topic),
        purpose: "a binding log",
        reason,
        hint,
    };
    if partitions != 1 {
        let reason = format!("It has {partitions} partitions, and needs 1.");
        let hint = "Delete it, if it is of no use to anyone, and the job makes it again; \
            or give the job another name.";
        return Err(unfit(reason, hint.to_owned()));
    }
    let settings = connection.settings();
    for (key, needed) in SETTINGS.iter().filter(|(key, _)| CHECKED.contains(key)) {
        // What may not be read is taken for right.
        let value = settings.get(*key).map_or(*needed, |value| value);
        if value != *needed {
            let reason = format!("Its setting {key} is {value:?}, and must be {needed:?}.");
            let hint = format!(
                "Set it with `kafka-configs.sh --alter --topic {} --add-config {key}={needed}`.",
                topic.topic
            );
            return Err(unfit(reason, hint));
        }
    }
    Ok(())
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
