//! Generations that are paused or killed at each fault point. A paused one wakes up when a newer
//! one, with another number of workers, has written rows: whatever it does then is too late.

use std::path::PathBuf;

use deltajoin::fault_point::{COMMITTING, RECORDING, RUNNING, STARTING, STARTING_TRANSACTIONS};
use deltajoin::generate::{Expected, Options, reference_csv};
use deltajoin_testkit::{Broker, Job, Signal, wait_until};
use tempfile::TempDir;

use crate::at_least_once::assert_once_by_headers;
use crate::setup::{LIMIT, STARTED, Setup, quoted};
use crate::support::{now_ms, publish_until_stopped};
use crate::topics::{Tail, dead_lettered, dead_letters, differences};

/// The generations of one job. Each has a folder of its own, where it finds its orders.
struct Generations<'a> {
    broker: &'a Broker,
    name: &'static str,
    delivery: &'static str,
    reference: String,
    state: TempDir,
    tail: Tail,
    started: usize,
}

/// A generation that was started.
struct Generation {
    setup: Setup,
    job: Job,
}

impl Generations<'_> {
    fn setup(&self) -> Setup {
        Setup::without_topics(self.broker, self.name)
            .set("[sinks]", "delivery", quoted(self.delivery))
            .set("dead_letters", "delivery", quoted(self.delivery))
            .set("limits", "shards", "12")
            .set("checkpoint", "interval", quoted("200ms"))
            .state(self.state.path())
            .reference(&self.reference)
    }

    /// Starts a generation with another number of workers than the one before.
    fn start(&mut self, order: Option<&str>) -> Generation {
        self.started += 1;
        let threads = format!("cluster.threads={}", 1 + self.started % 3);
        let setup = self.setup();
        let order = order.map(|order| give(&setup, order));
        let job = setup.start(&["--set", &threads]);
        match order {
            Some(order) => wait_until(&order, LIMIT, || reached(&setup).exists()),
            // From now on rows are its own.
            None => drop(job.wait_for_line(STARTED, LIMIT)),
        }
        Generation { setup, job }
    }

    /// Waits for a row that is written from now on.
    fn wait_for_rows(&self) {
        let now_ms = now_ms();
        while self.tail.next(LIMIT).timestamp_ms <= now_ms {}
    }

    /// A new generation takes over while the last one is paused, and all go on.
    fn pause(&mut self, last: Generation, point: &str) -> Generation {
        last.obey(&format!("pause {point}"));
        let newer = self.start(None);
        self.wait_for_rows();
        last.wake();
        last.assert_superseded(point);
        newer
    }

    /// One that starts is paused, a third one takes the job over, and all go on.
    fn pause_start(&mut self, last: Generation, point: &str) -> Generation {
        let late = self.start(Some(&format!("pause {point}")));
        let newer = self.start(None);
        self.wait_for_rows();
        last.assert_superseded(point);
        late.wake();
        match point {
            // It is the newer one, as its marker is.
            "marker.append" => {
                newer.assert_superseded(point);
                self.wait_for_rows();
                late
            }
            // It takes the id away from the newer one, and learns only then that it is late.
            "transactions.init" => {
                late.assert_superseded(point);
                newer.assert_fenced();
                let newest = self.start(None);
                self.wait_for_rows();
                newest
            }
            _ => {
                late.assert_superseded(point);
                self.wait_for_rows();
                newer
            }
        }
    }

    /// The last one is killed, and another one takes over.
    fn kill(&mut self, last: Generation, point: &str) -> Generation {
        last.obey(&format!("kill {point}"));
        assert_eq!(last.job.wait(LIMIT).code(), None, "{point}");
        let newer = self.start(None);
        self.wait_for_rows();
        newer
    }

    /// One that starts is killed, and another one takes over.
    fn kill_start(&mut self, last: Generation, point: &str) -> Generation {
        let killed = self.start(Some(&format!("kill {point}")));
        assert_eq!(killed.job.wait(LIMIT).code(), None, "{point}");
        let newer = self.start(None);
        self.wait_for_rows();
        last.assert_superseded(point);
        newer
    }
}

impl Generation {
    /// Gives an order, and waits until it is carried out.
    fn obey(&self, order: &str) {
        give(&self.setup, order);
        wait_until(order, LIMIT, || reached(&self.setup).exists());
    }

    fn wake(&self) {
        crate::stops::signal(&self.job.pid().to_string(), "CONT");
    }

    /// It has lost its transactional id, though it is the newest: it must be started again.
    fn assert_fenced(self) {
        let outcome = self.job.wait(LIMIT);
        let said = outcome.stderr.join("\n");
        assert_eq!(outcome.code(), Some(1), "{said}");
        assert!(said.contains("is not ours any more"), "{said}");
    }

    fn assert_superseded(self, point: &str) {
        let outcome = self.job.wait(LIMIT);
        let said = outcome.stderr.join("\n");
        assert_eq!(outcome.code(), Some(5), "{point}: {said}");
        assert!(said.contains("superseded"), "{point}: {said}");
    }
}

pub(crate) fn give(setup: &Setup, order: &str) -> String {
    // As a whole: it is read while it is written.
    let draft = setup.folder().join("order");
    std::fs::write(&draft, order).unwrap();
    std::fs::rename(draft, setup.folder().join("fault-point")).unwrap();
    order.to_owned()
}

fn reached(setup: &Setup) -> PathBuf {
    setup.folder().join("fault-point.reached")
}

/// Pauses and kills generations at each of these points, then ends the job.
fn be_late(
    broker: &Broker,
    (name, delivery): (&'static str, &'static str),
    starting: &[&str],
    running: &[&str],
) -> (Setup, Expected) {
    let options = Options {
        rate: 2_000,
        retry_distance: 5_000,
        bad_share: 0.001,
        ..Options::default()
    };
    let setup = Setup::new(broker, name);
    broker.create_topic(name, 4, &[]);
    let mut generations = Generations {
        broker,
        name,
        delivery,
        reference: reference_csv(&options),
        state: tempfile::tempdir().unwrap(),
        tail: Tail::new(broker, &setup.joined()),
        started: 0,
    };
    let mut last = None;
    let expected = publish_until_stopped(broker, name, &options, || {
        let mut now = generations.start(None);
        generations.wait_for_rows();
        for point in starting {
            now = generations.pause_start(now, point);
            now = generations.kill_start(now, point);
        }
        for point in running {
            now = generations.pause(now, point);
            now = generations.kill(now, point);
        }
        last = Some(now);
    });
    let mut last = last.expect("it runs");
    last.job.signal(Signal::Terminate);
    last.job.wait(LIMIT).assert_code(0);
    let setup = generations.setup();
    setup.start(&["--until-end"]).wait(LIMIT).assert_code(0);
    (setup, expected)
}

#[test]
fn whoever_is_late_at_a_fault_point_writes_no_row_twice_and_loses_none() {
    let broker = Broker::shared();
    let starting = [&STARTING[..], &STARTING_TRANSACTIONS].concat();
    let running = [&RUNNING[..], &COMMITTING].concat();
    let job = ("late", "exactly-once");
    let (setup, expected) = be_late(broker, job, &starting, &running);
    let found = differences(broker, &setup.joined(), &expected);
    assert!(found.is_clean(), "{found:#?}");
    let letters = dead_letters(broker, &setup.dead()).len() as u64;
    assert_eq!(letters, expected.counts().dead_letters);
    setup.command("audit", &[]).wait(LIMIT).assert_code(0);
}

#[test]
fn whoever_is_late_at_a_fault_point_repeats_only_what_headers_tell() {
    let broker = Broker::shared();
    let running = [&RUNNING[..], &RECORDING].concat();
    let job = ("late-repeats", "at-least-once");
    let (setup, expected) = be_late(broker, job, &STARTING, &running);
    assert_once_by_headers(broker, &setup.joined(), &expected);
    let letters = dead_lettered(broker, &setup.dead());
    assert_eq!(letters, expected.counts().dead_letters);
    let audit = setup.command("audit", &["--allow-repeats"]);
    audit.wait(LIMIT).assert_code(0);
}
