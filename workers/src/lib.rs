//! The core of deltajoin: the dataflow that every timely worker runs.
//!
//! It decides results and touches nothing outside: no Kafka, no files, no sockets, no clock. The
//! shell (the `deltajoin` package) feeds it by queues and takes rows from it by sinks; `ports`
//! says how.
//!
//! # Layout
//! * `worker`: the step loop. `dataflow`: the picture. `operators`, `state`: its parts.
//! * `textbook`: the same job in Differential's own operators, which is the definition.
//! * `epoch`, `control`: who mints epochs, and how worker 0 is told what it must know.
//! * `clock`: the time of events, and the clock by which the job forgets.
//! * `bindings`, `checkpoint`: what is kept, so that a restart goes on where it was.
//! * `schema`, `key`, `batch`: what a row is, how it is routed, how rows travel.
//! * `queue`, `ports`: how the outside world gets in and out.

pub mod worker;

pub mod bindings;
pub mod checkpoint;
pub mod clock;
pub mod control;
pub mod dataflow;
pub mod epoch;
pub mod operators;
pub mod state;
pub mod textbook;

pub mod batch;
pub mod key;
pub mod schema;

pub mod ports;
pub mod queue;

/// A stream of batches, with epochs as times.
pub(crate) type Rows<'scope> = timely::dataflow::Stream<'scope, u64, batch::Batch>;
