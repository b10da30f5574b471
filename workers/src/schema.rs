//! Column types and schemas: what a row looks like, known only once the configuration is read.
//!
//! It is apart from `batch` because configuration, codecs and documentation speak of columns
//! without ever holding a row.
//!
//! # Invariants
//! * A schema's column names are unique; the configuration has checked that.
//! * Two equal schemas give equal Arrow types, so a batch can be framed by its schema alone.

use std::fmt;
use std::sync::Arc;

use arrow_schema::{DataType, TimeUnit};

/// The type of a column, as it is written in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// `int64`: a signed integer of 64 bits.
    Int64,
    /// `float64`: a finite double.
    Float64,
    /// `string`: UTF-8 text.
    String,
    /// `bool`.
    Bool,
    /// `timestamp`: microseconds since 1970 in UTC; RFC 3339 text outside.
    Timestamp,
    /// `decimal(p,s)`: an exact number of `precision` digits, `scale` of them after the point.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: u8,
    },
    /// Raw bytes; only in schemas of our own (dead letters), never in the configuration.
    Bytes,
}

impl ColumnType {
    /// Reads a type as written in the configuration, without the `?` of a nullable column.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "int64" => Self::Int64,
            "float64" => Self::Float64,
            "string" => Self::String,
            "bool" => Self::Bool,
            "timestamp" => Self::Timestamp,
            _ => {
                let arguments = text.strip_prefix("decimal(")?.strip_suffix(')')?;
                let (precision, scale) = arguments.split_once(',')?;
                let precision: u8 = precision.trim().parse().ok()?;
                let scale: u8 = scale.trim().parse().ok()?;
                if precision == 0 || precision > 38 || scale > precision {
                    return None;
                }
                Self::Decimal { precision, scale }
            }
        })
    }

    /// The Arrow type that holds it.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::String => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Decimal { precision, scale } => {
                DataType::Decimal128(precision, i8::try_from(scale).expect("scale is at most 38"))
            }
            Self::Bytes => DataType::Binary,
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int64 => f.write_str("int64"),
            Self::Float64 => f.write_str("float64"),
            Self::String => f.write_str("string"),
            Self::Bool => f.write_str("bool"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Bytes => f.write_str("bytes"),
        }
    }
}

/// A named, typed column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    /// Its name, as in the configuration and in every output.
    pub name: Arc<str>,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether a row may lack it.
    pub nullable: bool,
}

impl Column {
    /// A column that every row must have.
    pub fn new(name: &str, column_type: ColumnType) -> Self {
        Self {
            name: name.into(),
            column_type,
            nullable: false,
        }
    }

    /// The same column, made nullable.
    pub fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }
}

/// The columns of a row, and which of them are its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schema {
    /// The columns in the order of the configuration, which is their order in every output.
    pub columns: Vec<Column>,
    /// Indexes into `columns` of the key, in the order of the configuration; never empty.
    pub key: Vec<usize>,
}

impl Schema {
    /// A schema of `columns` whose key is `key`, given by index.
    pub fn new(columns: Vec<Column>, key: Vec<usize>) -> Self {
        assert!(!key.is_empty(), "a schema has at least one key column");
        assert!(
            key.iter().all(|index| *index < columns.len()),
            "key columns exist"
        );
        Self { columns, key }
    }

    /// The index of the column called `name`.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }

    /// Whether the key is one integer column, which is kept exact in 64 bits.
    pub fn key_is_narrow(&self) -> bool {
        matches!(self.key[..], [only] if self.columns[only].column_type == ColumnType::Int64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_as_they_are_shown() {
        for text in [
            "int64",
            "float64",
            "string",
            "bool",
            "timestamp",
            "decimal(12,2)",
        ] {
            assert_eq!(
                ColumnType::parse(text).map(|t| t.to_string()).as_deref(),
                Some(text)
            );
        }
        for text in [
            "int",
            "decimal(39,1)",
            "decimal(3,4)",
            "decimal(,)",
            "bytes",
            "",
        ] {
            assert_eq!(ColumnType::parse(text), None, "{text}");
        }
    }
}
