//! A proven connection while the start lasts: is the peer still there, and what does it say.
//!
//! On connections with process 0 words of one byte go both ways; on all others nothing is said
//! until they are timely's. It is apart from the transport because it knows one connection only.
//!
//! # Invariants
//! * No byte behind a last word (`Go`, `Ready`) is read: it belongs to timely.
//! * Nothing here blocks.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What is said on a connection with process 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The sender is there; not all of its connections are, or it has not fenced yet.
    Waiting,
    /// All connections of the sender are there, and it has fenced.
    Complete,
    /// All processes are complete, or what they have loaded is of no use; process 0 says so. The
    /// attempts take turns, so an answer to one is not taken for one to the next.
    Load(Turn),
    /// The sender has loaded.
    Loaded(Turn),
    /// The sender has found a fault in what it was to load.
    Faulty(Turn),
    /// All processes have loaded; process 0 says so.
    TakeOver,
    /// The sender has taken over.
    TakenOver,
    /// All processes have taken over; the last word of process 0.
    Go,
    /// The answer to it, and the last word of any other process.
    Ready,
}

/// Whose turn it is of two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    First,
    Second,
}

impl Turn {
    /// That of an attempt, counted from 0.
    pub(super) fn of(attempt: u32) -> Self {
        if attempt.is_multiple_of(2) {
            Self::First
        } else {
            Self::Second
        }
    }
}

impl Word {
    const ALL: [Self; 12] = [
        Self::Waiting,
        Self::Complete,
        Self::Load(Turn::First),
        Self::Load(Turn::Second),
        Self::Loaded(Turn::First),
        Self::Loaded(Turn::Second),
        Self::Faulty(Turn::First),
        Self::Faulty(Turn::Second),
        Self::TakeOver,
        Self::TakenOver,
        Self::Go,
        Self::Ready,
    ];

    fn byte(self) -> u8 {
        match self {
            Self::Waiting => b'w',
            Self::Complete => b'c',
            Self::Load(Turn::First) => b'l',
            Self::Load(Turn::Second) => b'L',
            Self::Loaded(Turn::First) => b'd',
            Self::Loaded(Turn::Second) => b'D',
            Self::Faulty(Turn::First) => b'f',
            Self::Faulty(Turn::Second) => b'F',
            Self::TakeOver => b't',
            Self::TakenOver => b'T',
            Self::Go => b'g',
            Self::Ready => b'r',
        }
    }

    fn is_last(self) -> bool {
        matches!(self, Self::Go | Self::Ready)
    }
}

/// How a peer was lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum Loss {
    /// It ended, or was ended.
    #[error("connection closed")]
    Closed,
    /// The connection broke.
    #[error("{0}")]
    Broken(io::Error),
    /// It is frozen, or its host is gone.
    #[error("silent for {0:?}")]
    Silent(Duration),
    /// It says what it cannot mean.
    #[error("it speaks out of turn")]
    OutOfTurn,
}

/// A proven connection.
pub(super) struct Link {
    stream: TcpStream,
    heard: Instant,
    /// The last word heard.
    word: Word,
}

impl Link {
    /// Takes a connection over from the handshake.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            heard: Instant::now(),
            word: Word::Waiting,
        })
    }

    /// Looks whether the peer has gone, and leaves unread what it has sent.
    pub(super) fn look(&self) -> Result<(), Loss> {
        match self.stream.peek(&mut [0]) {
            Ok(0) => Err(Loss::Closed),
            Ok(_) => Ok(()),
            Err(error) if passing(&error) => Ok(()),
            Err(error) => Err(Loss::Broken(error)),
        }
    }

    /// Reads words, up to a last one, and returns the newest.
    pub(super) fn hear(&mut self, peer_timeout: Duration) -> Result<Word, Loss> {
        while !self.word.is_last() {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(0) => return Err(Loss::Closed),
                Ok(_) => {
                    let word = Word::ALL.into_iter().find(|word| [word.byte()] == byte);
                    self.word = word.ok_or(Loss::OutOfTurn)?;
                    self.heard = Instant::now();
                }
                Err(error) if passing(&error) => {
                    if self.heard.elapsed() > peer_timeout {
                        return Err(Loss::Silent(peer_timeout));
                    }
                    break;
                }
                Err(error) => return Err(Loss::Broken(error)),
            }
        }
        Ok(self.word)
    }

    /// The last word heard.
    pub(super) fn word(&self) -> Word {
        self.word
    }

    /// Says a word.
    pub(super) fn say(&mut self, word: Word) -> Result<(), Loss> {
        self.stream.write_all(&[word.byte()]).map_err(Loss::Broken)
    }

    /// Makes it what timely needs: a read or write that takes longer than `peer_timeout` fails,
    /// by which timely notices a frozen peer, as its pulse has stopped.
    pub(super) fn into_socket(self, peer_timeout: Duration) -> io::Result<TcpStream> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_nodelay(true)?;
        self.stream.set_read_timeout(Some(peer_timeout))?;
        self.stream.set_write_timeout(Some(peer_timeout))?;
        Ok(self.stream)
    }
}

/// Whether another read may succeed.
fn passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
