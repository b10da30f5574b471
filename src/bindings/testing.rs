//! A binding log in memory, which tests share, write to behind the appender's back, and hold up.
//!
//! Apart, because the tests of several files need it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use deltajoin_workers::batch::{Batch, BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::bindings::Binding;
use deltajoin_workers::ports::Stop;
use deltajoin_workers::schema::{Column, ColumnType, Schema};

use crate::bindings::record::BindingEncoder;
use crate::bindings::{Error, Log, Marker, MarkerId, Records, Visit};
use crate::codec::reference_schema;

/// Longer than anything takes.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// A log; its clones are the same log.
#[derive(Clone, Default)]
pub(super) struct MemoryLog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    records: Vec<Vec<u8>>,
    /// How many records each append had.
    appends: Vec<usize>,
    /// Appends wait while it is set.
    held: bool,
    /// Appends that wait.
    waiting: usize,
    /// What the next append ends with, after its records are there.
    failure: Option<Error>,
}

impl MemoryLog {
    pub(super) fn push(&self, record: Vec<u8>) {
        self.0.state.lock().unwrap().records.push(record);
    }

    pub(super) fn records(&self) -> Vec<Vec<u8>> {
        self.0.state.lock().unwrap().records.clone()
    }

    /// How many records each append had.
    pub(super) fn appends(&self) -> Vec<usize> {
        self.0.state.lock().unwrap().appends.clone()
    }

    /// All records are gone.
    pub(super) fn lose_all(&self) {
        self.0.state.lock().unwrap().records.clear();
    }

    /// Appends wait from now on.
    pub(super) fn hold(&self) {
        self.0.state.lock().unwrap().held = true;
    }

    /// Waits until an append waits.
    pub(super) fn wait_for_append(&self) {
        let state = self.0.state.lock().unwrap();
        let waited = self
            .0
            .changed
            .wait_timeout_while(state, DEADLINE, |state| state.waiting == 0);
        assert!(!waited.unwrap().1.timed_out(), "an append comes");
    }

    /// Appends go on.
    pub(super) fn release(&self) {
        self.0.state.lock().unwrap().held = false;
        self.0.changed.notify_all();
    }

    /// The next append ends so, although its records are there.
    pub(super) fn fail(&self, failure: Error) {
        self.0.state.lock().unwrap().failure = Some(failure);
    }
}

impl Records for MemoryLog {
    fn name(&self) -> String {
        "log \"memory\"".to_owned()
    }

    fn first(&mut self, _stop: &Stop) -> Result<u64, Error> {
        Ok(0)
    }

    fn read(&mut self, from: u64, _stop: &Stop, visit: Visit<'_>) -> Result<(), Error> {
        for (offset, record) in (0..).zip(self.records()) {
            if offset >= from {
                let visited = visit(offset, &record);
                if !visited.map_err(|fault| fault.at(format!("memory@{offset}")))? {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Log for MemoryLog {
    fn record_bytes_max(&self) -> usize {
        1000
    }

    fn append(&mut self, records: &[Vec<u8>], stop: &Stop) -> Result<Range<u64>, Error> {
        let mut state = self.0.state.lock().unwrap();
        while state.held {
            if stop.asked() {
                return Err(Error::Stopped);
            }
            state.waiting += 1;
            self.0.changed.notify_all();
            let wait = Duration::from_millis(10);
            state = self.0.changed.wait_timeout(state, wait).unwrap().0;
            state.waiting -= 1;
        }
        let first = state.records.len() as u64;
        state.records.extend_from_slice(records);
        state.appends.push(records.len());
        let end = state.records.len() as u64;
        state.failure.take().map_or(Ok(first..end), Err)
    }
}

/// A reference table of an id and a name.
pub(super) fn reference() -> Arc<BatchSchema> {
    let columns = vec![
        Column::new("id", ColumnType::Int64),
        Column::new("name", ColumnType::String),
    ];
    reference_schema(&Schema::new(columns, vec![0]))
}

/// Rows of that table, each with a name of so many bytes.
pub(super) fn rows(ids: Range<i64>, name_bytes: usize) -> Batch {
    let mut builder = BatchBuilder::new(reference());
    for id in ids {
        let name = Slot::String("n".repeat(name_bytes).into());
        let origin = Origin {
            partition: 0,
            offset: id,
        };
        builder.push(&[Slot::Int64(id), name], origin, 1);
    }
    builder.finish()
}

/// A marker that names its holder.
pub(crate) fn marker(holder: &str) -> Marker {
    Marker {
        id: MarkerId::random(),
        started_ms: 1_767_225_600_000,
        holder: holder.to_owned(),
        settings: BTreeMap::new(),
        producers: Vec::new(),
    }
}

/// A binding of some records of partition 0.
pub(super) fn binding(epoch: u64) -> Binding {
    Binding {
        epoch,
        ends: vec![(0, i64::try_from(epoch).unwrap() * 10)],
        ..Binding::default()
    }
}

/// The records of a binding.
pub(super) fn encoded(generation: &Marker, binding: &Binding) -> Vec<Vec<u8>> {
    let encoder = BindingEncoder::new(generation.id, &reference().schema, 1000);
    let mut records = Vec::new();
    let take = |record| {
        records.push(record);
        Ok(())
    };
    encoder.encode(binding, take).unwrap();
    records
}
