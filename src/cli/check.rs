//! `deltajoin check`: is this configuration good?

use crate::cli::{SettingsArgs, end, load, print, say, stop_by_signals};
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
        let found = process::check(&loaded, &stop);
        found.iter().flatten().for_each(|line| say(line));
        let obstacles = found.iter().filter_map(|one| one.as_ref().err());
        // What must be corrected counts more than what may be better another time.
        let code = obstacles.map(end).max_by_key(|code| code.number());
        if let Some(code) = code {
            return Ok(code);
        }
    }
    shown?;
    say(&format!("{} is good", settings.config.display()));
    Ok(ExitCode::Done)
}
