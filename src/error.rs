//! Exit codes: the one table that every command and the supervisor go by.
//!
//! It is apart from the commands because the numbers are a contract with three readers: people,
//! service managers (`RestartPreventExitStatus=2 5`) and our own supervisor.
//!
//! # Invariants
//! * A number never changes its meaning.
//! * Each error that ends a process says which of these it is; nothing else decides it.

use std::fmt;
use std::panic::{self, UnwindSafe};

/// Why a process ended, as its exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitCode {
    /// All was done, also after a clean stop by a signal.
    Done,
    /// It failed; another start may succeed.
    Failed,
    /// The usage, the configuration or the stored state is wrong: another start fails alike.
    Usage,
    /// A peer was lost; that peer's own exit code says why.
    PeerLost,
    /// An invariant is broken: a defect of deltajoin.
    Broken,
    /// A newer generation of the same job has taken over.
    Superseded,
    /// A second signal ended it at once.
    Interrupted,
}

impl ExitCode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::PeerLost,
        Self::Broken,
        Self::Superseded,
        Self::Interrupted,
    ];

    /// The number that the operating system is given.
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::PeerLost => 3,
            Self::Broken => 4,
            Self::Superseded => 5,
            // 128 and the number of SIGINT, as shells have it.
            Self::Interrupted => 130,
        }
    }

    /// The meaning of a number that a process ended with, if it is one of ours.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|code| i32::from(code.number()) == number)
    }

    /// The meaning in a few words.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "bad usage, configuration or state",
            Self::PeerLost => "stopped because a peer was lost",
            Self::Broken => "broken invariant",
            Self::Superseded => "superseded by another cluster of the same job",
            Self::Interrupted => "stopped by a second signal",
        }
    }

    /// Ends this process at once: nothing is flushed, no destructor and no exit routine of a C
    /// library runs while other threads still work, so nothing half-written gets out.
    pub fn end_at_once(self) -> ! {
        signal_hook::low_level::exit(i32::from(self.number()))
    }

    /// As `end_at_once`, after saying why. The process also ends if that cannot be said, as when
    /// whoever read its standard error is gone.
    pub fn end_after(self, last_words: impl FnOnce() + UnwindSafe) -> ! {
        drop(panic::catch_unwind(last_words));
        self.end_at_once()
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        code.number().into()
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.number(), self.meaning())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_table_is_what_service_managers_rely_on() {
        let table: String = ExitCode::ALL
            .iter()
            .map(|code| format!("{code}\n"))
            .collect();
        expect![[r#"
            0 (done)
            1 (failed)
            2 (bad usage, configuration or state)
            3 (stopped because a peer was lost)
            4 (broken invariant)
            5 (superseded by another cluster of the same job)
            130 (stopped by a second signal)
        "#]]
        .assert_eq(&table);
    }

    #[test]
    fn numbers_are_told_back_and_foreign_ones_are_not_ours() {
        for code in ExitCode::ALL {
            assert_eq!(ExitCode::from_number(i32::from(code.number())), Some(code));
        }
        assert_eq!(ExitCode::from_number(101), None);
        assert_eq!(ExitCode::from_number(-1), None);
    }
}
