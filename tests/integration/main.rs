//! The binary as a user meets it: files in, files out, messages, exit codes; and the house's rules.
//! Nothing here needs a broker: one binary, so that the product is linked once.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test panics where something fails, and what it writes need not last"
)]

mod ahead;
mod audit;
#[cfg(feature = "s3")]
mod buckets;
mod case;
mod check;
mod configuration;
mod fault;
mod generate;
mod going_on;
mod held;
mod job;
mod kept;
mod reload;
mod status;
mod stop;
mod tidy;
mod usage;
