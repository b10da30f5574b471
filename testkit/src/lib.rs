//! What tests and benchmarks share: a real Kafka broker, readers that are not ours, processes.
//!
//! It is a crate of its own so that none of it can end up in the product, and so that benchmarks
//! need no test harness. It knows nothing of what deltajoin computes: it starts programs, reads
//! topics, and leaves nothing behind.
//!
//! # Layout
//! * `broker`: Apache Kafka, fetched once by Maven, started for one test binary.
//! * `bucket`: a server that speaks S3, fetched once by pip, started for one test binary.
//! * `read`: topics, read by Kafka's own console consumer or by librdkafka.
//! * `job`: the `deltajoin` binary as a process under test.
//! * `process`, `reaper`, `ports`, `cache`, `wait`: what these are made of.
//!
//! # Invariants
//! * Every process that the kit starts ends with the test process, however that one ends.
//! * Everything listens on 127.0.0.1 only.
//! * What fails here panics with a sentence that says what was awaited, and shows the last lines
//!   of the process concerned: tests have nothing better to do with it.

#![allow(
    clippy::disallowed_methods,
    reason = "what a test writes need not last, and its queues are short"
)]

mod broker;
mod bucket;
mod cache;
mod job;
mod ports;
mod process;
mod read;
mod reaper;
mod wait;

pub use broker::{Broker, Login};
pub use bucket::BucketServer;
pub use job::{Job, Outcome};
pub use ports::free_ports;
pub use process::{Process, Signal, Usage};
pub use read::{ConsoleReader, TopicRecord, Until};
pub use wait::{block_on, wait_for, wait_until};
