//! Tests against a real Apache Kafka, which they start.
//!
//! One binary, so that librdkafka is linked once, and the tests share one broker: each has topics
//! of its own. A test that kills or freezes its broker starts one for itself.

#![allow(
    clippy::disallowed_methods,
    reason = "what a test writes need not last, and its queues are short"
)]

mod broker;
mod support;
