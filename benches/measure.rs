//! What a program costs: wall time, CPU time and peak memory, its children's included.

use std::process::Command;
use std::time::{Duration, Instant};

use wait4::Wait4;

/// What one run cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    pub(crate) peak_bytes: u64,
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> (Cost, String) {
    let started = Instant::now();
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let mut output = child.stdout.take().expect("it is piped");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut output, &mut text).expect("it writes text");
    let used = child.wait4().expect("it ends");
    assert!(used.status.success(), "{command:?} failed: {}", used.status);
    let cost = Cost {
        wall: started.elapsed(),
        cpu: used.rusage.utime + used.rusage.stime,
        peak_bytes: used.rusage.maxrss,
    };
    (cost, text)
}

/// The machine in a few words.
pub(crate) fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |model| {
        model.trim_start_matches([' ', '\t', ':'])
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    format!("{model}, {cores} cores, load {load}")
}
