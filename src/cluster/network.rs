//! Turns the mesh into timely's builders, and ends timely's network cleanly.
//!
//! It is apart from the transport because it is the only part that knows timely.
//!
//! # Invariants
//! * One process uses no sockets.
//! * Inside a process rows move without being encoded; only between processes they are bytes.
//! * A process leaves after its own workers are done; what a peer does after that is no loss.
//! * What a worker does, and for how long, ends no connection: each has a pulse.

use std::io;
use std::panic::{self, AssertUnwindSafe};

use timely::communication::Hooks;
use timely::communication::allocator::thread::ThreadBuilder;
use timely::communication::allocator::zero_copy::initialize::{
    CommsGuard, initialize_networking_from_sockets,
};
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};

use crate::cluster::loss;
use crate::cluster::membership::{Membership, Mesh};
use crate::cluster::pulse::Pulse;

/// Timely's threads that send and receive. Not given to timely itself, so that the process can say
/// when it leaves: `timely::execute::execute_from(builders, Box::new(()), ..)`, join, `leave`.
#[must_use = "call leave once the workers are joined"]
pub struct Connections(Option<CommsGuard>);

/// Makes one builder for each worker thread of this process.
///
/// From here on each connection has its pulse, so peers hear from this process at least once in
/// `peer_timeout` however long its workers take, also to start. What comes between `connect` and
/// this must be short.
///
/// # Errors
/// If a thread cannot be started.
pub fn builders(
    mesh: Mesh,
    member: &Membership,
) -> io::Result<(Vec<AllocatorBuilder>, Connections)> {
    let hooks = Hooks::default();
    let threads = member.threads;
    if member.processes == 1 && threads == 1 {
        return Ok((
            vec![AllocatorBuilder::Thread(ThreadBuilder)],
            Connections(None),
        ));
    }
    let inside =
        ProcessBuilder::new_typed_vector(threads, hooks.refill.clone(), hooks.spill.clone());
    if member.processes == 1 {
        let builders = inside.into_iter().map(AllocatorBuilder::Process).collect();
        return Ok((builders, Connections(None)));
    }
    let sockets = mesh.sockets.into_iter().enumerate();
    let sockets = sockets.map(|(peer, socket)| {
        let pulse = socket.map(|socket| Pulse::start(socket, peer, member.beat_interval()));
        pulse.transpose()
    });
    let sockets = sockets.collect::<io::Result<_>>()?;
    let (builders, guard) =
        initialize_networking_from_sockets(inside, sockets, member.index, threads, hooks)?;
    Ok((
        builders.into_iter().map(AllocatorBuilder::Tcp).collect(),
        Connections(Some(guard)),
    ))
}

impl Connections {
    /// Sends what is left, and waits until all peers have said that nothing follows.
    ///
    /// Must be called when the workers are joined and all they have to write is written: from here
    /// on a peer that closes, or says nothing for `peer_timeout`, is only logged.
    pub fn leave(self) {
        loss::leave();
        if !self.end() {
            tracing::debug!("a peer was gone before its last word");
        }
    }

    /// Whether all peers have ended as they should.
    fn end(self) -> bool {
        let Some(guard) = self.0 else { return true };
        // The guard panics when one of its threads has; that must not reach the caller.
        panic::catch_unwind(AssertUnwindSafe(|| drop(guard))).is_ok()
    }
}

#[cfg(test)]
mod tests;
