//! What can end a job at Kafka.
//!
//! Errors are apart from where they arise so that each wording stands in one place, with what
//! the reader of it can do.
//!
//! # Invariants
//! * An error names the object that it is about and where that is; it never shows a value of a
//!   setting, which may be a secret.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::config::KafkaTopic;
use crate::connectors::kafka::messages::TransactionFault as Fault;

/// What ends a job at Kafka.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Librdkafka refuses a setting.
    #[error("librdkafka does not accept the setting {key:?}")]
    Setting {
        /// Its name.
        key: String,
        /// What librdkafka says.
        reason: String,
    },
    /// A setting is not the user's to choose.
    #[error("the librdkafka setting {key:?} cannot be chosen")]
    OwnedSetting {
        /// Its name.
        key: String,
        /// Why.
        reason: String,
    },
    /// Librdkafka cannot make a client.
    #[error("could not make a Kafka client for {place}")]
    Client {
        /// Topic and brokers.
        place: String,
        /// What librdkafka says.
        reason: String,
    },
    /// Wrong password, bad certificate.
    #[error("could not authenticate to Kafka for {place}")]
    Authentication {
        /// Topic and brokers.
        place: String,
        /// What librdkafka and the broker say.
        reason: String,
        /// Whether it was so from the start, rather than after hours of success.
        starting: bool,
    },
    /// There is no such topic.
    #[error("topic {topic:?} does not exist on {brokers}")]
    UnknownTopic {
        /// Its name.
        topic: String,
        /// `bootstrap.servers`.
        brokers: String,
        /// Topics whose names are alike.
        similar: Vec<String>,
    },
    /// The user may not do what the job must.
    #[error("not authorized for {place}")]
    NotAuthorized {
        /// Topic and brokers.
        place: String,
        /// What the broker says.
        reason: String,
    },
    /// The next record to be read is not in the topic any more.
    #[error("{topic}[{partition}]@{offset} is no longer in the topic")]
    OffsetGone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset of the record.
        offset: i64,
        /// What the partition has, or what librdkafka says.
        reason: String,
    },
    /// A topic, or a partition of it, does not exist any more.
    #[error("partitions are gone of {place}")]
    PartitionsGone {
        /// Topic and brokers.
        place: String,
        /// What librdkafka says.
        reason: String,
    },
    /// The next event is not in the topic any more.
    #[error("{topic}[{partition}]@{offset} is no longer in the topic")]
    EventsGone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset of the event.
        offset: i64,
        /// What the partition has.
        reason: String,
    },
    /// The next event is not in the topic any more, and results were made of it.
    #[error("{topic}[{partition}]@{offset} is bound, and no longer in the topic")]
    BoundDeleted {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset of the event.
        offset: i64,
        /// What is bound, and what the partition has.
        reason: String,
    },
    /// The topic has been deleted, and another made with its name.
    #[error("topic {topic:?} is not the one that the job reads: its id is {now}, not {before}")]
    TopicReplaced {
        /// The topic.
        topic: String,
        /// The id that it had.
        before: String,
        /// The id that it has.
        now: String,
    },
    /// Records that results were made of are not there.
    #[error("records that are bound are gone: {topic}[{partition}] ends at {end}, not {bound}")]
    BoundGone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where it ends.
        end: i64,
        /// How far it is bound.
        bound: i64,
    },
    /// A client has failed for good.
    #[error("the Kafka client for {place} has failed")]
    Failed {
        /// Topic and brokers.
        place: String,
        /// What librdkafka says.
        reason: String,
    },
    /// A topic that the job makes for itself could not be made.
    #[error("could not create {place}")]
    NotCreated {
        /// Topic and brokers.
        place: String,
        /// What the broker says.
        reason: String,
        /// Partitions and settings that it needs.
        needed: String,
        /// How many replicas were asked for, if those are the reason; -1 for the broker's default.
        replicas: Option<i32>,
    },
    /// A topic is there, but cannot serve its purpose.
    #[error("{place} cannot hold {purpose}")]
    Unfit {
        /// Topic and brokers.
        place: String,
        /// What it is for.
        purpose: &'static str,
        /// What is wrong with it.
        reason: String,
        /// What the user can do.
        hint: String,
    },
    /// A record of the reference table's initial content cannot be used.
    #[error("could not read reference record {place}: {reason}")]
    BadReference {
        /// Topic, partition and offset.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process has taken the transactional id, or the broker has given a transaction up
    /// for its age: which one it was, only the job's binding log tells.
    #[error("fenced: {place} is not ours any more")]
    Fenced {
        /// Transactional id and brokers.
        place: String,
        /// What librdkafka says.
        reason: String,
    },
    /// A record of sinks' progress cannot be used.
    #[error("could not read progress record {topic}[0]@{offset}: {reason}")]
    BadProgress {
        /// The topic.
        topic: String,
        /// The offset.
        offset: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// A stop was asked for while Kafka was waited for.
    #[error("stopped while waiting for Kafka")]
    Stopped,
}

/// What to do about another topic of the same name.
const REPLACED: &str = "It was deleted and made anew. Give the job another name, or forget it with \
                        `deltajoin state reset`: either begins anew, with the records of the new \
                        topic.";

impl Error {
    /// What else is known.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Setting { reason, .. }
            | Self::OwnedSetting { reason, .. }
            | Self::Client { reason, .. }
            | Self::Authentication { reason, .. }
            | Self::NotAuthorized { reason, .. }
            | Self::OffsetGone { reason, .. }
            | Self::EventsGone { reason, .. }
            | Self::BoundDeleted { reason, .. }
            | Self::PartitionsGone { reason, .. }
            | Self::NotCreated { reason, .. }
            | Self::Unfit { reason, .. }
            | Self::Fenced { reason, .. }
            | Self::Failed { reason, .. } => Some(reason),
            Self::UnknownTopic { .. }
            | Self::BadReference { .. }
            | Self::BadProgress { .. }
            | Self::BoundGone { .. }
            | Self::TopicReplaced { .. }
            | Self::Stopped => None,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Setting { .. } | Self::OwnedSetting { .. } => {
                "See the `kafka` table of this topic in the configuration file.".to_owned()
            }
            Self::Authentication { .. } => "Check security.protocol, sasl.* and ssl.* in the \
                `kafka` table of this topic."
                .to_owned(),
            Self::UnknownTopic { similar, .. } if similar.is_empty() => {
                "Create the topic, or correct its name.".to_owned()
            }
            Self::UnknownTopic { similar, .. } => {
                let quoted: Vec<_> = similar.iter().map(|name| format!("{name:?}")).collect();
                format!("Did you mean {}?", quoted.join(" or "))
            }
            Self::NotAuthorized { .. } => {
                "The job needs Describe and Read on topics it reads, Describe and Write on \
                 topics it writes; exactly-once, Describe and Write on transactional ids that \
                 begin with its name, and Create, Read and Write on the topics of its own."
                    .to_owned()
            }
            Self::OffsetGone { .. } => {
                "The topic's retention removed records before they were read: start again \
                 from what it has, or give it a longer retention."
                    .to_owned()
            }
            Self::EventsGone { .. } => {
                "It was deleted before it was read. Set events.on_missing_offsets = \"earliest\" \
                 to go on without what is gone, and have it counted; and give the topic a longer \
                 retention."
                    .to_owned()
            }
            Self::BoundDeleted { .. } => {
                "Results were begun with what is gone, and cannot be made again. Give the job \
                 another name, or forget it with `deltajoin state reset`: either begins anew. A \
                 retention longer than the job may stand still prevents it."
                    .to_owned()
            }
            Self::BoundGone { .. } => {
                "Its brokers have lost records. If they do not come back, give the job another \
                 name, or forget it with `deltajoin state reset`: either begins anew."
                    .to_owned()
            }
            Self::TopicReplaced { .. } => REPLACED.to_owned(),
            Self::BadReference { .. } => {
                "Put a correct record, or a tombstone, for the same key into the topic.".to_owned()
            }
            Self::NotCreated {
                needed, replicas, ..
            } => creatable(*replicas, needed),
            Self::Unfit { hint, .. } => hint.clone(),
            Self::BadProgress { .. } => {
                "Start the release of deltajoin that wrote it; if another program did, give the \
                 job a name of its own."
                    .to_owned()
            }
            Self::Client { .. }
            | Self::PartitionsGone { .. }
            | Self::Fenced { .. }
            | Self::Failed { .. }
            | Self::Stopped => return None,
        })
    }

    /// Whether a restart cannot help: usage or configuration must change first.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Authentication { starting, .. } => *starting,
            Self::Setting { .. }
            | Self::OwnedSetting { .. }
            | Self::UnknownTopic { .. }
            | Self::NotAuthorized { .. }
            | Self::OffsetGone { .. }
            | Self::EventsGone { .. }
            | Self::BoundDeleted { .. }
            | Self::NotCreated { .. }
            | Self::Unfit { .. }
            | Self::BadReference { .. }
            | Self::BadProgress { .. }
            | Self::TopicReplaced { .. }
            | Self::BoundGone { .. } => true,
            Self::Client { .. }
            | Self::PartitionsGone { .. }
            | Self::Fenced { .. }
            | Self::Failed { .. }
            | Self::Stopped => false,
        }
    }

    /// An error at making a client.
    pub(super) fn from_client(error: KafkaError, topic: &KafkaTopic) -> Self {
        match error {
            KafkaError::ClientConfig(_, reason, key, _) => Self::Setting { key, reason },
            error => Self::Client {
                place: place(topic),
                reason: error.to_string(),
            },
        }
    }

    /// A message that no waiting delivers.
    pub(super) fn delivery(topic: &KafkaTopic, code: Code) -> Self {
        let reason = code.to_string();
        match code {
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                let place = place(topic);
                Self::NotAuthorized { place, reason }
            }
            Code::UnknownTopic | Code::UnknownTopicOrPartition => Self::UnknownTopic {
                topic: topic.topic.clone(),
                brokers: topic.brokers.clone(),
                similar: Vec::new(),
            },
            _ => Self::failed(topic, &reason),
        }
    }

    /// A step of a transaction that failed for good.
    pub(super) fn transaction(transactional_id: &str, topic: &KafkaTopic, fault: Fault) -> Self {
        let Fault { code, reason, .. } = fault;
        let place = format!("transactional id {transactional_id:?} on {}", topic.brokers);
        match code {
            Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => {
                Self::Fenced { place, reason }
            }
            Code::TransactionalIdAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed => Self::NotAuthorized { place, reason },
            _ => Self::Failed { place, reason },
        }
    }

    /// A failure of the client.
    pub(super) fn failed(topic: &KafkaTopic, reason: &str) -> Self {
        Self::Failed {
            place: place(topic),
            reason: reason.to_owned(),
        }
    }
}

/// How errors name a topic.
pub(super) fn place(topic: &KafkaTopic) -> String {
    format!("topic {:?} on {}", topic.topic, topic.brokers)
}

/// How a topic could be created after all.
fn creatable(replicas: Option<i32>, needed: &str) -> String {
    match replicas {
        Some(-1) => "The cluster has fewer brokers than its default.replication.factor says: set \
                     limits.topic_replication."
            .to_owned(),
        Some(replicas) => format!(
            "limits.topic_replication is {replicas}: the cluster has fewer brokers, or not so \
             many are up."
        ),
        None => format!("Let the job be allowed to create it, or create it with {needed}."),
    }
}

/// What an error of rust-rdkafka's is about, without its words around it.
pub(super) fn reason(error: &KafkaError) -> String {
    let code = error.rdkafka_error_code();
    code.map_or_else(|| error.to_string(), |code| code.to_string())
}
