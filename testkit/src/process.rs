//! A process under test: started, signalled, measured, and never left behind.
//!
//! Apart from what is started, because broker, console consumer and `deltajoin` need the same.
//!
//! # Invariants
//! * A process leads a group of its own. When it is dropped the whole group is killed, so what it
//!   has started itself goes as well, unless that made a group of its own.
//! * Signals go by number of process or group, never by name.

use std::fs;
use std::io;
use std::ops::AddAssign;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::reaper;
use crate::wait::wait_for;

/// A signal that tests send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ends it, without asking.
    Kill,
    /// Asks it to end.
    Terminate,
    /// What Ctrl-C sends.
    Interrupt,
    /// What a terminal sends that is closed.
    Hangup,
    /// Freezes it.
    Stop,
    /// Goes on after `Stop`.
    Continue,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::Hangup => "HUP",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// What a process, or several, has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is resident at the moment.
    pub resident_bytes: u64,
    /// The most that ever was.
    pub resident_bytes_max: u64,
    /// Time of CPU, in user and system together.
    pub cpu: Duration,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.resident_bytes += other.resident_bytes;
        self.resident_bytes_max += other.resident_bytes_max;
        self.cpu += other.cpu;
    }
}

/// A process, and all that it starts.
#[derive(Debug)]
pub struct Process {
    child: Child,
    ended: bool,
}

impl Process {
    /// Starts it at the head of a new process group.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        let child = command.process_group(0).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        reaper::kill_at_end(child.id());
        Self {
            child,
            ended: false,
        }
    }

    /// Its number, which is that of its group as well.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process as the standard library knows it: for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends it a signal; does nothing when it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.try_wait().is_none() {
            send(signal, &self.pid().to_string());
        }
    }

    /// Sends a signal to it and to all that it has started.
    pub fn signal_group(&mut self, signal: Signal) {
        if !self.ended {
            send(signal, &format!("-{}", self.pid()));
        }
    }

    /// Kills it and all that it has started, and waits for it.
    pub fn kill(&mut self) {
        if self.ended {
            return;
        }
        self.signal_group(Signal::Kill);
        self.child.wait().expect("a child that was not waited for");
        self.ended();
    }

    /// How it ended, if it has. What it started may go on until `kill` or the drop.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of this process")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it has not ended within `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of process {}", self.pid());
        wait_for(&what, limit, || self.try_wait())
    }

    /// What the process itself has used; nothing once it has ended.
    pub fn usage(&self) -> Usage {
        usage(self.pid()).unwrap_or_default()
    }

    /// What it and all that it has started have used, as far as they are still there.
    pub fn usage_of_group(&self) -> Usage {
        let mut total = Usage::default();
        for member in members(self.pid()) {
            total += usage(member).unwrap_or_default();
        }
        total
    }

    /// The numbers of the group's processes, its leader included.
    pub fn members(&self) -> Vec<u32> {
        members(self.pid())
    }

    fn ended(&mut self) {
        self.ended = true;
        reaper::spare(self.pid());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The shell's own `kill`: the program of that name is not installed everywhere.
fn send(signal: Signal, target: &str) {
    let script = "kill -s \"$1\" -- \"$2\"";
    // It fails when the process has just ended, which is as good.
    let result = Command::new("sh")
        .args(["-c", script, "sh", signal.name(), target])
        .stderr(Stdio::null())
        .status();
    result.expect("every system has a shell");
}

/// The fields of `/proc/<pid>/stat` behind the program's name, which may hold anything.
fn stat(pid: u32) -> io::Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn members(group: u32) -> Vec<u32> {
    let group = group.to_string();
    let entries = fs::read_dir("/proc").expect("Linux has /proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // The third of the fields behind the name is the group.
    pids.filter(|&pid| stat(pid).is_ok_and(|fields| fields[2] == group))
        .collect()
}

fn usage(pid: u32) -> Option<Usage> {
    /// `/proc` counts CPU in hundredths of a second on every platform of Linux.
    const TICK: Duration = Duration::from_millis(10);
    let fields = stat(pid).ok()?;
    let ticks: u32 = fields[11..13]
        .iter()
        .filter_map(|field| field.parse::<u32>().ok())
        .sum();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Usage {
        resident_bytes: kilobytes("VmRSS:")? * 1024,
        resident_bytes_max: kilobytes("VmHWM:")? * 1024,
        cpu: TICK * ticks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn is_alive(pid: u32) -> bool {
        stat(pid).is_ok_and(|fields| fields[0] != "Z")
    }

    fn shell(script: &str) -> Process {
        Process::spawn(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn a_dropped_process_takes_along_what_it_started() {
        let process = shell("sleep 1000 & sleep 1000 & wait");
        let members = wait_for("three members", LIMIT, || {
            let members = process.members();
            (members.len() == 3).then_some(members)
        });
        drop(process);
        for pid in members {
            crate::wait_until("the end of a member", LIMIT, || !is_alive(pid));
        }
    }

    #[test]
    fn what_outlives_its_starter_is_killed_all_the_same() {
        let mut process = shell("sleep 1000 & exit 7");
        assert_eq!(process.wait(LIMIT).code(), Some(7));
        let members: Vec<u32> = process
            .members()
            .into_iter()
            .filter(|&pid| is_alive(pid))
            .collect();
        assert_eq!(members.len(), 1);
        drop(process);
        crate::wait_until("the end of the rest", LIMIT, || !is_alive(members[0]));
    }

    #[test]
    fn a_stopped_process_goes_on_when_continued() {
        let mut process = shell("while :; do :; done");
        let state = |process: &Process| stat(process.pid()).unwrap()[0].clone();
        process.signal(Signal::Stop);
        crate::wait_until("a stop", LIMIT, || state(&process) == "T");
        let stopped_at = process.usage().cpu;
        process.signal(Signal::Continue);
        crate::wait_until("more CPU", LIMIT, || process.usage().cpu > stopped_at);
        assert!(process.usage().resident_bytes > 100_000);
        assert!(process.usage_of_group().resident_bytes_max >= process.usage().resident_bytes);
    }
}
