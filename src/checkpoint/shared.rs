//! Whether all hosts of a job see the same location: process 0 writes a nonce, others read it.
//!
//! # Invariants
//! * A nonce is of one generation: what an older one has left proves nothing.

use crate::checkpoint::Error;
use crate::checkpoint::layout::{nonce_name, random};
use crate::checkpoint::store::{Put, Store};

/// Writes the nonce of a generation, and returns it: for process 0, which tells it to the others.
///
/// # Errors
/// If it is not known to be there.
pub fn write_nonce(store: &Store, generation: u64) -> Result<String, Error> {
    let (name, nonce) = (nonce_name(generation), random());
    match store.put(&name, nonce.as_bytes())? {
        Put::Written => Ok(nonce),
        Put::Taken => Err(Error::Taken { name }),
    }
}

/// Reads the nonce of a generation: it must be the one that process 0 has told of.
///
/// # Errors
/// If it is not there or another, or if it cannot be read.
pub fn check_nonce(store: &Store, generation: u64, nonce: &str) -> Result<(), Error> {
    let name = nonce_name(generation);
    let reason = match store.get(&name) {
        Ok(found) if found == nonce.as_bytes() => return Ok(()),
        Ok(_) => format!("{name:?} is there, but is not what process 0 has written."),
        Err(Error::Missing { .. }) => {
            format!("Process 0 has written {name:?}, and it is not there.")
        }
        Err(error) => return Err(error),
    };
    let location = store.location().to_owned();
    Err(Error::NotShared { location, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::testing::{folder, store};

    #[test]
    fn processes_that_share_a_location_see_the_nonce_and_others_do_not() {
        let (shared, elsewhere) = (folder(), folder());
        let nonce = write_nonce(&store(&shared), 3).unwrap();
        check_nonce(&store(&shared), 3, &nonce).unwrap();
        for (folder, generation, nonce) in [
            (&elsewhere, 3, nonce.as_str()),
            (&shared, 4, nonce.as_str()),
            (&shared, 3, "0123456789abcdef"),
        ] {
            let refused = check_nonce(&store(folder), generation, nonce).unwrap_err();
            assert!(matches!(refused, Error::NotShared { .. }), "{refused}");
        }
    }
}
