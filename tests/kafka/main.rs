//! Tests against a real Apache Kafka, which they start.
//!
//! One binary, so that librdkafka is linked once, and the tests share one broker: each has topics
//! of its own. A test that kills or freezes its broker starts one for itself.

mod broker;
mod support;
