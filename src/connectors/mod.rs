//! Connectors: the code that talks to an outside system, one module a system.
//!
//! They are apart from the core, which knows only queues and ports, and from one another: a
//! connector imports no other.
//!
//! # Invariants
//! * Whatever blocks does so on a thread of the connector's own, never on a worker's.

pub mod file;
#[cfg(feature = "kafka")]
pub mod kafka;
