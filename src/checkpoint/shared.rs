//! What process 0 tells the others of a start: which checkpoint the generation loads. If a fault is
//! found in it, all load another, which it tells then.
//!
//! They all see the same location, or they could not go on from the same state: who does not find
//! what process 0 has written there looks elsewhere.
//!
//! # Invariants
//! * A generation goes on from one checkpoint, whatever older ones publish meanwhile.

use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;

use crate::checkpoint::layout::start_name;
use crate::checkpoint::sealed::damaged;
use crate::checkpoint::store::{Put, Store};
use crate::checkpoint::{Error, Manifest, newest_below};

/// How often it is looked for what process 0 writes.
const PAUSE: Duration = Duration::from_millis(20);
/// What stands there if there is no checkpoint.
const NONE: &[u8] = b"none";

/// Tells which checkpoint a generation loads at an attempt: for process 0.
///
/// # Errors
/// If it is not known to be there.
pub fn write_start(
    store: &Store,
    generation_and_attempt: (u64, u32),
    start: Option<u64>,
) -> Result<(), Error> {
    let name = start_name(generation_and_attempt);
    let text = start.map_or(NONE.to_vec(), |number| number.to_string().into_bytes());
    match store.put(&name, &text)? {
        Put::Written => Ok(()),
        Put::Taken => Err(Error::Taken { name }),
    }
}

/// The checkpoint that a generation loads at an attempt, as process 0 tells it within `limit`.
///
/// # Errors
/// If it is not told here, if it cannot be read, or if `stop` is set.
pub fn read_start(
    store: &Store,
    generation_and_attempt: (u64, u32),
    limit: Duration,
    stop: &Stop,
) -> Result<Option<Manifest>, Error> {
    let name = start_name(generation_and_attempt);
    let since = Instant::now();
    let text = loop {
        match store.get(&name) {
            Ok(text) => break text,
            Err(Error::Missing { .. }) if since.elapsed() < limit => {}
            Err(Error::Missing { .. }) => {
                let location = store.location().to_owned();
                let reason = format!("Process 0 has written {name:?}, and it is not there.");
                return Err(Error::NotShared { location, reason });
            }
            Err(error) => return Err(error),
        }
        if stop.asked() {
            return Err(Error::Stopped);
        }
        std::thread::sleep(PAUSE);
    };
    if text == NONE {
        return Ok(None);
    }
    let number = std::str::from_utf8(&text).ok();
    let number: Option<u64> = number.and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| damaged(&name, "it names no checkpoint"))?;
    let found = newest_below(store, number.saturating_add(1))?.manifest;
    let found = found.filter(|manifest| manifest.number == number);
    found.map(Some).ok_or_else(|| {
        damaged(
            &name,
            &format!("checkpoint {number}, which it names, is gone"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::put_manifest;
    use crate::checkpoint::testing::{folder, manifest, store};

    const SOON: Duration = Duration::from_millis(60);

    #[test]
    fn processes_that_share_a_location_go_on_from_one_checkpoint_and_others_do_not() {
        let (shared, elsewhere) = (folder(), folder());
        let (first, stop) = (store(&shared), Stop::default());
        let mut chosen = manifest(0, 1, &[]);
        put_manifest(&first, &mut chosen).unwrap();
        write_start(&first, (3, 0), Some(chosen.number)).unwrap();
        write_start(&first, (4, 0), None).unwrap();
        write_start(&first, (3, 1), None).unwrap();
        // An older generation goes on meanwhile.
        put_manifest(&first, &mut manifest(1, 1, &[])).unwrap();
        let read = |folder, generation| read_start(&store(folder), (generation, 0), SOON, &stop);
        assert_eq!(read(&shared, 3).unwrap(), Some(chosen));
        assert_eq!(read_start(&first, (3, 1), SOON, &stop).unwrap(), None);
        assert_eq!(read(&shared, 4).unwrap(), None);
        for refused in [read(&elsewhere, 3), read(&shared, 5)] {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, Error::NotShared { .. }), "{refused}");
        }
    }
}
