//! The batch calls of librdkafka behind a safe face: the only unsafe code of the default build.
//!
//! It is apart because reading one record at a time through rust-rdkafka costs four times what
//! batches do. Configuration, security and metadata stay rust-rdkafka's. Here are the client and
//! the consumer, in `ffi/producer.rs` is the producer, in `ffi/describe.rs` a question.
//!
//! # Invariants
//! * A message is destroyed exactly once, before its queue; queues and topics before the client.
//!   Fields are declared in that order, and each is freed by its own `Drop`.
//! * What a message lends (key, value) borrows the `Consumer`, and `fill` needs it exclusively:
//!   no slice outlives the batch that it is in.
//! * Events are served where `poll` is called; the one callback only keeps an error for it.
#![allow(unsafe_code)]

mod describe;
mod producer;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka_sys as sys;
use rdkafka_sys::types::{RDKafkaRespErr, RDKafkaType};

use crate::connectors::kafka::messages::{Item, Polled, Problem, Problems, Report};

pub(super) use producer::{Producer, Topic};

/// A thing of librdkafka's, of which we hold one reference.
struct Owned<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

type Queue = Owned<sys::rd_kafka_queue_t>;
type NativeTopic = Owned<sys::rd_kafka_topic_t>;

// SAFETY: librdkafka's queues and topics may be used from any thread, and by several at once.
unsafe impl<T> Send for Owned<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Owned<T> {}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: we own this reference, and it is given back once.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}

/// # Safety
/// `problems` points to the `Problems` of the client, and `reason` to a text, or is null.
unsafe extern "C" fn keep_problem(
    _client: *mut sys::rd_kafka_t,
    code: c_int,
    reason: *const c_char,
    problems: *mut c_void,
) {
    // SAFETY: rust-rdkafka gives the context to librdkafka, and drops it after the client.
    let (problems, reason) = unsafe { (&*problems.cast::<Problems>(), text(reason)) };
    problems.keep(code, reason);
}

/// A client and the queue of its events.
pub(super) struct Handle {
    main: Queue,
    client: Arc<Client<Problems>>,
}

impl Handle {
    /// A client of which errors and delivery reports are read by `poll`.
    fn new(config: &ClientConfig, kind: RDKafkaType) -> Result<Self, KafkaError> {
        let native = config.create_native_config()?;
        // OAUTHBEARER_TOKEN_REFRESH is left out: librdkafka then refreshes tokens by itself.
        let events = sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_ERROR;
        // SAFETY: the configuration is alive, and is not yet given to a client.
        unsafe {
            sys::rd_kafka_conf_set_events(native.ptr(), events);
            sys::rd_kafka_conf_set_error_cb(native.ptr(), Some(keep_problem));
        }
        let client = Client::new(config, native, kind, Problems::default())?;
        let client = Arc::new(client);
        Ok(Self {
            main: main_queue(&client),
            client,
        })
    }

    /// A client that only asks about topics.
    pub(super) fn for_metadata(config: &ClientConfig) -> Result<Self, KafkaError> {
        Self::new(config, RDKafkaType::RD_KAFKA_CONSUMER)
    }

    /// rust-rdkafka's client, for metadata.
    pub(super) fn client(&self) -> &Client<Problems> {
        &self.client
    }

    /// Another handle to the same client, for another thread.
    pub(super) fn share(&self) -> Self {
        let client = Arc::clone(&self.client);
        let main = main_queue(&client);
        Self { main, client }
    }

    /// Makes the current call of `poll`, or the next one, return at once.
    pub(super) fn wake(&self) {
        // SAFETY: the queue is alive, and yielding is allowed from any thread.
        unsafe { sys::rd_kafka_queue_yield(self.main.pointer.as_ptr()) }
    }

    /// Serves one event; one may hold many delivery reports.
    pub(super) fn poll(&self, timeout: Duration, mut reported: impl FnMut(Report)) -> Polled {
        if let Some(problem) = self.client.context().take() {
            return Polled::Problem(problem);
        }
        // SAFETY: the queue is alive; the event is ours until it is destroyed below, and what it
        // lends is not used after that.
        unsafe {
            let event =
                sys::rd_kafka_queue_poll(self.main.pointer.as_ptr(), timeout.as_millis() as i32);
            if event.is_null() {
                return Polled::Nothing;
            }
            let polled = match sys::rd_kafka_event_type(event) {
                sys::RD_KAFKA_EVENT_DR => loop {
                    let message = sys::rd_kafka_event_message_next(event);
                    if message.is_null() {
                        break Polled::Served;
                    }
                    let message = &*message;
                    reported(Report {
                        partition: message.partition,
                        token: message._private as usize,
                        offset: (message.offset >= 0).then_some(message.offset),
                        result: outcome(message.err),
                    });
                },
                sys::RD_KAFKA_EVENT_ERROR => Polled::Problem(Problem {
                    code: sys::rd_kafka_event_error(event).into(),
                    fatal: sys::rd_kafka_event_error_is_fatal(event) != 0,
                    reason: text(sys::rd_kafka_event_error_string(event)),
                }),
                sys::RD_KAFKA_EVENT_LOG => log_event(event),
                _ => Polled::Served,
            };
            sys::rd_kafka_event_destroy(event);
            polled
        }
    }

    /// A topic of this client; it must be dropped before the client.
    fn topic(&self, name: &CStr) -> Result<NativeTopic, RDKafkaErrorCode> {
        // SAFETY: client and name are alive; a null configuration means the client's own.
        let topic = unsafe {
            sys::rd_kafka_topic_new(self.client.native_ptr(), name.as_ptr(), ptr::null_mut())
        };
        Ok(Owned {
            pointer: NonNull::new(topic).ok_or_else(last_error)?,
            destroy: sys::rd_kafka_topic_destroy,
        })
    }
}

fn main_queue(client: &Client<Problems>) -> Queue {
    // SAFETY: the client is alive; the call gives us a reference of our own.
    let main = unsafe { sys::rd_kafka_queue_get_main(client.native_ptr()) };
    Owned {
        pointer: NonNull::new(main).expect("every client has a main queue"),
        destroy: sys::rd_kafka_queue_destroy,
    }
}

/// A consumer of some partitions of one topic, read in batches.
///
/// It has no group: nothing is committed or rebalanced, no rights on a group are needed, and a
/// reader may stand still for as long as it likes.
pub(super) struct Consumer {
    /// The current batch.
    messages: Vec<*mut sys::rd_kafka_message_t>,
    started: Vec<i32>,
    queue: Queue,
    topic: NativeTopic,
    name: CString,
    handle: Handle,
}

// SAFETY: librdkafka is thread-safe, and the messages are owned by this value alone.
unsafe impl Send for Consumer {}

/// A record that was read; it borrows the batch.
#[derive(Clone, Copy)]
pub(super) struct Record<'a>(&'a sys::rd_kafka_message_t);

impl<'a> Record<'a> {
    /// Its partition.
    #[inline]
    pub(super) fn partition(self) -> i32 {
        self.0.partition
    }

    /// Its offset.
    #[inline]
    pub(super) fn offset(self) -> i64 {
        self.0.offset
    }

    /// Its key, if it has one.
    #[inline]
    pub(super) fn key(self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka keeps key and value alive and unchanged until the message is
        // destroyed, which the borrow of the batch forbids.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// Its value; a tombstone has none.
    #[inline]
    pub(super) fn value(self) -> Option<&'a [u8]> {
        // SAFETY: as for the key.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    /// When it was published, in milliseconds since 1970, if the broker knows.
    #[inline]
    pub(super) fn timestamp_ms(self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, and the type is written to a place of ours.
        let timestamp = unsafe { sys::rd_kafka_message_timestamp(self.0, &mut kind) };
        (timestamp >= 0).then_some(timestamp)
    }
}

impl Consumer {
    /// A consumer whose batches have up to `capacity` records; it reads nothing yet.
    pub(super) fn new(
        config: &ClientConfig,
        topic: &str,
        capacity: usize,
    ) -> Result<Self, KafkaError> {
        assert!(capacity >= 2, "a batch has room for what follows the first");
        let handle = Handle::new(config, RDKafkaType::RD_KAFKA_CONSUMER)?;
        let name = CString::new(topic)?;
        // SAFETY: the client is alive; the call gives us a reference of our own.
        let queue = unsafe { sys::rd_kafka_queue_new(handle.client.native_ptr()) };
        Ok(Self {
            messages: Vec::with_capacity(capacity),
            started: Vec::new(),
            queue: Owned {
                pointer: NonNull::new(queue).expect("librdkafka aborts when out of memory"),
                destroy: sys::rd_kafka_queue_destroy,
            },
            topic: handle.topic(&name).map_err(KafkaError::Global)?,
            name,
            handle,
        })
    }

    /// The client and its events.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Starts to read a partition at `offset`.
    pub(super) fn start(&mut self, partition: i32, offset: i64) -> Result<(), RDKafkaErrorCode> {
        let (topic, queue) = (self.topic.pointer.as_ptr(), self.queue.pointer.as_ptr());
        // SAFETY: topic and queue are alive, and outlive the reading, which `Drop` stops.
        match unsafe { sys::rd_kafka_consume_start_queue(topic, partition, offset, queue) } {
            0 => {
                self.started.push(partition);
                Ok(())
            }
            _ => Err(last_error()),
        }
    }

    /// Stops to read a partition; its records may still be in the current batch.
    pub(super) fn stop(&mut self, partition: i32) {
        let Some(index) = self
            .started
            .iter()
            .position(|started| *started == partition)
        else {
            return;
        };
        self.started.swap_remove(index);
        // SAFETY: the topic is alive. An error would mean that the partition is not being read.
        unsafe { sys::rd_kafka_consume_stop(self.topic.pointer.as_ptr(), partition) };
    }

    /// Replaces the batch: waits for one message, then takes what is there. Returns how many came.
    /// Librdkafka's own time-out would wait for a full batch, for milliseconds at a low rate.
    pub(super) fn fill(&mut self, timeout: Duration) -> usize {
        self.clear();
        let queue = self.queue.pointer.as_ptr();
        let (start, room) = (self.messages.as_mut_ptr(), self.messages.capacity());
        // SAFETY: `start` has room for `room` pointers, none of which is in use after `clear`;
        // librdkafka writes as many as it returns, and each is ours from then on.
        unsafe {
            let mut count = sys::rd_kafka_consume_batch_queue(queue, 0, start, room).max(0);
            if count == 0 && !timeout.is_zero() {
                let first = sys::rd_kafka_consume_queue(queue, timeout.as_millis() as i32);
                if first.is_null() {
                    return 0;
                }
                *start = first;
                let rest = sys::rd_kafka_consume_batch_queue(queue, 0, start.add(1), room - 1);
                count = 1 + rest.max(0);
            }
            self.messages.set_len(count.unsigned_abs());
        }
        self.messages.len()
    }

    /// What is in the batch, each partition's records in the order of their offsets.
    pub(super) fn batch(&self) -> impl Iterator<Item = Item<'_>> {
        self.messages.iter().map(|message| {
            // SAFETY: the message is alive until `clear`, which needs `self` exclusively.
            let message = unsafe { &**message };
            match outcome(message.err) {
                Ok(()) => Item::Record(Record(message)),
                Err(RDKafkaErrorCode::PartitionEOF) => Item::End {
                    partition: message.partition,
                    offset: message.offset,
                },
                Err(code) => Item::Fault {
                    partition: message.partition,
                    code,
                    // SAFETY: the text of an error is where a record has its value.
                    reason: unsafe { bytes(message.payload, message.len) }
                        .map(|text| String::from_utf8_lossy(text).into_owned())
                        .unwrap_or_default(),
                },
            }
        })
    }

    /// The end of a partition as the last fetch saw it; no request is made.
    pub(super) fn high_watermark(&self, partition: i32) -> Option<i64> {
        let (mut low, mut high) = (-1, -1);
        // SAFETY: client and name are alive, and the offsets are written to places of ours.
        let answer = outcome(unsafe {
            let client = self.handle.client.native_ptr();
            let name = self.name.as_ptr();
            sys::rd_kafka_get_watermark_offsets(client, name, partition, &mut low, &mut high)
        });
        (answer.is_ok() && high >= 0).then_some(high)
    }

    fn clear(&mut self) {
        for message in self.messages.drain(..) {
            // SAFETY: the message is ours, and leaves the batch here.
            unsafe { sys::rd_kafka_message_destroy(message) }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.clear();
        while let Some(partition) = self.started.last().copied() {
            self.stop(partition);
        }
    }
}

fn outcome(code: RDKafkaRespErr) -> Result<(), RDKafkaErrorCode> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code.into()),
    }
}

/// The error of the last call on this thread.
fn last_error() -> RDKafkaErrorCode {
    // SAFETY: it only reads a thread-local.
    unsafe { sys::rd_kafka_last_error() }.into()
}

/// # Safety
/// `start` is null, or points to `length` bytes that live and stay unchanged for `'a`.
unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller has promised it.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast(), length) })
}

/// # Safety
/// `start` is null, or points to a text that ends with a zero.
unsafe fn text(start: *const c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: the caller has promised it.
    let text = unsafe { CStr::from_ptr(start) };
    text.to_string_lossy().into_owned()
}

/// Lets a client that may have lost all its brokers look for them at the addresses that it began
/// with; one that has not lost them is not disturbed.
///
/// Librdkafka 2.12 should do so by itself. But a cluster whose only broker is fenced for a moment
/// tells of no brokers, and an answer without brokers may stop that for good
/// (librdkafka's issue 5301).
pub fn bootstrap_again<C: ClientContext>(client: &Client<C>, brokers: &str) {
    let Ok(brokers) = CString::new(brokers) else {
        return;
    };
    // SAFETY: client and text are alive; the text is copied.
    unsafe { sys::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
}

/// Takes a line of librdkafka's log.
///
/// # Safety
/// `event` is alive, and a log event.
unsafe fn log_event(event: *mut sys::rd_kafka_event_t) -> Polled {
    let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
    // SAFETY: the caller has promised it; the texts live as long as the event.
    let (facility, line) = unsafe {
        sys::rd_kafka_event_log(event, &mut facility, &mut line, &mut level);
        (text(facility), text(line))
    };
    Polled::logged(&facility, &line)
}
