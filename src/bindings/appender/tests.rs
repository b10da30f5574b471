//! Tests of the writer's rule, and of a generation's beginning.

use std::sync::mpsc;

use super::*;
use crate::bindings::testing::{DEADLINE, MemoryLog, binding, encoded, marker, reference, rows};
use crate::bindings::{Lasting, Marker, Opened, claim, open};
use crate::error::ExitCode;

fn opened(log: &MemoryLog, marker: &Marker) -> Result<Opened<MemoryLog>, Error> {
    open(log.clone(), marker.clone(), reference(), &Stop::default())
}

/// An appender that must not fail.
fn appender(log: &MemoryLog, marker: &Marker) -> Appender {
    let fatal: Fatal = Arc::new(|error| panic!("{error}"));
    opened(log, marker).unwrap().start(fatal).1
}

/// An appender, and what ends it.
fn failing(log: &MemoryLog, marker: &Marker) -> (Appender, mpsc::Receiver<Error>) {
    let (sender, told) = mpsc::channel();
    let sender = Mutex::new(sender);
    let fatal: Fatal = Arc::new(move |error| sender.lock().unwrap().send(error).unwrap());
    (opened(log, marker).unwrap().start(fatal).1, told)
}

/// Waits by the waker until so many bindings are durable.
fn wait_for(appender: &mut Appender, count: u64) {
    let (sender, woken) = mpsc::channel();
    let sender = Mutex::new(sender);
    appender.wake_by(Arc::new(move || {
        // The test may have seen enough.
        let _gone = sender.lock().unwrap().send(());
    }));
    while appender.durable() < count {
        woken.recv_timeout(DEADLINE).expect("the worker is woken");
    }
}

fn epochs(log: &MemoryLog) -> Vec<u64> {
    let next = marker("reader");
    let history = opened(log, &next).unwrap().history;
    history.bindings.iter().map(|one| one.epoch).collect()
}

#[test]
fn bindings_are_durable_in_order_and_the_next_generation_reads_them() {
    let log = MemoryLog::default();
    let first = marker("a");
    let mut appender = appender(&log, &first);
    for epoch in 1..=100 {
        appender.append(binding(epoch));
    }
    wait_for(&mut appender, 100);
    assert_eq!(appender.durable(), 100);
    drop(appender);
    let second = opened(&log, &marker("b")).unwrap();
    assert_eq!(second.generation, 101);
    assert_eq!(second.history.next, 102);
    assert_eq!(second.history.markers[0], (0, first));
    assert!(epochs(&log).into_iter().eq(1..=100));
}

#[test]
fn what_comes_while_an_append_is_under_way_goes_into_the_next() {
    let log = MemoryLog::default();
    let mut appender = appender(&log, &marker("a"));
    log.hold();
    appender.append(binding(1));
    log.wait_for_append();
    for epoch in 2..=50 {
        appender.append(binding(epoch));
    }
    assert_eq!(appender.durable(), 0);
    log.release();
    wait_for(&mut appender, 50);
    assert_eq!(log.appends(), [1, 1, 49]);
}

#[test]
fn an_append_is_closed_to_more_when_it_is_large() {
    let log = MemoryLog::default();
    let mut appender = appender(&log, &marker("a"));
    log.hold();
    appender.append(binding(1));
    log.wait_for_append();
    let mut large = binding(2);
    large.reference = vec![rows(0..30, 100_000)];
    appender.append(large);
    appender.append(binding(3));
    log.release();
    wait_for(&mut appender, 3);
    // Nine rows of a hundred thousand bytes fill an append; the binding comes with the last.
    assert_eq!(log.appends(), [1, 1, 9, 9, 9, 5]);
    assert_eq!(epochs(&log), [1, 2, 3]);
}

#[test]
fn an_older_generation_is_superseded_by_its_next_append() {
    let log = MemoryLog::default();
    let (mut old, told) = failing(&log, &marker("process 1 on alpha"));
    old.append(binding(1));
    wait_for(&mut old, 1);
    let new = appender(&log, &marker("process 2 on beta"));
    old.append(binding(2));
    let error = told.recv_timeout(DEADLINE).unwrap();
    assert_eq!(error.exit_code(), ExitCode::Superseded);
    assert_eq!(
        error.to_string(),
        "superseded: log \"memory\" holds a newer marker"
    );
    let by = "It is of process 2 on beta, started at 2026-01-01T00:00:00Z.";
    assert_eq!(error.detail().as_deref(), Some(by));
    assert_eq!(old.durable(), 1);
    drop((old, new));
    assert_eq!(epochs(&log), [1]);
}

#[test]
fn a_late_append_of_an_older_generation_costs_a_newer_one_nothing() {
    let log = MemoryLog::default();
    let old = marker("old");
    opened(&log, &old).unwrap();
    let mut new = appender(&log, &marker("new"));
    for epoch in [7, 9] {
        for record in encoded(&old, &binding(epoch)) {
            log.push(record);
        }
        new.append(binding(epoch - 6));
        wait_for(&mut new, (epoch - 5) / 2);
    }
    drop(new);
    assert_eq!(epochs(&log), [1, 3]);
}

#[test]
fn what_nobody_of_the_job_has_appended_ends_it() {
    let log = MemoryLog::default();
    let (mut new, told) = failing(&log, &marker("new"));
    log.push(b"junk".to_vec());
    new.append(binding(1));
    let error = told.recv_timeout(DEADLINE).unwrap();
    assert_eq!(error.exit_code(), ExitCode::Usage, "{error}");
    assert!(
        error.to_string().starts_with("cannot read record memory@1"),
        "{error}"
    );
    assert_eq!(new.durable(), 0);
}

#[test]
fn a_log_that_has_lost_records_takes_no_more() {
    let log = MemoryLog::default();
    let (mut new, told) = failing(&log, &marker("new"));
    log.lose_all();
    new.append(binding(1));
    let error = told.recv_timeout(DEADLINE).unwrap();
    let (expected, found) = (1, 0);
    let log = "log \"memory\"".to_owned();
    let shortened = Error::Shortened {
        log,
        expected,
        found,
    };
    assert_eq!(error, shortened);
    assert_eq!(error.exit_code(), ExitCode::Failed);
}

#[test]
fn an_unknown_outcome_is_superseded_only_by_a_newer_marker() {
    let unknown = Error::OutcomeUnknown {
        log: "log \"memory\"".to_owned(),
        reason: "no offset".to_owned(),
    };
    for superseded in [false, true] {
        let log = MemoryLog::default();
        let (mut old, told) = failing(&log, &marker("old"));
        log.fail(unknown.clone());
        if superseded {
            // Of another version, which this program does not read.
            log.push(br#"{"version":2,"marker":"x"}"#.to_vec());
        }
        old.append(binding(1));
        let error = told.recv_timeout(DEADLINE).unwrap();
        if superseded {
            assert_eq!(error.exit_code(), ExitCode::Superseded, "{error}");
        } else {
            assert_eq!(error, unknown);
            assert_eq!(error.exit_code(), ExitCode::Failed);
        }
        old.append(binding(2));
        drop(old);
        assert_eq!(log.appends(), [1, 1], "nothing is appended any more");
    }
}

#[test]
fn a_drop_ends_an_append_that_waits() {
    let log = MemoryLog::default();
    let mut appender = appender(&log, &marker("a"));
    log.hold();
    appender.append(binding(1));
    log.wait_for_append();
    drop(appender);
    assert_eq!(log.appends(), [1]);
}

#[test]
fn of_two_that_start_at_once_the_later_marker_wins() {
    let log = MemoryLog::default();
    let stop = Stop::default();
    let lasting = Lasting {
        settings: marker("first").settings,
        of_rows: &[],
    };
    let first = claim(
        log.clone(),
        marker("first"),
        reference(),
        None,
        (&lasting, 0),
        &stop,
    )
    .unwrap();
    let second = claim(
        log.clone(),
        marker("second"),
        reference(),
        None,
        (&lasting, 0),
        &stop,
    )
    .unwrap();
    assert_eq!((first.generation(), second.generation()), (0, 1));
    let earlier: Vec<_> = second.earlier().map(|one| one.holder.clone()).collect();
    assert_eq!(earlier, ["first"]);
    let error = first.settle(&stop).err().unwrap();
    assert_eq!(error.exit_code(), ExitCode::Superseded);
    assert_eq!(second.settle(&stop).unwrap().history.next, 2);
}

#[test]
fn a_record_that_cannot_be_read_is_told_with_its_place() {
    let log = MemoryLog::default();
    opened(&log, &marker("a")).unwrap();
    log.push(b"{}".to_vec());
    let error = opened(&log, &marker("b")).err().unwrap();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let text = error.to_string();
    assert!(
        text.starts_with("cannot read record memory@1 of the binding log: "),
        "{text}"
    );
}

#[test]
fn a_setting_of_which_the_log_says_nothing_holds_from_then_on() {
    let log = MemoryLog::default();
    let of = |id: Option<&str>| {
        let mut marker = marker("a");
        let id = id.map(|id| ("topic_id".to_owned(), id.to_owned()));
        marker.settings.extend(id);
        marker
    };
    for id in [None, Some("x"), Some("x")] {
        opened(&log, &of(id)).unwrap();
    }
    for id in [None, Some("y")] {
        let refused = opened(&log, &of(id)).map(|_| ()).unwrap_err();
        let Error::SettingChanged { before, now, .. } = refused else {
            panic!("{refused}")
        };
        assert_eq!((&*before, &*now), ("x", id.unwrap_or("")));
    }
    assert_eq!(log.records().len(), 3, "who is refused leaves no marker");
}
