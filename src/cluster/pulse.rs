//! A connection on which a process shows that it is there, whatever its workers do.
//!
//! Timely sends when a worker has something to say. One activation may take a worker many seconds,
//! in which it says nothing, and its peers must not take the process for a frozen one. So what
//! timely writes goes in frames, and a thread adds empty ones. It is apart from the network because
//! it knows bytes only, and from `frame` because those come from strangers, and these from a proven
//! peer that may send much.
//!
//! # Invariants
//! * A frame is its length (u32, big endian) and as many bytes; an empty one says only that its
//!   sender runs.
//! * A frame is sent whole, or nothing follows it.
//! * No byte of timely's is copied: it is written from timely's buffer, and read into it.
//! * Each connection has a pulse of its own: a peer that reads no more holds up that of no other.
//! * A length is checked before it is believed.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use timely::communication::allocator::zero_copy::stream::Stream;

/// The length of a frame's length.
const HEADER_BYTES: usize = 4;
/// The longest frame: what timely gathers for a peer at a time. Longer writes become several.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// One end of a connection, as timely reads it or writes to it.
pub(super) struct Pulse {
    shared: Arc<Shared>,
    frames: Frames,
}

/// What the clones of a connection share with its thread.
struct Shared {
    socket: TcpStream,
    /// Why nothing more can be sent, if so. Locked while a frame is sent.
    over: Mutex<Option<Errno>>,
}

impl Pulse {
    /// Takes a socket over, which has a time-out, and sends an empty frame in each interval.
    pub(super) fn start(socket: TcpStream, peer: usize, interval: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket,
            over: Mutex::new(None),
        });
        let beating = Arc::downgrade(&shared);
        thread::Builder::new()
            .name(format!("pulse-{peer}"))
            .spawn(move || {
                // The process's end does not wait for it: nothing is lost with it.
                while let Some(shared) = beating.upgrade() {
                    if let Err(error) = shared.send(&[]) {
                        tracing::debug!(peer, %error, "the pulse has ended");
                        return;
                    }
                    drop(shared);
                    thread::sleep(interval);
                }
            })?;
        Ok(Self {
            shared,
            frames: Frames::default(),
        })
    }
}

impl Shared {
    /// Sends a frame.
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut over = self.over();
        if let Some(reason) = *over {
            return Err(reason.into());
        }
        let sent = write_frame(&self.socket, bytes);
        if let Err(error) = &sent {
            *over = Some(Errno::from_io_error(error).unwrap_or(Errno::PIPE));
        }
        sent
    }

    /// A panic elsewhere has left it as it was.
    fn over(&self) -> MutexGuard<'_, Option<Errno>> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes length and bytes at once, so that a small frame leaves as one packet.
fn write_frame(mut socket: impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).expect("frames are at most FRAME_BYTES_MAX long");
    let header = length.to_be_bytes();
    let mut rest = &mut [IoSlice::new(&header), IoSlice::new(bytes)][..];
    while !rest.is_empty() {
        match again(|| socket.write_vectored(rest))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => IoSlice::advance_slices(&mut rest, written),
        }
    }
    Ok(())
}

/// Does what a signal has interrupted once more.
fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// How far the frames of a peer have been read.
#[derive(Default)]
struct Frames {
    /// The length of the next frame, as far as it has been read.
    header: [u8; HEADER_BYTES],
    header_read: usize,
    /// Bytes of the frame that are yet to be read.
    left: usize,
}

impl Frames {
    /// Reads what is there of one frame of timely's, and passes over empty ones; 0 is the end.
    fn read(&mut self, mut socket: impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.header_read == HEADER_BYTES {
                self.begin()?;
            }
            let wanted = buffer.len().min(self.left);
            // The next length comes with the rest of a frame, without a call of its own.
            let header = if wanted == self.left {
                &mut self.header[self.header_read..]
            } else {
                &mut []
            };
            let mut slices = [
                IoSliceMut::new(&mut buffer[..wanted]),
                IoSliceMut::new(header),
            ];
            let read = again(|| socket.read_vectored(&mut slices))?;
            let taken = read.min(wanted);
            self.left -= taken;
            self.header_read += read - taken;
            if read == 0 || taken > 0 {
                return Ok(taken);
            }
        }
    }

    /// Begins the frame whose length has been read.
    fn begin(&mut self) -> io::Result<()> {
        let length = u32::from_be_bytes(self.header) as usize;
        if length > FRAME_BYTES_MAX {
            let message = format!("it sends a frame of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        (self.header_read, self.left) = (0, length);
        Ok(())
    }
}

impl Read for Pulse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.frames.read(&self.shared.socket, buffer)
    }
}

impl Write for Pulse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let frame = &bytes[..bytes.len().min(FRAME_BYTES_MAX)];
        if !frame.is_empty() {
            self.shared.send(frame)?;
        }
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Pulse {
    /// Only one of the clones may read.
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            shared: Arc::clone(&self.shared),
            frames: Frames::default(),
        })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.shared.socket.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let mut over = self.shared.over();
        *over = Some(Errno::PIPE);
        self.shared.socket.shutdown(how)
    }
}

#[cfg(test)]
mod tests;
