//! Settings that must last: some as long as the job lives, some as long as rows of what is bound
//! are still to be made again.
//!
//! It is apart from `claim` because a start asks twice, and somebody who only looks asks too.
//!
//! What was found at the topics of sinks is among them: it is not compared, but gone on with.
//!
//! # Invariants
//! * What is made again is made by the settings by which it was bound, and goes where it went.

use std::collections::BTreeMap;

use crate::bindings::{Error, History};

/// What the names of settings of single sinks begin with: sinks come and go.
pub const OF_SINKS: &str = "sinks.";

/// How the name ends of a setting of single sinks by which rows find their partitions: like those
/// that only rows depend on.
pub const OF_PARTITIONER: &str = ".partitioner";

/// How the names end of what was found at a sink's topic, rather than set. Partitions hold as long
/// as the sink writes to that topic.
pub const OF_PARTITIONS: &str = ".partitions";

/// The largest message of the topic holds as long as rows are to be made again.
pub const OF_MESSAGE_BYTES: &str = ".message_bytes_max";

/// What was found at a topic, as markers tell it.
pub fn found(number: usize, topic: &str) -> String {
    format!("{number} of {topic}")
}

/// The number that was found.
pub fn number_of(found: &str) -> Option<usize> {
    let number = found.split_once(" of ")?.0.parse().ok()?;
    Some(number).filter(|number| *number > 0)
}

fn topic_of(found: &str) -> Option<&str> {
    Some(found.split_once(" of ")?.1)
}

/// The settings of a start, to be compared with those of the bindings.
#[derive(Clone, Debug)]
pub struct Lasting {
    /// All of them, by name.
    pub settings: BTreeMap<String, String>,
    /// Those of them that only rows depend on: they may change when all that is bound is written.
    pub of_rows: &'static [&'static str],
}

impl Lasting {
    /// Refuses to go on with other settings than those of the bindings in `history`, the log `log`.
    /// What is bound behind the epoch `made` is made again. A setting that those bindings know
    /// nothing of holds from now on.
    ///
    /// # Errors
    /// If one has changed that must not.
    pub fn check(&self, history: &History, made: u64, log: &str) -> Result<(), Error> {
        for ((_, marker), bound) in history.markers.iter().zip(&history.bound) {
            // One of which a marker says nothing was not known to whoever wrote it.
            for (name, before) in &marker.settings {
                let now = self.settings.get(name);
                let of_rows = self.of_rows.contains(&&**name) || is_of_sinks(name, OF_PARTITIONER);
                // A sink that is gone has no rows of either kind to come.
                let gone = now.is_none() && name.starts_with(OF_SINKS);
                let holds = is_of_sinks(name, OF_MESSAGE_BYTES)
                    || is_of_sinks(name, OF_PARTITIONS) && !has_fewer(before, now);
                if now == Some(before) || gone || holds || of_rows && *bound <= made {
                    continue;
                }
                let (before, now) = (before.clone(), now.cloned().unwrap_or_default());
                let (log, name) = (log.to_owned(), name.clone());
                return Err(Error::SettingChanged {
                    log,
                    name,
                    before,
                    now,
                    of_rows,
                });
            }
        }
        Ok(())
    }

    /// The settings for the marker of a new generation: what was found at topics of sinks is told
    /// as the markers in `history` tell it, if that holds.
    pub fn with_found(&self, history: &History, made: u64) -> BTreeMap<String, String> {
        let all_made = history.bound.iter().all(|bound| *bound <= made);
        let mut settings = self.settings.clone();
        for (name, now) in &mut settings {
            let holds = is_of_sinks(name, OF_PARTITIONS)
                || is_of_sinks(name, OF_MESSAGE_BYTES) && !all_made;
            let markers = history.markers.iter().rev();
            let mut earlier = markers.filter_map(|(_, marker)| marker.settings.get(name));
            let same_topic = earlier.find(|before| topic_of(before) == topic_of(now));
            if let Some(before) = same_topic.filter(|_| holds) {
                now.clone_from(before);
            }
        }
        settings
    }
}

/// Whether it is a setting of single sinks of that kind.
fn is_of_sinks(name: &str, kind: &str) -> bool {
    name.starts_with(OF_SINKS) && name.ends_with(kind)
}

/// Whether a topic has lost partitions.
fn has_fewer(before: &str, now: Option<&String>) -> bool {
    now.is_some_and(|now| topic_of(now) == topic_of(before) && number_of(now) < number_of(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::testing::marker;

    /// Settings by name, and how two of them are told.
    fn lasting(settings: &[(&str, &str)]) -> Lasting {
        let settings = settings.iter();
        Lasting {
            settings: settings
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            of_rows: &["columns"],
        }
    }

    /// A log of generations, with the settings and the last epoch of each.
    fn history(generations: &[(&[(&str, &str)], u64)]) -> History {
        let mut history = History::default();
        for (offset, (settings, bound)) in (0..).zip(generations) {
            let mut marker = marker("one");
            marker.settings = lasting(settings).settings;
            history.markers.push((offset, marker));
            history.bound.push(*bound);
        }
        history
    }

    #[test]
    fn what_rows_depend_on_may_change_once_they_are_written() {
        let first = [("key", "id"), ("columns", "a")];
        let second = [("key", "id"), ("columns", "b")];
        let third = [("key", "name"), ("columns", "b")];
        let log = history(&[(&first, 5), (&second, 9), (&first, 0)]);
        let refused = |now: &[(&str, &str)], made| {
            let refused = lasting(now).check(&log, made, "log");
            refused.err().map(|error| match error {
                Error::SettingChanged {
                    name, before, now, ..
                } => (name, before, now),
                other => panic!("{other}"),
            })
        };
        let told = |name: &str, before: &str, now: &str| {
            Some((name.to_owned(), before.to_owned(), now.to_owned()))
        };
        assert_eq!(refused(&second, 9), None);
        assert_eq!(refused(&first, 9), None);
        assert_eq!(refused(&second, 5), None);
        assert_eq!(refused(&first, 8), told("columns", "b", "a"));
        assert_eq!(refused(&second, 4), told("columns", "a", "b"));
        assert_eq!(refused(&third, 9), told("key", "id", "name"));
        assert_eq!(refused(&[("columns", "b")], 9), told("key", "id", ""));
    }

    #[test]
    fn what_a_sink_tells_is_told_in_one_way_for_as_long_as_it_is_there() {
        let first = [("key", "id"), ("sinks.a", "upsert"), ("sinks.b", "upsert")];
        let log = history(&[(&first, 5)]);
        let check = |now: &[(&str, &str)]| lasting(now).check(&log, 9, "log").is_ok();
        assert!(check(&[
            ("key", "id"),
            ("sinks.b", "upsert"),
            ("sinks.c", "changelog")
        ]));
        assert!(!check(&[("key", "id"), ("sinks.b", "changelog")]));
    }

    /// What is told of a sink's topic.
    fn told(partitions: &str, bytes: &str) -> Lasting {
        lasting(&[
            ("key", "id"),
            ("sinks.a.message_bytes_max", bytes),
            ("sinks.a.partitions", partitions),
        ])
    }

    #[test]
    fn partitions_hold_for_a_topic_and_messages_until_all_is_written() {
        let older = [("key", "id")];
        let first = [
            ("sinks.a.message_bytes_max", "9 of rows"),
            ("sinks.a.partitions", "4 of rows"),
        ];
        let second = [("sinks.a.partitions", "2 of others")];
        let log = history(&[(&older, 5), (&first, 9), (&second, 0)]);
        let now = told("6 of rows", "8 of rows");
        assert!(now.check(&log, 9, "log").is_ok());
        let settings = |lasting: Lasting, made| lasting.with_found(&log, made);
        let written = told("4 of rows", "8 of rows").settings;
        assert_eq!(settings(now.clone(), 9), written, "all is written");
        let bound = told("4 of rows", "9 of rows").settings;
        assert_eq!(
            settings(now, 8),
            bound,
            "the last epoch is to be made again"
        );
        // Another topic begins anew.
        let moved = told("1 of more", "8 of more");
        assert!(moved.check(&log, 8, "log").is_ok());
        assert_eq!(settings(moved.clone(), 8), moved.settings);
    }

    #[test]
    fn a_topic_that_has_lost_partitions_is_refused() {
        let first = [("sinks.a.partitions", "10 of rows")];
        let log = history(&[(&first, 5)]);
        let fewer = told("9 of rows", "9 of rows").check(&log, 9, "log");
        match fewer.unwrap_err() {
            Error::SettingChanged { name, .. } => assert_eq!(name, "sinks.a.partitions"),
            other => panic!("{other}"),
        }
        // Without the sink nobody asks.
        assert!(lasting(&[("key", "id")]).check(&log, 9, "log").is_ok());
    }

    #[test]
    fn another_partitioner_waits_until_all_is_written() {
        let log = history(&[(&[("sinks.a.partitioner", "murmur2")], 5)]);
        let changed = lasting(&[("sinks.a.partitioner", "key-group")]);
        assert!(changed.check(&log, 5, "log").is_ok());
        let refused = changed.check(&log, 4, "log").unwrap_err();
        assert!(matches!(
            refused,
            Error::SettingChanged { of_rows: true, .. }
        ));
    }
}
