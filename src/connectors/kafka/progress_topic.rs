//! Makes the topic of sinks' progress, or looks whether the one that is there will do.
//!
//! It is apart from `client`, which only asks: here something is made.
//!
//! # Invariants
//! * A topic that would forget progress is never written to.

use deltajoin_workers::ports::Stop;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::{debug, info};

use crate::config::KafkaTopic;
use crate::connectors::kafka::Error;
use crate::connectors::kafka::client::{ANSWER, Answer, Connection, reason};
use crate::connectors::kafka::error::place;

/// Makes the topic when it is missing, with so many replicas, or the broker's default for 0.
/// Waits for a broker that is away.
///
/// # Errors
/// If the topic is not compacted, has several partitions, or may not be made; or if `stop` is set.
pub(super) fn ensure(topic: &KafkaTopic, replicas: u16, stop: &Stop) -> Result<(), Error> {
    let mut connection = Connection::open(topic)?;
    let config = connection.config().clone();
    let partitions = connection.ask(stop, |handle, topic| {
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
            Some(Code::UnknownTopicOrPartition) => match config.create() {
                Ok(admin) => make(&admin, topic, replicas),
                Err(error) => Answer::Never(Error::from_client(error, topic)),
            },
            Some(code) => refused(topic, code),
        }
    })?;
    let wrong = |reason| {
        let place = place(topic);
        Err(Error::ProgressTopic { place, reason })
    };
    if partitions != 1 {
        return wrong(format!("It has {partitions} partitions."));
    }
    match connection.setting("cleanup.policy") {
        Ok(Some(policy)) if policy != "compact" => {
            wrong(format!("Its cleanup.policy is {policy:?}."))
        }
        Ok(_) => Ok(()),
        Err(error) => {
            debug!(%error, topic = topic.topic, "could not read the topic's settings");
            Ok(())
        }
    }
}

fn make(
    admin: &AdminClient<DefaultClientContext>,
    topic: &KafkaTopic,
    replicas: u16,
) -> Answer<usize> {
    let replicas = if replicas == 0 {
        -1
    } else {
        i32::from(replicas)
    };
    let new = NewTopic::new(&topic.topic, 1, TopicReplication::Fixed(replicas))
        .set("cleanup.policy", "compact");
    let options = AdminOptions::new()
        .request_timeout(Some(ANSWER))
        .operation_timeout(Some(ANSWER));
    let results = match pollster::block_on(admin.create_topics([&new], &options)) {
        Ok(results) => results,
        Err(error) => return Answer::Later(reason(&error)),
    };
    match results.into_iter().next() {
        None => Answer::Later("the answer names no topic".to_owned()),
        Some(Ok(_)) => {
            let KafkaTopic { brokers, topic, .. } = topic;
            info!(brokers, topic, "made the topic of sinks' progress");
            Answer::Given(1)
        }
        // Another process was quicker; what it made is looked at.
        Some(Err((_, Code::TopicAlreadyExists))) => Answer::Later("it is being made".to_owned()),
        Some(Err((_, code @ (Code::InvalidReplicationFactor | Code::PolicyViolation)))) => {
            let (place, reason) = (place(topic), code.to_string());
            Answer::Never(Error::ProgressTopic { place, reason })
        }
        Some(Err((_, code))) => refused(topic, code),
    }
}

fn refused<T>(topic: &KafkaTopic, code: Code) -> Answer<T> {
    match code {
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            let (place, reason) = (place(topic), code.to_string());
            Answer::Never(Error::NotAuthorized { place, reason })
        }
        code => Answer::Later(code.to_string()),
    }
}
