//! What a key costs in memory, beside other sets.
//!
//! Apart from the day of keys, which is about disks.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use deltajoin_workers::batch::Keys;
use deltajoin_workers::key::{key_group, mix64};
use deltajoin_workers::state::KeySet;
use differential_dataflow::input::InputSession;
use differential_dataflow::operators::ThresholdTotal;
use timely::dataflow::ProbeHandle;

use crate::{computed, resident};

/// Bytes a key, and how fast, beside a set of the standard library, which is hashbrown's.
pub(crate) fn sets(count: usize) {
    #[derive(Default)]
    struct Mixed(u64);
    impl Hasher for Mixed {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            let (words, _) = bytes.as_chunks();
            self.0 = words
                .iter()
                .fold(self.0, |sum, word| sum ^ u64::from_le_bytes(*word));
        }
        fn write_u64(&mut self, word: u64) {
            self.0 = word;
        }
    }
    let all = keys(0, count);
    let others = keys(count, count);
    let per_second = |begun: f64| count as f64 / (computed("") - begun) / 1e6;
    println!(
        "\n{count} keys in memory | bytes a key | at most | inserts | found | not \
         found (million/s of CPU)"
    );
    for narrow in [true, false] {
        let columns = |keys: &[u64]| match narrow {
            true => Keys::Narrow(keys.to_vec().into()),
            false => Keys::Wide(keys.to_vec().into(), keys.to_vec().into()),
        };
        let (own, absent) = (columns(&all), columns(&others));
        let mut set = KeySet::new(narrow);
        let begun = computed("");
        (0..count).for_each(|row| assert!(set.insert(&own, row)));
        let inserts = per_second(begun);
        let begun = computed("");
        assert!((0..count).all(|row| set.contains(&own, row)));
        let found = per_second(begun);
        let begun = computed("");
        assert!(!(0..count).any(|row| set.contains(&absent, row)));
        let not = per_second(begun);
        let bytes = set.bytes() as f64 / count as f64;
        let name = if narrow { "64 bits" } else { "128 bits" };
        drop(set);
        let peak = peak(&own, narrow);
        println!("{name} | {bytes:.1} | {peak:.1} | {inserts:.1} | {found:.1} | {not:.1}");
    }
    let mut set: HashSet<u64, BuildHasherDefault<Mixed>> = HashSet::default();
    let begun = computed("");
    all.iter().for_each(|key| assert!(set.insert(*key)));
    let inserts = per_second(begun);
    // A power of two of slots, seven eighths of which may be taken, with a byte beside each.
    let slots = (set.capacity() * 8 / 7).next_power_of_two();
    let bytes = (slots * 9) as f64 / count as f64;
    let begun = computed("");
    assert!(all.iter().all(|key| set.contains(key)));
    let found = per_second(begun);
    let begun = computed("");
    assert!(!others.iter().any(|key| set.contains(key)));
    let not = per_second(begun);
    println!("64 bits, HashSet | {bytes:.1} | - | {inserts:.1} | {found:.1} | {not:.1}");
    drop(set);
    differential(&all);
}

/// The most bytes a key while a set grows from a million keys on, looked at after each 1,024. One
/// table of 1,024 is there twice for a moment while it grows.
fn peak(keys: &Keys, narrow: bool) -> f64 {
    let mut set = KeySet::new(narrow);
    let mut most: f64 = 0.0;
    for row in 0..keys.high().len() {
        set.insert(keys, row);
        if row > 1_000_000 && row % 1024 == 0 {
            most = most.max(set.bytes() as f64 / row as f64);
        }
    }
    most * (1.0 + 1.0 / 1024.0)
}

/// The same keys through Differential's own `distinct`, in epochs of 65,536. Memory is that of the
/// process, so the blocks that its allocator keeps back count as well.
fn differential(all: &[u64]) {
    let before = resident();
    let all = all.to_vec();
    timely::execute_directly(move |worker| {
        let mut input = InputSession::<u64, u64, isize>::new();
        let probe = ProbeHandle::new();
        worker.dataflow(|scope| {
            let keys = input.to_collection(scope);
            keys.distinct_total().probe_with(&probe);
        });
        let mut most = before;
        let mut pass = |keys: &[u64]| {
            let begun = Instant::now();
            for epoch in keys.chunks(1 << 16) {
                epoch.iter().for_each(|key| input.insert(*key));
                input.advance_to(input.time() + 1);
                input.flush();
                worker.step_while(|| probe.less_than(input.time()));
                most = most.max(resident());
            }
            keys.len() as f64 / begun.elapsed().as_secs_f64() / 1e6
        };
        let inserts = pass(&all);
        let held = resident();
        let found = pass(&all);
        let bytes = |of: u64| of.saturating_sub(before) as f64 / all.len() as f64;
        println!(
            "64 bits, Differential | {:.1}, at most {:.1} | {inserts:.1} | {found:.1} | -",
            bytes(held),
            bytes(most)
        );
    });
}

/// Keys in the order in which `distinct` asks: those of an epoch by key group.
fn keys(from: usize, count: usize) -> Vec<u64> {
    let mut keys: Vec<u64> = (from..from + count).map(|n| mix64(n as u64)).collect();
    for epoch in keys.chunks_mut(1 << 16) {
        epoch.sort_by_key(|key| key_group(*key));
    }
    keys
}
