//! Asks Kafka about a topic before the job starts: its partitions, offsets and limits.
//!
//! It is apart from reading and writing because here a person waits at a terminal: what cannot
//! work must be said at once, with a hint, and what may work later is waited for, audibly.
//!
//! # Invariants
//! * No answer is guessed but the largest message of a topic whose settings may not be read.

mod admin;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigEntry, ResourceSpecifier};
use rdkafka::client::{Client, ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use crate::config::{KafkaTopic, Start};
use crate::connectors::kafka::error::{Error, place, reason};
use crate::connectors::kafka::ffi::{Handle, bootstrap_again};
use crate::connectors::kafka::messages::{Description, Polled};
use crate::connectors::kafka::patience::Patience;
use crate::connectors::kafka::settings;

/// How long one question may take: long enough for TLS across an ocean, short enough to notice a
/// wrong password while someone is looking.
pub(super) const ANSWER: Duration = Duration::from_secs(2);
/// How soon a question is asked again at first: a topic that was just made is known in a moment.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// And later.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long it is nothing to speak of that there is no answer.
const QUIET: Duration = Duration::from_millis(500);
/// A topic is known to all brokers soon after it was made.
const KNOWN_WITHIN: Duration = Duration::from_millis(300);
/// Librdkafka's default, for topics whose settings may not be read.
const MESSAGE_BYTES_MAX: usize = 1_000_000;

/// A connection that asks about one topic.
pub struct Connection {
    topic: KafkaTopic,
    config: ClientConfig,
    handle: Handle,
    /// Knows offsets; made when they are asked for.
    offsets: Option<BaseConsumer>,
    /// A topic that no broker knows for so long does not exist.
    known_within: Duration,
    patience: Patience,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connection")
            .field(&self.topic.topic)
            .finish()
    }
}

/// The answer to a question about a topic: one that came, one that may come later, or an error
/// that no waiting cures.
enum Answer<T> {
    Given(T),
    Later(String),
    Never(Error),
}

impl Connection {
    /// Makes a client; whether Kafka answers is seen at the first question.
    ///
    /// # Errors
    /// If a setting is refused.
    pub fn open(topic: &KafkaTopic) -> Result<Self, Error> {
        let config = settings::consumer(topic)?;
        let handle = Handle::for_metadata(&config);
        Ok(Self {
            topic: topic.clone(),
            config,
            handle: handle.map_err(|error| Error::from_client(error, topic))?,
            offsets: None,
            known_within: KNOWN_WITHIN,
            patience: Patience::at_start(topic),
        })
    }

    /// How many partitions the topic has; waits for a broker that is away.
    ///
    /// # Errors
    /// If the topic does not exist or may not be seen, if Kafka refuses the credentials, or if
    /// `stop` is set.
    pub fn partitions(&mut self, stop: &Stop) -> Result<usize, Error> {
        let (began, known) = (Instant::now(), self.known_within);
        self.ask(stop, |handle, topic| {
            let metadata = match handle.client().fetch_metadata(Some(&topic.topic), ANSWER) {
                Ok(metadata) => metadata,
                Err(error) => return Answer::Later(reason(&error)),
            };
            let Some(found) = metadata.topics().first() else {
                return Answer::Later("the answer names no topic".to_owned());
            };
            match found.error().map(Code::from) {
                None if found.partitions().is_empty() => Answer::Later("no partitions yet".into()),
                None => Answer::Given(found.partitions().len()),
                // A topic that has just been made may not be known to every broker yet.
                Some(Code::UnknownTopicOrPartition) if began.elapsed() < known => {
                    Answer::Later("the topic is not known yet".to_owned())
                }
                Some(Code::UnknownTopicOrPartition | Code::InvalidTopic) => {
                    Answer::Never(Error::UnknownTopic {
                        topic: topic.topic.clone(),
                        brokers: topic.brokers.clone(),
                        similar: similar(handle, &topic.topic),
                    })
                }
                Some(code @ Code::TopicAuthorizationFailed) => {
                    Answer::Never(Error::NotAuthorized {
                        place: place(topic),
                        reason: code.to_string(),
                    })
                }
                Some(code) => Answer::Later(code.to_string()),
            }
        })
    }

    /// What tells the topic from another of the same name, if the broker can tell; waits for a
    /// broker that is away.
    ///
    /// # Errors
    /// As for `partitions`.
    pub fn id(&mut self, stop: &Stop) -> Result<Option<String>, Error> {
        Ok(self.description(stop)?.and_then(|topic| topic.id))
    }

    /// What the topic is like, if the broker can tell.
    pub(super) fn description(&mut self, stop: &Stop) -> Result<Option<Description>, Error> {
        self.ask(stop, |handle, topic| {
            match describe(handle, &topic.topic) {
                Ok(description) => Answer::Given(Some(description)),
                // The broker is too old for the question.
                Err(Code::UnsupportedFeature) => Answer::Given(None),
                Err(code) => Answer::Later(code.to_string()),
            }
        })
    }

    /// What the topic is like now, if there is an answer to one question.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn look(&self) -> Result<Description, Code> {
        // Nobody waits for the events of this client.
        while !matches!(self.handle.poll(Duration::ZERO, |_| {}), Polled::Nothing) {}
        let KafkaTopic { topic, brokers, .. } = &self.topic;
        let description = describe(&self.handle, topic);
        if description.is_err() {
            bootstrap_again(self.handle.client(), brokers);
        }
        description
    }

    /// The offset of each partition where reading starts.
    ///
    /// # Errors
    /// As for `partitions`.
    pub(super) fn starts(
        &mut self,
        partitions: usize,
        start: Start,
        stop: &Stop,
    ) -> Result<Vec<i64>, Error> {
        match start {
            Start::Earliest => self.offsets(partitions, Offset::Beginning, stop),
            Start::Latest => self.ends(partitions, stop),
            Start::Timestamp(milliseconds) => {
                let starts = self.offsets(partitions, Offset::Offset(milliseconds), stop)?;
                let ends = self.ends(partitions, stop)?;
                // A negative offset means that no record is that late.
                let chosen = |(start, end): (i64, i64)| if start < 0 { end } else { start };
                Ok(starts.into_iter().zip(ends).map(chosen).collect())
            }
        }
    }

    /// The end of each partition: behind the last record that is not in an open transaction,
    /// unless the settings ask for uncommitted records too.
    ///
    /// # Errors
    /// As for `partitions`.
    pub(super) fn ends(&mut self, partitions: usize, stop: &Stop) -> Result<Vec<i64>, Error> {
        self.offsets(partitions, Offset::End, stop)
    }

    /// How many partitions the topic has, and the bytes of its largest message; waits for a broker
    /// that is away.
    ///
    /// # Errors
    /// As for `partitions`.
    pub fn limits(&mut self, stop: &Stop) -> Result<(usize, usize), Error> {
        Ok((self.partitions(stop)?, self.message_bytes_max()))
    }

    /// The largest message that the topic takes, or librdkafka's default if the topic's settings
    /// may not be read.
    pub(super) fn message_bytes_max(&self) -> usize {
        let bytes = self.settings().remove("max.message.bytes");
        bytes
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(MESSAGE_BYTES_MAX)
    }

    /// The topic's settings; none if they may not be read.
    pub(super) fn settings(&self) -> BTreeMap<String, String> {
        let asked = || -> Result<Vec<ConfigEntry>, KafkaError> {
            let admin: AdminClient<DefaultClientContext> = self.config.create()?;
            let topic = ResourceSpecifier::Topic(&self.topic.topic);
            let options = AdminOptions::new().request_timeout(Some(ANSWER));
            let answers = pollster::block_on(admin.describe_configs([&topic], &options))?;
            // Its end takes a tenth of a second, which no start should wait for.
            std::thread::spawn(move || drop(admin));
            let answers: Result<Vec<_>, _> = answers.into_iter().collect();
            let answers = answers.map_err(KafkaError::AdminOp)?;
            Ok(answers.into_iter().flat_map(|one| one.entries).collect())
        };
        let entries = asked().unwrap_or_else(|error| {
            debug!(%error, topic = self.topic.topic, "could not read the topic's settings");
            Vec::new()
        });
        let entries = entries.into_iter();
        entries
            .filter_map(|entry| Some((entry.name, entry.value?)))
            .collect()
    }

    /// What it asks about.
    pub(super) fn topic(&self) -> &KafkaTopic {
        &self.topic
    }

    fn offsets(
        &mut self,
        partitions: usize,
        question: Offset,
        stop: &Stop,
    ) -> Result<Vec<i64>, Error> {
        // An end or a beginning is asked for as the time -1 or -2, all partitions in one request.
        // A client costs a connection and threads: one will do for all questions.
        let consumer = match self.offsets.take() {
            Some(consumer) => consumer,
            None => {
                let consumer = self.config.create::<BaseConsumer>();
                consumer.map_err(|error| Error::from_client(error, &self.topic))?
            }
        };
        let answer = self.ask(stop, |_, topic| {
            let mut list = TopicPartitionList::with_capacity(partitions);
            for partition in 0..partitions {
                let partition = i32::try_from(partition).expect("Kafka counts them in 32 bits");
                if let Err(error) = list.add_partition_offset(&topic.topic, partition, question) {
                    return Answer::Never(Error::failed(topic, &error.to_string()));
                }
            }
            let list = match consumer.offsets_for_times(list, ANSWER) {
                Ok(list) => list,
                Err(error) => return later(consumer.client(), topic, &error),
            };
            let mut offsets = vec![-1; partitions];
            for element in list.elements() {
                if let Err(error) = element.error() {
                    return match error.rdkafka_error_code() {
                        Some(code @ Code::TopicAuthorizationFailed) => {
                            Answer::Never(Error::NotAuthorized {
                                place: place(topic),
                                reason: code.to_string(),
                            })
                        }
                        _ => later(consumer.client(), topic, &error),
                    };
                }
                let index = usize::try_from(element.partition()).expect("as it was asked");
                offsets[index] = element.offset().to_raw().unwrap_or(-1);
            }
            Answer::Given(offsets)
        });
        self.offsets = Some(consumer);
        answer
    }

    /// Asks until there is an answer.
    fn ask<T>(
        &mut self,
        stop: &Stop,
        mut question: impl FnMut(&Handle, &KafkaTopic) -> Answer<T>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let asked = Instant::now();
            let why = match question(&self.handle, &self.topic) {
                Answer::Given(answer) => {
                    self.patience.back();
                    return Ok(answer);
                }
                Answer::Never(error) => return Err(error),
                Answer::Later(why) => why,
            };
            // What was seen of the connection is to be said with it.
            self.patience.serve(&self.handle, Duration::ZERO, |_| {})?;
            if began.elapsed() > QUIET {
                self.patience.away(self.handle.client(), &why);
            }
            pause = (pause * 2).min(PAUSE_MAX);
            // A refusal may come at once: what is left of the pause is spent on listening.
            loop {
                let rest = pause.saturating_sub(asked.elapsed());
                let wait = rest.min(Duration::from_millis(100));
                self.patience.serve(&self.handle, wait, |_| {})?;
                if stop.asked() {
                    return Err(Error::Stopped);
                }
                if rest.is_zero() {
                    break;
                }
            }
        }
    }
}

/// The answer of a client that has none for now. It may have lost all its brokers, and nobody else
/// looks after it.
fn later<C: ClientContext, T>(
    client: &Client<C>,
    topic: &KafkaTopic,
    error: &KafkaError,
) -> Answer<T> {
    bootstrap_again(client, &topic.brokers);
    Answer::Later(reason(error))
}

/// What the topic is like now, if there is an answer to one question.
pub(super) fn describe(handle: &Handle, topic: &str) -> Result<Description, Code> {
    // Librdkafka would ask the controller, of which not every cluster tells.
    let metadata = handle.client().fetch_metadata(Some(topic), ANSWER);
    let metadata = metadata.map_err(|error| error.rdkafka_error_code().unwrap_or(Code::Unknown))?;
    let broker = metadata.brokers().first();
    let broker = broker.ok_or(Code::BrokerNotAvailable)?;
    handle.describe(topic, broker.id(), ANSWER)
}

/// Existing topics whose names are alike, the likest first.
fn similar(handle: &Handle, topic: &str) -> Vec<String> {
    let Ok(metadata) = handle.client().fetch_metadata(None, ANSWER) else {
        return Vec::new();
    };
    let names = metadata.topics().iter().map(|topic| topic.name());
    let scored = names.map(|name| (strsim::jaro_winkler(topic, name), name));
    let mut alike: Vec<_> = scored.filter(|(score, _)| *score > 0.8).collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    let names = alike.into_iter().take(3);
    names.map(|(_, name)| name.to_owned()).collect()
}
