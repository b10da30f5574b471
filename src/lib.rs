//! The shell of deltajoin: everything that touches the world, around the core in
//! `deltajoin-workers`.

pub mod codec;
pub mod config;
pub mod connectors;
