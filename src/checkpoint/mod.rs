//! Checkpoints: the state at one epoch as objects in a folder or a bucket, for the next start.
//!
//! | file | what it does |
//! |---|---|
//! | `store` | objects by name; waits and tries again |
//! | `folder`, `bucket` | the two kinds of store |
//! | `layout` | the names of objects |
//! | `run` | keys in order, by key group |
//! | `reference` | the reference table |
//! | `rows` | rows that may be revised |
//! | `sealed` | text with a checksum |
//! | `manifest` | what a checkpoint is made of; which one is the newest |
//! | `merge` | many runs into one |
//! | `cold` | keys that have left memory, in a folder of the process |
//! | `clean` | what nobody needs |
//! | `shared` | from which checkpoint all processes go on |
//! | `probe` | whether a location can be used |
//! | `inspect` | every byte of all checkpoints |
//! | `error` | how it fails, and with which exit code |
//!
//! | object | format | where its checksum stands |
//! |---|---|---|
//! | `checkpoints.json` | one line of JSON: version and job | none: compared whole |
//! | `manifest-*.json` | JSON: version, then `Manifest` | first field, of all behind it |
//! | `run-*.keys` | binary: header, blocks, index, footer | blocks: index; index: manifest |
//! | `rows-*.arrow` | Arrow's IPC stream | manifest, of all bytes |
//! | `reference-*.jsonl` | JSON lines: version, then rows | first line, and manifest |
//! | `start-*` | the number of a manifest, or `none` | none: a number that is not there is told |
//!
//! It is apart from the connectors because no row passes here, and a restart depends on it alone.
//!
//! # Invariants
//! * An object is never changed; only a manifest gives it a meaning.
//! * Every byte is under a checksum, and every object has a version.
//! * What is damaged, missing or of another version is an error that names it, never skipped.

#[cfg(feature = "s3")]
mod bucket;
mod clean;
mod cold;
mod error;
mod folder;
mod inspect;
mod layout;
mod manifest;
mod merge;
mod probe;
mod reference;
mod rows;
mod run;
mod sealed;
mod shared;
mod store;
#[cfg(test)]
mod testing;

pub use clean::{clean, forget, garbage};
pub use cold::{ColdFile, ColdFolder, OnFault, RowFiles};
pub use error::{Action, Error};
pub use inspect::{Verified, verify_all};
pub use layout::{rows_name, run_name};
pub use manifest::{
    Checkpoint, LogPosition, Manifest, Newest, list, newest, newest_below, put_manifest,
};
pub use merge::{Merging, RUNS_MAX, merge, next_merge};
pub use probe::{probe, probe_above};
pub use reference::{ReferenceEntry, read_reference, write_reference};
pub use rows::{RowsEntry, merge_rows, next_rows_merge, read_rows, write_rows};
pub use run::{Groups, Pieces, Run, RunEntry, encode, write_run};
use sealed::hex;
pub use shared::{Start, read_start, write_start};
pub use store::{Object, Options, Put, Store, Writer};
