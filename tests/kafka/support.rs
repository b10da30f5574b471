//! What the tests of this binary share beyond the test kit: the case's events in a topic.
//!
//! Apart from the test kit, which knows nothing of the product: here the two meet.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deltajoin::config::KafkaTopic;
use deltajoin::generate::{Generator, Options, Pace, Written, to_kafka};
use deltajoin_testkit::{Broker, Login};
use deltajoin_workers::ports::{Clock, Stop};

/// The clock of the system.
struct SystemClock;

impl Clock for SystemClock {
    fn now_us(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("the clock is after 1970");
        u64::try_from(since.as_micros()).expect("and before the year 500,000,000")
    }
}

/// A topic of the broker, for a client that signs in so.
pub(crate) fn topic(broker: &Broker, name: &str, login: Login) -> KafkaTopic {
    KafkaTopic {
        brokers: broker.bootstrap(),
        topic: name.to_owned(),
        properties: broker.client_properties(login).into_iter().collect(),
    }
}

/// The system's clock, no stop, ticks of a millisecond.
pub(crate) fn pace() -> Pace {
    Pace {
        clock: Arc::new(SystemClock),
        stop: Arc::new(Stop::default()),
        tick: Duration::from_millis(1),
    }
}

/// Publishes the whole stream.
pub(crate) fn publish(broker: &Broker, name: &str, options: &Options) -> Written {
    let generator = Generator::new(options.clone()).expect("the options are right");
    let topic = topic(broker, name, Login::Admin);
    to_kafka(generator, &topic, &pace()).expect("the broker takes all records")
}
