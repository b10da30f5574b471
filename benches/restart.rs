//! What a restart takes, and what being ready for one costs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use deltajoin::generate::{Options, reference_csv};
use deltajoin_testkit::{Broker, Job};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::catch_up::publish;
use crate::{DELTAJOIN, configuration};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(600);

/// How long a killed job needs until the first new row, with few keys and with many.
pub(crate) fn restart(broker: &Broker, folder: &Path) {
    println!("\nrestart of a killed job, one process of two threads");
    println!("| keys | s to the first new row | MB of its checkpoint | bytes a key |");
    println!("|--:|--:|--:|--:|");
    let most = std::env::var("BENCH_KEYS").ok();
    let most = most.map_or(36_000_000, |keys| keys.parse().expect("a number of keys"));
    for keys in [1_000_000, most] {
        let options = Options {
            count: keys,
            retry_share: 0.0,
            ..Options::default()
        };
        std::fs::write(folder.join("reference.csv"), reference_csv(&options)).expect("writable");
        let (input, output) = (format!("restart{keys}"), format!("restarted{keys}"));
        for topic in [&input, &output] {
            broker.create_topic(topic, 4, &[]);
        }
        publish(broker, &input, &options);
        let config = configuration(broker, folder, [&input, &output], 1);
        let job = |arguments: &[&str]| {
            let mut command = Command::new(DELTAJOIN);
            command.args(["run", "--set", "cluster.threads=2"]);
            Job::spawn_command(command.args(arguments).arg("--config").arg(&config))
        };
        job(&["--until-end"]).wait(LIMIT).assert_code(0);
        let bytes = bytes_of(&folder.join("state").join(format!("bench-{output}")));
        let newest = Newest::of(broker, &output);
        let mut killed = job(&[]);
        newest.wait_for(broker, &input, 1);
        killed.kill();
        killed.wait(LIMIT);
        let started = Instant::now();
        let restarted = job(&[]);
        newest.wait_for(broker, &input, 2);
        println!(
            "| {keys} | {:.2} | {:.0} | {:.1} |",
            started.elapsed().as_secs_f64(),
            bytes as f64 / 1e6,
            bytes as f64 / keys as f64
        );
        drop(restarted);
    }
}

/// The end of a topic of results.
struct Newest(BaseConsumer);

impl Newest {
    fn of(broker: &Broker, topic: &str) -> Self {
        let mut client = broker.client();
        let consumer: BaseConsumer = client
            .set("group.id", "restart")
            .set("fetch.wait.max.ms", "20")
            .create()
            .expect("a consumer can be made");
        let mut partitions = TopicPartitionList::new();
        for partition in 0..4 {
            let ends = consumer.fetch_watermarks(topic, partition, LIMIT);
            let (_, end) = ends.expect("the broker answers");
            partitions
                .add_partition_offset(topic, partition, Offset::Offset(end))
                .expect("a partition has an end");
        }
        consumer.assign(&partitions).expect("they exist");
        Self(consumer)
    }

    /// Publishes an event that no other one has the key of, and waits for its row.
    fn wait_for(&self, broker: &Broker, input: &str, key: i64) {
        let producer: BaseProducer = broker.client().create().expect("a producer can be made");
        let value = format!(
            "{{\"geographical_location_oid\":1,\"video_camera_oid\":1,\"detection_oid\":-{key},\
             \"item_name\":\"car\",\"timestamp_detected\":1767225600000}}"
        );
        let record = BaseRecord::<[u8], _>::to(input).payload(&value);
        assert!(producer.send(record).is_ok(), "the queue is empty");
        producer.flush(LIMIT).expect("the topic can be written");
        let wanted = format!("\"detection_oid\":-{key},");
        let started = Instant::now();
        while started.elapsed() < LIMIT {
            if let Some(Ok(message)) = self.0.poll(Duration::from_millis(10)) {
                let row = String::from_utf8_lossy(message.payload().expect("a row has a value"));
                if row.contains(&wanted) {
                    return;
                }
            }
        }
        panic!("no row came within {LIMIT:?}");
    }
}

fn bytes_of(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).expect("a checkpoint was made");
    let sizes = files.map(|file| {
        file.and_then(|file| file.metadata())
            .map_or(0, |it| it.len())
    });
    sizes.sum()
}

/// Bytes that checkpoints and bindings take for each event.
pub(crate) fn writes(broker: &Broker, folder: &Path) {
    const RATE: u64 = 10_000;
    const SECONDS: u64 = 60;
    let options = Options {
        count: RATE * SECONDS,
        rate: RATE,
        ..Options::default()
    };
    std::fs::write(folder.join("reference.csv"), reference_csv(&options)).expect("writable");
    println!("\nbytes written for an event, {RATE} events/s, one process");
    println!("| a checkpoint every | runs of keys and manifests | bindings |");
    println!("|---|--:|--:|");
    for interval in ["10s", "1s", "200ms"] {
        let (input, output) = (format!("written{interval}"), format!("writing{interval}"));
        for topic in [&input, &output] {
            broker.create_topic(topic, 4, &[]);
        }
        let config = configuration(broker, folder, [&input, &output], 1);
        let mut command = Command::new(DELTAJOIN);
        let interval_set = format!("checkpoint.interval={interval}");
        let quiet = "telemetry.status_file=";
        command.args(["run", "--set", &interval_set, "--set", quiet, "--config"]);
        let newest = Newest::of(broker, &output);
        let job = Job::spawn_command(command.arg(config));
        newest.wait_for(broker, &input, 1);
        let before = written(job.pid());
        publish(broker, &input, &options);
        newest.wait_for(broker, &input, 2);
        let written = written(job.pid()) - before;
        let mut bindings = 0;
        broker.read(&format!("bench-{output}.bindings"), |record| {
            bindings += record.value.map_or(0, |value| value.len());
        });
        let events = options.count as f64;
        println!(
            "| {interval} | {:.1} | {:.1} |",
            written as f64 / events,
            bindings as f64 / events
        );
        drop(job);
    }
}

/// What a process has written to disks; what goes to sockets is not in it.
fn written(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("it runs");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"));
    line.expect("the system counts it")
        .trim()
        .parse()
        .expect("a number")
}
