//! Strangers at the door, during the start and while the job runs: nothing happens but a line.

use std::io::Write;
use std::net::TcpStream;

use deltajoin_testkit::{Signal, wait_until};

use crate::case::{Folder, LIMIT};
use crate::support::{address, config, events, held, live, status, worker};

/// A port scan, garbage, HTTP, and a silent one that stays; also half a greeting.
fn disturb(folder: &Folder, processes: usize) -> Vec<TcpStream> {
    let mut kept = Vec::new();
    for process in 0..processes {
        let address = address(folder, process);
        for said in [
            b"".as_slice(),
            &[0xff; 5000],
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\0\0\0\x04",
            b"deltajoin",
        ] {
            // Nobody may listen there any more, or yet.
            let Ok(mut stream) = TcpStream::connect(&address) else {
                continue;
            };
            let _sent = stream.write_all(said);
            kept.push(stream);
        }
        drop(TcpStream::connect(&address));
    }
    kept
}

#[test]
fn strangers_do_not_hinder_a_start_or_a_running_job() {
    let (folder, mut pipe) = held(&config(2));
    let mut first = worker(&folder, 0, &[]);
    wait_until("a listener", LIMIT, || {
        TcpStream::connect(address(&folder, 0)).is_ok()
    });
    let kept = disturb(&folder, 2);
    assert!(!kept.is_empty());
    let mut second = worker(&folder, 1, &[]);
    let generation = live(&folder, 2, 0);
    let more = disturb(&folder, 2);
    pipe.give(events(0, 500).as_bytes());
    wait_until("rows", LIMIT, || folder.line_count("joined.jsonl") == 500);
    drop((kept, more));
    pipe.give(events(500, 500).as_bytes());
    wait_until("rows", LIMIT, || folder.line_count("joined.jsonl") == 1_000);
    assert!(first.is_running() && second.is_running());
    assert_eq!(status(&folder, 0).unwrap().generation, generation);
    first.signal(Signal::Terminate);
    for job in [first, second] {
        let outcome = job.wait(LIMIT);
        outcome.assert_code(0);
        let errors = outcome.stderr.iter().any(|line| line.contains("ERROR"));
        assert!(!errors, "{:#?}", outcome.stderr);
    }
}
