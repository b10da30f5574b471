//! Waits for a broker that is away, audibly, and tells what waiting cannot cure.
//!
//! It is apart because everything that talks to Kafka does so in the same way, and must neither be
//! silent nor fill the log.
//!
//! # Invariants
//! * An absence is said within ten seconds, then every ten seconds, and once when it is over; with
//!   what was seen of it, and what is probably wrong.
//! * Nothing that waiting cannot cure is waited for: a topic that is gone, for half a minute.

use std::time::{Duration, Instant};

use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataTopic;
use tracing::{debug, info, warn};

use crate::config::KafkaTopic;
use crate::connectors::kafka::Error;
use crate::connectors::kafka::error::{place, reason};
use crate::connectors::kafka::ffi::{Handle, bootstrap_again};
use crate::connectors::kafka::messages::{Polled, Problem, Problems, Report};

/// Often enough to be seen by whoever looks at the end of the log, seldom enough to keep it short.
const REPEAT: Duration = Duration::from_secs(10);
/// How long nothing may be heard of Kafka before it is looked at: absences are to be said within
/// ten seconds, and a question every few is no load.
const SILENCE: Duration = Duration::from_secs(5);
/// How often a client that finds no broker is given its first addresses again.
const BOOTSTRAP: Duration = Duration::from_millis(500);
/// How long a topic may not be there: longer than brokers that start may take to know it.
const MISSING: Duration = Duration::from_secs(20);
/// How long looking may take: longer than a broker that is there needs.
const ANSWER: Duration = Duration::from_secs(1);

/// A client's dealings with brokers that may be away.
#[derive(Debug)]
pub(super) struct Patience {
    topic: KafkaTopic,
    /// Whether Kafka has answered: a handshake that fails later is a broker that goes away.
    answered: bool,
    /// When its absence was last said; none while it is there.
    said: Option<Instant>,
    /// When something was last heard of it, or last began to be expected.
    heard: Instant,
    /// How a connection has failed since then.
    failure: Option<String>,
    /// When the client was last given its first addresses again.
    bootstrapped: Option<Instant>,
    /// Topics that must be there too.
    others: Vec<String>,
    /// Since when a topic is not there.
    missing: Option<Instant>,
}

impl Patience {
    /// For a client whose first answer is still to come.
    pub(super) fn at_start(topic: &KafkaTopic) -> Self {
        Self {
            topic: topic.clone(),
            answered: false,
            said: None,
            heard: Instant::now(),
            failure: None,
            bootstrapped: None,
            others: Vec::new(),
            missing: None,
        }
    }

    /// For a client of a topic about which Kafka has answered already.
    pub(super) fn later(topic: &KafkaTopic) -> Self {
        Self {
            answered: true,
            ..Self::at_start(topic)
        }
    }

    /// Has another topic looked for as well.
    pub(super) fn look_for(&mut self, topic: &str) {
        self.others.push(topic.to_owned());
    }

    /// Kafka did not answer this client, for this reason.
    pub(super) fn away(&mut self, client: &Client<Problems>, reason: &str) {
        let KafkaTopic { brokers, topic, .. } = &self.topic;
        // It may have lost all its brokers. Each time is remembered by the client, so not always.
        if self
            .bootstrapped
            .is_none_or(|last| last.elapsed() >= BOOTSTRAP)
        {
            self.bootstrapped = Some(Instant::now());
            bootstrap_again(client, brokers);
        }
        let failure = self.failure.as_deref();
        // Librdkafka tells of some failures twice, each time with another duration at the end.
        let cause = reason.split(" (after ").next().unwrap_or(reason);
        let connection = failure.filter(|failure| !failure.starts_with(cause));
        if self.said.is_some_and(|said| said.elapsed() < REPEAT) {
            debug!(brokers, topic, reason, connection, "waiting for Kafka");
            return;
        }
        self.said = Some(Instant::now());
        let hint = guess(failure.unwrap_or(reason));
        warn!(
            brokers,
            topic, reason, connection, hint, "waiting for Kafka"
        );
    }

    /// Kafka did answer.
    #[inline]
    pub(super) fn back(&mut self) {
        self.answered = true;
        self.heard = Instant::now();
        self.failure = None;
        if self.said.take().is_some() {
            let KafkaTopic { brokers, topic, .. } = &self.topic;
            info!(brokers, topic, "Kafka answers again");
        }
    }

    /// Nothing is expected of Kafka for now: its silence means nothing.
    #[inline]
    pub(super) fn rest(&mut self) {
        self.heard = Instant::now();
    }

    /// Serves the events of a client: waits for one, then takes what is there. `reported` is
    /// given what became of each message.
    ///
    /// # Errors
    /// For what waiting cannot cure.
    pub(super) fn serve(
        &mut self,
        handle: &Handle,
        mut timeout: Duration,
        mut reported: impl FnMut(Report),
    ) -> Result<(), Error> {
        loop {
            match handle.poll(timeout, &mut reported) {
                Polled::Nothing => break,
                Polled::Served => {}
                Polled::Disconnected(failure) => self.failure = Some(failure),
                Polled::Problem(problem) => self.problem(handle.client(), &problem)?,
            }
            timeout = Duration::ZERO;
        }
        self.look(handle.client())
    }

    /// An error of a client as a whole.
    fn problem(&mut self, client: &Client<Problems>, problem: &Problem) -> Result<(), Error> {
        let refused = matches!(
            problem.code,
            Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism
        );
        if refused || (problem.code == Code::SSL && !self.answered) {
            return Err(Error::Authentication {
                place: place(&self.topic),
                reason: problem.reason.clone(),
                starting: !self.answered,
            });
        }
        if problem.fatal {
            return Err(Error::failed(&self.topic, &problem.reason));
        }
        self.topic_error(client, problem.code, &problem.reason)
    }

    /// An error of one partition, of which `next` is the offset that is read next.
    ///
    /// # Errors
    /// For what waiting cannot cure.
    pub(super) fn fault(
        &mut self,
        handle: &Handle,
        (partition, next): (i32, i64),
        code: Code,
        reason: &str,
    ) -> Result<(), Error> {
        let topic = self.topic.topic.clone();
        Err(match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                let bounds = handle.client().fetch_watermarks(&topic, partition, ANSWER);
                let has = |(low, high)| format!("the partition has offsets {low} to {high}");
                Error::OffsetGone {
                    topic,
                    partition,
                    offset: next,
                    reason: bounds.map_or_else(|_| reason.to_owned(), has),
                }
            }
            Code::Fatal => Error::failed(&self.topic, reason),
            code => return self.topic_error(handle.client(), code, reason),
        })
    }

    /// An error of the topic, or of whatever comes and goes.
    fn topic_error(
        &mut self,
        client: &Client<Problems>,
        code: Code,
        reason: &str,
    ) -> Result<(), Error> {
        let (place, reason) = (place(&self.topic), reason.to_owned());
        match code {
            Code::UnknownPartition | Code::UnknownTopic | Code::UnknownTopicOrPartition => {
                Err(Error::PartitionsGone { place, reason })
            }
            Code::TopicAuthorizationFailed => Err(Error::NotAuthorized { place, reason }),
            _ => {
                self.away(client, &reason);
                Ok(())
            }
        }
    }

    /// If Kafka has been silent or away for long, looks whether it is there, and says so. A reader
    /// would wait for records of a silent one, an idle client not notice that it is back, and a
    /// producer not that its topic is gone.
    #[inline]
    fn look(&mut self, client: &Client<Problems>) -> Result<(), Error> {
        let due = match self.said {
            Some(said) => said.elapsed() >= REPEAT,
            None => self.heard.elapsed() >= SILENCE,
        };
        match self.answered && due {
            true => self.look_now(client),
            false => Ok(()),
        }
    }

    fn look_now(&mut self, client: &Client<Problems>) -> Result<(), Error> {
        match self.find_missing(client) {
            Err(error) => self.away(client, &reason(&error)),
            Ok(None) => {
                self.missing = None;
                self.back();
            }
            Ok(Some(topic)) => {
                let since = *self.missing.get_or_insert_with(Instant::now);
                if since.elapsed() >= MISSING {
                    return Err(gone(&topic));
                }
                self.away(client, &format!("topic {:?} does not exist", topic.topic));
            }
        }
        Ok(())
    }

    /// A topic that does not exist, if there is one.
    fn find_missing(&self, client: &Client<Problems>) -> Result<Option<KafkaTopic>, KafkaError> {
        for topic in std::iter::once(&self.topic.topic).chain(&self.others) {
            let metadata = client.fetch_metadata(Some(topic), ANSWER)?;
            let error = metadata.topics().first().and_then(MetadataTopic::error);
            if error.map(Code::from) == Some(Code::UnknownTopicOrPartition) {
                let (topic, own) = (topic.clone(), self.topic.clone());
                return Ok(Some(KafkaTopic { topic, ..own }));
            }
        }
        Ok(None)
    }

    /// Whether a client has failed because a topic is gone.
    pub(super) fn gone(&self, client: &Client<Problems>) -> Option<Error> {
        self.find_missing(client).ok()?.as_ref().map(gone)
    }
}

fn gone(topic: &KafkaTopic) -> Error {
    Error::PartitionsGone {
        place: place(topic),
        reason: "The topic does not exist any more.".to_owned(),
    }
}

/// What is probably wrong if a connection has failed so, in librdkafka's words.
fn guess(failure: &str) -> Option<&'static str> {
    let says = |words| failure.contains(words);
    if says("connecting to a PLAINTEXT") || says("timed out in state SSL_HANDSHAKE") {
        Some("Perhaps this port does not speak TLS: see security.protocol in the `kafka` table.")
    } else if says("Disconnected") && says("in state APIVERSION_QUERY") && !says("ssl://") {
        // The first request is one that any Kafka without TLS answers.
        Some("Perhaps this port wants TLS: see security.protocol in the `kafka` table.")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_probably_wrong_is_guessed_from_the_log() {
        for (name, words, expected) in [
            (
                "ssl://a:1/bootstrap",
                "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener? \
                 (after 2ms in state SSL_HANDSHAKE)",
                "does not speak TLS",
            ),
            (
                "sasl_ssl://a:1/bootstrap",
                "Connection setup timed out in state SSL_HANDSHAKE (after 30013ms in state \
                 SSL_HANDSHAKE)",
                "does not speak TLS",
            ),
            (
                "a:1/bootstrap",
                "Disconnected: connection closed by peer: receive 0 after POLLIN (after 1ms in \
                 state APIVERSION_QUERY)",
                "wants TLS",
            ),
            (
                "ssl://a:1/1",
                "Disconnected: connection closed by peer: receive 0 after POLLIN (after 1ms in \
                 state APIVERSION_QUERY)",
                "",
            ),
            (
                "ssl://a:1/1",
                "SSL handshake failed: broker certificate could not be verified (after 3ms in \
                 state SSL_HANDSHAKE)",
                "",
            ),
        ] {
            let line = format!("[thrd:{name}]: {name}: {words}");
            let Polled::Disconnected(failure) = Polled::logged("FAIL", &line) else {
                panic!("{line}")
            };
            assert_eq!(failure, format!("{name}: {words}"));
            let hint = guess(&failure);
            assert_eq!(hint.is_some(), !expected.is_empty(), "{failure}");
            assert!(hint.is_none_or(|hint| hint.contains(expected)), "{failure}");
        }
        assert!(matches!(Polled::logged("CONNECT", "x"), Polled::Served));
    }
}
