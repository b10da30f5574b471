//! The core of deltajoin: the dataflow that every timely worker runs.
//!
//! It decides results and touches nothing outside: no Kafka, no files, no sockets, no clock. The
//! shell (the `deltajoin` package) feeds it by queues and takes rows from it by sinks; `ports`
//! says how.
//!
//! # Layout, in the order of the data
//! * `schema`, `key`, `batch`: what a row is, how it is routed, how rows travel.
//! * `queue`, `ports`: how the outside world gets in and out.

pub mod batch;
pub mod key;
pub mod ports;
pub mod queue;
pub mod schema;
