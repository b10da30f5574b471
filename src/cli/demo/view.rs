//! What the demo shows: a progress line a second, and now and then a few of the newest results.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use deltajoin_workers::ports::Stop;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::cli::print;
use crate::failure::Failure;
use crate::telemetry::{Status, progress_line};

/// Seconds from one look at the newest results to the next.
const SAMPLE_SECONDS: u64 = 5;
/// Results that are shown each time.
const SAMPLE_ROWS: usize = 3;

/// Starts to show; asks for a stop after `seconds`, if that is not 0.
pub(super) fn start(
    brokers: &str,
    status_file: &Path,
    stop: &Arc<Stop>,
    seconds: u64,
) -> Result<JoinHandle<()>, Failure> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "demo-view")
        .set("enable.auto.commit", "false")
        .create()
        .map_err(|error| Failure::failed(format!("could not read the results: {error}")))?;
    let (status_file, stop) = (status_file.to_owned(), Arc::clone(stop));
    std::thread::Builder::new()
        .name("view".to_owned())
        .spawn(move || show(&consumer, &status_file, &stop, seconds))
        .map_err(|error| Failure::failed(format!("could not start a thread: {error}")))
}

fn show(consumer: &BaseConsumer, status_file: &PathBuf, stop: &Stop, seconds: u64) {
    let mut before = Status::default();
    for second in 1.. {
        std::thread::sleep(Duration::from_secs(1));
        if stop.asked() {
            return;
        }
        let now = std::fs::read(status_file)
            .ok()
            .and_then(|text| serde_json::from_slice::<Status>(&text).ok());
        if let Some(now) = now
            && now.written_ms > before.written_ms
        {
            if before.generation == now.generation {
                print(&progress_line(&before, &now));
            } else {
                print(&format!("generation {} starts", now.generation));
            }
            before = now;
        }
        if second % SAMPLE_SECONDS == 0 {
            newest(consumer)
                .iter()
                .for_each(|row| print(&format!("    {row}")));
        }
        if seconds > 0 && second >= seconds {
            stop.ask();
            return;
        }
    }
}

/// A few of the newest results, one a partition.
fn newest(consumer: &BaseConsumer) -> Vec<String> {
    let mut list = TopicPartitionList::new();
    for partition in 0..4 {
        if list
            .add_partition_offset("joined", partition, Offset::OffsetTail(1))
            .is_err()
        {
            return Vec::new();
        }
    }
    if consumer.assign(&list).is_err() {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for _ in 0..10 {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
            rows.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
        }
        if rows.len() == SAMPLE_ROWS {
            break;
        }
    }
    rows
}
