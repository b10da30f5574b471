//! Connectors: the code that talks to outside systems, one module a system.
//!
//! They fulfil the contracts of `deltajoin_workers::ports`.
//!
//! # Invariants
//! * A connector imports no other connector.

pub mod file;
