//! Tests of what a manifest of a newer generation means, by what the log of bindings holds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use deltajoin_workers::ports::Stop;
use deltajoin_workers::state::Limit;

use crate::bindings::Log as _;
use crate::bindings::testing::marker;
use crate::checkpoint::{self, Store};
use crate::config::{self, Bindings, Config, Sources};
use crate::connectors::file::BindingFile;
use crate::process::cold::Cold;
use crate::process::memory::Memory;

use super::*;

const CONFIG: &str = r#"
job = "test"
[events]
type = "file"
path = "events.jsonl"
key = ["id"]
columns = { id = "int64", place = "int64" }
[reference]
path = "reference.csv"
key = ["place"]
columns = { place = "int64", name = "string" }
[join]
on = { place = "place" }
[[sinks]]
type = "jsonl"
path = "joined.jsonl"
"#;

fn config(folder: &std::path::Path) -> Config {
    let file = folder.join("job.toml");
    std::fs::write(&file, CONFIG).unwrap();
    let loaded = config::load(Sources {
        file,
        environment: [],
        set: Vec::new(),
    });
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

/// Where two clusters share checkpoints but no log, a restart would only do the same again, and the
/// code for being superseded would keep the job from going on where nobody has taken it over.
#[test]
fn a_newer_manifest_means_superseded_only_if_the_log_holds_a_newer_marker() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bindings.jsonl");
    let stop = Arc::new(Stop::default());
    let location = format!("file://{}", folder.path().display());
    let options = checkpoint::Options::default();
    let store = Store::open(&location, "test", options, Arc::clone(&stop)).unwrap();
    let on_fault = Box::new(|error: &Error| panic!("{error}"));
    let dir = folder.path().join("local");
    let cold = Cold::at(&dir, ("test", 0), &stop, on_fault, Limit::NONE).unwrap();
    let making = Making {
        shared: Arc::default(),
        options: Options {
            store: Arc::new(store),
            cold: cold.folder,
            store_stop: Arc::clone(&stop),
            generation: 1,
            bindings: Bindings::File(path.clone()),
            interval: Duration::ZERO,
            workers: 1,
            memory: Memory::of(&config(folder.path())),
            fatal: |failure| panic!("{} {failure}", failure.code.number()),
            publishing: None,
        },
        merging: None,
    };
    let ended = || {
        let put = || {
            making.insist("could not publish a checkpoint", || {
                Err::<(), _>(Error::Superseded {
                    name: "manifest-7.json".to_owned(),
                    generation: 1,
                    newer: 9,
                })
            })
        };
        let panic = catch_unwind(AssertUnwindSafe(put)).expect_err("the process ends");
        panic.downcast_ref::<String>().unwrap().clone()
    };
    let mut log = BindingFile::open(&path).unwrap();
    let markers = ["before", "own"].map(|holder| marker(holder).encode());
    log.append(&markers, &stop).unwrap();
    let said = ended();
    assert!(
        said.starts_with("1 error: \"manifest-7.json\" is of generation 9"),
        "{said}"
    );
    log.append(&[marker("the newer one").encode()], &stop)
        .unwrap();
    let said = ended();
    assert!(said.starts_with("5 error: superseded"), "{said}");
    assert!(said.contains("the newer one"), "{said}");
}
