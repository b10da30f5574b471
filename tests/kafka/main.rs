//! Tests against a real Apache Kafka, which they start.
//!
//! One binary, so that librdkafka is linked once, and the tests share one broker: each has topics
//! of its own. A test that kills or freezes its broker starts one for itself.
//!
//! | file | what it tests |
//! |---|---|
//! | `broker` | the test kit itself |
//! | `stream` | a million events, on one process and on several |
//! | `reference` | the reference table as a compacted topic |
//! | `partitioned` | a reference table of which each worker has a part |
//! | `poison` | records and rows that must not stop a job |
//! | `scenarios` | single ways to lose or double rows |
//! | `shapes` | topics of every shape |
//! | `skew` | one key, place or partition that has nearly everything; bursts |
//! | `conflicts` | duplicates with other values, and rows that were held with other settings |
//! | `exactly_once` | jobs that write each row once |
//! | `chaos` | random faults |
//! | `late` | generations that are paused or killed at each fault point, and what they do late |
//! | `check` | `deltajoin check` of jobs that have run |
//! | `buckets` | checkpoints in a bucket |
//! | `damage` | checkpoints that are damaged |
//! | `settings_change`, `places_change` | what may change between two starts |
//! | `at_least_once` | jobs that may repeat rows, and say which |
//! | `files`, `file_events` | jobs that write files, and that read them |
//! | `bindings` | the binding log as a topic |
//! | `topics_change` | partitions that are added, records and topics that are gone |
//! | `outputs_change` | partitions that are added to topics of sinks, and that are gone |
//! | `disks` | disks that are full or read-only |
//! | `outage` | brokers that are away, silent or slow |
//! | `refusals` | what keeps a job from starting |
//! | `monitors` | offsets for monitors of lag |
//! | `state` | what a job keeps, shown and forgotten |
//! | `stops` | how jobs end |
//! | `transactions` | the exactly-once sink |
//! | `audit`, `audit_epochs`, `audit_revised` | `deltajoin audit` |
//! | `setup`, `topics`, `support` | what the tests share |

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "what a test writes need not last, its queues are short, and it panics when it fails"
)]

mod at_least_once;
mod audit;
mod audit_epochs;
mod audit_revised;
mod bindings;
mod broker;
mod buckets;
mod chaos;
mod check;
mod cold;
mod conflicts;
mod damage;
mod disks;
mod exactly_once;
mod file_events;
mod files;
mod horizon;
#[cfg(feature = "fault-points")]
mod late;
mod monitors;
mod outage;
mod outputs_change;
mod partitioned;
mod places_change;
mod poison;
mod reference;
mod refusals;
mod revise;
#[cfg(feature = "fault-points")]
mod scenarios;
mod settings_change;
mod setup;
mod shapes;
mod skew;
mod state;
mod stops;
mod stream;
mod support;
mod topics;
mod topics_change;
mod transactions;
