//! The shell of deltajoin: everything that touches the world, around the core in
//! `deltajoin-workers`.

pub mod config;
pub mod generate;
