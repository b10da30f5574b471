//! `deltajoin audit`: is the output what the input and the reference table make?

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use clap::Args;

use crate::audit::{self, EpochRange, Kind, Options, Report, Shown, SinkReport, Step, Watcher};
use crate::cli::{SettingsArgs, load, print, say};
use crate::config;
use crate::error::ExitCode;
use crate::failure::Failure;

/// How often the progress is drawn.
const REDRAW: Duration = Duration::from_millis(100);
/// Characters of its bar.
const BAR: usize = 30;
/// So much of a row is printed; all of it is in the JSON.
const ROW_CHARACTERS_MAX: usize = 1_000;

/// What is audited, and how.
#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Rows that are shown of each kind of difference.
    #[arg(long, value_name = "N", default_value_t = 10)]
    show: usize,
    /// What the keys may take of memory; less means more passes.
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = config::size)]
    memory: usize,
    /// Let rows be written again as they were: at-least-once promises no more.
    #[arg(long)]
    allow_repeats: bool,
    /// Judge no epoch before this one; events before it count as seen.
    #[arg(long, value_name = "EPOCH")]
    from: Option<u64>,
    /// Judge no epoch behind this one.
    #[arg(long, value_name = "EPOCH")]
    to: Option<u64>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Audits.
pub(super) fn run(args: &AuditArgs) -> Result<ExitCode, Failure> {
    let config = load(&args.settings)?.config;
    let options = Options {
        memory_bytes: args.memory,
        show: args.show,
        allow_repeats: args.allow_repeats,
        from: args.from,
        to: args.to,
    };
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        return Err(Failure::usage(format!("--from {from} is after --to {to}")));
    }
    let mut screen = Screen {
        drawn: std::io::stderr().is_terminal().then(Instant::now),
    };
    let result = audit::run(&config, &options, &mut screen);
    screen.clear();
    let report = result?;
    let told = if args.json {
        let json = serde_json::to_string(&report);
        print(&json.expect("a report has names and numbers"))
    } else {
        print(&text(&report))
    };
    match told {
        Err(failure) if failure.code != ExitCode::Done => Err(failure),
        // Whoever read the report may have seen enough of it: its verdict stands.
        _ if !report.clean => Ok(ExitCode::Failed),
        _ => Ok(ExitCode::Done),
    }
}

/// Where progress is told.
struct Screen {
    /// When the bar was drawn last; none if standard error is no terminal.
    drawn: Option<Instant>,
}

impl Screen {
    /// Writes over the current line of the terminal.
    fn draw(line: &str) {
        let mut stderr = std::io::stderr();
        let drawn = write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush());
        // A terminal that is gone needs no progress.
        drawn.unwrap_or_default();
    }

    fn clear(&self) {
        if self.drawn.is_some() {
            Self::draw("");
        }
    }
}

impl Watcher for Screen {
    fn begin(&mut self, records: u64, passes: usize) {
        self.clear();
        let times = if passes == 1 { "pass" } else { "passes" };
        say(&format!("auditing {records} records in {passes} {times}"));
    }

    fn step(&mut self, step: Step<'_>) {
        let Some(drawn) = &mut self.drawn else {
            return;
        };
        if drawn.elapsed() < REDRAW {
            return;
        }
        *drawn = Instant::now();
        let Step {
            pass,
            passes,
            reading,
            done,
        } = step;
        let done = done.clamp(0.0, 1.0);
        let filled = (done * BAR as f64) as usize;
        let (bar, rest) = ("#".repeat(filled), ".".repeat(BAR - filled));
        let percent = (done * 100.0) as u32;
        Self::draw(&format!(
            "[{bar}{rest}] {percent:3} %  pass {pass} of {passes}: {reading}"
        ));
    }
}

/// The result as it is printed: what is not as it should be, then all counts.
fn text(report: &Report) -> String {
    let mut text = String::new();
    let sinks = report.sinks.iter().filter(|sink| !sink.is_clean());
    for sink in sinks {
        write_findings(&mut text, sink).expect("a string takes all");
    }
    write_counts(&mut text, report).expect("a string takes all");
    text
}

fn write_findings(text: &mut String, sink: &SinkReport) -> std::fmt::Result {
    writeln!(text, "sink {}, {}", sink.name, sink.output)?;
    for kind in Kind::ALL {
        let shown = sink.findings.iter().filter(|shown| shown.kind == kind);
        let mut count = 0;
        for shown in shown {
            count += 1;
            write_finding(text, shown)?;
        }
        let (name, rest) = (kind.name(), sink.count(kind) - count);
        if rest > 0 {
            writeln!(text, "  and {rest} more {name}")?;
        }
    }
    writeln!(text)
}

fn write_finding(text: &mut String, shown: &Shown) -> std::fmt::Result {
    let event = shown.event.as_deref();
    write!(text, "  {:<10}", shown.kind.name())?;
    match &shown.place {
        Some(place) => {
            write!(text, " {place}")?;
            if let Some(event) = event {
                write!(text, ", event {event}")?;
            }
        }
        None => write!(text, " event {}", event.unwrap_or("unknown"))?,
    }
    if let Some(before) = &shown.before {
        let what = match shown.kind {
            Kind::Missing => "removed by",
            _ => "there before at",
        };
        write!(text, ", {what} {before}")?;
    }
    writeln!(text)?;
    let named = [
        ("row", &shown.row),
        ("right", &shown.right),
        ("note", &shown.note),
    ];
    for (name, content) in named {
        if let Some(content) = content {
            let start: String = content.chars().take(ROW_CHARACTERS_MAX).collect();
            let cut = if start.len() < content.len() {
                "..."
            } else {
                ""
            };
            writeln!(text, "    {name}: {start}{cut}")?;
        }
    }
    Ok(())
}

fn write_counts(text: &mut String, report: &Report) -> std::fmt::Result {
    let events = &report.events;
    if let Some(EpochRange { first, last }) = report.epochs {
        writeln!(text, "{:<15} {first} to {last}", "epochs")?;
    }
    for (name, count) in [
        ("passes", report.passes as u64),
        ("records", events.records),
        ("undecodable", events.undecodable),
        ("keys", events.keys),
        ("undecided", events.undecided),
        ("rows expected", events.rows),
        ("reference rows", report.reference_rows),
    ] {
        writeln!(text, "{name:<15} {count}")?;
    }
    let names = report.sinks.iter().map(|sink| sink.name.len());
    let width = names.max().unwrap_or(0).max("sink".len());
    let head = [
        "records",
        "tombstones",
        "right",
        "missing",
        "doubled",
        "repeats",
        "wrong",
        "unexpected",
    ];
    write!(text, "\n{:<width$}", "sink")?;
    for name in head {
        write!(text, " {name:>10}")?;
    }
    for sink in &report.sinks {
        write!(text, "\n{:<width$}", sink.name)?;
        for count in [
            sink.records,
            sink.tombstones,
            sink.right,
            sink.missing,
            sink.doubled,
            sink.repeats,
            sink.wrong,
            sink.unexpected,
        ] {
            write!(text, " {count:>10}")?;
        }
    }
    let verdict = if report.clean {
        "clean"
    } else {
        "not clean: the output is not what the input makes"
    };
    write!(text, "\n\n{verdict}")
}
