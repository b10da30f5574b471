//! Tests of what an epoch takes of the blocks that wait.

use super::*;
use crate::batch::{BatchBuilder, BatchSchema, Origin, Slot};
use crate::queue::{InFlight, queue};
use crate::schema::{Column, ColumnType, Schema};

/// Ten records of a partition.
fn records(partition: i32) -> Block {
    of_offsets(partition, 0..10)
}

fn of_offsets(partition: i32, offsets: impl IntoIterator<Item = i64>) -> Block {
    let columns = vec![Column::new("id", ColumnType::Int64)];
    let mut events = BatchBuilder::new(BatchSchema::register(Schema::new(columns, vec![0])));
    for offset in offsets {
        events.push(&[Slot::Int64(offset)], Origin { partition, offset }, 1);
    }
    let events = events.finish();
    Block {
        records: events.len() as u64,
        events,
        ..Block::default()
    }
}

#[test]
fn what_was_skipped_is_no_part_of_a_bound_epoch_and_of_the_next_live_one() {
    let skipped = Skipped {
        partition: 1,
        from: 5,
        to: 9,
    };
    let (sender, receiver) = queue(InFlight::new(1000));
    let empty = Block {
        skipped: vec![skipped],
        ..Block::default()
    };
    assert!(sender.send(empty, 0) && sender.send(records(0), 100));
    let mut waiting = Waiting::new(Rc::new(receiver));
    let mut take = |take: Take| {
        let (mut reached, mut skipped, mut records) = (Ends::new(), Vec::new(), 0);
        while let Some((block, _)) = waiting.next(&take, &mut reached, true) {
            records += block.records;
            skipped.extend(block.skipped);
        }
        (reached, skipped, records)
    };
    let bound = vec![(0, 4)];
    assert_eq!(take(Take::Bound(bound.clone())), (bound, vec![], 4));
    let live = (vec![(1, 9), (0, 10)], vec![skipped], 6);
    assert_eq!(take(Take::Waiting), live);
}

/// A topic that is compacted loses records within, while nobody reads them again.
#[test]
fn a_bound_epoch_ends_where_its_partition_goes_on_though_its_last_record_is_gone() {
    let (sender, receiver) = queue(InFlight::new(1000));
    // Of the first epoch the last record is gone, of the second one all.
    let left = [of_offsets(0, [0, 1]), records(1), of_offsets(0, [7, 9])];
    for block in left {
        assert!(sender.send(block, 100));
    }
    let mut waiting = Waiting::new(Rc::new(receiver));
    let mut take = |ends: Ends| {
        let (mut reached, mut taken) = (Ends::new(), 0);
        let take = Take::Bound(ends);
        while let Some((block, _)) = waiting.next(&take, &mut reached, true) {
            taken += block.records;
        }
        (take.complete(&reached), taken)
    };
    assert_eq!(take(vec![(0, 3), (1, 4)]), (true, 6));
    assert_eq!(take(vec![(0, 6)]), (true, 0));
    assert_eq!(take(vec![(0, 10), (1, 10)]), (true, 8));
}
