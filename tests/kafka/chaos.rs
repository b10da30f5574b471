//! Random faults while data flows: processes killed and frozen, clusters restarted with other
//! numbers of processes, the broker killed. At the end every row is there once.
//!
//! `make chaos FAULTS=1000` makes so many, `DELIVERY=at-least-once` with the other delivery;
//! `DELTAJOIN_SEED` repeats a run's choices.

use std::time::{Duration, Instant};

use deltajoin::generate::{Options, reference_csv};
use deltajoin_testkit::{Broker, Job, Outcome, Signal, wait_until};

use tempfile::TempDir;

use crate::at_least_once::assert_once_by_headers;
use crate::setup::{LIMIT, Setup, quoted};
use crate::stops::{pid_of, signal};
use crate::support::{now_ms, publish_until_stopped};
use crate::topics::{Tail, dead_lettered, dead_letters, differences};

/// Faults in an ordinary run of the tests.
const FAULTS: u64 = 30;
/// Events a second, for as long as there are faults.
const RATE: u64 = 2_000;
const EXACTLY_ONCE: &str = "exactly-once";
/// Short, so that a frozen process is noticed soon.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// Numbers that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        // Xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// The clusters of one job: the same but for the number of processes.
struct Clusters {
    setups: Vec<Setup>,
    /// Where checkpoints are.
    _state: TempDir,
    now: usize,
    job: Option<Job>,
}

impl Clusters {
    fn start(broker: &Broker, (name, delivery): (&str, &str), reference: &str) -> Self {
        let state = tempfile::tempdir().unwrap();
        let setup = |processes| {
            Setup::without_topics(broker, name)
                .set("[sinks]", "delivery", quoted(delivery))
                .set("dead_letters", "delivery", quoted(delivery))
                .set("limits", "shards", "12")
                .state(state.path())
                .set("checkpoint", "interval", quoted("500ms"))
                .set("cluster", "peer_timeout", quoted("2s"))
                .set("cluster", "restarts", "10000")
                .reference(reference)
                .processes(processes)
        };
        let setups: Vec<Setup> = [3, 2, 1].map(setup).into();
        let job = Some(setups[0].start(&[]));
        Self {
            setups,
            _state: state,
            now: 0,
            job,
        }
    }

    /// The processes that run now, as the supervisor has told; none for one process.
    fn workers(&self) -> Vec<String> {
        let said = self.job.as_ref().expect("it runs").stderr();
        let processes = 3 - self.now;
        let started = (0..processes).filter_map(|process| {
            let text = format!("started a process process={process} ");
            said.iter().rfind(|line| line.contains(&text))
        });
        started.map(|line| pid_of(line)).collect()
    }

    /// How often the supervisor has noticed that a process was lost.
    fn losses(&self) -> usize {
        let said = self.job.as_ref().expect("it runs").stderr();
        let losses = said.iter();
        losses
            .filter(|line| line.contains("restarting all processes"))
            .count()
    }

    /// Has what runs stopped cleanly.
    fn stop(&mut self) -> Outcome {
        let mut job = self.job.take().expect("it runs");
        job.signal(Signal::Terminate);
        job.wait(LIMIT)
    }

    /// Starts the job anew; what runs is killed.
    fn restart(&mut self, with: usize) {
        self.job = None;
        self.now = with;
        self.job = Some(self.setups[with].start(&[]));
    }

    /// Does something bad, and says what.
    fn suffer(&mut self, broker: &Broker, random: &mut Random) -> &'static str {
        let workers = self.workers();
        let one = workers.get(random.below(workers.len().max(1) as u64) as usize);
        match (random.below(20), one) {
            (0..9, Some(one)) => {
                let before = self.losses();
                signal(one, "KILL");
                // What is read until the loss is noticed says nothing of a recovery.
                wait_until("the loss to be noticed", LIMIT, || self.losses() > before);
                "one process killed"
            }
            (9..12, Some(one)) => {
                signal(one, "STOP");
                std::thread::sleep(PEER_TIMEOUT * 2);
                // The supervisor may have ended it.
                signal(one, "CONT");
                "one process frozen"
            }
            (12..15, _) | (_, None) => {
                self.restart(random.below(3) as usize);
                "all killed, another number of processes"
            }
            (15..18, _) => {
                self.stop().assert_code(0);
                self.restart(random.below(3) as usize);
                "stopped, another number of processes"
            }
            _ => {
                broker.kill();
                std::thread::sleep(Duration::from_millis(random.below(3_000)));
                broker.restart();
                "broker killed"
            }
        }
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "a run of many faults is watched")]
fn random_faults_lose_no_row_and_double_none() {
    let faults = number("DELTAJOIN_FAULTS").unwrap_or(FAULTS);
    let seed = number("DELTAJOIN_SEED").unwrap_or_else(|| now_ms().unsigned_abs());
    println!("DELTAJOIN_SEED={seed}");
    let mut random = Random(seed.max(1));
    let broker = Broker::start();
    let options = Options {
        rate: RATE,
        retry_distance: 5_000,
        bad_share: 0.001,
        ..Options::default()
    };
    for (topic, partitions) in [("chaos", 4), ("chaos-joined", 4), ("chaos-dead", 1)] {
        broker.create_topic(topic, partitions, &[]);
    }
    let delivery = std::env::var("DELTAJOIN_DELIVERY");
    let delivery = delivery.unwrap_or_else(|_| EXACTLY_ONCE.to_owned());
    let job = ("chaos", &*delivery);
    let mut clusters = Clusters::start(&broker, job, &reference_csv(&options));
    let tail = Tail::new(&broker, "chaos-joined");
    let mut recoveries: Vec<Duration> = Vec::new();
    let expected = publish_until_stopped(&broker, "chaos", &options, || {
        while tail.next(LIMIT).timestamp_ms == 0 {}
        for fault in 1..=faults {
            std::thread::sleep(Duration::from_millis(random.below(700)));
            let what = clusters.suffer(&broker, &mut random);
            let (at, at_ms) = (Instant::now(), now_ms());
            while tail.next(LIMIT).timestamp_ms <= at_ms {}
            println!("{fault}: {what}, {:.1?}", at.elapsed());
            recoveries.push(at.elapsed());
        }
    });
    // The last fault may have hit it a moment ago: however it ends.
    clusters.stop();
    let setup = &clusters.setups[0];
    setup.start(&["--until-end"]).wait(LIMIT).assert_code(0);
    let (letters, repeats): (u64, &[&str]) = if delivery == EXACTLY_ONCE {
        let found = differences(&broker, "chaos-joined", &expected);
        assert!(found.is_clean(), "DELTAJOIN_SEED={seed} {found:#?}");
        (dead_letters(&broker, "chaos-dead").len() as u64, &[])
    } else {
        assert_once_by_headers(&broker, "chaos-joined", &expected);
        let letters = dead_lettered(&broker, "chaos-dead");
        (letters, &["--allow-repeats"])
    };
    assert_eq!(letters, expected.counts().dead_letters);
    recoveries.sort();
    let survived = recoveries.len();
    let quantile = |share: usize| recoveries[(survived - 1) * share / 100];
    println!(
        "{survived} faults survived, 0 rows lost, 0 doubled of {}; to the first new row: \
         median {:.1?}, 90 % {:.1?}, longest {:.1?}",
        expected.rows(),
        quantile(50),
        quantile(90),
        quantile(100)
    );
    // As much longer as there is more to look at: a run of a thousand faults has 20 million rows.
    let limit = LIMIT + expected.rows() as u32 * Duration::from_micros(50);
    let outcome = setup.command("audit", repeats).wait(limit);
    outcome.assert_code(0);
    println!("{}", outcome.stdout.join("\n"));
}
