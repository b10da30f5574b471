//! The command line: one file a subcommand.
//!
//! Only here anything is printed: results and summaries to standard output, all else to standard
//! error.

mod audit;
mod check;
mod cluster;
#[cfg(feature = "demo")]
mod demo;
mod generate;
mod run;
mod state;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, Parser, Subcommand, ValueEnum};
use deltajoin_workers::dataflow::Engine;
use deltajoin_workers::ports::Stop;

use crate::cluster::{signals, supervisor};
use crate::config::{self, Loaded, Sources};
use crate::error::ExitCode;
use crate::failure::Failure;
use crate::telemetry;

/// Keeps a stream of Kafka events joined with a reference table, each result once, and right.
#[derive(Debug, Parser)]
#[command(name = "deltajoin", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a job in this process.
    Run(JobArgs),
    /// Start all processes of a job on this host and watch them.
    Cluster(JobArgs),
    /// Run one process of a job; its peers run under other supervisors or on other hosts.
    Worker {
        #[command(flatten)]
        job: JobArgs,
        /// Which process of the job this is, from 0.
        #[arg(long, value_name = "I")]
        process: usize,
        /// A supervisor holds standard input: end when it closes.
        #[arg(long, hide = true)]
        supervised: bool,
        /// Show no progress on a terminal: whoever starts this shows it.
        #[arg(long, hide = true)]
        quiet: bool,
    },
    /// Check a configuration, and that what it names can be reached and has the right types.
    Check {
        #[command(flatten)]
        settings: SettingsArgs,
        /// Print every setting with its origin.
        #[arg(long)]
        print: bool,
        /// Look at the file alone: connect to nothing.
        #[arg(long)]
        offline: bool,
        /// Give up on what does not answer within this time.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
    },
    /// Recompute the result from the input and compare it with what the sinks have written.
    Audit(audit::AuditArgs),
    /// Show what outlives a restart of a job: checkpoints, offsets, progress of sinks.
    State(state::StateArgs),
    /// Make the events of the example, and its reference table.
    Generate(generate::GenerateArgs),
    /// Run the example with an embedded broker, and show what it does.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
}

/// Where the settings are.
#[derive(Clone, Debug, Args)]
struct SettingsArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Set a setting, as events.topic=detections; may be given more than once.
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
}

/// A job to run.
#[derive(Clone, Debug, Args)]
struct JobArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Process what the topic held at the start, write everything, print a summary, and end.
    #[arg(long)]
    until_end: bool,
    /// Which operators compute the result.
    #[arg(long, value_enum, default_value_t = EngineArg::Production)]
    engine: EngineArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EngineArg {
    /// Those of deltajoin.
    Production,
    /// Differential's own: slow, and the definition of the result.
    Textbook,
}

impl From<EngineArg> for Engine {
    fn from(engine: EngineArg) -> Self {
        match engine {
            EngineArg::Production => Self::Production,
            EngineArg::Textbook => Self::Textbook,
        }
    }
}

/// Runs the command line and says how the process ends.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return told(&error),
    };
    let result = match cli.command {
        Command::Run(job) => run::run(&job),
        Command::Cluster(job) => cluster::run(&job),
        Command::Worker {
            job,
            process,
            supervised,
            quiet,
        } => run::worker(&job, process, supervised, quiet),
        Command::Check {
            settings,
            print,
            offline,
            timeout,
        } => check::run(&settings, print, (!offline).then_some(timeout)),
        Command::Audit(args) => audit::run(&args),
        Command::State(args) => state::run(&args),
        Command::Generate(args) => generate::run(&args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args),
    };
    result.unwrap_or_else(|failure| end(&failure))
}

/// Shows help, or what is wrong with the command line.
fn told(error: &clap::Error) -> ExitCode {
    let told = error.print().and_then(|()| io::stdout().flush());
    match told {
        _ if error.use_stderr() => ExitCode::Usage,
        Ok(()) => ExitCode::Done,
        Err(error) => end(&unprinted(&error)),
    }
}

/// Says why a command failed, unless it was only stopped.
fn end(failure: &Failure) -> ExitCode {
    if failure.code != ExitCode::Done {
        say_last(failure);
    }
    failure.code
}

/// Says why this process ends.
fn say_last(failure: &Failure) {
    let text = failure.to_string();
    say(&text);
    supervisor::tell(text.strip_prefix("error: ").unwrap_or(&text));
}

/// Writes a line to standard error, and goes on if it cannot be written: there is nowhere else to
/// say so.
fn say(line: &str) {
    writeln!(io::stderr(), "{line}").unwrap_or_default();
}

/// Writes a line to standard output: a result.
///
/// # Errors
/// If it cannot be written. The failure is silent and its code is that of success if whoever read
/// the output has seen enough.
fn print(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|error| unprinted(&error))
}

fn unprinted(error: &io::Error) -> Failure {
    let failure = Failure::failed(format!("could not write to standard output: {error}"));
    match error.kind() {
        io::ErrorKind::BrokenPipe => failure.code(ExitCode::Done),
        _ => failure,
    }
}

/// Ends the process for an error on a thread.
fn fatal(failure: &Failure) -> ! {
    failure.code.end_after(|| say_last(failure))
}

/// Loads the settings and starts logging as they say.
fn load(settings: &SettingsArgs) -> Result<Loaded, Failure> {
    let loaded = config::load(Sources {
        file: settings.config.clone(),
        environment: std::env::vars_os(),
        set: settings.set.clone(),
    })
    // Its text is a whole report already.
    .map_err(|error| Failure::report(&error.to_string()))?;
    let log = &loaded.config.telemetry.log;
    telemetry::log_to_stderr(log).map_err(|error| {
        Failure::usage(format!("cannot read telemetry.log {log:?}: {error}"))
            .hint("Write a level, as \"info\", or levels by module, as \"info,deltajoin=debug\".")
    })?;
    Ok(loaded)
}

/// The same, for a job that is to run.
fn load_job(job: &JobArgs) -> Result<Loaded, Failure> {
    let loaded = load(&job.settings)?;
    if job.engine == EngineArg::Textbook {
        let checked = loaded.check_textbook();
        checked.map_err(|error| Failure::report(&error.to_string()))?;
    }
    Ok(loaded)
}

/// A stop flag that signals set.
fn stop_by_signals() -> Result<Arc<Stop>, Failure> {
    watch_signals(None)
}

/// The same, and one that has the reference file looked at.
fn wishes_by_signals() -> Result<(Arc<Stop>, Arc<AtomicBool>), Failure> {
    let reload = Arc::new(AtomicBool::new(false));
    Ok((watch_signals(Some(Arc::clone(&reload)))?, reload))
}

fn watch_signals(reload: Option<Arc<AtomicBool>>) -> Result<Arc<Stop>, Failure> {
    let stop = Arc::new(Stop::default());
    signals::watch_signals(Arc::clone(&stop), reload)
        .map_err(|error| Failure::failed(format!("could not watch signals: {error}")))?;
    Ok(stop)
}

/// Obeys the supervisor at standard input.
fn obey_supervisor(stop: &Arc<Stop>, reload: &Arc<AtomicBool>) -> Result<(), Failure> {
    supervisor::watch_supervisor(Arc::clone(stop), Arc::clone(reload))
        .map(drop)
        .map_err(|error| Failure::failed(format!("could not watch the supervisor: {error}")))
}
