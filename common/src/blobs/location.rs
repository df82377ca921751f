//! Where a mirror keeps its blobs, as it is written in `--blobs`, in the record of the mirror and in the records of nodes.

use object_store::ObjectStoreScheme;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use url::Url;

/// A blob store by name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Location {
    /// The object store of the broker.
    Nats,
    /// `s3://bucket/prefix`, `file:///folder`, and what else the `object_store` crate knows by a URL. Without secrets, and without a slash at its end.
    Url(Url),
}

/// What is no blob store.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidLocation {
    /// No URL.
    #[error("neither nats nor a URL such as s3://bucket/prefix or file:///folder ({0})")]
    NoUrl(url::ParseError),
    /// A URL of something else.
    #[error("blobs cannot be kept in {0}: nats, s3://bucket/prefix, file:///folder, gs://… or az://… can")]
    Unknown(String),
    /// It would be shown in records and logs.
    #[error(
        "user and password have no place in the URL of a store: they are taken from the environment, such as AWS_ACCESS_KEY_ID"
    )]
    Secret,
    /// No store reads it.
    #[error("a store's URL has neither query nor fragment")]
    Query,
}

impl Location {
    /// The folder of a store that is one.
    pub fn folder(&self) -> Option<std::path::PathBuf> {
        match self {
            Self::Url(url) if url.scheme() == "file" => url.to_file_path().ok(),
            _ => None,
        }
    }
}

impl FromStr for Location {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "nats" {
            return Ok(Self::Nats);
        }
        let mut url = Url::parse(text).map_err(InvalidLocation::NoUrl)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidLocation::Secret);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidLocation::Query);
        }
        let unknown = || InvalidLocation::Unknown(text.into());
        let (scheme, _) = ObjectStoreScheme::parse(&url).map_err(|_| unknown())?;
        let bare = url.path().trim_end_matches('/').to_owned();
        match scheme {
            ObjectStoreScheme::Local if url.host_str().is_some_and(|host| !host.is_empty()) => {
                return Err(unknown());
            }
            // A store of the whole disk is a slip.
            ObjectStoreScheme::Local if bare.is_empty() => return Err(unknown()),
            ObjectStoreScheme::Local
            | ObjectStoreScheme::AmazonS3
            | ObjectStoreScheme::GoogleCloudStorage
            | ObjectStoreScheme::MicrosoftAzure => {}
            _ => return Err(unknown()),
        }
        url.set_path(&bare);
        Ok(Self::Url(url))
    }
}

impl TryFrom<String> for Location {
    type Error = InvalidLocation;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.to_string()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nats => f.pad("nats"),
            Self::Url(url) => f.pad(url.as_str().trim_end_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_one_name_however_it_is_written() {
        for (given, expected) in [
            ("nats", "nats"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("file:///shared/blobs/", "file:///shared/blobs"),
            ("file:///with%20space", "file:///with%20space"),
            ("gs://bucket/x", "gs://bucket/x"),
            ("az://container/x", "az://container/x"),
        ] {
            let location: Location = given.parse().unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!(location.to_string(), expected);
            assert_eq!(location.to_string().parse(), Ok(location), "{given}");
        }
        for bad in [
            "",
            "s3",
            "/shared",
            "memory:///",
            "http://host/x",
            "ftp://host/x",
            "file:///",
            "file://host/x",
            "s3://key:secret@bucket/x",
            "s3://key@bucket",
            "s3://bucket/x?y=1",
            "s3://bucket#x",
        ] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
        assert_eq!("file:///a%20b".parse::<Location>().ok().and_then(|at| at.folder()), Some("/a b".into()));
    }
}
