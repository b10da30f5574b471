//! What `topics` is in a build without Kafka: nothing, as no sink is a topic.
//!
//! It is apart so that the main path reads the same in both builds.
//!
//! # Invariants
//! * A job that has used Kafka is refused: what it has there cannot be looked at.

use std::sync::Arc;

use deltajoin_workers::ports::Stop;

use crate::bindings::Marker;
use crate::config::Bindings;
use crate::failure::Failure;
use crate::process::Process;
use crate::process::checkpoints::Published;
use crate::process::inputs::without_kafka;
use crate::process::ledger::NewestBound;
use crate::process::promises::Settings;
use crate::telemetry::{Monitor, WallClock};

/// There are none.
#[derive(Default)]
pub(super) struct Topics {}

impl Topics {
    pub(super) fn fence(_: &Process, settings: &Settings<'_>, _: u64) -> Result<Self, Failure> {
        refuse(settings).map(|()| Self {})
    }

    pub(super) fn read(&mut self, _: &Settings<'_>, _: &Stop) -> Result<u64, Failure> {
        Ok(0)
    }

    pub(super) fn record(
        &mut self,
        _: &Process,
        _: &Settings<'_>,
        _: u64,
        _: (NewestBound, &Arc<Monitor>),
    ) -> Result<(), Failure> {
        Ok(())
    }

    pub(super) fn end(self) {}
}

/// An earlier generation may still have a transaction open, which nothing here can end.
pub(super) fn fence_earlier<'a>(
    _: &Settings<'_>,
    mut earlier: impl Iterator<Item = &'a Marker>,
    _: &Stop,
) -> Result<(), Failure> {
    match earlier.any(|marker| !marker.producers.is_empty()) {
        true => Err(without_kafka("a sink of an earlier start")),
        false => Ok(()),
    }
}

pub(super) fn published(_: &Settings<'_>, _: &Arc<WallClock>, _: &Arc<Stop>) -> Published {
    Box::new(|_, _| {})
}

pub(super) fn written(settings: &Settings<'_>, _: &Stop) -> Result<u64, Failure> {
    refuse(settings).map(|()| 0)
}

pub(super) fn show_progress(
    _: &mut String,
    settings: &Settings<'_>,
    _: &Stop,
) -> Result<(), Failure> {
    refuse(settings)
}

pub(super) fn forget(settings: &Settings<'_>, _: &Stop) -> Result<(), Failure> {
    refuse(settings)
}

fn refuse(settings: &Settings<'_>) -> Result<(), Failure> {
    let is_file = matches!(settings.bindings, Bindings::File(_));
    match is_file && settings.progress.is_empty() {
        true => Ok(()),
        false => Err(without_kafka("a sink")),
    }
}
