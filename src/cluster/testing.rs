//! What the tests of this folder share: members on loopback, what they log, and this test binary
//! as a process of its own.
//!
//! It is apart because a start has several members and each test needs some.
//!
//! # Invariants
//! * Every wait has a deadline, after which the test fails and says for what it waited.

use std::io;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;

use crate::cluster::membership::{Error, Membership, Mesh};
use crate::cluster::transport::{connect_from, draw_generation};
use crate::cluster::work::{Task, Verdict};

/// Longer than anything here takes, also on a machine with much else to do.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What one thread or process has logged.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub(super) fn await_text(&self, wanted: &str) {
        await_that(&format!("{wanted:?} in the log"), || {
            self.text().contains(wanted)
        });
    }

    /// Runs with this log in the place of the process's.
    pub(super) fn within<T>(&self, run: impl FnOnce() -> T) -> T {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, run)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "waited too long for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Listens on a port below those that the kernel gives to connecting sockets, so that it can be
/// left and taken again.
pub(super) fn listener() -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let offset = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from(offset % 12_000).unwrap();
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => panic!("cannot listen on port {port}: {error}"),
        }
    }
}

/// Members of one cluster with sockets that listen already.
pub(super) fn members(processes: usize) -> Vec<(Membership, TcpListener)> {
    let listeners: Vec<TcpListener> = (0..processes)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses: Vec<String> = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().to_string())
        .collect();
    let member = |index| Membership {
        index,
        ..member(addresses.clone())
    };
    listeners
        .into_iter()
        .enumerate()
        .map(|(index, one)| (member(index), one))
        .collect()
}

/// Process 0 of a cluster at these addresses.
pub(super) fn member(addresses: Vec<String>) -> Membership {
    Membership {
        job: "orders".to_owned(),
        processes: addresses.len(),
        threads: 1,
        index: 0,
        addresses,
        secret: b"secret".to_vec(),
        build: "0.1.0".to_owned(),
        settings: [7; 32],
        peer_timeout: PATIENCE,
    }
}

/// A member on its way into the mesh, on a thread of its own.
pub(super) struct Joining {
    pub(super) stop: Arc<Stop>,
    pub(super) log: Log,
    outcome: Receiver<Result<Mesh, Error>>,
}

impl Joining {
    pub(super) fn start(member: (Membership, TcpListener)) -> Self {
        Self::with_tasks(member, |_| Verdict::Good)
    }

    /// A member that does these tasks.
    pub(super) fn with_tasks(
        (member, listener): (Membership, TcpListener),
        mut tasks: impl FnMut(Task) -> Verdict + Send + 'static,
    ) -> Self {
        let (stop, log) = (Arc::new(Stop::default()), Log::default());
        let (sender, outcome) = channel();
        let (its_stop, its_log) = (Arc::clone(&stop), log.clone());
        thread::spawn(move || {
            let mesh = its_log.within(|| {
                let drawn = draw_generation();
                connect_from(&member, listener, drawn, &mut tasks, &its_stop)
            });
            sender.send(mesh)
        });
        Self { stop, log, outcome }
    }

    pub(super) fn outcome(self) -> Result<Mesh, Error> {
        let outcome = self.outcome.recv_timeout(PATIENCE);
        outcome
            .unwrap_or_else(|_| panic!("it neither joined nor failed; log:\n{}", self.log.text()))
    }
}

/// This test binary with only `test` to run, in the role named by `DELTAJOIN_TEST_ROLE`. The same
/// test without a role does nothing.
pub(super) fn role_command(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command
        .env("DELTAJOIN_TEST_ROLE", role)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(super) fn role() -> Option<String> {
    std::env::var("DELTAJOIN_TEST_ROLE").ok()
}

/// Logs of a process in a role go to its standard error.
pub(super) fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
}
