//! Tests of the core: the production operators against the textbook engine and a naive model, at
//! every closed epoch, on several numbers of workers. No network, no broker, no clock.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics, wherever in it something fails"
)]

mod crash;
mod disk;
mod kept;
mod large;
mod naive;
mod oracle;
mod pairwise;
mod script;
mod setup;
mod step_loop;
