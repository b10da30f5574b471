//! Messages about single values: types, quantities, words, properties for librdkafka.
//!
//! They are apart from `columns` and `sections`, where settings are compared with one another.

use expect_test::expect;

use crate::config::tests::check;

#[test]
fn a_value_has_its_type() {
    check(
        &[("topic = \"events\"", "topic = [\"events\"]")],
        expect![[r#"
            error: "topic" in [events] must be the name of a topic
              --> job.toml:5:9
              |
            5 | topic = ["events"]
              |         ^^^^^^^^^^
              detail: It is a list.
              hint: Write text in quotes.
        "#]],
    );
    check(
        &[("", "[cluster]\nthreads = \"2\"")],
        expect![[r#"
        error: "threads" in [cluster] must be a whole number from 1 to 1024
          --> job.toml:26:11
           |
        26 | threads = "2"
           |           ^^^
          detail: It is the text "2".
    "#]],
    );
    check(
        &[("", "[cluster]\nthreads = 5000\nrestarts = -1")],
        expect![[r#"
            error: "threads" in [cluster] must be a whole number from 1 to 1024
              --> job.toml:26:11
               |
            26 | threads = 5000
               |           ^^^^
              detail: It is the number 5000.

            error: "restarts" in [cluster] must be a whole number from 0 to 10000
              --> job.toml:27:12
               |
            27 | restarts = -1
               |            ^^
              detail: It is the number -1.

            2 faults in job.toml
        "#]],
    );
}

#[test]
fn a_word_is_one_of_some() {
    check(
        &[("[join]", "[join]\nunmatched = \"keeep\"")],
        expect![[r#"
            error: unknown value "keeep" of "unmatched" in [join]
              --> job.toml:16:13
               |
            16 | unmatched = "keeep"
               |             ^^^^^^^
              detail: It must be "keep", "drop" or "dead-letter".
              hint: Did you mean "keep"?
        "#]],
    );
    check(
        &[(
            "topic = \"events\"",
            "topic = \"events\"\nformat = \"avro\"",
        )],
        expect![[r#"
            error: unknown value "avro" of "format" in [events]
              --> job.toml:6:10
              |
            6 | format = "avro"
              |          ^^^^^^
              detail: It must be "json".
        "#]],
    );
}

#[test]
fn a_duration_has_a_unit() {
    check(
        &[("", "[limits]\ntick = 1")],
        expect![[r#"
            error: "tick" in [limits] must be a duration from 1ms to 10s
              --> job.toml:26:8
               |
            26 | tick = 1
               |        ^
              detail: It is the number 1.
              hint: Write a whole number and ms, s, m, h or d, as "10ms", "20s" or "24h".
        "#]],
    );
    check(
        &[("", "[limits]\ntick = \"1\"")],
        expect![[r#"
            error: "tick" in [limits] is not a duration: "1": no unit
              --> job.toml:26:8
               |
            26 | tick = "1"
               |        ^^^
              hint: Write a whole number and ms, s, m, h or d, as "10ms", "20s" or "24h".
        "#]],
    );
    check(
        &[(
            "",
            "[limits]\ntick = \"0ms\"\n[cluster]\npeer_timeout = \"2 weeks\"",
        )],
        expect![[r#"
            error: "tick" in [limits] is not a duration: "0ms": it must be more than 0
              --> job.toml:26:8
               |
            26 | tick = "0ms"
               |        ^^^^^
              hint: Write a whole number and ms, s, m, h or d, as "10ms", "20s" or "24h".

            error: "peer_timeout" in [cluster] is not a duration: "2 weeks": unknown unit "weeks"
              --> job.toml:28:16
               |
            28 | peer_timeout = "2 weeks"
               |                ^^^^^^^^^
              hint: Write a whole number and ms, s, m, h or d, as "10ms", "20s" or "24h".

            2 faults in job.toml
        "#]],
    );
}

#[test]
fn a_size_has_a_known_unit() {
    check(
        &[("", "[limits]\nmax_record_bytes = \"1mb\"")],
        expect![[r#"
            error: "max_record_bytes" in [limits] is not a size: "1mb": unknown unit "mb"
              --> job.toml:26:20
               |
            26 | max_record_bytes = "1mb"
               |                    ^^^^^
              hint: Write a whole number of bytes, or one with KB, MB, GB (1000) or KiB,
                MiB, GiB (1024), as "64MB".
        "#]],
    );
    check(
        &[(
            "",
            "[limits]\nmax_record_bytes = 0\nmax_in_flight_bytes = \"much\"",
        )],
        expect![[r#"
            error: "max_record_bytes" in [limits] is not a size: "0": it must be more than 0
              --> job.toml:26:20
               |
            26 | max_record_bytes = 0
               |                    ^
              hint: Write a whole number of bytes, or one with KB, MB, GB (1000) or KiB,
                MiB, GiB (1024), as "64MB".

            error: "max_in_flight_bytes" in [limits] is not a size: "much": no number
              --> job.toml:27:23
               |
            27 | max_in_flight_bytes = "much"
               |                       ^^^^^^
              hint: Write a whole number of bytes, or one with KB, MB, GB (1000) or KiB,
                MiB, GiB (1024), as "64MB".

            2 faults in job.toml
        "#]],
    );
}

#[test]
fn names_have_letters_digits_and_dots() {
    check(
        &[("\"detections\"", "\"my job\""), ("\"events\"", "\"a/b\"")],
        expect![[r#"
            error: "job" at the top level is not a name: "my job"
              --> job.toml:1:7
              |
            1 | job = "my job"
              |       ^^^^^^^^
              detail: A name has 1 to 100 letters (a to z, A to Z), digits, ".", "_" and
                "-", and is not "." or "..".

            error: "topic" in [events] is not the name of a topic: "a/b"
              --> job.toml:5:9
              |
            5 | topic = "a/b"
              |         ^^^^^
              detail: A name has 1 to 249 letters (a to z, A to Z), digits, ".", "_" and
                "-", and is not "." or "..".

            2 faults in job.toml
        "#]],
    );
    check(
        &[("\"detections\"", "\"\"")],
        expect![[r#"
            error: "job" at the top level is empty
              --> job.toml:1:7
              |
            1 | job = ""
              |       ^^
              detail: Names state, topics and transactional ids: 1 to 100 of the letters "a"
                to "z" and "A" to "Z", digits, ".", "_" and "-"; not "." or "..".
        "#]],
    );
}

#[test]
fn start_is_a_word_or_a_time() {
    check(
        &[(
            "topic = \"events\"",
            "topic = \"events\"\nstart = \"yesterday\"",
        )],
        expect![[r#"
            error: "start" in [events] is not "earliest", "latest" or a time: "yesterday"
              --> job.toml:6:9
              |
            6 | start = "yesterday"
              |         ^^^^^^^^^^^
              hint: Write a time as RFC 3339 has it, with its zone, as
                "2026-01-31T12:00:00Z".
        "#]],
    );
    check(
        &[(
            "topic = \"events\"",
            "topic = \"events\"\nstart = 2026-01-31T12:00:00",
        )],
        expect![[r#"
            error: "start" in [events] is not "earliest", "latest" or a time: "2026-01-31T12:00:00"
              --> job.toml:6:9
              |
            6 | start = 2026-01-31T12:00:00
              |         ^^^^^^^^^^^^^^^^^^^
              hint: Write a time as RFC 3339 has it, with its zone, as
                "2026-01-31T12:00:00Z".
        "#]],
    );
    check(
        &[(
            "topic = \"events\"",
            "topic = \"events\"\nstart = \"1969-01-31T12:00:00Z\"",
        )],
        expect![[r#"
            error: "start" in [events] is before 1970
              --> job.toml:6:9
              |
            6 | start = "1969-01-31T12:00:00Z"
              |         ^^^^^^^^^^^^^^^^^^^^^^
              hint: Write a time as RFC 3339 has it, with its zone, as
                "2026-01-31T12:00:00Z".
        "#]],
    );
}

#[test]
fn what_the_job_sets_itself_is_refused() {
    check(
        &[(
            "topic = \"joined\"",
            "topic = \"joined\"\n[sinks.kafka]\nenable.idempotence = false\n\"group.id\" = \"x\"\n\
             \"linger.ms\" = [5]\nsecurity.protocol = \"SSL\"\n\"security.protocol\" = \"SSL\"",
        )],
        expect![[r#"
            error: kafka property "enable.idempotence" in [[sinks]] cannot be set
              --> job.toml:22:8
               |
            22 | enable.idempotence = false
               |        ^^^^^^^^^^^
              detail: The job relies on it to keep the order of rows.
              hint: Remove it.

            error: kafka property "group.id" in [[sinks]] cannot be set
              --> job.toml:23:1
               |
            23 | "group.id" = "x"
               | ^^^^^^^^^^
              detail: The job assigns partitions itself, and its group has the job's name.
              hint: Remove it.

            error: kafka property "linger.ms" in [[sinks]] must be text, a number, true or false
              --> job.toml:24:15
               |
            24 | "linger.ms" = [5]
               |               ^^^
              detail: It is a list.

            error: kafka property "security.protocol" in [[sinks]] is written twice
              --> job.toml:26:1
               |
            26 | "security.protocol" = "SSL"
               | ^^^^^^^^^^^^^^^^^^^
              hint: Remove one.

            4 faults in job.toml
        "#]],
    );
}

#[test]
fn a_line_with_a_secret_is_not_shown() {
    check(
        &[(
            "topic = \"events\"",
            "topic = \"events\"\nkafka = { \"sasl.password\" = \"hush\", \"group.id\" = \"x\" }",
        )],
        expect![[r#"
            error: kafka property "group.id" in [events] cannot be set
              --> job.toml:6:37
              detail: The job assigns partitions itself, and its group has the job's name.
              hint: Remove it.
        "#]],
    );
}

#[test]
fn what_is_in_a_list_or_table_has_its_type() {
    check(
        &[
            ("key = [\"id\"]", "key = [7]"),
            ("column = \"at\"", "column = 7"),
        ],
        expect![[r#"
            error: "key" in [events] must be a list of column names
              --> job.toml:6:8
              |
            6 | key = [7]
              |        ^
              detail: There is the number 7 in it.
              hint: Write it as ["id"].

            error: "time" in [events] must be a table of column and unit
              --> job.toml:7:19
              |
            7 | time = { column = 7, unit = "ms" }
              |                   ^
              detail: There is the number 7 in it.
              hint: Write it as { column = "created", unit = "ms" }.

            2 faults in job.toml
        "#]],
    );
}

#[test]
fn quantities_have_bounds() {
    check(
        &[(
            "",
            "[limits]\ntick = \"1d\"\nmax_record_bytes = 1\n[cluster]\npeer_timeout = \"1ms\"",
        )],
        expect![[r#"
            error: "tick" in [limits] must be a duration from 1ms to 10s
              --> job.toml:26:8
               |
            26 | tick = "1d"
               |        ^^^^
              detail: It is 1d.

            error: "max_record_bytes" in [limits] must be a size from 100B to 1GB
              --> job.toml:27:20
               |
            27 | max_record_bytes = 1
               |                    ^
              detail: It is 1.

            error: "peer_timeout" in [cluster] must be a duration from 500ms to 10m
              --> job.toml:29:16
               |
            29 | peer_timeout = "1ms"
               |                ^^^^^
              detail: It is 1ms.

            3 faults in job.toml
        "#]],
    );
    check(
        &[("", "[cluster]\npeer_timeout = \"99999d\"")],
        expect![[r#"
            error: "peer_timeout" in [cluster] must be a duration from 500ms to 10m
              --> job.toml:26:16
               |
            26 | peer_timeout = "99999d"
               |                ^^^^^^^^
              detail: It is 99999d.
        "#]],
    );
}

#[test]
fn a_job_is_not_called_as_a_folder_is() {
    check(
        &[("\"detections\"", "\"..\"")],
        expect![[r#"
        error: "job" at the top level is not a name: ".."
          --> job.toml:1:7
          |
        1 | job = ".."
          |       ^^^^
          detail: A name has 1 to 100 letters (a to z, A to Z), digits, ".", "_" and
            "-", and is not "." or "..".
    "#]],
    );
}

#[test]
fn a_log_filter_has_known_levels() {
    check(
        &[("", "[telemetry]\nlog = \"loud,deltajoin=debg\"")],
        expect![[r#"
            error: unknown level "loud" in "log" in [telemetry]
              --> job.toml:26:7
               |
            26 | log = "loud,deltajoin=debg"
               |       ^^^^^^^^^^^^^^^^^^^^^
              detail: It must be "off", "error", "warn", "info", "debug" or "trace".
              hint: Write a level, as "info", or levels by module, as
                "info,deltajoin=debug".

            error: unknown level "debg" in "log" in [telemetry]
              --> job.toml:26:7
               |
            26 | log = "loud,deltajoin=debg"
               |       ^^^^^^^^^^^^^^^^^^^^^
              detail: It must be "off", "error", "warn", "info", "debug" or "trace".
              hint: Write a level, as "info", or levels by module, as
                "info,deltajoin=debug".

            2 faults in job.toml
        "#]],
    );
}

#[test]
fn what_librdkafka_does_not_accept_is_refused_in_its_words() {
    check(
        &[(
            "topic = \"joined\"",
            "topic = \"joined\"\n[sinks.kafka]\n\"lingr.ms\" = 5\n\"security.protocol\" = \"TLS\"",
        )],
        expect![[r#"
            error: librdkafka does not accept kafka property "lingr.ms" in [[sinks]]
              --> job.toml:22:1
               |
            22 | "lingr.ms" = 5
               | ^^^^^^^^^^
              detail: No such configuration property: "lingr.ms".

            error: librdkafka does not accept kafka property "security.protocol" in [[sinks]]
              --> job.toml:23:1
               |
            23 | "security.protocol" = "TLS"
               | ^^^^^^^^^^^^^^^^^^^
              detail: Invalid value "TLS" for configuration property "security.protocol".

            2 faults in job.toml
        "#]],
    );
}

#[test]
fn a_broker_is_a_host_and_a_port() {
    check(
        &[("k1:9092", "k1:9092,nonsense")],
        expect![[r#"
        error: "brokers" in [events] names no broker: "nonsense"
          --> job.toml:4:11
          |
        4 | brokers = "k1:9092,nonsense"
          |           ^^^^^^^^^^^^^^^^^^
          hint: Write host:port, with commas between several, as "10.0.0.1:9092".
    "#]],
    );
}
