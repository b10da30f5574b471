//! `deltajoin state`: what outlives a restart of the job; `state reset` forgets it.

use std::io::{self, IsTerminal};

use clap::{Args, Subcommand};

use crate::cli::{SettingsArgs, load, print, say, stop_by_signals};
use crate::error::ExitCode;
use crate::failure::Failure;
use crate::process;

/// What is looked at, or done.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct StateArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    settings: Option<SettingsArgs>,
    /// Read every byte of checkpoints, bindings and progress, and compare the checksums.
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Forget the job: bindings, progress, checkpoints. Rows that are written stay.
    Reset {
        #[command(flatten)]
        settings: SettingsArgs,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// Tells what is kept, or forgets it.
pub(super) fn run(args: &StateArgs) -> Result<ExitCode, Failure> {
    match (&args.action, &args.settings) {
        (Some(Action::Reset { settings, yes }), _) => reset(settings, *yes),
        (None, Some(settings)) => {
            let config = load(settings)?.config;
            let text = process::state(&config, args.verify, &stop_by_signals()?)?;
            print(text.trim_end())?;
            Ok(ExitCode::Done)
        }
        (None, None) => Err(Failure::usage("whose state? --config FILE names the job")),
    }
}

fn reset(settings: &SettingsArgs, yes: bool) -> Result<ExitCode, Failure> {
    let config = load(settings)?.config;
    let kept = process::kept(&config)?;
    if !yes {
        say(&format!(
            "job {:?}, which must not run, will be forgotten:\n  {}\nIts next start is its first, \
             and writes all rows again.",
            config.job,
            kept.join("\n  ")
        ));
        if !io::stdin().is_terminal() {
            return Err(Failure::usage("nothing was forgotten").hint("Say --yes to forget it."));
        }
        say(&format!(
            "Type the job's name to forget it ({}):",
            config.job
        ));
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(|error| Failure::failed(format!("could not read the answer: {error}")))?;
        if answer.trim() != config.job {
            return Err(Failure::usage("nothing was forgotten"));
        }
    }
    process::forget_job(&config, &stop_by_signals()?)?;
    say(&format!("forgot job {:?}", config.job));
    Ok(ExitCode::Done)
}
