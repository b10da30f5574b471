//! `deltajoin check`: is this configuration good?

use crate::cli::{SettingsArgs, load, print, say, stop_by_signals};
use crate::error::ExitCode;
use crate::failure::Failure;
use crate::process;

/// Checks a configuration; without `offline` also what it names.
pub(super) fn run(settings: &SettingsArgs, show: bool, offline: bool) -> Result<ExitCode, Failure> {
    let loaded = load(settings)?;
    // Whether the settings are good is found out even if nobody wants to see all of them.
    let shown = if show {
        print(loaded.resolved().trim_end())
    } else {
        Ok(())
    };
    for idle in loaded.idle() {
        say(&format!("warning: {idle}"));
    }
    if !offline {
        let stop = stop_by_signals()?;
        for line in process::check(&loaded, &stop)? {
            say(&line);
        }
    }
    shown?;
    say(&format!("{} is good", settings.config.display()));
    Ok(ExitCode::Done)
}
