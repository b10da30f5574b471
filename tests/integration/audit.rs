//! `deltajoin audit` over files: the checker is checked. A right output is clean, and each way of
//! being wrong is told with its place.

use std::fmt::Write;

use deltajoin::generate::{Expected, Options};
use deltajoin_testkit::Outcome;
use serde_json::{Value, json};

use crate::case::{CONFIG, Fifo, Folder, options};

/// A folder in which the job has written its output, and was forgotten: all that is there is
/// judged.
fn finished(options: &Options) -> Folder {
    let folder = Folder::with_case(CONFIG, options);
    folder.run_job("run", &["--until-end"]).assert_code(0);
    folder.reset();
    folder
}

/// The lines of the output.
fn rows(folder: &Folder) -> Vec<String> {
    let text = folder.read("joined.jsonl");
    text.lines().map(str::to_owned).collect()
}

fn write(folder: &Folder, rows: &[String]) {
    folder.write("joined.jsonl", rows.join("\n") + "\n");
}

/// The JSON object that an audit has printed.
fn report(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.len(), 1, "{:?}", outcome.stdout);
    serde_json::from_str(&outcome.stdout[0]).unwrap()
}

/// What was found of the only sink: missing, doubled, wrong, unexpected.
fn found(report: &Value) -> [u64; 4] {
    ["missing", "doubled", "wrong", "unexpected"]
        .map(|kind| report["sinks"][0][kind].as_u64().unwrap())
}

/// Audits, and gives what was found with the findings of it.
fn audit(folder: &Folder, arguments: &[&str], code: i32) -> (Value, Vec<Value>) {
    let outcome = folder.run_job("audit", &[arguments, &["--json"]].concat());
    outcome.assert_code(code);
    let report = report(&outcome);
    assert_eq!(report["clean"], code == 0);
    let findings = report["sinks"][0]["findings"].as_array().unwrap().clone();
    (report, findings)
}

/// Where the event of a row stands: the first line with its key.
fn event_of(folder: &Folder, row: &str) -> String {
    let row: Value = serde_json::from_str(row).unwrap();
    let key = format!("\"detection_oid\":{},", row["detection_oid"]);
    let events = std::fs::read(folder.path("events.jsonl")).unwrap();
    let lines = events.split(|byte| *byte == b'\n');
    // A line that is cut off or no JSON is no event.
    let mut events = lines.enumerate().filter(|(_, line)| {
        let text = String::from_utf8_lossy(line);
        text.contains(&key) && serde_json::from_slice::<Value>(line).is_ok()
    });
    format!("events.jsonl:{}", events.next().unwrap().0 + 1)
}

#[test]
fn a_right_output_is_clean_and_all_is_counted() {
    let options = options(20_000);
    let folder = finished(&options);
    let expected = Expected::of(&options).unwrap();
    let (report, findings) = audit(&folder, &[], 0);
    let counts = expected.counts();
    let events = json!({
        "source": "file events.jsonl",
        "records": counts.records,
        "undecodable": counts.dead_letters,
        "keys": counts.distinct,
        "undecided": 0,
        "rows": expected.rows(),
    });
    assert_eq!(report["events"], events);
    assert_eq!(report["reference_rows"], 1_000);
    assert_eq!(report["passes"], 1);
    assert_eq!(report["sinks"][0]["records"], expected.rows());
    assert_eq!(report["sinks"][0]["right"], expected.rows());
    assert!(findings.is_empty());
    let outcome = folder.run_job("audit", &[]);
    outcome.assert_code(0);
    assert_eq!(outcome.stdout.last().unwrap(), "clean");
    assert!(
        outcome
            .stderr
            .iter()
            .any(|line| line.contains(" in 1 pass"))
    );
}

#[test]
fn a_deleted_row_is_missing() {
    let folder = finished(&options(3_000));
    let mut rows = rows(&folder);
    let gone = rows.remove(700);
    write(&folder, &rows);
    let (report, findings) = audit(&folder, &[], 1);
    assert_eq!(found(&report), [1, 0, 0, 0]);
    let [missing] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert_eq!(missing["event"], event_of(&folder, &gone));
    assert_eq!(missing["right"], gone);
}

#[test]
fn an_added_row_is_unexpected() {
    let folder = finished(&options(3_000));
    let mut rows = rows(&folder);
    let mut row: Value = serde_json::from_str(&rows[5]).unwrap();
    row["detection_oid"] = json!(5);
    rows.insert(100, row.to_string());
    write(&folder, &rows);
    let (report, findings) = audit(&folder, &[], 1);
    assert_eq!(found(&report), [0, 0, 0, 1]);
    assert_eq!(findings[0]["place"], "joined.jsonl:101");
    assert_eq!(findings[0]["event"], Value::Null);
    assert_eq!(findings[0]["note"], "no event has its key");
}

#[test]
fn a_changed_row_is_wrong_however_it_is_changed() {
    let folder = finished(&options(3_000));
    let right = rows(&folder);
    let object: Value = serde_json::from_str(&right[40]).unwrap();
    let mut other_name = object.clone();
    other_name["geographical_location"] = json!("elsewhere");
    let mut other_event = object.clone();
    other_event["video_camera_oid"] = json!(1);
    let mut more = object.clone();
    more["more"] = Value::Null;
    for changed in [other_name, other_event, more] {
        let mut rows = right.clone();
        rows[40] = changed.to_string();
        write(&folder, &rows);
        let (report, findings) = audit(&folder, &[], 1);
        assert_eq!(found(&report), [0, 0, 1, 0], "{changed}");
        assert_eq!(findings[0]["place"], "joined.jsonl:41");
        assert_eq!(findings[0]["event"], event_of(&folder, &right[40]));
        assert_eq!(findings[0]["row"], changed.to_string());
        assert_eq!(findings[0]["right"], right[40]);
    }
    // The same values in another order are the same row.
    let mut rows = right.clone();
    let fields = object.as_object().unwrap().iter();
    let mut fields: Vec<String> = fields.map(|(k, v)| format!("\"{k}\": {v}")).collect();
    fields.reverse();
    rows[40] = format!("{{{}}}", fields.join(", "));
    write(&folder, &rows);
    audit(&folder, &[], 0);
}

#[test]
fn a_row_cut_off_is_wrong_and_its_event_has_none() {
    let folder = finished(&options(3_000));
    let mut rows = rows(&folder);
    let whole = rows[40].clone();
    rows[40].truncate(60);
    write(&folder, &rows);
    let (report, findings) = audit(&folder, &[], 1);
    assert_eq!(found(&report), [1, 0, 1, 0]);
    assert_eq!(findings[0]["right"], whole);
    assert_eq!(findings[1]["place"], "joined.jsonl:41");
    let note = findings[1]["note"].as_str().unwrap();
    assert!(note.contains("EOF"), "{note}");
}

#[test]
fn a_doubled_row_is_told_unless_repeats_are_allowed() {
    let folder = finished(&options(3_000));
    let mut rows = rows(&folder);
    let row = rows[40].clone();
    rows.push(row.clone());
    write(&folder, &rows);
    let (report, findings) = audit(&folder, &[], 1);
    assert_eq!(found(&report), [0, 1, 0, 0]);
    assert_eq!(findings[0]["place"], format!("joined.jsonl:{}", rows.len()));
    assert_eq!(findings[0]["before"], "joined.jsonl:41");
    assert_eq!(findings[0]["event"], event_of(&folder, &row));
    let (report, _) = audit(&folder, &["--allow-repeats"], 0);
    assert_eq!(report["sinks"][0]["repeats"], 1);
}

/// Damages an output in every way, many times.
fn damage(folder: &Folder) {
    let mut rows = rows(folder);
    for row in (0..rows.len()).step_by(7) {
        rows[row] = rows[row].replace("\"item_name\":\"", "\"item_name\":\"not ");
    }
    rows.drain(1_000..1_100);
    let again: Vec<String> = rows[2_000..2_050].to_vec();
    rows.extend(again);
    for key in 1..=30 {
        let mut row: Value = serde_json::from_str(&rows[key * 50]).unwrap();
        row["detection_oid"] = json!(key);
        rows.insert(key * 100, row.to_string());
    }
    rows.insert(77, "no row".to_owned());
    write(folder, &rows);
}

#[test]
fn many_passes_find_what_one_finds() {
    let folder = finished(&options(20_000));
    let (clean, _) = audit(&folder, &["--memory", "100KB"], 0);
    assert!(clean["passes"].as_u64().unwrap() > 20, "{clean}");
    damage(&folder);
    let (mut one, findings) = audit(&folder, &["--show", "25"], 1);
    let (mut many, _) = audit(&folder, &["--show", "25", "--memory", "100KB"], 1);
    assert!(many["passes"].as_u64() > one["passes"].as_u64());
    one["passes"] = Value::Null;
    many["passes"] = Value::Null;
    assert_eq!(one, many);
    let counts = found(&one);
    assert_eq!((counts[0], counts[3]), (100, 30));
    assert!(counts[1] > 40 && counts[2] > 2_000, "{counts:?}");
    assert_eq!(findings.len(), 4 * 25);
}

#[test]
fn rows_of_unknown_keys_that_need_more_room_take_more_passes() {
    let folder = finished(&options(3_000));
    let mut text = folder.read("joined.jsonl");
    let row: Value = serde_json::from_str(&rows(&folder)[0]).unwrap();
    for key in 1..=20_000 {
        let mut row = row.clone();
        row["detection_oid"] = json!(key);
        writeln!(text, "{row}").unwrap();
    }
    folder.write("joined.jsonl", text);
    let (one, _) = audit(&folder, &[], 1);
    let outcome = folder.run_job("audit", &["--json", "--memory", "200KB"]);
    outcome.assert_code(1);
    let begun = outcome.stderr.iter().filter(|line| line.contains("passes"));
    assert!(begun.count() > 1, "{:?}", outcome.stderr);
    let many = report(&outcome);
    assert_eq!(found(&many), [0, 0, 0, 20_000]);
    assert_eq!(one["sinks"], many["sinks"]);
}

#[test]
fn events_without_a_reference_row_have_rows_as_the_settings_say() {
    let folder = Folder::with_case(CONFIG, &options(3_000));
    for unmatched in ["keep", "drop", "dead-letter"] {
        let set = format!("join.unmatched={unmatched}");
        let run = ["--until-end", "--set", &set];
        folder.run_job("run", &run).assert_code(0);
        audit(&folder, &["--set", &set], 0);
        if unmatched == "keep" {
            let (report, findings) = audit(&folder, &["--set", "join.unmatched=drop"], 1);
            let [0, 0, 0, unexpected] = found(&report) else {
                panic!("{report}")
            };
            assert!(unexpected > 10);
            assert_eq!(findings[0]["note"], "its event has no reference row");
        } else {
            let (report, _) = audit(&folder, &[], 1);
            assert!(found(&report)[0] > 10, "{report}");
        }
        folder.forget();
    }
}

#[test]
fn each_sink_is_audited() {
    let config = CONFIG.to_owned() + "[[sinks]]\ntype = \"jsonl\"\npath = \"again.jsonl\"\n";
    let folder = Folder::with_case(&config, &options(3_000));
    folder.run_job("run", &["--until-end"]).assert_code(0);
    let mut rows = rows(&folder);
    rows.pop();
    folder.write("again.jsonl", rows.join("\n"));
    let (report, _) = audit(&folder, &[], 1);
    assert_eq!(report["sinks"][0]["missing"], 0);
    assert_eq!(report["sinks"][1]["missing"], 1);
    let outcome = folder.run_job("audit", &[]);
    outcome.assert_code(1);
    let said = outcome.stdout.join("\n");
    assert!(said.contains("  missing    event events.jsonl:"), "{said}");
    assert!(said.contains("file again.jsonl"), "{said}");
    assert!(said.contains("not clean"), "{said}");
}

#[test]
fn what_cannot_be_audited_is_refused() {
    let folder = finished(&options(20_000));
    let _pipe = Fifo::make(&folder.path("pipe.jsonl"));
    let cases: [(&[&str], &str); 4] = [
        (
            &["--memory", "10KB"],
            "within 10000 bytes needs more than 64 passes",
        ),
        (&["--memory", "10 kilobytes"], "unknown unit \"kilobytes\""),
        (
            &["--set", "sinks.0.path=absent.jsonl"],
            "could not open file \"absent.jsonl\"",
        ),
        (
            &["--set", "events.path=pipe.jsonl"],
            "only a regular file can be read more than once",
        ),
    ];
    for (arguments, message) in cases {
        let outcome = folder.run_job("audit", arguments);
        outcome.assert_code(2);
        let said = outcome.stderr.join("\n");
        assert!(said.contains(message), "{said}");
        assert!(outcome.stdout.is_empty());
    }
    let hinted = folder.run_job("audit", &["--memory", "10KB"]);
    let said = hinted.stderr.join("\n");
    assert!(said.contains("--memory 1MB"), "{said}");
    folder.run_job("audit", &["--memory", "1MB"]).assert_code(0);
}
