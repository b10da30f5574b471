//! Latency: events at a steady rate, from the moment of publication to a consumer of the result.
//!
//! An event carries its publication in microseconds as `timestamp_detected`, so the clock is one.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deltajoin::generate::{Options, reference_csv};
use deltajoin_testkit::{Broker, Process};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::{AT_LEAST_ONCE, DELTAJOIN, configuration};

/// Events in each millisecond.
const PER_MILLISECOND: u64 = 10;
/// How long events come before they count, and how long they count.
const WARM_UP: Duration = Duration::from_secs(5);
const COUNTED: Duration = Duration::from_secs(25);
/// The counted time is cut into so many parts; the median of their quantiles is shown.
const PARTS: usize = 5;

pub(crate) fn run(broker: &Broker, folder: &Path) {
    std::fs::write(
        folder.join("reference.csv"),
        reference_csv(&Options::default()),
    )
    .expect("writable");
    println!("\nlatency at 10,000 events/s, ms from the event to a consumer of the result,");
    println!(
        "median of {PARTS} parts of {} s",
        COUNTED.as_secs() / PARTS as u64
    );
    println!("| between | p50 | p99 | p99.9 | its CPU, % of a core |");
    println!("|---|--:|--:|--:|--:|");
    for (name, processes, arguments) in [
        ("nothing", 0, &[][..]),
        ("limit", 0, &[]),
        ("at-least-once", 1, &AT_LEAST_ONCE),
        ("at-least-once", 2, &AT_LEAST_ONCE),
        ("exactly-once", 1, &[]),
        ("exactly-once", 2, &[]),
    ] {
        let (input, output) = (
            format!("in-{name}{processes}"),
            format!("out-{name}{processes}"),
        );
        for topic in [&input, &output] {
            broker.create_topic(topic, 4, &[]);
        }
        let brokers = broker.bootstrap();
        let reference = folder.join("reference.csv").display().to_string();
        let process = match name {
            "nothing" => None,
            "limit" => {
                let mut command = Command::new(std::env::current_exe().expect("this program"));
                command.args(["limit", &brokers, &input, &output, &reference, "0"]);
                Some(Process::spawn(&mut command))
            }
            _ => Some(start(
                broker,
                folder,
                [&input, &output],
                processes,
                arguments,
            )),
        };
        let watched = if process.is_some() { &output } else { &input };
        let cpu = || {
            process
                .as_ref()
                .map_or(Duration::ZERO, |it| it.usage_of_group().cpu)
        };
        let (before, started) = (cpu(), Instant::now());
        let quantiles = measure(broker, &input, watched);
        let share = (cpu() - before).as_secs_f64() * 100.0 / started.elapsed().as_secs_f64();
        let name = if processes > 0 {
            format!("{name}, {processes} processes")
        } else {
            name.into()
        };
        println!(
            "| {name} | {:.1} | {:.1} | {:.1} | {share:.0} |",
            quantiles[0], quantiles[1], quantiles[2]
        );
        drop(process);
    }
}

/// At-least-once on one process, by how often checkpoints are made: a mark that they leave would
/// be seen in the upper quantiles.
pub(crate) fn checkpoints(broker: &Broker, folder: &Path) {
    std::fs::write(
        folder.join("reference.csv"),
        reference_csv(&Options::default()),
    )
    .expect("writable");
    println!("\nat-least-once at 10,000 events/s, one process, by checkpoint.interval");
    println!("| a checkpoint every | p50 ms | p99 ms | p99.9 ms |");
    println!("|---|--:|--:|--:|");
    for interval in ["1h", "10s", "1s", "200ms"] {
        let (input, output) = (
            format!("in-kept-{interval}"),
            format!("out-kept-{interval}"),
        );
        for topic in [&input, &output] {
            broker.create_topic(topic, 4, &[]);
        }
        let setting = format!("--set=checkpoint.interval={interval}");
        let settings = [&AT_LEAST_ONCE[..], &[&setting]].concat();
        let process = start(broker, folder, [&input, &output], 1, &settings);
        let [p50, p99, p999] = measure(broker, &input, &output);
        println!("| {interval} | {p50:.1} | {p99:.1} | {p999:.1} |");
        drop(process);
    }
}

/// Starts a job.
fn start(
    broker: &Broker,
    folder: &Path,
    topics: [&str; 2],
    processes: usize,
    arguments: &[&str],
) -> Process {
    let config = configuration(broker, folder, topics, processes);
    let mut command = Command::new(DELTAJOIN);
    command.arg(if processes == 1 { "run" } else { "cluster" });
    Process::spawn(command.args(arguments).arg("--config").arg(config))
}

/// Exactly-once on one process, by how often it commits: latency, and CPU of job and broker.
pub(crate) fn intervals(broker: &Broker, folder: &Path) {
    std::fs::write(
        folder.join("reference.csv"),
        reference_csv(&Options::default()),
    )
    .expect("writable");
    println!("\nexactly-once at 10,000 events/s, one process, by its commit_interval");
    println!("| commit_interval | p50 ms | p99 ms | job, % of a core | broker, % of a core |");
    println!("|---|--:|--:|--:|--:|");
    for interval in ["5ms", "10ms", "20ms", "50ms"] {
        let (input, output) = (format!("in-{interval}"), format!("out-{interval}"));
        for topic in [&input, &output] {
            broker.create_topic(topic, 4, &[]);
        }
        let settings = ["sinks.0", "dead_letters"]
            .map(|sink| format!("--set={sink}.commit_interval={interval}"));
        let settings = settings.each_ref().map(String::as_str);
        let process = start(broker, folder, [&input, &output], 1, &settings);
        let (job, all) = (process.usage().cpu, broker.usage().cpu);
        let started = Instant::now();
        let quantiles = measure(broker, &input, &output);
        let share = |cpu: Duration| cpu.as_secs_f64() * 100.0 / started.elapsed().as_secs_f64();
        let (job, all) = (process.usage().cpu - job, broker.usage().cpu - all);
        println!(
            "| {interval} | {:.1} | {:.1} | {:.0} | {:.0} |",
            quantiles[0],
            quantiles[1],
            share(job),
            share(all)
        );
        drop(process);
    }
}

pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970");
    since.as_micros() as u64
}

/// Publishes to one topic, watches another, and gives the quantiles in milliseconds.
fn measure(broker: &Broker, input: &str, watched: &str) -> [f64; 3] {
    let publishing = Publishing::start(broker, input);
    let consumer = reader(broker, watched, Offset::Beginning);
    let started = Instant::now();
    let mut parts: Vec<Vec<u64>> = vec![Vec::new(); PARTS];
    while started.elapsed() < WARM_UP + COUNTED {
        let Some(message) = consumer.poll(Duration::from_millis(10)) else {
            continue;
        };
        let now = now_us();
        let message = message.expect("the topic can be read");
        let Some(counted) = started.elapsed().checked_sub(WARM_UP) else {
            continue;
        };
        let part = (counted.as_secs_f64() / COUNTED.as_secs_f64() * PARTS as f64) as usize;
        if let (Some(part), Some(published)) = (parts.get_mut(part), published_us(&message)) {
            part.push(now.saturating_sub(published));
        }
    }
    publishing.end();
    [0.5, 0.99, 0.999].map(|quantile| {
        let mut of_parts: Vec<u64> = parts
            .iter_mut()
            .map(|part| {
                part.sort_unstable();
                assert!(part.len() > 1000, "the watched topic has results");
                part[((part.len() - 1) as f64 * quantile) as usize]
            })
            .collect();
        of_parts.sort_unstable();
        of_parts[PARTS / 2] as f64 / 1000.0
    })
}

/// Reads a topic of four partitions from here on.
pub(crate) fn reader(broker: &Broker, topic: &str, from: Offset) -> BaseConsumer {
    let mut client = broker.client();
    let consumer: BaseConsumer = client
        .set("group.id", "latency")
        .set("fetch.wait.max.ms", "100")
        .create()
        .expect("a consumer can be made");
    let mut partitions = TopicPartitionList::new();
    for partition in 0..4 {
        partitions
            .add_partition_offset(topic, partition, from)
            .expect("a partition has a beginning and an end");
    }
    consumer
        .assign(&partitions)
        .expect("the topic has four partitions");
    consumer
}

/// The thread that publishes.
pub(crate) struct Publishing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Publishing {
    pub(crate) fn start(broker: &Broker, topic: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut client, topic, stopped) = (broker.client(), topic.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let producer: BaseProducer = client
                .set("linger.ms", "0")
                .create()
                .expect("a producer can be made");
            publish(&producer, &topic, &stopped);
        });
        Self { stop, thread }
    }

    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("publishing goes well");
    }
}

/// The publication that an event or a result carries.
pub(crate) fn published_us(message: &impl Message) -> Option<u64> {
    const NAME: &str = "\"timestamp_detected\":";
    let text = std::str::from_utf8(message.payload()?).ok()?;
    let rest = &text[text.find(NAME)? + NAME.len()..];
    rest[..rest.find([',', '}'])?].trim().parse().ok()
}

fn publish(producer: &BaseProducer, topic: &str, stop: &AtomicBool) {
    let started = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = started.elapsed().as_millis() as u64 * PER_MILLISECOND;
        // One partition a tick, as an edge gateway would send what it has.
        let partition = (sent / PER_MILLISECOND % 4) as i32;
        while sent < due {
            let value = format!(
                "{{\"geographical_location_oid\":{},\"video_camera_oid\":{},\
                 \"detection_oid\":{sent},\"item_name\":\"person with red umbrella\",\
                 \"timestamp_detected\":{}}}",
                sent % 10_000,
                sent % 1000,
                now_us()
            );
            let record = BaseRecord::<[u8], _>::to(topic)
                .partition(partition)
                .payload(&value);
            producer
                .send(record)
                .expect("the queue has room at this rate");
            sent += 1;
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_micros(500));
    }
    producer
        .flush(Duration::from_secs(10))
        .expect("the topic can be written");
}
