//! Messages about names: unknown, misplaced, missing.
//!
//! They are apart from `values`: these follow from the list of settings alone.

use expect_test::expect;

use crate::config::tests::check;

#[test]
fn an_unknown_setting_is_guessed() {
    check(
        &[("topic = \"events\"", "topc = \"events\"")],
        expect![[r#"
            error: unknown setting "topc" in [events]
              --> job.toml:5:1
              |
            5 | topc = "events"
              | ^^^^
              detail: Known settings are "type", "brokers", "topic", "format", "start",
                "key", "time", "columns", "on_missing_offsets" and "kafka".
              hint: Did you mean "topic"?
        "#]],
    );
}

#[test]
fn a_setting_of_another_table_is_pointed_to() {
    check(
        &[("[join]", "[join]\nthreads = 2")],
        expect![[r#"
            error: unknown setting "threads" in [join]
              --> job.toml:16:1
               |
            16 | threads = 2
               | ^^^^^^^
              detail: Known settings are "on", "unmatched", "on_reference_change",
                "revise_window", "strategy" and "version_column".
              hint: "threads" is a setting in [cluster].
        "#]],
    );
    check(
        &[("job =", "shards = 8\njob =")],
        expect![[r#"
            error: unknown setting "shards" at the top level
              --> job.toml:1:1
              |
            1 | shards = 8
              | ^^^^^^
              detail: Before any table there is only "job"; other settings stand in a table.
              hint: "shards" is a setting in [limits].
        "#]],
    );
}

#[test]
fn an_unknown_table_is_guessed() {
    check(
        &[("", "[telemetri]\nlog = \"debug\"")],
        expect![[r#"
            error: unknown table [telemetri]
              --> job.toml:25:2
               |
            25 | [telemetri]
               |  ^^^^^^^^^
              detail: Known tables are "events", "distinct", "reference", "join", "sinks",
                "dead_letters", "cluster", "checkpoint", "state", "limits" and "telemetry".
              hint: Did you mean "telemetry"?
        "#]],
    );
}

#[test]
fn a_setting_of_another_type_is_refused() {
    check(
        &[(
            "topic = \"events\"",
            "topic = \"events\"\npath = \"a.jsonl\"",
        )],
        expect![[r#"
            error: setting "path" in [events] belongs to type "file"
              --> job.toml:6:1
              |
            6 | path = "a.jsonl"
              | ^^^^
              detail: The type of this table is "kafka".
              hint: Remove it, or write type = "file".
        "#]],
    );
    check(
        &[("path = \"out", "topic = \"x\"\npath = \"out")],
        expect![[r#"
            error: setting "topic" in [[sinks]] belongs to type "kafka"
              --> job.toml:24:1
               |
            24 | topic = "x"
               | ^^^^^
              detail: The type of this table is "jsonl".
              hint: Remove it, or write type = "kafka".
        "#]],
    );
}

#[test]
fn an_unknown_type_brings_no_other_faults() {
    check(
        &[("[reference]", "[reference]\ntype = \"files\"")],
        expect![[r#"
            error: unknown value "files" of "type" in [reference]
              --> job.toml:11:8
               |
            11 | type = "files"
               |        ^^^^^^^
              detail: It must be "file" or "kafka".
              hint: Did you mean "file"?
        "#]],
    );
}

#[test]
fn a_missing_setting_is_named_with_its_meaning() {
    check(
        &[("topic = \"events\"\n", ""), ("job = \"detections\"", "")],
        expect![[r#"
            error: missing setting "job" at the top level
              --> job.toml
              detail: Names state, topics and transactional ids: 1 to 100 of the letters "a"
                to "z" and "A" to "Z", digits, ".", "_" and "-"; not "." or "..".
              hint: Write job = "...".

            error: missing setting "topic" in [events]
              --> job.toml:3:1
              |
            3 | [events]
              | ^^^^^^^^
              detail: The topic to read.
              hint: Write topic = "...".

            2 faults in job.toml
        "#]],
    );
}

#[test]
fn a_missing_table_is_one_fault() {
    check(
        &[("[join]\non = { place = \"place\" }", "")],
        expect![[r#"
            error: missing table [join]
              --> job.toml
              detail: How events meet the reference.
              hint: It needs "on".
        "#]],
    );
}

#[test]
fn a_job_needs_a_sink() {
    check(
        &[
            ("[[sinks]]\nbrokers = \"k1:9092\"\ntopic = \"joined\"\n", ""),
            (
                "[[sinks]]\ntype = \"jsonl\"\npath = \"out/joined.jsonl\"\n",
                "",
            ),
        ],
        expect![[r#"
            error: missing table [[sinks]]
              --> job.toml
              detail: Where results go; at least one. A row has the events' columns, then
                the reference's columns without its key.
              hint: It needs "brokers" and "topic".
        "#]],
    );
}

#[test]
fn a_table_has_its_shape() {
    check(
        &[("job =", "limits = 3\njob =")],
        expect![[r#"
        error: "limits" must be a table
          --> job.toml:1:1
          |
        1 | limits = 3
          | ^^^^^^
          detail: It is the number 3.
          hint: Begin it with the line [limits].
    "#]],
    );
    check(
        &[
            ("[[sinks]]\nbrokers = \"k1:9092\"\ntopic = \"joined\"\n", ""),
            ("[[sinks]]", "[sinks]"),
        ],
        expect![[r#"
            error: "sinks" must be a list of tables
              --> job.toml:19:2
               |
            19 | [sinks]
               |  ^^^^^
              detail: It is a table.
              hint: Begin it with the line [[sinks]].
        "#]],
    );
}

#[test]
fn a_table_that_is_unknown_is_refused() {
    check(
        &[("", "[join2]\n")],
        expect![[r#"
            error: unknown table [join2]
              --> job.toml:25:2
               |
            25 | [join2]
               |  ^^^^^
              detail: Known tables are "events", "distinct", "reference", "join", "sinks",
                "dead_letters", "cluster", "checkpoint", "state", "limits" and "telemetry".
              hint: Did you mean "join"?
        "#]],
    );
}

#[test]
fn all_faults_come_in_the_order_of_the_file() {
    check(
        &[
            (
                "brokers = \"k1:9092\"\ntopic = \"events\"",
                "topic = 5\nbrokers = \"\"",
            ),
            ("", "[cluster]\nthreads = 0\nprocess = 2"),
            ("place = \"int64\",", "place = \"int\","),
        ],
        expect![[r#"
            error: "topic" in [events] must be the name of a topic
              --> job.toml:4:9
              |
            4 | topic = 5
              |         ^
              detail: It is the number 5.
              hint: Write text in quotes.

            error: "brokers" in [events] is empty
              --> job.toml:5:11
              |
            5 | brokers = ""
              |           ^^
              detail: The brokers to begin with, as "host:port", with commas between them.

            error: unknown type "int" of column "place" in [events]
              --> job.toml:8:35
              |
            8 | columns = { id = "int64", place = "int", item = "string?", at = "int64" }
              |                                   ^^^^^
              detail: Known types are "int64", "float64", "string", "bool", "timestamp" and
                "decimal(p,s)" with p from 1 to 38 and s from 0 to p; a "?" behind the type
                makes the column nullable.
              hint: Did you mean "int64"?

            error: "threads" in [cluster] must be a whole number from 1 to 1024
              --> job.toml:26:11
               |
            26 | threads = 0
               |           ^
              detail: It is the number 0.

            error: unknown setting "process" in [cluster]
              --> job.toml:27:1
               |
            27 | process = 2
               | ^^^^^^^
              detail: Known settings are "processes", "threads", "addresses", "secret_file",
                "peer_timeout" and "restarts".
              hint: Did you mean "processes"?

            5 faults in job.toml
        "#]],
    );
}

#[test]
fn syntax_errors_have_the_same_form() {
    check(
        &[("job = \"detections\"", "job = detections")],
        expect![[r#"
            error: not TOML: string values must be quoted, expected literal string
              --> job.toml:1:7
              |
            1 | job = detections
              |       ^^^^^^^^^^
        "#]],
    );
    check(
        &[(
            "topic = \"events\"",
            "topic = \"events\"\ntopic = \"again\"",
        )],
        expect![[r#"
            error: not TOML: duplicate key
              --> job.toml:6:1
              |
            6 | topic = "again"
              | ^^^^^
        "#]],
    );
    check(
        &[("[join]", "[join")],
        expect![[r#"
            error: not TOML: unclosed table, expected `]`
              --> job.toml:15:6
               |
            15 | [join
               |      ^
        "#]],
    );
}

#[test]
fn only_syntax_errors_that_stand_are_reported() {
    check(
        &[("[\"id\"]", "[\"id\""), ("path =", "path")],
        expect![[r#"
            error: not TOML: missing comma between array elements, expected `,`
              --> job.toml:7:1
              |
            7 | time = { column = "at", unit = "ms" }
              | ^
        "#]],
    );
    check(
        &[("[join]", "[events]"), ("job =", "job = \"a\"\njob =")],
        expect![[r#"
            error: not TOML: duplicate key
              --> job.toml:2:1
              |
            2 | job = "detections"
              | ^^^

            error: not TOML: duplicate key
              --> job.toml:16:2
               |
            16 | [events]
               |  ^^^^^^

            2 faults in job.toml
        "#]],
    );
}
