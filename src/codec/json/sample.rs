//! What a few records are like, and whether they have the declared types.
//!
//! It is apart from the decoder because nobody wants the rows: a check asks only whether there are
//! any, and both topics and files are sampled so.

use deltajoin_workers::batch::{BatchSchema, Origin};
use deltajoin_workers::schema::Schema;

use crate::codec::json::decode::Decoder;
use crate::codec::json::reject::Reject;

/// Records that were looked at.
#[derive(Debug)]
pub struct Sample {
    /// How many they are.
    pub records: usize,
    /// How many of them could not be decoded.
    pub rejected: usize,
    /// The first that could not be: where it is, and why.
    pub first: Option<String>,
    decoder: Decoder,
}

impl Sample {
    /// No records yet, which should have this schema and at most `record_bytes_max` bytes.
    pub fn new(schema: &Schema, record_bytes_max: usize) -> Self {
        Self {
            records: 0,
            rejected: 0,
            first: None,
            decoder: Decoder::new(BatchSchema::register(schema.clone()), record_bytes_max),
        }
    }

    /// Looks at a record; `told` says where it is, and why it is rejected.
    pub fn look(
        &mut self,
        value: Option<&[u8]>,
        origin: Origin,
        told: impl FnOnce(&Reject) -> String,
    ) {
        let decoded = self.decoder.decode(value, origin);
        // Only whether it decodes matters.
        drop(self.decoder.finish());
        self.count(decoded, told);
    }

    /// Counts a record by what has come of decoding it.
    pub fn count(&mut self, decoded: Result<(), Reject>, told: impl FnOnce(&Reject) -> String) {
        self.records += 1;
        if let Err(reject) = decoded {
            self.rejected += 1;
            self.first.get_or_insert_with(|| told(&reject));
        }
    }
}
