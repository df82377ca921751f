//! From a location and the environment to a store. Nothing is asked of it yet.

use super::{ObjectBlobs, Objects, fault::retries};
use crate::blobs::Location;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreScheme,
    aws::{AmazonS3, AmazonS3Builder},
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
};
use std::{
    sync::{Arc, Once},
    time::Duration,
};

const CONNECT: Duration = Duration::from_secs(5);

/// Why there can be no such store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is the broker's.
    #[error("{0} is no object store")]
    NotOurs(Location),
    /// What the environment says does not do.
    #[error("{location} cannot be used: {reason}")]
    Settings {
        /// The store.
        location: Location,
        /// Why.
        reason: String,
    },
}

impl ObjectBlobs {
    /// The store at a location. Credentials and the like are taken from the environment, by the names of its ecosystem (`AWS_ACCESS_KEY_ID`,
    /// `AWS_ENDPOINT_URL`, …); an endpoint that begins with `http://` is not encrypted, as it says.
    pub fn open(
        location: &Location,
        environment: impl IntoIterator<Item = (String, String)>,
        chunk_size: usize,
    ) -> Result<Self, OpenError> {
        let Location::Url(url) = location else { return Err(OpenError::NotOurs(location.clone())) };
        let refuse = |error: &object_store::Error| {
            let reason = crate::error_chain(error);
            OpenError::Settings { location: location.clone(), reason }
        };
        let (scheme, base) = ObjectStoreScheme::parse(url)
            .map_err(|error| OpenError::Settings { location: location.clone(), reason: error.to_string() })?;
        let folder = location.folder();
        let mut s3 = None;
        let store: Arc<dyn ObjectStore> = match scheme {
            // It need not be there yet: it is looked for at each use.
            ObjectStoreScheme::Local => Arc::new(LocalFileSystem::new().with_fsync(true)),
            ObjectStoreScheme::AmazonS3 => {
                let store = amazon(url.as_str(), environment).map_err(|error| refuse(&error))?;
                s3 = Some(store.clone());
                Arc::new(store)
            }
            scheme => other(scheme, url.as_str(), environment).map_err(|error| refuse(&error))?,
        };
        let location = location.clone();
        Ok(Self(Arc::new(Objects { store, location, base, chunk_size, s3, folder })))
    }
}

/// Each request has a bound of its own, by what it carries.
fn client() -> ClientOptions {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Where there is one already, it does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT)
}

fn amazon(
    url: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> object_store::Result<AmazonS3> {
    let mut builder =
        AmazonS3Builder::new().with_client_options(client()).with_retry(retries()).with_url(url);
    for (name, value) in environment {
        let name = name.to_ascii_lowercase();
        let Ok(key) = name.parse() else { continue };
        let plain = name.starts_with("aws_endpoint") && value.starts_with("http://");
        builder = builder.with_config(key, value);
        builder = if plain { builder.with_allow_http(true) } else { builder };
    }
    builder.build()
}

fn other(
    scheme: ObjectStoreScheme,
    url: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let options = environment.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    Ok(match scheme {
        ObjectStoreScheme::MicrosoftAzure => {
            let builder = MicrosoftAzureBuilder::new();
            let builder = builder.with_client_options(client()).with_retry(retries()).with_url(url);
            let known = options.filter_map(|(name, value)| Some((name.parse().ok()?, value)));
            Arc::new(known.fold(builder, |builder, (key, value)| builder.with_config(key, value)).build()?)
        }
        _ => {
            let builder = GoogleCloudStorageBuilder::new();
            let builder = builder.with_client_options(client()).with_retry(retries()).with_url(url);
            let known = options.filter_map(|(name, value)| Some((name.parse().ok()?, value)));
            Arc::new(known.fold(builder, |builder, (key, value)| builder.with_config(key, value)).build()?)
        }
    })
}
