//! What it costs to keep recent results right, and how fast they are corrected.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use deltajoin::generate::{Expected, Options, reference_csv};
use deltajoin::telemetry::Status;
use deltajoin_testkit::{Broker, Job, Signal, wait_until};
use deltajoin_workers::ports::Counts;
use rdkafka::{Message, Offset};

use crate::catch_up::publish;
use crate::latency::{Publishing, now_us, published_us, reader};
use crate::measure;
use crate::{AT_LEAST_ONCE, DELTAJOIN, configuration};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(300);
/// The location that is renamed, and its new name.
const HOT: i64 = 1;
const RENAMED: &str = "Renamed";
/// How long events come before they count, and how long before the change they do.
const WARM_UP: Duration = Duration::from_secs(5);
const COUNTED: Duration = Duration::from_secs(20);
/// Detections of the generated events are larger, those of the steady ones smaller.
const FIRST_GENERATED: u64 = 1_000_000_000_000;
const ROUNDS: usize = 3;

pub(crate) fn run(broker: &Broker, folder: &Path) {
    let options = Options {
        count: 2_000_000,
        ..Options::default()
    };
    broker.create_topic("revise", 4, &[]);
    publish(broker, "revise", &options);
    std::fs::write(folder.join("reference.csv"), reference_csv(&options)).expect("writable");
    println!("\nrevise, {} events, one process", options.count);
    println!("| results | events/s | CPU s per million | peak MB |");
    println!("|---|--:|--:|--:|");
    let mut walls = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for (kind, walls) in ["future-only", "revise"].into_iter().zip(&mut walls) {
            let output = format!("revised-{kind}-{round}");
            broker.create_topic(&output, 4, &[]);
            let config = configuration(broker, folder, ["revise", &output], 1);
            let mut job = Command::new(DELTAJOIN);
            let set = format!("join.on_reference_change={kind}");
            job.args(["run", "--until-end"]).args(AT_LEAST_ONCE);
            job.args(["--set", &set, "--config"]);
            let (cost, _) = measure::run(job.arg(&config));
            walls.push(cost.wall);
            println!(
                "| {kind} | {:.0} | {:.2} | {:.0} |",
                options.count as f64 / cost.wall.as_secs_f64(),
                cost.cpu.as_secs_f64() * 1e6 / options.count as f64,
                cost.peak_bytes as f64 / 1e6
            );
        }
    }
    let [future_only, revise] = walls.map(|mut walls| {
        walls.sort_unstable();
        walls[ROUNDS / 2].as_secs_f64()
    });
    println!(
        "throughput of revise beside future-only, medians: {:.2}",
        future_only / revise
    );
    for limit in ["4GB", "16MB"] {
        correct(broker, folder, limit);
    }
}

/// Renames a location of about 100,000 rows while others come, and waits for the last of them. Most
/// of them are on disk if little memory is allowed.
fn correct(broker: &Broker, folder: &Path, memory_limit: &str) {
    let options = Options {
        hot_share: 1.0 / 9.0,
        ..Options::default()
    };
    let names = ["live", "lived"].map(|name| format!("revise-{name}-{memory_limit}"));
    let [input, output] = names.each_ref().map(String::as_str);
    for topic in [input, output] {
        broker.create_topic(topic, 4, &[]);
    }
    publish(broker, input, &options);
    let table = reference_csv(&options);
    std::fs::write(folder.join("reference.csv"), &table).expect("writable");
    let expected = Expected::of(&options).expect("the options are right");
    let is_hot = |key: &i64| expected.allowed(*key)[0].geographical_location_oid == HOT;
    let touched = expected.keys().filter(is_hot).count();
    let config = configuration(broker, folder, [input, output], 1);
    let mut command = Command::new(DELTAJOIN);
    let memory_limit = format!("state.memory_limit={memory_limit}");
    command.arg("run").args(AT_LEAST_ONCE);
    command.args(["--set", "join.on_reference_change=revise"]);
    command.args(["--set", &memory_limit]);
    let mut job = Job::spawn_command(command.arg("--config").arg(&config));
    let mut held = None;
    wait_until("all rows", LIMIT, || {
        let text = std::fs::read(folder.join("status.json")).unwrap_or_default();
        let status = serde_json::from_slice::<Status>(&text).ok();
        held = status.map(|status| status.counts);
        held.is_some_and(|counts| counts.rows_out == expected.rows())
    });
    let held = held.expect("it was waited for");
    println!("\n{memory_limit}");
    tell_held(
        &folder
            .join("local/process-0")
            .join(format!("bench-{output}")),
        &held,
    );
    let renamed = table.lines().map(|line| match line.split_once(',') {
        Some((location, _)) if location == HOT.to_string() => format!("{location},{RENAMED}\n"),
        _ => format!("{line}\n"),
    });
    let found = watch(broker, [input, output], touched, || {
        std::fs::write(folder.join("reference.csv"), renamed.collect::<String>())
            .expect("writable");
        job.signal(Signal::Hangup);
    });
    println!(
        "{touched} rows corrected {:.2} s after the file was written",
        found.corrected.as_secs_f64()
    );
    for (when, mut latencies) in [("before", found.before), ("during", found.during)] {
        latencies.sort_unstable();
        let quantile = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
        println!(
            "other results {when} it: {}, p50 {:.1} ms, p99 {:.1} ms",
            latencies.len(),
            quantile(0.5) as f64 / 1000.0,
            quantile(0.99) as f64 / 1000.0
        );
    }
}

/// Tells what the rows of the window take, in memory and in the job's folder of what has left it.
fn tell_held(folder: &Path, held: &Counts) {
    println!(
        "{} rows of the window, {:.1} bytes of memory each",
        held.recent_rows,
        held.recent_bytes as f64 / held.recent_rows as f64
    );
    if held.cold_rows > 0 {
        let files = std::fs::read_dir(folder).expect("the job's folder is there");
        let bytes = files.map(|file| {
            let file = file.expect("the folder can be read");
            let is_of_rows = file.file_name().to_string_lossy().starts_with("window-");
            let bytes = file.metadata().map_or(0, |file| file.len());
            if is_of_rows { bytes } else { 0 }
        });
        println!(
            "{} of them on disk, {:.1} bytes there each",
            held.cold_rows,
            bytes.sum::<u64>() as f64 / held.cold_rows as f64
        );
    }
}

/// What a reader of the results has seen.
struct Found {
    /// From the change to the last row that it touches.
    corrected: Duration,
    /// How late other results were, in microseconds, without it and until then.
    before: Vec<u64>,
    during: Vec<u64>,
}

/// Publishes 10,000 events/s, makes the change, and reads until all rows that it touches are there.
fn watch(
    broker: &Broker,
    [input, output]: [&str; 2],
    touched: usize,
    change: impl FnOnce(),
) -> Found {
    let consumer = reader(broker, output, Offset::End);
    let publishing = Publishing::start(broker, input);
    let started = Instant::now();
    let mut change = Some(change);
    let mut changed = started;
    let (mut before, mut during, mut corrected) = (Vec::new(), Vec::new(), 0);
    while corrected < touched {
        assert!(
            started.elapsed() < LIMIT,
            "{corrected} of {touched} are corrected"
        );
        if started.elapsed() > WARM_UP + COUNTED
            && let Some(change) = change.take()
        {
            changed = Instant::now();
            change();
        }
        let Some(message) = consumer.poll(Duration::from_millis(10)) else {
            continue;
        };
        let now = now_us();
        let message = message.expect("the topic can be read");
        let value = message.payload().expect("nothing is removed");
        let row: deltajoin::generate::Row = serde_json::from_slice(value).expect("a result");
        let is_renamed = row.geographical_location.as_deref() == Some(RENAMED);
        if row.detection_oid.unsigned_abs() >= FIRST_GENERATED {
            corrected += usize::from(is_renamed);
        } else if !is_renamed && started.elapsed() > WARM_UP {
            let published = published_us(&message).expect("an event says when it was published");
            let latencies = match change {
                Some(_) => &mut before,
                None => &mut during,
            };
            latencies.push(now.saturating_sub(published));
        }
    }
    let corrected = changed.elapsed();
    publishing.end();
    Found {
        corrected,
        before,
        during,
    }
}
