//! What a process does of its own during a start, on a thread apart.
//!
//! It is apart from the transport because it may take long, and the transport must not: peers hear
//! from it all the time.
//!
//! # Invariants
//! * Each task is done once, in order, but for choosing and loading, which are done again if there
//!   was a fault anywhere; a start goes on only when it is.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

/// What a process does during a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// The generation is known: older ones must be ended.
    Fence {
        /// The generation.
        generation: u64,
    },
    /// All processes have fenced: it must be told what of before is loaded. For process 0 alone,
    /// before each attempt to load it.
    Choose,
    /// It is told: the state of before can be loaded.
    Load {
        /// How often that was done before, and some process has found a fault.
        attempt: u32,
    },
    /// All have loaded: the job can be taken over from there.
    TakeOver,
}

/// What has come of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Good,
    /// What was to be loaded has a fault: all must load something else.
    Faulty,
}

/// Does the tasks. What fails otherwise must end the process, or come from a stop.
pub type Tasks<'a> = &'a mut (dyn FnMut(Task) -> Verdict + Send);

/// The thread of the tasks, from outside. It ends with this.
#[derive(Debug)]
pub(super) struct Work {
    given: SyncSender<Task>,
    finished: Receiver<Verdict>,
    /// What has come of the task that was given last, once it is done.
    done: Cell<Option<Verdict>>,
}

impl Work {
    /// Starts the thread.
    pub(super) fn start<'scope, 'tasks: 'scope>(
        scope: &'scope Scope<'scope, '_>,
        tasks: Tasks<'tasks>,
    ) -> Self {
        // One task at a time.
        let (given, to_do) = sync_channel(1);
        let (finish, finished) = sync_channel(1);
        scope.spawn(move || {
            for task in to_do {
                if finish.send(tasks(task)).is_err() {
                    return;
                }
            }
        });
        Self {
            given,
            finished,
            done: Cell::new(Some(Verdict::Good)),
        }
    }

    /// Has a task done.
    pub(super) fn give(&self, task: Task) {
        assert!(self.done.replace(None).is_some(), "one task at a time");
        self.given.send(task).expect("the thread waits for tasks");
    }

    /// What has come of it, once it is done.
    pub(super) fn done(&self) -> Option<Verdict> {
        if let Ok(verdict) = self.finished.try_recv() {
            self.done.set(Some(verdict));
        }
        self.done.get()
    }
}
