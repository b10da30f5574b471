//! What librdkafka's batch calls take and give, as plain types.
//!
//! They are apart from `ffi` because they are safe, and whoever reviews that file should find
//! nothing in it but what needs care.
//!
//! # Invariants
//! * A record borrows the batch that it is in; all else is owned.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::debug;

use crate::connectors::kafka::ffi::Record;

/// An error that librdkafka tells of the client as a whole.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// What kind it is.
    pub(super) code: Code,
    /// Whether the client is of no use any more.
    pub(super) fatal: bool,
    /// What librdkafka and the broker say.
    pub(super) reason: String,
}

/// Errors that librdkafka finds while records are taken: they come by a callback, on the thread
/// that takes them, and are kept for the next `poll`.
#[derive(Debug, Default)]
pub(super) struct Problems(Mutex<VecDeque<Problem>>);

impl ClientContext for Problems {}

impl Problems {
    /// Keeps an error, given by librdkafka's number.
    pub(super) fn keep(&self, code: i32, reason: String) {
        let known = KNOWN.into_iter().find(|known| *known as i32 == code);
        let problem = Problem {
            code: known.unwrap_or(Code::Unknown),
            fatal: code == Code::Fatal as i32,
            reason,
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(problem);
    }

    /// Takes the first error that is kept.
    pub(super) fn take(&self) -> Option<Problem> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pop_front()
    }
}

/// The errors that are dealt with in ways of their own: what is unknown is waited out.
const KNOWN: [Code; 8] = [
    Code::Authentication,
    Code::SSL,
    Code::Fatal,
    Code::AllBrokersDown,
    Code::UnknownPartition,
    Code::UnknownTopic,
    Code::UnknownTopicOrPartition,
    Code::TopicAuthorizationFailed,
];

/// What one call of `poll` served.
#[derive(Debug)]
pub(super) enum Polled {
    /// Nothing came in time, or the handle was woken.
    Nothing,
    /// An event that is dealt with: delivery reports, or a line of log.
    Served,
    /// A connection has failed, in librdkafka's words; it connects again by itself.
    Disconnected(String),
    /// An error of the client.
    Problem(Problem),
}

/// Why a step of a transaction was not done.
#[derive(Clone, Debug)]
pub(super) struct TransactionFault {
    /// What kind it is.
    pub(super) code: Code,
    /// Whether the same call may succeed, and must then be made again.
    pub(super) retriable: bool,
    /// What librdkafka and the broker say.
    pub(super) reason: String,
}

impl Polled {
    /// Passes a line of librdkafka's log on, quietly, and looks for what comes in no other way:
    /// most failures of connections are logged and are no error event.
    pub(super) fn logged(facility: &str, line: &str) -> Self {
        debug!(target: "librdkafka", facility, "{}", line.trim());
        if facility != "FAIL" {
            return Self::Served;
        }
        // It begins with the name of a thread.
        let failure = line.split_once("]: ").map_or(line, |(_, failure)| failure);
        Self::Disconnected(failure.trim().to_owned())
    }
}

/// What a topic is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    /// How many partitions it has.
    pub(super) partitions: usize,
    /// What tells it from another topic of the same name, earlier or later; none if the broker is
    /// too old to have ids.
    pub(super) id: Option<String>,
    /// Whether this client's user may write to it, if the broker tells.
    pub(super) may_write: Option<bool>,
}

/// What stands at one place of a batch.
pub(super) enum Item<'a> {
    /// A record.
    Record(Record<'a>),
    /// The end of a partition, for now: no record below this offset is still to come.
    End {
        /// The partition.
        partition: i32,
        /// Its end.
        offset: i64,
    },
    /// An error of one partition.
    Fault {
        /// The partition.
        partition: i32,
        /// What kind it is.
        code: Code,
        /// What librdkafka says.
        reason: String,
    },
}

/// A message to be produced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    /// Its key, if it has one.
    pub(super) key: Option<&'a [u8]>,
    /// Its value; a tombstone has none.
    pub(super) value: Option<&'a [u8]>,
    /// Given back with its delivery report.
    pub(super) token: usize,
    /// Its headers, if it has any.
    pub(super) mark: Option<Mark>,
}

/// Where a row stands, as its headers tell: a reader that keeps the greatest (epoch, seq) of each
/// partition and shard knows what it has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The epoch.
    pub(super) epoch: u64,
    /// The shard of the row's key.
    pub(super) shard: u32,
    /// How many rows of this shard stand before it in the epoch.
    pub(super) seq: u32,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Its partition.
    pub(super) partition: i32,
    /// The token that it was given with.
    pub(super) token: usize,
    /// Its offset, if the broker has told it.
    pub(super) offset: Option<i64>,
    /// Whether all in-sync replicas have it.
    pub(super) result: Result<(), Code>,
}
