//! Tests of the names that a job has at its clusters.

#![cfg(feature = "kafka")]

use crate::config::{self, Sources};

use super::*;

/// Two processes that write exactly-once to two clusters.
const CONFIG: &str = r#"
[events]
brokers = "alpha:9092"
topic = "events"
key = ["id"]
columns = { id = "int64", place = "int64" }
[reference]
path = "reference.csv"
key = ["place"]
columns = { place = "int64", name = "string" }
[join]
on = { place = "place" }
[[sinks]]
brokers = "alpha:9092"
topic = "joined"
[[sinks]]
name = "other"
brokers = "beta:9092"
topic = "joined"
[cluster]
processes = 2
addresses = ["alpha:2101", "alpha:2102"]
secret_file = "secret"
"#;

fn transactional_ids(job: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("job.toml");
    std::fs::write(&file, format!("job = {job:?}\n{CONFIG}")).unwrap();
    let loaded = config::load(Sources {
        file,
        environment: [],
        set: Vec::new(),
    });
    let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
    let producers = Settings::of(&config).producers();
    producers.into_iter().map(|producer| producer.id).collect()
}

/// Two jobs with one id would take it from each other for ever.
#[test]
fn no_two_jobs_have_a_transactional_id_in_common() {
    let own = transactional_ids("detections");
    assert_eq!(own.len(), 4, "one of each process at each cluster: {own:?}");
    assert!(own.iter().all(|id| id.starts_with("detections")));
    for other in ["detections-0", "detections-1", "detections-1-1"] {
        let others = transactional_ids(other);
        let common: Vec<_> = own.iter().filter(|id| others.contains(id)).collect();
        assert!(common.is_empty(), "{other}: {common:?}");
    }
}
