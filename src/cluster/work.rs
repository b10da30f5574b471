//! What a process does of its own during a start, on a thread apart.
//!
//! It is apart from the transport because it may take long, and the transport must not: peers hear
//! from it all the time.
//!
//! # Invariants
//! * Each task is done once, in order; a start goes on only when it is.

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
    /// All processes have fenced: what is known of before can be read.
    Load,
}

/// Does the tasks. What fails must end the process, or come from a stop.
pub type Tasks<'a> = &'a mut (dyn FnMut(Task) + Send);

/// The thread of the tasks, from outside. It ends with this.
#[derive(Debug)]
pub(super) struct Work {
    given: SyncSender<Task>,
    finished: Receiver<()>,
    /// Whether the task that was given last is done.
    done: Cell<bool>,
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
                tasks(task);
                if finish.send(()).is_err() {
                    return;
                }
            }
        });
        Self {
            given,
            finished,
            done: Cell::new(true),
        }
    }

    /// Has a task done.
    pub(super) fn give(&self, task: Task) {
        assert!(self.done.replace(false), "one task at a time");
        self.given.send(task).expect("the thread waits for tasks");
    }

    /// Whether it is done.
    pub(super) fn is_done(&self) -> bool {
        if self.finished.try_recv().is_ok() {
            self.done.set(true);
        }
        self.done.get()
    }
}
