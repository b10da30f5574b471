//! Dead letters that operators make: of events that were read and cannot become results.

use std::fmt;
use std::sync::Arc;

use crate::batch::{Batch, BatchBuilder, Slot};
use crate::ports::dead_letter_schema;

/// Writes a row as text, as the sinks would.
pub type RowText = Arc<dyn Fn(&Batch, usize, &mut Vec<u8>) + Send + Sync>;

/// What dead letters say of every event.
#[derive(Clone)]
pub struct Letters {
    /// The name of the events' topic or file.
    pub source_name: Arc<str>,
    /// Writes an event as text.
    pub event_text: RowText,
}

impl fmt::Debug for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Letters {{ source_name: {:?} }}", self.source_name)
    }
}

impl Letters {
    /// Dead letters for some rows of a batch, each with its reason and error.
    pub(crate) fn of(
        &self,
        events: &Batch,
        rows: impl Iterator<Item = (usize, &'static str, String)>,
    ) -> Batch {
        let mut letters = BatchBuilder::new(dead_letter_schema());
        for (row, reason, error) in rows {
            let mut raw = Vec::new();
            (self.event_text)(events, row, &mut raw);
            let slots = [
                Slot::String((&*self.source_name).into()),
                Slot::Null,
                Slot::String(reason.into()),
                Slot::String(error.into()),
                Slot::Bytes(raw.into()),
            ];
            letters.push(&slots, events.origin(row), 1);
        }
        letters.finish()
    }
}
