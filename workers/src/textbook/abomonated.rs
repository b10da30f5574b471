//! The textbook engine's updates between processes by abomonation instead of bincode.
//!
//! Off by default, behind the feature `abomonation`: it is faster for rows without strings, and
//! unsound (RUSTSEC-2021-0120). `docs/decisions/0003-abomonation.md` says when one might want it.
//!
//! # Invariants
//! * Both ends are the same build: the handshake of the cluster has checked that. The bytes are
//!   the memory layout of that build.
//! * What is read is copied once into aligned memory, since timely's messages are immutable and
//!   reading patches pointers in place.
#![allow(unsafe_code)]

use std::io::Write;

use abomonation::Abomonation;
use arrow_buffer::MutableBuffer;
use differential_dataflow::Hashable;
use timely::bytes::arc::Bytes;
use timely::container::{Accountable, CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::dataflow::operators::generic::Operator;
use timely::progress::Stamp;

use crate::textbook::{Event, Key};

type Update = ((Key, Event), u64, isize);

/// Updates that are abomonated on their way to another process.
#[derive(Clone, Default)]
struct Abomonated(Vec<Update>);

impl Accountable for Abomonated {
    fn record_count(&self) -> i64 {
        i64::try_from(self.0.len()).expect("a container is small")
    }
}

impl ContainerBytes for Abomonated {
    fn length_in_bytes(&self) -> usize {
        8 + abomonation::measure(&self.0).next_multiple_of(8)
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let length = abomonation::measure(&self.0);
        writer
            .write_all(&(length as u64).to_le_bytes())
            .expect("timely reserved the length");
        // SAFETY: none that would satisfy the language: abomonation writes padding bytes and
        // pointers of this process. That is the advisory, and why this is a feature.
        unsafe { abomonation::encode(&self.0, writer) }.expect("timely reserved the length");
        let padding = length.next_multiple_of(8) - length;
        writer
            .write_all(&[0; 8][..padding])
            .expect("timely reserved the length");
    }

    fn from_bytes(bytes: Bytes) -> Self {
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let mut aligned = MutableBuffer::new(length);
        aligned.extend_from_slice(&bytes[8..8 + length]);
        // SAFETY: the bytes were written by `into_bytes` of the same build at the other end of an
        // authenticated connection, and the copy is aligned for every type.
        let decoded = unsafe { abomonation::decode::<Vec<Update>>(&mut aligned) };
        Self(decoded.expect("an update on the wire is whole").0.clone())
    }
}

/// Sends each update to the worker to which Differential would send it, so that its own exchange
/// finds everything in place.
pub(crate) fn exchange<'scope>(
    updates: StreamVec<'scope, u64, Update>,
) -> StreamVec<'scope, u64, Update> {
    let route = DistributorPact(|peers| ByHash {
        targets: vec![Abomonated::default(); peers],
    });
    updates
        .unary::<NoopBuilder<Abomonated>, _, _, _>(Pipeline, "Wrap", |_, _| {
            |input, output| {
                input.for_each(|capability, updates| {
                    let mut wrapped = Abomonated(std::mem::take(updates));
                    output
                        .session_with_builder(&capability)
                        .give_container(&mut wrapped);
                });
            }
        })
        .unary::<CapacityContainerBuilder<Vec<Update>>, _, _, _>(route, "Unwrap", |_, _| {
            |input, output| {
                input.for_each(|capability, updates| {
                    output.session(&capability).give_container(&mut updates.0);
                });
            }
        })
}

struct ByHash {
    targets: Vec<Abomonated>,
}

impl Distributor<Abomonated> for ByHash {
    fn partition<T: Clone, P: timely::communication::Push<Message<T, Abomonated>>>(
        &mut self,
        container: &mut Abomonated,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let peers = pushers.len() as u64;
        for update in std::mem::take(&mut container.0) {
            let worker = (update.0.0.hashed() % peers) as usize;
            self.targets[worker].0.push(update);
        }
        for (target, pusher) in self.targets.iter_mut().zip(pushers) {
            if !target.0.is_empty() {
                Message::push_at(&mut std::mem::take(target), stamp.clone(), pusher);
            }
        }
    }

    fn flush<T: Clone, P: timely::communication::Push<Message<T, Abomonated>>>(
        &mut self,
        _: &Stamp<T>,
        _: &mut [P],
    ) {
    }
}

/// Proves that what is exchanged can be abomonated.
const _: fn() = || {
    fn check<T: Abomonation>() {}
    check::<Vec<Update>>();
};
