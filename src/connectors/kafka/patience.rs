//! Waits for a broker that is away, audibly, and tells what waiting cannot cure.
//!
//! It is apart because everything that talks to Kafka does so in the same way, and must neither be
//! silent nor fill the log.
//!
//! # Invariants
//! * An absence is said at once, then every ten seconds, and once when it is over.
//! * Nothing that waiting cannot cure is waited for.

use std::time::{Duration, Instant};

use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::{debug, info, warn};

use crate::config::KafkaTopic;
use crate::connectors::kafka::Error;
use crate::connectors::kafka::error::place;
use crate::connectors::kafka::ffi::Handle;
use crate::connectors::kafka::messages::{Polled, Problem, Problems, Report};

/// Often enough to be seen by whoever looks at the end of the log, seldom enough to keep it short.
const REPEAT: Duration = Duration::from_secs(10);
/// How long looking may take: longer than a broker that is there needs.
const ANSWER: Duration = Duration::from_secs(1);

/// A client's dealings with brokers that may be away.
#[derive(Debug)]
pub(super) struct Patience {
    topic: KafkaTopic,
    /// Whether Kafka has answered: a handshake that fails later is a broker that goes away.
    answered: bool,
    said: Option<Instant>,
}

impl Patience {
    /// For a client whose first answer is still to come.
    pub(super) fn at_start(topic: &KafkaTopic) -> Self {
        Self {
            topic: topic.clone(),
            answered: false,
            said: None,
        }
    }

    /// For a client of a topic about which Kafka has answered already.
    pub(super) fn later(topic: &KafkaTopic) -> Self {
        Self {
            answered: true,
            ..Self::at_start(topic)
        }
    }

    /// Kafka did not answer, for this reason.
    pub(super) fn away(&mut self, reason: &str) {
        let KafkaTopic { brokers, topic, .. } = &self.topic;
        if self.said.is_some_and(|said| said.elapsed() < REPEAT) {
            debug!(brokers, topic, reason, "waiting for Kafka");
            return;
        }
        self.said = Some(Instant::now());
        warn!(brokers, topic, reason, "waiting for Kafka");
    }

    /// Kafka did answer.
    #[inline]
    pub(super) fn back(&mut self) {
        self.answered = true;
        if self.said.take().is_some() {
            let KafkaTopic { brokers, topic, .. } = &self.topic;
            info!(brokers, topic, "Kafka answers again");
        }
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
                Polled::Problem(problem) => self.problem(&problem)?,
            }
            timeout = Duration::ZERO;
        }
        self.look(handle.client());
        Ok(())
    }

    /// An error of a client as a whole.
    fn problem(&mut self, problem: &Problem) -> Result<(), Error> {
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
        self.topic_error(problem.code, &problem.reason)
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
            code => return self.topic_error(code, reason),
        })
    }

    /// An error of the topic, or of whatever comes and goes.
    fn topic_error(&mut self, code: Code, reason: &str) -> Result<(), Error> {
        let (place, reason) = (place(&self.topic), reason.to_owned());
        match code {
            Code::UnknownPartition | Code::UnknownTopic | Code::UnknownTopicOrPartition => {
                Err(Error::PartitionsGone { place, reason })
            }
            Code::TopicAuthorizationFailed => Err(Error::NotAuthorized { place, reason }),
            _ => {
                self.away(&reason);
                Ok(())
            }
        }
    }

    /// If Kafka has been away for long, looks whether it still is, and says so. An idle reader
    /// or writer would not notice otherwise that it is back.
    #[inline]
    fn look(&mut self, client: &Client<Problems>) {
        if self.answered && self.said.is_some_and(|said| said.elapsed() >= REPEAT) {
            match client.fetch_metadata(Some(&self.topic.topic), ANSWER) {
                Ok(_) => self.back(),
                Err(error) => self.away(&error.to_string()),
            }
        }
    }
}
