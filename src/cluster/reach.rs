//! Reaches one lower process: resolves, connects, introduces itself, again and again until it is
//! taken in.
//!
//! It is a thread of its own because looking up a name and connecting block, and a peer that
//! cannot be reached must not keep others waiting.
//!
//! # Invariants
//! * One attempt at a time, each with a deadline; between two there is a pause.
//! * A refusal that another attempt cannot heal is handed over, not repeated.
//! * When the start is over, the thread ends within one attempt.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use crate::cluster::handshake::{Refusal, introduce};
use crate::cluster::membership::Membership;

/// How long the operating system may try to connect; a lost packet is sent again after one second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause after the first attempt; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause: a peer that comes is found within it.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What a reach has come to: a socket and the generation given with it, or why there is no hope.
pub(super) type Reached = (usize, Result<(TcpStream, u64), Refusal>);

/// A thread that reaches one lower process whenever it is asked to.
pub(super) struct Reach {
    requests: SyncSender<u64>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    /// Why the last attempt failed.
    trouble: Mutex<String>,
}

impl Reach {
    /// Starts the thread; what it comes to goes to `reached`.
    pub(super) fn start(
        member: Arc<Membership>,
        to: usize,
        reached: SyncSender<Reached>,
    ) -> io::Result<Self> {
        // One request is open at a time.
        let (requests, requested) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        let thread_shared = Arc::clone(&shared);
        thread::Builder::new()
            .name(format!("reach-{to}"))
            .spawn(move || run(&member, to, &requested, &reached, &thread_shared))?;
        Ok(Self { requests, shared })
    }

    /// Asks for a connection under this generation.
    pub(super) fn request(&self, generation: u64) {
        let asked = self.requests.try_send(generation);
        debug_assert!(
            asked.is_ok(),
            "one request is open at a time, and the thread lives"
        );
    }

    /// Why the peer is not reached yet.
    pub(super) fn trouble(&self) -> String {
        self.shared
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

fn run(
    member: &Membership,
    to: usize,
    requested: &Receiver<u64>,
    reached: &SyncSender<Reached>,
    shared: &Shared,
) {
    while let Ok(generation) = requested.recv() {
        let mut pause = PAUSE_MIN;
        let outcome = loop {
            if shared.ended.load(Ordering::Relaxed) {
                return;
            }
            match attempt(member, to, generation) {
                Ok(socket) => break Ok(socket),
                Err(Trouble::Refused(refusal)) if refusal.reason.is_final() => break Err(refusal),
                Err(trouble) => {
                    tracing::debug!(peer = member.name(to), %trouble, "could not connect");
                    let mut last = shared
                        .trouble
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    *last = trouble.to_string();
                }
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        };
        // Nobody hears it when the start is over; then the socket is closed here.
        if reached.send((to, outcome)).is_err() {
            return;
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Refused(Refusal),
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn attempt(member: &Membership, to: usize, generation: u64) -> Result<(TcpStream, u64), Trouble> {
    let mut trouble = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let addresses: Vec<SocketAddr> = member.addresses[to].to_socket_addrs()?.collect();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            // To a free port of this host, the kernel may connect a socket with itself.
            Ok(stream) if stream.local_addr()? == address => {
                trouble = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(mut stream) => {
                stream.set_nodelay(true)?;
                let given = introduce(&mut stream, member, to, generation);
                return given.map(|given| (stream, given)).map_err(Trouble::Refused);
            }
            Err(error) => trouble = error,
        }
    }
    Err(trouble.into())
}
