//! Tests of the core: the production operators against the textbook engine and a naive model, at
//! every closed epoch, on several numbers of workers. No network, no broker, no clock.

mod oracle;
mod script;
mod step_loop;
