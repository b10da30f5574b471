//! What a job costs that stands: memory a key, and CPU with nothing to do.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use deltajoin::generate::{Options, reference_csv};
use deltajoin::telemetry::Status;
use deltajoin_testkit::{Broker, Job, wait_until};

use crate::catch_up::publish;
use crate::{AT_LEAST_ONCE, DELTAJOIN, configuration};

/// A live job that is told these settings, once it has read `records`.
fn live(
    broker: &Broker,
    folder: &Path,
    (input, settings): (&str, &[&str]),
    processes: usize,
    records: u64,
) -> Job {
    let output = format!("{input}-joined{}", settings.len());
    broker.create_topic(&output, 4, &[]);
    let config = configuration(broker, folder, [input, &output], processes);
    let status = folder.join("status.json");
    std::fs::remove_file(&status).unwrap_or_default();
    let mut command = Command::new(DELTAJOIN);
    command
        .arg(if processes == 1 { "run" } else { "cluster" })
        .args(settings)
        .arg("--config")
        .arg(config);
    let job = Job::spawn_command(&mut command);
    wait_until("the job has read all", Duration::from_secs(300), || {
        let text = std::fs::read(&status).unwrap_or_default();
        serde_json::from_slice::<Status>(&text).is_ok_and(|status| {
            status.counts.reference_rows > 0 && status.counts.rows_out >= records
        })
    });
    job
}

pub(crate) fn memory(broker: &Broker, folder: &Path) {
    let keys = 10_000_000;
    let options = Options {
        count: keys,
        retry_share: 0.0,
        ..Options::default()
    };
    std::fs::write(folder.join("reference.csv"), reference_csv(&options)).expect("writable");
    for name in ["empty", "keys"] {
        broker.create_topic(name, 4, &[]);
    }
    publish(broker, "keys", &options);
    println!("\nmemory, {keys} distinct keys of 64 bits, one process");
    for (delivery, settings) in [("at-least-once", &AT_LEAST_ONCE[..]), ("exactly-once", &[])] {
        let empty = live(broker, folder, ("empty", settings), 1, 0).usage();
        let job = live(broker, folder, ("keys", settings), 1, keys);
        // What was in flight is given back within a moment, keys of no checkpoint yet with the
        // next.
        std::thread::sleep(Duration::from_secs(15));
        let (empty, full) = (empty.resident_bytes, job.usage().resident_bytes);
        let status = std::fs::read(folder.join("status.json")).expect("the job is live");
        let status: Status = serde_json::from_slice(&status).expect("it is JSON");
        println!(
            "{delivery}: empty job {} MB, with the keys {} MB; resident bytes a key above the \
             empty job {:.1}, in the key sets alone {:.1}",
            empty / 1_000_000,
            full / 1_000_000,
            (full - empty) as f64 / keys as f64,
            status.counts.key_bytes as f64 / status.counts.keys as f64
        );
    }
}

pub(crate) fn idle(broker: &Broker, folder: &Path) {
    std::fs::write(
        folder.join("reference.csv"),
        reference_csv(&Options::default()),
    )
    .expect("writable");
    broker.create_topic("idle", 4, &[]);
    let job = live(broker, folder, ("idle", &[]), 2, 0);
    std::thread::sleep(Duration::from_secs(2));
    let seconds = 20;
    let before = job.usage().cpu;
    std::thread::sleep(Duration::from_secs(seconds));
    let used = (job.usage().cpu - before).as_secs_f64();
    println!("\nidle, two processes of one worker, {seconds} s without events");
    println!(
        "CPU of all processes together: {:.2} % of a core, {:.2} % a worker",
        used * 100.0 / seconds as f64,
        used * 50.0 / seconds as f64
    );
}
