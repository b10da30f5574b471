//! Catch-up: a topic of events, read to its end.

use std::path::Path;
use std::process::Command;

use deltajoin::generate::{self, Expected, Generator, Options, Pace, reference_csv};
use deltajoin::telemetry::WallClock;
use deltajoin_testkit::Broker;

use crate::measure::{self, Cost};
use crate::{AT_LEAST_ONCE, DELTAJOIN, configuration, topic};

/// Runs of each program, in turn: the median is shown.
const RUNS: usize = 3;

/// The programs, and what the job is told beside its configuration. The last is the job of the
/// README: results follow the reference, and keys are remembered by the events' times.
const PROGRAMS: [(&str, &[&str]); 4] = [
    ("limit", &[]),
    ("at-least-once", &AT_LEAST_ONCE),
    ("exactly-once", &[]),
    (
        "exactly-once, event time, revise",
        &[
            "--set=events.time={ column = \"timestamp_detected\", unit = \"ms\" }",
            "--set=join.on_reference_change=revise",
        ],
    ),
];

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
    let mut costs: [Vec<Cost>; PROGRAMS.len()] = Default::default();
    for run in 0..RUNS {
        for ((index, (program, settings)), costs) in PROGRAMS.iter().enumerate().zip(&mut costs) {
            let output = format!("joined-{index}-{run}");
            broker.create_topic(&output, 4, &[]);
            let mut command = match *program {
                "limit" => by_hand(broker, folder, [&output, &count.to_string()]),
                _ => {
                    let config = configuration(broker, folder, ["events", &output], 1);
                    let mut job = Command::new(DELTAJOIN);
                    job.args(["run", "--until-end", "--config"]).arg(&config);
                    job.args(*settings);
                    job
                }
            };
            let (cost, summary) = measure::run(&mut command);
            costs.push(cost);
            if run == 0 {
                print!("{}", indent(&summary));
            }
            check(broker, &expected, &output);
        }
    }
    println!("\n| program | events/s | CPU s per million | peak MB |");
    println!("|---|--:|--:|--:|");
    let limit = median(&costs[0], count);
    for ((program, _), costs) in PROGRAMS.iter().zip(&costs) {
        let row = median(costs, count);
        let [events, cpu, peak] = [0, 1, 2].map(|figure| row[figure] / limit[figure]);
        println!(
            "| {program} | {:.0} ({events:.2}) | {:.2} ({cpu:.2}) | {:.0} ({peak:.2}) |",
            row[0], row[1], row[2]
        );
    }
}

/// The hand-written loop.
fn by_hand(broker: &Broker, folder: &Path, [output, count]: [&str; 2]) -> Command {
    let brokers = broker.bootstrap();
    let reference = folder.join("reference.csv").display().to_string();
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["limit", &brokers, "events", output, &reference, count]);
    command
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
