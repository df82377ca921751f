//! The replicator's glue around its decisions: bringing a path's last event to the disk once more (`replicator/src/repair.rs`).

use crate::{
    apply::{Failed, TRIES, apply, fetch, on_disk, place, settled},
    process::Process,
};
use ::replicator::repair::{Decision, decide};
use common::{event::Event, log::Logged, trust::Session};

/// `repair`.
pub async fn repair(p: &Process, session: &Session, logged: &Logged, event: &Event) -> Result<(), Failed> {
    for _ in 0..TRIES {
        p.check(session)?;
        let Some(seen) = settled(p, &event.path).await? else { continue };
        let row = seen.row.as_ref().filter(|row| row.generation == session.generation);
        let Some(row) = row.filter(|row| row.version >= logged.version) else {
            return apply(p, session, logged, event).await;
        };
        let Some(attributes) = event.added.filter(|_| row.version == logged.version) else { return Ok(()) };
        if seen.offer.is_some() {
            return Err(Failed::Changing);
        }
        let disk = on_disk(p, &event.path, None);
        let decision = decide(row, disk);
        p.note(format!("repairs {}: {decision:?}", event.path));
        p.pause("planned").await;
        match decision {
            Decision::Whole => return Ok(()),
            Decision::AskWatcher => {
                let path = event.path.clone();
                p.index.write(move |tx| tx.ask_watcher(&path)).await?;
                return Ok(());
            }
            Decision::SetAside | Decision::Fetch => {}
        }
        let temp = fetch(p, event, attributes).await?;
        if place(p, session, logged, event, &seen, disk, false, Some(temp)).await? {
            return Ok(());
        }
    }
    Err(Failed::Changing)
}
