//! Commits offsets to a consumer group, so that monitors of lag see how far the job is.
//!
//! It is apart from reading, which never looks at a group.
//!
//! # Invariants
//! * Nothing here is read back: the job goes on from its own log.

use std::sync::OnceLock;

use deltajoin_workers::bindings::Ends;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::KafkaTopic;
use crate::connectors::kafka::{Error, settings};

/// Commits the offsets of one topic to one group.
pub struct GroupOffsets {
    topic: KafkaTopic,
    group: String,
    consumer: OnceLock<BaseConsumer>,
}

impl GroupOffsets {
    /// Offsets of this topic; nothing is asked of Kafka yet.
    pub fn new(topic: &KafkaTopic, group: &str) -> Self {
        Self {
            topic: topic.clone(),
            group: group.to_owned(),
            consumer: OnceLock::new(),
        }
    }

    /// Commits where each partition is read from next, without waiting for the answer.
    ///
    /// # Errors
    /// If a client cannot be made, or takes no offsets.
    pub fn commit(&self, ends: &Ends) -> Result<(), Error> {
        if self.consumer.get().is_none() {
            let mut config = settings::consumer(&self.topic)?;
            config.set("group.id", &self.group);
            let consumer = config.create();
            let consumer = consumer.map_err(|error| Error::from_client(error, &self.topic))?;
            self.consumer.get_or_init(|| consumer);
        }
        let consumer = self.consumer.get().expect("it has been made");
        let failed =
            |error: rdkafka::error::KafkaError| Error::failed(&self.topic, &error.to_string());
        let mut list = TopicPartitionList::with_capacity(ends.len());
        for (partition, end) in ends {
            let offset = Offset::Offset(*end);
            list.add_partition_offset(&self.topic.topic, *partition, offset)
                .map_err(failed)?;
        }
        let committed = consumer.commit(&list, CommitMode::Async);
        // Serves what it has to tell, so that nothing gathers.
        while consumer.poll(std::time::Duration::ZERO).is_some() {}
        committed.map_err(failed)
    }
}
