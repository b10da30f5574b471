//! Asks what a topic is like now: its id, how many partitions it has, and who may write to it.
//!
//! It is apart from `ffi` because it is the one call here that is asked seldom; rust-rdkafka has
//! none for it, and its metadata has no ids.
//!
//! # Invariants
//! * What librdkafka makes for the question is given back before the call returns.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use crate::connectors::kafka::ffi::{Handle, Owned, outcome};
use crate::connectors::kafka::messages::Description;

/// How much later than its time-out the answer to a question comes at most.
const LATE: Duration = Duration::from_secs(1);

impl Handle {
    /// What the topic is like, as this broker knows it. One too old for the question answers
    /// `UnsupportedFeature`; one that is too old for ids tells none.
    pub(in crate::connectors::kafka) fn describe(
        &self,
        topic: &str,
        broker: i32,
        timeout: Duration,
    ) -> Result<Description, RDKafkaErrorCode> {
        let name = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
        let client = self.client.native_ptr();
        // SAFETY: the client and the name are alive. Collection and options are copied by the
        // question, and freed once, by their owners; the queue lives until its event is freed.
        unsafe {
            let topics = owned(
                sys::rd_kafka_TopicCollection_of_topic_names([name.as_ptr()].as_mut_ptr(), 1),
                sys::rd_kafka_TopicCollection_destroy,
            );
            let kind = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
            let options = owned(
                sys::rd_kafka_AdminOptions_new(client, kind),
                sys::rd_kafka_AdminOptions_destroy,
            );
            let queue = owned(sys::rd_kafka_queue_new(client), sys::rd_kafka_queue_destroy);
            outcome(sys::rd_kafka_AdminOptions_set_broker(
                options.pointer.as_ptr(),
                broker,
                ptr::null_mut(),
                0,
            ))?;
            outcome(sys::rd_kafka_AdminOptions_set_request_timeout(
                options.pointer.as_ptr(),
                timeout.as_millis() as i32,
                ptr::null_mut(),
                0,
            ))?;
            let refused = sys::rd_kafka_AdminOptions_set_include_authorized_operations(
                options.pointer.as_ptr(),
                1,
            );
            assert!(refused.is_null(), "topics have operations");
            sys::rd_kafka_DescribeTopics(
                client,
                topics.pointer.as_ptr(),
                options.pointer.as_ptr(),
                queue.pointer.as_ptr(),
            );
            let wait = (timeout + LATE).as_millis() as i32;
            let event = sys::rd_kafka_queue_poll(queue.pointer.as_ptr(), wait);
            if event.is_null() {
                return Err(RDKafkaErrorCode::OperationTimedOut);
            }
            let described = read(event);
            sys::rd_kafka_event_destroy(event);
            described
        }
    }
}

/// # Safety
/// `pointer` is a reference of ours, which `destroy` gives back.
unsafe fn owned<T>(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Owned<T> {
    Owned {
        pointer: NonNull::new(pointer).expect("librdkafka aborts when out of memory"),
        destroy,
    }
}

/// # Safety
/// `event` is alive.
unsafe fn read(event: *mut sys::rd_kafka_event_t) -> Result<Description, RDKafkaErrorCode> {
    // SAFETY: the caller has promised it; what the event lends is not used after this call.
    unsafe {
        outcome(sys::rd_kafka_event_error(event))?;
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count == 0 {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let topic = *topics;
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            outcome(sys::rd_kafka_error_code(error))?;
        }
        let mut partitions = 0;
        sys::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        let mut count = 0;
        let allowed = sys::rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
        let may_write = (count > 0).then(|| {
            let allowed = std::slice::from_raw_parts(allowed, count);
            allowed.contains(&sys::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE)
        });
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let words = [
            sys::rd_kafka_Uuid_most_significant_bits(id),
            sys::rd_kafka_Uuid_least_significant_bits(id),
        ];
        let bytes = words.map(i64::to_be_bytes).concat();
        Ok(Description {
            partitions,
            // As Kafka's own tools write it.
            id: (words != [0, 0]).then(|| URL_SAFE_NO_PAD.encode(bytes)),
            may_write,
        })
    }
}
