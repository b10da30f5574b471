//! Tests of the supervisor's rules, with shell scripts as workers.
//!
//! They are apart from the supervisor because they are longer than it.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::cluster::testing::{PATIENCE, await_that, log_to_stderr, role, role_command};

const FAST: Pace = Pace {
    grace: Duration::from_millis(300),
    pause_min: Duration::from_millis(1),
    pause_max: Duration::from_millis(10),
    window: Duration::from_secs(600),
};

/// A folder in which scripts leave what happened.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs one script a process, each with `$0` its index and `$start` the number of its start.
    fn supervise(&self, scripts: &[&str], restarts: usize, stop: &Stop) -> ExitCode {
        self.supervise_with(scripts, restarts, stop, &AtomicBool::new(false))
    }

    fn supervise_with(
        &self,
        scripts: &[&str],
        restarts: usize,
        stop: &Stop,
        reload: &AtomicBool,
    ) -> ExitCode {
        let command = |process: usize| script(self.folder.path(), scripts[process], process);
        let plan = Plan {
            processes: scripts.len(),
            restarts,
            command: &command,
            pace: FAST,
            reload,
        };
        supervise(&plan, stop)
    }

    fn run(&self, scripts: &[&str]) -> ExitCode {
        self.supervise(scripts, 3, &Stop::default())
    }

    fn starts(&self, process: usize) -> usize {
        fs::read_to_string(self.path(&format!("starts-{process}")))
            .unwrap()
            .lines()
            .count()
    }
}

fn script(folder: &Path, script: &str, process: usize) -> Command {
    let count = "echo $$ >> starts-$0; start=$(wc -l < starts-$0)";
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("{count}; {script}"))
        .arg(process.to_string());
    command.current_dir(folder);
    command
}

/// Waits for the line that asks for a stop.
const OBEDIENT: &str = "read line; test \"$line\" = stop";
/// Ends only when it is killed.
const STUBBORN: &str = "exec sleep 1000";

#[test]
fn all_done_is_done() {
    let scene = Scene::new();
    assert_eq!(scene.run(&["exit 0", "exit 0"]), ExitCode::Done);
    assert_eq!((scene.starts(0), scene.starts(1)), (1, 1));
}

#[test]
fn one_that_is_done_does_not_end_the_others() {
    let scene = Scene::new();
    assert_eq!(scene.run(&["exit 0", "sleep 0.5; exit 0"]), ExitCode::Done);
    assert_eq!(scene.starts(1), 1);
}

#[test]
fn a_wrong_configuration_is_never_restarted() {
    let scene = Scene::new();
    assert_eq!(scene.run(&["exit 2", STUBBORN]), ExitCode::Usage);
    assert_eq!(scene.starts(0), 1);
}

#[test]
fn superseded_wins_over_a_lost_peer_and_is_never_restarted() {
    let scene = Scene::new();
    assert_eq!(
        scene.run(&["exit 3", "sleep 0.1; exit 5"]),
        ExitCode::Superseded
    );
    assert_eq!((scene.starts(0), scene.starts(1)), (1, 1));
}

#[test]
fn a_failed_a_lost_and_a_killed_process_restart_all() {
    for failure in [
        "exit 1",
        "exit 3",
        "exit 101",
        "kill -9 $$",
        "kill -SEGV $$",
    ] {
        let scene = Scene::new();
        let first = format!("test $start -gt 1 || {failure}; exit 0");
        let second = "test $start -gt 1 || exit 3; exit 0";
        assert_eq!(scene.run(&[&first, second]), ExitCode::Done, "{failure}");
        assert_eq!((scene.starts(0), scene.starts(1)), (2, 2), "{failure}");
    }
}

#[test]
fn a_broken_invariant_is_restarted_once() {
    let scene = Scene::new();
    assert_eq!(scene.run(&["exit 4", "exit 3"]), ExitCode::Broken);
    assert_eq!(scene.starts(0), 2);
}

#[test]
fn it_gives_up_after_too_many_restarts() {
    let scene = Scene::new();
    assert_eq!(scene.run(&["exit 3"]), ExitCode::Failed);
    assert_eq!(scene.starts(0), 4);
}

#[test]
fn a_command_that_is_not_there_fails() {
    let command = |_: usize| Command::new("/nowhere/deltajoin");
    let plan = Plan {
        processes: 2,
        restarts: 1,
        command: &command,
        pace: FAST,
        reload: &AtomicBool::new(false),
    };
    assert_eq!(supervise(&plan, &Stop::default()), ExitCode::Failed);
}

#[test]
fn processes_that_do_not_end_by_themselves_are_killed_before_a_restart() {
    let scene = Scene::new();
    let second = "test $start -gt 1 && exit 0; trap '' TERM; exec sleep 1000";
    let first = "sleep 0.1; test $start -gt 1";
    assert_eq!(scene.run(&[first, second]), ExitCode::Done);
    let pids = fs::read_to_string(scene.path("starts-1")).unwrap();
    let first = pids.lines().next().unwrap();
    assert!(
        !Path::new("/proc").join(first).exists(),
        "process {first} lives"
    );
}

#[test]
fn a_stop_is_passed_on_and_all_end_cleanly() {
    let scene = Scene::new();
    let stop = Stop::default();
    let code = thread::scope(|scope| {
        let running = scope.spawn(|| scene.supervise(&[OBEDIENT, OBEDIENT], 3, &stop));
        await_that("both to run", || {
            scene.path("starts-0").exists() && scene.path("starts-1").exists()
        });
        stop.ask();
        running.join().unwrap()
    });
    assert_eq!(code, ExitCode::Done);
    assert_eq!((scene.starts(0), scene.starts(1)), (1, 1));
}

#[test]
fn a_failure_while_stopping_is_told_and_not_restarted() {
    let scene = Scene::new();
    let stop = Stop::default();
    stop.ask();
    let code = scene.supervise(&[OBEDIENT, "read line; exit 1"], 3, &stop);
    assert_eq!(code, ExitCode::Failed);
    assert_eq!(scene.starts(1), 1);
}

#[test]
fn the_first_cause_decides() {
    let cause = |codes: &[ExitCode]| {
        let ended = codes.iter().enumerate();
        let ended: Vec<Cause> = ended
            .map(|(process, code)| Cause {
                words: String::new(),
                process,
                ending: Ending::Code(*code),
            })
            .collect();
        Cause::of(&ended).map(|cause| (cause.process, cause.exit_code()))
    };
    use ExitCode::{Broken, Done, Failed, PeerLost, Superseded, Usage};
    assert_eq!(cause(&[Done, Done]), None);
    assert_eq!(cause(&[PeerLost, Done]), Some((0, PeerLost)));
    assert_eq!(cause(&[PeerLost, Failed, Usage]), Some((1, Failed)));
    assert_eq!(cause(&[Done, Usage, Failed]), Some((1, Usage)));
    assert_eq!(cause(&[PeerLost, Broken]), Some((1, Broken)));
    assert_eq!(
        cause(&[Failed, PeerLost, Superseded]),
        Some((2, Superseded))
    );
}

#[test]
fn a_wish_for_a_reload_is_passed_to_process_0_alone() {
    let scene = Scene::new();
    let other = "read line; echo $line > asked-$0";
    let first = format!("{other}; read line; echo $line >> asked-$0");
    let (stop, reload) = (Stop::default(), AtomicBool::new(true));
    thread::scope(|scope| {
        scope.spawn(|| scene.supervise_with(&[&first, other], 0, &stop, &reload));
        await_that("the wish", || scene.path("asked-0").exists());
        assert!(!reload.load(Ordering::Relaxed));
        stop.ask();
    });
    let asked = |process| fs::read_to_string(scene.path(&format!("asked-{process}"))).unwrap();
    assert_eq!(asked(0), "reload\nstop\n");
    assert_eq!(asked(1), "stop\n");
}

#[test]
fn pauses_double_up_to_the_longest() {
    let pauses = [0, 1, 2, 3, 5, 6, 100].map(|recent| Pace::STANDARD.pause(recent).as_millis());
    assert_eq!(pauses, [0, 500, 1000, 2000, 8000, 10_000, 10_000]);
}

#[test]
fn a_worker_obeys_its_standard_input() {
    let stop = Stop::default();
    let reload = AtomicBool::new(false);
    obey(&b"hello\n"[..], &stop, &reload);
    assert!(!stop.asked() && !reload.load(Ordering::Relaxed));
    obey(&b"reload\n"[..], &stop, &reload);
    assert!(!stop.asked() && reload.load(Ordering::Relaxed));
    obey(&b"stop\nstop\n"[..], &stop, &reload);
    assert!(stop.asked());
    assert_eq!(stop.ask(), 1, "it asks once");
}

const ALONE: &str = "cluster::supervisor::tests::a_process_on_its_own";

/// A process of its own, in several roles.
#[test]
fn a_process_on_its_own() {
    let Some(role) = role() else { return };
    log_to_stderr();
    let folder = PathBuf::from(std::env::var("DELTAJOIN_TEST_FOLDER").unwrap());
    let stop = Arc::new(Stop::default());
    match role.as_str() {
        "supervisor" => {
            let command = |process: usize| match process {
                0 => script(&folder, "cat; touch gone-$0", process),
                _ => {
                    let mut command = role_command(ALONE, "worker");
                    command.env("DELTAJOIN_TEST_FOLDER", &folder);
                    command
                }
            };
            let plan = Plan {
                processes: 2,
                restarts: 0,
                command: &command,
                pace: Pace::STANDARD,
                reload: &AtomicBool::new(false),
            };
            supervise(&plan, &stop);
        }
        "worker" => {
            watch_supervisor(stop, Arc::default()).unwrap();
            fs::write(folder.join("worker"), std::process::id().to_string()).unwrap();
            // Standard error leads to the supervisor: even telling that it is gone fails.
            thread::sleep(PATIENCE * 2);
        }
        _ => {
            crate::cluster::signals::watch_signals(Arc::clone(&stop), None).unwrap();
            fs::write(folder.join("ready"), "").unwrap();
            await_that("a stop", || stop.asked());
            fs::write(folder.join("stopping"), "").unwrap();
            thread::sleep(PATIENCE);
        }
    }
}

fn start(role: &str, scene: &Scene) -> Child {
    let mut command = role_command(ALONE, role);
    command
        .env("DELTAJOIN_TEST_FOLDER", scene.folder.path())
        .spawn()
        .unwrap()
}

#[test]
fn no_process_outlives_a_killed_supervisor() {
    let scene = Scene::new();
    let mut supervisor = start("supervisor", &scene);
    let pid = || fs::read_to_string(scene.path("worker")).unwrap_or_default();
    await_that("both to run", || {
        scene.path("starts-0").exists() && !pid().is_empty()
    });
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    await_that("the script to see it", || scene.path("gone-0").exists());
    let worker = Path::new("/proc").join(pid());
    // An orphan that nobody waits for may stay as a zombie, without a command line.
    let lives = || fs::read(worker.join("cmdline")).is_ok_and(|line| !line.is_empty());
    await_that("the worker to end", || !lives());
}

#[test]
fn the_first_signal_stops_and_the_second_ends_at_once() {
    let scene = Scene::new();
    let mut child = start("signals", &scene);
    let signal = |name: &str| {
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    };
    await_that("it to be ready", || scene.path("ready").exists());
    signal("-TERM");
    await_that("it to stop", || scene.path("stopping").exists());
    thread::sleep(Duration::from_secs(1));
    signal("-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
