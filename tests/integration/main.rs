//! Tests of the whole product that need no broker: one binary, so that what it links is linked
//! once.

#![allow(
    clippy::disallowed_methods,
    reason = "what a test writes need not last, and its queues are short"
)]

mod tidy;
