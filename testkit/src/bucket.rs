//! A server that speaks S3: moto, fetched once from PyPI, started for one test binary.
//!
//! It is moto because that one puts conditionally, and decides between many who put at the same
//! moment.
//!
//! # Invariants
//! * The folder of the program is complete or not there: it is filled under a lock, and what says
//!   that it is whole is written last.
//! * It listens on 127.0.0.1, keeps everything in memory, and ends with the test process.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::cache::cache_folder;
use crate::ports::free_ports;
use crate::process::Process;
use crate::wait::wait_for;

/// The version of moto; also in the folder's name.
const VERSION: &str = "5.2.5";
/// Python takes its time to start on a busy machine.
const START: Duration = Duration::from_secs(120);
/// What one request may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Somebody must have signed; the server does not look further.
const ANYBODY: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
                       SignedHeaders=host, Signature=0";

/// A server of buckets, which are not checked for credentials.
#[derive(Debug)]
pub struct BucketServer {
    address: SocketAddr,
    _process: Process,
}

impl BucketServer {
    /// The server of this test process, started at the first call.
    ///
    /// # Panics
    /// If it cannot be fetched or does not start.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<BucketServer> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    fn start() -> Self {
        let program = program();
        let port = free_ports(1)[0];
        let process = Process::spawn(
            Command::new(program)
                .args(["-H", "127.0.0.1", "-p", &port.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait_for("moto to listen", START, || TcpStream::connect(address).ok());
        Self {
            address,
            _process: process,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a program is told of a server at this address, in its environment.
    pub fn environment(address: SocketAddr) -> [(&'static str, String); 4] {
        [
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "testtest".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }

    /// Makes an empty bucket.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn create_bucket(&self, name: &str) {
        self.ask("PUT", name, b"");
    }

    /// Puts an object, `BUCKET/KEY`, also in the place of another.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn put(&self, object: &str, bytes: &[u8]) {
        self.ask("PUT", object, bytes);
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn delete(&self, object: &str) {
        self.ask("DELETE", object, b"");
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(ANSWER)).expect("not zero");
        let (address, length) = (self.address, body.len());
        let request = format!(
            "{method} /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\
             Authorization: {ANYBODY}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        stream.write_all(body).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let is_good = answer.contains(" 200 ") || answer.contains(" 204 ");
        assert!(is_good, "{method} {path}: {answer}");
    }
}

/// moto's program, fetched if it is not there.
fn program() -> PathBuf {
    let cache = cache_folder();
    let folder = cache.join(format!("moto-{VERSION}"));
    let lock = File::create(cache.join(format!("moto-{VERSION}.lock")));
    let lock = lock.expect("the cache folder can be written to");
    lock.lock()
        .expect("the cache folder's file system has locks");
    let whole = folder.join("whole");
    if !whole.exists() {
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("what a killed process left can be removed");
        }
        // Programs know the folder that they were installed in: it cannot be renamed.
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
        let package = format!("moto[server,s3]=={VERSION}");
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", &package]));
        fs::write(&whole, b"").expect("the folder has just been made");
    }
    folder.join("bin/moto_server")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot start {command:?}: {error}; see scripts/install-missing.sh")
    });
    assert!(
        output.status.success(),
        "{command:?} failed; see scripts/install-missing.sh\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
