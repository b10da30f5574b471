//! What is left out of rows because no message of the topic can hold it.

use std::collections::BTreeMap;

use deltajoin_workers::batch::{BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::schema::{Column, ColumnType, Schema};
use proptest::prelude::*;

use super::*;
use crate::codec::Envelope;
use crate::codec::dead_letter::DeadLetters;

fn schema() -> Schema {
    let columns = vec![
        Column::new("the \"id\"", ColumnType::Int64),
        Column::new("text", ColumnType::String).nullable(),
        Column::new("share", ColumnType::Float64),
        Column::new("at", ColumnType::Timestamp),
    ];
    Schema::new(columns, vec![0])
}

fn destination(envelope: Envelope, message_bytes_max: usize) -> Destination {
    let letter_of: LetterOf = Arc::new(|row| {
        let mut letters = DeadLetters::default();
        letters.push("events", row.origin, None, row.reason, &row.error, &row.raw);
        letters.finish()
    });
    let options = SinkOptions {
        topic: KafkaTopic {
            brokers: "127.0.0.1:1".to_owned(),
            topic: "joined".to_owned(),
            properties: BTreeMap::new(),
        },
        partitioner: Partitioner::KeyGroup,
        format: Format::rows(&schema(), envelope),
        on_rejected: Arc::new(|row| panic!("it is asked for: {row:?}")),
        letter_of,
        fail: Arc::new(|error| panic!("nothing is written: {error}")),
    };
    Destination {
        options,
        partitions: 4,
        message_bytes_max,
    }
}

/// How long a row's text is, each character of which takes much room; whether the row is taken
/// back; and whether it has the key of the one before it.
type Row = (Option<usize>, bool, bool);

fn batch(rows: &[Row]) -> Batch {
    let mut builder = BatchBuilder::new(BatchSchema::register(schema()));
    let mut id = 0;
    for (offset, (text, retracted, same)) in rows.iter().enumerate() {
        id += i64::from(!same);
        let text = text.map(|count| "\u{1}\"x\u{e9}".repeat(count));
        let slots = [
            Slot::Int64(i64::MIN + id),
            text.map_or(Slot::Null, |text| Slot::String(text.into())),
            Slot::Float64(-f64::MIN_POSITIVE),
            Slot::Timestamp(i64::from(u32::MAX) * 1_000_001),
        ];
        let origin = Origin {
            partition: 3,
            offset: offset as i64,
        };
        builder.push(&slots, origin, if *retracted { -1 } else { 1 });
    }
    builder.finish()
}

fn offsets(batch: &Batch) -> Vec<i64> {
    (0..batch.len())
        .map(|row| batch.origin(row).offset)
        .collect()
}

proptest! {
    #[test]
    fn rows_that_no_message_holds_become_dead_letters_and_no_others(
        rows in prop::collection::vec(
            (prop::option::of(0..100_usize), any::<bool>(), any::<bool>()),
            1..20,
        ),
        bytes_max in 300..3000_usize,
        changelog: bool,
        marked: bool,
    ) {
        let envelope = if changelog { Envelope::Changelog } else { Envelope::Upsert };
        let destination = destination(envelope, bytes_max);
        let all = batch(&rows);
        let encoder = destination.options.format.of(&all, 7);
        let sizes: Vec<usize> = (0..all.len())
            .map(|row| size(&encoder, row, marked, &mut Vec::new()))
            .collect();
        prop_assert!(sizes.iter().all(|size| *size <= encoded_max(&all)));

        let mut kept = all.clone();
        let letters = destination.leave_out((7, &mut kept), marked);
        let (large, fitting): (Vec<i64>, Vec<i64>) = offsets(&all)
            .into_iter()
            .partition(|offset| sizes[*offset as usize] > bytes_max);
        prop_assert_eq!(offsets(&letters), large);
        prop_assert_eq!(offsets(&kept), fitting);
    }
}
