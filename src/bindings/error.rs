//! How the binding log fails, and with which exit code the process ends.
//!
//! Errors are apart from where they arise so that each wording stands in one place.
//!
//! # Invariants
//! * Superseded is said only of a log that holds a newer marker, or that another process holds.
//! * What is wrong with a record is told with the record's place.

use crate::bindings::record::VERSION;
use crate::error::ExitCode;

/// What is wrong with a record of the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It cannot be understood.
    #[error("not a record of a binding log: {0}")]
    Unreadable(String),
    /// It has been changed since it was written.
    #[error("its checksum is {found}, not {written}")]
    Damaged {
        /// The checksum beside it.
        written: String,
        /// The checksum of what is there.
        found: String,
    },
    /// Another version of the program wrote it.
    #[error("it has version {0}, and this program knows version {VERSION}")]
    Version(u64),
    /// Records before it are missing.
    #[error("the records from offset {next} up to it are gone")]
    Missing {
        /// The offset that was expected.
        next: u64,
    },
    /// It is a binding, and no generation has begun.
    #[error("no marker stands before it")]
    NoMarker,
    /// Epochs go back.
    #[error("its epoch {epoch} is not after {last}, the epoch before it")]
    EpochOrder {
        /// Its epoch.
        epoch: u64,
        /// The one before.
        last: u64,
    },
    /// Changes of the reference table were never bound by the generation that goes on.
    #[error("the reference changes of epoch {unbound} before it have no binding")]
    Unbound {
        /// The epoch of the changes.
        unbound: u64,
    },
}

impl Fault {
    /// The same, with the place of the record.
    pub fn at(self, place: String) -> Error {
        Error::Record { place, fault: self }
    }
}

/// Why the binding log cannot be used, or not any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A newer generation has begun.
    #[error("superseded: {log} holds a newer marker")]
    Superseded {
        /// The log.
        log: String,
        /// What the marker says of whose it is.
        by: String,
    },
    /// Another process holds the log.
    #[error("{log} is held by another process")]
    Held {
        /// The log.
        log: String,
        /// What its newest marker says of whose it is, if it has one.
        by: Option<String>,
    },
    /// Records that were acknowledged are not there any more.
    #[error("{log} has lost records: an append is at offset {found} instead of {expected}")]
    Shortened {
        /// The log.
        log: String,
        /// The next offset.
        expected: u64,
        /// The offset that was acknowledged.
        found: u64,
    },
    /// Records may be in the log or not.
    #[error("could not learn whether {log} has taken an append")]
    OutcomeUnknown {
        /// The log.
        log: String,
        /// What is known.
        reason: String,
    },
    /// The marker that was acknowledged is not there.
    #[error("{log} has lost the marker that it acknowledged at offset {offset}")]
    MarkerLost {
        /// The log.
        log: String,
        /// Where the marker was.
        offset: u64,
    },
    /// The log is not that in which the checkpoints name a place.
    #[error("the checkpoints are not of {log}: it has not their marker at offset {offset}")]
    OtherLog {
        /// The log.
        log: String,
        /// Where the marker was.
        offset: u64,
    },
    /// Sinks have rows that nothing in the log tells of.
    #[error("sinks have rows up to epoch {written}, and nothing is bound in {log}")]
    NothingBound {
        /// The log.
        log: String,
        /// The last epoch that a sink has.
        written: u64,
    },
    /// What is bound was bound with another setting.
    #[error("the job has run with another {name}, and {}", if *of_rows {
        "has not written all rows of then"
    } else {
        "that cannot change"
    })]
    SettingChanged {
        /// The log.
        log: String,
        /// The setting.
        name: String,
        /// What it was.
        before: String,
        /// What it is.
        now: String,
        /// Whether only rows depend on it, which must be made again.
        of_rows: bool,
    },
    /// A record is wrong.
    #[error("cannot read record {place} of the binding log: {fault}")]
    Record {
        /// The log and the offset, or the file and the line.
        place: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// What a connector says.
    #[error("{message}")]
    Connector {
        /// Whether another start fails alike.
        needs_correction: bool,
        /// The message.
        message: String,
        /// What else is known.
        detail: Option<String>,
        /// What the user can do.
        hint: Option<String>,
    },
    /// A stop was asked for meanwhile.
    #[error("stopped while waiting for the binding log")]
    Stopped,
}

impl Error {
    /// How the process ends.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Superseded { .. } | Self::Held { .. } => ExitCode::Superseded,
            Self::Shortened { .. } | Self::OutcomeUnknown { .. } | Self::MarkerLost { .. } => {
                ExitCode::Failed
            }
            Self::Connector {
                needs_correction, ..
            } if !needs_correction => ExitCode::Failed,
            Self::OtherLog { .. }
            | Self::NothingBound { .. }
            | Self::SettingChanged { .. }
            | Self::Record { .. }
            | Self::Connector { .. } => ExitCode::Usage,
            Self::Stopped => ExitCode::Done,
        }
    }

    /// What else is known.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Superseded { by, .. } => Some(format!("It is of {by}.")),
            Self::Held { by, .. } => {
                let by = by.as_ref()?;
                Some(format!("Its newest marker is of {by}."))
            }
            Self::SettingChanged {
                log, before, now, ..
            } => Some(format!("In {log} it is {before:?}, and now it is {now:?}.")),
            Self::OutcomeUnknown { reason, .. } => Some(reason.clone()),
            Self::Connector { detail, .. } => detail.clone(),
            Self::OtherLog { .. }
            | Self::NothingBound { .. }
            | Self::MarkerLost { .. }
            | Self::Shortened { .. }
            | Self::Record { .. }
            | Self::Stopped => None,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Superseded { .. } | Self::Held { .. } => {
                "Only one cluster of a job runs at a time. If two are meant to, give them \
                 different names."
            }
            Self::Shortened { .. } => {
                "Was it deleted, or the job forgotten by `deltajoin state reset`, while it ran? \
                 Else its brokers have lost what they had acknowledged: look at their disks, and \
                 at `unclean.leader.election.enable`."
            }
            Self::OtherLog { .. } | Self::NothingBound { .. } => {
                "Bring the log back; or have the job begin anew, by `deltajoin state reset` or \
                 another name."
            }
            Self::SettingChanged {
                name, before, now, ..
            } if name == "events.time" && (before == "arrival" || now == "arrival") => {
                "Set it back, by `distinct.retry_time`: it says by what keys are remembered, and \
                 its default follows from `distinct.keep`. Or give the job another name, and it \
                 begins anew."
            }
            Self::SettingChanged { of_rows: true, .. } => {
                "Set it back, and stop the job cleanly, by SIGTERM, when it has started: after \
                 that it can change. Or give the job another name, and it begins anew."
            }
            Self::SettingChanged { .. } => {
                "Set it back; or give the job another name, and it begins anew."
            }
            Self::Record { fault, .. } => match fault {
                Fault::Version(_) => "Use the version of deltajoin that wrote it.",
                Fault::Missing { .. } => "Nothing but the job may remove records of its log.",
                Fault::Unreadable(_) => "Nothing but the job may write to its log.",
                Fault::NoMarker => {
                    "Its beginning is gone: was it deleted, or the job forgotten, while it ran? \
                     Stop all of its processes, and forget it by `deltajoin state reset`."
                }
                _ => return None,
            },
            Self::Connector { hint, .. } => return hint.clone(),
            Self::OutcomeUnknown { .. } | Self::MarkerLost { .. } | Self::Stopped => return None,
        };
        Some(hint.to_owned())
    }
}
