//! What process 0 tells the others of a start: which checkpoint the generation loads, where each
//! partition is read from, and what its marker says. If a fault is found in it, all load another,
//! which it tells then.
//!
//! They all see the same location, or they could not go on from the same state: who does not find
//! what process 0 has written there looks elsewhere.
//!
//! # Invariants
//! * A generation goes on from one checkpoint, whatever older ones publish meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;
use serde::{Deserialize, Serialize};

use crate::checkpoint::layout::start_name;
use crate::checkpoint::sealed::damaged;
use crate::checkpoint::store::{Put, Store};
use crate::checkpoint::{Error, Manifest, newest_below};

/// How often it is looked for what process 0 writes.
const PAUSE: Duration = Duration::from_millis(20);

/// Where a generation goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The number of the checkpoint, if there is one.
    pub checkpoint: Option<u64>,
    /// By partition where it is read from, and how far it is bound.
    pub ranges: BTreeMap<i32, (i64, i64)>,
    /// What the generation's marker says: settings, and what was found at the topics of sinks.
    pub settings: BTreeMap<String, String>,
}

/// Tells where a generation goes on if an attempt to load finds no fault: for process 0.
///
/// # Errors
/// If it is not known to be there.
pub fn write_start(
    store: &Store,
    generation_and_attempt: (u64, u32),
    start: &Start,
) -> Result<(), Error> {
    let name = start_name(generation_and_attempt);
    let text = serde_json::to_vec(start).expect("writing plain values to memory does not fail");
    match store.put(&name, &text)? {
        Put::Written => Ok(()),
        Put::Taken => Err(Error::Taken { name }),
    }
}

/// Where a generation goes on, and the checkpoint there, as process 0 tells it within `limit`.
///
/// # Errors
/// If it is not told here, if it cannot be read, or if `stop` is set.
pub fn read_start(
    store: &Store,
    generation_and_attempt: (u64, u32),
    limit: Duration,
    stop: &Stop,
) -> Result<(Start, Option<Manifest>), Error> {
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
    let start = serde_json::from_slice::<Start>(&text);
    let start = start.map_err(|error| damaged(&name, &error.to_string()))?;
    let Some(number) = start.checkpoint else {
        return Ok((start, None));
    };
    let found = newest_below(store, number.saturating_add(1))?.manifest;
    let found = found.filter(|manifest| manifest.number == number);
    let manifest = found.ok_or_else(|| {
        damaged(
            &name,
            &format!("checkpoint {number}, which it names, is gone"),
        )
    })?;
    Ok((start, Some(manifest)))
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
        let start = |checkpoint| Start {
            checkpoint,
            ranges: BTreeMap::from([(0, (3, 5)), (7, (0, 0))]),
            settings: BTreeMap::from([("sinks.a.partitions".to_owned(), "4 of rows".to_owned())]),
        };
        write_start(&first, (3, 0), &start(Some(chosen.number))).unwrap();
        write_start(&first, (4, 0), &start(None)).unwrap();
        write_start(&first, (3, 1), &start(None)).unwrap();
        // An older generation goes on meanwhile.
        put_manifest(&first, &mut manifest(1, 1, &[])).unwrap();
        let read = |folder, generation| read_start(&store(folder), (generation, 0), SOON, &stop);
        let number = chosen.number;
        assert_eq!(
            read(&shared, 3).unwrap(),
            (start(Some(number)), Some(chosen))
        );
        let again = read_start(&first, (3, 1), SOON, &stop).unwrap();
        assert_eq!(again, (start(None), None));
        assert_eq!(read(&shared, 4).unwrap(), (start(None), None));
        for refused in [read(&elsewhere, 3), read(&shared, 5)] {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, Error::NotShared { .. }), "{refused}");
        }
    }
}
