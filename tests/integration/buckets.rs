//! Checkpoints in a bucket, on a real server that speaks S3, and with a network that fails.

mod proxy;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deltajoin::checkpoint::{
    Error, Groups, LogPosition, Manifest, Options, Put, Run, RunEntry, Start, Store, clean, merge,
    newest, probe, put_manifest, read_start, run_name, verify_all, write_run, write_start,
};
use deltajoin_testkit::BucketServer;
use deltajoin_workers::checkpoint::KeyRun;
use deltajoin_workers::key::mix64;
use deltajoin_workers::ports::Stop;

use crate::buckets::proxy::{Fault, Proxy};

fn options(server: SocketAddr) -> Options {
    let environment = BucketServer::environment(server);
    Options {
        environment: environment
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        patience: Duration::from_secs(20),
    }
}

fn open(location: &str, options: Options) -> Result<Store, Error> {
    Store::open(location, "job", options, Arc::new(Stop::default()))
}

/// A store in a new bucket, by way of that server.
fn store_by(bucket: &str, server: SocketAddr) -> Store {
    BucketServer::shared().create_bucket(bucket);
    open(&format!("s3://{bucket}/some/prefix"), options(server)).unwrap()
}

fn store(bucket: &str) -> Store {
    store_by(bucket, BucketServer::shared().address())
}

fn proxy() -> Proxy {
    Proxy::start(BucketServer::shared().address())
}

fn keys(count: u64, seed: u64) -> KeyRun {
    let mut keys: Vec<u64> = (0..count).map(|n| mix64(n * 16 + seed)).collect();
    keys.sort_unstable();
    KeyRun::Narrow(keys)
}

fn write(store: &Store, generation: u64, keys: &KeyRun) -> RunEntry {
    write_run(store, (&run_name(generation), 0), keys)
        .unwrap()
        .unwrap()
}

fn manifest(number: u64, generation: u64, runs: &[RunEntry]) -> Manifest {
    Manifest {
        job: "job".to_owned(),
        number,
        generation,
        epoch: 100 + number,
        written_ms: 1_767_225_600_000,
        log: LogPosition {
            marker: serde_json::Value::Null,
            next: number,
        },
        offsets: [(0, 5)].into(),
        clock_ms: None,
        rows: Vec::new(),
        runs: runs.to_vec(),
        reference: None,
        told: std::collections::BTreeMap::new(),
    }
}

#[test]
fn a_bucket_keeps_what_has_a_name_and_gives_ranges() {
    let store = store("names");
    assert_eq!(store.put("x", b"one").unwrap(), Put::Written);
    assert_eq!(store.put("x", b"two").unwrap(), Put::Taken);
    assert_eq!(store.get("x").unwrap(), b"one");
    assert_eq!(store.get_range("x", 1..3).unwrap(), b"ne");
    assert!(store.get_range("x", 1..9).unwrap_err().is_damage());
    let names = |store: &Store| -> Vec<String> {
        let objects = store.list().unwrap().into_iter();
        objects.map(|object| object.name).collect()
    };
    assert_eq!(names(&store), ["checkpoints.json", "x"]);
    store.delete("x").unwrap();
    store.delete("x").unwrap();
    assert!(matches!(store.get("x"), Err(Error::Missing { .. })));
    // In parts, and one that is given up.
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    for name in ["whole", "dropped"] {
        let mut writer = store.writer(name);
        bytes
            .chunks(3_000_000)
            .for_each(|piece| writer.write(piece).unwrap());
        if name == "whole" {
            assert_eq!(writer.finish().unwrap(), Put::Written);
        }
    }
    assert!(store.get("whole").unwrap() == bytes);
    assert_eq!(names(&store), ["checkpoints.json", "whole"]);
}

#[test]
fn one_of_many_who_put_one_name_at_the_same_moment_wins() {
    let store = store("race");
    for round in 0..5 {
        let name = format!("x{round}");
        let put = |writer: usize| store.put(&name, writer.to_string().as_bytes()).unwrap();
        let puts: Vec<Put> = std::thread::scope(|scope| {
            let put = &put;
            let threads: Vec<_> = (0..8)
                .map(|writer| scope.spawn(move || put(writer)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(puts.iter().filter(|put| **put == Put::Written).count(), 1);
    }
}

#[test]
fn checkpoints_are_written_read_merged_and_cleaned_up() {
    let store = store("cycle");
    write_start(&store, (1, 0), &Start::default()).unwrap();
    let start = read_start(&store, (1, 0), Duration::ZERO, &Stop::default());
    assert_eq!(start, Ok((Start::default(), None)));
    let mut runs: Vec<RunEntry> = (0..4)
        .map(|seed| write(&store, 1, &keys(50_000, seed)))
        .collect();
    // Larger than a part.
    runs.push(write(&store, 1, &keys(1_200_000, 4)));
    put_manifest(&store, &mut manifest(0, 1, &runs)).unwrap();
    let merged = merge(&store, &runs, Groups::ALL, &run_name(1))
        .unwrap()
        .unwrap();
    assert_eq!(merged.keys, 1_400_000);
    for number in 1..3 {
        let merged = std::slice::from_ref(&merged);
        put_manifest(&store, &mut manifest(number, 1, merged)).unwrap();
    }
    assert_eq!(clean(&store, 1).unwrap(), 1 + 5 + 1);
    let found = newest(&store).unwrap().manifest.unwrap();
    assert_eq!((found.number, found.keys()), (2, 1_400_000));
    let verified = verify_all(&store).unwrap();
    assert_eq!((verified.objects, verified.faults), (3, Vec::new()));
    let half = Groups {
        first: 0,
        last: 511,
    };
    let run = Run::open(&store, &found.runs[0]).unwrap();
    let read: usize = run.read(half).map(|piece| piece.unwrap().len()).sum();
    assert_eq!(read as u64, run.restrict(half).unwrap().keys);
    let mut late = manifest(2, 0, &[]);
    assert!(matches!(
        put_manifest(&store, &mut late),
        Err(Error::Superseded { .. })
    ));
}

#[test]
fn a_bucket_without_conditional_puts_is_refused() {
    let proxy = proxy();
    proxy.forget_conditions();
    BucketServer::shared().create_bucket("careless");
    for _ in 0..2 {
        let error = open("s3://careless/prefix", options(proxy.address)).unwrap_err();
        assert!(
            matches!(error, Error::NoConditionalPuts { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("s3://careless/prefix"));
        assert_eq!(error.exit_code().number(), 2);
    }
    let stop = Arc::new(Stop::default());
    let tried = |options| probe("s3://careless/other", "job", options, Arc::clone(&stop));
    let error = tried(options(proxy.address)).unwrap_err();
    assert!(
        matches!(error, Error::NoConditionalPuts { .. }),
        "{error:?}"
    );
    let left = tried(options(BucketServer::shared().address())).unwrap();
    assert_eq!(left.unwrap().list().unwrap(), [], "what was put is gone");
    // It was left as it was.
    open(
        "s3://careless/prefix",
        options(BucketServer::shared().address()),
    )
    .unwrap();
}

#[test]
fn what_passes_is_tried_again_and_a_lost_answer_counts_once() {
    let proxy = proxy();
    let store = store_by("faults", proxy.address);
    proxy.spoil(
        "PUT",
        &[Fault::Status(503), Fault::Status(500), Fault::AnswerLost],
    );
    let mut first = manifest(0, 1, &[]);
    put_manifest(&store, &mut first).unwrap();
    assert_eq!(first.number, 0, "it found its own");
    proxy.spoil("GET", &[Fault::Status(429), Fault::AnswerLost]);
    assert_eq!(newest(&store).unwrap().manifest, Some(first));
    proxy.spoil("POST", &[Fault::AnswerLost]);
    store.put("x", b"x").unwrap();
    store.delete("x").unwrap();
    // In parts: the beginning, a part, and the end.
    proxy.spoil("POST", &[Fault::Status(503)]);
    proxy.spoil("PUT", &[Fault::Status(503), Fault::AnswerLost]);
    proxy.spoil("POST", &[Fault::AnswerLost]);
    let run = write(&store, 1, &keys(1_200_000, 0));
    Run::open(&store, &run).unwrap().verify().unwrap();
    assert!(proxy.spent());
}

#[test]
fn a_bucket_that_is_not_there_or_not_ours_is_refused_at_the_start() {
    let server = BucketServer::shared().address();
    let error = open("s3://nowhere/prefix", options(server)).unwrap_err();
    assert!(matches!(error, Error::Location { .. }), "{error:?}");
    assert_eq!(error.exit_code().number(), 2);

    let proxy = proxy();
    BucketServer::shared().create_bucket("foreign");
    proxy.spoil("PUT", &[Fault::Status(403)]);
    let error = open("s3://foreign/prefix", options(proxy.address)).unwrap_err();
    assert!(matches!(error, Error::Location { .. }), "{error:?}");
    assert!(
        error.detail().unwrap().contains("403"),
        "{:?}",
        error.detail()
    );
}

/// A port on which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

#[test]
fn missing_credentials_are_told_and_a_server_that_is_away_is_not_waited_for_for_ever() {
    let mut without = options(BucketServer::shared().address());
    without
        .environment
        .retain(|(name, _)| !name.contains("KEY"));
    let metadata = (
        "AWS_METADATA_ENDPOINT".to_owned(),
        format!("http://{}", nobody()),
    );
    without.environment.push(metadata);
    let error = open("s3://names/prefix", without).unwrap_err();
    assert!(
        error.detail().unwrap().contains("no credentials"),
        "{:?}",
        error.detail()
    );
    assert!(error.hint().unwrap().contains("AWS_ACCESS_KEY_ID"));
    assert_eq!(error.exit_code().number(), 2);

    let mut away = options(nobody());
    away.patience = Duration::from_secs(1);
    let begun = Instant::now();
    let error = open("s3://names/prefix", away).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert_eq!(error.exit_code().number(), 1);
    assert!(begun.elapsed() < Duration::from_secs(10));
}
