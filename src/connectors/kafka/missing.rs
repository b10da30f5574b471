//! Decides what is to be done when the record that is read next is not in its partition.
//!
//! It is apart from the readers because a start decides the same before there is a reader.
//!
//! # Invariants
//! * What is bound is never gone on without: its rows must be made again.
//! * What is gone on without is counted.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::config::OnMissing;
use crate::connectors::kafka::Error;
use crate::connectors::kafka::client::{ANSWER, describe};
use crate::connectors::kafka::ffi::Handle;
use crate::connectors::kafka::reader::Range;

/// What is to be read of a topic that may have changed.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// The topic's name.
    pub(super) topic: String,
    /// The id that it has had, if that is known.
    pub(super) id: Option<String>,
    /// What is done without records that are not bound.
    pub(super) on_missing: OnMissing,
}

impl Expected {
    /// Where reading of a partition goes on, of which the next record is not there. Nothing if
    /// Kafka does not answer: why, and it is to be asked again.
    ///
    /// # Errors
    /// If there is nothing to go on with.
    pub(super) fn find(&self, handle: &Handle, range: Range) -> Result<Result<i64, Code>, Error> {
        let now = match describe(handle, &self.topic) {
            Ok(now) => now,
            Err(code) => return Ok(Err(code)),
        };
        self.is(now.id.as_deref())?;
        let client = handle.client();
        match client.fetch_watermarks(&self.topic, range.partition, ANSWER) {
            Ok(bounds) => self.goes_on(range, bounds).map(Ok),
            Err(error) => Ok(Err(error.rdkafka_error_code().unwrap_or(Code::Unknown))),
        }
    }

    /// Whether the topic of this id is the one that is read.
    pub(super) fn is(&self, now: Option<&str>) -> Result<(), Error> {
        match (&self.id, now) {
            (Some(before), Some(now)) if before != now => Err(Error::TopicReplaced {
                topic: self.topic.clone(),
                before: before.clone(),
                now: now.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Where reading goes on in a partition that has offsets from `low` to `high`, and not the next
    /// one of `range`.
    pub(super) fn goes_on(&self, range: Range, (low, high): (i64, i64)) -> Result<i64, Error> {
        let (topic, partition, offset) = (self.topic.clone(), range.partition, range.next);
        let has = format!("the partition has offsets {low} to {high}");
        if offset < range.bound {
            return Err(Error::BoundDeleted {
                topic,
                partition,
                offset,
                reason: format!("offsets up to {} are bound; {has}", range.bound),
            });
        }
        // One that is not gone, or beyond the end: there is no gap to go over.
        if self.on_missing == OnMissing::Fail || offset >= low {
            return Err(Error::EventsGone {
                topic,
                partition,
                offset,
                reason: has,
            });
        }
        Ok(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_bound_and_before_the_beginning_is_gone_on_without() {
        let expected = |on_missing| Expected {
            topic: "events".to_owned(),
            id: None,
            on_missing,
        };
        let range = |next, bound| Range {
            partition: 3,
            next,
            bound,
            end: i64::MAX,
        };
        let lenient = expected(OnMissing::Earliest);
        assert_eq!(lenient.goes_on(range(5, 5), (9, 20)), Ok(9));
        assert_eq!(lenient.goes_on(range(5, 0), (20, 20)), Ok(20));
        for (range, bounds) in [(range(21, 21), (9, 20)), (range(9, 9), (9, 20))] {
            let refused = lenient.goes_on(range, bounds).unwrap_err();
            assert!(matches!(refused, Error::EventsGone { .. }), "{refused}");
        }
        let refused = lenient.goes_on(range(5, 6), (9, 20)).unwrap_err();
        assert!(matches!(refused, Error::BoundDeleted { .. }), "{refused}");
        let refused = expected(OnMissing::Fail)
            .goes_on(range(5, 5), (9, 20))
            .unwrap_err();
        assert_eq!(refused.to_string(), "events[3]@5 is no longer in the topic");
        assert_eq!(refused.detail(), Some("the partition has offsets 9 to 20"));
    }
}
