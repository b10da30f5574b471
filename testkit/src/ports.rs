//! Free ports of 127.0.0.1.
//!
//! Apart, because asking the system for port 0 is not enough: a broker that is killed and
//! restarted needs its port to be still free, and any connection of any test may be given it
//! meanwhile. So ports come from below the range from which systems number connections.
//!
//! # Invariants
//! * A process never gets the same port twice.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Socket, Type};

/// Below 32,768, where Linux begins to number connections.
const FIRST: u32 = 17_000;
const PORTS: u32 = 15_000;

/// How many ports this process has looked at.
static LOOKED_AT: AtomicU32 = AtomicU32::new(0);

/// Finds `count` ports that nobody listens on.
///
/// # Panics
/// If nearly all ports are in use.
pub fn free_ports(count: usize) -> Vec<u16> {
    // Test binaries that run at the same time begin far apart.
    let start = std::process::id().wrapping_mul(257);
    let mut ports = Vec::with_capacity(count);
    while ports.len() < count {
        let step = LOOKED_AT.fetch_add(1, Ordering::Relaxed);
        assert!(
            step < PORTS,
            "no free port is left between {FIRST} and {}",
            FIRST + PORTS
        );
        let port = FIRST + start.wrapping_add(step) % PORTS;
        let port = u16::try_from(port).expect("below 32,768");
        if bind_only(port).is_ok() {
            ports.push(port);
        }
    }
    ports
}

/// Binds the port, and does not listen on it: a process that another thread starts meanwhile holds
/// all that was open here until it runs its program, and only a listening socket would keep whom
/// the port is for from it.
fn bind_only(port: u16) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn free_ports_are_free_and_differ() {
        let first = free_ports(20);
        let second = free_ports(20);
        let different: HashSet<u16> = first.iter().chain(&second).copied().collect();
        assert_eq!(different.len(), 40);
        for port in different {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            assert!(bind_only(port).is_err(), "{port} is listened on");
            drop(listener);
        }
    }
}
