//! Offsets that a job commits to a group, so that monitors see its lag; read by Kafka's own tool.

use std::collections::BTreeMap;

use deltajoin_testkit::{Broker, wait_until};

use crate::setup::{LIMIT, Setup};
use crate::topics::{Publisher, event, values};

/// Offset and lag of each partition, as Kafka's tool shows them for the job's group.
fn shown(broker: &Broker, group: &str, topic: &str) -> BTreeMap<String, (String, String)> {
    let lines = broker.consumer_groups(&["--describe", "--group", group]);
    let of_topic = lines
        .iter()
        .filter(|words| words.get(1).is_some_and(|word| word == topic));
    let shown = of_topic.map(|words| (words[2].clone(), (words[3].clone(), words[5].clone())));
    shown.collect()
}

/// Partition 0 and 1 with these offsets and lags.
fn both(of_0: (u64, u64), of_1: (u64, u64)) -> BTreeMap<String, (String, String)> {
    let text = |(offset, lag): (u64, u64)| (offset.to_string(), lag.to_string());
    BTreeMap::from([("0".to_owned(), text(of_0)), ("1".to_owned(), text(of_1))])
}

#[test]
fn monitors_see_the_lag_of_a_job_which_minds_no_offset_of_its_group() {
    let broker = Broker::shared();
    broker.create_topic("lagging", 2, &[]);
    let setup = Setup::new(broker, "lagging");
    let publisher = Publisher::new(broker, "lagging");
    let publish = |partition: i32, oids: std::ops::Range<i64>| {
        for oid in oids {
            publisher.send(partition, None, Some(&event(oid, 1)));
        }
        publisher.flush();
    };
    publish(0, 0..5);
    publish(1, 5..8);
    setup.run_until_end(&[]);
    let sees = |offsets: BTreeMap<_, _>| {
        wait_until("the offsets of the group", LIMIT, || {
            shown(broker, "lagging", "lagging") == offsets
        });
    };
    sees(both((5, 0), (3, 0)));
    publish(0, 8..10);
    sees(both((5, 2), (3, 0)));

    // Somebody says that nothing has been read, and then that all has.
    for to in ["--to-earliest", "--to-latest"] {
        let reset = [
            "--reset-offsets",
            "--group",
            "lagging",
            "--topic",
            "lagging",
        ];
        broker.consumer_groups(&[&reset[..], &[to, "--execute"]].concat());
    }
    sees(both((7, 0), (3, 0)));
    setup.run_until_end(&[]);
    assert_eq!(
        values(broker, &setup.joined()).len(),
        10,
        "each row, and once"
    );
    publish(1, 10..11);
    setup.run_until_end(&[]);
    sees(both((7, 0), (4, 0)));
}
