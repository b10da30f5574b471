//! Gives a few records to partition 0 of a topic, and waits for what becomes of each.
//!
//! It is apart from `writer`, which goes on with rows while others are under way: what the job
//! writes for itself is waited for.
//!
//! # Invariants
//! * A broker that is away is waited for, until the caller gives up.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::connectors::kafka::Error;
use crate::connectors::kafka::ffi::{Producer, Topic};
use crate::connectors::kafka::messages::{Outgoing, Report};
use crate::connectors::kafka::patience::Patience;

/// Waiting for acknowledgements; each one ends it.
const WAIT: Duration = Duration::from_millis(100);

/// What has become of some records.
#[derive(Debug)]
pub(super) struct Delivery {
    /// The offset of each, if the broker has told it.
    pub(super) offsets: Vec<Option<i64>>,
    /// An error that no waiting cures.
    pub(super) failure: Option<Code>,
    unreported: usize,
}

impl Delivery {
    fn reported(&mut self, report: Report) {
        self.unreported -= 1;
        match report.result {
            Ok(()) => self.offsets[report.token] = report.offset,
            Err(code) => self.failure = Some(code),
        }
    }
}

/// Gives records, each a key or none and a value, and waits for all of them. `given_up` is asked
/// now and then whether to end without.
pub(super) fn deliver<'a>(
    (producer, topic): (&mut Producer, &Topic),
    records: impl ExactSizeIterator<Item = (Option<&'a [u8]>, &'a [u8])> + Clone,
    patience: &mut Patience,
    mut given_up: impl FnMut() -> bool,
) -> Result<Delivery, Error> {
    let mut delivery = Delivery {
        offsets: vec![None; records.len()],
        failure: None,
        unreported: records.len(),
    };
    let mut given = 0;
    // Before this, nothing was expected of Kafka.
    patience.rest();
    while delivery.unreported > 0 {
        let rest = records.clone().enumerate().skip(given);
        let messages = rest.map(|(token, (key, value))| Outgoing {
            key,
            value: Some(value),
            token,
            mark: None,
        });
        let mut refused = Vec::new();
        given += producer.produce(topic, 0, messages, &mut refused);
        for (_, code) in refused {
            delivery.unreported -= 1;
            delivery.failure = Some(code);
        }
        let before = delivery.unreported;
        let reported = |report| delivery.reported(report);
        patience.serve(producer.handle(), WAIT, reported)?;
        if delivery.unreported < before {
            patience.back();
        }
        if given_up() {
            return Err(Error::Stopped);
        }
    }
    Ok(delivery)
}
