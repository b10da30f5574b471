//! The shell of deltajoin: everything that touches the world, around the core in
//! `deltajoin-workers`.
//!
//! # Layout, from the command line inwards
//! * `cli`: one file a subcommand. `process`: makes a process of a job, the composition root.
//! * `audit`: recomputes a job's result, apart from it, and compares.
//! * `config`: the settings. `codec`: rows to JSON and back. `connectors`: Kafka and files.
//! * `bindings`: the log of what each epoch is made of. `checkpoint`: the state at one epoch.
//! * `s3`: the client of buckets, for checkpoints and reference files.
//! * `cluster`: the mesh between processes, and their supervisor.
//! * `telemetry`: logs, progress, status. `failure`, `error`: how a process ends.
//! * `generate`: the events of the example.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "what a test writes need not last, and its queues are short"
    )
)]

pub mod audit;
pub mod cli;
pub mod process;

pub mod bindings;
pub mod checkpoint;
pub mod cluster;
pub mod codec;
pub mod config;
pub mod connectors;

pub mod error;
pub mod failure;
pub mod fault_point;
#[cfg(feature = "s3")]
pub mod s3;
pub mod telemetry;

pub mod generate;
