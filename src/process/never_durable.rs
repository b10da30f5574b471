//! What `durable` is in a build without Kafka: nothing outlives a restart.
//!
//! It is apart so that the main path reads the same in both builds.

use std::sync::Arc;

use deltajoin_workers::bindings::{BindingLog, Replay};
use deltajoin_workers::checkpoint::Checkpoints;
use deltajoin_workers::clock::ExpiryClock;
use deltajoin_workers::ports::{ReferenceBlock, Sink};
use deltajoin_workers::queue::Sender;

use crate::connectors::file::JsonLines;
use crate::failure::Failure;
use crate::process::inputs::Inputs;
use crate::process::{Process, Remembered};
use crate::telemetry::{Monitor, WallClock};

/// Whether the job goes on where it has ended.
pub(super) fn goes_on(_: &Process) -> bool {
    false
}

/// Why a start has failed: there are no newer generations.
pub(super) fn on_start(_: &Process, _: u64, failure: Failure) -> Failure {
    failure
}

/// There is none.
pub(super) struct Durable {
    pub(super) restored: u64,
    never: std::convert::Infallible,
}

/// Nor can there be one.
pub(super) enum Joining {}

impl Joining {
    pub(super) fn prepare(_: &Process) -> Result<Option<Self>, Failure> {
        Ok(None)
    }

    pub(super) fn begin(
        _: &Process,
        _: Option<Self>,
        _: &Inputs,
        _: &Arc<WallClock>,
    ) -> Result<Option<Self>, Failure> {
        Ok(None)
    }

    pub(super) fn generation(&self) -> Option<u64> {
        match *self {}
    }

    pub(super) fn fence(&mut self, _: u64) -> Result<(), Failure> {
        match *self {}
    }

    pub(super) fn load(&mut self) -> Result<bool, Failure> {
        match *self {}
    }

    pub(super) fn take_over(
        self,
        _: &mut Inputs,
        _: u64,
        _: &Arc<Monitor>,
    ) -> Result<Durable, Failure> {
        match self {}
    }
}

impl Durable {
    pub(super) fn clock(&self) -> ExpiryClock {
        match self.never {}
    }

    pub(super) fn state(&self, _: usize) -> (Remembered, Option<Box<dyn Checkpoints>>) {
        match self.never {}
    }

    pub(super) fn bindings(&self) -> (Replay, Option<Box<dyn BindingLog>>) {
        match self.never {}
    }

    pub(super) fn reference(
        &self,
        _: Sender<ReferenceBlock>,
    ) -> Result<Sender<ReferenceBlock>, Failure> {
        match self.never {}
    }

    pub(super) fn file(&self, _: &str, _: JsonLines, _: u64) -> Box<dyn Sink + Send> {
        match self.never {}
    }

    pub(super) fn end(self) {
        match self.never {}
    }
}
