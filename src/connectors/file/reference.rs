//! The reference table from a file: CSV with a header, JSON lines or Parquet, by the file's name.
//!
//! # Invariants
//! * A table is read and checked as a whole before any of it is handed over.
//! * No key comes twice, and rows keep the order of the file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use deltajoin_workers::batch::{Batch, Origin};
use deltajoin_workers::schema::Schema;

use crate::codec::json::{Decoder, Encoder, Reject, shorten};
use crate::connectors::file::lines::{Line, Lines};
#[cfg(feature = "parquet")]
use crate::connectors::file::parquet;
use crate::connectors::file::place::Place;
use crate::connectors::file::{Error, Fault, Spot, csv};

/// A file with more faults is more likely the wrong file: the first ones tell.
const FAULTS_MAX: usize = 10;

/// A reference table, read and found right.
#[derive(Debug, Default)]
pub struct Table {
    blocks: Vec<Batch>,
}

impl Table {
    /// Reads a file or an object whose rows have the columns of `schema`; the rest is ignored.
    ///
    /// # Errors
    /// Besides what the system refuses: all that is wrong with the file, as one error.
    pub fn read(path: &Path, schema: &Schema, record_bytes_max: usize) -> Result<Self, Error> {
        Self::read_at(&Place::new(path), schema, record_bytes_max)
    }

    pub(super) fn read_at(place: &Place, schema: &Schema, bytes_max: usize) -> Result<Self, Error> {
        let path = place.path();
        let format = Format::of(path)?;
        let mut faults = Faults::default();
        let blocks = format.read(place.open()?, schema, bytes_max, &mut faults);
        let blocks = blocks.map_err(Error::reading(path))?;
        find_duplicates(&blocks, schema, format, &mut faults);
        if faults.count > 0 {
            return Err(faults.of(path));
        }
        Ok(Self { blocks })
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.blocks.iter().map(Batch::len).sum()
    }

    /// Its rows, in the order of the file.
    pub fn blocks(&self) -> &[Batch] {
        &self.blocks
    }

    /// Its rows, taken out.
    pub fn into_blocks(self) -> Vec<Batch> {
        self.blocks
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug)]
enum Format {
    Csv,
    Json,
    #[cfg(feature = "parquet")]
    Parquet,
}

impl Format {
    /// By the ending of the file's name.
    fn of(path: &Path) -> Result<Self, Error> {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        match extension.to_str() {
            Some("csv") => Ok(Self::Csv),
            Some("jsonl" | "json" | "ndjson") => Ok(Self::Json),
            #[cfg(feature = "parquet")]
            Some("parquet") => Ok(Self::Parquet),
            #[cfg(not(feature = "parquet"))]
            Some("parquet") => Err(Error::NotBuilt {
                path: path.to_owned(),
            }),
            _ => Err(Error::UnknownFormat {
                path: path.to_owned(),
            }),
        }
    }

    fn read(
        self,
        file: File,
        schema: &Schema,
        record_bytes_max: usize,
        faults: &mut Faults,
    ) -> std::io::Result<Vec<Batch>> {
        match self {
            Self::Csv => csv_blocks(file, schema, faults),
            Self::Json => json_blocks(file, schema, record_bytes_max, faults),
            #[cfg(feature = "parquet")]
            Self::Parquet => parquet::read(file, schema, faults),
        }
    }

    /// The place of the row with this number, and how it is named in a sentence.
    fn spot(self, number: u64) -> (Spot, &'static str) {
        match self {
            Self::Csv | Self::Json => {
                let (line, column) = (number, 1);
                (Spot::Line { line, column }, "on line")
            }
            #[cfg(feature = "parquet")]
            Self::Parquet => (Spot::Row(number), "in row"),
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, Default)]
pub(super) struct Faults {
    first: Vec<Fault>,
    count: usize,
}

impl Faults {
    pub(super) fn push(&mut self, line: u64, column: usize, message: String) {
        self.push_at(Spot::Line { line, column }, message);
    }

    pub(super) fn push_at(&mut self, spot: Spot, message: String) {
        self.count += 1;
        if self.first.len() < FAULTS_MAX {
            self.first.push(Fault { spot, message });
        }
    }

    fn of(mut self, path: &Path) -> Error {
        self.first.sort_by_key(|fault| fault.spot);
        Error::Faults {
            path: path.to_owned(),
            faults: self.first,
            count: self.count,
        }
    }
}

/// The origin of a row: its line, or its number.
pub(super) fn origin(line: u64) -> Origin {
    Origin {
        partition: 0,
        offset: i64::try_from(line).expect("no file has so many lines"),
    }
}

/// CSV is read as a whole, so that a fault can be told with its column.
fn csv_blocks(mut file: File, schema: &Schema, faults: &mut Faults) -> std::io::Result<Vec<Batch>> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(csv::read(&text, schema, faults))
}

fn json_blocks(
    file: File,
    schema: &Schema,
    record_bytes_max: usize,
    faults: &mut Faults,
) -> std::io::Result<Vec<Batch>> {
    let mut decoder = Decoder::for_reference(schema, record_bytes_max);
    let mut lines = Lines::new(BufReader::new(file), record_bytes_max);
    let mut blocks = Vec::new();
    while let Some((number, line)) = lines.next()? {
        let result = match line {
            Line::Whole(line) => decoder.decode(Some(line), origin(number)),
            Line::TooLong { bytes, .. } => Err(Reject::too_large(bytes, record_bytes_max)),
        };
        if let Err(reject) = result {
            faults.push(number, reject.column(), reject.message().to_owned());
        }
        if decoder.is_full() {
            blocks.push(decoder.finish());
        }
    }
    if decoder.rows() > 0 {
        blocks.push(decoder.finish());
    }
    Ok(blocks)
}

fn find_duplicates(blocks: &[Batch], schema: &Schema, format: Format, faults: &mut Faults) {
    let encoder = Encoder::new(schema);
    let mut lines = HashMap::new();
    for block in blocks {
        for row in 0..block.len() {
            let line = block.offsets()[row];
            match lines.entry(block.keys().get(row)) {
                Entry::Vacant(entry) => {
                    entry.insert(line);
                }
                Entry::Occupied(first) => {
                    let mut key = Vec::new();
                    encoder.rows(block).key(row, &mut key);
                    let key = String::from_utf8_lossy(&key);
                    let (spot, named) = format.spot(line.cast_unsigned());
                    let message = format!("key {key} is {named} {} already", first.get());
                    faults.push_at(spot, shorten(&message));
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use deltajoin_workers::batch::{BATCH_ROWS_MAX, Slot};
    use deltajoin_workers::schema::{Column, ColumnType};
    use expect_test::{Expect, expect};

    use crate::codec::reference_schema;

    use super::*;

    /// A column of each type, all but the first two nullable.
    pub(in crate::connectors::file) fn schema() -> Schema {
        let decimal = ColumnType::Decimal {
            precision: 6,
            scale: 2,
        };
        let columns = vec![
            Column::new("oid", ColumnType::Int64),
            Column::new("place", ColumnType::String),
            Column::new("area", ColumnType::Float64).nullable(),
            Column::new("fee", decimal).nullable(),
            Column::new("open", ColumnType::Bool).nullable(),
            Column::new("since", ColumnType::Timestamp).nullable(),
        ];
        Schema::new(columns, vec![0])
    }

    fn read(name: &str, text: &[u8], schema: &Schema) -> Result<Table, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Table::read(&path, schema, 200)
    }

    /// The rows of a table as JSON, each with its line.
    fn check(name: &str, text: &str, expected: Expect) {
        let table = read(name, text.as_bytes(), &schema()).unwrap();
        let encoder = Encoder::new(&schema());
        let mut shown = String::new();
        for block in &table.blocks {
            assert_eq!(block.schema().schema, reference_schema(&schema()).schema);
            for row in 0..block.len() {
                let mut json = Vec::new();
                encoder.rows(block).value(row, &mut json);
                let json = String::from_utf8(json).unwrap();
                let json = json.replace(",\"fee", ",\n  \"fee");
                shown.push_str(&format!("{} {json}\n", block.offsets()[row]));
            }
        }
        expected.assert_eq(&shown);
    }

    /// The error of a file with faults.
    fn check_faults(name: &str, text: &[u8], schema: &Schema, expected: Expect) {
        let error = read(name, text, schema).unwrap_err();
        assert!(error.needs_correction());
        let Error::Faults { path, .. } = &error else {
            panic!("{error}")
        };
        let folder = format!("{}/", path.parent().unwrap().display());
        let detail = error.detail().unwrap();
        expected.assert_eq(&format!("{error}\n{detail}\n").replace(&folder, ""));
    }

    #[test]
    fn a_csv_table_is_read_by_its_header() {
        check(
            "r.csv",
            "\u{feff}place,extra,oid,area,since,fee,open\r\n\
             \"a,\r\nb\",x,1,2.5,2024-01-01T00:00:00Z,12.5,true\r\n\
             \r\n\
             \"say \"\"hi\"\"\",,-2,,,,\r\n\
             ,,3,1e3,,-0.05,false",
            expect![[r#"
                2 {"oid":1,"place":"a,\r\nb","area":2.5,
                  "fee":12.50,"open":true,"since":"2024-01-01T00:00:00Z"}
                5 {"oid":-2,"place":"say \"hi\"","area":null,
                  "fee":null,"open":null,"since":null}
                6 {"oid":3,"place":"","area":1000.0,
                  "fee":-0.05,"open":false,"since":null}
            "#]],
        );
    }

    #[test]
    fn a_table_of_json_lines_is_read() {
        check(
            "r.ndjson",
            "{\"oid\":1,\"place\":\"a\"}\n\n{\"place\":\"\",\"oid\":2,\"fee\":1,\"x\":{}}",
            expect![[r#"
                1 {"oid":1,"place":"a","area":null,
                  "fee":null,"open":null,"since":null}
                3 {"oid":2,"place":"","area":null,
                  "fee":1.00,"open":null,"since":null}
            "#]],
        );
    }

    #[test]
    fn all_faults_of_a_csv_file_are_told_with_their_places() {
        check_faults(
            "r.csv",
            b"oid,place,area,fee,open,since\n\
              1,a,,,,\n\
              one,a,1,5,yes,\n\
              \"1\",\"b\nc\",\"1,5\",0.001,,2024-01-01\r\n\
              \n\
              ,a,,,,\n\
              5,a\n\
              6,\xff,,,,\n\
              1,again,,,,\n",
            &schema(),
            expect![[r#"
                reference file "r.csv" has 9 faults
                r.csv:3:1: column "oid" is not an int64: "one"
                r.csv:3:11: column "open" is not true or false: "yes"
                r.csv:5:4: column "area" is not a number: "1,5"
                r.csv:5:10: column "fee" has more than 2 digits after the point: "0.001"
                r.csv:5:17: column "since" is not an RFC 3339 time: "2024-01-01"
                r.csv:7:1: column "oid" is empty but not nullable
                r.csv:8:1: 2 fields, where the header has 6
                r.csv:9:3: not UTF-8
                r.csv:10:1: key {"oid":1} is on line 2 already
            "#]],
        );
    }

    #[test]
    fn what_csv_readers_guess_at_is_told_with_its_place() {
        check_faults(
            "r.csv",
            b"\xef\xbb\xbfoid,place,area,fee,open,since\n\
              1,\"a\"b,,,,\n\
              2,\"a \"\"b\"\"\n\",,,,\n\
              3,\"a\nb\" ,,,,\n\
              4,a\0b,,,,\n\
              x,a\"b,9007199254740993,,,\n\
              6,b,1e-400,,,\n\
              7,\"b,,,,\n\
              8,c,,,,\n",
            &schema(),
            expect![[r#"
                reference file "r.csv" has 7 faults
                r.csv:2:6: text behind a closing quote, opened at 2:3
                r.csv:6:3: text behind a closing quote, opened at 5:3
                r.csv:7:4: a zero byte: this is no text
                r.csv:8:1: column "oid" is not an int64: "x"
                r.csv:8:7: column "area" is out of range for float64: "9007199254740993"
                r.csv:9:5: column "area" is out of range for float64: "1e-400"
                r.csv:10:3: this quote is never closed
            "#]],
        );
        for (text, expected) in [
            (
                &b"\"oid,place\n1,a\n"[..],
                expect![[r#"
                    reference file "r.csv" has 1 fault
                    r.csv:1:1: this quote is never closed
                "#]],
            ),
            (
                b"o\0i\0d\0",
                expect![[r#"
                    reference file "r.csv" has 1 fault
                    r.csv:1:2: a zero byte: this is no text
                "#]],
            ),
        ] {
            check_faults("r.csv", text, &schema(), expected);
        }
    }

    #[test]
    fn all_faults_of_json_lines_are_told_with_their_places() {
        check_faults(
            "r.jsonl",
            format!(
                "{{\"oid\":1,\"place\":\"a\"}}\n{{\"oid\":1,\"place\":null}}\n[]\n\
                 {{\"oid\":1,\"place\":\"b\"}}\n{{\"x\":\"{}\"}}\n{{\"oid\":2",
                "y".repeat(300)
            )
            .as_bytes(),
            &schema(),
            expect![[r#"
                reference file "r.jsonl" has 5 faults
                r.jsonl:2:18: field "place" is null but not nullable
                r.jsonl:3:1: not a JSON object: []
                r.jsonl:4:1: key {"oid":1} is on line 1 already
                r.jsonl:5:1: record of 308 bytes is larger than max_record_bytes (200)
                r.jsonl:6:8: not a JSON object: EOF while parsing an object
            "#]],
        );
    }

    #[test]
    fn a_wrong_header_is_told_with_what_is_there() {
        let schema = Schema::new(schema().columns[..2].to_vec(), vec![0]);
        for (text, expected) in [
            (
                &b"oid;place\n1;a\n"[..],
                expect![[r#"
                    reference file "r.csv" has 1 fault
                    r.csv:1:1: columns "oid", "place" are missing; the header has "oid;place"
                "#]],
            ),
            (
                b"place,oid,place\n1,a,b\n",
                expect![[r#"
                    reference file "r.csv" has 2 faults
                    r.csv:1:1: column "place" is twice in the header
                    r.csv:2:3: column "oid" is not an int64: "a"
                "#]],
            ),
            (
                b"oid,location\n",
                expect![[r#"
                    reference file "r.csv" has 1 fault
                    r.csv:1:1: column "place" is missing; the header has "oid", "location"
                "#]],
            ),
            (
                b"\n",
                expect![[r#"
                    reference file "r.csv" has 1 fault
                    r.csv:1:1: the header is missing
                "#]],
            ),
        ] {
            check_faults("r.csv", text, &schema, expected);
        }
    }

    #[test]
    fn of_many_faults_the_first_are_shown_and_all_are_counted() {
        let rows: String = (0..50).map(|_| "x,a,,,,\n").collect();
        let text = format!("oid,place,area,fee,open,since\n{rows}");
        let error = read("r.csv", text.as_bytes(), &schema()).unwrap_err();
        assert!(error.to_string().ends_with("r.csv\" has 50 faults"));
        let detail = error.detail().unwrap();
        assert_eq!(detail.lines().count(), 11);
        assert!(detail.ends_with("\nand 40 more"));
    }

    #[test]
    fn a_table_is_made_in_blocks() {
        let id = Column::new("id", ColumnType::Int64);
        let schema = Schema::new(vec![id], vec![0]);
        for count in [0, 1, BATCH_ROWS_MAX, 2 * BATCH_ROWS_MAX + 1] {
            let rows: String = (0..count).map(|id| format!("{id}\n")).collect();
            let lines: String = (0..count).map(|id| format!("{{\"id\":{id}}}\n")).collect();
            for (name, text) in [
                ("r.csv", format!("id\n{rows}")),
                ("r.jsonl", lines.clone()),
                ("r.json", lines),
            ] {
                let table = read(name, text.as_bytes(), &schema).unwrap();
                assert_eq!(table.rows(), count);
                let mut next = 0;
                for block in table.into_blocks() {
                    assert!(block.len() <= BATCH_ROWS_MAX);
                    for row in 0..block.len() {
                        assert_eq!(block.slot(0, row), Slot::Int64(next));
                        next += 1;
                    }
                }
                assert_eq!(next, count as i64);
            }
        }
    }

    #[test]
    fn a_file_of_unknown_format_or_none_is_refused() {
        let error = read("r.xlsx", b"", &schema()).unwrap_err();
        assert!(matches!(error, Error::UnknownFormat { .. }));
        assert!(error.hint().unwrap().contains(".csv"));
        let error = Table::read(Path::new("/no/r.csv"), &schema(), 100).unwrap_err();
        assert_eq!(error.to_string(), "could not open file \"/no/r.csv\"");
    }
}
