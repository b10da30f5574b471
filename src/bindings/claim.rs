//! A new generation: it claims the log with a marker, then learns what the log holds.
//!
//! The two steps are apart because between them the generation makes sure that older ones can
//! commit nothing: it initializes its own transactional ids and fences those of earlier markers,
//! and only what the log holds after that is the whole history.
//!
//! # Invariants
//! * The generation's number is the offset of its marker.
//! * A generation whose settings are not those of the bindings leaves the log as it is.
//! * A history is given out only if no newer marker stood in the log when it was read.

use std::sync::Arc;

use deltajoin_workers::batch::BatchSchema;
use deltajoin_workers::bindings::Binding;
use deltajoin_workers::ports::Stop;

use crate::bindings::appender::{Appender, Fatal, Tail, Writing};
use crate::bindings::record::BindingEncoder;
use crate::bindings::{
    Announced, Error, History, Lasting, Log, Marker, Place, Reader, Record, Records, announced,
};
use crate::fault_point;

/// A log that a generation has put its marker into.
pub struct Claim<L> {
    log: L,
    marker: Marker,
    generation: u64,
    reference: Arc<BatchSchema>,
    reader: Reader,
}

/// A log whose history is known, ready for the generation's own bindings.
pub struct Opened<L> {
    /// The generation's number.
    pub generation: u64,
    /// What the log holds.
    pub history: History,
    /// The generation's marker.
    pub marker: Marker,
    log: L,
    reference: Arc<BatchSchema>,
}

/// Appends the marker of a new generation, and reads the log, from the place of the newest
/// checkpoint on if there is one. Changes of the reference table are of `reference`, as
/// `codec::reference_schema` makes it. What is bound behind the epoch `made` is made again, and
/// must have been bound by the settings of `lasting`.
///
/// # Errors
/// If the log cannot be used, if it is that of a job with other settings, if it holds a newer
/// marker, or if `stop` is set.
pub fn claim<L: Log>(
    mut log: L,
    mut marker: Marker,
    reference: Arc<BatchSchema>,
    from: Option<Place>,
    (lasting, made): (&Lasting, u64),
    stop: &Stop,
) -> Result<Claim<L>, Error> {
    let name = log.name();
    if let Some(place) = &from {
        place.check(&name, |offset, visit| log.read(offset, stop, visit))?;
    }
    let start = from.as_ref().map_or(0, |place| place.next);
    let mut reader = Reader::new(Arc::clone(&reference), from);
    // Whoever runs the job is left alone if this generation could not go on where it is.
    log.read(start, stop, &mut |offset, bytes| {
        reader.take(offset, bytes)?;
        Ok(true)
    })?;
    lasting.check(reader.history(), made, &name)?;
    marker.settings = lasting.with_found(reader.history(), made);
    fault_point::reach("marker.append");
    let generation = log.append(&[marker.encode()], stop)?.start;
    fault_point::reach("marker.appended");
    let mut claim = Claim {
        log,
        marker,
        generation,
        reader,
        reference,
    };
    claim.read(stop)?;
    Ok(claim)
}

/// Whether a generation may still bind: reads the log for markers behind its own.
///
/// # Errors
/// If there is one, if the log cannot be read, or a record in it cannot be; or if `stop` is set.
pub fn superseded(log: &mut dyn Records, generation: u64, stop: &Stop) -> Result<(), Error> {
    let mut newer: Option<Announced> = None;
    let read = log.read(generation + 1, stop, &mut |_, bytes| {
        newer = announced(bytes).or(newer.take());
        Record::decode(bytes).map(|_| true)
    });
    match newer {
        Some(newer) => {
            let (log, by) = (log.name(), newer.to_string());
            Err(Error::Superseded { log, by })
        }
        None => read,
    }
}

/// Claims the log for a generation that has no older ones to fence.
///
/// # Errors
/// As `claim`.
pub fn open<L: Log>(
    log: L,
    marker: Marker,
    reference: Arc<BatchSchema>,
    stop: &Stop,
) -> Result<Opened<L>, Error> {
    let lasting = Lasting {
        settings: marker.settings.clone(),
        of_rows: &[],
    };
    claim(log, marker, reference, None, (&lasting, 0), stop)?.settle(stop)
}

impl<L: Log> Claim<L> {
    /// The generation's number.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The markers of earlier generations: what they say they use must be fenced.
    pub fn earlier(&self) -> impl Iterator<Item = &Marker> {
        let markers = self.reader.history().markers.iter();
        markers
            .filter(|(offset, _)| *offset < self.generation)
            .map(|(_, marker)| marker)
    }

    /// Whether nothing is bound yet.
    pub fn is_new(&self) -> bool {
        self.reader.history().bindings.is_empty()
    }

    /// Appends a binding of the new generation, which `settle` will read like any other.
    ///
    /// # Errors
    /// If it is not durable, or `stop` is set.
    pub fn append(&mut self, binding: &Binding, stop: &Stop) -> Result<(), Error> {
        let schema = &self.reference.schema;
        let bytes_max = self.log.record_bytes_max();
        let mut records = Vec::new();
        let encoder = BindingEncoder::new(self.marker.id, schema, bytes_max);
        encoder.encode(binding, |record| {
            records.push(record);
            Ok(())
        })?;
        self.log.append(&records, stop).map(|_| ())
    }

    /// Reads the log to its end, now that older generations can commit nothing more.
    ///
    /// # Errors
    /// If the log cannot be read, if it holds a newer marker, or if `stop` is set.
    pub fn settle(mut self, stop: &Stop) -> Result<Opened<L>, Error> {
        self.read(stop)?;
        Ok(Opened {
            generation: self.generation,
            history: self.reader.finish(),
            log: self.log,
            marker: self.marker,
            reference: self.reference,
        })
    }

    /// Reads on to the end of the log.
    fn read(&mut self, stop: &Stop) -> Result<(), Error> {
        let Self {
            log,
            reader,
            generation,
            marker,
            ..
        } = self;
        let mut newer: Option<Announced> = None;
        let from = reader.history().next;
        let read = log.read(from, stop, &mut |offset, bytes| {
            if offset > *generation {
                newer = announced(bytes).or(newer.take());
            }
            reader.take(offset, bytes)?;
            Ok(true)
        });
        // A newer generation may write what this program does not understand.
        if let Some(newer) = newer {
            let (log, by) = (log.name(), newer.to_string());
            return Err(Error::Superseded { log, by });
        }
        read?;
        let markers = &reader.history().markers;
        match markers.last() {
            Some((offset, last)) if (*offset, last.id) == (*generation, marker.id) => Ok(()),
            _ => Err(Error::MarkerLost {
                log: log.name(),
                offset: *generation,
            }),
        }
    }
}

impl<L: Log + 'static> Opened<L> {
    /// Begins to append. `fatal` is told, from another thread, when the log takes no more.
    pub fn start(self, fatal: Fatal) -> (History, Appender) {
        let (id, schema) = (self.marker.id, &self.reference.schema);
        let writing = Writing {
            encoder: BindingEncoder::new(id, schema, self.log.record_bytes_max()),
            tail: Tail::new(self.log, self.generation, self.history.next),
        };
        (self.history, Appender::start(writing, fatal))
    }
}
