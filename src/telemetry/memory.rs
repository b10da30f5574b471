//! Whether `state.memory_limit` is enough, and the warning if it is not.
//!
//! It is apart from the rest of `telemetry` because it speaks of a setting: the core knows a
//! worker's part of it in bytes, and people know what was written, and where.

/// The setting `state.memory_limit`, for messages.
pub struct MemoryLimit {
    /// Its value.
    pub bytes: u64,
    /// The workers of a process, which have equal parts of it.
    pub threads: u64,
    /// Where it was written.
    pub place: String,
}

/// What workers were found to need beyond their parts.
#[derive(Default)]
pub(super) struct Crowded {
    /// Set once it is known.
    pub(super) limit: Option<MemoryLimit>,
    /// The most that a worker needs, and how much of that is of rows.
    most: (u64, u64),
    told: u64,
}

impl Crowded {
    /// Notes what a worker needs.
    pub(super) fn note(&mut self, needed: u64, rows: u64) {
        self.most = self.most.max((needed, rows));
    }

    /// What is to be told, and what would do: once, and again when a worker needs twice as much.
    pub(super) fn news(&mut self) -> Option<(String, String)> {
        let (needed, rows) = self.most;
        let limit = self.limit.as_ref()?;
        if needed <= 2 * self.told {
            return None;
        }
        self.told = needed;
        let whole = |bytes: u64| format!("{}MB", bytes.div_ceil(1_000_000));
        let MemoryLimit {
            bytes,
            threads,
            place,
        } = limit;
        let message = format!(
            "state.memory_limit = {} ({place}) cannot hold the open bucket of keys: one of \
             {threads} workers needs {} of its {}, rows that may be revised {} of that; the job \
             goes on",
            whole(*bytes),
            whole(needed),
            whole(bytes / threads),
            whole(rows),
        );
        // The bucket may still be growing.
        let hint = format!(
            "Write \"{}\" or more, or shorten distinct.horizon (a bucket is a 24th of it) or \
             join.revise_window.",
            whole(2 * needed * threads)
        );
        Some((message, hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_told_with_its_place_and_what_would_do_and_again_when_twice_is_needed() {
        let mut crowded = Crowded::default();
        crowded.note(5_000_000, 1_200_000);
        assert_eq!(crowded.news(), None, "the limit is not known");
        crowded.limit = Some(MemoryLimit {
            bytes: 16_000_000,
            threads: 4,
            place: "job.toml:30:16".to_owned(),
        });
        let (message, hint) = crowded.news().unwrap();
        assert_eq!(
            message,
            "state.memory_limit = 16MB (job.toml:30:16) cannot hold the open bucket of keys: one \
             of 4 workers needs 5MB of its 4MB, rows that may be revised 2MB of that; the job goes \
             on"
        );
        assert!(hint.starts_with("Write \"40MB\" or more"), "{hint}");
        for needed in [6_000_000, 4_500_000, 10_000_000] {
            crowded.note(needed, 0);
            assert_eq!(crowded.news(), None);
        }
        crowded.note(10_000_001, 0);
        assert!(crowded.news().is_some());
    }
}
