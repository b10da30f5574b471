//! Rows of a transaction on their way to several topics.
//!
//! It is apart from `committer`, which decides when a transaction ends: here rows are encoded,
//! given to the producer and counted when they are reported.
//!
//! # Invariants
//! * Once a row is refused nothing more is given: the transaction is aborted and written again.
//! * A row that a broker refuses makes a limit of its route smaller, so writing again ends.

use std::sync::Arc;

use deltajoin_workers::batch::Batch;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::codec::Format;
use crate::config::KafkaTopic;
use crate::connectors::kafka::ffi::{Producer, Topic};
use crate::connectors::kafka::fit::shortened;
use crate::connectors::kafka::lanes::Lanes;
use crate::connectors::kafka::messages::{Outgoing, Report};
use crate::connectors::kafka::sink::Destination;
use crate::connectors::kafka::writer::{number, request_bytes};
use crate::connectors::kafka::{Error, Rejected};

/// The token of messages that belong to no route.
const BESIDE: usize = usize::MAX;

/// All routes of a producer, and what is under way on them.
pub(super) struct Routes {
    routes: Vec<Route>,
    /// The topic of messages that are no rows.
    beside: KafkaTopic,
    /// Messages that the producer holds.
    in_flight: usize,
    /// The broker has refused a row as too large: the transaction must be written again.
    too_large: bool,
    /// The producer takes no more rows, for a reason that is still to come.
    broken: bool,
    failure: Option<Error>,
    /// Room for what `produce` refuses.
    refused: Vec<(usize, Code)>,
}

/// The way to one topic.
struct Route {
    destination: Arc<Destination>,
    topic: Topic,
    lanes: Lanes,
    /// The most that is given to the producer at a time, for one partition.
    request_bytes: usize,
    /// What the topic takes; less when it turns out to take less.
    message_bytes_max: usize,
}

impl Routes {
    /// No routes yet; messages that are no rows go to `beside`.
    pub(super) fn new(beside: KafkaTopic) -> Self {
        Self {
            routes: Vec::new(),
            beside,
            in_flight: 0,
            too_large: false,
            broken: false,
            failure: None,
            refused: Vec::new(),
        }
    }

    /// The route to a destination, if it is known.
    pub(super) fn find(&self, destination: &Arc<Destination>) -> Option<usize> {
        let mut routes = self.routes.iter();
        routes.position(|route| Arc::ptr_eq(&route.destination, destination))
    }

    /// Adds the route to a destination.
    pub(super) fn add(&mut self, destination: Arc<Destination>, topic: Topic) -> usize {
        self.routes.push(Route {
            topic,
            lanes: Lanes::new(destination.partitions, destination.options.partitioner),
            request_bytes: request_bytes(destination.message_bytes_max),
            message_bytes_max: destination.message_bytes_max,
            destination,
        });
        self.routes.len() - 1
    }

    /// Where the rows of a route go.
    pub(super) fn destination(&self, route: usize) -> Arc<Destination> {
        Arc::clone(&self.routes[route].destination)
    }

    /// Encoded bytes that wait for the requests before them.
    pub(super) fn bytes(&self) -> usize {
        self.routes.iter().map(|route| route.lanes.bytes()).sum()
    }

    /// Messages that the producer holds.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether the transaction cannot be committed as it stands.
    pub(super) fn halted(&self) -> bool {
        self.too_large || self.broken
    }

    /// Whether writing the transaction again, with the limits that are known by then, may help.
    pub(super) fn too_large(&self) -> bool {
        self.too_large
    }

    /// An error that no waiting cures.
    pub(super) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Encodes rows of a batch, and returns how many bytes they have. Rows that no message of the
    /// topic can hold go to `rejected`, but for dead letters: those are cut to fit.
    pub(super) fn push(
        &mut self,
        route: usize,
        (epoch, batch): (u64, &Batch),
        rows: std::ops::Range<usize>,
        rejected: &mut Vec<(usize, Rejected)>,
    ) -> usize {
        let token = route;
        let route = &mut self.routes[route];
        let options = &route.destination.options;
        let encoder = options.format.of(batch, epoch);
        let mut pushed = 0;
        for row in rows {
            if encoder.told_by_next(row) {
                continue;
            }
            let bytes_max = route.message_bytes_max;
            let mut bytes = route
                .lanes
                .push(&encoder, (batch, row), (token, None), bytes_max);
            let mut letter = None;
            while bytes > bytes_max {
                let (batch, row) = letter.as_ref().map_or((batch, row), |letter| (letter, 0));
                let shorter = match options.format {
                    Format::Rows(..) => None,
                    Format::DeadLetters => shortened((batch, row), bytes, bytes_max),
                };
                let Some(shorter) = shorter else {
                    rejected.push((token, options.too_large((batch, row), bytes)));
                    break;
                };
                let encoder = options.format.of(&shorter, epoch);
                bytes = route
                    .lanes
                    .push(&encoder, (&shorter, 0), (token, None), bytes_max);
                letter = Some(shorter);
            }
            pushed += bytes.min(bytes_max);
        }
        pushed
    }

    /// Gives the next request of each lane to the producer.
    pub(super) fn give(&mut self, producer: &mut Producer) {
        for index in 0..self.routes.len() {
            for partition in 0..self.routes[index].lanes.len() {
                if self.halted() {
                    return;
                }
                let route = &mut self.routes[index];
                let messages = route.lanes.request(partition, route.request_bytes);
                let refused = &mut self.refused;
                let dealt = producer.produce(&route.topic, number(partition), messages, refused);
                route.lanes.given(partition, dealt);
                self.in_flight += dealt;
                self.report_refused(number(partition));
            }
        }
    }

    /// Gives one message to the producer that is no row. Returns whether there was room for it.
    pub(super) fn give_beside(
        &mut self,
        producer: &mut Producer,
        topic: &Topic,
        (key, value): (&[u8], &[u8]),
    ) -> bool {
        let message = Outgoing {
            key: Some(key),
            value: Some(value),
            token: BESIDE,
            mark: None,
        };
        let dealt = producer.produce(topic, 0, [message].into_iter(), &mut self.refused);
        self.in_flight += dealt;
        self.report_refused(0);
        dealt == 1
    }

    fn report_refused(&mut self, partition: i32) {
        for (token, code) in self.refused.split_off(0) {
            self.reported(Report {
                offset: None,
                partition,
                token,
                result: Err(code),
            });
        }
    }

    /// Takes what became of a message.
    #[inline]
    pub(super) fn reported(&mut self, report: Report) {
        self.in_flight -= 1;
        let partition = usize::try_from(report.partition).expect("as it was produced");
        if let Some(route) = self.routes.get_mut(report.token) {
            route.lanes.reported(partition);
        }
        if let Err(code) = report.result {
            self.failed(report.token, partition, code);
        }
    }

    #[cold]
    fn failed(&mut self, token: usize, partition: usize, code: Code) {
        let route = self.routes.get_mut(token);
        match (code, route) {
            (Code::MessageSizeTooLarge | Code::InvalidMessageSize, Some(route)) => {
                let request = route.lanes.last_request(partition);
                if request.rows > 1 {
                    // Refused together: most of the rows are innocent.
                    route.request_bytes = route.request_bytes.min(request.bytes / 2);
                } else {
                    let less = request.bytes - 1;
                    route.message_bytes_max = route.message_bytes_max.min(less);
                }
                self.too_large = true;
            }
            // Consequences of a refusal that is told elsewhere.
            (Code::State | Code::PurgeQueue | Code::PurgeInflight, _) => self.broken = true,
            _ if self.too_large || self.broken => {}
            (code, route) => {
                let topic = route.map(|route| &route.destination.options.topic);
                let error = Error::delivery(topic.unwrap_or(&self.beside), code);
                self.failure.get_or_insert(error);
            }
        }
    }

    /// Forgets all rows, once the transaction is aborted.
    pub(super) fn clear(&mut self) {
        for route in &mut self.routes {
            route.lanes.clear();
        }
        self.too_large = false;
        self.broken = false;
        self.failure = None;
    }
}
