//! What ends a process, as a person reads it: one form for the errors of all modules.
//!
//! It is apart from `error`, which is only numbers, because it knows every module's errors, and
//! nothing below the composition root may.
//!
//! # Invariants
//! * An error is printed once, where it is handled: primary line, detail, hint.
//! * Every failure says with which exit code the process ends.

use std::fmt;

use crate::bindings;
use crate::checkpoint;
use crate::cluster;
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka;
use crate::error::ExitCode;

/// An error with its exit code, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the process must end.
    pub code: ExitCode,
    primary: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure that the user must mend: exit code 2.
    pub fn usage(primary: impl Into<String>) -> Self {
        Self {
            code: ExitCode::Usage,
            primary: primary.into(),
            detail: None,
            hint: None,
        }
    }

    /// A failure that another start may not meet: exit code 1.
    pub fn failed(primary: impl Into<String>) -> Self {
        Self {
            code: ExitCode::Failed,
            ..Self::usage(primary)
        }
    }

    /// A failure whose whole report is written already, as that of a configuration.
    pub fn report(report: &str) -> Self {
        Self::usage(report.strip_prefix("error: ").unwrap_or(report))
    }

    /// With another exit code; a failure of code 0 is not told.
    #[must_use]
    pub fn code(mut self, code: ExitCode) -> Self {
        self.code = code;
        self
    }

    /// With what else is known.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With what the reader may do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.primary)?;
        for (name, text) in [("detail", &self.detail), ("hint", &self.hint)] {
            if let Some(text) = text {
                write!(f, "\n  {name}: {}", text.replace('\n', "\n    "))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// An error's sources, as the detail of the failure that it makes.
fn sources(error: &dyn std::error::Error) -> Option<String> {
    let mut next = error.source();
    let mut all = Vec::new();
    while let Some(source) = next {
        all.push(source.to_string());
        next = source.source();
    }
    (!all.is_empty()).then(|| all.join(": "))
}

impl From<file::Error> for Failure {
    fn from(error: file::Error) -> Self {
        let code = if error.needs_correction() {
            ExitCode::Usage
        } else {
            ExitCode::Failed
        };
        let detail = error.detail().or_else(|| sources(&error));
        Self {
            code,
            primary: error.to_string(),
            detail,
            hint: error.hint().map(str::to_owned),
        }
    }
}

#[cfg(feature = "kafka")]
impl From<kafka::Error> for Failure {
    fn from(error: kafka::Error) -> Self {
        let code = match &error {
            kafka::Error::Stopped => ExitCode::Done,
            other if other.is_configuration() => ExitCode::Usage,
            _ => ExitCode::Failed,
        };
        let detail = error.detail().map(str::to_owned);
        Self {
            code,
            primary: error.to_string(),
            detail,
            hint: error.hint(),
        }
    }
}

impl From<bindings::Error> for Failure {
    fn from(error: bindings::Error) -> Self {
        Self {
            code: error.exit_code(),
            primary: error.to_string(),
            detail: error.detail(),
            hint: error.hint(),
        }
    }
}

impl From<checkpoint::Error> for Failure {
    fn from(error: checkpoint::Error) -> Self {
        Self {
            code: error.exit_code(),
            primary: error.to_string(),
            detail: error.detail(),
            hint: error.hint().map(str::to_owned),
        }
    }
}

impl From<cluster::Error> for Failure {
    fn from(error: cluster::Error) -> Self {
        Self {
            code: error.exit_code(),
            primary: error.to_string(),
            detail: sources(&error),
            hint: error.hint().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_failure_is_shown_in_one_form() {
        let failure = Failure::usage("topic \"evnts\" does not exist on 127.0.0.1:9092")
            .detail("The cluster has 3 topics.\nNone is alike.")
            .hint("Did you mean \"events\"?");
        expect![[r#"
            error: topic "evnts" does not exist on 127.0.0.1:9092
              detail: The cluster has 3 topics.
                None is alike.
              hint: Did you mean "events"?"#]]
        .assert_eq(&failure.to_string());
    }
}
