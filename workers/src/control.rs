//! Messages from every worker to worker 0, beside the data.
//!
//! Worker 0 mints epochs, adds up counts and decides when the job is over; for that it is told who
//! has records waiting, who is done, and what was counted. The messages travel through a dataflow
//! of their own, since timely's mesh is the only connection between processes. Its time counts the
//! messages of a worker, and nothing waits for it.
//!
//! # Invariants
//! * Messages of one worker arrive in the order in which they were sent.
//! * A worker drops its end when it leaves; on worker 0 `all_left` is then true once all have.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::{Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::Worker;

use crate::ports::Counts;

/// What a worker tells worker 0.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Message {
    /// Records wait here: mint an epoch.
    Ask,
    /// The readers of this worker have come to their ends, and nothing waits.
    Exhausted,
    /// Someone asks for a clean stop.
    Stop,
    /// What this worker has counted since the start.
    Counts(Counts),
    /// This worker's part of the checkpoint of an epoch is durable.
    Part {
        /// The epoch.
        epoch: u64,
        /// What and where it is.
        description: Vec<u8>,
    },
}

/// Messages as worker 0 receives them: the sender's index, and what it says.
type Received = Rc<RefCell<VecDeque<(usize, Message)>>>;

/// Where a worker puts what it says.
type Saying = InputHandle<u64, CapacityContainerBuilder<Vec<(usize, Message)>>>;

/// One worker's end of the messages.
pub struct Control {
    index: usize,
    input: Option<Saying>,
    received: Received,
    probe: ProbeHandle<u64>,
}

impl Control {
    /// Builds the messages' dataflow; called once on every worker, before the job's own.
    pub fn build(worker: &mut Worker) -> Self {
        let received = Received::default();
        let inbox = Rc::clone(&received);
        let probe = ProbeHandle::new();
        let index = worker.index();
        let input = worker.dataflow::<u64, _, _>(|scope| {
            let (input, messages) = scope.new_input_with_builder();
            let to_first = Exchange::new(|_: &(usize, Message)| 0);
            messages
                .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(to_first, "Control", |_, _| {
                    move |input, _output| {
                        input.for_each(|_, messages| inbox.borrow_mut().extend(messages.drain(..)));
                    }
                })
                .probe_with(&probe);
            input
        });
        Self {
            index,
            input: Some(input),
            received,
            probe,
        }
    }

    /// Sends a message to worker 0.
    pub fn send(&mut self, message: Message) {
        if self.index == 0 {
            self.received.borrow_mut().push_back((0, message));
        } else if let Some(input) = &mut self.input {
            input.send((self.index, message));
            // A message leaves when its time is over.
            input.advance_to(*input.time() + 1);
        }
    }

    /// The next message, on worker 0.
    pub fn receive(&self) -> Option<(usize, Message)> {
        self.received.borrow_mut().pop_front()
    }

    /// Says that this worker will send nothing more.
    pub fn leave(&mut self) {
        self.input = None;
    }

    /// Whether all workers have left, and all that they sent has been delivered.
    pub fn all_left(&self) -> bool {
        self.probe.done()
    }
}
