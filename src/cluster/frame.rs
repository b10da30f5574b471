//! Frames of the handshake: magic, version, kind, length, body.
//!
//! They are apart from what the handshake says in them because reading from strangers is where the
//! danger lies: everything here works on bytes that anybody may have sent.
//!
//! # Invariants
//! * Never more than one frame is read ahead, so what follows the handshake stays in the socket.
//! * Never more than `HEADER_BYTES + BODY_BYTES_MAX` are kept; a length is checked before it is
//!   believed.
//! * The first byte that differs from the magic ends it.
//! * The header keeps its form in all versions, so that each can refuse any other readably.

use std::io::{self, Read, Write};

/// What every frame begins with.
const MAGIC: [u8; 8] = *b"dltajoin";
/// Raised whenever the handshake, or what follows it on the sockets, changes.
pub(super) const VERSION: u8 = 2;
/// Magic, version, kind, length of the body.
const HEADER_BYTES: usize = 12;
/// Above the longest hello, which has 600 bytes, and the longest refusal.
pub(super) const BODY_BYTES_MAX: usize = 1024;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Who speaks.
    Hello,
    /// Proof of the connecting side.
    Proof,
    /// Generation and proof of the accepting side.
    Accepted,
    /// A reason, and the end.
    Refused,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Proof => 2,
            Self::Accepted => 3,
            Self::Refused => 4,
        }
    }
}

/// A frame that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) body: Vec<u8>,
}

/// Why no frame can come from a connection any more.
#[derive(Debug)]
pub(super) enum FrameError {
    /// The bytes are not ours.
    Stranger,
    /// The frame is of this version of the handshake.
    Version(u8),
    /// The magic is ours, the rest cannot be.
    Malformed,
    /// It was closed, after this many bytes of a frame.
    Closed(usize),
    /// Reading failed.
    Io(io::Error),
}

/// Writes a frame, as one call so that it leaves as one packet.
pub(super) fn write(stream: &mut impl Write, kind: Kind, body: &[u8]) -> io::Result<()> {
    let length = u16::try_from(body.len()).expect("bodies are at most BODY_BYTES_MAX long");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[VERSION, kind.number()]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    stream.write_all(&bytes)
}

/// Reads frames from a stream that may have only a part of one.
#[derive(Default)]
pub(super) struct FrameReader {
    bytes: Vec<u8>,
}

impl FrameReader {
    /// Reads on; `None` means that the rest has yet to come.
    pub(super) fn read(&mut self, stream: &mut impl Read) -> Result<Option<Frame>, FrameError> {
        loop {
            let missing = match self.parse()? {
                Parsed::Frame(frame) => return Ok(Some(frame)),
                Parsed::Missing(missing) => missing,
            };
            let mut chunk = [0; HEADER_BYTES + BODY_BYTES_MAX];
            match stream.read(&mut chunk[..missing]) {
                Ok(0) => return Err(FrameError::Closed(self.bytes.len())),
                Ok(read) => self.bytes.extend_from_slice(&chunk[..read]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(None),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(FrameError::Io(error)),
                },
            }
        }
    }

    /// Looks at what has been read, and takes the frame out when it is complete.
    fn parse(&mut self) -> Result<Parsed, FrameError> {
        let begun = self.bytes.len().min(MAGIC.len());
        if self.bytes[..begun] != MAGIC[..begun] {
            return Err(FrameError::Stranger);
        }
        if self.bytes.len() < HEADER_BYTES {
            return Ok(Parsed::Missing(HEADER_BYTES - self.bytes.len()));
        }
        let [version, kind, high, low] = [8, 9, 10, 11].map(|place| self.bytes[place]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let kinds = [Kind::Hello, Kind::Proof, Kind::Accepted, Kind::Refused];
        let kind = kinds.into_iter().find(|known| known.number() == kind);
        let kind = kind.ok_or(FrameError::Malformed)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > BODY_BYTES_MAX {
            return Err(FrameError::Malformed);
        }
        let whole = HEADER_BYTES + length;
        if self.bytes.len() < whole {
            return Ok(Parsed::Missing(whole - self.bytes.len()));
        }
        let body = self.bytes.split_off(HEADER_BYTES);
        self.bytes.clear();
        Ok(Parsed::Frame(Frame { kind, body }))
    }
}

enum Parsed {
    Frame(Frame),
    /// This many bytes are missing to the end of the header or of the frame.
    Missing(usize),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives one byte at a call and then says that no more is there yet.
    struct Drip<'a>(&'a [u8], bool);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = buffer.len().min(1).min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn a_frame_comes_through_byte_by_byte_and_nothing_behind_it_is_read() {
        let mut bytes = Vec::new();
        write(&mut bytes, Kind::Proof, b"thirty-two").unwrap();
        bytes.extend_from_slice(b"timely's");
        let mut stream = Drip(&bytes, false);
        let mut reader = FrameReader::default();
        let frame = loop {
            if let Some(frame) = reader.read(&mut stream).unwrap() {
                break frame;
            }
        };
        assert_eq!(
            frame,
            Frame {
                kind: Kind::Proof,
                body: b"thirty-two".to_vec()
            }
        );
        assert_eq!(stream.0, b"timely's");
    }

    #[test]
    fn a_length_beyond_the_bound_is_not_believed() {
        let mut bytes = b"dltajoin".to_vec();
        bytes.extend_from_slice(&[VERSION, 1, 0xff, 0xff]);
        let error = FrameReader::default().read(&mut &bytes[..]).unwrap_err();
        assert!(matches!(error, FrameError::Malformed), "{error:?}");
    }

    #[test]
    fn another_version_is_told_from_a_stranger() {
        let read = |bytes: &[u8]| FrameReader::default().read(&mut &bytes[..]).unwrap_err();
        assert!(matches!(
            read(b"dltajoin\x09\x01\x00\x00"),
            FrameError::Version(9)
        ));
        assert!(matches!(read(b"GET / HTTP/1.1\r\n"), FrameError::Stranger));
        assert!(matches!(read(b"dlta"), FrameError::Closed(4)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_keep_much(bytes in prop::collection::vec(any::<u8>(), 0..64),
                                               magic in any::<bool>()) {
            let mut all = if magic { MAGIC.to_vec() } else { Vec::new() };
            all.extend(bytes);
            let mut reader = FrameReader::default();
            let mut stream = &all[..];
            while let Ok(Some(_)) = reader.read(&mut stream) {}
            prop_assert!(reader.bytes.len() <= HEADER_BYTES + BODY_BYTES_MAX);
        }
    }
}
