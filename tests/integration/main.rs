//! Tests of the whole product that need no broker: one binary, so that what it links is linked
//! once.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test panics where something fails, and what it writes need not last"
)]

mod tidy;
