//! Writes the stream as JSON lines: the values, one a line.
//!
//! Apart from Kafka, because the build without it has files too.
//!
//! # Invariants
//! * A record is one line, a bad one included.

use std::io::Write;

use crate::generate::pace::Pacer;
use crate::generate::{Error, Generator, Pace, Written};

/// Writes all of the stream.
///
/// # Errors
/// If the output fails; what was written before stays.
pub fn to_lines(
    mut generator: Generator,
    output: &mut impl Write,
    pace: &Pace,
) -> Result<Written, Error> {
    let mut pacer = Pacer::start(pace, generator.options().rate);
    let mut written = Written::default();
    'stream: while let Some((due, _)) = pacer.due() {
        for _ in 0..due {
            let Some(record) = generator.next_record() else {
                break 'stream;
            };
            let position = record.position;
            output
                .write_all(record.value)
                .and_then(|()| output.write_all(b"\n"))
                .map_err(|source| Error::Write { position, source })?;
            written.records += 1;
            written.bytes += record.value.len() as u64;
        }
    }
    let position = generator.position();
    output
        .flush()
        .map_err(|source| Error::Write { position, source })?;
    written.elapsed_ms = pacer.elapsed_ms();
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Options;
    use crate::generate::pace::tests::pace;

    #[test]
    fn each_record_is_a_line() {
        let options = Options {
            count: 5_000,
            bad_share: 0.2,
            ..Options::default()
        };
        let generator = Generator::new(options).unwrap();
        let mut bytes = Vec::new();
        let written = to_lines(generator.clone(), &mut bytes, &pace()).unwrap();
        assert_eq!(written.records, 5_000);
        assert_eq!(written.bytes + 5_000, bytes.len() as u64);
        let mut again = generator;
        for line in bytes
            .strip_suffix(b"\n")
            .unwrap()
            .split(|&byte| byte == b'\n')
        {
            assert_eq!(line, again.next_record().unwrap().value);
        }
        assert_eq!(again.next_record(), None);
    }
}
