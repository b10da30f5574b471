//! A reference file that is read again when it has changed.
//!
//! Apart from `reference`, which reads a table once: here it is known what was read before.
//!
//! # Invariants
//! * A file is read only when two looks have found it the same, or when that is asked for; what
//!   was written meanwhile is not taken. So a file that is being written is seldom taken for whole;
//!   one that is put in the place of the old one is never seen half.
//! * The same content is read once, whether it is good or not. A file is not known to be the one
//!   that was read until a later look has compared its content: clocks of file systems are coarse.

use std::io::Read;
use std::path::Path;

use deltajoin_workers::schema::Schema;
use xxhash_rust::xxh3::Xxh3Default;

use crate::connectors::file::place::{Place, Stamp};
use crate::connectors::file::{Error, Table};

/// Bytes that are hashed together.
const PIECE: usize = 1 << 16;

/// What a look has found.
#[derive(Debug)]
pub enum Look {
    /// What the look before has found.
    Unchanged,
    /// It has just changed, or is being written: look again soon.
    Moving,
    /// It has the content that it was last found good with.
    Same,
    /// It has this content.
    Changed(Table),
    /// It cannot be read, or its content is wrong.
    Bad(Error),
}

/// A reference file, and what it was at the last look.
#[derive(Debug)]
pub struct Watched {
    place: Place,
    schema: Schema,
    record_bytes_max: usize,
    seen: Option<Stamp>,
    /// Whether what was read last is known to be all of what was seen last.
    settled: bool,
    /// The content that was last good.
    good: Option<u128>,
    /// The content that was last bad, if it was read after that.
    bad: Option<u128>,
}

impl Watched {
    /// The file, and the table that it has now.
    pub fn new(
        path: &Path,
        schema: &Schema,
        record_bytes_max: usize,
    ) -> (Self, Result<Table, Error>) {
        let place = Place::new(path);
        let mut watched = Self {
            schema: schema.clone(),
            record_bytes_max,
            seen: place.stamp(),
            place,
            settled: false,
            good: None,
            bad: None,
        };
        if !watched.can_change() {
            let table = Table::read(path, schema, record_bytes_max);
            return (watched, table);
        }
        let table = match watched.read() {
            Ok((hash, table)) => {
                watched.good = Some(hash);
                Ok(table.expect("no content is known yet"))
            }
            Err((hash, error)) => {
                watched.bad = hash;
                Err(error)
            }
        };
        (watched, table)
    }

    /// Whether it can be read again: what comes from a pipe comes once.
    pub fn can_change(&self) -> bool {
        self.place.can_change()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Looks at the file; with `at_once` its content is compared however it looks, and told even
    /// if it is as bad as before.
    pub fn look(&mut self, at_once: bool) -> Look {
        let now = self.place.stamp();
        if now != self.seen {
            self.seen.clone_from(&now);
            self.settled = false;
            if !at_once {
                return Look::Moving;
            }
        }
        if at_once {
            self.bad = None;
        } else if self.settled {
            return Look::Unchanged;
        }
        let read = self.read();
        let after = self.place.stamp();
        if after != now {
            self.seen = after;
            self.settled = false;
            return Look::Moving;
        }
        match read {
            Ok((hash, Some(table))) => {
                self.good = Some(hash);
                self.bad = None;
                Look::Changed(table)
            }
            Ok((hash, None)) => {
                self.settled = true;
                match self.bad {
                    Some(bad) if bad == hash => Look::Unchanged,
                    _ => {
                        self.bad = None;
                        Look::Same
                    }
                }
            }
            Err((hash, error)) => {
                self.bad = hash;
                Look::Bad(error)
            }
        }
    }

    /// Reads the file: a hash of its content, and its table unless that was read before.
    #[allow(clippy::type_complexity)]
    fn read(&self) -> Result<(u128, Option<Table>), (Option<u128>, Error)> {
        let hash = self.hash().map_err(|error| (None, error))?;
        if [self.good, self.bad].contains(&Some(hash)) {
            return Ok((hash, None));
        }
        match Table::read_at(&self.place, &self.schema, self.record_bytes_max) {
            Ok(table) => Ok((hash, Some(table))),
            Err(error) => Err((Some(hash), error)),
        }
    }

    fn hash(&self) -> Result<u128, Error> {
        let mut file = self.place.open()?;
        let mut hash = Xxh3Default::new();
        let mut piece = vec![0; PIECE];
        loop {
            let read = file.read(&mut piece);
            let read = read.map_err(Error::reading(self.path()))?;
            if read == 0 {
                return Ok(hash.digest128());
            }
            hash.update(&piece[..read]);
        }
    }
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::schema::{Column, ColumnType};

    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![Column::new("id", ColumnType::Int64)], vec![0])
    }

    /// A look in a word, with how many rows or which fault.
    fn word(look: &Look) -> String {
        match look {
            Look::Unchanged => "unchanged".to_owned(),
            Look::Moving => "moving".to_owned(),
            Look::Same => "same".to_owned(),
            Look::Changed(table) => format!("{} rows", table.rows()),
            Look::Bad(error) => error.detail().unwrap_or_else(|| "no file".to_owned()),
        }
    }

    #[test]
    fn a_file_is_read_when_it_rests_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.csv");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("id\n1\n");
        let (mut watched, first) = Watched::new(&path, &schema(), 100);
        assert_eq!(first.unwrap().rows(), 1);
        let mut looks = |at_once: &[bool]| -> Vec<String> {
            let looks = at_once.iter().map(|at_once| watched.look(*at_once));
            let words = looks.map(|look| word(&look));
            words
                .map(|word| word.replace(&*path.to_string_lossy(), "r"))
                .collect()
        };
        let later = [false; 4];
        // Once more, as what has changed within a tick of the clock looks the same.
        assert_eq!(
            looks(&later),
            ["same", "unchanged", "unchanged", "unchanged"]
        );
        write("id\n1\n2\n");
        assert_eq!(looks(&later), ["moving", "2 rows", "same", "unchanged"]);
        write("id\n1\n2\n");
        assert_eq!(looks(&later), ["moving", "same", "unchanged", "unchanged"]);
        write("id\n1\nx\n");
        let fault = "r:3:1: column \"id\" is not an int64: \"x\"";
        assert_eq!(looks(&later), ["moving", fault, "unchanged", "unchanged"]);
        assert_eq!(looks(&[true, false]), [fault, "unchanged"]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(looks(&later), ["moving", "no file", "no file", "no file"]);
        write("id\n1\nx\n");
        assert_eq!(looks(&later), ["moving", fault, "unchanged", "unchanged"]);
        write("id\n1\n2\n");
        assert_eq!(looks(&later), ["moving", "same", "unchanged", "unchanged"]);
        write("id\n3\n");
        assert_eq!(looks(&[true, true, false]), ["1 rows", "same", "unchanged"]);
    }
}
