//! The order of a start: what is said when, and which task is done.
//!
//! It is apart from the rest of the transport because it knows no sockets: only how far this
//! process is, and the last word of each peer.
//!
//! # Invariants
//! * A step begins when all processes have done the one before; process 0 says so.
//! * What is taken over is what all processes have loaded without a fault, in the same attempt.

use deltajoin_workers::ports::Stop;

use crate::cluster::link::{Link, Turn, Word};
use crate::cluster::membership::Error;
use crate::cluster::transport::Start;
use crate::cluster::work::{Task, Tasks, Verdict};

/// How far the start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Peers come, and may go.
    Gathering,
    /// This process has all connections, and fences.
    Fencing,
    /// It has, and has said so.
    Complete,
    /// All have, and it chooses what is loaded; only of process 0.
    Choosing,
    /// It has, and all load.
    Loading,
    /// It has loaded or found a fault, and has said so; never of process 0.
    Loaded(Word),
    /// All have loaded, and it takes over.
    TakingOver,
    /// It has, and has said so; process 0: all have, and it has said *go*.
    TakenOver,
    /// Everyone has.
    Over,
}

/// The steps of a process that is alone.
pub(super) fn alone(generation: u64, tasks: Tasks<'_>, stop: &Stop) -> Result<(), Error> {
    let mut task = Task::Fence { generation };
    let mut attempt = 0;
    loop {
        let verdict = tasks(task);
        if stop.asked() {
            return Err(Error::Stopped);
        }
        task = match (task, verdict) {
            (Task::Fence { .. }, _) => Task::Choose,
            (Task::Choose, _) => Task::Load { attempt },
            (Task::Load { .. }, Verdict::Faulty) => {
                attempt += 1;
                Task::Choose
            }
            (Task::Load { .. }, Verdict::Good) => Task::TakeOver,
            (Task::TakeOver, _) => return Ok(()),
        };
    }
}

impl Start {
    /// Says what there is to say, and goes on to the next phase when its time has come.
    pub(super) fn speak(&mut self) -> Result<(), Error> {
        match self.phase {
            Phase::Gathering if self.missing().is_empty() => {
                self.phase = Phase::Fencing;
                let generation = self.generation;
                self.work.give(Task::Fence { generation });
                self.beat(Word::Waiting)
            }
            Phase::Gathering => self.beat(Word::Waiting),
            Phase::Over => Ok(()),
            _ if self.member.index == 0 => self.lead(),
            _ => self.follow(),
        }
    }

    /// Goes on as process 0, which says when all do.
    fn lead(&mut self) -> Result<(), Error> {
        let turn = Turn::of(self.attempt);
        match self.phase {
            // Nobody asks process 0.
            Phase::Fencing if self.work.done().is_some() => {
                self.phase = Phase::Complete;
                Ok(())
            }
            Phase::Complete if self.all_are(&[Word::Complete]) => self.choose(),
            Phase::Choosing if self.work.done().is_some() => self.load(),
            Phase::Loading => {
                let all = self.all_are(&[Word::Loaded(turn), Word::Faulty(turn)]);
                match self.work.done().filter(|_| all) {
                    None => self.beat(Word::Load(turn)),
                    Some(Verdict::Good) if self.all_are(&[Word::Loaded(turn)]) => {
                        self.phase = Phase::TakingOver;
                        self.work.give(Task::TakeOver);
                        self.say(Word::TakeOver)
                    }
                    Some(_) => {
                        self.attempt += 1;
                        self.choose()
                    }
                }
            }
            Phase::TakingOver => {
                let all = self.all_are(&[Word::TakenOver]);
                if self.work.done().filter(|_| all).is_none() {
                    return self.beat(Word::TakeOver);
                }
                self.phase = Phase::TakenOver;
                self.say(Word::Go)
            }
            Phase::TakenOver => {
                // It has said its last word.
                if self.all_are(&[Word::Ready]) {
                    self.phase = Phase::Over;
                }
                Ok(())
            }
            _ => self.beat(Word::Waiting),
        }
    }

    /// Chooses what is loaded, on process 0. The others wait only so long for what it tells of it,
    /// so they are not asked to load before.
    fn choose(&mut self) -> Result<(), Error> {
        self.phase = Phase::Choosing;
        self.work.give(Task::Choose);
        self.beat(Word::Waiting)
    }

    /// Begins to load, on process 0.
    fn load(&mut self) -> Result<(), Error> {
        let attempt = self.attempt;
        self.phase = Phase::Loading;
        self.work.give(Task::Load { attempt });
        self.say(Word::Load(Turn::of(attempt)))
    }

    /// Goes on as any other process, when process 0 says so.
    fn follow(&mut self) -> Result<(), Error> {
        let first = self.links[0].as_ref().map(Link::word);
        let turn = Turn::of(self.attempt);
        let load = |start: &mut Self| {
            let attempt = start.attempt;
            start.phase = Phase::Loading;
            start.work.give(Task::Load { attempt });
            Ok(())
        };
        match (self.phase, first, self.work.done()) {
            (Phase::Fencing, _, Some(_)) => {
                self.phase = Phase::Complete;
                self.say(Word::Complete)
            }
            (Phase::Complete, Some(Word::Load(_)), _) => load(self),
            (Phase::Loading, _, Some(verdict)) => {
                let word = match verdict {
                    Verdict::Good => Word::Loaded(turn),
                    Verdict::Faulty => Word::Faulty(turn),
                };
                self.phase = Phase::Loaded(word);
                self.say(word)
            }
            (Phase::Loaded(_), Some(Word::Load(other)), _) if other != turn => {
                self.attempt += 1;
                load(self)
            }
            (Phase::Loaded(_), Some(Word::TakeOver), _) => {
                self.phase = Phase::TakingOver;
                self.work.give(Task::TakeOver);
                Ok(())
            }
            (Phase::TakingOver, _, Some(_)) => {
                self.phase = Phase::TakenOver;
                self.say(Word::TakenOver)
            }
            (Phase::TakenOver, Some(Word::Go), _) => {
                self.phase = Phase::Over;
                self.say(Word::Ready)
            }
            (Phase::Loaded(word), ..) => self.beat(word),
            (Phase::TakenOver, ..) => self.beat(Word::TakenOver),
            (Phase::Fencing, ..) => self.beat(Word::Waiting),
            // What was said last still holds; after the first attempt it is of the one before.
            _ if self.attempt > 0 => self.beat(Word::Loaded(Turn::of(self.attempt - 1))),
            _ => self.beat(Word::Complete),
        }
    }

    /// Whether each peer has said one of these words last.
    fn all_are(&self, words: &[Word]) -> bool {
        let mut peers = self.links.iter().enumerate();
        peers.all(|(index, link)| match link {
            Some(link) => words.contains(&link.word()),
            None => index == self.member.index,
        })
    }
}
