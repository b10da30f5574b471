//! Catch-up: a topic of events, read to its end.

use std::path::Path;
use std::process::Command;

use deltajoin::generate::{self, Expected, Generator, Options, Pace, reference_csv};
use deltajoin::telemetry::WallClock;
use deltajoin_testkit::Broker;

use crate::measure::{self, Cost};
use crate::{DELTAJOIN, configuration, topic};

/// Runs of each program, in turn: the median is shown.
const RUNS: usize = 3;

pub(crate) fn run(broker: &Broker, folder: &Path) {
    let count = std::env::var("BENCH_EVENTS").ok();
    let count = count.map_or(5_000_000, |count| {
        count.parse().expect("a number of events")
    });
    let options = Options {
        count,
        ..Options::default()
    };
    broker.create_topic("events", 4, &[]);
    publish(broker, "events", &options);
    std::fs::write(folder.join("reference.csv"), reference_csv(&options)).expect("writable");
    let expected = Expected::of(&options).expect("the options are right");

    println!("\ncatch-up, {count} events, 4 partitions, one process each, median of {RUNS}");
    println!("| program | events/s | CPU s per million | peak MB |");
    println!("|---|--:|--:|--:|");
    let mut costs: [Vec<Cost>; 2] = [Vec::new(), Vec::new()];
    for run in 0..RUNS {
        let (limit, ours) = (format!("limit{run}"), format!("joined{run}"));
        for output in [&limit, &ours] {
            broker.create_topic(output, 4, &[]);
        }
        let brokers = broker.bootstrap();
        let reference = folder.join("reference.csv").display().to_string();
        let mut by_hand = Command::new(std::env::current_exe().expect("this program"));
        by_hand.args([
            "limit",
            &brokers,
            "events",
            &limit,
            &reference,
            &count.to_string(),
        ]);
        costs[0].push(measure::run(&mut by_hand).0);
        let config = configuration(broker, folder, ["events", &ours], 1);
        let mut job = Command::new(DELTAJOIN);
        job.args(["run", "--until-end", "--config"]).arg(&config);
        let (cost, summary) = measure::run(&mut job);
        costs[1].push(cost);
        if run == 0 {
            print!("{}", indent(&summary));
            check(broker, &expected, &ours);
        }
    }
    let rows: Vec<[f64; 3]> = costs.iter().map(|costs| median(costs, count)).collect();
    for (program, row) in ["limit", "deltajoin"].iter().zip(&rows) {
        println!(
            "| {program} | {:.0} | {:.2} | {:.0} |",
            row[0], row[1], row[2]
        );
    }
    let ratio = |index: usize| rows[1][index] / rows[0][index];
    println!(
        "| ratio | {:.2} | {:.2} | {:.2} |",
        ratio(0),
        ratio(1),
        ratio(2)
    );
}

/// The median of each figure.
fn median(costs: &[Cost], count: u64) -> [f64; 3] {
    let of = |figure: &dyn Fn(&Cost) -> f64| {
        let mut figures: Vec<f64> = costs.iter().map(figure).collect();
        figures.sort_unstable_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    [
        of(&|cost| count as f64 / cost.wall.as_secs_f64()),
        of(&|cost| cost.cpu.as_secs_f64() * 1e6 / count as f64),
        of(&|cost| cost.peak_bytes as f64 / 1e6),
    ]
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// Publishes a stream, as fast as possible.
pub(crate) fn publish(broker: &Broker, name: &str, options: &Options) {
    let generator = Generator::new(options.clone()).expect("the options are right");
    let pace = Pace {
        clock: WallClock::start(),
        stop: std::sync::Arc::default(),
        tick: std::time::Duration::from_millis(1),
    };
    generate::to_kafka(generator, &topic(broker, name), &pace).expect("the broker takes all");
}

fn check(broker: &Broker, expected: &Expected, output: &str) {
    let mut audit = expected.audit();
    broker.read(output, |record| {
        audit.row(record.value.as_deref().unwrap_or_default())
    });
    let differences = audit.finish();
    assert!(
        differences.is_clean(),
        "the output is wrong: {differences:?}"
    );
    println!("    output checked: {} rows, each once", differences.rows);
}
