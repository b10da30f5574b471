//! Messages about columns: types, keys, the event time, the join.
//!
//! They are apart because rows are the largest part of a configuration.

use expect_test::expect;

use crate::config::tests::check;

#[test]
fn a_column_has_a_known_type() {
    check(
        &[("item = \"string?\"", "item = \"strng?\"")],
        expect![[r#"
            error: unknown type "strng?" of column "item" in [events]
              --> job.toml:8:51
              |
            8 | columns = { id = "int64", place = "int64", item = "strng?", at = "int64" }
              |                                                   ^^^^^^^^
              detail: Known types are "int64", "float64", "string", "bool", "timestamp" and
                "decimal(p,s)" with p from 1 to 38 and s from 0 to p; a "?" behind the type
                makes the column nullable.
              hint: Did you mean "string"?
        "#]],
    );
    check(
        &[("item = \"string?\"", "item = \"decimal(39,2)\"")],
        expect![[r#"
            error: unknown type "decimal(39,2)" of column "item" in [events]
              --> job.toml:8:51
              |
            8 | columns = { id = "int64", place = "int64", item = "decimal(39,2)", at = "int64" }
              |                                                   ^^^^^^^^^^^^^^^
              detail: Known types are "int64", "float64", "string", "bool", "timestamp" and
                "decimal(p,s)" with p from 1 to 38 and s from 0 to p; a "?" behind the type
                makes the column nullable.
        "#]],
    );
    check(
        &[("item = \"string?\"", "item = 5")],
        expect![[r#"
        error: the type of column "item" in [events] must be text
          --> job.toml:8:51
          |
        8 | columns = { id = "int64", place = "int64", item = 5, at = "int64" }
          |                                                   ^
          detail: It is the number 5.
          hint: Write it as { id = "int64", name = "string?" }.
    "#]],
    );
}

#[test]
fn a_column_comes_once() {
    check(
        &[("item = \"string?\"", "id = \"string?\"")],
        expect![[r#"
            error: not TOML: duplicate key
              --> job.toml:8:44
              |
            8 | columns = { id = "int64", place = "int64", id = "string?", at = "int64" }
              |                                            ^^
        "#]],
    );
}

#[test]
fn a_key_has_known_columns_that_are_not_nullable() {
    check(
        &[("key = [\"id\"]", "key = [\"ids\"]")],
        expect![[r#"
        error: key in [events] names an unknown column "ids"
          --> job.toml:6:8
          |
        6 | key = ["ids"]
          |        ^^^^^
          detail: Columns of [events] are "id", "place", "item" and "at".
          hint: Did you mean "id"?
    "#]],
    );
    check(
        &[("key = [\"id\"]", "key = [\"id\", \"item\"]")],
        expect![[r#"
            error: key column "item" in [events] is nullable
              --> job.toml:6:14
              |
            6 | key = ["id", "item"]
              |              ^^^^^^
              detail: A row without a key could not be told from others.
              hint: Remove the "?" behind its type.
        "#]],
    );
    check(
        &[("key = [\"id\"]", "key = [\"id\", \"id\"]")],
        expect![[r#"
            error: "key" in [events] names "id" twice
              --> job.toml:6:14
              |
            6 | key = ["id", "id"]
              |              ^^^^
              hint: Remove one.
        "#]],
    );
    check(
        &[("key = [\"id\"]", "key = []")],
        expect![[r#"
        error: "key" in [events] is empty
          --> job.toml:6:7
          |
        6 | key = []
          |       ^^
          hint: Write it as ["id"].
    "#]],
    );
    check(
        &[("key = [\"id\"]", "key = \"id\"")],
        expect![[r#"
        error: "key" in [events] must be a list of column names
          --> job.toml:6:7
          |
        6 | key = "id"
          |       ^^^^
          detail: It is the text "id".
          hint: Write it as ["id"].
    "#]],
    );
}

#[test]
fn the_event_time_is_a_column_of_times() {
    check(
        &[("column = \"at\"", "column = \"att\"")],
        expect![[r#"
        error: "time" in [events] names an unknown column "att"
          --> job.toml:7:19
          |
        7 | time = { column = "att", unit = "ms" }
          |                   ^^^^^
          detail: Columns of [events] are "id", "place", "item" and "at".
          hint: Did you mean "at"?
    "#]],
    );
    check(
        &[("column = \"at\", unit = \"ms\"", "column = \"at\"")],
        expect![[r#"
            error: the event time "at" in [events] has no unit
              --> job.toml:7:19
              |
            7 | time = { column = "at" }
              |                   ^^^^
              detail: Its type is "int64", which says nothing of seconds.
              hint: Add unit = "s", "ms" or "us".
        "#]],
    );
    check(
        &[("column = \"at\"", "column = \"item\"")],
        expect![[r#"
            error: the event time "item" in [events] is no time
              --> job.toml:7:19
              |
            7 | time = { column = "item", unit = "ms" }
              |                   ^^^^^^
              detail: Its type is "string"; a time is "int64" or "timestamp".
        "#]],
    );
    check(
        &[("at = \"int64\"", "at = \"timestamp\"")],
        expect![[r#"
            error: the event time "at" in [events] takes no unit
              --> job.toml:7:8
              |
            7 | time = { column = "at", unit = "ms" }
              |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              detail: A "timestamp" has its unit in itself.
              hint: Remove the unit.
        "#]],
    );
}

#[test]
fn the_event_time_has_a_column_and_a_unit() {
    check(
        &[("unit = \"ms\"", "unit = \"ns\"")],
        expect![[r#"
        error: unknown unit "ns" of "time" in [events]
          --> job.toml:7:32
          |
        7 | time = { column = "at", unit = "ns" }
          |                                ^^^^
          detail: It must be "s", "ms" or "us".
    "#]],
    );
    check(
        &[("unit = \"ms\"", "units = \"ms\"")],
        expect![[r#"
        error: unknown setting "units" of "time" in [events]
          --> job.toml:7:25
          |
        7 | time = { column = "at", units = "ms" }
          |                         ^^^^^
          detail: Known settings are "column" and "unit".
          hint: Did you mean "unit"?
    "#]],
    );
    check(
        &[("column = \"at\", unit = \"ms\"", "unit = \"ms\"")],
        expect![[r#"
            error: "time" in [events] names no column
              --> job.toml:7:8
              |
            7 | time = { unit = "ms" }
              |        ^^^^^^^^^^^^^^^
              hint: Write it as { column = "created", unit = "ms" }.
        "#]],
    );
}

#[test]
fn the_join_is_on_columns_of_equal_type() {
    check(
        &[("on = { place = \"place\" }", "on = { item = \"place\" }")],
        expect![[r#"
            error: columns of "on" in [join] differ in type: "item" and "place"
              --> job.toml:16:8
               |
            16 | on = { item = "place" }
               |        ^^^^
              detail: In [events] it is "string", in [reference] it is "int64".
        "#]],
    );
    check(
        &[("on = { place = \"place\" }", "on = { plaice = \"place\" }")],
        expect![[r#"
            error: "on" in [join] names an unknown column "plaice"
              --> job.toml:16:8
               |
            16 | on = { plaice = "place" }
               |        ^^^^^^
              detail: Columns of [events] are "id", "place", "item" and "at".
              hint: Did you mean "place"?
        "#]],
    );
    check(
        &[("on = { place = \"place\" }", "on = { place = 3 }")],
        expect![[r#"
            error: "on" in [join] must be a table of column names
              --> job.toml:16:16
               |
            16 | on = { place = 3 }
               |                ^
              detail: There is the number 3 in it.
              hint: Write it as { event_column = "reference_column" }.
        "#]],
    );
}

#[test]
fn the_join_is_on_the_whole_key_of_the_reference() {
    check(
        &[("on = { place = \"place\" }", "on = { item = \"label\" }")],
        expect![[r#"
            error: "on" in [join] lacks the key column "place"
              --> job.toml:16:6
               |
            16 | on = { item = "label" }
               |      ^^^^^^^^^^^^^^^^^^
              detail: The key of [reference] is "place".

            error: "on" in [join] names "label", which is no key
              --> job.toml:16:15
               |
            16 | on = { item = "label" }
               |               ^^^^^^^
              detail: The right sides must be the key of [reference], which is "place".

            2 faults in job.toml
        "#]],
    );
    check(
        &[(
            "on = { place = \"place\" }",
            "on = { place = \"place\", id = \"place\" }",
        )],
        expect![[r#"
            error: "on" in [join] names "place" twice
              --> job.toml:16:30
               |
            16 | on = { place = "place", id = "place" }
               |                              ^^^^^^^
              detail: The right sides must be the key of [reference], which is "place".
        "#]],
    );
    check(
        &[("key = [\"place\"]", "key = [\"place\", \"label\"]")],
        expect![[r#"
            error: "on" in [join] lacks the key column "label"
              --> job.toml:16:6
               |
            16 | on = { place = "place" }
               |      ^^^^^^^^^^^^^^^^^^^
              detail: The key of [reference] is "place" and "label".
        "#]],
    );
}

#[test]
fn a_result_has_each_name_once() {
    check(
        &[("label = \"string\"", "item = \"string\"")],
        expect![[r#"
            error: column "item" of [reference] is a column of [events] as well
              --> job.toml:13:30
               |
            13 | columns = { place = "int64", item = "string" }
               |                              ^^^^
              detail: A result has the events' columns and the reference's without its key,
                and each name once.
              hint: Leave it out of one of them, or rename it where it comes from.
        "#]],
    );
}

#[test]
fn a_version_column_has_a_name_of_its_own() {
    check(
        &[("[join]", "[join]\nversion_column = \"label\"")],
        expect![[r#"
            error: "version_column" in [join] is a column of [reference] as well
              --> job.toml:16:18
               |
            16 | version_column = "label"
               |                  ^^^^^^^
              detail: A result has each name once; "label" would be there twice.
        "#]],
    );
}
