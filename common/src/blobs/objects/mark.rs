//! Whose store it is. Two mirrors that kept their blobs in one place would collect each other's, and a shared folder that is not mounted looks like an empty
//! store: so a small object says which mirror it belongs to, and nothing is done with a store that says something else.

use super::{ObjectBlobs, Objects, PATIENCE, fault::bounded};
use crate::{
    blobs::{BlobError, StoreFault},
    names::MirrorName,
};
use object_store::{ObjectStoreExt, PutMode, PutOptions, path::Path};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The object.
pub const NAME: &str = "mediamirror.json";

#[derive(Serialize, Deserialize)]
struct Said {
    v: u64,
    mirror: String,
    /// Random: two mirrors may have one name.
    id: String,
}

/// Why a store is not this mirror's.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// It is another's.
    #[error("{location} keeps the blobs of another mirror ({mirror}): it says so in {NAME}")]
    Another {
        /// The store.
        location: String,
        /// Whose.
        mirror: String,
    },
    /// It is nobody's.
    #[error("{0} has no {NAME}: it is not the store that this mirror has kept its blobs in")]
    None(String),
    /// It is a folder that is not there.
    #[error("there is no folder {}", .0.display())]
    NoFolder(PathBuf),
    /// What stands there is not understood.
    #[error("{NAME} in {0} is not what this version writes")]
    Unknown(String),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] BlobError),
}

impl ObjectBlobs {
    /// Makes an empty store this mirror's, and returns its id; one that is this mirror's by name stays as it is. `id`: what it must be, where it is known.
    pub async fn claim(&self, mirror: &MirrorName, id: Option<&str>) -> Result<String, MarkError> {
        let fresh = id.map_or_else(|| format!("{:016x}", rand::random::<u64>()), str::to_owned);
        let said = Said { v: 1, mirror: mirror.to_string(), id: fresh.clone() };
        let payload = serde_json::to_vec(&said).expect("every field has a JSON form");
        let (objects, key) = (&self.0, self.0.mark());
        // A folder that is made here for a share that is not mounted would be filled.
        if let Some(folder) = objects.folder.as_ref().filter(|folder| !folder.is_dir()) {
            return Err(MarkError::NoFolder(folder.clone()));
        }
        let as_new = PutOptions::from(PutMode::Create);
        let doing = || format!("making a blob store of {}", objects.location);
        match bounded(PATIENCE, doing, objects.store.put_opts(&key, payload.clone().into(), as_new)).await {
            Ok(_) => Ok(fresh),
            Err(BlobError::Store { fault: StoreFault::Exists, .. }) => self.check(Some(mirror), id).await,
            // Not every store knows the condition.
            Err(BlobError::Store { fault: StoreFault::Unsupported, .. }) => {
                if objects.said().await?.is_some() {
                    return self.check(Some(mirror), id).await;
                }
                bounded(PATIENCE, doing, objects.store.put(&key, payload.into())).await?;
                Ok(fresh)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it is this mirror's, as far as name and id are known. Returns its id.
    pub async fn check(&self, mirror: Option<&MirrorName>, id: Option<&str>) -> Result<String, MarkError> {
        let location = || self.0.location.to_string();
        let said = self.0.said().await?.ok_or_else(|| MarkError::None(location()))?;
        let said: Said = serde_json::from_slice(&said).map_err(|_| MarkError::Unknown(location()))?;
        if said.v != 1 {
            return Err(MarkError::Unknown(location()));
        }
        if mirror.is_some_and(|mirror| said.mirror != mirror.to_string())
            || id.is_some_and(|id| id != said.id)
        {
            return Err(MarkError::Another { location: location(), mirror: said.mirror });
        }
        Ok(said.id)
    }
}

impl Objects {
    fn mark(&self) -> Path {
        self.base.clone().join(NAME)
    }

    async fn said(&self) -> Result<Option<bytes::Bytes>, BlobError> {
        let doing = || format!("looking whose store {} is", self.location);
        let request = async {
            match self.store.get(&self.mark()).await {
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                got => got?.bytes().await.map(Some),
            }
        };
        bounded(PATIENCE, doing, request).await
    }
}
