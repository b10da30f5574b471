//! What the tests of this binary share beyond the test kit: the case's events in a topic.
//!
//! Apart from the test kit, which knows nothing of the product: here the two meet.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deltajoin::config::KafkaTopic;
use deltajoin::generate::{Expected, Generator, Options, Pace, Written, to_kafka};
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

/// Publishes for as long as `meanwhile` runs, and tells what must come of it.
pub(crate) fn publish_until_stopped(
    broker: &Broker,
    name: &str,
    options: &Options,
    meanwhile: impl FnOnce(),
) -> Expected {
    let options = Options {
        count: u64::MAX,
        ..options.clone()
    };
    let pace = pace();
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let generator = Generator::new(options.clone()).expect("the options are right");
            let topic = topic(broker, name, Login::Admin);
            to_kafka(generator, &topic, &pace).expect("the broker takes all records")
        });
        let _end = StopWhenDropped(&pace);
        meanwhile();
        pace.stop.ask();
        publishing.join().expect("it has published")
    });
    let count = published.records;
    Expected::of(&Options { count, ..options }).expect("the options are right")
}

/// A test that fails must not publish for ever.
struct StopWhenDropped<'a>(&'a Pace);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.stop.ask();
    }
}

/// The time as records have it.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.expect("the clock is right").as_millis();
    i64::try_from(since).expect("the clock is right")
}

/// Tells a figure: `cargo test -- --nocapture` shows it.
#[allow(clippy::print_stdout, reason = "this is where a test's own words go")]
pub(crate) fn tell(figure: &str) {
    println!("{figure}");
}
