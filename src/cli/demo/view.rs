//! What the demo shows: a progress line a second, and now and then a few of the newest results.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use deltajoin_workers::ports::Stop;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::cli::{end, print};
use crate::failure::Failure;
use crate::telemetry::{State, Status, progress_line};

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
    let mut view = View::default();
    for second in 1.. {
        std::thread::sleep(Duration::from_secs(1));
        if stop.asked() {
            return;
        }
        let now = std::fs::read(status_file)
            .ok()
            .and_then(|text| serde_json::from_slice::<Status>(&text).ok());
        let mut lines = now.map_or_else(Vec::new, |now| view.next(now));
        if second % SAMPLE_SECONDS == 0 {
            lines.extend(newest(consumer).iter().map(|row| format!("    {row}")));
        }
        if let Err(failure) = lines.iter().try_for_each(|line| print(line)) {
            // Nobody sees it any more.
            end(&failure);
            stop.ask();
            return;
        }
        if seconds > 0 && second >= seconds {
            stop.ask();
            return;
        }
    }
}

/// What has been shown of the job's status.
#[derive(Default)]
struct View {
    /// The newest status with a generation; at first none.
    before: Option<Status>,
}

impl View {
    /// The lines that the next status is worth.
    fn next(&mut self, now: Status) -> Vec<String> {
        let known = self.before.as_ref().map_or(0, |before| before.written_ms);
        // Until a process has its peers it has no generation.
        let begins = matches!(now.state, State::Starting | State::Loading);
        if begins || now.written_ms <= known {
            return Vec::new();
        }
        let starts = || format!("generation {} starts", now.generation);
        let mut lines = Vec::new();
        match &self.before {
            None => lines.push(starts()),
            Some(before) if before.generation == now.generation => {
                // Before the first epoch there is no progress.
                if now.epoch > 0 {
                    lines.push(progress_line(before, &now));
                }
                let corrected = now.counts.retracted - before.counts.retracted;
                if corrected > 0 {
                    lines.push(format!(
                        "{corrected} past results were corrected: the reference table has changed"
                    ));
                }
            }
            Some(_) => {
                let why = "it goes on from the newest checkpoint, and counts from there";
                lines.push(format!("{}: {why}", starts()));
            }
        }
        self.before = Some(now);
        lines
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_one_line_and_progress_begins_with_an_epoch() {
        let status = |generation, epoch, written_ms| Status {
            state: State::Live,
            generation,
            epoch,
            written_ms,
            ..Status::default()
        };
        let in_state = |state, written_ms| Status {
            state,
            ..status(0, 0, written_ms)
        };
        let starting = |written_ms| in_state(State::Starting, written_ms);
        let mut corrected = status(9, 8_500, 9_000);
        corrected.counts.retracted = 7;
        let mut view = View::default();
        let mut lines: Vec<String> = Vec::new();
        for now in [
            starting(1_000),
            status(0, 0, 2_000),
            status(0, 2_500, 3_000),
            status(0, 2_500, 3_000),
            status(0, 3_500, 4_000),
            in_state(State::Loading, 4_500),
            starting(5_000),
            status(9, 0, 6_000),
            status(9, 6_500, 7_000),
            status(9, 7_500, 8_000),
            corrected,
        ] {
            // Of a progress line, what does not depend on the numbers.
            let new = view.next(now).into_iter();
            lines.extend(new.filter_map(|line| line.split("  ").next().map(str::to_owned)));
        }
        assert_eq!(
            lines,
            [
                "generation 0 starts",
                "events/s",
                "events/s",
                "generation 9 starts: it goes on from the newest checkpoint, and counts from there",
                "events/s",
                "events/s",
                "events/s",
                "7 past results were corrected: the reference table has changed",
            ]
        );
    }
}
