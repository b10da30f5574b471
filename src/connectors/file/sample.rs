//! Reads the first lines of a file of events, to tell whether they have the declared types.
//!
//! It is apart from `source` because it makes no results and stops soon.
//!
//! # Invariants
//! * What a pipe gives is left to the job: it is given once.

use std::io::BufReader;
use std::path::Path;

use deltajoin_workers::batch::Origin;
use deltajoin_workers::schema::Schema;

use crate::codec::json::{Reject, Sample};
use crate::connectors::file::lines::{Line, Lines};
use crate::connectors::file::{Error, open, place};

/// Lines that are looked at.
const RECORDS_MAX: usize = 100;

/// Looks at the first lines of a file of events.
///
/// # Errors
/// If it cannot be opened or read.
pub fn sample(path: &Path, schema: &Schema, record_bytes_max: usize) -> Result<Sample, Error> {
    let file = open(path)?;
    let mut sample = Sample::new(schema, record_bytes_max);
    let metadata = file.metadata().map_err(Error::reading(path))?;
    if !metadata.is_file() {
        return Ok(sample);
    }
    // Its last line may be half written.
    let mut lines = Lines::behind(BufReader::new(file), record_bytes_max, 0);
    while sample.records < RECORDS_MAX
        && let Some((number, line)) = lines.next().map_err(Error::reading(path))?
    {
        let told = |reject: &Reject| {
            let place = place(path, number, reject.column());
            format!("{place}: {}", reject.message())
        };
        match line {
            Line::Whole(line) => {
                let offset = i64::try_from(number).expect("no file has so many lines");
                let partition = 0;
                sample.look(Some(line), Origin { partition, offset }, told);
            }
            Line::TooLong { bytes, .. } => {
                sample.count(Err(Reject::too_large(bytes, record_bytes_max)), told);
            }
        }
    }
    Ok(sample)
}
