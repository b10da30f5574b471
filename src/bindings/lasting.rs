//! Settings that must last: some as long as the job lives, some as long as rows of what is bound
//! are still to be made again.
//!
//! It is apart from `claim` because a start asks twice, and somebody who only looks asks too.
//!
//! # Invariants
//! * What is made again is made by the settings by which it was bound.

use std::collections::BTreeMap;

use crate::bindings::{Error, History};

/// What the names of settings of single sinks begin with: sinks come and go.
pub const OF_SINKS: &str = "sinks.";

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
                let of_rows = self.of_rows.contains(&&**name);
                // A sink that is gone has no rows of either kind to come.
                let gone = now.is_none() && name.starts_with(OF_SINKS);
                if now == Some(before) || gone || of_rows && *bound <= made {
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
}
