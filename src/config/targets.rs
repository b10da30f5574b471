//! Who writes where: nothing is written by two, and nothing is written that is read.
//!
//! It is apart from `check` because it looks beyond the settings: at what paths lead to. A sink
//! empties its file at the start, so an input that it reaches by a link would be lost.
//!
//! # Invariants
//! * Every file that the job reads or writes is listed here, and so is every topic.
//! * Files are compared, not paths.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::address::brokers;
use crate::config::fault::Faults;
use crate::config::identity::{FileIdentity, plain};
use crate::config::model::{StatusFile, bindings_file, progress_files};
use crate::config::section::Sections;
use crate::config::tree::Origin;
use crate::config::walk::Section;

/// Checks what is read and written; `configuration` is the file itself.
pub(super) fn check(sections: &Sections, configuration: &Path, faults: &mut Faults) {
    let uses = uses(sections, configuration);
    for (index, writer) in uses.iter().enumerate() {
        if writer.read_as.is_some() {
            continue;
        }
        // What is read comes first, so each pair is found once.
        let clash = |other| Some((other, writer.clash(other)?));
        if let Some((other, places)) = uses[..index].iter().find_map(clash) {
            tell(writer, other, places, faults);
        }
    }
}

fn tell(writer: &Use, other: &Use, (place, same): (&Place, &Place), faults: &mut Faults) {
    let what = place.describe();
    let message = match &other.read_as {
        Some(read_as) => format!("{} writes {what}, {read_as}", writer.who),
        None => format!("{} and {} both write {what}", writer.who, other.who),
    };
    // A path that was derived has no place.
    let origin = match writer.origin {
        Origin::Default => other.origin,
        written => written,
    };
    let fault = faults.add(origin, message);
    if let (Place::File(path, _), Place::File(other, _)) = (place, same)
        && plain(path) != plain(other)
    {
        fault.detail(format!("It is the file \"{}\" too.", other.display()));
    }
    fault.hint("Give each its own.");
}

/// Files or topics that one setting makes the job read or write.
struct Use<'a> {
    places: Vec<Place>,
    /// Where it was written.
    origin: &'a Origin,
    /// Who uses it.
    who: String,
    /// That and how it is read, as the end of a sentence; `None` if it is written.
    read_as: Option<String>,
}

impl Use<'_> {
    /// A place of this use and the same one of another.
    fn clash<'a>(&'a self, other: &'a Self) -> Option<(&'a Place, &'a Place)> {
        self.places.iter().find_map(|place| {
            let same = other.places.iter().find(|other| other.is_same(place))?;
            Some((place, same))
        })
    }
}

/// All uses: first what is read.
fn uses<'a>(sections: &'a Sections, configuration: &Path) -> Vec<Use<'a>> {
    let mut uses = vec![Use {
        places: vec![Place::file(configuration)],
        origin: &Origin::Default,
        who: "the configuration".to_owned(),
        read_as: Some("which holds the configuration".to_owned()),
    }];
    for name in ["events", "reference", "sinks", "dead_letters"] {
        for section in sections.all(name) {
            let header = section.table.header();
            let reads = ["events", "reference"].contains(&name);
            let places = Place::of(section, reads);
            uses.extend(places.map(|places| Use {
                places,
                origin: section.place(&["topic", "path"]),
                read_as: reads.then(|| format!("which {header} reads")),
                who: match section.text("name") {
                    Some(name) => format!("sink \"{name}\""),
                    None => header,
                },
            }));
        }
        if name == "reference" {
            uses.extend(secret(sections));
        }
    }
    uses.extend(bindings(sections));
    uses.extend(status_files(sections));
    uses
}

fn secret(sections: &Sections) -> Option<Use<'_>> {
    let cluster = sections.get("cluster")?;
    let path = cluster.optional_path("secret_file")??;
    Some(Use {
        places: vec![Place::file(&path)],
        origin: cluster.place(&["secret_file"]),
        who: "\"secret_file\" in [cluster]".to_owned(),
        read_as: Some("which is \"secret_file\" in [cluster]".to_owned()),
    })
}

fn bindings(sections: &Sections) -> Option<Use<'_>> {
    let events = sections.get("events")?;
    let checkpoint = sections.get("checkpoint")?;
    let folder = checkpoint.text("location")?.strip_prefix("file://")?;
    let job = sections.get("")?.text("job")?;
    (events.text("type") == Some("file")).then(|| Use {
        places: vec![Place::file(&bindings_file(Path::new(folder), job))],
        origin: checkpoint.place(&["location"]),
        who: "[checkpoint]".to_owned(),
        read_as: None,
    })
}

fn status_files(sections: &Sections) -> Option<Use<'_>> {
    let telemetry = sections.get("telemetry")?;
    let path = telemetry.optional_path("status_file")??;
    let cluster = sections.get("cluster");
    let processes = cluster.and_then(|cluster| cluster.whole("processes"));
    let places = (0..processes.unwrap_or(1)).flat_map(|process| {
        let StatusFile { path, beside } = StatusFile::of(&path, process);
        [path, beside].map(|path| Place::file(&path))
    });
    Some(Use {
        places: places.collect(),
        origin: telemetry.place(&["status_file"]),
        who: "\"status_file\" in [telemetry]".to_owned(),
        read_as: None,
    })
}

/// What is read or written.
enum Place {
    Topic {
        brokers: BTreeSet<String>,
        topic: String,
    },
    File(PathBuf, FileIdentity),
}

impl Place {
    fn file(path: &Path) -> Self {
        Self::File(path.to_owned(), FileIdentity::of(path))
    }

    /// What a section reads or writes; beside a file that is written stands its progress.
    fn of(section: &Section, reads: bool) -> Option<Vec<Self>> {
        if let Some(path) = section.path("path") {
            let mut places = vec![Self::file(&path)];
            if !reads {
                places.extend(progress_files(&path).map(|path| Self::file(&path)));
            }
            return Some(places);
        }
        Some(vec![Self::Topic {
            brokers: brokers(section.text("brokers")?)
                .map(str::to_owned)
                .collect(),
            topic: section.text("topic")?.to_owned(),
        }])
    }

    /// Clusters that share a broker are one.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Topic { brokers, topic },
                Self::Topic {
                    brokers: other_brokers,
                    topic: other_topic,
                },
            ) => topic == other_topic && !brokers.is_disjoint(other_brokers),
            (Self::File(_, file), Self::File(_, other)) => file == other,
            _ => false,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Topic { topic, .. } => format!("topic \"{topic}\""),
            Self::File(path, _) => format!("file \"{}\"", plain(path).display()),
        }
    }
}
