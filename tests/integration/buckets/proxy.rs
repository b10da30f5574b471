//! A proxy before the server of buckets, which spoils requests as it is told.
//!
//! # Invariants
//! * Each request has a connection of its own to the server, so an answer ends with it.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server never sees it; the answer has this status.
    Status(u16),
    /// The server does it, and the answer is lost.
    AnswerLost,
}

#[derive(Default)]
struct State {
    /// What happens to the next requests with this method.
    faults: VecDeque<(&'static str, Fault)>,
    /// Whether conditions are taken out of requests.
    unconditional: bool,
}

/// A proxy; it ends with the test process.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub(super) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
        };
        let own = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (own, client) = (own.clone(), client.unwrap());
                // A client that goes away ends its thread.
                std::thread::spawn(move || own.serve(&client, server).ok());
            }
        });
        proxy
    }

    /// Spoils the next requests with this method, one after the other.
    pub(super) fn spoil(&self, method: &'static str, faults: &[Fault]) {
        let faults = faults.iter().map(|fault| (method, *fault));
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// Whether all faults have happened.
    pub(super) fn spent(&self) -> bool {
        self.state.lock().unwrap().faults.is_empty()
    }

    /// From now on the server knows no conditions.
    pub(super) fn forget_conditions(&self) {
        self.state.lock().unwrap().unconditional = true;
    }

    fn serve(&self, mut client: &TcpStream, server: SocketAddr) -> io::Result<()> {
        let mut reader = BufReader::new(client);
        loop {
            let (head, body) = request(&mut reader)?;
            let fault = {
                let mut state = self.state.lock().unwrap();
                let hit = |(method, _): &mut (&str, Fault)| head[0].starts_with(*method);
                state.faults.pop_front_if(hit).map(|(_, fault)| fault)
            };
            if let Some(Fault::Status(status)) = fault {
                write!(
                    client,
                    "HTTP/1.1 {status} Spoiled\r\nContent-Length: 0\r\n\r\n"
                )?;
                continue;
            }
            let answer = self.forward(server, &head, &body)?;
            if fault == Some(Fault::AnswerLost) {
                return client.shutdown(std::net::Shutdown::Both);
            }
            client.write_all(&answer)?;
            // The answer may end with its connection.
            return client.shutdown(std::net::Shutdown::Both);
        }
    }

    fn forward(&self, server: SocketAddr, head: &[String], body: &[u8]) -> io::Result<Vec<u8>> {
        let unconditional = self.state.lock().unwrap().unconditional;
        let mut stream = TcpStream::connect(server)?;
        for line in head {
            let name = line.to_ascii_lowercase();
            let condition = unconditional && name.starts_with("if-none-match:");
            if !condition && !name.starts_with("connection:") {
                write!(stream, "{line}\r\n")?;
            }
        }
        stream.write_all(b"Connection: close\r\n\r\n")?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// The lines of a request's head, and its body.
fn request(reader: &mut impl BufRead) -> io::Result<(Vec<String>, Vec<u8>)> {
    let mut head = Vec::new();
    let mut bytes = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(length) = lower.strip_prefix("content-length:") {
            bytes = length.trim().parse().unwrap();
        }
        head.push(line.to_owned());
    }
    let mut body = vec![0; bytes];
    reader.read_exact(&mut body)?;
    Ok((head, body))
}
