//! The composition root: makes a process of a job out of its configuration.
//!
//! This folder is the only place that knows both the connectors and the workers. `run` is the main
//! path: connect what is read and written, join the peers, run the workers, leave.
//!
//! | file | what it does |
//! |---|---|
//! | `plan` | the core's plan from the configuration |
//! | `inputs` | events and reference, to the workers' queues |
//! | `changes` | the reference as it differs from what is bound |
//! | `reloading` | the reference from a file, again when the file changes |
//! | `following` | the reference from a topic, and its bad records |
//! | `joining` | takes the job over from earlier generations, in the order that this needs |
//! | `verdict` | whether a newer generation is why this one ends |
//! | `log` | the log of bindings, wherever it is |
//! | `topics` | transactions and progress at the sinks' clusters; `no_topics` without Kafka |
//! | `durable` | what a process has then, for its workers |
//! | `promises` | what the configuration says of it |
//! | `checkpoints`, `ledger` | makes checkpoints, so that less must be replayed |
//! | `recovery` | which checkpoint a start goes on from |
//! | `check`, `rehearsal` | what a start would find, looked at beforehand |
//! | `state` | what is kept, looked at and forgotten |
//! | `outputs` | sinks and dead letters, for each worker |
//! | `skipping` | what a sink has committed before is not written again |
//! | `stopping` | ends a stop that gets nowhere |
//!
//! # Invariants
//! * Nothing is read or written before the configuration, all inputs, all outputs and the peers
//!   have been found good.
//! * An error on any thread ends the process, with one report and the exit code of that error.

mod changes;
mod check;
mod checkpoints;
mod cold;
mod durable;
#[cfg(feature = "kafka")]
mod following;
mod inputs;
mod joining;
mod ledger;
mod log;
mod making;
mod memory;
mod outputs;
mod plan;
mod promises;
mod recorded;
mod recovery;
mod rehearsal;
mod reloading;
mod skipping;
mod state;
mod stopping;
#[cfg(feature = "kafka")]
mod topics;
#[cfg(not(feature = "kafka"))]
#[path = "no_topics.rs"]
mod topics;
mod verdict;

pub use check::{Finding, check};
pub use skipping::Skipping;
pub use state::{forget_job, kept, state};

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deltajoin_workers::bindings::{BindingLog, Replay};
use deltajoin_workers::checkpoint::{Checkpoints, Told};
use deltajoin_workers::clock::ExpiryClock;
use deltajoin_workers::dataflow::{Engine, Ports, SinkPort};
use deltajoin_workers::ports::{Block, Counts, ReferenceBlock, Stop};
use deltajoin_workers::queue::{InFlight, Receiver, Sender, queue};
use deltajoin_workers::state::{BucketRing, RecentRows};
use deltajoin_workers::worker;
use timely::WorkerConfig;
use xxhash_rust::xxh3::Xxh3;

use crate::cluster::{self, Membership, Mesh, Task, Verdict};
use crate::codec::reference_schema;
use crate::config::{self, Config};
use crate::error::ExitCode;
use crate::failure::Failure;
use crate::process::changes::Way;
use crate::process::durable::Durable;
use crate::process::inputs::Inputs;
use crate::process::joining::Joining;
use crate::process::outputs::{Outputs, Rejected, SendSink, WorkerSinks};
use crate::telemetry::{MemoryLimit, Monitor, State, WallClock, report_every_second};

/// The budget of the reference table's way to worker 0: rows that it has, it keeps.
const REFERENCE_BYTES_MAX: usize = 64 << 20;

/// One process of a job.
pub struct Process {
    /// The job.
    pub config: Config,
    /// Which of its processes this is.
    pub index: usize,
    /// Which operators compute the result.
    pub engine: Engine,
    /// Whether the job ends where the topic ended when it started.
    pub until_end: bool,
    /// Set to stop the job cleanly.
    pub stop: Arc<Stop>,
    /// Set to have the reference file looked at at once.
    pub reload: Arc<AtomicBool>,
    /// Where `state.memory_limit` was written, for people.
    pub memory_limit_place: String,
    /// Ends the process for an error on another thread.
    pub fatal: fn(&Failure) -> !,
    /// Where a line of progress goes every second, if anywhere.
    pub progress_line: Option<fn(&str)>,
}

/// What a finished job did. The counts are those of all processes on process 0.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// What was counted.
    pub counts: Counts,
    /// How long the job was live.
    pub seconds: f64,
}

/// What one worker is given, until its thread takes it.
struct WorkerParts {
    events: Receiver<Block>,
    epoch_bytes_max: usize,
    reference: Option<Receiver<ReferenceBlock>>,
    replay: Replay,
    bindings: Option<Box<dyn BindingLog>>,
    clock: ExpiryClock,
    keys: BucketRing,
    recent: (u64, RecentRows),
    told: Told,
    checkpoints: Option<Box<dyn Checkpoints>>,
    sinks: WorkerSinks,
}

/// What one worker knows of what came before.
struct Remembered {
    keys: BucketRing,
    /// Rows that may be revised.
    recent: RecentRows,
    /// Conflicts that were dead-lettered in the running minute.
    told: Told,
}

/// The shell's ends of the workers' queues.
struct Senders {
    events: Vec<Sender<Block>>,
    reference: Option<Way>,
}

/// Runs a process until its job is done or stopped.
///
/// # Errors
/// What keeps the job from starting. Errors that come later end the process by `fatal`.
pub fn run(process: Process) -> Result<Summary, Failure> {
    let Process { config, index, .. } = &process;
    let membership = membership(&process)?;
    let clock = WallClock::start();
    let monitor = monitor(&process, &clock)?;
    cluster::loss::install(
        *index,
        membership.addresses.clone(),
        membership.peer_timeout,
    );

    // First of all, as it gives schemas the numbers that they have on the wire.
    let plan = plan::plan(config, process.engine);
    let rejected = Rejected::default();
    let prepared = Joining::prepare(&process)?;
    let mut inputs = Inputs::connect(&process, &rejected, (&clock, &monitor))?;
    let mut outputs = Outputs::connect(&process, rejected)?;
    let joining = Joining::begin(&process, prepared, (&mut inputs, &outputs), &clock)?;
    let entering = (&mut inputs, outputs.written(), &monitor);
    let (mesh, durable) = join(&process, &membership, joining, entering)?;
    let workers = config.cluster.workers();
    tracing::info!(
        job = config.job,
        process = index,
        workers,
        "the cluster is complete"
    );

    outputs.hold(durable.as_ref());
    let (parts, senders) = parts(&process, &outputs, durable.as_ref())?;
    inputs.check_reference(&senders)?;
    let settings = worker::Settings {
        plan,
        tick: config.limits.tick,
        clock,
        observer: Arc::<Monitor>::clone(&monitor),
        stop: Arc::clone(&process.stop),
    };
    let (builders, connections) = cluster::builders(mesh, &membership)
        .map_err(|error| Failure::failed(format!("could not use the peers' sockets: {error}")))?;
    let first = index * config.cluster.threads;
    let parts = Mutex::new(parts);
    let started = Instant::now();
    let guards = timely::execute::execute_from(
        builders,
        Box::new(()),
        // Workers share their cores with readers and writers: they must not spin.
        WorkerConfig::default().idle_spin(Duration::ZERO),
        move |worker| {
            let local = worker.index() - first;
            let parts = parts.lock().expect("no panic while taking parts")[local].take();
            let parts = parts.expect("a worker takes its parts once");
            worker::run(worker, settings.clone(), ports(parts, local));
        },
    )
    .map_err(|error| Failure::failed(format!("could not start the workers: {error}")))?;
    let readers = inputs.start(senders, &monitor)?;
    let watching = stopping::watch(&process, &monitor)?;
    for result in guards.join() {
        result.expect("a worker's panic ends the process");
    }
    drop(watching);
    connections.leave();
    readers.stop();
    if let Some(durable) = durable {
        durable.end();
    }
    monitor.finish();
    let counts = monitor.last_progress().counts;
    Ok(Summary {
        counts,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Joins the peers; on the way, the job is taken over from whoever had it.
fn join(
    process: &Process,
    membership: &Membership,
    mut joining: Option<Joining>,
    (inputs, written, monitor): (&mut Inputs, u64, &Arc<Monitor>),
) -> Result<(Mesh, Option<Durable>), Failure> {
    let generation = joining.as_ref().and_then(Joining::generation);
    let mut durable = None;
    let mut known = generation;
    let mut tasks = |task| {
        match task {
            Task::Fence { generation } => monitor.generation(generation),
            Task::Load { .. } => monitor.enter(State::Loading),
            Task::Choose | Task::TakeOver => {}
        }
        let done = match (task, &mut joining) {
            (_, None) => Ok(true),
            (Task::Fence { generation }, Some(joining)) => {
                known = Some(generation);
                joining.fence(generation).map(|()| true)
            }
            (Task::Choose, Some(joining)) => joining.choose().map(|()| true),
            (Task::Load { .. }, Some(joining)) => joining.load(),
            (Task::TakeOver, some) => {
                let taken = some
                    .take()
                    .map(|joining| joining.take_over(inputs, written, monitor));
                taken.transpose().map(|taken| {
                    durable = taken;
                    true
                })
            }
        };
        match done {
            Ok(true) => Verdict::Good,
            Ok(false) => Verdict::Faulty,
            // Others must not wait for this process.
            Err(failure) if failure.code != ExitCode::Done => {
                let generation = known.expect("it is handed out before the first task");
                (process.fatal)(&verdict::on_start(process, generation, failure))
            }
            // A stop ends the start.
            Err(_) => Verdict::Good,
        }
    };
    let mesh = cluster::connect(membership, generation, &mut tasks, &process.stop)?;
    if durable.is_none() {
        tracing::info!("nothing of this job outlives a restart, which begins from the start");
    }
    Ok((mesh, durable))
}

/// Who is told what the job does, and tells it every second.
fn monitor(process: &Process, clock: &Arc<WallClock>) -> Result<Arc<Monitor>, Failure> {
    let Process { config, index, .. } = process;
    let monitor = Monitor::start(
        Arc::clone(clock),
        Arc::clone(&process.stop),
        &config.job,
        *index,
        config.telemetry.status_file.as_deref(),
    )
    .map_err(|error| Failure::usage(error.to_string()).detail(error.source.to_string()))?;
    monitor.name_memory_limit(MemoryLimit {
        bytes: config.state.memory_limit as u64,
        threads: config.cluster.threads as u64,
        place: process.memory_limit_place.clone(),
    });
    report_every_second(Arc::clone(&monitor), process.progress_line)
        .map_err(|error| Failure::failed(format!("could not start a thread: {error}")))?;
    Ok(monitor)
}

/// The worker's ports, on the worker's own thread.
fn ports(parts: WorkerParts, local: usize) -> Ports {
    let port = |(name, single_writer, sink): SendSink| SinkPort {
        name,
        single_writer,
        sink: sink.map(|sink| sink as _),
    };
    Ports {
        first_of_process: local == 0,
        events: Rc::new(parts.events),
        epoch_bytes_max: parts.epoch_bytes_max,
        reference: parts.reference.map(Rc::new),
        replay: parts.replay,
        bindings: parts.bindings,
        clock: parts.clock,
        keys: parts.keys,
        recent: parts.recent,
        told: parts.told,
        checkpoints: parts.checkpoints,
        sinks: parts.sinks.results.into_iter().map(port).collect(),
        dead_letters: port(parts.sinks.dead_letters),
    }
}

/// The queues and sinks of all workers of this process.
fn parts(
    process: &Process,
    outputs: &Outputs,
    durable: Option<&Durable>,
) -> Result<(Vec<Option<WorkerParts>>, Senders), Failure> {
    let Process { config, index, .. } = process;
    let bytes_max = config.limits.max_in_flight_bytes;
    let in_flight = InFlight::new(bytes_max);
    // A quarter from each process: one epoch is written while the next is processed.
    let epoch_bytes_max = (bytes_max / 4 / config.cluster.threads).max(1);
    let mut senders = Senders {
        events: Vec::new(),
        reference: None,
    };
    let mut parts = Vec::new();
    for local in 0..config.cluster.threads {
        let first_of_job = *index == 0 && local == 0;
        let (sender, events) = queue(Arc::clone(&in_flight));
        senders.events.push(sender);
        let mut reference = None;
        let (mut replay, mut bindings) = (Replay::default(), None);
        let mut clock = ExpiryClock::default();
        if first_of_job {
            let (sender, receiver) = queue(InFlight::new(REFERENCE_BYTES_MAX));
            let schema = reference_schema(&config.reference.schema);
            senders.reference = Some(match durable {
                Some(durable) => {
                    let way = durable.reference(sender, &schema);
                    (replay, bindings) = durable.bindings();
                    clock = durable.clock();
                    way
                }
                None => Way::new(sender, [], &schema),
            });
            reference = Some(receiver);
        }
        let keys = BucketRing::new(config.events.schema.key_is_narrow());
        let new = Remembered {
            keys,
            recent: plan::join(config).recent_rows(None),
            told: Told::new(),
        };
        let (state, checkpoints) = durable.map_or((new, None), |durable| durable.state(local));
        let restored = durable.map_or(0, |durable| durable.restored);
        let sinks = outputs.open(index * config.cluster.threads + local, durable)?;
        parts.push(Some(WorkerParts {
            events,
            epoch_bytes_max,
            reference,
            replay,
            bindings,
            clock,
            keys: state.keys,
            recent: (restored, state.recent),
            told: state.told,
            checkpoints,
            sinks,
        }));
    }
    Ok((parts, senders))
}

/// This process among its peers.
fn membership(process: &Process) -> Result<Membership, Failure> {
    let Process { config, index, .. } = process;
    let cluster = &config.cluster;
    if *index >= cluster.processes {
        let last = cluster.processes - 1;
        return Err(
            Failure::usage(format!("there is no process {index} in this job")).detail(format!(
                "[cluster] processes = {}: they are 0 to {last}",
                cluster.processes
            )),
        );
    }
    let secret = match &cluster.secret_file {
        Some(path) => std::fs::read(path).map_err(|error| {
            Failure::usage(format!("could not read the secret file {path:?}: {error}")).hint(
                "Make one with `head -c 32 /dev/urandom | base64 > FILE`, the same on all hosts.",
            )
        })?,
        None => Vec::new(),
    };
    // All must find the same: a pipe on one host may be nothing on another.
    let goes_on = durable::goes_on(process);
    let engine = process.engine;
    let engine = format!(
        "{engine:?} until_end={} goes_on={goes_on}",
        process.until_end
    );
    let settings = cluster::settings_digest(&format!("{} {engine}", config::digest(config)));
    Ok(Membership {
        job: config.job.clone(),
        processes: cluster.processes,
        threads: cluster.threads,
        index: *index,
        addresses: cluster.addresses.clone(),
        secret: secret.trim_ascii().to_vec(),
        build: if cluster.processes > 1 {
            build_id()?
        } else {
            String::new()
        },
        settings,
        peer_timeout: cluster.peer_timeout,
    })
}

/// Names this build by its version and its program's bytes: processes of different builds must not
/// form a cluster, since batches on the wire have no versions.
fn build_id() -> Result<String, Failure> {
    let hash = || {
        let mut program = BufReader::new(File::open(std::env::current_exe()?)?);
        let mut hasher = Xxh3::new();
        loop {
            let part = program.fill_buf()?;
            let count = part.len();
            if count == 0 {
                return Ok::<u64, std::io::Error>(hasher.digest());
            }
            hasher.update(part);
            program.consume(count);
        }
    };
    let hash =
        hash().map_err(|error| Failure::failed(format!("could not read this program: {error}")))?;
    Ok(format!("{}-{hash:016x}", env!("CARGO_PKG_VERSION")))
}
