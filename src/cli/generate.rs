//! `deltajoin generate`: the events of the example, to Kafka or to a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::cli::{say, stop_by_signals};
use crate::config::{FileIdentity, wrong_brokers};
use crate::error::ExitCode;
use crate::failure::Failure;
use crate::generate::{self, Generator, Options, Pace};
use crate::telemetry::WallClock;

/// What is generated, and where it goes.
#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// Kafka's bootstrap servers; the topic must exist.
    #[arg(
        long,
        value_name = "HOST:PORT",
        conflicts_with = "file",
        requires = "topic"
    )]
    brokers: Option<String>,
    /// The topic of the events.
    #[arg(long, conflicts_with = "file", requires = "brokers")]
    topic: Option<String>,
    /// A setting for librdkafka, as sasl.username=app; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "file")]
    kafka: Vec<String>,
    /// A file of JSON lines instead of a topic.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Also write the reference table: a .csv file, or the name of a topic on the same brokers.
    #[arg(long, value_name = "FILE|TOPIC")]
    reference: Option<String>,
    /// Another seed gives another stream.
    #[arg(
        long,
        default_value_t = Options::default().seed,
        value_parser = whole,
        allow_negative_numbers = true
    )]
    seed: u64,
    /// Records in all, retries and bad ones included; 0 never ends.
    #[arg(
        long,
        default_value_t = Options::default().count,
        value_parser = whole,
        allow_negative_numbers = true
    )]
    count: u64,
    /// Records a second; 0 is as fast as possible.
    #[arg(
        long,
        default_value_t = Options::default().rate,
        value_parser = whole,
        allow_negative_numbers = true
    )]
    rate: u64,
    /// Partitions of the topic that records are spread over.
    #[arg(
        long,
        default_value_t = Options::default().partitions,
        allow_negative_numbers = true
    )]
    partitions: i32,
    /// The part of all records that repeat an earlier event.
    #[arg(
        long,
        default_value_t = Options::default().retry_share,
        allow_negative_numbers = true
    )]
    retries: f64,
    /// A retry comes at most this many records after its event.
    #[arg(
        long,
        default_value_t = Options::default().retry_distance,
        value_parser = whole,
        allow_negative_numbers = true
    )]
    retry_distance: u64,
    /// The part of the retries that carry another item name.
    #[arg(
        long,
        default_value_t = Options::default().changed_retry_share,
        allow_negative_numbers = true
    )]
    changed_retries: f64,
    /// The part of all events that come from one location.
    #[arg(
        long,
        default_value_t = Options::default().hot_share,
        allow_negative_numbers = true
    )]
    hot: f64,
    /// The part of all events whose location the reference table does not have.
    #[arg(
        long,
        default_value_t = Options::default().orphan_share,
        allow_negative_numbers = true
    )]
    orphans: f64,
    /// The part of all records that cannot be decoded.
    #[arg(
        long,
        default_value_t = Options::default().bad_share,
        allow_negative_numbers = true
    )]
    bad: f64,
    /// Rows of the reference table.
    #[arg(
        long,
        default_value_t = Options::default().reference_rows,
        value_parser = whole,
        allow_negative_numbers = true
    )]
    reference_rows: u64,
}

/// Reads a number that cannot be negative.
fn whole(text: &str) -> Result<u64, String> {
    let number = text.parse();
    number.map_err(|_| format!("not a whole number from 0 to {}", u64::MAX))
}

impl GenerateArgs {
    fn options(&self) -> Options {
        Options {
            seed: self.seed,
            count: if self.count == 0 {
                u64::MAX
            } else {
                self.count
            },
            rate: self.rate,
            partitions: self.partitions,
            retry_share: self.retries,
            retry_distance: self.retry_distance,
            changed_retry_share: self.changed_retries,
            hot_share: self.hot,
            orphan_share: self.orphans,
            bad_share: self.bad,
            reference_rows: self.reference_rows,
            ..Options::default()
        }
    }
}

/// Generates.
pub(super) fn run(args: &GenerateArgs) -> Result<ExitCode, Failure> {
    let options = args.options();
    options
        .check()
        .map_err(|error| Failure::usage(in_words_of_options(&error.to_string())))?;
    check_targets(args)?;
    let stop = stop_by_signals()?;
    let pace = Pace {
        clock: WallClock::start(),
        stop,
        tick: Duration::from_millis(1),
    };
    let written = match (&args.file, &args.brokers) {
        (Some(path), _) => {
            if let Some(reference) = &args.reference {
                write_reference(Path::new(reference), &options)?;
            }
            let generator = Generator::new(options).map_err(failure)?;
            let mut out = BufWriter::new(create(path)?);
            let written = generate::to_lines(generator, &mut out, &pace).map_err(failure)?;
            out.flush().map_err(|error| unwritable(path, &error))?;
            written
        }
        (None, Some(brokers)) => to_kafka(args, brokers, options, &pace)?,
        (None, None) => {
            return Err(Failure::usage("nowhere to write to")
                .hint("Give --brokers and --topic, or --file."));
        }
    };
    say(&format!(
        "wrote {} records, {} bytes, in {:.3} s",
        written.records,
        written.bytes,
        written.elapsed_ms as f64 / 1000.0
    ));
    Ok(ExitCode::Done)
}

/// Refuses targets that no try reaches, or of which one would overwrite the other.
fn check_targets(args: &GenerateArgs) -> Result<(), Failure> {
    if let (Some(file), Some(reference)) = (&args.file, &args.reference)
        && FileIdentity::of(file) == FileIdentity::of(Path::new(reference))
    {
        let primary = format!("events and reference would be one file, {file:?}");
        return Err(Failure::usage(primary).hint("Give --reference another name."));
    }
    if args.topic.is_some() && args.topic == args.reference {
        return Err(Failure::usage("events and reference would be one topic")
            .hint("Give --reference another name."));
    }
    let wrong = args.brokers.as_deref().map_or(Vec::new(), wrong_brokers);
    if let Some(broker) = wrong.first() {
        return Err(
            Failure::usage(format!("--brokers names no broker: {broker:?}"))
                .hint("Write host:port, with commas between several, as \"10.0.0.1:9092\"."),
        );
    }
    Ok(())
}

#[cfg(feature = "kafka")]
fn to_kafka(
    args: &GenerateArgs,
    brokers: &str,
    options: Options,
    pace: &Pace,
) -> Result<generate::Written, Failure> {
    let split = |setting: &String| {
        let (name, value) = setting.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--kafka {setting:?} is not of the form NAME=VALUE"))
        })?;
        Ok((name.to_owned(), value.to_owned()))
    };
    let properties = args
        .kafka
        .iter()
        .map(split)
        .collect::<Result<_, Failure>>()?;
    let topic = crate::config::KafkaTopic {
        brokers: brokers.to_owned(),
        topic: args.topic.clone().unwrap_or_default(),
        properties,
    };
    if let Some(reference) = &args.reference {
        if reference.ends_with(".csv") {
            write_reference(Path::new(reference), &options)?;
        } else {
            let topic = crate::config::KafkaTopic {
                topic: reference.clone(),
                ..topic.clone()
            };
            generate::reference_to_kafka(&options, &topic).map_err(failure)?;
        }
    }
    let generator = Generator::new(options).map_err(failure)?;
    generate::to_kafka(generator, &topic, pace).map_err(failure)
}

#[cfg(not(feature = "kafka"))]
fn to_kafka(_: &GenerateArgs, _: &str, _: Options, _: &Pace) -> Result<generate::Written, Failure> {
    Err(Failure::usage("this build is without Kafka").hint("Write to a file with --file."))
}

fn write_reference(path: &Path, options: &Options) -> Result<(), Failure> {
    let table = generate::reference_csv(options);
    create(path)?
        .write_all(table.as_bytes())
        .map_err(|error| unwritable(path, &error))
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| {
        Failure::usage(format!("could not open file {path:?} for writing"))
            .detail(error.to_string())
    })
}

/// Names options as they are given here, not as the generator's fields.
fn in_words_of_options(message: &str) -> String {
    let names = [
        ("changed_retry_share", "--changed-retries"),
        ("retry_share", "--retries"),
        ("retry_distance", "--retry-distance"),
        ("hot_share", "--hot"),
        ("orphan_share", "--orphans"),
        ("bad_share", "--bad"),
        ("reference_rows", "--reference-rows"),
        ("partitions", "--partitions"),
    ];
    names
        .iter()
        .fold(message.to_owned(), |text, (name, option)| {
            text.replace(name, option)
        })
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("could not write file {path:?}: {error}"))
}

fn failure(error: generate::Error) -> Failure {
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let failure = Failure::failed(error.to_string());
    match source {
        Some(source) => failure.detail(source),
        None => failure,
    }
}
