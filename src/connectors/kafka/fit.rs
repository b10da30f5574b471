//! Cuts the raw bytes of dead letters, so that poison never loops.
//!
//! It is apart because both ends need it: the source bounds what it takes along, the sink what its
//! topic takes.
//!
//! # Invariants
//! * What is cut says so, with the length that it had.
//! * Text stays text: it is cut between characters.

use std::borrow::Cow;
use std::sync::Arc;

use deltajoin_workers::batch::{Batch, BatchBuilder, Slot};

/// The start of `raw`, at most `bytes_max` long.
pub(super) fn start_of(raw: &[u8], bytes_max: usize) -> &[u8] {
    if raw.len() <= bytes_max {
        return raw;
    }
    match std::str::from_utf8(raw) {
        Ok(text) => &raw[..text.floor_char_boundary(bytes_max)],
        Err(_) => &raw[..bytes_max],
    }
}

/// An error with a note that the raw bytes beside it are not all.
pub(super) fn cut_note(error: &str, kept: usize, length: usize) -> String {
    format!("{error}; only {kept} of {length} bytes are kept")
}

/// A dead letter like the given one, as a batch of its own, with less of its raw bytes: so many
/// that its encoding, which has `encoded` bytes, is likely to have at most `bytes_max`.
///
/// `None` if there is nothing left to cut.
pub(super) fn shortened(
    letter: (&Batch, usize),
    encoded: usize,
    bytes_max: usize,
) -> Option<Batch> {
    let (batch, row) = letter;
    let schema = &batch.schema().schema;
    let place = |name| {
        schema
            .index_of(name)
            .expect("dead letters have this column")
    };
    let (error_index, raw_index) = (place("error"), place("raw"));
    let mut slots: Vec<_> = (0..schema.columns.len())
        .map(|column| batch.slot(column, row))
        .collect();
    let (Slot::String(error), Slot::Bytes(raw)) = (&slots[error_index], &slots[raw_index]) else {
        panic!("dead letters have an error and raw bytes");
    };
    if raw.is_empty() {
        return None;
    }
    // Escaping and base64 stretch the bytes evenly enough; a tenth is for what is beside them.
    let kept = raw.len() as u128 * bytes_max as u128 / (encoded.max(1) as u128) * 9 / 10;
    let kept = usize::try_from(kept)
        .expect("it is less than the length")
        .min(raw.len() - 1);
    let kept = start_of(raw, kept).to_vec();
    let error = cut_note(error, kept.len(), raw.len());
    slots[error_index] = Slot::String(Cow::Owned(error));
    slots[raw_index] = Slot::Bytes(Cow::Owned(kept));
    let mut builder = BatchBuilder::new(Arc::clone(batch.schema()));
    builder.push(&slots, batch.origin(row), batch.diffs()[row]);
    Some(builder.finish())
}

#[cfg(test)]
mod tests {
    use deltajoin_workers::batch::Origin;
    use deltajoin_workers::ports::reason;

    use super::*;
    use crate::codec::dead_letter::{self, DeadLetters};

    #[test]
    fn text_is_cut_between_characters_and_bytes_anywhere() {
        assert_eq!(start_of(b"abc", 3), b"abc");
        assert_eq!(start_of("a\u{e9}".as_bytes(), 2), b"a");
        assert_eq!(start_of(b"\xff\xfe\xfd", 2), b"\xff\xfe");
    }

    #[test]
    fn a_dead_letter_is_cut_until_it_fits_and_says_so() {
        for raw in [vec![b'x'; 5000], vec![0; 5000], vec![0xff; 5000]] {
            let mut letters = DeadLetters::default();
            letters.push(
                "events",
                Origin::default(),
                None,
                reason::MALFORMED,
                "bad",
                &raw,
            );
            let mut batch = letters.finish();
            let mut out = Vec::new();
            let mut rounds = 0;
            loop {
                out.clear();
                dead_letter::encode(&batch, 0, &mut out);
                if out.len() <= 1000 {
                    break;
                }
                batch = shortened((&batch, 0), out.len(), 1000).unwrap();
                rounds += 1;
            }
            assert!(rounds <= 3 && out.len() > 300, "{rounds} {}", out.len());
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains("of 5000 bytes are kept"), "{text}");
        }
    }
}
