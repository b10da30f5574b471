//! Settings that were written and can do nothing: idle ones, of which a line warns, and those of
//! production operators that the textbook engine has not.
//!
//! It is apart from `check`, which refuses what cannot be meant. An idle setting is often left from
//! another way to run the same file: with more processes, or with another delivery.
//!
//! # Invariants
//! * Only what was written is told, never a default.
//! * All such settings are in one of the two lists.

use crate::config::address::share_a_broker;
use crate::config::fault::{Document, Faults};
use crate::config::section::Sections;
use crate::config::tree::{Origin, Value};
use crate::config::walk::{Field, Section};

/// A setting that can do nothing beside others: why, if it is so here.
type Idle = (&'static str, &'static str, Why);
type Why = fn(&Sections, &Section) -> Option<String>;

static IDLE: &[Idle] = &[
    ("distinct", "future", without_time),
    ("join", "revise_window", without_revision),
    ("sinks", "commit_interval", without_commits),
    ("dead_letters", "commit_interval", without_commits),
    ("cluster", "addresses", without_peers),
    ("cluster", "secret_file", without_peers),
    ("cluster", "peer_timeout", without_peers),
    (
        "checkpoint",
        "bindings_retention",
        without_topic_of_bindings,
    ),
    (
        "checkpoint",
        "commit_group_offsets",
        without_topic_of_events,
    ),
    ("limits", "topic_replication", without_topics),
];

/// Settings that the textbook engine has not, and the values with which they ask for nothing.
const BEYOND_TEXTBOOK: [(&str, &str, &[&str]); 9] = [
    ("distinct", "retry_time", &["may-differ"]),
    ("distinct", "horizon", &[]),
    ("distinct", "future", &[]),
    ("distinct", "detect_conflicts", &["false"]),
    ("join", "revise_window", &[]),
    ("join", "strategy", &["broadcast"]),
    ("join", "version_column", &[""]),
    ("state", "dir", &[]),
    ("state", "memory_limit", &[]),
];

/// A line for each setting that was written and has no effect: its place, its name, and why.
pub(super) fn idle(sections: &Sections, document: &Document) -> Vec<String> {
    let mut lines = Vec::new();
    for (table, setting, why) in IDLE {
        for section in sections.all(table) {
            if let Some(field) = written(section, setting)
                && let Some(why) = why(sections, section)
            {
                let (table, place) = (section.table.phrase(), document.place(&field.origin));
                lines.push(format!(
                    "{place}: \"{setting}\" {table} has no effect: {why}"
                ));
            }
        }
    }
    lines
}

/// Reports the settings that the textbook engine has not.
pub(super) fn beyond_textbook(sections: &Sections, faults: &mut Faults) {
    for (table, setting, nothing) in BEYOND_TEXTBOOK {
        for section in sections.all(table) {
            let asks = |field: &&Field| match &field.node.value {
                Value::Text(text) => !nothing.contains(&text.as_str()),
                value => !nothing.contains(&value.to_toml().as_str()),
            };
            if let Some(field) = written(section, setting).filter(asks) {
                faults
                    .add(
                        &field.origin,
                        format!("the textbook engine has no \"{setting}\""),
                    )
                    .detail(
                        "It forgets nothing, keeps all in memory, and compares nothing it drops.",
                    )
                    .hint("Remove the setting, or use the production engine.");
            }
        }
    }
}

/// A setting, if it was written and asks for something.
fn written<'a>(section: &'a Section, setting: &str) -> Option<&'a Field> {
    let field = section.field(setting)?;
    let empty = match &field.node.value {
        Value::Text(text) => text.is_empty(),
        Value::List(nodes) => nodes.is_empty(),
        _ => false,
    };
    (field.node.origin != Origin::Default && !empty).then_some(field)
}

fn without_time(sections: &Sections, _: &Section) -> Option<String> {
    let timed = sections.get("events")?.field("time").is_some();
    (!timed).then(|| "without \"time\" in [events] no event has a time".to_owned())
}

fn without_revision(sections: &Sections, join: &Section) -> Option<String> {
    let distinct = sections.get("distinct")?;
    let future_only = join.text("on_reference_change")? == "future-only";
    let compares = distinct.text("keep")? != "first" || distinct.flag("detect_conflicts")?;
    (future_only && !compares).then(|| {
        "with on_reference_change = \"future-only\" and keep = \"first\" no result changes"
            .to_owned()
    })
}

fn without_commits(sections: &Sections, sink: &Section) -> Option<String> {
    if sink.text("delivery")? == "at-least-once" {
        return Some("rows that are written at-least-once are not committed".to_owned());
    }
    let interval = sink.duration("commit_interval")?;
    let all = sections.all("sinks").chain(sections.all("dead_letters"));
    let mut beside = all.filter(|other| {
        other.text("delivery") == Some("exactly-once")
            && other
                .duration("commit_interval")
                .is_some_and(|least| least < interval)
            && share_a_broker(
                other.text("brokers").unwrap_or_default(),
                sink.text("brokers").unwrap_or_default(),
            )
    });
    let other = beside.next()?;
    let name = other.text("name").map(|name| format!("sink \"{name}\""));
    let name = name.unwrap_or_else(|| other.table.header());
    Some(format!(
        "{name} has a shorter one, and all exactly-once sinks at one cluster are committed together"
    ))
}

fn without_peers(sections: &Sections, _: &Section) -> Option<String> {
    let processes: usize = sections.get("cluster")?.whole("processes")?;
    (processes == 1).then(|| "a single process has no peers".to_owned())
}

fn without_topic_of_events(sections: &Sections, _: &Section) -> Option<String> {
    let file = sections.get("events")?.text("type")? == "file";
    file.then(|| "events are in a file".to_owned())
}

fn without_topic_of_bindings(sections: &Sections, section: &Section) -> Option<String> {
    let why = without_topic_of_events(sections, section)?;
    Some(format!("{why}, and their bindings are never trimmed"))
}

fn without_topics(sections: &Sections, section: &Section) -> Option<String> {
    let why = without_topic_of_events(sections, section)?;
    let mut outputs = sections.all("sinks").chain(sections.all("dead_letters"));
    let files = outputs.all(|output| output.text("type") == Some("jsonl"));
    files.then(|| format!("{why}, and so are all results: the job makes no topic"))
}
