//! `make bench`: figures of the whole job against a hand-written loop, on a real broker, in one
//! run, so that they can be compared as ratios on whatever machine this is.
//!
//! | figure | what is run |
//! |---|---|
//! | catch-up | a topic of 5 million events, read to its end: events/s, CPU, peak memory |
//! | latency | 10,000 events/s, from the event to a consumer of the result; by checkpoints |
//! | memory | 10 million distinct keys, resident bytes above the empty job |
//! | idle | a live job without events, CPU of its workers |
//! | intervals | exactly-once, by how often it commits |
//! | restart | from a kill to the first new row, with a million keys and with `BENCH_KEYS` |
//! | writes | bytes that checkpoints and bindings take for each event |
//! | revise | results that follow the reference: throughput, memory, time to correct them |
//!
//! Arguments name figures; without any, all are made. `BENCH_EVENTS` sets the size of
//! the topic. Every output of the catch-up is checked against the generator's expectation.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and tells the time"
)]

mod catch_up;
mod latency;
mod limit;
mod measure;
mod restart;
mod revise;
mod standing;

use std::path::Path;

use deltajoin::config::KafkaTopic;
use deltajoin_testkit::Broker;

/// What has a job write at least once; the default is exactly once.
const AT_LEAST_ONCE: [&str; 2] = [
    "--set=sinks.0.delivery=at-least-once",
    "--set=dead_letters.delivery=at-least-once",
];

/// The program under test.
const DELTAJOIN: &str = env!("CARGO_BIN_EXE_deltajoin");

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    if arguments.first().is_some_and(|first| first == "limit") {
        return limit::main(&arguments[1..]);
    }
    let wanted = |figure: &str| arguments.is_empty() || arguments.iter().any(|a| a == figure);
    println!("machine: {}", measure::machine());
    let broker = Broker::start();
    broker.create_topic("dead", 4, &[]);
    let folder = tempfile::tempdir().expect("the system has room for a folder");
    if wanted("catch-up") {
        catch_up::run(&broker, folder.path());
    }
    if wanted("latency") {
        latency::run(&broker, folder.path());
        latency::checkpoints(&broker, folder.path());
    }
    if wanted("memory") {
        standing::memory(&broker, folder.path());
    }
    if wanted("idle") {
        standing::idle(&broker, folder.path());
    }
    if wanted("intervals") {
        latency::intervals(&broker, folder.path());
    }
    if wanted("restart") {
        restart::restart(&broker, folder.path());
    }
    if wanted("revise") {
        revise::run(&broker, folder.path());
    }
    if wanted("writes") {
        restart::writes(&broker, folder.path());
    }
}

/// A topic of the broker.
fn topic(broker: &Broker, name: &str) -> KafkaTopic {
    KafkaTopic {
        brokers: broker.bootstrap(),
        topic: name.to_owned(),
        properties: std::collections::BTreeMap::new(),
    }
}

/// The job's configuration for some processes; the reference table is beside it.
fn configuration(
    broker: &Broker,
    folder: &Path,
    [input, output]: [&str; 2],
    processes: usize,
) -> std::path::PathBuf {
    let folder = folder.display();
    let cluster = match processes {
        1 => String::new(),
        _ => {
            let ports = deltajoin_testkit::free_ports(processes).into_iter();
            let addresses = ports.map(|port| format!("\"127.0.0.1:{port}\""));
            let addresses = addresses.collect::<Vec<_>>().join(", ");
            format!("addresses = [{addresses}]\nsecret_file = \"{folder}/secret\"")
        }
    };
    let brokers = broker.bootstrap();
    let text = format!(
        r#"job = "bench-{output}"
[events]
brokers = "{brokers}"
topic = "{input}"
key = ["detection_oid"]
[events.columns]
geographical_location_oid = "int64"
video_camera_oid = "int64"
detection_oid = "int64"
item_name = "string"
timestamp_detected = "int64"
[reference]
path = "{folder}/reference.csv"
key = ["geographical_location_oid"]
columns = {{ geographical_location_oid = "int64", geographical_location = "string" }}
[join]
on = {{ geographical_location_oid = "geographical_location_oid" }}
# What holds rows is a figure of its own.
on_reference_change = "future-only"
[[sinks]]
type = "kafka"
brokers = "{brokers}"
topic = "{output}"
[dead_letters]
type = "kafka"
brokers = "{brokers}"
topic = "dead"
[cluster]
processes = {processes}
{cluster}
[checkpoint]
location = "file://{folder}/state"
[state]
dir = "{folder}/local"
[telemetry]
log = "warn"
status_file = "{folder}/status.json"
"#
    );
    std::fs::write(format!("{folder}/secret"), "bench").expect("the folder is writable");
    let path = std::path::PathBuf::from(format!("{folder}/{output}.toml"));
    std::fs::write(&path, text).expect("the folder is writable");
    path
}
