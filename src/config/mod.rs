//! Configuration: one TOML file, checked as a whole before anything starts.

mod model;

pub use model::*;
