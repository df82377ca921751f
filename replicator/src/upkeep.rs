//! What lies in `.mirror`: files left in `tmp` by a process that was killed while it tested the file system, and the trash.

use crate::node::Node;
use crate::plan::Removals;
use common::{
    blobs::BlobStore,
    index::{IndexError, Stat, Trashed},
    log::EventLog,
    resolve::blocking,
    root::{Look, Root},
    time::Timestamp,
};
use std::{io, sync::Arc};

/// A writer that still holds a file which was exchanged out has this long until it is looked at again.
const LOOK_AGAIN_SECONDS: f64 = 10.0;
/// No run, and there is one an hour, drops more than one in this many of the trash (but at least one): a clock that jumped must not empty it.
const SHARE: u64 = 10;

/// What the names of files begin with by which a starting process tests the file system.
pub const PROBE: &str = "probe.";
/// Such a test takes milliseconds; what is older was left by a process that was killed in it.
pub const PROBE_SECONDS: f64 = 10.0;

/// Deletes what a process left that was killed while it tested the file system.
fn drop_probes(root: &Root) -> io::Result<()> {
    for name in root.temp_names()?.into_iter().filter(|name| name.starts_with(PROBE)) {
        if let Look::File(stat) = root.look_temp(&name)?
            && Timestamp::now().seconds_since(Timestamp::from_nanos(i128::from(stat.stat.ctime)))
                > PROBE_SECONDS
        {
            root.remove_temp(&name)?;
        }
    }
    Ok(())
}

/// Looks after abandoned probes and the trash: what was written after it was exchanged out is a lost conflict; what is older than its days is dropped, after another look.
pub async fn run<L: EventLog, B: BlobStore>(node: &Node<L, B>, days: u64) -> Result<(), IndexError> {
    let (now, root) = (Timestamp::now(), Arc::clone(&node.root));
    if let Err(error) = blocking(move || drop_probes(&root)).await {
        tracing::debug!(%error, "abandoned probes stay");
    }
    let keep_for =
        if node.removals == Removals::Delete { LOOK_AGAIN_SECONDS } else { days as f64 * 86_400.0 };
    let before = |seconds: f64| Timestamp::from_nanos(now.nanos() - (seconds * 1e9) as i128);
    let mut drops = match node.may_drop(node.removals == Removals::Delete) {
        true => (node.index.trash_count()? / SHARE).max(1),
        false => 0,
    };
    for entry in node.index.trash_due(before(LOOK_AGAIN_SECONDS), before(keep_for))? {
        let age = now.seconds_since(entry.moved);
        let unchecked = !entry.checked && age >= LOOK_AGAIN_SECONDS;
        let drop = !entry.lost && age >= keep_for && drops > 0;
        if !unchecked && !drop {
            continue;
        }
        let Some((stat, written)) = look_again(node, &entry).await? else { continue };
        if drop && !written {
            drops -= 1;
            drop_entry(node, &entry).await?;
        } else {
            keep(node, entry, stat, written).await?;
        }
    }
    Ok(())
}

/// Until when a file must have been moved to the trash that is dropped for space: its writers had their time.
pub fn settled_before(now: Timestamp) -> Timestamp {
    Timestamp::from_nanos(now.nanos() - (LOOK_AGAIN_SECONDS * 1e9) as i128)
}

/// Drops a file of the trash before its days are over, after another look. False: it is not dropped.
pub async fn drop_early<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    entry: Trashed,
) -> Result<bool, IndexError> {
    match look_again(node, &entry).await? {
        None => Ok(false),
        Some((_, false)) => drop_entry(node, &entry).await,
        Some((stat, true)) => keep(node, entry, stat, true).await.map(|()| false),
    }
}

/// The stat of a trashed file now, and whether it was written since it was moved. `None`: there is nothing to look at.
async fn look_again<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    entry: &Trashed,
) -> Result<Option<(Stat, bool)>, IndexError> {
    let (root, at) = (Arc::clone(&node.root), entry.clone());
    let stat = match blocking(move || root.open_trashed(&at.id, &at.path).map(|(_, stat)| stat.stat)).await {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A move to the trash that failed, after its entry was made, is made up for.
            let (root, at) = (Arc::clone(&node.root), entry.clone());
            let moved = blocking(move || match root.look_temp(&at.id)? {
                Look::File(_) => root.trash_temp(&at.id, &at.id, &at.path).map(|()| true),
                _ => Ok::<_, io::Error>(false),
            });
            if !moved.await.unwrap_or(true) {
                let id = entry.id.clone();
                node.index.write(move |tx| tx.forget_trash(&id)).await?;
            }
            return Ok(None);
        }
        Err(_) => return Ok(None),
    };
    let written = (stat.mtime, stat.size) != (entry.stat.mtime, entry.stat.size);
    if written {
        tracing::warn!(path = %entry.path, trash = %entry.id, "written after it was replaced: kept as a lost conflict");
    }
    Ok(Some((stat, written)))
}

async fn drop_entry<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    entry: &Trashed,
) -> Result<bool, IndexError> {
    let (root, at) = (Arc::clone(&node.root), entry.clone());
    let dropped = blocking(move || root.drop_trashed(&at.id, &at.path)).await.is_ok();
    if dropped {
        let id = entry.id.clone();
        node.index.write(move |tx| tx.forget_trash(&id)).await?;
    }
    Ok(dropped)
}

async fn keep<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    entry: Trashed,
    stat: Stat,
    written: bool,
) -> Result<(), IndexError> {
    let kept = Trashed {
        lost: entry.lost || written,
        checked: true,
        sha256: entry.sha256.filter(|_| !written),
        stat,
        ..entry
    };
    node.index.write(move |tx| tx.add_trash(&kept)).await
}
