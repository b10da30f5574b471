//! Disks that are full or read-only. Each job here has a small disk of its own, in a namespace of
//! mounts that ends with it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use deltajoin_testkit::{Broker, Job, Signal, wait_until};
use tempfile::TempDir;

use crate::setup::{LIMIT, Setup, quoted};
use crate::topics::{Publisher, Tail, detections, event, values};

/// A job, and a disk that only it sees.
struct SmallDisk {
    job: Job,
    folder: TempDir,
}

impl SmallDisk {
    /// Starts the job; `folder` is where its disk is.
    fn start(setup: &Setup, folder: TempDir, command: &str) -> Self {
        let script = "mount -t tmpfs -o size=512k tmpfs \"$1\" && shift && exec \"$@\"";
        let mut namespace = Command::new("unshare");
        namespace
            .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
            .arg(folder.path());
        let job = setup.within(namespace, command);
        Self { job, folder }
    }

    /// A file on the disk, as it is seen from here.
    fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.job.pid()));
        let folder = self
            .folder
            .path()
            .strip_prefix("/")
            .expect("it is absolute");
        root.join(folder).join(name)
    }

    fn fill(&self) {
        let mut filler = File::create(self.path("filler")).unwrap();
        while filler.write_all(&[0; 512]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.path("filler")).unwrap();
    }

    fn remount(&self, options: &str) {
        let pid = self.job.pid().to_string();
        let status = Command::new("nsenter")
            .args(["--preserve-credentials", "--user", "--mount", "-t", &pid])
            .args(["mount", "-o", &format!("remount,{options}")])
            .arg(self.folder.path())
            .status();
        assert!(status.unwrap().success(), "mounted anew, {options}");
    }

    /// Has it take nothing more: as it is full, or else as it is read-only.
    fn spoil(&self, full: bool) {
        if full {
            self.fill();
        } else {
            self.remount("ro");
        }
    }

    /// Has it take everything again.
    fn mend(&self, full: bool) {
        if full {
            self.empty();
        } else {
            self.remount("rw");
        }
    }

    /// The newest process that the job's supervisor has started.
    fn worker(&self) -> String {
        let said = self.job.stderr();
        let started = said.iter().rfind(|line| line.contains("started a process"));
        let (_, pid) = started.unwrap().split_once("pid=").expect("it names it");
        pid.split_whitespace().next().unwrap().to_owned()
    }

    /// How many lines the job has said that hold `text`.
    fn said(&self, text: &str) -> usize {
        let said = self.job.stderr();
        said.iter().filter(|line| line.contains(text)).count()
    }
}

fn send(publisher: &Publisher<'_>, detection: i64) {
    publisher.send(0, None, Some(&event(detection, 1)));
    publisher.flush();
}

fn location(folder: &Path) -> String {
    quoted(&format!("file://{}", folder.display()))
}

#[test]
fn a_job_goes_on_without_checkpoints_while_their_disk_is_full_or_read_only() {
    const WITHOUT: &str = "the job goes on without checkpoints";
    const MADE: &str = "published a checkpoint";
    let broker = Broker::shared();
    broker.create_topic("small", 1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new(broker, "small")
        .set("checkpoint", "location", location(folder.path()))
        .set("checkpoint", "interval", quoted("200ms"))
        .set("telemetry", "log", quoted("info,deltajoin=debug"));
    let tail = Tail::new(broker, &setup.joined());
    let publisher = Publisher::new(broker, "small");
    let mut disk = SmallDisk::start(&setup, folder, "run");
    let mut detection = 0;
    let mut row = || {
        detection += 1;
        send(&publisher, detection);
        assert_eq!(tail.next_value(LIMIT)["detection_oid"], detection);
    };
    row();
    wait_until("the first checkpoint", LIMIT, || disk.said(MADE) > 0);
    for full in [true, false] {
        let before = disk.said(WITHOUT);
        disk.spoil(full);
        row();
        wait_until("the loss of checkpoints", LIMIT, || {
            disk.said(WITHOUT) > before
        });
        row();
        let before = disk.said(MADE);
        disk.mend(full);
        wait_until("another checkpoint", LIMIT, || disk.said(MADE) > before);
        row();
    }
    disk.job.signal(Signal::Terminate);
    disk.job.wait(LIMIT).assert_code(0);
    let rows = values(broker, &setup.joined());
    assert_eq!(detections(&rows), (1..=detection).collect::<Vec<_>>());
}

#[test]
fn a_process_that_is_killed_while_the_disk_of_checkpoints_is_full_is_restarted_without_them() {
    const WITHOUT: &str = "the job goes on without checkpoints";
    const MADE: &str = "published a checkpoint";
    let (broker, name) = (Broker::shared(), "small-start");
    broker.create_topic(name, 1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let status = folder.path().join("status.json");
    let setup = Setup::new(broker, name)
        .set("checkpoint", "location", location(folder.path()))
        .set("checkpoint", "interval", quoted("200ms"))
        .set("telemetry", "status_file", quoted(status.to_str().unwrap()))
        .set("telemetry", "log", quoted("info,deltajoin=debug"));
    let tail = Tail::new(broker, &setup.joined());
    let publisher = Publisher::new(broker, name);
    let mut disk = SmallDisk::start(&setup, folder, "cluster");
    let mut detection = 0;
    let mut row = || {
        detection += 1;
        send(&publisher, detection);
        assert_eq!(tail.next_value(LIMIT)["detection_oid"], detection);
    };
    row();
    wait_until("the first checkpoint", LIMIT, || disk.said(MADE) > 0);
    for full in [true, false] {
        disk.spoil(full);
        let (started, before) = (disk.said("started a process"), disk.said(WITHOUT));
        crate::stops::signal(&disk.worker(), "KILL");
        wait_until("a restart", LIMIT, || {
            disk.said("started a process") > started
        });
        row();
        wait_until("the loss of checkpoints", LIMIT, || {
            disk.said(WITHOUT) > before
        });
        let before = disk.said(MADE);
        disk.mend(full);
        wait_until("another checkpoint", LIMIT, || disk.said(MADE) > before);
        row();
    }
    disk.job.signal(Signal::Terminate);
    disk.job.wait(LIMIT).assert_code(0);
    let rows = values(broker, &setup.joined());
    assert_eq!(detections(&rows), (1..=detection).collect::<Vec<_>>());
}

#[test]
fn a_file_on_a_full_disk_ends_the_process_and_is_gone_on_with_when_there_is_room() {
    let broker = Broker::shared();
    broker.create_topic("small-file", 1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let setup = Setup::new(broker, "small-file").rows_to(path.to_str().unwrap());
    let publisher = Publisher::new(broker, "small-file");
    let mut disk = SmallDisk::start(&setup, folder, "cluster");
    let rows = disk.path("rows.jsonl");
    let lines = || {
        fs::read_to_string(&rows)
            .unwrap_or_default()
            .lines()
            .count()
    };
    send(&publisher, 1);
    wait_until("the first row", LIMIT, || lines() == 1);
    disk.fill();
    for detection in 2..=2_000 {
        publisher.send(0, None, Some(&event(detection, 1)));
    }
    publisher.flush();
    let line = disk.job.wait_for_line("could not write file", LIMIT);
    assert!(line.contains("rows.jsonl"), "{line}");
    disk.job.wait_for_line("No space left", LIMIT);
    disk.job.wait_for_line("restarting all processes", LIMIT);
    disk.empty();
    wait_until("all rows", LIMIT, || lines() == 2_000);
    let rows = fs::read_to_string(rows).unwrap();
    disk.job.signal(Signal::Terminate);
    disk.job.wait(LIMIT).assert_code(0);
    let rows: Vec<_> = rows
        .lines()
        .map(|line| serde_json::from_str(line).expect("a whole row"))
        .collect();
    assert_eq!(detections(&rows), (1..=2_000).collect::<Vec<_>>());
}
