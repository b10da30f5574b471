//! Tests of the binding log in a file.

use expect_test::expect;

use super::*;

const MARKER: &str = r#"{"version":1,"marker":"x","started_ms":0,"holder":"process 7 on alpha"}"#;

fn records(count: usize) -> Vec<Vec<u8>> {
    let record = |index| format!("{{\"record\":{index}}}").into_bytes();
    (0..count).map(record).collect()
}

fn read(log: &mut BindingFile, from: u64) -> Result<Vec<(u64, String)>, Error> {
    let mut all = Vec::new();
    log.read(from, &Stop::default(), &mut |offset, record| {
        all.push((offset, String::from_utf8(record.to_vec()).unwrap()));
        Ok(true)
    })?;
    Ok(all)
}

fn append(log: &mut BindingFile, records: &[Vec<u8>]) -> u64 {
    log.append(records, &Stop::default()).unwrap().start
}

#[test]
fn records_are_found_again_at_their_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bindings.jsonl");
    let mut log = BindingFile::open(&path).unwrap();
    assert_eq!(read(&mut log, 0).unwrap(), []);
    assert_eq!(append(&mut log, &records(2)), 0);
    assert_eq!(append(&mut log, &records(1)), 2);
    let text = std::fs::read_to_string(&path).unwrap();
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("lines are JSON");
    }
    drop(log);
    let mut log = BindingFile::open(&path).unwrap();
    let all = read(&mut log, 0).unwrap();
    let offsets: Vec<_> = all.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [0, 1, 2]);
    assert_eq!(all[1].1, "{\"record\":1}");
    assert_eq!(read(&mut log, 2).unwrap(), all[2..]);
    assert_eq!(read(&mut log, 9).unwrap(), []);
    assert_eq!(append(&mut log, &records(1)), 3);
}

#[test]
fn a_half_written_record_is_taken_away_wherever_it_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bindings.jsonl");
    let mut log = BindingFile::open(&path).unwrap();
    append(&mut log, &records(2));
    drop(log);
    let whole = std::fs::read(&path).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in first..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let mut log = BindingFile::open(&path).unwrap();
        assert_eq!(read(&mut log, 0).unwrap().len(), 1, "cut at {length}");
        assert_eq!(append(&mut log, &records(1)), 1);
        let after = [&whole[..first], &whole[..first]].concat();
        assert_eq!(std::fs::read(&path).unwrap(), after);
    }
}

#[test]
fn every_changed_bit_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bindings.jsonl");
    let mut log = BindingFile::open(&path).unwrap();
    append(&mut log, &records(3));
    drop(log);
    let whole = std::fs::read(&path).unwrap();
    let line = whole.len() / 3;
    for byte in line..2 * line {
        let mut changed = whole.clone();
        changed[byte] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        let mut log = BindingFile::open(&path).unwrap();
        let error = read(&mut log, 0).unwrap_err().to_string();
        let place = format!("cannot read record {}:2 ", path.display());
        assert!(error.starts_with(&place), "{byte}: {error}");
    }
}

#[test]
fn a_damaged_record_is_told_in_words() {
    let line = |text: &[u8]| record_of(text).unwrap_err().to_string();
    let damaged = line(b"[\"0000000000000000\",{}]\n");
    expect!["its checksum is 1349cde127705c16, not 0000000000000000"].assert_eq(&damaged);
    let torn = line(b"{\"record\":0}\n");
    expect!["not a record of a binding log: not a line of a checksum and a record"]
        .assert_eq(&torn);
}

#[test]
fn a_file_that_another_process_holds_is_refused_with_its_holder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bindings.jsonl");
    let mut log = BindingFile::open(&path).unwrap();
    let by = |path: &Path| match BindingFile::open(path).unwrap_err() {
        Error::Held { by, .. } => by,
        other => panic!("{other}"),
    };
    assert_eq!(by(&path), None);
    append(&mut log, &[MARKER.as_bytes().to_vec()]);
    append(&mut log, &records(1));
    let holder = "process 7 on alpha, started at 1970-01-01T00:00:00Z";
    assert_eq!(by(&path).as_deref(), Some(holder));
    assert_eq!(read(&mut log, 0).unwrap().len(), 2);
    drop(log);
    BindingFile::open(&path).unwrap();
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for path in [
        folder.path().join("no/bindings.jsonl"),
        folder.path().to_owned(),
    ] {
        let error = BindingFile::open(&path).unwrap_err();
        let expected = format!("could not open file {path:?} for writing");
        assert_eq!(error.to_string(), expected);
    }
}
