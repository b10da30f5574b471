//! What it costs to keep recent results right, and how fast they are corrected.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use deltajoin::generate::{Options, reference_csv};
use deltajoin::telemetry::Status;
use deltajoin_testkit::{Broker, Job, Signal, wait_until};

use crate::catch_up::publish;
use crate::measure;
use crate::{DELTAJOIN, configuration};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(300);
/// The location that three in ten events are from.
const HOT: &str = "1,";

pub(crate) fn run(broker: &Broker, folder: &Path) {
    let options = Options {
        count: 2_000_000,
        ..Options::default()
    };
    broker.create_topic("revise", 4, &[]);
    publish(broker, "revise", &options);
    let table = reference_csv(&options);
    std::fs::write(folder.join("reference.csv"), &table).expect("writable");
    println!("\nrevise, {} events, one process", options.count);
    println!("| results | events/s | CPU s per million | peak MB |");
    println!("|---|--:|--:|--:|");
    for round in 0..2 {
        for kind in ["future-only", "revise"] {
            let output = format!("revised-{kind}-{round}");
            broker.create_topic(&output, 4, &[]);
            let config = configuration(broker, folder, ["revise", &output], 1);
            let mut job = Command::new(DELTAJOIN);
            let set = format!("join.on_reference_change={kind}");
            job.args(["run", "--until-end", "--set", &set, "--config"]);
            let (cost, _) = measure::run(job.arg(&config));
            println!(
                "| {kind} | {:.0} | {:.2} | {:.0} |",
                options.count as f64 / cost.wall.as_secs_f64(),
                cost.cpu.as_secs_f64() * 1e6 / options.count as f64,
                cost.peak_bytes as f64 / 1e6
            );
        }
    }
    correct(broker, folder, &table);
}

/// Renames the hot location, and waits for the last row that is corrected.
fn correct(broker: &Broker, folder: &Path, table: &str) {
    let output = "revised-live";
    broker.create_topic(output, 4, &[]);
    let config = configuration(broker, folder, ["revise", output], 1);
    let status = || -> Option<Status> {
        let text = std::fs::read(folder.join("status.json")).ok()?;
        serde_json::from_slice(&text).ok()
    };
    let mut command = Command::new(DELTAJOIN);
    command.args(["run", "--set", "join.on_reference_change=revise"]);
    let mut job = Job::spawn_command(command.arg("--config").arg(&config));
    wait_until("all rows", LIMIT, || {
        status().is_some_and(|status| status.counts.lag_records == 0 && status.counts.rows_out > 0)
    });
    std::thread::sleep(Duration::from_secs(2));
    let before = status().expect("the job is live").counts;
    println!(
        "rows of the window: {}, {:.1} bytes each",
        before.recent_rows,
        before.recent_bytes as f64 / before.recent_rows as f64
    );
    let renamed = table.lines().map(|line| match line.strip_prefix(HOT) {
        Some(_) => format!("{HOT}Renamed\n"),
        None => format!("{line}\n"),
    });
    std::fs::write(folder.join("reference.csv"), renamed.collect::<String>()).expect("writable");
    let started = Instant::now();
    job.signal(Signal::Hangup);
    let mut corrected = 0;
    wait_until("corrected rows", LIMIT, || {
        let now = status().map_or(0, |status| status.counts.retracted);
        let done = now > 0 && now == corrected;
        corrected = now;
        done
    });
    println!(
        "{corrected} rows corrected within {:.1} s of the change, by the status file's second",
        started.elapsed().as_secs_f64()
    );
}
