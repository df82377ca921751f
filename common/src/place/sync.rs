//! Making names durable: all files that were renamed into a folder at about the same time share one sync of it.

use crate::{resolve::blocking, root::Root};
use std::{collections::HashMap, io, path::PathBuf, sync::Arc};
use tokio::sync::{mpsc, oneshot};

/// Renames waiting for a sync at most.
const QUEUE: usize = 1024;

type Waiter = oneshot::Sender<Result<(), io::ErrorKind>>;

/// Syncs folders, each once for everyone who waits. Nobody waits for a group to fill: what comes while a round runs is the next round.
#[derive(Clone)]
pub struct FolderSync(mpsc::Sender<(PathBuf, Waiter)>);

impl FolderSync {
    /// Ends when the last handle is dropped.
    pub fn start(root: Arc<Root>) -> Self {
        let (sender, mut queue) = mpsc::channel::<(PathBuf, Waiter)>(QUEUE);
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while queue.recv_many(&mut batch, QUEUE).await > 0 {
                let mut waiting: HashMap<PathBuf, Vec<Waiter>> = HashMap::new();
                for (folder, waiter) in batch.drain(..) {
                    waiting.entry(folder).or_default().push(waiter);
                }
                let rounds = waiting.into_iter().map(|(folder, waiters)| {
                    let root = Arc::clone(&root);
                    async move {
                        let synced =
                            blocking(move || root.sync_folder(&folder)).await.map_err(|error| error.kind());
                        for waiter in waiters {
                            let _ = waiter.send(synced);
                        }
                    }
                });
                futures_util::future::join_all(rounds).await;
            }
        });
        Self(sender)
    }

    /// The same for the folder of a new name, and those above it up to where one was made.
    pub async fn sync_new(&self, folder: PathBuf, made_below: Option<PathBuf>) -> io::Result<()> {
        let top = made_below.unwrap_or_else(|| folder.clone());
        let all = folder.ancestors().take_while(|above| above.starts_with(&top));
        futures_util::future::try_join_all(all.map(|above| self.sync(above.into()))).await?;
        Ok(())
    }

    /// Returns when the names in a folder would survive a power cut.
    pub async fn sync(&self, folder: PathBuf) -> io::Result<()> {
        let (waiter, synced) = oneshot::channel();
        let ended = || io::Error::other("the process is stopping");
        self.0.send((folder, waiter)).await.map_err(|_| ended())?;
        synced.await.map_err(|_| ended())?.map_err(io::Error::from)
    }
}
