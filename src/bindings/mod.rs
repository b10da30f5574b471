//! The binding log: which records each epoch is made of, kept for the next generation.
//!
//! A generation begins with a *marker* in the log, and its bindings follow. Two clusters of one
//! job may write to the same log at the same moment, so order alone does not say what holds:
//!
//! * *Reader's rule*: a binding counts if and only if the nearest marker before it is its own
//!   generation's.
//! * *Writer's rule*: an append counts if it is acknowledged at exactly the next offset. If
//!   something else stands before it, the log is read: a newer marker means superseded; what an
//!   older generation has appended late changes nothing.
//!
//! | file | what it does |
//! |---|---|
//! | `record` | the records, as JSON objects |
//! | `history` | the reader's rule |
//! | `lasting` | settings that must not change |
//! | `claim` | a new generation: its marker, and what the log holds |
//! | `appender` | the writer's rule, on a thread of its own |
//! | `error` | how it fails, and with which exit code |
//!
//! It is apart from the connectors because the rules are the same for a topic and a file. Nothing
//! here touches the outside world but through `Records` and `Log`.
//!
//! # Invariants
//! * What a reader counts was appended in the order of epochs, by one generation at a time.
//! * A record that cannot be understood is an error that says where, never skipped.

mod appender;
mod claim;
mod error;
mod history;
mod lasting;
mod record;
#[cfg(test)]
pub(crate) mod testing;

use std::ops::Range;

use deltajoin_workers::ports::Stop;

pub use appender::{Appended, Appender, Fatal};
pub use claim::{Claim, Opened, claim, open, superseded};
pub use error::{Error, Fault};
pub use history::{History, Place, Reader};
pub use lasting::{
    Lasting, OF_MESSAGE_BYTES, OF_PARTITIONER, OF_PARTITIONS, OF_SINKS, found, number_of,
};
pub use record::{Announced, Marker, MarkerId, Record, TransactionalId, announced};

/// Told of each record that is read, with its offset; says whether it wants more.
pub type Visit<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<bool, Fault>;

/// The records of a binding log, in order, each at its offset.
pub trait Records: Send {
    /// Names the log, as errors do.
    fn name(&self) -> String;

    /// The offset of the first record that is still there.
    ///
    /// # Errors
    /// If it cannot be read, or if `stop` is set.
    fn first(&mut self, stop: &Stop) -> Result<u64, Error>;

    /// Reads what the log holds at the time of the call, from the offset `from` on, until `visit`
    /// wants no more. What it refuses must end it, with an error that says where.
    ///
    /// # Errors
    /// If it cannot be read, if `visit` refuses a record, or if `stop` is set.
    fn read(&mut self, from: u64, stop: &Stop, visit: Visit<'_>) -> Result<(), Error>;
}

/// A binding log that takes more.
pub trait Log: Records {
    /// How large a record may be, at most, if it can be made smaller.
    fn record_bytes_max(&self) -> usize;

    /// Appends records, in order, and waits until all of them are durable. Returns their offsets,
    /// which are without a gap unless somebody else appends too.
    ///
    /// # Errors
    /// If they are not durable, or if it is not known. No more must be appended then.
    fn append(&mut self, records: &[Vec<u8>], stop: &Stop) -> Result<Range<u64>, Error>;
}

/// Which of them it is makes no difference.
impl<R: Records + ?Sized> Records for Box<R> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn first(&mut self, stop: &Stop) -> Result<u64, Error> {
        (**self).first(stop)
    }

    fn read(&mut self, from: u64, stop: &Stop, visit: Visit<'_>) -> Result<(), Error> {
        (**self).read(from, stop, visit)
    }
}

impl<L: Log + ?Sized> Log for Box<L> {
    fn record_bytes_max(&self) -> usize {
        (**self).record_bytes_max()
    }

    fn append(&mut self, records: &[Vec<u8>], stop: &Stop) -> Result<Range<u64>, Error> {
        (**self).append(records, stop)
    }
}
