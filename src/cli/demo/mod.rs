//! `deltajoin demo`: the whole job on one host, with an embedded Kafka-compatible broker, to look
//! at and to break.
//!
//! It runs what anyone would run: `deltajoin cluster` with two worker processes. Only the broker
//! is not Apache Kafka but one inside this process, which keeps everything in memory.

mod view;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use deltajoin_workers::ports::Stop;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::cli::{say, stop_by_signals};
use crate::cluster::supervisor::{Pace, Plan, supervise};
use crate::config::KafkaTopic;
use crate::error::ExitCode;
use crate::failure::Failure;
use crate::generate::{self, Generator, Options};
use crate::telemetry::{self, WallClock};

/// Worker processes of the demo: two, so that one can be killed.
const PROCESSES: usize = 2;
/// The broker keeps everything in memory, and looks at all batches of a topic for every fetch, and
/// at those of a segment for every write: topics forget after a minute, and segments are short.
const TOPIC_SETTINGS: [(&str, &str); 2] = [("retention.ms", "60000"), ("segment.ms", "5000")];
/// For the same reason events come a few at a time.
const TICK: Duration = Duration::from_millis(5);

/// What the demo may be told.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Records a second.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// End after so many seconds; 0 goes on until Ctrl-C.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
}

/// Runs the demo.
pub(super) fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    telemetry::log_to_stderr("warn,deltajoin=info")
        .map_err(|error| Failure::failed(format!("could not start logging: {error}")))?;
    let stop = stop_by_signals()?;
    let address = noida::kafka::spawn("127.0.0.1:0").map_err(|error| {
        Failure::failed(format!("could not start the embedded broker: {error}"))
    })?;
    let brokers = address.to_string();
    create_topics(&brokers)?;
    let options = Options {
        count: u64::MAX,
        rate: args.rate,
        bad_share: 0.0005,
        start_ms: now_ms(),
        ..Options::default()
    };
    let folder = Folder::make()?;
    let config = write_files(&folder.0, &brokers, &options)?;
    say(&format!(
        "events: {brokers} topic \"events\", {}/s, 10 % of them retries\n\
         results: topic \"joined\"; dead letters: topic \"joined.dead\"\n\
         configuration: {}\n\
         Kill a worker with `kill -9 PID` (see below) and watch the job start again; Ctrl-C ends.\n\
         Rename a location, and results of the last ten minutes are corrected:\n    \
         sed -i 's/^1,.*/1,Renamed/' {}",
        args.rate,
        config.display(),
        folder.0.join("reference.csv").display()
    ));
    let publishing = publish(options, &brokers, &stop)?;
    let viewing = view::start(&brokers, &folder.0.join("status.json"), &stop, args.seconds)?;
    let code = run_cluster(&config, &stop)?;
    // A cluster that ended by itself has failed: the others need not go on.
    stop.ask();
    for thread in [publishing, viewing] {
        thread.join().expect("a panic ends the process");
    }
    Ok(code)
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("deltajoin-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .map_err(|error| Failure::failed(format!("could not make {path:?}: {error}")))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the system's folder for what may be.
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

fn now_ms() -> u64 {
    use deltajoin_workers::ports::Clock;
    WallClock::start().now_ms()
}

fn create_topics(brokers: &str) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("could not make the demo's topics: {error}"))
    };
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .map_err(|error| failed(&error))?;
    let topics = ["events", "joined", "joined.dead"].map(|name| {
        let topic = NewTopic::new(name, 4, TopicReplication::Fixed(1));
        let settings = TOPIC_SETTINGS.iter();
        settings.fold(topic, |topic, (key, value)| topic.set(key, value))
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let created = runtime
        .map_err(|error| failed(&error))?
        .block_on(admin.create_topics(&topics, &AdminOptions::new()))
        .map_err(|error| failed(&error))?;
    for result in created {
        result.map_err(|(topic, code)| failed(&format!("{topic}: {code}")))?;
    }
    Ok(())
}

/// Writes reference table, secret and configuration.
fn write_files(folder: &Path, brokers: &str, options: &Options) -> Result<PathBuf, Failure> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::File::create(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| Failure::failed(format!("could not write {path:?}: {error}")))?;
        Ok::<_, Failure>(path)
    };
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| Failure::failed(format!("could not draw a secret: {error}")))?;
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let reference = write("reference.csv", &generate::reference_csv(options))?;
    let secret = write("secret", &secret)?;
    let addresses: Vec<String> = free_ports(PROCESSES)?
        .into_iter()
        .map(|port| format!("\"127.0.0.1:{port}\""))
        .collect();
    let text = include_str!("demo.toml")
        .replace("BROKERS", brokers)
        .replace("REFERENCE", &reference.display().to_string())
        .replace("STATUS", &folder.join("status.json").display().to_string())
        .replace("SECRET", &secret.display().to_string())
        .replace("STATE", &folder.join("state").display().to_string())
        .replace("ADDRESSES", &addresses.join(", "));
    write("demo.toml", &text)
}

fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let failed = |error| Failure::failed(format!("could not find a free port: {error}"));
    // All are held until all are found, so none is found twice.
    let listeners = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0"));
    let listeners: Vec<_> = listeners.collect::<Result<_, _>>().map_err(failed)?;
    let port = |listener: &std::net::TcpListener| Ok(listener.local_addr().map_err(failed)?.port());
    listeners.iter().map(port).collect()
}

fn publish(
    options: Options,
    brokers: &str,
    stop: &Arc<Stop>,
) -> Result<std::thread::JoinHandle<()>, Failure> {
    let topic = KafkaTopic {
        brokers: brokers.to_owned(),
        topic: "events".to_owned(),
        properties: std::collections::BTreeMap::new(),
    };
    let generator = Generator::new(options).expect("the demo's options are constants");
    let pace = generate::Pace {
        clock: WallClock::start(),
        stop: Arc::clone(stop),
        tick: TICK,
    };
    std::thread::Builder::new()
        .name("generator".to_owned())
        .spawn(move || {
            if let Err(error) = generate::to_kafka(generator, &topic, &pace) {
                tracing::error!(%error, "could not publish events");
            }
        })
        .map_err(|error| Failure::failed(format!("could not start a thread: {error}")))
}

fn run_cluster(config: &Path, stop: &Stop) -> Result<ExitCode, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("could not find this program: {error}")))?;
    let command = |index: usize| {
        let mut command = Command::new(&program);
        let process = index.to_string();
        command.args(["worker", "--supervised", "--quiet", "--process", &process]);
        command.arg("--config").arg(config);
        command
    };
    let plan = Plan {
        processes: PROCESSES,
        restarts: 20,
        command: &command,
        pace: Pace::STANDARD,
        reload: &AtomicBool::new(false),
    };
    Ok(supervise(&plan, stop))
}
