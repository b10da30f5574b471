//! Rows of closed epochs to a topic: the port `Sink`, each row at least once or, in transactions,
//! exactly once.
//!
//! It is apart from `writer` and `committer`, which do the work on threads of their own, because
//! these calls come from a worker and must not wait.
//!
//! # Invariants
//! * No call blocks but `drop`, which waits for the writer's thread to end.
//! * `written` is exact: rows count when their topic's in-sync replicas have acknowledged them or
//!   their transaction is committed, or when they were told to `on_rejected`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use deltajoin_workers::batch::{Batch, Gather};
use deltajoin_workers::key::Ownership;
use deltajoin_workers::ports::{Sink, Stop, reason};
use deltajoin_workers::queue::Waker;
use tracing::{info, warn};

use crate::codec::Format;
use crate::config::{KafkaTopic, Partitioner};
use crate::connectors::kafka::client::Connection;
use crate::connectors::kafka::error::place;
use crate::connectors::kafka::ffi::Handle;
use crate::connectors::kafka::lanes::size;
use crate::connectors::kafka::writer::Writer;
use crate::connectors::kafka::{Error, Fail, LetterOf, OnRejected, Rejected};

/// What is written where, and who is told.
#[derive(Clone)]
pub struct SinkOptions {
    /// The topic.
    pub topic: KafkaTopic,
    /// How a result finds its partition; dead letters go by the partition that they came from.
    pub partitioner: Partitioner,
    /// How rows become JSON.
    pub format: Format,
    /// Told of rows that are too large for the topic. Dead letters are cut to fit instead.
    pub on_rejected: OnRejected,
    /// Makes dead letters of such rows, which are then committed with the rows around them if the
    /// sink of dead letters is in the same transactions; `on_rejected` is not told of those.
    pub letter_of: LetterOf,
    /// Told when writing has failed for good.
    pub fail: Fail,
}

impl SinkOptions {
    /// A row that is given up, since no message of the topic can hold its `bytes`.
    pub(super) fn too_large(&self, (batch, row): (&Batch, usize), bytes: usize) -> Rejected {
        let mut raw = Vec::new();
        self.format.of(batch, 0).key(row, &mut raw);
        let (topic, origin) = (&self.topic.topic, batch.origin(row));
        let key = String::from_utf8_lossy(&raw);
        let (partition, offset) = (origin.partition, origin.offset);
        let error = format!("row of {bytes} bytes is too large for topic {topic:?}");
        warn!(topic, partition, offset, %key, error, "left a row out");
        Rejected {
            topic: topic.clone(),
            origin,
            reason: reason::TOO_LARGE,
            error,
            raw,
        }
    }
}

/// A topic that results can be written to.
pub struct Destination {
    pub(super) options: SinkOptions,
    pub(super) partitions: usize,
    pub(super) message_bytes_max: usize,
}

impl Destination {
    /// The brokers by which the sink names its cluster.
    pub fn brokers(&self) -> &str {
        &self.options.topic.brokers
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.options.topic.topic
    }

    /// The partitions that rows go to, and the bytes of the largest message.
    pub fn limits(&self) -> (usize, usize) {
        (self.partitions, self.message_bytes_max)
    }

    /// The same topic, written to within other limits: what partitions it has beside is not used.
    pub fn within(&self, (partitions, message_bytes_max): (usize, usize)) -> Arc<Self> {
        let (topic, has) = (&self.options.topic.topic, self.partitions);
        if partitions < has {
            info!(
                topic,
                has, partitions, "partitions that were added to it are not used"
            );
        }
        Arc::new(Self {
            options: self.options.clone(),
            partitions,
            message_bytes_max,
        })
    }

    /// Takes out of the rows those that no message of the topic can hold, as its limit is now, and
    /// returns a dead letter for each. `marked` says whether rows have headers that number them.
    pub fn leave_out(&self, (epoch, rows): (u64, &mut Batch), marked: bool) -> Batch {
        if encoded_max(rows) <= self.message_bytes_max {
            return Batch::default();
        }
        let encoder = self.options.format.of(rows, epoch);
        let (mut kept, mut letters, mut room) = (Vec::new(), Gather::default(), Vec::new());
        for row in 0..rows.len() {
            let bytes = size(&encoder, row, marked, &mut room);
            if bytes <= self.message_bytes_max {
                kept.push((0, row));
            } else {
                let rejected = self.options.too_large((rows, row), bytes);
                letters.push((self.options.letter_of)(&rejected));
            }
        }
        let count = letters.batches().len();
        if count == 0 {
            return Batch::default();
        }
        let mut gather = Gather::default();
        gather.push(std::mem::take(rows));
        *rows = gather.rows(&kept);
        letters.rows(&(0..count).map(|letter| (letter, 0)).collect::<Vec<_>>())
    }

    /// Asks Kafka for the topic's partitions and its limit; waits for a broker that is away.
    ///
    /// # Errors
    /// If there is no such topic, or Kafka refuses; or if `stop` is set.
    pub fn connect(options: SinkOptions, stop: &Stop) -> Result<Arc<Self>, Error> {
        let mut connection = Connection::open(&options.topic)?;
        let partitions = writable(&mut connection, &options.topic, stop)?;
        let message_bytes_max = connection.message_bytes_max();
        Ok(Arc::new(Self {
            options,
            partitions,
            message_bytes_max,
        }))
    }

    /// A sink to this topic, for one worker. With `numbering`, rows have headers that tell where
    /// they stand among those of their shard, the same whenever they are written.
    ///
    /// # Errors
    /// If a client cannot be made.
    pub fn open(self: &Arc<Self>, numbering: Option<Ownership>) -> Result<KafkaSink, Error> {
        let topic = &self.options.topic;
        let shared = Arc::new(Shared::default());
        let mut writer = Writer::new(Arc::clone(self), Arc::clone(&shared), numbering)?;
        let poll = writer.handle();
        let fail = Arc::clone(&self.options.fail);
        let thread = std::thread::Builder::new()
            .name(format!("sink-{}", topic.topic))
            .spawn(move || {
                if let Err(error) = writer.run() {
                    fail(error);
                }
            })
            .map_err(|error| Error::failed(topic, &format!("no thread for it: {error}")))?;
        Ok(KafkaSink::new(shared, poll, Some(thread)))
    }
}

/// How many partitions a topic has that can be written to.
///
/// # Errors
/// If there is no such topic, or this user may not write to it; or if `stop` is set.
pub fn writable(
    connection: &mut Connection,
    topic: &KafkaTopic,
    stop: &Stop,
) -> Result<usize, Error> {
    let partitions = connection.partitions(stop)?;
    let description = connection.description(stop)?;
    if description.is_some_and(|topic| topic.may_write == Some(false)) {
        return Err(Error::NotAuthorized {
            place: place(topic),
            reason: "This user may not write to it.".to_owned(),
        });
    }
    Ok(partitions)
}

/// No row's message is larger. A character takes six bytes in JSON at most, a number far less than
/// 64 with what is around it; and a row may stand there as key, as it was, and as it is.
fn encoded_max(rows: &Batch) -> usize {
    let longest = |column: &ArrayRef| {
        let texts = column.as_string_opt::<i32>();
        let offsets = texts.map_or(&[][..], |texts| texts.value_offsets());
        let lengths = offsets.windows(2).map(|ends| ends[1] - ends[0]);
        lengths.max().unwrap_or(0) as usize
    };
    let names = rows.schema().schema.columns.iter();
    let columns = names.zip(rows.columns());
    let columns = columns.map(|(column, values)| 6 * (column.name.len() + longest(values)) + 64);
    1024 + 3 * columns.sum::<usize>()
}

/// What a worker asks of the writer.
#[derive(Debug)]
pub(super) enum Command {
    /// Write these rows of this epoch.
    Rows(u64, Batch),
    /// The rows of this epoch are all there.
    Close(u64),
}

/// What the worker's thread and the writer's share.
#[derive(Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    written: AtomicU64,
    /// Dead letters that were written in place of rows, and are not counted yet.
    dead_letters: AtomicU64,
    waker: Mutex<Option<Waker>>,
    pub(super) stopping: AtomicBool,
}

#[derive(Default)]
struct Queue {
    commands: VecDeque<Command>,
    /// Whether the writer has something under way: if not, an epoch without rows is written as
    /// soon as it is closed, and the writer sleeps on.
    busy: bool,
}

/// A poisoned lock means that another thread has panicked: the process is ending anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Swaps what has gathered with the empty `commands`; `busy` says whether what was taken
    /// before is still under way.
    pub(super) fn take(&self, commands: &mut VecDeque<Command>, busy: bool) {
        let mut queue = lock(&self.queue);
        std::mem::swap(&mut queue.commands, commands);
        queue.busy = busy || !commands.is_empty();
    }

    /// The first epoch that may still have rows that are not written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Says that so many dead letters are written in place of rows.
    pub(super) fn add_dead_letters(&self, count: u64) {
        self.dead_letters.fetch_add(count, Ordering::AcqRel);
    }

    /// Says that all epochs before `written` are written.
    pub(super) fn publish(&self, written: u64) {
        if self.written.fetch_max(written, Ordering::AcqRel) >= written {
            return;
        }
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker();
        }
    }
}

/// Writes rows to a topic.
pub struct KafkaSink {
    shared: Arc<Shared>,
    poll: Handle,
    thread: Option<JoinHandle<()>>,
}

impl KafkaSink {
    /// A sink for one worker; `thread` writes for it alone, and ends with it.
    pub(super) fn new(shared: Arc<Shared>, poll: Handle, thread: Option<JoinHandle<()>>) -> Self {
        Self {
            shared,
            poll,
            thread,
        }
    }

    fn give(&self, command: Command) {
        let mut queue = lock(&self.shared.queue);
        let was_empty = queue.commands.is_empty();
        queue.commands.push_back(command);
        drop(queue);
        if was_empty {
            self.poll.wake();
        }
    }
}

impl Sink for KafkaSink {
    fn write(&mut self, epoch: u64, rows: Batch) {
        if !rows.is_empty() {
            self.give(Command::Rows(epoch, rows));
        }
    }

    fn close(&mut self, epoch: u64) {
        let queue = lock(&self.shared.queue);
        let idle = queue.commands.is_empty() && !queue.busy;
        drop(queue);
        // Only this thread gives commands, so what is idle stays so until it does.
        if idle {
            self.shared.publish(epoch + 1);
        } else {
            self.give(Command::Close(epoch));
        }
    }

    fn written(&self) -> u64 {
        self.shared.written()
    }

    fn written_dead_letters(&mut self) -> u64 {
        self.shared.dead_letters.swap(0, Ordering::AcqRel)
    }

    fn wake_by(&mut self, waker: Waker) {
        *lock(&self.shared.waker) = Some(waker);
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.poll.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a Kafka sink has panicked");
        }
    }
}

#[cfg(test)]
mod tests;
