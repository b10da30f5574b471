//! A job of several processes on this host, as the tests of this binary need it.

use std::time::Duration;

use deltajoin::telemetry::{State, Status};
use deltajoin_testkit::{Job, free_ports, wait_for};

use crate::case::{CONFIG, Fifo, Folder, LIMIT};

/// Longer than anything that must happen "within seconds", on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// The case's job with as many processes, each with a status file.
pub(crate) fn config(processes: usize) -> String {
    let ports = free_ports(processes);
    let addresses: Vec<String> = ports
        .iter()
        .map(|port| format!("\"127.0.0.1:{port}\""))
        .collect();
    let addresses = addresses.join(", ");
    format!(
        "{CONFIG}\n[cluster]\nprocesses = {processes}\naddresses = [{addresses}]\n\
         secret_file = \"secret\"\npeer_timeout = \"3s\"\n\n\
         [telemetry]\nstatus_file = \"status.json\"\n"
    )
}

/// The address of a process, as its configuration has it.
pub(crate) fn address(folder: &Folder, process: usize) -> String {
    let config = folder.read("job.toml");
    let lists = config.split("addresses = [").nth(1);
    let list = lists.and_then(|rest| rest.split(']').next());
    let address = list.and_then(|list| list.split(", ").nth(process));
    address.expect("a cluster").trim_matches('"').to_owned()
}

/// A folder with a job of this configuration, its secret, a reference table, and a pipe of events
/// that holds the job live.
pub(crate) fn held(config: &str) -> (Folder, Fifo) {
    let folder = Folder::with_config(config);
    folder.write("secret", "not to be guessed\n");
    folder.write(
        "reference.csv",
        "geographical_location_oid,geographical_location\n1,one\n",
    );
    let pipe = Fifo::make(&folder.path("events.jsonl"));
    (folder, pipe)
}

/// Events of the case, from this number on.
pub(crate) fn events(from: u64, count: u64) -> String {
    let event = |oid: u64| {
        format!(
            "{{\"geographical_location_oid\":1,\"video_camera_oid\":1,\"detection_oid\":{oid},\
             \"item_name\":\"bag\",\"timestamp_detected\":1767225600000}}\n"
        )
    };
    (from..from + count).map(event).collect()
}

/// Starts one process of the job by hand.
pub(crate) fn worker(folder: &Folder, process: usize, more: &[&str]) -> Job {
    let process = process.to_string();
    let mut arguments = vec!["worker", "--config", "job.toml", "--process", &process];
    arguments.extend(more);
    folder.start(&arguments)
}

/// What the status file of a process says, if it is there.
pub(crate) fn status(folder: &Folder, process: usize) -> Option<Status> {
    let name = match process {
        0 => "status.json".to_owned(),
        other => format!("status-{other}.json"),
    };
    let text = std::fs::read(folder.path(&name)).ok()?;
    Some(serde_json::from_slice(&text).expect("it is always whole"))
}

/// Waits until all processes of a generation other than `before` are live.
pub(crate) fn live(folder: &Folder, processes: usize, before: u64) -> u64 {
    wait_for("a live job", LIMIT, || {
        let all: Option<Vec<Status>> = (0..processes).map(|p| status(folder, p)).collect();
        let all = all?;
        let first = &all[0];
        let alike = all.iter().all(|one| one.generation == first.generation);
        let live = all.iter().all(|one| one.state == State::Live);
        let good = alike && live && ![0, before].contains(&first.generation);
        good.then_some(first.generation)
    })
}

/// The numbers of the processes that a supervisor runs, by the index of each.
pub(crate) fn workers(job: &Job) -> Vec<(usize, u32)> {
    let mut found: Vec<(usize, u32)> = job
        .members()
        .into_iter()
        .filter_map(|pid| Some((index_of(pid)?, pid)))
        .collect();
    found.sort_unstable();
    found
}

fn index_of(pid: u32) -> Option<usize> {
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = command.split('\0');
    words.find(|word| *word == "--process")?;
    words.next()?.parse().ok()
}

/// Whether a process runs; one that has ended and was not waited for does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

/// Sends a signal to a process that a supervisor started.
pub(crate) fn send(signal: &str, pid: u32) {
    let sent = std::process::Command::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .status();
    assert!(sent.expect("every system has kill").success());
}

/// Tells a figure: `cargo test -- --nocapture` shows it.
#[allow(clippy::print_stdout)]
pub(crate) fn tell(figure: &str) {
    println!("{figure}");
}
