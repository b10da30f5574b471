//! Topics that the job makes for itself: of one partition each, as its records need them.
//!
//! It is apart from `client`, which only asks: here something is made, and what somebody else has
//! made is looked at.
//!
//! # Invariants
//! * A topic that would forget what the job must know is never written to.

use deltajoin_workers::ports::Stop;

use crate::config::KafkaTopic;
use crate::connectors::kafka::Error;
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::error::place;

/// What a topic is for, and what it must be like.
pub(super) struct OwnTopic {
    /// Follows "cannot hold".
    pub(super) purpose: &'static str,
    /// What it is made with.
    pub(super) settings: &'static [(&'static str, &'static str)],
    /// Which of those a topic that is there already must have too.
    pub(super) checked: &'static [&'static str],
}

/// Deletes a topic, if it is there; waits for a broker that is away.
///
/// # Errors
/// If Kafka refuses, or if `stop` is set.
pub fn delete_topic(topic: &KafkaTopic, stop: &Stop) -> Result<(), Error> {
    Connection::open(topic)?.delete(stop)
}

impl OwnTopic {
    /// Makes the topic if it is not there, with so many replicas or, for 0, the broker's default;
    /// and checks it if it is. Waits for a broker that is away.
    ///
    /// # Errors
    /// If the topic does not serve its purpose, if Kafka refuses, or if `stop` is set.
    pub(super) fn open(
        &self,
        topic: &KafkaTopic,
        replicas: u16,
        stop: &Stop,
    ) -> Result<Connection, Error> {
        let mut connection = Connection::open(topic)?;
        let partitions = match connection.partitions(stop) {
            Err(Error::UnknownTopic { .. }) => {
                connection.create(1, replicas, self.settings, stop)?;
                connection.partitions(stop)?
            }
            known => known?,
        };
        self.check(topic, partitions, &connection)?;
        Ok(connection)
    }

    /// Refuses a topic that would lose records or mix their order.
    pub(super) fn check(
        &self,
        topic: &KafkaTopic,
        partitions: usize,
        connection: &Connection,
    ) -> Result<(), Error> {
        let unfit = |reason, hint| Error::Unfit {
            place: place(topic),
            purpose: self.purpose,
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
        let mut checked = self.settings.iter();
        let wrong = checked.find_map(|(key, needed)| {
            // What may not be read is taken for right.
            let value = settings.get(*key).filter(|value| value != needed)?;
            self.checked.contains(key).then_some((key, needed, value))
        });
        let Some((key, needed, value)) = wrong else {
            return Ok(());
        };
        let reason = format!("Its setting {key} is {value:?}, and must be {needed:?}.");
        let hint = format!(
            "Set it with `kafka-configs.sh --alter --topic {} --add-config {key}={needed}`.",
            topic.topic
        );
        Err(unfit(reason, hint))
    }
}
