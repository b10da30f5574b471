//! Starts all processes of a job on this host, watches them, and restarts them together.
//!
//! A timely cluster lives and dies as one, so the supervisor knows sets only: it starts all, and
//! when one fails the others get a moment to end by themselves, are then killed, and are waited
//! for, before all start again. It is apart from the commands so that it can be tested with
//! shell scripts in the place of workers.
//!
//! # Invariants
//! * The first cause decides. A process that lost a peer is never the cause if another one is.
//! * No process of an old set runs when a new set starts.
//! * No process outlives the supervisor, however that ends: each holds a socket as its standard
//!   input, and ends when the socket closes.
//! * A failure that another start cannot heal is never restarted.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;

use crate::error::ExitCode;

/// The line by which the supervisor asks a process to stop cleanly.
const STOP_LINE: &str = "stop";
/// The line by which it asks process 0 to look at the reference file.
const RELOAD_LINE: &str = "reload";
/// How often processes are looked at: short beside any restart, and next to no CPU time.
const TURN: Duration = Duration::from_millis(20);
/// So much of a process's last words is repeated.
const WORDS_BYTES_MAX: u64 = 4 << 10;

/// Whether standard input of this process is held by a supervisor.
static SUPERVISED: AtomicBool = AtomicBool::new(false);

/// What is run, and how patiently.
pub struct Plan<'a> {
    /// How many processes there are.
    pub processes: usize,
    /// Restarts within `Pace::window` before the supervisor gives up.
    pub restarts: usize,
    /// The command of each process; standard input is set by the supervisor.
    pub command: &'a dyn Fn(usize) -> Command,
    /// How patiently.
    pub pace: Pace,
    /// Set when process 0 must look at the reference file.
    pub reload: &'a AtomicBool,
}

/// Durations of the supervisor; tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long processes may take to end by themselves when one has failed.
    pub grace: Duration,
    /// The pause before the second restart in a row; it doubles. The first has none.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// Restarts longer ago than this do not count.
    pub window: Duration,
}

impl Pace {
    /// What a job runs with. A live peer notices a dead one within milliseconds; three seconds
    /// let it finish a look at the binding log before it says that it is superseded.
    pub const STANDARD: Self = Self {
        grace: Duration::from_secs(3),
        pause_min: Duration::from_millis(500),
        pause_max: Duration::from_secs(10),
        window: Duration::from_secs(600),
    };

    fn pause(&self, recent: usize) -> Duration {
        let Some(doublings) = recent.checked_sub(1) else {
            return Duration::ZERO;
        };
        let doublings = u32::try_from(doublings).unwrap_or(u32::MAX);
        let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
        self.pause_min.saturating_mul(factor).min(self.pause_max)
    }
}

/// Runs the job until it is done, cannot go on, or is stopped; returns how to end.
///
/// A stop asked for by `stop` is passed on to all processes.
pub fn supervise(plan: &Plan<'_>, stop: &Stop) -> ExitCode {
    let mut restarts: VecDeque<Instant> = VecDeque::new();
    let mut broke_before = false;
    loop {
        let Some(cause) = run_set(plan, stop) else {
            return ExitCode::Done;
        };
        let exit_code = cause.exit_code();
        restarts.retain(|at| at.elapsed() < plan.pace.window);
        let refusal = match exit_code {
            _ if stop.asked() => Some("a stop was asked for"),
            ExitCode::Usage | ExitCode::Superseded => Some("another start would end alike"),
            ExitCode::Broken if broke_before => Some("it broke again after a restart"),
            _ => None,
        };
        if let Some(refusal) = refusal {
            tracing::error!(%cause, "not restarted: {refusal}");
            return exit_code;
        }
        if restarts.len() >= plan.restarts {
            let restarts = restarts.len();
            let window = plan.pace.window;
            tracing::error!(%cause, restarts, "gave up after too many restarts within {window:?}");
            return ExitCode::Failed;
        }
        broke_before |= exit_code == ExitCode::Broken;
        let pause = plan.pace.pause(restarts.len());
        restarts.push_back(Instant::now());
        tracing::warn!(%cause, restart = restarts.len(), ?pause, "restarting all processes");
        if !wait(pause, stop) {
            return exit_code;
        }
    }
}

/// Waits; false if a stop is asked for meanwhile.
fn wait(pause: Duration, stop: &Stop) -> bool {
    let since = Instant::now();
    while since.elapsed() < pause && !stop.asked() {
        thread::sleep(TURN.min(pause));
    }
    !stop.asked()
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// With an exit code of ours.
    Code(ExitCode),
    /// With any other exit code.
    Foreign(i32),
    /// By a signal.
    Signal(i32),
    /// It could not be started or watched.
    Unknown,
}

impl Ending {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => ExitCode::from_number(code).map_or(Self::Foreign(code), Self::Code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }

    fn exit_code(self) -> ExitCode {
        match self {
            Self::Code(code) => code,
            Self::Foreign(_) | Self::Signal(_) | Self::Unknown => ExitCode::Failed,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Foreign(code) => write!(formatter, "exit code {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
            Self::Unknown => formatter.write_str("could not be run"),
        }
    }
}

/// The process whose end ended the set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cause {
    process: usize,
    ending: Ending,
    /// What it said of that, in one line.
    words: String,
}

impl Cause {
    fn exit_code(&self) -> ExitCode {
        self.ending.exit_code()
    }

    /// The cause among the processes that ended by themselves, in the order in which they did.
    fn of(ended: &[Self]) -> Option<Self> {
        let by = |wanted: fn(ExitCode) -> bool| {
            ended
                .iter()
                .find(|cause| wanted(cause.exit_code()))
                .cloned()
        };
        by(|code| code == ExitCode::Superseded)
            .or_else(|| by(|code| !matches!(code, ExitCode::Done | ExitCode::PeerLost)))
            .or_else(|| by(|code| code == ExitCode::PeerLost))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "process {}: {}", self.process, self.ending)?;
        match &*self.words {
            "" => Ok(()),
            words => write!(formatter, ": {words}"),
        }
    }
}

/// One process of a set.
struct Running {
    process: usize,
    child: Child,
    /// The other end of its standard input.
    line: UnixStream,
}

impl Running {
    fn start(process: usize, mut command: Command) -> io::Result<Self> {
        let (line, input) = UnixStream::pair()?;
        // What a process has said is there when it has ended.
        line.set_nonblocking(true)?;
        let child = command.stdin(OwnedFd::from(input)).spawn()?;
        Ok(Self {
            process,
            child,
            line,
        })
    }

    /// What it said last, in one line.
    fn words(&self) -> String {
        let mut words = Vec::new();
        // More than is there would only block.
        drop((&self.line).take(WORDS_BYTES_MAX).read_to_end(&mut words));
        let words = String::from_utf8_lossy(&words);
        let words: Vec<&str> = words.lines().map(str::trim).collect();
        words.join("; ")
    }

    /// How it ended, if it has.
    fn ending(&mut self) -> Option<Ending> {
        match self.child.try_wait() {
            Ok(status) => status.map(Ending::of),
            Err(error) => {
                tracing::error!(process = self.process, %error, "could not watch a process");
                Some(Ending::Unknown)
            }
        }
    }

    /// Asks it for something.
    fn ask(&mut self, line: &str) {
        if let Err(error) = writeln!(self.line, "{line}") {
            tracing::debug!(process = self.process, line, %error, "could not ask a process");
        }
    }

    /// Kills it and waits until it is gone.
    fn kill(&mut self) {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        let pid = self.child.id();
        match killed {
            Ok(_) => tracing::warn!(process = self.process, pid, "killed a process"),
            Err(error) => {
                tracing::error!(process = self.process, pid, %error, "could not kill a process");
            }
        }
    }
}

/// Runs one set to its end; returns what ended it, or nothing if all were done.
fn run_set(plan: &Plan<'_>, stop: &Stop) -> Option<Cause> {
    let mut ended: Vec<Cause> = Vec::new();
    let mut running: Vec<Running> = Vec::new();
    for process in 0..plan.processes {
        match Running::start(process, (plan.command)(process)) {
            Ok(started) => {
                tracing::info!(process, pid = started.child.id(), "started a process");
                running.push(started);
            }
            Err(error) => {
                tracing::error!(process, %error, "could not start a process");
                ended.push(Cause {
                    process,
                    ending: Ending::Unknown,
                    words: error.to_string(),
                });
                break;
            }
        }
    }
    let mut failed_at = (!ended.is_empty()).then(Instant::now);
    let mut asked = false;
    while !running.is_empty() {
        if stop.asked() && !asked {
            asked = true;
            running.iter_mut().for_each(|one| one.ask(STOP_LINE));
        }
        if plan.reload.swap(false, Ordering::Relaxed) {
            let first = running.iter_mut().filter(|one| one.process == 0);
            first.for_each(|one| one.ask(RELOAD_LINE));
        }
        running.retain_mut(|one| {
            let Some(ending) = one.ending() else {
                return true;
            };
            let (process, pid) = (one.process, one.child.id());
            tracing::info!(process, pid, %ending, "a process ended");
            let words = one.words();
            ended.push(Cause {
                process,
                ending,
                words,
            });
            false
        });
        if failed_at.is_none() && Cause::of(&ended).is_some() {
            failed_at = Some(Instant::now());
        }
        if failed_at.is_some_and(|at| at.elapsed() >= plan.pace.grace) {
            running.iter_mut().for_each(Running::kill);
            break;
        }
        thread::sleep(TURN);
    }
    Cause::of(&ended)
}

/// The process's side: watches standard input for the supervisor's wishes, on a thread of its own.
/// A stop is asked for by `stop`, a look at the reference file by `reload`; when the supervisor is
/// gone, the process ends at once.
///
/// Must only be called in a process that a supervisor started.
///
/// # Errors
/// If no thread can be started.
pub fn watch_supervisor(stop: Arc<Stop>, reload: Arc<AtomicBool>) -> io::Result<JoinHandle<()>> {
    SUPERVISED.store(true, Ordering::Relaxed);
    thread::Builder::new()
        .name("supervisor".to_owned())
        .spawn(move || {
            obey(io::stdin().lock(), &stop, &reload);
            ExitCode::Failed.end_after(|| tracing::error!("the supervisor is gone"));
        })
}

/// Tells the supervisor, if there is one, why this process is about to end: it repeats that when it
/// gives up.
pub fn tell(words: &str) {
    if !SUPERVISED.load(Ordering::Relaxed) {
        return;
    }
    let line = io::stdin().as_fd().try_clone_to_owned();
    let told = line.and_then(|line| UnixStream::from(line).write_all(words.as_bytes()));
    if let Err(error) = told {
        tracing::debug!(%error, "could not tell the supervisor");
    }
}

/// Does what the lines say, until there are no more.
fn obey(lines: impl BufRead, stop: &Stop, reload: &AtomicBool) {
    for line in lines.lines().map_while(Result::ok) {
        // A signal may have asked already.
        if line == STOP_LINE && !stop.asked() {
            stop.ask();
        }
        if line == RELOAD_LINE {
            reload.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
