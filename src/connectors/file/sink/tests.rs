//! Tests of the sink: what is in the file, and what is refused.

use std::sync::mpsc;
use std::time::Duration;

use deltajoin_workers::batch::{BatchBuilder, BatchSchema, Origin, Slot};
use deltajoin_workers::schema::{Column, ColumnType, Schema};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

fn schema() -> Arc<BatchSchema> {
    let id = Column::new("id", ColumnType::Int64);
    BatchSchema::register(Schema::new(vec![id], vec![0]))
}

fn rows(ids: std::ops::Range<i64>) -> Batch {
    let mut builder = BatchBuilder::new(schema());
    for id in ids {
        builder.push(&[Slot::Int64(id)], Origin::default(), 1);
    }
    builder.finish()
}

fn format() -> Format {
    Format::rows(&schema().schema, crate::codec::Envelope::Upsert)
}

fn never() -> Fatal {
    Arc::new(|error| panic!("{error}"))
}

fn start(path: &Path) -> JsonLines {
    JsonLines::start(Reserved::open(path, &[]).unwrap(), format(), never()).unwrap()
}

/// Waits by the waker until all rows before `epoch` are written.
fn wait_for(sink: &mut JsonLines, epoch: u64) {
    let (sender, woken) = mpsc::channel();
    let sender = Mutex::new(sender);
    sink.wake_by(Arc::new(move || {
        // The test may have seen enough.
        let _gone = sender.lock().unwrap().send(());
    }));
    while sink.written() < epoch {
        woken
            .recv_timeout(DEADLINE)
            .expect("the sink wakes its worker");
    }
}

#[test]
fn rows_are_written_when_their_epoch_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("joined.jsonl");
    std::fs::write(&path, "of an earlier run\n").unwrap();
    let text = || std::fs::read_to_string(&path).unwrap();
    let reserved = Reserved::open(&path, &[]).unwrap();
    assert_eq!(text(), "of an earlier run\n");
    let mut sink = JsonLines::start(reserved, format(), never()).unwrap();
    assert_eq!(text(), "");
    sink.close(3);
    wait_for(&mut sink, 4);
    sink.write(5, rows(0..2));
    sink.write(5, rows(2..3));
    assert_eq!(sink.written(), 4);
    assert_eq!(text(), "");
    sink.close(5);
    wait_for(&mut sink, 6);
    let epoch_5 = "{\"id\":0}\n{\"id\":1}\n{\"id\":2}\n";
    assert_eq!(text(), epoch_5);
    sink.write(7, rows(3..4));
    sink.close(7);
    sink.close(8);
    sink.write(9, rows(4..5));
    drop(sink);
    assert_eq!(text(), format!("{epoch_5}{{\"id\":3}}\n"));
}

#[test]
fn a_large_epoch_is_written_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("joined.jsonl");
    let mut sink = start(&path);
    let count = i64::try_from(WRITE_BYTES / 4).unwrap();
    sink.write(1, rows(0..count));
    sink.close(1);
    wait_for(&mut sink, 2);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.len() > 2 * WRITE_BYTES);
    let expected = (0..count).map(|id| format!("{{\"id\":{id}}}"));
    assert!(text.lines().eq(expected));
}

#[test]
fn a_file_has_one_writer_and_the_other_leaves_it_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("joined.jsonl");
    let mut sink = start(&path);
    sink.write(1, rows(0..1));
    sink.close(1);
    wait_for(&mut sink, 2);
    let second = Reserved::open(&path, &[]).unwrap_err();
    assert!(matches!(second, Error::Locked { .. }), "{second}");
    assert!(second.needs_correction());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"id\":0}\n");
    drop(sink);
    Reserved::open(&path, &[]).unwrap();
}

#[test]
fn a_file_that_is_read_is_not_written_by_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let [input, hard, soft] = ["input", "hard", "soft"].map(|name| folder.path().join(name));
    std::fs::write(&input, "kept\n").unwrap();
    std::fs::hard_link(&input, &hard).unwrap();
    std::os::unix::fs::symlink("input", &soft).unwrap();
    for path in [&input, &hard, &soft] {
        let error = Reserved::open(path, &[Path::new("other"), &input]).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
        assert!(error.needs_correction());
    }
    Reserved::open(&folder.path().join("output"), &[&input]).unwrap();
    assert_eq!(std::fs::read_to_string(&input).unwrap(), "kept\n");
}

#[test]
fn a_full_disk_is_told_and_nothing_counts_as_written() {
    let (sender, told) = mpsc::channel();
    let sender = Mutex::new(sender);
    let fatal: Fatal = Arc::new(move |error| sender.lock().unwrap().send(error).unwrap());
    let reserved = Reserved::open(Path::new("/dev/full"), &[]).unwrap();
    let mut sink = JsonLines::start(reserved, format(), fatal).unwrap();
    sink.write(1, rows(0..1));
    sink.close(1);
    let error = told.recv_timeout(DEADLINE).unwrap();
    assert_eq!(error.to_string(), "could not write file \"/dev/full\"");
    assert!(!error.needs_correction());
    sink.close(2);
    assert_eq!(sink.written(), 0);
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for path in [
        folder.path().join("no/joined.jsonl"),
        folder.path().to_owned(),
    ] {
        let error = Reserved::open(&path, &[]).unwrap_err();
        assert!(matches!(error, Error::Create { .. }), "{error}");
    }
}

/// A sink of a job that goes on.
fn go_on(path: &Path) -> Result<JsonLines, Error> {
    let reserved = Reserved::open(path, &[])?.go_on("job", "joined")?;
    JsonLines::start(reserved, format(), never())
}

fn written(path: &Path) -> Result<u64, Error> {
    Ok(Reserved::open(path, &[])?.go_on("job", "joined")?.written())
}

#[test]
fn a_file_keeps_recorded_rows_and_loses_those_behind_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("joined.jsonl");
    let mut sink = go_on(&path).unwrap();
    for epoch in 5..8 {
        sink.write(epoch, rows(0..2));
        sink.close(epoch);
    }
    sink.close(8);
    wait_for(&mut sink, 9);
    drop(sink);
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(kept.lines().count(), 6);
    // A whole row and a torn one, of a process that was killed before they were recorded.
    std::fs::write(&path, format!("{kept}{{\"id\":7}}\n{{\"i")).unwrap();
    let epoch = written(&path).unwrap();
    assert!((7..=8).contains(&epoch), "{epoch}");
    let mut sink = go_on(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), kept);
    sink.write(9, rows(2..3));
    sink.close(9);
    drop(sink);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, format!("{kept}{{\"id\":2}}\n"));
    assert_eq!(written(&path).unwrap(), 9);
}

#[test]
fn an_epoch_counts_as_written_only_when_it_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("joined.jsonl");
    let mut sink = go_on(&path).unwrap();
    for epoch in 1..200 {
        sink.write(epoch, rows(0..1));
        sink.close(epoch);
        let known = sink.written();
        let recorded = Progress::read(&path).unwrap().unwrap().epoch;
        assert!(known <= recorded + 1, "{known} {recorded}");
    }
    wait_for(&mut sink, 200);
    assert_eq!(Progress::read(&path).unwrap().unwrap().epoch, 199);
}

#[test]
fn a_file_that_is_not_as_it_was_left_is_refused_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("joined.jsonl");
    std::fs::write(&path, "somebody's\n").unwrap();
    let error = written(&path).unwrap_err();
    assert!(matches!(error, Error::Unrecorded { .. }), "{error}");
    std::fs::write(&path, "").unwrap();
    let mut sink = go_on(&path).unwrap();
    sink.write(1, rows(0..3));
    sink.close(1);
    wait_for(&mut sink, 2);
    drop(sink);
    let error = Reserved::open(&path, &[]).unwrap().begin_again();
    assert!(matches!(error, Err(Error::Foreign { .. })), "{error:?}");
    for (job, sink) in [("other", "joined"), ("job", "other")] {
        let reserved = Reserved::open(&path, &[]).unwrap();
        let error = reserved.go_on(job, sink).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
    }
    std::fs::write(&path, "{\"id\":0}\n").unwrap();
    let error = written(&path).unwrap_err();
    assert!(matches!(error, Error::Shorter { .. }), "{error}");
    assert!(error.needs_correction());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"id\":0}\n");
    // Without both, all rows are written again.
    std::fs::remove_file(&path).unwrap();
    assert!(written(&path).is_err());
    let [beside, _] = crate::config::progress_files(&path);
    std::fs::remove_file(beside).unwrap();
    std::fs::remove_file(&path).unwrap_or_default();
    assert_eq!(written(&path).unwrap(), 0);
}

#[test]
fn a_device_goes_on_without_progress() {
    let reserved = Reserved::open(Path::new("/dev/null"), &[]).unwrap();
    let reserved = reserved.go_on("job", "joined").unwrap();
    assert_eq!(reserved.written(), 0);
    let mut sink = JsonLines::start(reserved, format(), never()).unwrap();
    sink.write(1, rows(0..1));
    sink.close(1);
    wait_for(&mut sink, 2);
}
