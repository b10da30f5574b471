//! Librdkafka's settings: ours, each with its reason, and what the user passes through.
//!
//! They are apart so that one page shows every value that differs from librdkafka's defaults.
//!
//! # Invariants
//! * The user's value wins, but for the few settings on which correctness rests: those are
//!   refused, never overridden in silence.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use crate::config::{KafkaTopic, reserved};
use crate::connectors::kafka::Error;

/// Settings for every client.
const CLIENT: &[(&str, &str)] = &[
    // A topic that does not exist is an error that names it, never a new topic.
    ("allow.auto.create.topics", "false"),
    // A broker that comes back is noticed within a second, not ten.
    ("reconnect.backoff.max.ms", "1000"),
];

/// Settings for reading.
const CONSUMER: &[(&str, &str)] = &[
    // Small responses stay in the allocator's reach: 187 against 505 ns a record with 16 MiB.
    ("fetch.max.bytes", "2097152"),
    ("fetch.message.max.bytes", "1048576"),
    // Records are handed over as they come; the broker waits only when there are none.
    ("fetch.min.bytes", "1"),
    ("fetch.wait.max.ms", "100"),
    // Librdkafka's second of back-off costs a job that is slower than the fetcher half its speed.
    ("fetch.queue.backoff.ms", "2"),
    ("fetch.error.backoff.ms", "100"),
    // What is fetched ahead is memory beside `max_in_flight_bytes`: some hundredths of a second.
    ("queued.min.messages", "20000"),
    ("queued.max.messages.kbytes", "32768"),
    // Costs nothing that can be measured.
    ("check.crcs", "true"),
];

/// Settings for reading that are not the user's.
const CONSUMER_OWNED: &[(&str, &str)] = &[
    // Where reading stands is the job's own knowledge, never the broker's.
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // Records that are gone are an error to be told, not a gap to be jumped.
    ("auto.offset.reset", "error"),
    // An end is known by its event: transactions leave holes, so offsets alone do not tell it.
    ("enable.partition.eof", "true"),
];

/// Settings for writing.
const PRODUCER: &[(&str, &str)] = &[
    ("batch.size", "1000000"),
    ("batch.num.messages", "100000"),
    // Bounds what a sink holds beside `max_in_flight_bytes`.
    ("queue.buffering.max.kbytes", "32768"),
    ("queue.buffering.max.messages", "1000000"),
];

/// Other names of settings above: of two names for one thing librdkafka would take either value.
const ALIASES: &[(&str, &str)] = &[
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("queue.buffering.max.ms", "linger.ms"),
];

/// The size of messages that the job makes for itself, at most: a few names and numbers, far below
/// what any topic takes.
pub(super) const SMALL_MESSAGE_BYTES_MAX: usize = 100_000;

/// Settings for writing that are not the user's.
const PRODUCER_OWNED: &[(&str, &str)] = &[
    // A row is written when all in-sync replicas have it, and stands in the topic in order.
    ("acks", "all"),
    ("enable.idempotence", "true"),
    // A broker that is away is waited for: a row is never given up.
    ("message.timeout.ms", "0"),
    // Acknowledgements are counted.
    ("delivery.report.only.error", "false"),
];

/// Refuses settings on which correctness rests, of whoever did not come by a configuration.
///
/// # Errors
/// `Error::OwnedSetting` for the first such setting.
fn check(properties: &BTreeMap<String, String>) -> Result<(), Error> {
    for key in properties.keys() {
        if let Some(reason) = reserved(key) {
            return Err(Error::OwnedSetting {
                key: key.clone(),
                reason: reason.to_owned(),
            });
        }
    }
    Ok(())
}

/// The configuration of a client that reads, or only asks.
pub(super) fn consumer(topic: &KafkaTopic) -> Result<ClientConfig, Error> {
    build(topic, CONSUMER, CONSUMER_OWNED, &[])
}

/// How long a client that writes waits for more messages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Linger {
    /// Not at all: while one request is on its way the next rows gather by themselves.
    None,
    /// Until what it is given together can go together.
    Batches,
}

/// The configuration of a client that writes messages of up to `message_bytes_max` bytes.
pub(super) fn producer(
    topic: &KafkaTopic,
    message_bytes_max: usize,
    linger: Linger,
) -> Result<ClientConfig, Error> {
    // A batch must not be larger than its topic allows, however small its messages are.
    let batch_bytes = message_bytes_max.min(1_000_000).to_string();
    let linger = match linger {
        Linger::None => "0",
        Linger::Batches => "1",
    };
    let own = [
        ("linger.ms", linger.to_owned()),
        (
            "message.max.bytes",
            message_bytes_max.max(1_000).to_string(),
        ),
        ("batch.size", batch_bytes),
    ];
    build(topic, PRODUCER, PRODUCER_OWNED, &own)
}

/// The configuration of a client that writes in transactions.
pub(super) fn transactional(
    topic: &KafkaTopic,
    transactional_id: &str,
    timeout: Duration,
) -> Result<ClientConfig, Error> {
    let own = [
        // Rows leave at once; while one request is on its way the next rows gather by themselves.
        ("linger.ms", "0".to_owned()),
        // The topics' own limits are minded where rows are encoded.
        ("message.max.bytes", "1000000000".to_owned()),
        // How long a broker may be away: after it, the broker gives the transaction up.
        ("transaction.timeout.ms", timeout.as_millis().to_string()),
    ];
    let mut config = build(topic, PRODUCER, PRODUCER_OWNED, &own)?;
    config.set("transactional.id", transactional_id);
    // It would follow the time-out of transactions.
    if config.get("socket.timeout.ms").is_none() {
        let request = timeout.min(Duration::from_secs(60));
        config.set("socket.timeout.ms", request.as_millis().to_string());
    }
    Ok(config)
}

fn build(
    topic: &KafkaTopic,
    ours: &[(&str, &str)],
    owned: &[(&str, &str)],
    own: &[(&str, String)],
) -> Result<ClientConfig, Error> {
    check(&topic.properties)?;
    let mut config = ClientConfig::new();
    // Why a connection was closed is logged at this level, and nowhere else.
    let asked = topic.properties.contains_key("debug");
    config.set_log_level(if asked {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Info
    });
    config.set("bootstrap.servers", &topic.brokers);
    for (key, value) in CLIENT.iter().chain(ours) {
        config.set(*key, *value);
    }
    for (key, value) in own {
        config.set(*key, value);
    }
    for (key, value) in &topic.properties {
        let alias = ALIASES.iter().find(|(alias, _)| alias == key);
        config.set(alias.map_or(key.as_str(), |(_, name)| name), value);
    }
    for (key, value) in owned {
        config.set(*key, *value);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(properties: &[(&str, &str)]) -> KafkaTopic {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        KafkaTopic {
            brokers: "127.0.0.1:9092".to_owned(),
            topic: "events".to_owned(),
            properties: properties.iter().map(own).collect(),
        }
    }

    #[test]
    fn the_users_settings_win_over_ours() {
        for linger in ["linger.ms", "queue.buffering.max.ms"] {
            let topic = topic(&[(linger, "5"), ("batch.size", "1000")]);
            let config = producer(&topic, 900, Linger::Batches).unwrap();
            assert_eq!(config.get("linger.ms"), Some("5"));
            assert_eq!(config.get("queue.buffering.max.ms"), None);
            assert_eq!(config.get("batch.size"), Some("1000"));
            assert_eq!(config.get("acks"), Some("all"));
        }
    }

    #[test]
    fn settings_on_which_correctness_rests_are_refused() {
        let owned = CONSUMER_OWNED.iter().chain(PRODUCER_OWNED);
        let owned = owned.map(|(key, _)| *key);
        for key in owned.chain(["bootstrap.servers", "group.id", "request.required.acks"]) {
            let refused = consumer(&topic(&[(key, "1")]));
            assert!(matches!(refused, Err(Error::OwnedSetting { .. })), "{key}");
        }
    }

    #[test]
    fn librdkafka_knows_all_our_settings() {
        let consumer = consumer(&topic(&[])).unwrap();
        assert!(consumer.create_native_config().is_ok());
        let producer = producer(&topic(&[]), 1_000_000, Linger::None).unwrap();
        assert!(producer.create_native_config().is_ok());
        let timeout = Duration::from_secs(600);
        let transactional = transactional(&topic(&[]), "job-0", timeout).unwrap();
        assert!(transactional.create_native_config().is_ok());
    }
}
