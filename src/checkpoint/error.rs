//! How checkpoints fail, and with which exit code the process ends.
//!
//! Errors are apart from where they arise so that each wording stands in one place.
//!
//! # Invariants
//! * Every error names the object or the location.
//! * What another start would meet again has exit code 2: the location, and what is stored there.

use std::fmt;
use std::time::Duration;

use crate::error::ExitCode;

/// What was to be done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To put it.
    Write,
    /// To read it, or a part of it.
    Read,
    /// To list all objects of the location.
    List,
    /// To delete it.
    Delete,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::List => "list",
            Self::Delete => "delete",
        })
    }
}

/// Why a checkpoint cannot be written, or not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The setting names no place where checkpoints can be kept.
    #[error("cannot keep checkpoints in {location:?}")]
    Location {
        /// The setting.
        location: String,
        /// What is wrong with it.
        reason: String,
        /// What the user can do.
        hint: Option<&'static str>,
    },
    /// A put of a name that is taken has replaced what was there.
    #[error("cannot keep checkpoints in {location:?}: it has no conditional puts")]
    NoConditionalPuts {
        /// The setting.
        location: String,
    },
    /// The store has refused; to ask again at once would not help.
    #[error("could not {action} {name:?}")]
    Refused {
        /// What was to be done.
        action: Action,
        /// The object.
        name: String,
        /// What the store says.
        reason: String,
    },
    /// The disk is full, or what this user may have of it; another time there may be room.
    #[error("could not {action} {name:?}: there is no room")]
    Full {
        /// What was to be done.
        action: Action,
        /// The object.
        name: String,
        /// What the system says.
        reason: String,
    },
    /// The store could not be reached, or was busy, for a long time.
    #[error("could not {action} {name:?} within {}", humantime::format_duration(*.within))]
    Unavailable {
        /// What was to be done.
        action: Action,
        /// The object.
        name: String,
        /// How long it was tried.
        within: Duration,
        /// What was wrong the last time.
        reason: String,
    },
    /// An object that is needed is not there.
    #[error("{name:?} is missing")]
    Missing {
        /// The object.
        name: String,
    },
    /// An object is not what was written.
    #[error("{name:?} is damaged: {reason}")]
    Damaged {
        /// The object.
        name: String,
        /// How that is known.
        reason: String,
    },
    /// Another version of the program wrote it.
    #[error("{name:?} has version {found}, and this program knows version {known}")]
    Version {
        /// The object.
        name: String,
        /// Its version.
        found: u64,
        /// The version of this program.
        known: u64,
    },
    /// A newer generation has put a manifest. Only the binding log says whether this one is
    /// superseded: the caller must read it.
    #[error("{name:?} is of generation {newer}, which is newer than {generation}")]
    Superseded {
        /// The manifest.
        name: String,
        /// This generation.
        generation: u64,
        /// The one that put it.
        newer: u64,
    },
    /// Something else has the name of an object.
    #[error("could not write {name:?}: the name is taken")]
    Taken {
        /// The object.
        name: String,
    },
    /// The hosts of the job do not see the same objects.
    #[error("the location of checkpoints {location:?} is not the same on all hosts")]
    NotShared {
        /// The setting.
        location: String,
        /// What was found instead.
        reason: String,
    },
    /// A stop was asked for meanwhile.
    #[error("stopped while waiting for the store of checkpoints")]
    Stopped,
}

impl Error {
    /// How the process ends, if it ends by this.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Location { .. }
            | Self::NoConditionalPuts { .. }
            | Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::Version { .. }
            | Self::NotShared { .. } => ExitCode::Usage,
            Self::Refused { .. }
            | Self::Full { .. }
            | Self::Unavailable { .. }
            | Self::Superseded { .. }
            | Self::Taken { .. } => ExitCode::Failed,
            Self::Stopped => ExitCode::Done,
        }
    }

    /// Whether the object itself is at fault: an earlier checkpoint may still be good.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Damaged { .. })
    }

    /// What else is known.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Location { reason, .. }
            | Self::Refused { reason, .. }
            | Self::Full { reason, .. }
            | Self::Unavailable { reason, .. }
            | Self::NotShared { reason, .. } => Some(reason.clone()),
            _ => None,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Location { hint, .. } => *hint,
            Self::NoConditionalPuts { .. } => Some(
                "Use a store that honours `If-None-Match: *`: without it two clusters of one job \
                 could take each other's checkpoints away.",
            ),
            Self::Full { .. } => Some("Make room on the disk."),
            Self::Version { .. } => Some("Use the version of deltajoin that wrote it."),
            Self::NotShared { .. } => Some(
                "On several hosts the location must be one that all of them share: a bucket, or \
                 a folder of a network file system.",
            ),
            Self::Missing { .. } | Self::Damaged { .. } => {
                Some("Nothing but the job may write to the location of its checkpoints.")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::expect;

    use super::*;

    /// One of each kind.
    fn errors() -> Vec<Error> {
        let (location, name) = (
            "s3://bucket/prefix".to_owned(),
            "manifest-7.json".to_owned(),
        );
        let reason = "Permission denied.".to_owned();
        let action = Action::Write;
        vec![
            Error::Location {
                location: location.clone(),
                reason: reason.clone(),
                hint: None,
            },
            Error::NoConditionalPuts {
                location: location.clone(),
            },
            Error::Refused {
                action,
                name: name.clone(),
                reason: reason.clone(),
            },
            Error::Full {
                action,
                name: name.clone(),
                reason: reason.clone(),
            },
            Error::Unavailable {
                action,
                name: name.clone(),
                within: Duration::from_secs(60),
                reason: reason.clone(),
            },
            Error::Missing { name: name.clone() },
            Error::Damaged {
                name: name.clone(),
                reason: "its checksum is 9f31, not 04aa".to_owned(),
            },
            Error::Version {
                name: name.clone(),
                found: 2,
                known: 1,
            },
            Error::Superseded {
                name: name.clone(),
                generation: 4,
                newer: 9,
            },
            Error::Taken { name },
            Error::NotShared { location, reason },
            Error::Stopped,
        ]
    }

    #[test]
    fn every_error_names_its_object_and_says_how_the_process_ends() {
        let mut text = String::new();
        for error in errors() {
            let code = error.exit_code().number();
            writeln!(text, "{code}: {error}").unwrap();
            let detail = error.detail().map(|detail| format!("detail: {detail}"));
            let hint = error.hint().map(|hint| format!("hint: {hint:.40}.."));
            for line in detail.into_iter().chain(hint) {
                writeln!(text, "     {line}").unwrap();
            }
        }
        expect![[r#"
            2: cannot keep checkpoints in "s3://bucket/prefix"
                 detail: Permission denied.
            2: cannot keep checkpoints in "s3://bucket/prefix": it has no conditional puts
                 hint: Use a store that honours `If-None-Match:..
            1: could not write "manifest-7.json"
                 detail: Permission denied.
            1: could not write "manifest-7.json": there is no room
                 detail: Permission denied.
                 hint: Make room on the disk...
            1: could not write "manifest-7.json" within 1m
                 detail: Permission denied.
            2: "manifest-7.json" is missing
                 hint: Nothing but the job may write to the loc..
            2: "manifest-7.json" is damaged: its checksum is 9f31, not 04aa
                 hint: Nothing but the job may write to the loc..
            2: "manifest-7.json" has version 2, and this program knows version 1
                 hint: Use the version of deltajoin that wrote ..
            1: "manifest-7.json" is of generation 9, which is newer than 4
            1: could not write "manifest-7.json": the name is taken
            2: the location of checkpoints "s3://bucket/prefix" is not the same on all hosts
                 detail: Permission denied.
                 hint: On several hosts the location must be on..
            0: stopped while waiting for the store of checkpoints
        "#]]
        .assert_eq(&text);
    }
}
