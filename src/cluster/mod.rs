//! Processes of one job: how they find each other, prove who they are, notice that one is gone,
//! and are watched.
//!
//! Timely has static membership and shared fate: when a process is lost, all end, and recovery is
//! a start of all as a new generation. So this part does four things: it makes the mesh's sockets
//! (`transport`), turns them into timely's (`network`) on which each process shows that it is there
//! (`pulse`), ends the process when a peer is lost (`loss`), and, on one host, starts and restarts
//! all processes (`supervisor`).
//!
//! # Invariants
//! * No process enters timely before every pair of processes is connected and has proven that it
//!   knows the secret.
//! * Nobody who connects without knowing the secret can end, hold up or enlarge a start.
//! * A process that lost a peer ends; it never goes on alone.

mod frame;
mod handshake;
mod link;
pub mod loss;
mod membership;
mod network;
mod pulse;
mod reach;
pub mod signals;
pub mod supervisor;
#[cfg(test)]
mod testing;
mod transport;
mod work;

pub use membership::{Error, Membership, Mesh, settings_digest};
pub use network::{Connections, builders};
pub use transport::connect;
pub use work::{Task, Tasks, Verdict};
