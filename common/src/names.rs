//! The names of a mirror and of its nodes, and everything on the wire that is derived from them.

use std::{fmt, str::FromStr};

/// The name of a mirror: `[a-z0-9][a-z0-9-]{0,31}`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MirrorName(String);

/// The name of a node: `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeName(String);

/// A name that breaks its pattern.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidName {
    /// Not a mirror name.
    #[error(
        "{0:?} is not a mirror name: lower-case letters, digits and '-', 32 at most, a letter or digit first"
    )]
    Mirror(String),
    /// Not a node name.
    #[error(
        "{0:?} is not a node name: lower-case letters, digits, '-' and '_', 63 at most, a letter or digit first"
    )]
    Node(String),
}

fn matches(name: &str, longest: usize, also: &[u8]) -> bool {
    let alphanumeric = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= longest
        && bytes.first().is_some_and(alphanumeric)
        && bytes.iter().all(|c| alphanumeric(c) || also.contains(c))
}

impl MirrorName {
    /// The name as typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn upper(&self) -> String {
        self.0.to_ascii_uppercase()
    }

    /// The JetStream stream that is the log, for example `MIRROR_MEDIA`.
    pub fn log_stream(&self) -> String {
        format!("MIRROR_{}", self.upper())
    }

    /// What every subject of the log begins with, the last dot included: `mirror.media.`.
    pub fn subject_prefix(&self) -> String {
        format!("mirror.{}.", self.0)
    }

    /// The object store bucket of the blobs: `MIRROR_MEDIA_BLOBS`.
    pub fn blob_bucket(&self) -> String {
        format!("MIRROR_{}_BLOBS", self.upper())
    }

    /// The key-value bucket of the node records: `MIRROR_MEDIA_NODES`.
    pub fn node_bucket(&self) -> String {
        format!("MIRROR_{}_NODES", self.upper())
    }
}

impl NodeName {
    /// The name as typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The durable consumer of this node's replicator.
    pub fn consumer(&self) -> String {
        format!("replicator-{}", self.0)
    }

    /// The default: the host name in lower case, every other byte as `-`, cut to 63.
    pub fn from_host(host: &str) -> Result<Self, InvalidName> {
        let name: String = host
            .bytes()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { char::from(c) } else { '-' })
            .take(63)
            .collect();
        name.parse()
    }
}

impl FromStr for MirrorName {
    type Err = InvalidName;
    fn from_str(name: &str) -> Result<Self, InvalidName> {
        if matches(name, 32, b"-") { Ok(Self(name.into())) } else { Err(InvalidName::Mirror(name.into())) }
    }
}

impl FromStr for NodeName {
    type Err = InvalidName;
    fn from_str(name: &str) -> Result<Self, InvalidName> {
        if matches(name, 63, b"-_") { Ok(Self(name.into())) } else { Err(InvalidName::Node(name.into())) }
    }
}

impl serde::Serialize for NodeName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for NodeName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for MirrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_patterns() {
        for good in ["media", "m", "0-9", &"a".repeat(32)] {
            assert!(good.parse::<MirrorName>().is_ok(), "{good:?}");
        }
        for bad in ["", "-a", "Media", "a_b", "a.b", "a b", &"a".repeat(33), "é"] {
            assert!(bad.parse::<MirrorName>().is_err(), "{bad:?}");
        }
        assert!("a_b-c".parse::<NodeName>().is_ok());
        assert!(&"a".repeat(64).parse::<NodeName>().is_err());
    }

    #[test]
    fn a_host_name_becomes_a_node_name() {
        let name = |host: &str| NodeName::from_host(host).map(|n| n.to_string());
        assert_eq!(name("CMS-1.example.org"), Ok("cms-1-example-org".into()));
        assert_eq!(name(&"x".repeat(100)), Ok("x".repeat(63)));
        assert!(name("").is_err());
    }

    #[test]
    fn wire_names_are_those_of_the_design() {
        let mirror: MirrorName = "my-site".parse().expect("a good name");
        assert_eq!(mirror.log_stream(), "MIRROR_MY-SITE");
        assert_eq!(mirror.subject_prefix(), "mirror.my-site.");
        assert_eq!(mirror.blob_bucket(), "MIRROR_MY-SITE_BLOBS");
        assert_eq!(mirror.node_bucket(), "MIRROR_MY-SITE_NODES");
    }
}
