//! What an earlier run has left in `.mirror/tmp`. Each process tidies what it makes itself.

use crate::{
    content::hash_open,
    hash::ContentHash,
    index::{Index, IndexError, Trashed},
    path::MediaPath,
    resolve::blocking,
    root::{Look, Root, UPLOAD},
    time::Timestamp,
};
use std::{collections::HashSet, io, sync::Arc};

/// `.mirror/tmp` could not be tidied; the next start tries again.
#[derive(Debug, thiserror::Error)]
pub enum LeftError {
    /// The disk.
    #[error("cannot write below the root")]
    Disk(#[from] io::Error),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// The names in `.mirror/tmp`, of those that are `ours`, that an earlier run has left for [`tidy_temp`]. To be asked for before anything is placed: what is made later is
/// not among them. What an intent names, or a blob that is half fetched, is left alone.
pub async fn left_behind(
    root: &Arc<Root>,
    index: &Index,
    ours: impl Fn(&str) -> bool,
) -> Result<Vec<String>, LeftError> {
    let of = Arc::clone(root);
    let mut names = blocking(move || of.temp_names()).await?;
    let intents = index.intents()?.into_iter().map(|(_, intent)| intent.temp);
    let used: HashSet<String> = intents.chain(index.fetches()?.into_iter().map(|f| f.temp)).collect();
    names.retain(|name| ours(name) && !used.contains(name));
    Ok(names)
}

/// Tidies what an earlier run has left in `.mirror/tmp`, beside the work, since it may have to read it: unfinished files are deleted; what came out of the tree and did not
/// reach the trash is moved there; a complete file that no intent names and that is what its name says is deleted, and one that is not is somebody's work: a lost conflict.
pub async fn tidy_temp(root: &Arc<Root>, index: &Index, left: &[String]) -> Result<(), LeftError> {
    for name in left {
        let of = Arc::clone(root);
        if let Some(known) = index.trashed(name)? {
            blocking(move || of.trash_temp(&known.id, &known.id, &known.path)).await?;
            continue;
        }
        let name = name.clone();
        if let Some(lost) = blocking(move || inspect(&of, &name)).await? {
            tracing::warn!(trash = %lost.id, "a file of unknown origin in .mirror/tmp was moved to the trash");
            let entry = lost.clone();
            index.write(move |tx| tx.add_trash(&entry)).await?;
            let of = Arc::clone(root);
            blocking(move || of.trash_temp(&lost.id, &lost.id, &lost.path)).await?;
        }
    }
    Ok(())
}

/// Deletes what is ours; returns what is not.
fn inspect(root: &Root, name: &str) -> io::Result<Option<Trashed>> {
    let Look::File(stat) = root.look_temp(name)? else { return Ok(None) };
    let named = name
        .strip_prefix(UPLOAD)
        .unwrap_or(name)
        .split('.')
        .next()
        .and_then(|hash| hash.parse::<ContentHash>().ok());
    if name.ends_with(".part") || Some(hash_open(&mut root.open_temp(name)?)?.0) == named {
        root.remove_temp(name)?;
        return Ok(None);
    }
    let path = MediaPath::new(name.as_bytes()).map_err(io::Error::other)?;
    Ok(Some(Trashed {
        id: name.into(),
        path,
        sha256: None,
        lost: true,
        stat: stat.stat,
        moved: Timestamp::now(),
        checked: true,
    }))
}
