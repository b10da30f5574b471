//! Tests of one handshake against somebody who does not know the secret.
//!
//! They are apart from the handshake to keep it short.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::cluster::testing::{await_that, member};

fn pair() -> (TcpStream, Acceptance) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (accepted, address) = listener.accept().unwrap();
    (stream, Acceptance::new(accepted, address).unwrap())
}

fn two() -> (Membership, Membership) {
    let zero = member(vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]);
    let one = Membership {
        index: 1,
        ..zero.clone()
    };
    (zero, one)
}

/// Steps until the connection is decided.
fn decide(acceptance: &mut Acceptance, member: &Membership) -> Step {
    let mut decision = Step::Waiting;
    await_that("a decision", || {
        decision = acceptance.step(member, 5);
        !matches!(decision, Step::Waiting)
    });
    decision
}

#[test]
fn both_sides_learn_the_generation() {
    let (zero, one) = two();
    let (mut stream, mut acceptance) = pair();
    let connecting = thread::spawn(move || introduce(&mut stream, &one, 0, NO_GENERATION));
    let Step::Proven(hello) = decide(&mut acceptance, &zero) else {
        panic!("it is not proven")
    };
    assert_eq!(hello.from, 1);
    let _socket = acceptance.accept(&zero, 5).unwrap();
    assert_eq!(connecting.join().unwrap(), Ok(5));
}

#[test]
fn a_recorded_handshake_cannot_be_replayed() {
    let (zero, one) = two();
    let hello = Hello::of(&one, 0, NO_GENERATION).encode();
    let (mut stream, mut acceptance) = pair();
    frame::write(&mut stream, Kind::Hello, &hello).unwrap();
    let mut answer = None;
    let mut reader = FrameReader::default();
    await_that("the answer", || {
        assert!(matches!(acceptance.step(&zero, 5), Step::Waiting));
        stream.set_nonblocking(true).unwrap();
        answer = reader.read(&mut stream).unwrap();
        answer.is_some()
    });
    let transcript = Transcript::of(&hello, &answer.unwrap().body);
    let proof = transcript
        .connecting_mac(&one.secret)
        .finalize()
        .into_bytes();
    frame::write(&mut stream, Kind::Proof, &proof).unwrap();
    assert!(matches!(decide(&mut acceptance, &zero), Step::Proven(_)));

    let (mut stream, mut acceptance) = pair();
    frame::write(&mut stream, Kind::Hello, &hello).unwrap();
    frame::write(&mut stream, Kind::Proof, &proof).unwrap();
    let Step::Refused(refusal) = decide(&mut acceptance, &zero) else {
        panic!("replayed")
    };
    assert_eq!(refusal.reason, Reason::Secret);
}

#[test]
fn an_accepting_side_without_the_secret_is_found_out() {
    let (zero, one) = two();
    let (mut stream, acceptance) = pair();
    let connecting = thread::spawn(move || introduce(&mut stream, &one, 0, NO_GENERATION));
    // The impostor takes any proof for good, and reflects it as its own.
    let mut stream = acceptance.stream;
    stream.set_nonblocking(false).unwrap();
    let mut reader = FrameReader::default();
    let _hello = reader.read(&mut stream).unwrap().unwrap();
    frame::write(&mut stream, Kind::Hello, &Hello::of(&zero, 1, 5).encode()).unwrap();
    let proof = reader.read(&mut stream).unwrap().unwrap().body;
    let mut body = 5_u64.to_be_bytes().to_vec();
    body.extend_from_slice(&proof);
    frame::write(&mut stream, Kind::Accepted, &body).unwrap();
    let refusal = connecting.join().unwrap().unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.to_string().as_str()),
        (Reason::Secret, "it does not know the secret")
    );
}

#[test]
fn a_proof_before_a_hello_is_malformed() {
    let (zero, _) = two();
    let (mut stream, mut acceptance) = pair();
    frame::write(&mut stream, Kind::Proof, &[0; 32]).unwrap();
    let Step::Refused(refusal) = decide(&mut acceptance, &zero) else {
        panic!("not refused")
    };
    assert_eq!(refusal.reason, Reason::Protocol);
    acceptance.refuse(&refusal);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let decoded = Refusal::decode(&answer[12..]);
    assert_eq!(decoded, refusal);
}

#[test]
fn a_process_at_a_wrong_address_is_told_apart() {
    let (zero, one) = two();
    let three = Membership {
        processes: 3,
        ..zero
    };
    let hello = |from: usize, to: u32| {
        Hello::of(
            &Membership {
                index: from,
                processes: 3,
                ..one.clone()
            },
            to,
            5,
        )
    };
    let text = |hello: Hello| hello.check(&three).unwrap_err().to_string();
    assert_eq!(hello(2, 0).check(&three), Ok(()));
    assert_eq!(
        text(hello(2, 1)),
        "it looks for process 1 (this is process 0)"
    );
    assert_eq!(
        text(hello(0, 0)),
        "process 0 is not one that connects to process 0"
    );
    assert_eq!(
        text(hello(3, 0)),
        "process 3 is not one that connects to process 0"
    );
}

#[test]
fn what_a_peer_says_reaches_the_log_printable() {
    let refusal = Refusal::decode(b"\x02wrong\n\x1b[31mjob\xff");
    assert_eq!(refusal.to_string(), "wrong??[31mjob\u{fffd}");
    assert_eq!(Refusal::decode(b"").reason, Reason::Stranger);
}

#[test]
fn a_silent_answer_has_a_deadline() {
    let (_, one) = two();
    let (mut stream, mut acceptance) = pair();
    acceptance.since = Instant::now().checked_sub(DEADLINE * 2).unwrap();
    let Step::Refused(refusal) = acceptance.step(&one, 5) else {
        panic!("it waits for ever")
    };
    assert_eq!(refusal.to_string(), "it did not say who it is within 5 s");
    stream.write_all(b"too late").unwrap();
}

proptest! {
    #[test]
    fn hellos_come_through_and_no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..700),
                                              cut in 0..150_usize) {
        Hello::decode(&bytes);
        let (_, one) = two();
        let hello = Hello::of(&one, 0, 77);
        let encoded = hello.encode();
        prop_assert_eq!(Hello::decode(&encoded), Some(hello));
        if cut < encoded.len() {
            prop_assert_eq!(Hello::decode(&encoded[..cut]), None);
        }
    }
}
