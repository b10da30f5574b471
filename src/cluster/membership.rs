//! Who a process is among its peers, what connecting yields, and how it fails.
//!
//! It is apart from the transport because both the handshake and the transport speak in these
//! terms, and because callers need nothing else.
//!
//! # Invariants
//! * The secret is never printed and never travels.
//! * Every error says with which exit code the process must end.

use std::net::TcpStream;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::ExitCode;

/// The longest job name and build id: each travels behind one byte of length.
const TEXT_BYTES_MAX: usize = 255;
/// How often a process shows its peers at least that it is there: next to no traffic.
const BEAT_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// One process's view of its cluster. It has no `Debug`: it holds the secret.
#[derive(Clone)]
pub struct Membership {
    /// The job's name.
    pub job: String,
    /// How many processes run the job.
    pub processes: usize,
    /// Workers in each of them.
    pub threads: usize,
    /// Which of the processes this one is.
    pub index: usize,
    /// `host:port` of each process.
    pub addresses: Vec<String>,
    /// What proves membership; each process must have the same.
    pub secret: Vec<u8>,
    /// Names the build: processes of different builds do not form a cluster.
    pub build: String,
    /// Stands for all settings that must be equal in all processes; see `settings_digest`.
    pub settings: [u8; 32],
    /// How long a peer may be silent before it counts as lost.
    pub peer_timeout: Duration,
}

impl Membership {
    /// How often a process shows that it is there: a beat or two may come late.
    pub(super) fn beat_interval(&self) -> Duration {
        (self.peer_timeout / 4).min(BEAT_INTERVAL_MAX)
    }

    /// A peer as messages name it.
    pub(super) fn name(&self, index: usize) -> String {
        format!("process {index} ({})", self.addresses[index])
    }

    /// Refuses what cannot become a cluster.
    pub(super) fn check(&self) -> Result<(), Error> {
        let fault = if self.processes == 0 || self.threads == 0 {
            "a cluster needs at least one process and one thread"
        } else if self.index >= self.processes {
            "the process index must be less than the number of processes"
        } else if self.processes == 1 {
            return Ok(());
        } else if self.addresses.len() != self.processes {
            "there must be one address for each process"
        } else if self.secret.is_empty() {
            "the secret is empty, and several processes need one: see cluster.secret_file"
        } else if self.job.len() > TEXT_BYTES_MAX || self.build.len() > TEXT_BYTES_MAX {
            "the job's name and the build id must have at most 255 bytes"
        } else if self.peer_timeout.is_zero() {
            "the peer time-out must not be zero"
        } else {
            return Ok(());
        };
        Err(Error::Membership(fault))
    }
}

/// The digest of settings written as text; equal texts have equal digests.
pub fn settings_digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The connected processes.
#[derive(Debug)]
pub struct Mesh {
    /// A socket to each peer; none at this process's own place.
    pub sockets: Vec<Option<TcpStream>>,
    /// The same number in all processes of this start, and another one at each start.
    pub generation: u64,
}

/// Why a process could not join its peers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The membership contradicts itself.
    #[error("cannot form a cluster: {0}")]
    Membership(&'static str),
    /// The own address cannot be listened on.
    #[error("could not listen on {address:?} for process {index}")]
    Listen {
        /// The address as configured.
        address: String,
        /// This process.
        index: usize,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A peer will never take this process as it is, or this process that peer.
    #[error("{peer} refused this process: {reason}")]
    Refused {
        /// The peer and its address.
        peer: String,
        /// In the peer's words.
        reason: String,
    },
    /// A peer that had joined was lost before the start was complete.
    #[error("lost {peer} during the start: {reason}")]
    PeerLost {
        /// The peer and its address.
        peer: String,
        /// How it was noticed.
        reason: String,
    },
    /// A stop was asked for.
    #[error("stopped while waiting for peers")]
    Stopped,
    /// A socket or thread could not be had.
    #[error("could not set up the connections of the cluster")]
    Setup(#[from] std::io::Error),
}

impl Error {
    /// How the process must end.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Membership(_) | Self::Refused { .. } => ExitCode::Usage,
            Self::Listen { source, .. } => match source.kind() {
                std::io::ErrorKind::AddrNotAvailable
                | std::io::ErrorKind::InvalidInput
                | std::io::ErrorKind::PermissionDenied => ExitCode::Usage,
                // An old process may still be ending, a name may not be known yet.
                _ => ExitCode::Failed,
            },
            Self::PeerLost { .. } => ExitCode::PeerLost,
            Self::Stopped => ExitCode::Done,
            Self::Setup(_) => ExitCode::Failed,
        }
    }

    /// What the reader may try.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { source, .. } => match source.kind() {
                std::io::ErrorKind::AddrInUse => Some(
                    "The address is in use: another process of this job, or another service, \
                     listens there.",
                ),
                std::io::ErrorKind::AddrNotAvailable => {
                    Some("The address is not one of this host; see [cluster] addresses.")
                }
                _ => None,
            },
            Self::Refused { .. } => Some(
                "All processes of a job must run the same build, with the same configuration, \
                 options and secret.",
            ),
            _ => None,
        }
    }
}
