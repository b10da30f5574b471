//! Publishes the stream, or the reference table, to a Kafka topic.
//!
//! Apart from the job's own sink: this is the publisher at the edge that the job is tested
//! against, and uses the client in the ordinary way.
//!
//! # Invariants
//! * A record goes to the partition that it names, once: the client's own repeats are no retries
//!   of the stream.
//! * Nothing is reported as written before the broker has acknowledged it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use crate::config::KafkaTopic;
use crate::connectors::kafka::bootstrap_again;
use crate::generate::pace::Pacer;
use crate::generate::{Error, Generator, Options, Pace, Written, reference_records};

/// How long a broker may take to answer at the start, where a person waits.
const REACH: Duration = Duration::from_secs(10);
/// Between two looks at whether it has refused the credentials.
const REACH_STEP: Duration = Duration::from_secs(1);
/// How long the broker may take for what is still under way at the end.
const FLUSH: Duration = Duration::from_secs(60);
/// Between two looks at what has failed meanwhile.
const FLUSH_STEP: Duration = Duration::from_millis(100);

/// What a client has told from its own thread.
#[derive(Clone, Default)]
struct Told(Arc<Events>);

#[derive(Default)]
struct Events {
    /// The first failure of a delivery.
    failure: Mutex<Option<KafkaError>>,
    /// Whether no broker has been connected since it was last asked.
    down: AtomicBool,
}

impl Told {
    fn failure(&self) -> MutexGuard<'_, Option<KafkaError>> {
        let failure = self.0.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, error: KafkaError) {
        self.failure().get_or_insert(error);
    }

    fn take(&self) -> Option<KafkaError> {
        self.failure().take()
    }
}

impl ClientContext for Told {
    fn error(&self, error: KafkaError, _reason: &str) {
        // The client tries a wrong password again for ever; anything else may pass by itself, and
        // fails the deliveries if it does not.
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Authentication) => self.keep(error),
            Some(RDKafkaErrorCode::AllBrokersDown) => self.0.down.store(true, Ordering::Relaxed),
            _ => {}
        }
    }
}

impl ProducerContext for Told {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.keep(error.clone());
        }
    }
}

/// A producer for one topic.
struct Publisher<'a> {
    topic: &'a KafkaTopic,
    producer: ThreadedProducer<Told>,
    told: Told,
}

impl<'a> Publisher<'a> {
    fn new(topic: &'a KafkaTopic, linger_ms: u64) -> Result<Self, Error> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &topic.brokers)
            .set("enable.idempotence", "true")
            .set("linger.ms", linger_ms.to_string())
            .set("compression.type", "none")
            .set("batch.size", "1000000")
            // The greatest record is the topic's business, not the client's.
            .set("message.max.bytes", "100000000")
            // What a slow broker may leave waiting here.
            .set("queue.buffering.max.kbytes", "65536")
            .set("delivery.report.only.error", "true");
        for (name, value) in &topic.properties {
            config.set(name, value);
        }
        let told = Told::default();
        let producer = config.create_with_context(told.clone()).map_err(|source| {
            let (topic, brokers) = (topic.topic.clone(), topic.brokers.clone());
            Error::Producer {
                topic,
                brokers,
                source: Box::new(source),
            }
        })?;
        let publisher = Self {
            topic,
            producer,
            told,
        };
        publisher.reach()?;
        Ok(publisher)
    }

    /// Waits until a broker answers, whatever it answers: deliveries tell what is wrong with a
    /// topic. Without this, one that is away would be told only when the first record expires.
    fn reach(&self) -> Result<(), Error> {
        let since = Instant::now();
        loop {
            let asked = Instant::now();
            let client = self.producer.client();
            let answer = client.fetch_metadata(Some(&self.topic.topic), REACH_STEP);
            self.check()?;
            match answer {
                Ok(_) => return Ok(()),
                Err(_) if since.elapsed() < REACH => {
                    // A refusal may come at once.
                    std::thread::sleep(REACH_STEP.saturating_sub(asked.elapsed()));
                }
                Err(source) => {
                    return Err(Error::Unreachable {
                        brokers: self.topic.brokers.clone(),
                        seconds: REACH.as_secs(),
                        source: Box::new(source),
                    });
                }
            }
        }
    }

    fn send(&self, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), Error> {
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    self.check()?;
                    record = refused;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((source, _)) => return Err(self.error(source)),
            }
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.told.0.down.swap(false, Ordering::Relaxed) {
            bootstrap_again(self.producer.client(), &self.topic.brokers);
        }
        self.told
            .take()
            .map_or(Ok(()), |source| Err(self.error(source)))
    }

    fn finish(&self) -> Result<(), Error> {
        let mut left = FLUSH;
        loop {
            let flushed = self.producer.flush(FLUSH_STEP);
            self.check()?;
            left = left.saturating_sub(FLUSH_STEP);
            match flushed {
                Err(_) if !left.is_zero() => {}
                flushed => return flushed.map_err(|source| self.error(source)),
            }
        }
    }

    fn error(&self, source: KafkaError) -> Error {
        let (topic, brokers) = (self.topic.topic.clone(), self.topic.brokers.clone());
        let source = Box::new(source);
        Error::Publish {
            topic,
            brokers,
            source,
        }
    }
}

/// Publishes all of the stream, each record stamped with the time at which it is published.
///
/// # Errors
/// If a producer cannot be made, or the broker refuses a record.
pub fn to_kafka(
    mut generator: Generator,
    topic: &KafkaTopic,
    pace: &Pace,
) -> Result<Written, Error> {
    let rate = generator.options().rate;
    // At a rate, a record is sent at its tick; as fast as possible, full batches are.
    let publisher = Publisher::new(topic, if rate == 0 { 5 } else { 0 })?;
    let mut pacer = Pacer::start(pace, rate);
    let mut written = Written::default();
    'stream: while let Some((due, now_ms)) = pacer.due() {
        let timestamp = i64::try_from(now_ms).expect("the clock is before the year 292,000,000");
        for _ in 0..due {
            let Some(record) = generator.next_record() else {
                break 'stream;
            };
            written.records += 1;
            written.bytes += (record.key.len() + record.value.len()) as u64;
            publisher.send(
                BaseRecord::to(&topic.topic)
                    .partition(record.partition)
                    .key(record.key)
                    .payload(record.value)
                    .timestamp(timestamp),
            )?;
        }
        publisher.check()?;
    }
    publisher.finish()?;
    written.elapsed_ms = pacer.elapsed_ms();
    Ok(written)
}

/// Publishes the reference table, each row to the partition of its key.
///
/// # Errors
/// If a producer cannot be made, or the broker refuses a record.
pub fn reference_to_kafka(options: &Options, topic: &KafkaTopic) -> Result<u64, Error> {
    let publisher = Publisher::new(topic, 5)?;
    for record in reference_records(options) {
        let (key, value) = (record.key.as_bytes(), record.value.as_bytes());
        publisher.send(BaseRecord::to(&topic.topic).key(key).payload(value))?;
    }
    publisher.finish()?;
    Ok(options.reference_rows)
}
