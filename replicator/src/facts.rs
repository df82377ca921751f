//! What is known of an event's path before anything is decided: of the index at one moment, then of the disk. Many events share one look into the index.

use common::{
    hash::ContentHash,
    index::{Index, IndexError, PathState, Reads, Stage},
    path::MediaPath,
    root::{Look, Root},
    rounds::Rounds,
};
use std::{io, sync::Arc};

/// Facts about one path, and the content that may be wanted there.
pub struct Facts {
    pub stage: Stage,
    pub state: PathState,
    pub look: io::Result<Look>,
    /// The content may stand elsewhere on this node, in the tree or in the trash.
    pub here: bool,
}

/// Where paths are looked at.
pub type Facing = Rounds<(MediaPath, ContentHash), Result<Facts, IndexError>>;

pub fn facing(root: &Arc<Root>, index: &Index) -> Facing {
    let (root, index) = (Arc::clone(root), index.clone());
    Rounds::start(move |asked: Vec<(MediaPath, ContentHash)>| {
        let found = index.at_once(|reads| {
            let stage = reads.stage()?;
            asked
                .iter()
                .map(|(path, content)| facts(&root, reads, stage, path, *content))
                .collect::<Result<Vec<_>, _>>()
        });
        match found {
            Ok(found) => found.into_iter().map(Ok).collect(),
            // A round that failed has failed for all of it.
            Err(error) => asked.iter().map(|_| Err(error.clone())).collect(),
        }
    })
}

fn facts(
    root: &Root,
    reads: &Reads<'_>,
    stage: Stage,
    path: &MediaPath,
    content: ContentHash,
) -> Result<Facts, IndexError> {
    let state = reads.path_state(path)?;
    let here = reads.has_content(content)?;
    Ok(Facts { stage, state, look: root.look(path), here })
}
