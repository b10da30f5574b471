//! Tests of whole starts: members in threads, over real sockets.
//!
//! They are apart from the transport because they are longer than it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

use super::*;
use crate::cluster::handshake::introduce;
use crate::cluster::testing::{Joining, PATIENCE, await_that, listener, members};
use crate::cluster::work::{Task, Verdict};
use crate::error::ExitCode;

/// Joins all, and checks that each socket leads to the peer of its place and holds nothing else.
fn assert_mesh(joining: Vec<Joining>) -> u64 {
    let mut meshes: Vec<Mesh> = joining
        .into_iter()
        .map(|one| one.outcome().expect("it joins"))
        .collect();
    meshes.sort_by_key(|mesh| mesh.sockets.iter().position(Option::is_none));
    for (index, mesh) in meshes.iter_mut().enumerate() {
        for socket in mesh.sockets.iter_mut().flatten() {
            assert_eq!(socket.read_timeout().unwrap(), Some(PATIENCE));
            assert_eq!(socket.write_timeout().unwrap(), Some(PATIENCE));
            assert!(socket.nodelay().unwrap());
            socket.write_all(&[u8::try_from(index).unwrap()]).unwrap();
        }
    }
    for mesh in &mut meshes {
        for (index, socket) in mesh.sockets.iter_mut().enumerate() {
            let Some(socket) = socket else { continue };
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), index);
        }
    }
    let generation = meshes[0].generation;
    assert!(meshes.iter().all(|mesh| mesh.generation == generation));
    generation
}

#[test]
fn members_in_any_order_agree_on_a_generation() {
    let mut generations = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut members: Vec<_> = members(3).into_iter().map(Some).collect();
        let joining = order.map(|index| Joining::start(members[index].take().unwrap()));
        generations.push(assert_mesh(joining.into()));
    }
    generations.dedup();
    assert_eq!(generations.len(), 3, "each start has its own");
}

#[test]
fn a_member_waits_for_peers_that_do_not_listen_yet() {
    let mut members = members(2);
    let (second, first) = (members.pop().unwrap(), members.pop().unwrap());
    let address = first.1.local_addr().unwrap();
    drop(first.1);
    let second = Joining::start(second);
    second
        .log
        .await_text(&format!("process 0 ({address}): Connection refused"));
    let first = Joining::start((first.0, TcpListener::bind(address).unwrap()));
    assert_mesh(vec![first, second]);
}

#[test]
fn one_process_needs_no_sockets() {
    let (mut member, listener) = members(1).pop().unwrap();
    member.addresses = vec![listener.local_addr().unwrap().to_string()];
    let mesh = connect(&member, None, &mut |_| Verdict::Good, &Stop::default()).unwrap();
    assert_eq!(mesh.sockets.len(), 1);
    assert!(mesh.sockets[0].is_none());
}

#[test]
fn all_load_again_until_none_finds_a_fault_and_then_take_over() {
    for processes in [1, 3] {
        let done = Arc::new(Mutex::new(Vec::new()));
        let joining = members(processes).into_iter().map(|member| {
            let (done, index) = (Arc::clone(&done), member.0.index);
            Joining::with_tasks(member, move |task| {
                if task == Task::Choose {
                    // Long enough for others to begin to load, if they were asked to.
                    thread::sleep(Duration::from_millis(100));
                }
                done.lock().unwrap().push((index, task));
                // Each finds a fault in another attempt, and process 0 in the last of them.
                match task {
                    Task::Load { attempt } if attempt as usize + index + 1 == processes => {
                        Verdict::Faulty
                    }
                    _ => Verdict::Good,
                }
            })
        });
        assert_mesh(joining.collect());
        let done = done.lock().unwrap();
        let attempts = u32::try_from(processes).unwrap() + 1;
        // Nobody is asked to load before process 0 has chosen what.
        let (mut chosen, mut rest) = (0, Vec::new());
        for (index, task) in done.iter().copied() {
            match task {
                Task::Choose => {
                    assert_eq!((index, rest.len()), (0, (chosen + 1) * processes));
                    chosen += 1;
                }
                task => rest.push((index, task)),
            }
        }
        assert_eq!(chosen, attempts as usize);
        let loads = (0..attempts).map(|attempt| Task::Load { attempt });
        let tasks: Vec<Task> = loads.chain([Task::TakeOver]).collect();
        let steps: Vec<&[(usize, Task)]> = rest.chunks(processes).collect();
        assert_eq!(steps.len(), tasks.len() + 1);
        for (step, task) in steps[1..].iter().zip(tasks) {
            assert!(
                step.iter().all(|(_, own)| *own == task),
                "{task:?}: {step:?}"
            );
        }
    }
}

#[test]
fn who_does_not_belong_is_told_so_and_the_start_goes_on() {
    type Change = fn(&mut Membership);
    let changes: [(&str, Change); 6] = [
        (r#"wrong job "other" (ours is "orders")"#, |member| {
            member.job = "other".to_owned()
        }),
        (r#"another build "0.2.0" (ours is "0.1.0")"#, |member| {
            member.build = "0.2.0".to_owned()
        }),
        ("other settings", |member| member.settings = [8; 32]),
        ("wrong secret", |member| member.secret = b"guess".to_vec()),
        (
            "wrong counts: 2 processes of 4 threads (ours are 2 of 1)",
            |member| member.threads = 4,
        ),
        (
            "wrong counts: 3 processes of 1 threads (ours are 2 of 1)",
            |member| {
                member.processes = 3;
                member.addresses.push("127.0.0.1:1".to_owned());
            },
        ),
    ];
    let mut members = members(2);
    let (second, first) = (members.pop().unwrap(), members.pop().unwrap());
    let name = first.0.name(0);
    let first = Joining::start(first);
    for (reason, change) in changes {
        let (mut member, listener) = (second.0.clone(), listener());
        change(&mut member);
        let error = Joining::start((member, listener)).outcome().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{name} refused this process: {reason}")
        );
        assert_eq!(error.exit_code(), ExitCode::Usage);
        let log = first.log.text().replace('\\', "");
        let told = log.lines().filter(|line| {
            line.contains("WARN")
                && line.contains("refused a connection peer=127.0.0.1:")
                && line.contains(reason)
        });
        assert_eq!(told.count(), 1, "{reason:?} once in:\n{log}");
    }
    assert_mesh(vec![first, Joining::start(second)]);
}

#[test]
fn strangers_do_not_hinder_a_start() {
    let mut members = members(2);
    let (second, first) = (members.pop().unwrap(), members.pop().unwrap());
    let address = first.1.local_addr().unwrap();
    let first = Joining::start(first);
    let say = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let silent: Vec<TcpStream> = (0..200).map(|_| say(b"")).collect();
    let half = say(b"dltajoin\x02\x01\x02\x58half a hello");
    drop(say(b""));
    drop(say(&[0xff; 4096]));
    let mut browser = say(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut huge = say(b"dltajoin\x02\x01\xff\xff");
    let mut old = say(b"dltajoin\x00\x01\x00\x00");
    let since = Instant::now();
    browser.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(
        matches!(browser.read(&mut [0; 16]), Ok(0) | Err(_)),
        "it is told nothing"
    );
    for stream in [&mut huge, &mut old] {
        let mut answer = Vec::new();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"dltajoin\x02\x04"), "{answer:?}");
    }
    let log = first.log.clone();
    assert_mesh(vec![first, Joining::start(second)]);
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "nobody waited for a stranger's deadline"
    );
    let text = log.text();
    for reason in [
        "not deltajoin",
        "closed the connection without a word",
        "a malformed message",
    ] {
        assert!(text.contains(reason), "{reason:?} in:\n{text}");
    }
    drop((silent, half));
}

#[test]
fn more_strangers_than_there_is_room_for_give_way() {
    let mut members = members(2);
    let (second, first) = (members.pop().unwrap(), members.pop().unwrap());
    let address = first.1.local_addr().unwrap();
    let first = Joining::start(first);
    let mut crowd: VecDeque<TcpStream> = VecDeque::new();
    for _ in 0..GREETED_MAX + 50 {
        crowd.push_back(TcpStream::connect(address).unwrap());
    }
    first.log.await_text("too many connections at once");
    assert_mesh(vec![first, Joining::start(second)]);
}

#[test]
fn a_start_ends_when_process_0_dies() {
    let mut members = members(3);
    let (_absent, second, first) = (
        members.pop(),
        members.pop().unwrap(),
        members.pop().unwrap(),
    );
    let name = first.0.name(0);
    let (first, second) = (Joining::start(first), Joining::start(second));
    first.log.await_text("connected peer=");
    second.log.await_text("connected peer=");
    first.stop.ask();
    assert!(matches!(first.outcome(), Err(Error::Stopped)));
    let error = second.outcome().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("lost {name} during the start: connection closed")
    );
    assert_eq!(error.exit_code(), ExitCode::PeerLost);
}

#[test]
fn processes_that_are_stopped_during_the_start_one_after_the_other_are_stopped_all() {
    let mut members = members(3);
    let (_absent, second, first) = (
        members.pop(),
        members.pop().unwrap(),
        members.pop().unwrap(),
    );
    let (first, second) = (Joining::start(first), Joining::start(second));
    first.log.await_text("connected peer=");
    second.log.await_text("connected peer=");
    first.stop.ask();
    assert!(matches!(first.outcome(), Err(Error::Stopped)));
    thread::sleep(STOP_TOGETHER / 6);
    second.stop.ask();
    assert!(matches!(second.outcome(), Err(Error::Stopped)));
}

#[test]
fn a_peer_that_restarts_during_the_start_comes_in_again() {
    let mut members = members(4);
    let absent = members.pop().unwrap();
    let third = members.pop().unwrap();
    let (second, first) = (members.pop().unwrap(), members.pop().unwrap());
    let (again, address) = (second.0.clone(), second.1.local_addr().unwrap());
    let (first, third) = (Joining::start(first), Joining::start(third));
    let second = Joining::start(second);
    // Process 2 connects to process 1, process 1 to process 0: both directions are replaced.
    third
        .log
        .await_text(&format!("connected peer=\"process 1 ({address})\""));
    first
        .log
        .await_text(&format!("connected peer=\"process 1 ({address})\""));
    second.stop.ask();
    assert!(matches!(second.outcome(), Err(Error::Stopped)));
    let second = Joining::start((again, TcpListener::bind(address).unwrap()));
    assert_mesh(vec![first, second, third, Joining::start(absent)]);
}

#[test]
fn a_second_process_of_an_index_is_refused_while_the_first_lives() {
    let mut members = members(3);
    let (_absent, second, first) = (
        members.pop(),
        members.pop().unwrap(),
        members.pop().unwrap(),
    );
    let twin = (second.0.clone(), listener());
    let (first, second) = (Joining::start(first), Joining::start(second));
    first.log.await_text("connected peer=");
    let twin = Joining::start(twin);
    first.log.await_text("index taken: process 1 is connected");
    twin.log.await_text("index taken");
    for one in [first, second, twin] {
        one.stop.ask();
        assert!(matches!(
            one.outcome(),
            Err(Error::Stopped | Error::PeerLost { .. })
        ));
    }
}

#[test]
fn a_peer_that_falls_silent_during_the_start_ends_it() {
    let mut members = members(3);
    let (_absent, second, mut first) = (
        members.pop(),
        members.pop().unwrap().0,
        members.pop().unwrap(),
    );
    first.0.peer_timeout = Duration::from_millis(300);
    let mut frozen = TcpStream::connect(first.1.local_addr().unwrap()).unwrap();
    let first = Joining::start(first);
    introduce(&mut frozen, &second, 0, NO_GENERATION).unwrap();
    let error = first.outcome().unwrap_err();
    let name = second.name(1);
    assert_eq!(
        error.to_string(),
        format!("lost {name} during the start: silent for 300ms")
    );
    assert_eq!(error.exit_code(), ExitCode::PeerLost);
}

#[test]
fn a_step_that_takes_longer_than_the_time_out_is_not_taken_for_silence() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let joining = members(3).into_iter().map(|(member, listener)| {
        let index = member.index;
        let peer_timeout = TIMEOUT;
        let member = Membership {
            peer_timeout,
            ..member
        };
        // Process 0 waits for another one in the one step, and the others for it in the next.
        Joining::with_tasks((member, listener), move |task| {
            let slow = match task {
                Task::Fence { .. } | Task::TakeOver => index == 0,
                Task::Load { attempt } => (attempt == 0) == (index == 2),
                Task::Choose => true,
            };
            if slow {
                thread::sleep(3 * TIMEOUT);
            }
            match task {
                Task::Load { attempt: 0 } if index == 1 => Verdict::Faulty,
                _ => Verdict::Good,
            }
        })
    });
    let joining: Vec<Joining> = joining.collect();
    for one in joining {
        one.outcome().expect("nobody is lost");
    }
}

#[test]
fn a_process_of_another_generation_is_not_let_in() {
    let mut members = members(3);
    let (third, second, first) = (
        members.pop().unwrap().0,
        members.pop().unwrap(),
        members.pop().unwrap(),
    );
    let address = second.1.local_addr().unwrap();
    let (first, second) = (Joining::start(first), Joining::start(second));
    second.log.await_text("connected peer=");
    let mut stream = TcpStream::connect(address).unwrap();
    let refusal = introduce(&mut stream, &third, 1, 12_345).unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.to_string().as_str()),
        (Reason::Generation, "another generation")
    );
    assert!(!refusal.reason.is_final());
    for one in [first, second] {
        one.stop.ask();
        assert!(one.outcome().is_err());
    }
}

#[test]
fn an_address_in_use_is_named() {
    let (member, listener) = members(2).remove(0);
    let error = connect(&member, None, &mut |_| Verdict::Good, &Stop::default()).unwrap_err();
    let address = listener.local_addr().unwrap();
    assert_eq!(
        error.to_string(),
        format!("could not listen on \"{address}\" for process 0")
    );
    assert!(error.hint().unwrap().contains("in use"));
    assert_eq!(error.exit_code(), ExitCode::Failed);
}

#[test]
fn a_process_that_is_complete_and_loses_a_peer_ends() {
    let mut members = members(3);
    let (third, second, first) = (
        members.pop().unwrap(),
        members.pop().unwrap(),
        members.pop().unwrap(),
    );
    // Process 0 and 2 are played: 0 never says go, so process 1 stays complete.
    let mut name = third.0.name(2);
    let second_address = second.1.local_addr().unwrap();
    let (zero, zero_member) = (first.1, first.0);
    let second = Joining::start(second);
    let (stream, address) = zero.accept().unwrap();
    let mut acceptance = Acceptance::new(stream, address).unwrap();
    await_that("process 1 to prove itself", || {
        matches!(acceptance.step(&zero_member, 9), Step::Proven(_))
    });
    let mut zero = acceptance.accept(&zero_member, 9).unwrap();
    let mut played = None;
    await_that("process 1 to take in process 2", || {
        let mut stream = TcpStream::connect(second_address).unwrap();
        let taken = introduce(&mut stream, &third.0, 1, 9).is_ok();
        played = Some(stream);
        taken
    });
    await_that("process 1 to be complete", || {
        let mut byte = [0];
        matches!(zero.read(&mut byte), Ok(1)) && byte == *b"c"
    });
    drop(played);
    let error = second.outcome().unwrap_err();
    name.insert_str(0, "lost ");
    assert_eq!(
        error.to_string(),
        format!("{name} during the start: connection closed")
    );
}
