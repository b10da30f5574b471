//! `deltajoin run` and `deltajoin worker`: one process of a job.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use deltajoin_workers::ports::Stop;

use crate::cli::{JobArgs, fatal, load_job, obey_supervisor, print, say, wishes_by_signals};
use crate::config::Loaded;
use crate::error::ExitCode;
use crate::failure::Failure;
use crate::process::{self, Process, Summary};

/// A job in this one process.
pub(super) fn run(job: &JobArgs) -> Result<ExitCode, Failure> {
    let loaded = load_job(job)?;
    let processes = loaded.config.cluster.processes;
    if processes != 1 {
        return Err(Failure::usage(format!("the job has {processes} processes"))
            .hint("Use `deltajoin cluster`, or add --set cluster.processes=1."));
    }
    start(job, loaded, 0, false, wishes_by_signals()?)
}

/// One process of a job of several.
pub(super) fn worker(
    job: &JobArgs,
    index: usize,
    supervised: bool,
    quiet: bool,
) -> Result<ExitCode, Failure> {
    let loaded = load_job(job)?;
    let (stop, reload) = wishes_by_signals()?;
    if supervised {
        obey_supervisor(&stop, &reload)?;
    }
    start(job, loaded, index, quiet, (stop, reload))
}

fn start(
    job: &JobArgs,
    loaded: Loaded,
    index: usize,
    quiet: bool,
    (stop, reload): (Arc<Stop>, Arc<AtomicBool>),
) -> Result<ExitCode, Failure> {
    let watched = std::io::stderr().is_terminal() && index == 0 && !quiet;
    let until_end = job.until_end;
    if index == 0 {
        for idle in loaded.idle() {
            tracing::warn!("{idle}");
        }
    }
    let summary = process::run(Process {
        memory_limit_place: loaded.place("state", "memory_limit"),
        config: loaded.config,
        index,
        engine: job.engine.into(),
        until_end,
        stop,
        reload,
        fatal,
        progress_line: watched.then_some(say as fn(&str)),
    })?;
    if until_end && index == 0 {
        print(&text(&summary))?;
    }
    Ok(ExitCode::Done)
}

/// The summary as it is printed: one name and number a line, so that programs can read it too.
fn text(summary: &Summary) -> String {
    let Summary { counts, seconds } = summary;
    format!(
        "records       {}\nevents        {}\ndistinct      {}\nduplicates    {}\nunmatched     {}\n\
         dead letters  {}\nlate          {}\nfuture        {}\nconflicts     {}\n\
         late winners  {}\nretracted     {}\nrows out      {}\nmissing       {}\n\
         seconds       {seconds:.3}",
        counts.records,
        counts.events,
        counts.distinct,
        counts.duplicates,
        counts.unmatched,
        counts.dead_letters,
        counts.late,
        counts.future,
        counts.conflicts,
        counts.late_winners,
        counts.retracted,
        counts.rows_out,
        counts.missing_offsets,
    )
}
