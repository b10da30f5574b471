//! Makes the mesh: one proven connection between each two processes, and one moment from which
//! all may use them.
//!
//! Process i listens, connects to every lower process and accepts every higher one. Everyone
//! connects to process 0 first, which draws the generation and hands it out; the other pairs
//! connect under it, so processes of different starts never meet. On its connection to process 0
//! each process says again and again how far it is. A start has three steps in which processes do
//! something of their own, each beginning when all have done the one before:
//!
//! * *fence*, when the generation is known and the process has all its connections: what older
//!   generations can still do is ended;
//! * *load*, when all have fenced: the state is loaded; if one has found a fault, all load again;
//! * *take over*, when all have loaded: what older generations have done behind that is read.
//!
//! When all have, process 0 says *go*, each answers *ready* as its last word, and from then on the
//! sockets are timely's. `steps` has the order of all this.
//!
//! It is one thread with sockets that never block (names are looked up in `reach`, and the steps
//! have a thread of their own), so nobody who connects can hold it up, and loading is not taken for
//! silence.
//!
//! # Invariants
//! * At most `GREETED_MAX` connections are unproven at a time; beyond it the oldest gives way.
//! * A process that has said *complete* stays so or ends: *go* rests on it.
//! * The connection to process 0 carries the start: when it closes or falls silent, the start
//!   ends. Any other peer may be lost and come again until this process is complete.
//! * A socket handed over holds no byte of the start any more, and blocks at most `peer_timeout`.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use deltajoin_workers::ports::Stop;

use crate::cluster::handshake::{Acceptance, Hello, NO_GENERATION, Reason, Refusal, Step};
use crate::cluster::link::{Link, Loss, Word};
use crate::cluster::membership::{Error, Membership, Mesh};
use crate::cluster::reach::{Reach, Reached};
use crate::cluster::transport::steps::Phase;
use crate::cluster::work::{Tasks, Work};

mod steps;

/// Unproven connections at a time: above any mesh, below any limit of open files.
const GREETED_MAX: usize = 256;
/// How often everything is looked at: not felt in a start, and next to no CPU time.
const TURN: Duration = Duration::from_millis(10);
/// How much later than a peer this process may be asked to stop.
const STOP_TOGETHER: Duration = Duration::from_millis(300);
/// When the log says for the first time for whom this process waits: not in an ordinary start.
const TELL_FIRST: Duration = Duration::from_secs(1);
/// How often it says so after that.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

/// Connects this process with all its peers, however long they take to come. Process 0 hands out
/// the generation, one that is drawn if it has none; the others are given theirs.
///
/// # Errors
/// See `Error`; its `exit_code` says how to end.
pub fn connect(
    member: &Membership,
    generation: Option<u64>,
    tasks: Tasks<'_>,
    stop: &Stop,
) -> Result<Mesh, Error> {
    member.check()?;
    let generation = generation.unwrap_or_else(draw_generation);
    if member.processes == 1 {
        steps::alone(generation, tasks, stop)?;
        return Ok(Mesh {
            sockets: vec![None],
            generation,
        });
    }
    let address = member.addresses[member.index].clone();
    let listener = TcpListener::bind(&address).map_err(|source| Error::Listen {
        address,
        index: member.index,
        source,
    })?;
    connect_from(member, listener, generation, tasks, stop)
}

/// As `connect`, on a socket that listens already.
pub(super) fn connect_from(
    member: &Membership,
    listener: TcpListener,
    generation: u64,
    tasks: Tasks<'_>,
    stop: &Stop,
) -> Result<Mesh, Error> {
    thread::scope(|scope| {
        let work = Work::start(scope, tasks);
        let mut start = Start::new(Arc::new(member.clone()), listener, generation, work)?;
        // A task must end before this returns: what it waits for may never come.
        start.run(stop).inspect_err(|_| {
            stop.ask();
        })?;
        start.finish()
    })
}

pub(super) fn draw_generation() -> u64 {
    loop {
        let drawn = getrandom::u64().expect("the operating system has random bytes");
        if drawn != NO_GENERATION {
            return drawn;
        }
    }
}

/// A start, on the way to a mesh.
struct Start {
    member: Arc<Membership>,
    listener: TcpListener,
    /// Unproven connections, the oldest first.
    greeted: VecDeque<Acceptance>,
    /// The connection with each peer.
    links: Vec<Option<Link>>,
    /// For each lower process, who reaches it.
    reaches: Vec<Reach>,
    reached: Receiver<Reached>,
    generation: u64,
    phase: Phase,
    work: Work,
    /// How often all have loaded, and some process has found a fault.
    attempt: u32,
    /// When this process spoke last.
    spoke: Instant,
    /// When it tells the log next.
    tell_at: Instant,
}

impl Start {
    fn new(
        member: Arc<Membership>,
        listener: TcpListener,
        generation: u64,
        work: Work,
    ) -> Result<Self, Error> {
        listener.set_nonblocking(true)?;
        // Each reaches for one process at a time, so there is room for all of them.
        let (reaching, reached) = sync_channel(member.processes);
        let reaches: Vec<Reach> = (0..member.index)
            .map(|to| Reach::start(Arc::clone(&member), to, reaching.clone()))
            .collect::<io::Result<_>>()?;
        let generation = match reaches.first() {
            Some(first) => {
                first.request(NO_GENERATION);
                NO_GENERATION
            }
            None => generation,
        };
        Ok(Self {
            links: (0..member.processes).map(|_| None).collect(),
            member,
            listener,
            greeted: VecDeque::new(),
            reaches,
            reached,
            generation,
            phase: Phase::Gathering,
            work,
            attempt: 0,
            spoke: Instant::now(),
            tell_at: Instant::now() + TELL_FIRST,
        })
    }

    /// Goes through all phases.
    fn run(&mut self, stop: &Stop) -> Result<(), Error> {
        while self.phase != Phase::Over {
            if stop.asked() {
                return Err(Error::Stopped);
            }
            match self.turn() {
                // A peer that is asked to stop ends at once, and whoever asks it asks this one.
                Err(Error::PeerLost { .. }) if asked_soon(stop) => return Err(Error::Stopped),
                done => done?,
            }
            thread::sleep(TURN);
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), Error> {
        self.accept();
        self.greet();
        self.take_reached()?;
        self.hear()?;
        self.speak()?;
        self.tell();
        Ok(())
    }

    /// Takes what comes in; the oldest of too many gives way.
    fn accept(&mut self) {
        for _ in 0..GREETED_MAX {
            let acceptance = match self.listener.accept() {
                Ok((stream, address)) => Acceptance::new(stream, address),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => Err(error),
            };
            match acceptance {
                Ok(acceptance) => self.greeted.push_back(acceptance),
                // It was gone already, or too many files are open: the next turn tries again.
                Err(error) => {
                    tracing::debug!(%error, "could not accept a connection");
                    return;
                }
            }
            if self.greeted.len() > GREETED_MAX {
                let oldest = self
                    .greeted
                    .pop_front()
                    .expect("there are more than the most");
                oldest.refuse(&Refusal::new(
                    Reason::Stranger,
                    "too many connections at once",
                ));
            }
        }
    }

    /// Goes on with all handshakes.
    fn greet(&mut self) {
        for _ in 0..self.greeted.len() {
            let mut acceptance = self.greeted.pop_front().expect("it counts what is there");
            match acceptance.step(&self.member, self.generation) {
                Step::Waiting => self.greeted.push_back(acceptance),
                Step::Refused(refusal) => acceptance.refuse(&refusal),
                Step::Proven(hello) => self.settle(acceptance, &hello),
            }
        }
    }

    /// Gives a proven peer its place, if it may have it.
    fn settle(&mut self, acceptance: Acceptance, hello: &Hello) {
        let from = hello.from as usize;
        let refusal = if self.generation == NO_GENERATION {
            Refusal::new(Reason::Generation, "it has not reached process 0 yet")
        } else if self.member.index != 0 && hello.generation != self.generation {
            Refusal::new(Reason::Generation, "another generation")
        } else if self.links[from]
            .as_ref()
            .is_some_and(|link| link.look().is_ok())
        {
            Refusal::new(
                Reason::Taken,
                format!("index taken: process {from} is connected"),
            )
        } else if self.phase != Phase::Gathering {
            // What was connected is lost, and this process is about to notice.
            Refusal::new(
                Reason::Taken,
                format!("index taken: process {from} was connected"),
            )
        } else {
            match acceptance
                .accept(&self.member, self.generation)
                .and_then(Link::new)
            {
                Ok(link) => {
                    tracing::debug!(peer = self.member.name(from), "connected");
                    self.links[from] = Some(link);
                }
                Err(error) => tracing::debug!(%error, "a peer was gone before it was taken in"),
            }
            return;
        };
        acceptance.refuse(&refusal);
    }

    /// Gives the lower processes that were reached their places.
    fn take_reached(&mut self) -> Result<(), Error> {
        while let Ok((to, outcome)) = self.reached.try_recv() {
            let peer = self.member.name(to);
            let (stream, generation) = outcome.map_err(|reason| Error::Refused {
                peer: peer.clone(),
                reason: reason.to_string(),
            })?;
            tracing::debug!(peer, "connected");
            self.links[to] = Some(Link::new(stream)?);
            if to == 0 {
                self.generation = generation;
                for reach in &self.reaches[1..] {
                    reach.request(generation);
                }
            }
        }
        Ok(())
    }

    /// Hears what peers say, and which are lost.
    fn hear(&mut self) -> Result<(), Error> {
        for peer in 0..self.links.len() {
            let Some(link) = &mut self.links[peer] else {
                continue;
            };
            let heard = if self.member.index == 0 || peer == 0 {
                link.hear(self.member.peer_timeout).map(|_| ())
            } else {
                link.look()
            };
            if let Err(loss) = heard {
                self.lose(peer, &loss)?;
            }
        }
        Ok(())
    }

    /// Ends the start, or makes room for the peer to come again.
    fn lose(&mut self, index: usize, loss: &Loss) -> Result<(), Error> {
        let peer = self.member.name(index);
        // A silent peer may wake up and believe that it still belongs here; only a new
        // generation is safe from it.
        let silent = matches!(loss, Loss::Silent(_));
        if index == 0 || silent || self.phase != Phase::Gathering {
            return Err(Error::PeerLost {
                peer,
                reason: loss.to_string(),
            });
        }
        tracing::warn!(peer, reason = %loss, "lost a peer during the start; waiting for it");
        self.links[index] = None;
        if let Some(reach) = self.reaches.get(index) {
            reach.request(self.generation);
        }
        Ok(())
    }

    /// Says a word now and then, so that nobody takes this process for lost.
    fn beat(&mut self, word: Word) -> Result<(), Error> {
        if self.spoke.elapsed() < self.member.beat_interval() {
            Ok(())
        } else {
            self.say(word)
        }
    }

    /// Process 0 speaks to all, all others to process 0.
    fn say(&mut self, word: Word) -> Result<(), Error> {
        self.spoke = Instant::now();
        let listeners = if self.member.index == 0 {
            self.links.len()
        } else {
            1
        };
        for peer in 0..listeners {
            let Some(link) = &mut self.links[peer] else {
                continue;
            };
            if let Err(loss) = link.say(word) {
                self.lose(peer, &loss)?;
            }
        }
        Ok(())
    }

    /// The peers without a connection.
    fn missing(&self) -> Vec<usize> {
        let others = (0..self.links.len()).filter(|&index| index != self.member.index);
        others
            .filter(|&index| self.links[index].is_none())
            .collect()
    }

    /// Says in the log for whom this process waits.
    fn tell(&mut self) {
        if Instant::now() < self.tell_at {
            return;
        }
        self.tell_at = Instant::now() + TELL_INTERVAL;
        let mut awaited: Vec<String> = Vec::new();
        for index in self.missing() {
            let trouble = self
                .reaches
                .get(index)
                .map(Reach::trouble)
                .unwrap_or_default();
            let separator = if trouble.is_empty() { "" } else { ": " };
            awaited.push(format!("{}{separator}{trouble}", self.member.name(index)));
        }
        if awaited.is_empty() {
            awaited.push("all others to be connected with each other".to_owned());
        }
        tracing::info!(peers = awaited.join(", "), "waiting for peers");
    }

    fn finish(self) -> Result<Mesh, Error> {
        let timeout = self.member.peer_timeout;
        let sockets = self.links.into_iter();
        let sockets = sockets.map(|link| link.map(|link| link.into_socket(timeout)).transpose());
        Ok(Mesh {
            sockets: sockets.collect::<io::Result<_>>()?,
            generation: self.generation,
        })
    }
}

/// Whether a stop is asked for, or is within a moment.
fn asked_soon(stop: &Stop) -> bool {
    let since = Instant::now();
    while !stop.asked() && since.elapsed() < STOP_TOGETHER {
        thread::sleep(TURN);
    }
    stop.asked()
}

#[cfg(test)]
mod tests;
