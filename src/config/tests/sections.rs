//! Messages about settings that do not go together: cluster, limits, files, targets.
//!
//! They are apart from `values`: each value here is right by itself.

use expect_test::expect;

use crate::config::Bindings;
use crate::config::tests::{check, edited, load_with};

#[test]
fn several_processes_need_addresses_and_a_secret() {
    check(
        &[("", "[cluster]\nprocesses = 2")],
        expect![[r#"
            error: 0 addresses in [cluster] for 2 processes
              --> job.toml:26:13
               |
            26 | processes = 2
               |             ^
              hint: Give one host:port for each process, or none for a single process.

            error: 2 processes need a "secret_file" in [cluster]
              --> job.toml:26:13
               |
            26 | processes = 2
               |             ^
              detail: Its content proves that a process belongs to the job.
              hint: Make one with `head -c 32 /dev/urandom | base64`, and give it to each
                process.

            2 faults in job.toml
        "#]],
    );
    check(
        &[(
            "",
            "[cluster]\nprocesses = 2\nsecret_file = \"s\"\naddresses = [\"a:1\"]",
        )],
        expect![[r#"
            error: 1 address in [cluster] for 2 processes
              --> job.toml:28:13
               |
            28 | addresses = ["a:1"]
               |             ^^^^^^^
              hint: Give one host:port for each process, or none for a single process.
        "#]],
    );
}

#[test]
fn an_address_is_a_host_and_a_port() {
    check(
        &[(
            "",
            "[cluster]\nprocesses = 4\nsecret_file = \"s\"\n\
             addresses = [\"a\", \"b:0\", \"::1:9000\", \"[::1]:9000\"]",
        )],
        expect![[r#"
            error: not an address: "a"
              --> job.toml:28:14
               |
            28 | addresses = ["a", "b:0", "::1:9000", "[::1]:9000"]
               |              ^^^
              hint: Write host:port, with a port from 1 to 65535, as "10.0.0.1:9000".

            error: not an address: "b:0"
              --> job.toml:28:19
               |
            28 | addresses = ["a", "b:0", "::1:9000", "[::1]:9000"]
               |                   ^^^^^
              hint: Write host:port, with a port from 1 to 65535, as "10.0.0.1:9000".

            error: not an address: "::1:9000"
              --> job.toml:28:26
               |
            28 | addresses = ["a", "b:0", "::1:9000", "[::1]:9000"]
               |                          ^^^^^^^^^^
              hint: Write host:port, with a port from 1 to 65535, as "10.0.0.1:9000".

            3 faults in job.toml
        "#]],
    );
    check(
        &[(
            "",
            "[cluster]\nprocesses = 2\nsecret_file = \"s\"\naddresses = [\"a:1\", \"a:1\"]",
        )],
        expect![[r#"
            error: "addresses" in [cluster] names "a:1" twice
              --> job.toml:28:21
               |
            28 | addresses = ["a:1", "a:1"]
               |                     ^^^^^
              hint: Remove one.
        "#]],
    );
}

#[test]
fn a_worker_has_a_shard() {
    check(
        &[("", "[cluster]\nthreads = 65")],
        expect![[r#"
            error: 65 workers are too many for 64 shards
              --> job.toml:26:11
               |
            26 | threads = 65
               |           ^^
              detail: Each worker owns one shard at least; 1 process of 65 threads make 65
                workers.
              hint: Raise "shards" in [limits]; it is fixed for the job's life.
        "#]],
    );
    check(
        &[("", "[cluster]\nthreads = 3\n[limits]\nshards = 2")],
        expect![[r#"
            error: 3 workers are too many for 2 shards
              --> job.toml:28:10
               |
            28 | shards = 2
               |          ^
              detail: Each worker owns one shard at least; 1 process of 3 threads make 3
                workers.
              hint: Raise "shards" in [limits]; it is fixed for the job's life.
        "#]],
    );
}

#[test]
fn a_record_fits_into_what_may_be_in_flight() {
    check(
        &[("", "[limits]\nmax_record_bytes = \"900MB\"")],
        expect![[r#"
            error: "max_record_bytes" in [limits] is more than "max_in_flight_bytes"
              --> job.toml:26:20
               |
            26 | max_record_bytes = "900MB"
               |                    ^^^^^^^
              detail: Such a record could never be read.
        "#]],
    );
}

#[test]
fn the_ending_of_a_file_is_known() {
    check(
        &[("reference.csv", "reference.xlsx")],
        expect![[r#"
        error: cannot tell what file "reference.xlsx" in [reference] is
          --> job.toml:11:8
           |
        11 | path = "reference.xlsx"
           |        ^^^^^^^^^^^^^^^^
          detail: Known endings are .csv, .jsonl, .json, .ndjson, .parquet.
    "#]],
    );
    check(
        &[(
            "brokers = \"k1:9092\"\ntopic = \"events\"",
            "type = \"file\"\npath = \"events.csv\"",
        )],
        expect![[r#"
            error: cannot tell what file "events.csv" in [events] is
              --> job.toml:5:8
              |
            5 | path = "events.csv"
              |        ^^^^^^^^^^^^
              detail: Known endings are .jsonl, .json, .ndjson.
        "#]],
    );
}

#[test]
fn sinks_have_names_of_their_own() {
    check(
        &[("type = \"jsonl\"", "type = \"jsonl\"\nname = \"joined\"")],
        expect![[r#"
            error: two sinks are called "joined"
              --> job.toml:24:8
               |
            24 | name = "joined"
               |        ^^^^^^^^
              hint: Give this one another "name".
        "#]],
    );
}

#[test]
fn nothing_is_written_twice_or_read_back() {
    check(
        &[("\"joined\"", "\"events\"")],
        expect![[r#"
            error: sink "events" writes topic "events", which [events] reads
              --> job.toml:20:9
               |
            20 | topic = "events"
               |         ^^^^^^^^
              hint: Give each its own.
        "#]],
    );
    check(
        &[(
            "type = \"jsonl\"\npath = \"out/joined.jsonl\"",
            "name = \"other\"\nbrokers = \"k2:9092, k1:9092\"\ntopic = \"joined\"",
        )],
        expect![[r#"
            error: sink "other" and sink "joined" both write topic "joined"
              --> job.toml:25:9
               |
            25 | topic = "joined"
               |         ^^^^^^^^
              hint: Give each its own.
        "#]],
    );
    check(
        &[(
            "",
            "[dead_letters]\ntype = \"jsonl\"\npath = \"./out/joined.jsonl\"",
        )],
        expect![[r#"
            error: [dead_letters] and sink "joined.jsonl" both write file "out/joined.jsonl"
              --> job.toml:27:8
               |
            27 | path = "./out/joined.jsonl"
               |        ^^^^^^^^^^^^^^^^^^^^
              hint: Give each its own.
        "#]],
    );
}

#[test]
fn dead_letters_that_follow_from_no_sink_must_be_written() {
    check(
        &[
            ("[[sinks]]\nbrokers = \"k1:9092\"\ntopic = \"joined\"\n", ""),
            (
                "",
                "[dead_letters]\ntype = \"kafka\"\nbrokers = \"k1:9092\"",
            ),
        ],
        expect![[r#"
            error: missing setting "topic" in [dead_letters]
              --> job.toml:22:1
               |
            22 | [dead_letters]
               | ^^^^^^^^^^^^^^
              detail: It would be the topic of the first Kafka sink, with ".dead" behind it,
                but there is none.
              hint: Write topic = "...".
        "#]],
    );
}

#[test]
fn a_fault_of_a_sink_is_not_repeated_for_the_dead_letters() {
    check(
        &[(
            "brokers = \"k1:9092\"\ntopic = \"joined\"",
            "brokers = 7\ntopic = \"a b\"",
        )],
        expect![[r#"
            error: "brokers" in [[sinks]] must be addresses of brokers
              --> job.toml:19:11
               |
            19 | brokers = 7
               |           ^
              detail: It is the number 7.
              hint: Write host:port, with commas between several, as "10.0.0.1:9092".

            error: "topic" in [[sinks]] is not the name of a topic: "a b"
              --> job.toml:20:9
               |
            20 | topic = "a b"
               |         ^^^^^
              detail: A name has 1 to 249 letters (a to z, A to Z), digits, ".", "_" and
                "-", and is not "." or "..".

            2 faults in job.toml
        "#]],
    );
    check(
        &[(
            "topic = \"joined\"",
            "topic = \"joined\"\ndelivery = \"twice\"\ncommit_interval = \"often\"",
        )],
        expect![[r#"
            error: unknown value "twice" of "delivery" in [[sinks]]
              --> job.toml:21:12
               |
            21 | delivery = "twice"
               |            ^^^^^^^
              detail: It must be "exactly-once" or "at-least-once".

            error: "commit_interval" in [[sinks]] is not a duration: "often": no number
              --> job.toml:22:19
               |
            22 | commit_interval = "often"
               |                   ^^^^^^^
              hint: Write a whole number and ms, s, m, h or d, as "10ms", "20s" or "24h".

            2 faults in job.toml
        "#]],
    );
}

#[test]
fn a_derived_topic_is_checked() {
    let long = format!("topic = \"{}\"", "x".repeat(249));
    let error = load_with(&edited(&[("topic = \"joined\"", &long)]), &[], &[]);
    let report = error
        .err()
        .expect("the topic of dead letters is too long")
        .to_string();
    assert!(
        report.starts_with("error: \"topic\" in [dead_letters] is not"),
        "{report}"
    );
}

#[test]
fn events_in_a_file_keep_their_bindings_in_a_folder() {
    let file = (
        "brokers = \"k1:9092\"\ntopic = \"events\"",
        "type = \"file\"\npath = \"events.jsonl\"",
    );
    let tables = "[checkpoint]\nlocation = \"s3://bucket/state\"\nbindings_brokers = \"k2:9092\"\n";
    check(
        &[file, ("", tables)],
        expect![[r#"
        error: events in a file need a folder of checkpoints, not "s3://bucket/state"
          --> job.toml:26:12
           |
        26 | location = "s3://bucket/state"
           |            ^^^^^^^^^^^^^^^^^^^
          detail: The bindings of such a job are a file beside its checkpoints.
          hint: Write file:// and a path.

        error: events in a file have no topic of bindings
          --> job.toml:27:20
           |
        27 | bindings_brokers = "k2:9092"
           |                    ^^^^^^^^^
          detail: The bindings of such a job are a file beside its checkpoints.
          hint: Leave it out.

        2 faults in job.toml
    "#]],
    );
    let text = edited(&[
        file,
        ("", "[checkpoint]\nlocation = \"file:///var/state\"\n"),
    ]);
    let config = load_with(&text, &[], &[]).unwrap().config;
    let path = "/var/state/detections/bindings.jsonl".into();
    assert_eq!(config.bindings(), Bindings::File(path));
}

#[test]
fn a_window_is_not_longer_than_the_horizon() {
    check(
        &[
            ("[join]", "[join]\nrevise_window = \"2d\""),
            ("", "[distinct]\nhorizon = \"24h\""),
        ],
        expect![[r#"
            error: "revise_window" in [join] (2d) is longer than "horizon" in [distinct] (1d)
              --> job.toml:16:17
               |
            16 | revise_window = "2d"
               |                 ^^^^
              detail: What is forgotten cannot be revised.
              hint: Write a "revise_window" of 1d at most.
        "#]],
    );
    check(
        &[("", "[distinct]\nhorizon = \"5m\"")],
        expect![[r#"
        error: "revise_window" in [join] (10m) is longer than "horizon" in [distinct] (5m)
          --> job.toml:26:11
           |
        26 | horizon = "5m"
           |           ^^^^
          detail: What is forgotten cannot be revised.
          hint: Write a "revise_window" of 5m at most.
    "#]],
    );
}

#[test]
fn times_decide_only_where_events_have_them() {
    check(
        &[
            ("time = { column = \"at\", unit = \"ms\" }\n", ""),
            ("", "[distinct]\nkeep = \"latest\""),
        ],
        expect![[r#"
            error: keep = "latest" in [distinct] needs an event time
              --> job.toml:25:8
               |
            25 | keep = "latest"
               |        ^^^^^^^^
              hint: Name its column as "time" in [events].
        "#]],
    );
    check(
        &[
            ("time = { column = \"at\", unit = \"ms\" }\n", ""),
            ("", "[distinct]\nretry_time = \"same\""),
        ],
        expect![[r#"
            error: retry_time = "same" in [distinct] needs an event time
              --> job.toml:25:14
               |
            25 | retry_time = "same"
               |              ^^^^^^
              detail: Without one, keys are remembered by arrival.
              hint: Name its column as "time" in [events], or remove this.
        "#]],
    );
    check(
        &[("", "[distinct]\nkeep = \"earliest\"\nretry_time = \"same\"")],
        expect![[r#"
            error: retry_time = "same" in [distinct] contradicts keep = "earliest"
              --> job.toml:27:14
               |
            27 | retry_time = "same"
               |              ^^^^^^
              detail: Events of one time would all be as good as the first.
              hint: Remove it, or write "may-differ".
        "#]],
    );
}

#[test]
fn a_worker_has_its_part_of_the_memory() {
    check(
        &[(
            "",
            "[cluster]\nthreads = 8\n[state]\nmemory_limit = \"16MB\"",
        )],
        expect![[r#"
            error: "memory_limit" in [state] is too small for 8 threads
              --> job.toml:28:16
               |
            28 | memory_limit = "16MB"
               |                ^^^^^^
              detail: Each has its part of it, and needs 4MB at least.
              hint: Write "32MB" or more.
        "#]],
    );
}
