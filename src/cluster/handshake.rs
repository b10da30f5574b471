//! The handshake on one connection: who is there, do we belong together, prove it.
//!
//! ```text
//! connecting                                   accepting
//!     hello (who, whom, counts, job, build, settings, generation, nonce)  ->
//!                                          <-  hello
//!     proof (HMAC: "C", both hellos)           ->
//!                                          <-  accepted (generation, HMAC: "A", both hellos, it)
//! ```
//! Instead of its frames the accepting side may send a refusal. It is apart from the transport so
//! that it knows one connection only: no places, no waiting for peers.
//!
//! # Invariants
//! * The secret never travels. Both nonces are in both proofs, so none can be replayed; the role
//!   is, so none can be reflected.
//! * The accepting side never blocks: it goes on with whatever bytes are there.
//! * Before the proof is good, a connection changes nothing but itself.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::cluster::frame::{self, BODY_BYTES_MAX, Frame, FrameError, FrameReader, Kind};
use crate::cluster::membership::Membership;

/// How long a handshake may take; a peer on another continent needs a tenth of it.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// The generation in the hello of a process that has none yet.
pub(super) const NO_GENERATION: u64 = u64::MAX;

type Proof = [u8; 32];

/// Why a connection does not come about. The text is the accepting side's: "ours" is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// The kinds of refusal, as they travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Not ours, silent, or broken off: never sent.
    Stranger,
    /// It speaks our protocol, and wrongly, or another version of it.
    Protocol,
    /// The processes do not belong together.
    Mismatch,
    /// The proof is wrong.
    Secret,
    /// The place is taken for now.
    Taken,
    /// The accepting side has no generation, or another one, for now.
    Generation,
}

impl Reason {
    const SENT: [Self; 5] = [
        Self::Protocol,
        Self::Mismatch,
        Self::Secret,
        Self::Taken,
        Self::Generation,
    ];

    fn number(self) -> u8 {
        match self {
            Self::Stranger => 0,
            Self::Protocol => 1,
            Self::Mismatch => 2,
            Self::Secret => 3,
            Self::Taken => 4,
            Self::Generation => 5,
        }
    }

    /// Whether trying again is of no use.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Protocol | Self::Mismatch | Self::Secret)
    }
}

impl Refusal {
    pub(super) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }

    /// What a peer sent; whatever is in it becomes printable and short.
    fn decode(body: &[u8]) -> Self {
        let (number, text) = body.split_first().unwrap_or((&0, &[]));
        let reason = Reason::SENT
            .into_iter()
            .find(|known| known.number() == *number);
        let text = String::from_utf8_lossy(text);
        let text = text
            .chars()
            .map(|letter| if letter.is_control() { '?' } else { letter });
        // Of a reason that this build does not know, nothing better can be hoped than a retry.
        Self::new(reason.unwrap_or(Reason::Stranger), text.collect::<String>())
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Stranger => Self::new(Reason::Stranger, "not deltajoin"),
            FrameError::Version(theirs) => Self::new(
                Reason::Protocol,
                format!(
                    "another build: its handshake is {theirs} (ours is {})",
                    frame::VERSION
                ),
            ),
            FrameError::Malformed => Self::new(Reason::Protocol, "a malformed message"),
            FrameError::Closed(0) => {
                Self::new(Reason::Stranger, "it closed the connection without a word")
            }
            FrameError::Closed(_) => Self::new(
                Reason::Stranger,
                "it closed the connection in the middle of a message",
            ),
            FrameError::Io(error) => Self::new(Reason::Stranger, error.to_string()),
        }
    }
}

/// What each side says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) from: u32,
    /// Whom it believes to speak to.
    to: u32,
    processes: u32,
    threads: u32,
    pub(super) generation: u64,
    nonce: [u8; 32],
    settings: [u8; 32],
    job: String,
    build: String,
}

impl Hello {
    fn of(member: &Membership, to: u32, generation: u64) -> Self {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).expect("the operating system has random bytes");
        Self {
            from: short(member.index),
            to,
            processes: short(member.processes),
            threads: short(member.threads),
            generation,
            nonce,
            settings: member.settings,
            job: member.job.clone(),
            build: member.build.clone(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for number in [self.from, self.to, self.processes, self.threads] {
            body.extend_from_slice(&number.to_be_bytes());
        }
        body.extend_from_slice(&self.generation.to_be_bytes());
        body.extend_from_slice(&self.nonce);
        body.extend_from_slice(&self.settings);
        for text in [&self.job, &self.build] {
            body.push(u8::try_from(text.len()).expect("the membership is checked"));
            body.extend_from_slice(text.as_bytes());
        }
        body
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut rest = body;
        let hello = Self {
            from: u32::from_be_bytes(array(&mut rest)?),
            to: u32::from_be_bytes(array(&mut rest)?),
            processes: u32::from_be_bytes(array(&mut rest)?),
            threads: u32::from_be_bytes(array(&mut rest)?),
            generation: u64::from_be_bytes(array(&mut rest)?),
            nonce: array(&mut rest)?,
            settings: array(&mut rest)?,
            job: text(&mut rest)?,
            build: text(&mut rest)?,
        };
        rest.is_empty().then_some(hello)
    }

    /// Whether the two belong together, seen by the accepting `member`.
    fn check(&self, member: &Membership) -> Result<(), Refusal> {
        let (processes, threads) = (member.processes, member.threads);
        let text = if self.job != member.job {
            format!("wrong job {:?} (ours is {:?})", self.job, member.job)
        } else if self.build != member.build {
            format!(
                "another build {:?} (ours is {:?})",
                self.build, member.build
            )
        } else if (self.processes, self.threads) != (short(processes), short(threads)) {
            format!(
                "wrong counts: {} processes of {} threads (ours are {processes} of {threads})",
                self.processes, self.threads
            )
        } else if self.settings != member.settings {
            "other settings".to_owned()
        } else if self.to != short(member.index) {
            format!(
                "it looks for process {} (this is process {})",
                self.to, member.index
            )
        } else if self.from <= self.to || self.from >= self.processes {
            format!(
                "process {} is not one that connects to process {}",
                self.from, self.to
            )
        } else {
            return Ok(());
        };
        Err(Refusal::new(Reason::Mismatch, text))
    }
}

fn short(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let [length] = array(rest)?;
    let (taken, behind) = rest.split_at_checked(usize::from(length))?;
    *rest = behind;
    String::from_utf8(taken.to_vec()).ok()
}

/// The two hellos as they were sent, each behind its length.
struct Transcript(Vec<u8>);

impl Transcript {
    fn of(connecting: &[u8], accepting: &[u8]) -> Self {
        let mut bytes = Vec::new();
        for hello in [connecting, accepting] {
            bytes.extend_from_slice(&(hello.len() as u64).to_be_bytes());
            bytes.extend_from_slice(hello);
        }
        Self(bytes)
    }

    fn connecting_mac(&self, secret: &[u8]) -> Hmac<Sha256> {
        self.mac(secret, b'C', &[])
    }

    fn accepting_mac(&self, secret: &[u8], generation: u64) -> Hmac<Sha256> {
        self.mac(secret, b'A', &generation.to_be_bytes())
    }

    fn mac(&self, secret: &[u8], role: u8, also: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
        mac.chain_update([role])
            .chain_update(&self.0)
            .chain_update(also)
    }
}

/// A connection that came in and has not proven itself yet.
pub(super) struct Acceptance {
    stream: TcpStream,
    address: SocketAddr,
    since: Instant,
    reader: FrameReader,
    /// The peer's hello, once it is known to be one of ours.
    greeted: Option<(Hello, Transcript)>,
}

/// What has come of a connection so far.
pub(super) enum Step {
    /// More must come.
    Waiting,
    /// It is the process that it says.
    Proven(Hello),
    /// It is not, or not in time.
    Refused(Refusal),
}

impl Acceptance {
    pub(super) fn new(stream: TcpStream, address: SocketAddr) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let reader = FrameReader::default();
        Ok(Self {
            stream,
            address,
            since: Instant::now(),
            reader,
            greeted: None,
        })
    }

    /// Goes as far as the bytes that are there allow.
    pub(super) fn step(&mut self, member: &Membership, generation: u64) -> Step {
        match self.advance(member, generation) {
            Ok(Some(hello)) => Step::Proven(hello),
            Ok(None) if self.since.elapsed() > DEADLINE => {
                let seconds = DEADLINE.as_secs();
                let text = format!("it did not say who it is within {seconds} s");
                Step::Refused(Refusal::new(Reason::Stranger, text))
            }
            Ok(None) => Step::Waiting,
            Err(refusal) => Step::Refused(refusal),
        }
    }

    fn advance(&mut self, member: &Membership, mine: u64) -> Result<Option<Hello>, Refusal> {
        while let Some(Frame { kind, body }) = self.reader.read(&mut self.stream)? {
            match (kind, &self.greeted) {
                (Kind::Hello, None) => {
                    let hello = Hello::decode(&body).ok_or(FrameError::Malformed)?;
                    hello.check(member)?;
                    let answer = Hello::of(member, hello.from, mine).encode();
                    frame::write(&mut self.stream, Kind::Hello, &answer).map_err(FrameError::Io)?;
                    self.greeted = Some((hello, Transcript::of(&body, &answer)));
                }
                (Kind::Proof, Some((hello, transcript))) => {
                    let mac = transcript.connecting_mac(&member.secret);
                    return match mac.verify_slice(&body) {
                        Ok(()) => Ok(Some(hello.clone())),
                        Err(_) => Err(Refusal::new(Reason::Secret, "wrong secret")),
                    };
                }
                _ => return Err(FrameError::Malformed.into()),
            }
        }
        Ok(None)
    }

    /// Takes the proven peer in and proves this side.
    pub(super) fn accept(mut self, member: &Membership, generation: u64) -> io::Result<TcpStream> {
        let (_, transcript) = self
            .greeted
            .as_ref()
            .expect("only a proven peer is accepted");
        let mac = transcript.accepting_mac(&member.secret, generation);
        let mut body = generation.to_be_bytes().to_vec();
        body.extend_from_slice(&mac.finalize().into_bytes());
        frame::write(&mut self.stream, Kind::Accepted, &body)?;
        Ok(self.stream)
    }

    /// Says in the log, and to a peer that understands it, why the connection ends.
    pub(super) fn refuse(mut self, refusal: &Refusal) {
        let peer = self.address;
        match refusal.reason {
            // Peers that start are told to wait: nobody needs to know.
            Reason::Generation => tracing::debug!(%peer, reason = %refusal, "refused a connection"),
            _ => tracing::warn!(%peer, reason = %refusal, "refused a connection"),
        }
        if refusal.reason != Reason::Stranger {
            let mut body = vec![refusal.reason.number()];
            body.extend_from_slice(refusal.text.as_bytes());
            body.truncate(BODY_BYTES_MAX);
            // Closing a socket with unread bytes in it would destroy what is sent here.
            let mut unread = [0; BODY_BYTES_MAX];
            let drained = io::Read::read(&mut self.stream, &mut unread);
            let sent = frame::write(&mut self.stream, Kind::Refused, &body);
            tracing::trace!(%peer, ?drained, ?sent, "told the peer why it is refused");
        }
    }
}

/// The connecting side: proves itself to process `to` and returns the generation it is given.
///
/// Blocks for at most `DEADLINE`.
pub(super) fn introduce(
    stream: &mut TcpStream,
    member: &Membership,
    to: usize,
    generation: u64,
) -> Result<u64, Refusal> {
    let mut link = Link {
        stream,
        reader: FrameReader::default(),
        since: Instant::now(),
    };
    let mine = Hello::of(member, short(to), generation);
    let said = mine.encode();
    link.write(Kind::Hello, &said)?;
    let heard = link.read(Kind::Hello)?;
    let theirs = Hello::decode(&heard).ok_or(FrameError::Malformed)?;
    if (theirs.from, theirs.to) != (mine.to, mine.from) {
        let text = format!("it says that it is process {}, not {to}", theirs.from);
        return Err(Refusal::new(Reason::Mismatch, text));
    }
    let transcript = Transcript::of(&said, &heard);
    let proof: Proof = transcript
        .connecting_mac(&member.secret)
        .finalize()
        .into_bytes()
        .into();
    link.write(Kind::Proof, &proof)?;
    let accepted = link.read(Kind::Accepted)?;
    let mut rest = &accepted[..];
    let generation = u64::from_be_bytes(array(&mut rest).ok_or(FrameError::Malformed)?);
    match transcript
        .accepting_mac(&member.secret, generation)
        .verify_slice(rest)
    {
        Ok(()) => Ok(generation),
        Err(_) => Err(Refusal::new(Reason::Secret, "it does not know the secret")),
    }
}

/// A connection of the connecting side, with one deadline for all that is said on it.
struct Link<'a> {
    stream: &'a mut TcpStream,
    reader: FrameReader,
    since: Instant,
}

impl Link<'_> {
    fn write(&mut self, kind: Kind, body: &[u8]) -> Result<(), Refusal> {
        frame::write(self.stream, kind, body).map_err(|error| FrameError::Io(error).into())
    }

    fn read(&mut self, awaited: Kind) -> Result<Vec<u8>, Refusal> {
        loop {
            let left = DEADLINE.saturating_sub(self.since.elapsed());
            if left.is_zero() {
                return Err(Refusal::new(Reason::Stranger, "it does not answer"));
            }
            // Each byte that comes restarts the socket's time-out, so it is kept short.
            let turn = left.min(Duration::from_millis(200));
            self.stream
                .set_read_timeout(Some(turn))
                .map_err(FrameError::Io)?;
            match self.reader.read(self.stream)? {
                Some(frame) if frame.kind == awaited => return Ok(frame.body),
                Some(frame) if frame.kind == Kind::Refused => {
                    return Err(Refusal::decode(&frame.body));
                }
                Some(_) => return Err(FrameError::Malformed.into()),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
