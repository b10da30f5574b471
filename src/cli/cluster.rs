//! `deltajoin cluster`: all processes of a job on this host, watched.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::{JobArgs, load, stop_by_signals};
use crate::cluster::supervisor::{Pace, Plan, supervise};
use crate::error::ExitCode;
use crate::failure::Failure;

/// Starts and watches all processes.
pub(super) fn run(job: &JobArgs) -> Result<ExitCode, Failure> {
    let config = load(&job.settings)?.config;
    let stop = stop_by_signals()?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("could not find this program: {error}")))?;
    let command = |index: usize| {
        let mut command = Command::new(&program);
        command.args(["worker", "--supervised", "--process", &index.to_string()]);
        command.arg("--config").arg(&job.settings.config);
        for setting in &job.settings.set {
            command.args(["--set", setting]);
        }
        if let Some(file) = &config.telemetry.status_file
            && index > 0
        {
            let own = status_file_of(file, index);
            let setting = format!("telemetry.status_file={}", own.display());
            command.args(["--set", &setting]);
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
    };
    Ok(supervise(&plan, &stop))
}

/// Where another process than the first tells its state: `status.json` becomes `status.1.json`.
fn status_file_of(file: &Path, process: usize) -> PathBuf {
    let ending = match file.extension() {
        Some(extension) => format!("{process}.{}", extension.display()),
        None => process.to_string(),
    };
    file.with_extension(ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_has_a_status_file_of_its_own() {
        let of = |file: &str| status_file_of(Path::new(file), 2);
        assert_eq!(of("run/status.json"), Path::new("run/status.2.json"));
        assert_eq!(of("run.d/status"), Path::new("run.d/status.2"));
    }
}
