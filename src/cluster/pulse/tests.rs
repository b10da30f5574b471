//! Tests of a connection's frames: what was written comes out, whatever comes between.
//!
//! They are apart from the pulse to keep it short. That it keeps a peer is tested with `network`.

use std::net::TcpListener;

use proptest::prelude::*;

use super::*;

/// Gives a byte at least, and as many as its next number says.
struct Cut<'a>(&'a [u8], std::iter::Cycle<std::slice::Iter<'a, usize>>);

impl Read for Cut<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buffer)])
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut most = *self.1.next().unwrap();
        let before = self.0.len();
        for slice in slices {
            let count = slice.len().min(most).min(self.0.len());
            slice[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            most -= count;
        }
        Ok(before - self.0.len())
    }
}

/// Reads to the end, so many bytes at a time.
fn read_all(mut wire: impl Read, buffer_bytes: usize) -> io::Result<Vec<u8>> {
    let (mut frames, mut all) = (Frames::default(), Vec::new());
    let mut buffer = vec![0; buffer_bytes];
    loop {
        match frames.read(&mut wire, &mut buffer)? {
            0 => return Ok(all),
            read => all.extend_from_slice(&buffer[..read]),
        }
    }
}

proptest! {
    #[test]
    fn what_was_written_comes_out_however_it_is_cut(
        writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
        cuts in prop::collection::vec(1_usize..50, 1..10),
        buffer_bytes in 1_usize..50,
    ) {
        let mut wire = Vec::new();
        // Those without bytes are beats.
        for bytes in &writes {
            write_frame(&mut wire, bytes).unwrap();
        }
        let read = read_all(Cut(&wire, cuts.iter().cycle()), buffer_bytes).unwrap();
        prop_assert_eq!(read, writes.concat());
    }
}

#[test]
fn a_length_beyond_the_bound_is_not_believed() {
    let error = read_all(Cut(&[0xff; 8], [8].iter().cycle()), 1 << 16).unwrap_err();
    assert_eq!(error.to_string(), "it sends a frame of 4294967295 bytes");
}

#[test]
fn beats_never_fall_into_what_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sending = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (receiving, _) = listener.accept().unwrap();
    let mut sending = Pulse::start(sending, 1, Duration::from_micros(10)).unwrap();
    // Longer than a frame, so that it is cut, and than what the kernel takes at once.
    let sent: Vec<u8> = (0..8 * FRAME_BYTES_MAX)
        .map(|at| (at % 251) as u8)
        .collect();
    let expected = sent.clone();
    let writer = thread::spawn(move || {
        sending.write_all(&sent).unwrap();
        sending.shutdown(Shutdown::Write).unwrap();
    });
    let received = read_all(receiving, 100_000).unwrap();
    writer.join().unwrap();
    assert!(received == expected, "{} bytes came", received.len());
}

#[test]
fn nothing_follows_a_frame_that_was_not_sent_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sending = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    sending
        .set_write_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    // It reads nothing, like a frozen peer.
    let (receiving, _) = listener.accept().unwrap();
    let mut sending = Pulse::start(sending, 1, Duration::from_secs(60)).unwrap();
    let bytes = vec![7; FRAME_BYTES_MAX];
    let first = loop {
        if let Err(error) = sending.write_all(&bytes) {
            break error;
        }
    };
    let second = sending.write_all(&[1]).unwrap_err();
    // Both are the time-out, from which the loss gets its words.
    assert_eq!(first.raw_os_error(), Some(11), "{first}");
    assert_eq!(second.raw_os_error(), Some(11), "{second}");
    drop(receiving);
}
