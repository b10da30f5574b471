//! Topics that the job makes, trims and deletes for itself.
//!
//! Apart from the questions that `client` asks, which change nothing.
//!
//! # Invariants
//! * What Kafka refuses for good is an error that says what it needs; all else is tried again.

use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::connectors::kafka::client::{ANSWER, Answer, Connection, later};
use crate::connectors::kafka::error::{Error, place, reason};

/// A topic that was made just now is waited for.
const MADE_KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// Brokers that start are counted soon.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

impl Connection {
    /// Creates the topic, with so many replicas or, for 0, as many as the broker has it by default;
    /// waits for a broker that is away. It is as good if somebody else has created it meanwhile.
    ///
    /// # Errors
    /// If Kafka refuses, or if `stop` is set.
    pub(in crate::connectors::kafka) fn create(
        &mut self,
        partitions: i32,
        replicas: u16,
        settings: &[(&str, &str)],
        stop: &Stop,
    ) -> Result<(), Error> {
        let replicas = match replicas {
            0 => -1,
            replicas => i32::from(replicas),
        };
        let (admin, began) = (self.admin()?, Instant::now());
        self.known_within = MADE_KNOWN_WITHIN;
        self.ask(stop, |_, topic| {
            let mut new =
                NewTopic::new(&topic.topic, partitions, TopicReplication::Fixed(replicas));
            for (key, value) in settings {
                new = new.set(key, value);
            }
            let options = AdminOptions::new()
                .request_timeout(Some(ANSWER))
                .operation_timeout(Some(ANSWER));
            let created = match pollster::block_on(admin.create_topics([&new], &options)) {
                Ok(created) => created,
                Err(error) => return later(admin.inner(), topic, &error),
            };
            match created.into_iter().next() {
                Some(Ok(_) | Err((_, Code::TopicAlreadyExists))) => Answer::Given(()),
                // Brokers that start are not counted yet.
                Some(Err((_, code @ Code::InvalidReplicationFactor)))
                    if began.elapsed() < COUNTED_WITHIN =>
                {
                    Answer::Later(code.to_string())
                }
                Some(Err((_, code))) if refused(code) => Answer::Never(Error::NotCreated {
                    place: place(topic),
                    reason: code.to_string(),
                    needed: needed(partitions, settings),
                    replicas: (code == Code::InvalidReplicationFactor).then_some(replicas),
                }),
                Some(Err((_, code))) => Answer::Later(code.to_string()),
                None => Answer::Later("the answer names no topic".to_owned()),
            }
        })
    }

    /// Deletes the topic; it is as good if it is not there.
    ///
    /// # Errors
    /// If Kafka refuses, or if `stop` is set.
    pub(in crate::connectors::kafka) fn delete(&mut self, stop: &Stop) -> Result<(), Error> {
        let admin = self.admin()?;
        self.ask(stop, |_, topic| {
            let options = AdminOptions::new()
                .request_timeout(Some(ANSWER))
                .operation_timeout(Some(ANSWER));
            let deleted = match pollster::block_on(admin.delete_topics(&[&topic.topic], &options)) {
                Ok(deleted) => deleted,
                Err(error) => return later(admin.inner(), topic, &error),
            };
            match deleted.into_iter().next() {
                Some(Ok(_)) => Answer::Given(()),
                Some(Err((_, Code::UnknownTopicOrPartition | Code::UnknownTopic))) => {
                    Answer::Given(())
                }
                Some(Err((_, code))) if refused(code) => Answer::Never(Error::NotAuthorized {
                    place: place(topic),
                    reason: code.to_string(),
                }),
                Some(Err((_, code))) => Answer::Later(code.to_string()),
                None => Answer::Later("the answer names no topic".to_owned()),
            }
        })
    }

    /// Removes the records of partition 0 before an offset; waits for a broker that is away.
    ///
    /// # Errors
    /// If Kafka refuses, or if `stop` is set.
    pub(in crate::connectors::kafka) fn delete_before(
        &mut self,
        offset: i64,
        stop: &Stop,
    ) -> Result<(), Error> {
        let admin = self.admin()?;
        self.ask(stop, |_, topic| {
            let mut list = TopicPartitionList::new();
            if let Err(error) = list.add_partition_offset(&topic.topic, 0, Offset::Offset(offset)) {
                return Answer::Never(Error::failed(topic, &error.to_string()));
            }
            let options = AdminOptions::new()
                .request_timeout(Some(ANSWER))
                .operation_timeout(Some(ANSWER));
            let deleted = match pollster::block_on(admin.delete_records(&list, &options)) {
                Ok(deleted) => deleted,
                Err(error) => return later(admin.inner(), topic, &error),
            };
            let error = deleted.elements().first().map(|element| element.error());
            match error {
                Some(Err(error)) => match error.rdkafka_error_code() {
                    Some(code @ Code::TopicAuthorizationFailed) => {
                        Answer::Never(Error::NotAuthorized {
                            place: place(topic),
                            reason: code.to_string(),
                        })
                    }
                    _ => Answer::Later(reason(&error)),
                },
                Some(Ok(())) => Answer::Given(()),
                None => Answer::Later("the answer names no partition".to_owned()),
            }
        })
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, Error> {
        let admin = self.config.create();
        admin.map_err(|error| Error::from_client(error, &self.topic))
    }
}

/// Whether a topic will not be created later either.
fn refused(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidTopic
            | Code::InvalidConfig
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::PolicyViolation
    )
}

/// What a topic needs, in words.
fn needed(partitions: i32, settings: &[(&str, &str)]) -> String {
    let noun = if partitions == 1 {
        "partition"
    } else {
        "partitions"
    };
    let mut needed = format!("{partitions} {noun}");
    for (index, (key, value)) in settings.iter().enumerate() {
        let last = index + 1 == settings.len();
        needed.push_str(if last { " and " } else { ", " });
        needed.push_str(&format!("{key}={value}"));
    }
    needed
}
