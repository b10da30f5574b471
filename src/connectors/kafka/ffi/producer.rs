//! Producing in batches, and transactions, behind a safe face.
//!
//! It is apart from `ffi` for its length. Transactions are called here because rust-rdkafka's own
//! calls belong to its producers, and its commit takes a tenth of a second at least.
//!
//! # Invariants
//! * `produce` copies: what it is given is free to change when it returns.
//! * A topic is destroyed before the client, of which it holds a share.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int, c_void};
use std::io::Write;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::Client;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka_sys as sys;
use rdkafka_sys::types::{RDKafkaRespErr, RDKafkaType};
use rdkafka_sys::{rd_kafka_vtype_t as Kind, rd_kafka_vu_s__bindgen_ty_1 as Value};

use crate::connectors::kafka::ffi::{Handle, NativeTopic, Owned, outcome, text};
use crate::connectors::kafka::messages::{Mark, Outgoing, Problems, TransactionFault};
use crate::connectors::kafka::reader::now_ms;

/// A producer.
pub(in crate::connectors::kafka) struct Producer {
    /// The array of the current call, kept for its memory; empty between calls.
    array: Vec<sys::rd_kafka_message_t>,
    handle: Handle,
}

// SAFETY: librdkafka is thread-safe, and the array is empty between calls.
unsafe impl Send for Producer {}

/// A topic that a producer writes to.
pub(in crate::connectors::kafka) struct Topic {
    native: NativeTopic,
    /// The client must outlive the topic, as fields are dropped in their order.
    _client: Arc<Client<Problems>>,
}

impl Producer {
    /// A producer; it connects by itself.
    pub(in crate::connectors::kafka) fn new(config: &ClientConfig) -> Result<Self, KafkaError> {
        Ok(Self {
            array: Vec::new(),
            handle: Handle::new(config, RDKafkaType::RD_KAFKA_PRODUCER)?,
        })
    }

    /// The client and its events, delivery reports among them.
    pub(in crate::connectors::kafka) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A topic to write to.
    pub(in crate::connectors::kafka) fn topic(&self, name: &str) -> Result<Topic, KafkaError> {
        let name = CString::new(name)?;
        Ok(Topic {
            native: self.handle.topic(&name).map_err(KafkaError::Global)?,
            _client: Arc::clone(&self.handle.client),
        })
    }

    /// Gives messages for one partition to the producer and returns how many, from the first on,
    /// are dealt with: accepted and to be reported by `Handle::poll`, or pushed to `refused`. For
    /// the others there is no room.
    pub(in crate::connectors::kafka) fn produce<'a>(
        &mut self,
        topic: &Topic,
        partition: i32,
        messages: impl Iterator<Item = Outgoing<'a>>,
        refused: &mut Vec<(usize, RDKafkaErrorCode)>,
    ) -> usize {
        let native = |message: Outgoing<'a>| {
            let value = message.value.map_or(ptr::null(), <[u8]>::as_ptr);
            let key = message.key.map_or(ptr::null(), <[u8]>::as_ptr);
            sys::rd_kafka_message_t {
                err: RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
                rkt: ptr::null_mut(),
                partition,
                payload: value.cast_mut().cast(),
                len: message.value.map_or(0, <[u8]>::len),
                key: key.cast_mut().cast(),
                key_len: message.key.map_or(0, <[u8]>::len),
                offset: 0,
                _private: message.token as *mut c_void,
            }
        };
        self.array.extend(messages.map(native));
        if self.array.is_empty() {
            return 0;
        }
        let count = i32::try_from(self.array.len()).expect("a call has a few thousand messages");
        let (topic, array) = (topic.native.pointer.as_ptr(), self.array.as_mut_ptr());
        // SAFETY: topic and array are alive, and what the array points to is borrowed for 'a.
        // With F_COPY librdkafka only reads key and value, and only during the call.
        let accepted = unsafe {
            sys::rd_kafka_produce_batch(topic, partition, sys::RD_KAFKA_MSG_F_COPY, array, count)
        };
        let mut dealt = self.array.len();
        if accepted < count {
            for (index, message) in self.array.iter().enumerate() {
                match outcome(message.err) {
                    Ok(()) => {}
                    // Once one message has found no room, no later one is tried.
                    Err(RDKafkaErrorCode::QueueFull) => {
                        dealt = index;
                        break;
                    }
                    Err(code) => refused.push((message._private as usize, code)),
                }
            }
        }
        self.array.clear();
        dealt
    }

    /// The same as `produce`, with headers: a call for each message, because that of many messages
    /// takes no headers.
    pub(in crate::connectors::kafka) fn produce_marked<'a>(
        &mut self,
        topic: &Topic,
        partition: i32,
        messages: impl Iterator<Item = Outgoing<'a>>,
        refused: &mut Vec<(usize, RDKafkaErrorCode)>,
    ) -> usize {
        let mut dealt = 0;
        // One time for all, as a call for all would take it.
        let at = now_ms().cast_signed();
        for message in messages {
            let digits = message.mark.map(Digits::of);
            let values = values(topic, (partition, at), &message, digits.as_ref());
            let count = if digits.is_some() {
                values.len()
            } else {
                values.len() - HEADERS.len()
            };
            // SAFETY: the client is alive, and `values` has `count` values or more. They point to
            // the topic, and to bytes that are borrowed until after the call; with F_COPY
            // librdkafka only reads those, and only during the call. The error is ours.
            let answer = unsafe {
                answer(sys::rd_kafka_produceva(
                    self.client(),
                    values.as_ptr(),
                    count,
                ))
            };
            match answer.map_err(|fault| fault.code) {
                Ok(()) => {}
                Err(RDKafkaErrorCode::QueueFull) => break,
                Err(code) => refused.push((message.token, code)),
            }
            dealt += 1;
        }
        dealt
    }

    /// Forgets what is not delivered, so that the producer can be dropped without waiting.
    pub(in crate::connectors::kafka) fn purge(&self) {
        let flags = 1 | 2; // RD_KAFKA_PURGE_F_QUEUE, RD_KAFKA_PURGE_F_INFLIGHT: C macros
        // SAFETY: the client is alive.
        unsafe { sys::rd_kafka_purge(self.client(), flags) };
    }

    /// Takes the transactional id from whoever had it, and ends the transaction that it had open.
    /// What took too long is gone on with by the next call.
    pub(in crate::connectors::kafka) fn init_transactions(
        &self,
        timeout: Duration,
    ) -> Result<(), TransactionFault> {
        self.transact(sys::rd_kafka_init_transactions, timeout)
    }

    /// Begins a transaction; no request is made.
    pub(in crate::connectors::kafka) fn begin_transaction(&self) -> Result<(), TransactionFault> {
        // SAFETY: the client is alive, and the answer is ours.
        unsafe { answer(sys::rd_kafka_begin_transaction(self.client())) }
    }

    /// Commits what was produced, all of which must have been reported. What took too long may
    /// be committed or not: the next call goes on with it.
    pub(in crate::connectors::kafka) fn commit_transaction(
        &self,
        timeout: Duration,
    ) -> Result<(), TransactionFault> {
        self.transact(sys::rd_kafka_commit_transaction, timeout)
    }

    /// Aborts what was produced. It waits for reports of what is under way, so those must be
    /// served between calls: what took too long is gone on with by the next one.
    pub(in crate::connectors::kafka) fn abort_transaction(
        &self,
        timeout: Duration,
    ) -> Result<(), TransactionFault> {
        self.transact(sys::rd_kafka_abort_transaction, timeout)
    }

    /// One of the calls above, all of which are of one form.
    fn transact(
        &self,
        call: unsafe extern "C" fn(*mut sys::rd_kafka_t, c_int) -> *mut sys::rd_kafka_error_t,
        timeout: Duration,
    ) -> Result<(), TransactionFault> {
        // SAFETY: the client is alive, and the answer is ours.
        unsafe { answer(call(self.client(), milliseconds(timeout))) }
    }

    fn client(&self) -> *mut sys::rd_kafka_t {
        self.handle.client.native_ptr()
    }
}

/// The headers of a mark, in the order in which they are written.
const HEADERS: [&CStr; 3] = [c"epoch", c"shard", c"seq"];

/// The numbers of a mark as digits.
struct Digits {
    text: [u8; 60],
    ends: [usize; HEADERS.len()],
}

impl Digits {
    fn of(mark: Mark) -> Self {
        let mut text = [0; 60];
        let mut ends = [0; HEADERS.len()];
        let mut rest = &mut text[..];
        let numbers = [mark.epoch, mark.shard.into(), mark.seq.into()];
        for (number, end) in numbers.into_iter().zip(&mut ends) {
            let mut digits = itoa::Buffer::new();
            let written = rest.write_all(digits.format(number).as_bytes());
            written.expect("a number has 20 digits at most");
            *end = 60 - rest.len();
        }
        Self { text, ends }
    }

    /// The digits of the header of this index.
    fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[index]]
    }
}

/// What `rd_kafka_produceva` is told of a message; headers stand last. They point to what `topic`,
/// `message` and `digits` hold.
fn values(
    topic: &Topic,
    (partition, at): (i32, i64),
    message: &Outgoing<'_>,
    digits: Option<&Digits>,
) -> [sys::rd_kafka_vu_t; 7 + HEADERS.len()] {
    let value = |vtype, u| sys::rd_kafka_vu_t { vtype, u };
    let memory = |bytes: Option<&[u8]>| Value {
        mem: sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
            ptr: bytes.map_or(ptr::null_mut(), |bytes| bytes.as_ptr().cast_mut().cast()),
            size: bytes.map_or(0, <[u8]>::len),
        },
    };
    let header = |index: usize| {
        let digits = digits.map(|digits| digits.get(index));
        let header = sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
            name: HEADERS[index].as_ptr(),
            val: digits.map_or(ptr::null(), |digits| digits.as_ptr().cast()),
            size: digits.map_or(0, |digits| digits.len().cast_signed()),
        };
        value(Kind::RD_KAFKA_VTYPE_HEADER, Value { header })
    };
    let rkt = topic.native.pointer.as_ptr();
    let token = message.token as *mut c_void;
    let flags = sys::RD_KAFKA_MSG_F_COPY;
    [
        value(Kind::RD_KAFKA_VTYPE_RKT, Value { rkt }),
        value(Kind::RD_KAFKA_VTYPE_PARTITION, Value { i32_: partition }),
        value(Kind::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: flags }),
        value(Kind::RD_KAFKA_VTYPE_TIMESTAMP, Value { i64_: at }),
        value(Kind::RD_KAFKA_VTYPE_KEY, memory(message.key)),
        value(Kind::RD_KAFKA_VTYPE_VALUE, memory(message.value)),
        value(Kind::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: token }),
        header(0),
        header(1),
        header(2),
    ]
}

fn milliseconds(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// # Safety
/// `error` is null or an error of librdkafka's, and ours to destroy.
unsafe fn answer(error: *mut sys::rd_kafka_error_t) -> Result<(), TransactionFault> {
    let Some(pointer) = NonNull::new(error) else {
        return Ok(());
    };
    let error = Owned {
        pointer,
        destroy: sys::rd_kafka_error_destroy,
    };
    let error = error.pointer.as_ptr();
    // SAFETY: the error is alive until the end of this function.
    Err(unsafe {
        TransactionFault {
            code: sys::rd_kafka_error_code(error).into(),
            retriable: sys::rd_kafka_error_is_retriable(error) != 0,
            reason: text(sys::rd_kafka_error_string(error)),
        }
    })
}
