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

            error: "restarts" in [cluster] must be a whole number of at least 0
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
        error: "tick" in [limits] must be a duration
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
                "-".

            error: "topic" in [events] is not the name of a topic: "a/b"
              --> job.toml:5:9
              |
            5 | topic = "a/b"
              |         ^^^^^
              detail: A name has 1 to 249 letters (a to z, A to Z), digits, ".", "_" and
                "-".

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
              detail: Names state, topics and transactional ids: 1 to 100 letters, digits,
                ".", "_", "-".
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
