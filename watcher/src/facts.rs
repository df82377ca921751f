//! What is known of a path before anything is decided: of the index at one moment, then of the disk. Many paths share one look into the index.

use common::{
    event::Version,
    hash::ContentHash,
    index::{Index, IndexError, PathState, Row, Stage, Stat},
    path::MediaPath,
    root::{Look, Root},
    rounds::Rounds,
};
use std::{io, sync::Arc};

/// Facts about one path.
pub struct Facts {
    pub stage: Stage,
    pub state: PathState,
    /// Its event that is parked for a permanent reason.
    pub parked: Option<Version>,
    pub look: io::Result<Look>,
    /// Content that a file with the very stat of this one, under another path, was known to have: it was renamed, and need not be read.
    pub moved: Option<ContentHash>,
}

/// Whether a file is still what it was, and where the node stands.
pub struct Still {
    pub stage: Stage,
    pub unchanged: bool,
}

/// Where paths are looked at.
pub struct Facing {
    facts: Rounds<MediaPath, Result<Facts, IndexError>>,
    stills: Rounds<(MediaPath, Option<Stat>), Result<Still, IndexError>>,
}

impl Facing {
    pub fn start(root: &Arc<Root>, index: &Index) -> Self {
        let at = (Arc::clone(root), index.clone());
        let facts = Rounds::start(move |paths: Vec<MediaPath>| {
            let (root, index) = &at;
            let found = index.at_once(|reads| {
                let stage = reads.stage()?;
                paths.iter().map(|path| facts(root, reads, stage, path)).collect::<Result<Vec<_>, _>>()
            });
            each(found, paths.len())
        });
        let at = (Arc::clone(root), index.clone());
        let stills = Rounds::start(move |files: Vec<(MediaPath, Option<Stat>)>| {
            let (root, index) = &at;
            let looks = files.iter().map(|(path, stat)| still(root, path, *stat));
            let found = index
                .stage()
                .map(|stage| looks.map(|unchanged| Still { stage, unchanged }).collect::<Vec<_>>());
            each(found, files.len())
        });
        Self { facts, stills }
    }

    /// The path as it is now.
    pub async fn of(&self, path: &MediaPath) -> Result<Facts, IndexError> {
        self.facts.ask(path.clone()).await
    }

    /// See [`still`].
    pub async fn still(&self, path: &MediaPath, stat: Option<Stat>) -> Result<Still, IndexError> {
        self.stills.ask((path.clone(), stat)).await
    }
}

fn facts(
    root: &Root,
    reads: &common::index::Reads<'_>,
    stage: Stage,
    path: &MediaPath,
) -> Result<Facts, IndexError> {
    let state = reads.path_state(path)?;
    let parked = reads.parked_for_good(path)?;
    let look = root.look(path);
    let stat = match look {
        Ok(Look::File(stat)) => Some(stat.stat),
        _ => None,
    };
    let tells = |row: &Row| row.stat == stat && !row.racy;
    let moved = match stat {
        Some(stat) if !state.row.as_ref().is_some_and(tells) => reads
            .paths_of_inode(stat.ino)?
            .into_iter()
            .find_map(|(_, row)| row.content().filter(|_| tells(&row))),
        _ => None,
    };
    Ok(Facts { stage, state, parked, look, moved })
}

/// Whether the file still has this stat; for a removal the proof is elsewhere.
pub fn still(root: &Root, path: &MediaPath, stat: Option<Stat>) -> bool {
    match stat {
        None => true,
        Some(stat) => matches!(root.look(path), Ok(Look::File(now)) if now.stat == stat),
    }
}

/// A round that failed has failed for all of it.
fn each<T>(found: Result<Vec<T>, IndexError>, count: usize) -> Vec<Result<T, IndexError>> {
    match found {
        Ok(found) => found.into_iter().map(Ok).collect(),
        Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
    }
}
