//! What sinks' topics were like when their sinks began to write to them.
//!
//! It is apart from `promises`, which tells what the configuration says: this is found at Kafka,
//! and stands in markers beside it. Rows go by the number of partitions. If it changed, what is
//! written again would go elsewhere than before, and a key's next row elsewhere than its last. So
//! what was found first holds for as long as a sink writes to that topic. The largest message
//! decides which rows become dead letters; it holds until all rows that are bound are written.
//!
//! # Invariants
//! * All processes of a generation go by what its marker says.

use std::collections::BTreeMap;

use crate::bindings::{OF_MESSAGE_BYTES, OF_PARTITIONS, OF_SINKS, found, number_of};
use crate::failure::Failure;

/// It, by names like those of settings.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded(pub(super) BTreeMap<String, String>);

impl Recorded {
    /// What was found: of sinks the topic, its partitions, and the bytes of its largest message.
    pub(super) fn new<'a>(
        topics: impl Iterator<Item = (&'a str, &'a str, (usize, usize))>,
    ) -> Self {
        let all = topics.flat_map(|(sink, topic, (partitions, bytes))| {
            let both = [(OF_PARTITIONS, partitions), (OF_MESSAGE_BYTES, bytes)];
            both.map(|(kind, number)| (name(sink, kind), found(number, topic)))
        });
        Self(all.collect())
    }

    /// The partitions of a sink's topic, and the bytes of the largest message.
    pub(super) fn of(&self, sink: &str) -> Option<(usize, usize)> {
        let number = |kind| number_of(self.0.get(&name(sink, kind))?);
        Some((number(OF_PARTITIONS)?, number(OF_MESSAGE_BYTES)?))
    }
}

fn name(sink: &str, kind: &str) -> String {
    format!("{OF_SINKS}{sink}{kind}")
}

/// A topic has fewer partitions than it had.
pub(super) fn fewer(name: &str, before: &str, now: &str) -> Failure {
    let sink = name.strip_prefix(OF_SINKS).unwrap_or(name);
    let sink = sink.strip_suffix(OF_PARTITIONS).unwrap_or(sink);
    Failure::usage(format!("the topic of sink {sink:?} has lost partitions"))
        .detail(format!("Its partitions were {before}, and are {now}."))
        .hint(
            "It was made anew. Make it with as many partitions as it had; or give the sink \
             another topic, or another name: it begins there.",
        )
}
