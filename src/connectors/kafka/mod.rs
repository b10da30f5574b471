//! Kafka: the events' topic, a reference table in a compacted topic, and topics of results.
//!
//! | file | what it does |
//! |---|---|
//! | `source`, `readers`, `reader` | records to blocks of events, on threads of their own |
//! | `missing` | what to do when records are gone, or the topic is another |
//! | `reference`, `changes` | a compacted topic to changes of the reference table |
//! | `sink`, `writer` | rows of closed epochs to a topic, at least once |
//! | `transactions`, `committer`, `routes` | the same exactly once |
//! | `recorder` | tells how far sinks have come that write at least once |
//! | `progress` | which epochs are written, as it is told |
//! | `bindings` | the binding log as a topic |
//! | `group` | how far the job is, for monitors of lag |
//! | `delivery` | a few records, each waited for |
//! | `own_topic` | topics that the job makes for itself |
//! | `sample` | a look at a topic's newest records |
//! | `scan` | a topic as it stands, for audits |
//! | `lanes`, `partitioner`, `fit`, `ledger` | rows on their way: to where, cut to size, counted |
//! | `client`, `settings`, `patience` | connecting, and waiting for a broker that is away |
//! | `messages`, `ffi` | the batch calls of librdkafka: the only unsafe code of the default build |
//!
//! # Invariants
//! * A broker that is away is waited for, and said to be; what waiting cannot cure ends the job
//!   with an error that says where.
//! * Nothing here uses consumer groups: the job assigns partitions itself.

mod bindings;
mod changes;
mod client;
mod committer;
mod delivery;
mod error;
mod ffi;
mod fit;
mod group;
mod lag;
mod lanes;
mod ledger;
mod messages;
mod missing;
mod own_topic;
mod partitioner;
mod patience;
mod progress;
mod reader;
mod readers;
mod recorder;
mod reference;
mod routes;
mod sample;
mod scan;
mod settings;
mod sink;
mod source;
mod transactions;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use deltajoin_workers::batch::{Batch, Origin};

pub use bindings::{BindingProducer, BindingReader, BindingTopic, trim_bindings};
pub use client::Connection;
pub use error::Error;
pub use ffi::bootstrap_again;
pub use group::GroupOffsets;
pub use lag::Lag;
pub use own_topic::delete_topic;
pub use progress::{Progress, ProgressRecord, read_progress};
pub use readers::{Owner, Readers};
pub use recorder::{Recorder, RecorderOptions, Watched};
pub use reference::{Holder, Reference, ReferenceOptions};
pub use sample::{sample, sample_reference};
pub use scan::{Scan, Scanned};
pub use sink::{Destination, KafkaSink, SinkOptions, writable};
pub use source::{Source, SourceOptions};
pub use transactions::{TransactionOptions, Transactions};

/// Told of an error that ends the job; may be called from any thread, and more than once.
pub type Fail = Arc<dyn Fn(Error) + Send + Sync>;

/// Told of a record that was left out; may be called from any thread. A sink counts the row as
/// written only when the call has returned.
pub type OnRejected = Arc<dyn Fn(Rejected) + Send + Sync>;

/// Makes a dead letter of a row that was left out.
pub type LetterOf = Arc<dyn Fn(&Rejected) -> Batch + Send + Sync>;

/// A record that a connector left out without ending the job: a row that is too large for its
/// topic, or a reference record that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The topic that would not take the row, or that holds the record.
    pub topic: String,
    /// Where the record stands; for a row of a sink, the origin of its event.
    pub origin: Origin,
    /// One of `ports::reason`.
    pub reason: &'static str,
    /// What is wrong.
    pub error: String,
    /// The record's value; for a row of a sink its key as JSON.
    pub raw: Vec<u8>,
}
