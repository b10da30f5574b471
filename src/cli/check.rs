//! `deltajoin check`: is this configuration good?

use std::time::Duration;

use crate::cli::{SettingsArgs, end, load, print, say, stop_by_signals};
use crate::error::ExitCode;
use crate::failure::Failure;
use crate::process;

/// Checks a configuration; with a time-out, in seconds, also what it names.
pub(super) fn run(
    settings: &SettingsArgs,
    show: bool,
    timeout: Option<u64>,
) -> Result<ExitCode, Failure> {
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
    if let Some(seconds) = timeout {
        let stop = stop_by_signals()?;
        end_after(seconds)?;
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

/// Ends the process after so many seconds, whatever it waits for: it has begun nothing that would
/// have to be finished.
fn end_after(seconds: u64) -> Result<(), Failure> {
    let late = Failure::failed(format!("not all of it could be checked within {seconds} s"))
        .hint("What is said above does not answer, or has nothing yet; --timeout waits longer.");
    let watch = move || {
        std::thread::sleep(Duration::from_secs(seconds));
        end(&late).end_at_once()
    };
    let thread = std::thread::Builder::new().name("timeout".to_owned());
    let started = thread.spawn(watch).map(drop);
    started.map_err(|error| Failure::failed(format!("could not start a thread: {error}")))
}
