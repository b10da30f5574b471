//! The `deltajoin` binary as a process under test.
//!
//! Apart from `process`, because tests read what it says: its lines are kept as they come, so
//! that a test can wait for one, and sees all of them when it fails.
//!
//! # Invariants
//! * It runs in a folder that the caller owns, so relative paths of a configuration lie there.
//! * Its output never fills a pipe: threads read it all the time.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process::{Process, Signal, Usage};

/// Lines of text that another thread adds to.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the lines of `pipe` until it is closed.
    fn follow(&self, pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line);
                lines.lock().push(text.trim_end_matches('\n').to_owned());
                lines.0.1.notify_all();
                line.clear();
            }
        })
    }
}

/// How a process ended, and what it said.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// The lines of its standard output.
    pub stdout: Vec<String>,
    /// The lines of its standard error.
    pub stderr: Vec<String>,
}

impl Outcome {
    /// Its exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Fails the test, and shows what the process said, unless it ended with this code.
    ///
    /// # Panics
    /// If it ended otherwise.
    pub fn assert_code(&self, code: i32) {
        let said = self.stderr.join("\n");
        assert_eq!(self.code(), Some(code), "{}; it said:\n{said}", self.status);
    }
}

/// A running `deltajoin`.
#[derive(Debug)]
pub struct Job {
    process: Process,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Job {
    /// Writes `config` to `job.toml` in the folder and starts the binary there, for example with
    /// the arguments `["run", "--config", "job.toml"]`.
    ///
    /// Its environment is the test's, without the variables that would change a configuration.
    ///
    /// # Panics
    /// If the file cannot be written or the binary not started.
    pub fn spawn(
        binary: impl AsRef<Path>,
        folder: &Path,
        config: &str,
        arguments: &[&str],
    ) -> Self {
        fs::write(folder.join("job.toml"), config).expect("the folder can be written to");
        let mut command = Command::new(binary.as_ref());
        command.args(arguments).current_dir(folder);
        Self::spawn_command(&mut command)
    }

    /// Starts a command that the caller has put together.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_command(command: &mut Command) -> Self {
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"DELTAJOIN_") {
                command.env_remove(name);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::spawn(command);
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let child = process.child();
        let readers = vec![
            stdout.follow(child.stdout.take().expect("its output is a pipe")),
            stderr.follow(child.stderr.take().expect("its errors are a pipe")),
        ];
        Self {
            process,
            stdout,
            stderr,
            readers,
        }
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The numbers of its process and of those that it has started.
    pub fn members(&self) -> Vec<u32> {
        self.process.members()
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it and all that it has started.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().is_none()
    }

    /// What it and all that it has started use and have used.
    pub fn usage(&self) -> Usage {
        self.process.usage_of_group()
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().clone()
    }

    /// What it has said on standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lock().clone()
    }

    /// Waits for a line of standard error that holds `text`, and returns the first one.
    ///
    /// # Panics
    /// If none comes within `limit`.
    pub fn wait_for_line(&self, text: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        let mut lines = self.stderr.lock();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // What it said is told when it is dropped, which needs the lines.
                drop(lines);
                panic!("waited {limit:?} in vain for {text:?}");
            }
            let waited = self.stderr.0.1.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it has not ended within `limit`.
    pub fn wait(mut self, limit: Duration) -> Outcome {
        let deadline = Instant::now() + limit;
        let status = loop {
            match self.process.try_wait() {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    panic!("waited {limit:?} in vain for the end of the job");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        // What it has started may hold the pipes open: it ends here, and so do the readers.
        self.process.kill();
        for reader in self.readers.drain(..) {
            reader.join().expect("the thread only reads");
        }
        Outcome {
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

/// A test that fails while it runs shows what it said.
impl Drop for Job {
    #[expect(clippy::print_stderr, reason = "this is where a test's own words go")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the job said:\n{}", self.stderr().join("\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn shell(folder: &Path, script: &str) -> Job {
        Job::spawn("/bin/sh", folder, "job = \"x\"\n", &["-c", script])
    }

    #[test]
    fn lines_and_exit_code_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let job = shell(
            folder.path(),
            "cat job.toml; echo ready >&2; echo end >&2; exit 3",
        );
        assert_eq!(job.wait_for_line("read", LIMIT), "ready");
        let outcome = job.wait(LIMIT);
        outcome.assert_code(3);
        assert_eq!(outcome.stdout, ["job = \"x\""]);
        assert_eq!(outcome.stderr, ["ready", "end"]);
    }

    #[test]
    fn a_wait_ends_although_something_it_started_holds_its_output() {
        let folder = tempfile::tempdir().unwrap();
        let job = shell(folder.path(), "sleep 1000 & exit 0");
        job.wait(LIMIT).assert_code(0);
    }
}
