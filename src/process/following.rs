//! The reference table from a topic: its content at the start, as it differs from what is bound,
//! then every change as it comes; and what the status tells of bad records.
//!
//! It is apart from `reloading`, which looks at a file: a topic says itself when it changes, and
//! what is wrong with it is wrong with single keys.
//!
//! # Invariants
//! * Nothing is handed over before the content is complete, and then it is one block.
//! * A key whose newest record is bad has the row that the topic has of it otherwise, else the
//!   bound one. A job without any bound row, or one that reads the topic once, ends instead.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::ports::ReferenceBlock;
use deltajoin_workers::queue::{InFlight, Receiver, queue};

use crate::codec::reference_schema;
use crate::connectors::kafka::{self, Holder, OnRejected, Rejected};
use crate::failure::Failure;
use crate::process::REFERENCE_BYTES_MAX;
use crate::process::changes::{Table, Way, difference};
use crate::telemetry::Monitor;

/// The reference topic of a job.
pub(super) struct Following {
    pub(super) topic: kafka::Reference,
    /// Whether it is read once, to its end.
    pub(super) until_end: bool,
    pub(super) on_rejected: OnRejected,
}

impl Following {
    /// Hands the table over, and what changes of it later, on threads of its own.
    pub(super) fn spawn(
        self,
        way: Way,
        monitor: &Arc<Monitor>,
        stop: &Arc<AtomicBool>,
        fail: kafka::Fail,
    ) -> Result<(), Failure> {
        let schema = reference_schema(self.topic.schema());
        let unread = Arc::default();
        let told = Told {
            may_go_on: !self.until_end && way.bound.len() > 0,
            unread: Arc::clone(&unread),
            on_rejected: self.on_rejected,
            monitor: Arc::clone(monitor),
        };
        let (sender, receiver) = queue(InFlight::new(REFERENCE_BYTES_MAX));
        std::thread::Builder::new()
            .name("reference-changes".to_owned())
            .spawn(move || forward(&receiver, way, &unread, &schema))
            .map_err(|error| Failure::failed(format!("no thread: {error}")))?;
        self.topic
            .spawn(sender, Box::new(told), Arc::clone(stop), fail)?;
        Ok(())
    }
}

/// The keys that the content lacks, as their newest records are bad; set when it is complete.
type Unread = OnceLock<BTreeSet<u128>>;

/// Takes what is told of bad records.
struct Told {
    /// Whether bound rows may stand in for bad records.
    may_go_on: bool,
    unread: Arc<Unread>,
    on_rejected: OnRejected,
    monitor: Arc<Monitor>,
}

impl Holder for Told {
    fn stands_in(&mut self, keys: Vec<u128>) -> bool {
        let set = self.unread.set(keys.into_iter().collect());
        set.expect("the content is complete once");
        self.monitor.reference_followed();
        self.may_go_on
    }

    fn rejected(&mut self, record: Rejected) {
        self.monitor.reference_failed(&record.error);
        (self.on_rejected)(record);
    }

    fn fault(&mut self, fault: Option<&str>) {
        self.monitor.reference_fault(fault);
    }
}

/// Hands on how the content differs from what is bound, then every change.
fn forward(
    receiver: &Receiver<ReferenceBlock>,
    way: Way,
    unread: &Unread,
    schema: &Arc<BatchSchema>,
) {
    let Way { sender, bound, .. } = way;
    let thread = std::thread::current();
    receiver.wake_by(Arc::new(move || thread.unpark()));
    let mut content = Some((bound, Table::default()));
    loop {
        while let Some((block, bytes)) = receiver.pop() {
            receiver.release(bytes);
            let block = match &mut content {
                None => block,
                Some((bound, now)) => {
                    block.updates.into_iter().for_each(|batch| now.apply(batch));
                    if !block.complete {
                        continue;
                    }
                    let unread = unread.get().expect("it is set before this block is sent");
                    let updates = difference(bound, (now, unread), schema);
                    content = None;
                    ReferenceBlock {
                        updates,
                        complete: true,
                    }
                }
            };
            let bytes = block.bytes();
            if !sender.send(block, bytes) {
                receiver.close();
                return;
            }
        }
        if receiver.finished() {
            sender.finish();
            return;
        }
        // Woken by what comes; the time-out ends it with the job.
        std::thread::park_timeout(std::time::Duration::from_millis(100));
        if sender.closed() {
            receiver.close();
            return;
        }
    }
}
