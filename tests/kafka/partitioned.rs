//! A reference table of which each worker has a part: the results are those of one that every
//! worker has.

use deltajoin_testkit::{Broker, Signal, wait_until};

use crate::revise::{Table, World, changed, upserted};
use crate::setup::{LIMIT, Setup, quoted};
use crate::stops::{kill, pid_of};
use crate::support::now_ms;

/// What a job with this strategy holds in the end, by both envelopes. It has two processes, which
/// die and are stopped while places get and lose names.
fn collection(broker: &Broker, strategy: &str, now: i64) -> (Table, Table) {
    let name = format!("parted-{strategy}");
    let changes = format!("{name}-changes");
    let names = format!("{name}-names");
    broker.create_topic(&changes, 3, &[]);
    let mut world = World::new(broker, [&name, &names]);
    let state = tempfile::tempdir().unwrap();
    let sink = format!(
        "type = \"kafka\"\nbrokers = {:?}\ntopic = {changes:?}\nenvelope = \"changelog\"",
        broker.bootstrap()
    );
    let time = r#"{ column = "timestamp_detected", unit = "ms" }"#;
    let setup = Setup::new(broker, &name)
        .processes(2)
        .set("cluster", "threads", "2")
        .set("events", "time", time)
        .set("distinct", "keep", quoted("latest"))
        .set("join", "unmatched", quoted("drop"))
        .set("join", "strategy", quoted(strategy))
        .set("checkpoint", "interval", quoted("300ms"))
        .reference_topic(broker, &names)
        .state(state.path())
        .sink(&sink);
    for location in 0..40 {
        world.name(location, Some(&format!("first {location}")));
    }
    world.flush();
    let mut job = setup.start_live();
    for round in 0..4 {
        for detection in 0..400 {
            // Some come again, with a later or an earlier time, and another place.
            if round == 0 || (detection + round) % 3 == 0 {
                let at = now - 5_000 + (detection * 37 + round * 911) % 4_000;
                let place = (detection + round) % 45;
                world.event(detection + round * 40, place, &format!("item {round}"), at);
            }
        }
        for place in 0..6 {
            world.name((round * 7 + place) % 40, Some(&format!("name {round}")));
        }
        world.name((round * 11 + 3) % 40, None);
        world.name(40 + round, Some(&format!("new {round}")));
        world.flush();
        // Not in any state in particular: the next one takes over what there is.
        wait_until("rows", LIMIT, || {
            let wanted = world.collection().len() / 2;
            upserted(broker, &setup.joined()).len() >= wanted
        });
        if round == 1 {
            job.signal(Signal::Terminate);
            job.wait(LIMIT).assert_code(0);
            job = setup.start_live();
        } else if round < 3 {
            let started = format!("started a process process={}", round / 2);
            kill(&pid_of(&job.wait_for_line(&started, LIMIT)));
            job.wait_for_line("restarting all processes", LIMIT);
        }
    }
    let expected = world.collection();
    wait_until("the collection", LIMIT, || {
        upserted(broker, &setup.joined()) == expected
    });
    wait_until(
        "a count of reference rows in which each is once",
        LIMIT,
        || setup.status()["reference_rows"].as_u64() == Some(world.places() as u64),
    );
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
    let (changes, ops) = changed(broker, &changes);
    assert!(ops.values().all(|count| *count > 10), "{ops:?}");
    assert_eq!(changes, expected);
    (upserted(broker, &setup.joined()), changes)
}

#[test]
fn either_strategy_gives_the_same_results_through_kills_and_renames() {
    let (broker, now) = (Broker::shared(), now_ms());
    let broadcast = collection(broker, "broadcast", now);
    let partitioned = collection(broker, "partitioned", now);
    assert!(broadcast.0.len() > 300, "{}", broadcast.0.len());
    assert_eq!(broadcast, partitioned);
}
