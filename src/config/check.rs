//! Checks of settings against one another: the cluster, the limits, the names.
//!
//! They are apart from `columns`, which checks what rows look like, and from `targets`, which finds
//! out who writes where.
//!
//! # Invariants
//! * A check whose settings have faults of their own is left out; it could only repeat them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::address::is_address;
use crate::config::fault::Faults;
use crate::config::model::DEAD_LETTERS;
use crate::config::quantity::show_duration;
use crate::config::section::Sections;
use crate::config::walk::Section;

/// Checks everything but columns and targets.
pub(super) fn check(sections: &Sections, faults: &mut Faults) {
    if let Some(cluster) = sections.get("cluster") {
        addresses(cluster, faults);
        secret(cluster, faults);
        if let Some(limits) = sections.get("limits") {
            shards(cluster, limits, faults);
        }
    }
    if let Some(limits) = sections.get("limits") {
        record_size(limits, faults);
    }
    memory(sections, faults);
    memory_limit(sections, faults);
    files(sections, faults);
    sink_names(sections, faults);
    bindings(sections, faults);
}

/// Bindings of events in a file are a file too, beside the checkpoints.
fn bindings(sections: &Sections, faults: &mut Faults) {
    let events = sections.get("events");
    if events.and_then(|events| events.text("type")) != Some("file") {
        return;
    }
    let Some(checkpoint) = sections.get("checkpoint") else {
        return;
    };
    let location = checkpoint.text("location");
    if let Some(location) = location.filter(|location| !location.starts_with("file://")) {
        let message = format!("events in a file need a folder of checkpoints, not \"{location}\"");
        faults
            .add(checkpoint.place(&["location"]), message)
            .detail("The bindings of such a job are a file beside its checkpoints.")
            .hint("Write file:// and a path.");
    }
    if checkpoint
        .text("bindings_brokers")
        .is_some_and(|brokers| !brokers.is_empty())
    {
        let message = "events in a file have no topic of bindings".to_owned();
        faults
            .add(checkpoint.place(&["bindings_brokers"]), message)
            .detail("The bindings of such a job are a file beside its checkpoints.")
            .hint("Leave it out.");
    }
}

fn addresses(cluster: &Section, faults: &mut Faults) {
    let Some(addresses) = cluster.names("addresses") else {
        return;
    };
    for address in addresses {
        if !is_address(&address.value) {
            faults
                .add(
                    &address.origin,
                    format!("not an address: \"{}\"", address.value),
                )
                .hint("Write host:port, with a port from 1 to 65535, as \"10.0.0.1:9000\".");
        }
    }
    let Some(processes) = cluster.whole::<usize>("processes") else {
        return;
    };
    let alone = processes == 1 && addresses.is_empty();
    if addresses.len() != processes && !alone {
        let addresses = plural(addresses.len(), "address", "addresses");
        let processes = plural(processes, "process", "processes");
        faults
            .add(
                cluster.place(&["addresses", "processes"]),
                format!("{addresses} in [cluster] for {processes}"),
            )
            .hint("Give one host:port for each process, or none for a single process.");
    }
}

fn plural(count: usize, one: &str, many: &str) -> String {
    let noun = if count == 1 { one } else { many };
    format!("{count} {noun}")
}

fn secret(cluster: &Section, faults: &mut Faults) {
    let (Some(path), Some(processes)) = (
        cluster.text("secret_file"),
        cluster.whole::<usize>("processes"),
    ) else {
        return;
    };
    if processes > 1 && path.is_empty() {
        faults
            .add(
                cluster.place(&["secret_file", "processes"]),
                format!("{processes} processes need a \"secret_file\" in [cluster]"),
            )
            .detail("Its content proves that a process belongs to the job.")
            .hint("Make one with `head -c 32 /dev/urandom | base64`, and give it to each process.");
    }
}

fn shards(cluster: &Section, limits: &Section, faults: &mut Faults) {
    let (Some(processes), Some(threads), Some(shards)) = (
        cluster.whole::<usize>("processes"),
        cluster.whole::<usize>("threads"),
        limits.whole::<usize>("shards"),
    ) else {
        return;
    };
    let workers = processes * threads;
    if shards < workers {
        let place = match limits.place(&["shards"]) {
            place if *place != limits.place => place,
            _ => cluster.place(&["threads", "processes"]),
        };
        faults
            .add(
                place,
                format!("{workers} workers are too many for {shards} shards"),
            )
            .detail(format!(
                "Each worker owns one shard at least; {} of {} make {workers} workers.",
                plural(processes, "process", "processes"),
                plural(threads, "thread", "threads")
            ))
            .hint("Raise \"shards\" in [limits]; it is fixed for the job's life.");
    }
}

fn record_size(limits: &Section, faults: &mut Faults) {
    let (Some(record), Some(in_flight)) = (
        limits.size("max_record_bytes"),
        limits.size("max_in_flight_bytes"),
    ) else {
        return;
    };
    if record > in_flight {
        faults
            .add(
                limits.place(&["max_record_bytes", "max_in_flight_bytes"]),
                "\"max_record_bytes\" in [limits] is more than \"max_in_flight_bytes\"",
            )
            .detail("Such a record could never be read.");
    }
}

/// A worker's part of `memory_limit`, at least: buckets of some ten thousand keys, half a megabyte,
/// never leave memory, and several of them are open while events come out of order.
const MEMORY_OF_WORKER: usize = 4_000_000;

/// Each worker has its part of what a process may have.
fn memory_limit(sections: &Sections, faults: &mut Faults) {
    let (Some(state), Some(cluster)) = (sections.get("state"), sections.get("cluster")) else {
        return;
    };
    let (Some(bytes), Some(threads)) = (
        state.size("memory_limit"),
        cluster.whole::<usize>("threads"),
    ) else {
        return;
    };
    if bytes / threads < MEMORY_OF_WORKER {
        let place = match state.place(&["memory_limit"]) {
            place if *place != state.place => place,
            _ => cluster.place(&["threads"]),
        };
        let workers = plural(threads, "thread", "threads");
        let message = format!("\"memory_limit\" in [state] is too small for {workers}");
        let least = (threads * MEMORY_OF_WORKER).div_ceil(1_000_000);
        faults
            .add(place, message)
            .detail("Each has its part of it, and needs 4MB at least.")
            .hint(format!("Write \"{least}MB\" or more."));
    }
}

/// A retry cannot have the same time if times decide, or if there is none.
fn retry_time(sections: &Sections, distinct: &Section, faults: &mut Faults) {
    let written = distinct.place(&["retry_time"]);
    if *written == distinct.place || distinct.text("retry_time") != Some("same") {
        return;
    }
    let same = "retry_time = \"same\" in [distinct]";
    let events = sections.get("events");
    if let Some(keep) = distinct.text("keep").filter(|keep| *keep != "first") {
        faults
            .add(written, format!("{same} contradicts keep = \"{keep}\""))
            .detail("Events of one time would all be as good as the first.")
            .hint("Remove it, or write \"may-differ\".");
    } else if events.is_some_and(|events| events.field("time").is_none()) {
        faults
            .add(written, format!("{same} needs an event time"))
            .detail("Without one, keys are remembered by arrival.")
            .hint("Name its column as \"time\" in [events], or remove this.");
    }
}

/// What is remembered, for how long, and by which time.
fn memory(sections: &Sections, faults: &mut Faults) {
    let (Some(distinct), Some(join)) = (sections.get("distinct"), sections.get("join")) else {
        return;
    };
    let kept = distinct.text("keep").filter(|keep| *keep != "first");
    if let Some(keep) = kept {
        let events = sections.get("events");
        if events.is_some_and(|events| events.field("time").is_none()) {
            let message = format!("keep = \"{keep}\" in [distinct] needs an event time");
            let fault = faults.add(distinct.place(&["keep"]), message);
            fault.hint("Name its column as \"time\" in [events].");
        }
    }
    retry_time(sections, distinct, faults);
    let spans = (join.duration("revise_window"), distinct.duration("horizon"));
    if let (Some(window), Some(horizon)) = spans
        && window > horizon
    {
        let place = match join.place(&["revise_window"]) {
            place if *place != join.place => place,
            _ => distinct.place(&["horizon"]),
        };
        let (window, horizon) = (show_duration(window), show_duration(horizon));
        let message = format!(
            "\"revise_window\" in [join] ({window}) is longer than \"horizon\" in [distinct] \
             ({horizon})"
        );
        faults
            .add(place, message)
            .detail("What is forgotten cannot be revised.")
            .hint(format!("Write a \"revise_window\" of {horizon} at most."));
    }
}

/// Files to be read have an ending that says what they hold.
fn files(sections: &Sections, faults: &mut Faults) {
    const EVENTS: &[&str] = &["jsonl", "json", "ndjson"];
    const REFERENCE: &[&str] = match cfg!(feature = "parquet") {
        true => &["csv", "jsonl", "json", "ndjson", "parquet"],
        false => &["csv", "jsonl", "json", "ndjson"],
    };
    for (name, known) in [("events", EVENTS), ("reference", REFERENCE)] {
        let Some(section) = sections.get(name) else {
            continue;
        };
        let Some(path) = section.text("path") else {
            continue;
        };
        let ending = Path::new(path).extension().unwrap_or_default();
        let ending = ending.to_string_lossy().to_lowercase();
        if known.contains(&&*ending) {
            continue;
        }
        let known: Vec<_> = known.iter().map(|ending| format!(".{ending}")).collect();
        let message = match &*ending {
            "parquet" if name == "reference" => format!(
                "this build cannot read Parquet, as file \"{path}\" {} is",
                section.table.phrase()
            ),
            _ => format!(
                "cannot tell what file \"{path}\" {} is",
                section.table.phrase()
            ),
        };
        faults
            .add(section.place(&["path"]), message)
            .detail(format!("Known endings are {}.", known.join(", ")));
    }
}

fn sink_names(sections: &Sections, faults: &mut Faults) {
    let mut names = BTreeSet::new();
    for sink in sections.all("sinks") {
        let Some(name) = sink.text("name") else {
            continue;
        };
        if name == DEAD_LETTERS {
            let message = format!("\"{DEAD_LETTERS}\" is the name of the dead letters' own sink");
            faults
                .add(sink.place(&["name", "topic", "path"]), message)
                .hint("Give this one another \"name\".");
        } else if !names.insert(name) {
            let message = format!("two sinks are called \"{name}\"");
            faults
                .add(sink.place(&["name", "topic", "path"]), message)
                .hint("Give this one another \"name\".");
        }
    }
}
