//! Jobs of several real processes, over files: the start, strangers at the door, lost peers,
//! restarts. No Kafka.
//!
//! One binary, so that the product is linked once.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test panics where something fails, and what it writes need not last"
)]

mod busy;
#[path = "../integration/case.rs"]
mod case;
#[cfg(feature = "demo")]
mod demo;
mod going_on;
mod idle;
mod loss;
mod result;
mod start;
mod stranger;
mod support;
