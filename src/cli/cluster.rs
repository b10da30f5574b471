//! `deltajoin cluster`: all processes of a job on this host, watched.

use std::process::Command;

use crate::cli::{JobArgs, load_job, wishes_by_signals};
use crate::cluster::supervisor::{Pace, Plan, supervise};
use crate::error::ExitCode;
use crate::failure::Failure;

/// Starts and watches all processes.
pub(super) fn run(job: &JobArgs) -> Result<ExitCode, Failure> {
    let config = load_job(job)?.config;
    let (stop, reload) = wishes_by_signals()?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("could not find this program: {error}")))?;
    let command = |index: usize| {
        let mut command = Command::new(&program);
        command.args(["worker", "--supervised", "--process", &index.to_string()]);
        command.arg("--config").arg(&job.settings.config);
        for setting in &job.settings.set {
            command.args(["--set", setting]);
        }
        if job.until_end {
            command.arg("--until-end");
        }
        if job.engine == crate::cli::EngineArg::Textbook {
            command.args(["--engine", "textbook"]);
        }
        command
    };
    let plan = Plan {
        processes: config.cluster.processes,
        restarts: config.cluster.restarts,
        command: &command,
        pace: Pace::STANDARD,
        reload: &reload,
    };
    Ok(supervise(&plan, &stop))
}
