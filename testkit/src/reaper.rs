//! Ends what the test process leaves behind, when it ends in whatever way.
//!
//! `Drop` is not enough: statics are never dropped, and a killed or aborted test process drops
//! nothing. The reaper is a shell that reads from a pipe which only the test process holds: at
//! its end, the reaper kills the process groups and removes the folders that it was told of.
//!
//! # Invariants
//! * One reaper for each test process, in a process group of its own, so that an interrupt at the
//!   terminal does not end it before its work.
//! * It kills only groups that this process has started and not yet seen end.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// `kill G`, `spare G`, `remove FOLDER`, `keep FOLDER`: one a line. A process that is being killed
/// may still write for a moment, hence the second try at its folder.
const SCRIPT: &str = r#"
groups=
while IFS= read -r line; do
    word=${line#* }
    case $line in
    kill*) groups="$groups $word" ;;
    spare*)
        rest=
        for group in $groups; do [ "$group" = "$word" ] || rest="$rest $group"; done
        groups=$rest ;;
    remove*) set -- "$@" "$word" ;;
    keep*)
        for folder; do shift; [ "$folder" = "$word" ] || set -- "$@" "$folder"; done ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
[ $# -eq 0 ] || rm -rf -- "$@" 2>/dev/null || { sleep 1; rm -rf -- "$@"; }
"#;

static REAPER: OnceLock<Mutex<Child>> = OnceLock::new();

fn start() -> Child {
    Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("every system has a shell")
}

fn tell(line: &str) {
    let reaper = REAPER.get_or_init(|| Mutex::new(start()));
    let mut reaper = reaper.lock().unwrap_or_else(PoisonError::into_inner);
    let pipe = reaper.stdin.as_mut().expect("its input is a pipe");
    writeln!(pipe, "{line}").expect("the reaper reads until this process ends");
}

/// Has the process group killed at the end of this process.
pub(crate) fn kill_at_end(group: u32) {
    tell(&format!("kill {group}"));
}

/// Takes `kill_at_end` back: the group has ended, and its number may be used again.
pub(crate) fn spare(group: u32) {
    tell(&format!("spare {group}"));
}

/// Has the folder removed at the end of this process.
pub(crate) fn remove_at_end(folder: &Path) {
    tell(&format!("remove {}", folder.display()));
}

/// Takes `remove_at_end` back.
pub(crate) fn keep(folder: &Path) {
    tell(&format!("keep {}", folder.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap()
    }

    #[test]
    fn at_its_end_it_kills_and_removes_what_it_was_told_and_nothing_else() {
        let (mut victim, mut spared) = (sleeper(), sleeper());
        let (removed, kept) = (
            tempfile::tempdir().unwrap().keep(),
            tempfile::tempdir().unwrap(),
        );
        let mut reaper = start();
        let mut pipe = reaper.stdin.take().unwrap();
        for child in [&spared, &victim] {
            writeln!(pipe, "kill {}", child.id()).unwrap();
        }
        writeln!(pipe, "spare {}", spared.id()).unwrap();
        for folder in [&removed, kept.path()] {
            writeln!(pipe, "remove {}", folder.display()).unwrap();
        }
        writeln!(pipe, "keep {}", kept.path().display()).unwrap();
        drop(pipe);
        victim.wait().unwrap();
        reaper.wait().unwrap();
        crate::wait_until("the removal", std::time::Duration::from_secs(10), || {
            !removed.exists()
        });
        assert!(kept.path().exists());
        assert_eq!(spared.try_wait().unwrap(), None);
        spared.kill().unwrap();
        spared.wait().unwrap();
    }
}
