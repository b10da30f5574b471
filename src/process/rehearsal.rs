//! What a start would find of earlier ones, looked at beforehand: checkpoints, bindings, and the
//! settings that must last.
//!
//! It is apart from `joining`, which takes the job over: here nothing is claimed, and what is put
//! to see whether it can be is deleted again.
//!
//! # Invariants
//! * The log is read from where a start reads it, so what would keep that from going on is told.

use std::sync::Arc;
use std::time::Duration;

use deltajoin_workers::ports::Stop;

use crate::bindings::{self, History, Reader, Records};
use crate::checkpoint::{self, Manifest, Store, newest, probe, probe_above};
use crate::config::{Config, DEAD_LETTERS, EventSource, Target};
#[cfg(feature = "kafka")]
use crate::config::{OnMissing, Start};
use crate::connectors::file;
#[cfg(feature = "kafka")]
use crate::connectors::kafka::{Connection, Scan};
use crate::failure::Failure;
use crate::process::check::Finding;
use crate::process::cold::unusable;
#[cfg(not(feature = "kafka"))]
use crate::process::inputs::without_kafka;
use crate::process::joining::FIRST_EPOCH;
use crate::process::log;
use crate::process::plan;
use crate::process::promises::{Settings, outlives};
use crate::process::recorded::Recorded;
use crate::process::recovery::{self, Ranges};
use crate::process::state;

/// How long a store is tried: somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at all of it. Nothing if the job keeps nothing.
pub(super) fn rehearse(config: &Config, stop: &Arc<Stop>) -> Vec<Finding> {
    if !outlives(config) {
        return Vec::new();
    }
    let options = checkpoint::Options {
        patience: PATIENCE,
        ..checkpoint::Options::default()
    };
    let kept = look_at_checkpoints(config, options.clone(), stop);
    let dir = &config.state.dir;
    let local = probe_above(dir, options, Arc::clone(stop));
    let mut found = vec![
        kept.as_ref()
            .map(|kept| kept.told(&config.checkpoint.location))
            .map_err(Failure::clone),
        local
            .map(|()| format!("state.dir: {} can be used", dir.display()))
            .map_err(|error| unusable(dir, &error)),
    ];
    // The log is judged by all of these. Why there are no events or sinks is told of them.
    let beside = (events_id(config, stop), recorded(config, stop));
    if let (Ok(kept), (Ok(events_id), Ok(recorded))) = (&kept, beside) {
        let mut settings = Settings::of(config);
        settings.events_id = events_id;
        settings.found = recorded;
        found.push(look_at_log(&settings, kept, stop));
    }
    found
}

/// What tells the events from others of the same name.
fn events_id(config: &Config, stop: &Stop) -> Result<Option<String>, Failure> {
    Ok(match &config.events.source {
        EventSource::File { path } => file::Events::open(path)?.first_line()?,
        #[cfg(feature = "kafka")]
        EventSource::Kafka { topic, .. } => {
            let mut connection = Connection::open(topic)?;
            // The id of a topic that is not there would be waited for.
            connection.partitions(stop)?;
            connection.id(stop)?
        }
        #[cfg(not(feature = "kafka"))]
        EventSource::Kafka { .. } => {
            let _ = stop;
            None
        }
    })
}

/// Where checkpoints are, and the newest of them.
struct Checkpoints {
    store: Option<Store>,
    newest: Option<Manifest>,
}

impl Checkpoints {
    fn told(&self, location: &str) -> String {
        let newest = match &self.newest {
            Some(manifest) => format!("the newest is of epoch {}", manifest.epoch),
            None => "none yet".to_owned(),
        };
        format!("checkpoints: {location} can be used, {newest}")
    }
}

fn look_at_checkpoints(
    config: &Config,
    options: checkpoint::Options,
    stop: &Arc<Stop>,
) -> Result<Checkpoints, Failure> {
    let location = &config.checkpoint.location;
    let store = probe(location, &config.job, options, Arc::clone(stop))?;
    let newest = store.as_ref().map(newest).transpose()?;
    let newest = newest.and_then(|newest| newest.manifest);
    Ok(Checkpoints { store, newest })
}

/// What the topics of sinks are like.
fn recorded(config: &Config, stop: &Stop) -> Result<Recorded, Failure> {
    let sinks = config.sinks.iter().map(|sink| (&*sink.name, &sink.target));
    let all = sinks.chain([(DEAD_LETTERS, &config.dead_letters)]);
    let topics = all.filter_map(|one| match one {
        (_, Target::JsonLines { .. }) => None,
        #[cfg(feature = "kafka")]
        (name, Target::Kafka { topic, .. }) => {
            let limits = Connection::open(topic).and_then(|mut connection| connection.limits(stop));
            Some(limits.map(|limits| (name, &*topic.topic, limits)))
        }
        #[cfg(not(feature = "kafka"))]
        (_, Target::Kafka { .. }) => {
            let _ = stop;
            Some(Err(without_kafka("a sink")))
        }
    });
    let topics: Vec<_> = topics.collect::<Result<_, _>>()?;
    Ok(Recorded::new(topics.into_iter()))
}

/// What is bound, as the log tells it behind a checkpoint, if there is one.
pub(super) struct Bound {
    /// The newest epoch, that of the checkpoint included; 0 if nothing is bound.
    pub(super) newest: u64,
    /// How many bindings are behind the checkpoint.
    pub(super) behind: u64,
    /// By partition where it is read from, and how far it is bound.
    pub(super) ranges: Ranges,
    history: History,
}

/// Looks at the log, at the settings in its markers, and at the records that are bound.
fn look_at_log(settings: &Settings<'_>, kept: &Checkpoints, stop: &Stop) -> Finding {
    let (store, manifest) = (kept.store.as_ref(), kept.newest.as_ref());
    let name = log::name(&settings.bindings);
    let found = read_log(settings, (store, manifest), stop)?;
    if found.as_ref().is_none_or(|found| found.newest == 0) {
        state::refuse_rows(settings, stop)?;
    }
    let Some(found) = found else {
        return Ok(format!("bindings: the job makes {name}, and begins"));
    };
    let made = manifest.map_or(FIRST_EPOCH, |manifest| manifest.epoch);
    let checked = settings.lasting().check(&found.history, made, &name);
    checked.map_err(|error| settings.refused(error))?;
    look_at_events(&settings.config.events.source, found.ranges, stop)?;
    Ok(match found.newest {
        0 => format!("bindings: {name}, and nothing in it"),
        newest => format!("bindings: {name}, up to epoch {newest}"),
    })
}

/// Reads the log from where a start reads it; none if there is none.
pub(super) fn read_log(
    settings: &Settings<'_>,
    (store, manifest): (Option<&Store>, Option<&Manifest>),
    stop: &Stop,
) -> Result<Option<Bound>, Failure> {
    let Some(mut log) = log::look(&settings.bindings, stop)? else {
        if let Some(manifest) = manifest {
            let offset = manifest.generation;
            let log = log::name(&settings.bindings);
            return Err(bindings::Error::OtherLog { log, offset }.into());
        }
        return Ok(None);
    };
    let first = log.first(stop)?;
    let place = store.map(|store| recovery::place(store, first));
    let place = place.transpose()?.flatten();
    if let Some(place) = &place {
        place.check(&log.name(), |offset, visit| log.read(offset, stop, visit))?;
    }
    let next = place.as_ref().map_or(0, |place| place.next);
    let mut reader = Reader::new(plan::reference_schema(settings.config), place);
    // Where each partition is read from, and how far it is bound.
    let offsets = manifest.map(|manifest| manifest.offsets.clone());
    let mut ranges: Ranges = offsets
        .into_iter()
        .flatten()
        .map(|(partition, end)| (partition, (end, end)))
        .collect();
    let mut newest = manifest.map_or(0, |manifest| manifest.epoch);
    let mut behind = 0;
    let mut begun = manifest.is_some();
    log.read(next, stop, &mut |offset, bytes| {
        reader.take(offset, bytes)?;
        for binding in reader.take_bindings() {
            if binding.epoch <= newest {
                continue;
            }
            newest = binding.epoch;
            behind += 1;
            if begun {
                recovery::extend(&mut ranges, &binding);
            } else {
                // The first binding of a job says where reading starts.
                let ends = binding.ends.into_iter();
                ranges = ends
                    .map(|(partition, end)| (partition, (end, end)))
                    .collect();
                begun = true;
            }
        }
        Ok(true)
    })?;
    Ok(Some(Bound {
        newest,
        behind,
        ranges,
        history: reader.finish(),
    }))
}

/// Looks whether the events that are bound are still there, and those that are read next.
fn look_at_events(source: &EventSource, ranges: Ranges, stop: &Stop) -> Result<(), Failure> {
    match source {
        EventSource::File { path } => {
            if let Some((_, bound)) = ranges.into_values().next() {
                file::Events::open(path)?.resume(bound, &[], stop)?;
            }
        }
        #[cfg(feature = "kafka")]
        EventSource::Kafka {
            topic, on_missing, ..
        } => {
            let whole = Scan::connect(topic, Start::Earliest, stop)?;
            let bound = ranges.iter();
            whole.only(bound.map(|(partition, (start, end))| (*partition, *start..*end)))?;
            if *on_missing == OnMissing::Fail {
                let next = ranges.into_iter();
                whole.begins_before(next.map(|(partition, (_, end))| (partition, end)))?;
            }
        }
        #[cfg(not(feature = "kafka"))]
        EventSource::Kafka { .. } => {}
    }
    Ok(())
}
