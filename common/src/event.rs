//! One line of the log: a path now has this content, or is gone. The payload is a JSON object whose unknown fields
//! readers ignore; `docs/DESIGN.md` has it with an example.

use crate::{
    hash::{ContentHash, Hasher},
    names::NodeName,
    path::{InvalidPath, MediaPath},
    subject::Subjects,
    time::Timestamp,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A position in the log: the stream sequence. 0 stands before the first event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// Before the first event.
    pub const ZERO: Self = Self(0);

    /// The event with this stream sequence.
    pub const fn new(sequence: u64) -> Self {
        Self(sequence)
    }

    /// The stream sequence.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// When a stream was created, as its server says it: the name of one life of the log. Compared, never ordered.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamCreated(pub Timestamp);

impl fmt::Display for StreamCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What an event does to its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The path has this content.
    Added,
    /// The path, which had this content, is gone.
    Removed,
}

impl Kind {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
        }
    }
}

/// What travels with added content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Length in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Permission bits, at most 0777: setuid, setgid and sticky never travel.
    pub mode: u32,
}

/// Where a row of an older life of the log stood in it (rule 10).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Was(pub StreamCreated, pub Version);

/// An event, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The path it is about.
    pub path: MediaPath,
    /// The content added (with its attributes), or removed (without).
    pub sha256: ContentHash,
    /// `Some` for an addition, `None` for a removal.
    pub added: Option<Attributes>,
    /// Who published it.
    pub node: NodeName,
    /// The path's event that the writer had seen; 0: none.
    pub replaces: Version,
    /// When the writer noticed the change.
    pub detected: Timestamp,
    /// Published from a row of an older life of the log.
    pub was: Option<Was>,
}

/// Why a payload is not an event. Permanent, all of them: only a newer build, or a newer event, helps.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEvent {
    /// Not a JSON object with the fields of an event.
    #[error("not an event: {0}")]
    Json(#[from] serde_json::Error),
    /// A payload version that this build does not know.
    #[error("payload version {0}; this build knows 1")]
    Version(u64),
    /// `path_b64` is not base64.
    #[error("path_b64 is not base64")]
    Base64,
    /// The path could leave the root, or name nothing.
    #[error("bad path: {0}")]
    Path(#[from] InvalidPath),
    /// An addition without `size`, `mtime` or `mode`.
    #[error("an addition without {0}")]
    Missing(&'static str),
    /// A size over 2^63 - 1, or a mode that is not octal permission bits.
    #[error("bad {0}")]
    Field(&'static str),
    /// The payload names another path than the subject it came on.
    #[error("the path {0} does not belong to the subject it came on")]
    Subject(MediaPath),
}

#[derive(Serialize, Deserialize)]
struct Payload {
    v: u64,
    #[serde(rename = "type")]
    kind: Kind,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    path_b64: Option<String>,
    sha256: ContentHash,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    mtime: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    mode: Option<String>,
    node: String,
    replaces: Version,
    detected: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    was: Option<Was>,
}

impl Event {
    /// Whether it adds or removes.
    pub fn kind(&self) -> Kind {
        if self.added.is_some() { Kind::Added } else { Kind::Removed }
    }

    /// The payload, about 300 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let payload = Payload {
            v: 1,
            kind: self.kind(),
            path: String::from_utf8_lossy(self.path.as_bytes()).into_owned(),
            path_b64: self.path.as_utf8().is_none().then(|| BASE64_STANDARD.encode(self.path.as_bytes())),
            sha256: self.sha256,
            size: self.added.map(|a| a.size),
            mtime: self.added.map(|a| a.mtime),
            mode: self.added.map(|a| format!("{:04o}", a.mode & 0o777)),
            node: self.node.as_str().to_owned(),
            replaces: self.replaces,
            detected: self.detected,
            was: self.was.clone(),
        };
        serde_json::to_vec(&payload).expect("every field has a JSON form")
    }

    /// Checks a payload against the subject it came on.
    pub fn decode(subjects: &Subjects, subject: &str, payload: &[u8]) -> Result<Self, InvalidEvent> {
        #[derive(Deserialize)]
        struct OnlyVersion {
            v: u64,
        }
        // A newer payload may have other fields: its version is looked at first.
        let OnlyVersion { v } = serde_json::from_slice(payload)?;
        if v != 1 {
            return Err(InvalidEvent::Version(v));
        }
        let payload: Payload = serde_json::from_slice(payload)?;
        let path = match &payload.path_b64 {
            Some(exact) => MediaPath::new(&BASE64_STANDARD.decode(exact).map_err(|_| InvalidEvent::Base64)?)?,
            None => payload.path.parse()?,
        };
        if subjects.of(&path) != subject {
            return Err(InvalidEvent::Subject(path));
        }
        let added = match payload.kind {
            Kind::Removed => None,
            Kind::Added => Some(Attributes {
                size: payload.size.ok_or(InvalidEvent::Missing("size"))?,
                mtime: payload.mtime.ok_or(InvalidEvent::Missing("mtime"))?,
                mode: parse_mode(&payload.mode.ok_or(InvalidEvent::Missing("mode"))?)?,
            }),
        };
        if added.is_some_and(|a| i64::try_from(a.size).is_err()) {
            return Err(InvalidEvent::Field("size"));
        }
        Ok(Self {
            path,
            sha256: payload.sha256,
            added,
            node: payload.node.parse().map_err(|_| InvalidEvent::Field("node"))?,
            replaces: payload.replaces,
            detected: payload.detected,
            was: payload.was,
        })
    }

    /// What makes it this event and no other: subject, type, hash and `replaces`.
    pub fn identity(&self, subjects: &Subjects) -> EventId {
        EventId::of(&subjects.of(&self.path), self.kind(), self.sha256, self.replaces)
    }
}

fn parse_mode(text: &str) -> Result<u32, InvalidEvent> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 && !text.starts_with('+') => Ok(mode & 0o777),
        _ => Err(InvalidEvent::Field("mode")),
    }
}

/// The identity of an event, sent as `Nats-Msg-Id` and kept by the index as the digest of the event at its position:
/// the SHA-256 of subject, type, hash and `replaces`, each followed by a NUL.
///
/// Without `replaces` in it, adding, removing and adding the same bytes again within the duplicate window of two
/// minutes would lose the last event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EventId(ContentHash);

impl EventId {
    /// The identity of the event with these parts.
    pub fn of(subject: &str, kind: Kind, sha256: ContentHash, replaces: Version) -> Self {
        let mut hasher = Hasher::new();
        for part in [subject, kind.as_str(), &sha256.to_string(), &replaces.to_string()] {
            hasher.update(part.as_bytes());
            hasher.update(b"\0");
        }
        Self(hasher.finish())
    }

    /// Of a message that is no event of ours: the hash of its subject and bytes.
    pub fn of_other(subject: &str, payload: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(subject.as_bytes());
        hasher.update(b"\0");
        hasher.update(payload);
        Self(hasher.finish())
    }

    /// From the index.
    pub fn from_hash(hash: ContentHash) -> Self {
        Self(hash)
    }

    /// For the index.
    pub fn hash(&self) -> ContentHash {
        self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subjects() -> Subjects {
        Subjects::new(&"media".parse().expect("a good name"))
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let path = prop::collection::vec(any::<u8>(), 1..60)
            .prop_filter_map("not a path", |b| MediaPath::new(&b).ok());
        let time = || {
            (-62_167_219_200i64..253_402_300_799)
                .prop_map(|s| Timestamp::from_nanos(i128::from(s) * 1_000_000_007))
        };
        let added = prop::option::of(
            (0..=i64::MAX as u64, time(), 0u32..=0o777).prop_map(|(size, mtime, mode)| Attributes {
                size,
                mtime,
                mode,
            }),
        );
        let was = prop::option::of(
            (time(), any::<u64>()).prop_map(|(t, s)| Was(StreamCreated(t), Version::new(s))),
        );
        (path, any::<[u8; 32]>(), added, any::<u64>(), time(), was).prop_map(
            |(path, raw, added, replaces, detected, was)| Event {
                path,
                sha256: ContentHash::from_raw(raw),
                added,
                node: "cms-1".parse().expect("a good name"),
                replaces: Version::new(replaces),
                detected,
                was,
            },
        )
    }

    proptest! {
        #[test]
        fn an_event_comes_back_from_its_payload(event in any_event()) {
            let subject = subjects().of(&event.path);
            let back = Event::decode(&subjects(), &subject, &event.encode()).expect("our own payload");
            prop_assert_eq!(back, event);
        }

        #[test]
        fn a_newer_writer_may_add_fields(event in any_event(), extra in "[a-z]{3,8}", value in any::<u32>()) {
            let mut object: serde_json::Value = serde_json::from_slice(&event.encode()).expect("JSON");
            object[format!("x_{extra}")] = value.into();
            let subject = subjects().of(&event.path);
            let back = Event::decode(&subjects(), &subject, object.to_string().as_bytes()).expect("unknown fields are ignored");
            prop_assert_eq!(back, event);
        }

        #[test]
        fn no_payload_makes_the_decoder_panic(bytes: Vec<u8>, text in "\\PC{0,200}") {
            let _ = Event::decode(&subjects(), "mirror.media.a", &bytes);
            let _ = Event::decode(&subjects(), "mirror.media.a", text.as_bytes());
        }
    }

    /// The first payload version as written by the first release, byte for byte.
    const RECORDED: &str = r#"{"v":1,"type":"added","path":"uploads/2026/cat.jpg","sha256":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","size":34812,"mtime":"2026-02-16T16:44:02.123456789Z","mode":"0644","node":"cms-1","replaces":41,"detected":"2026-02-16T16:44:02.2Z"}"#;

    fn decode(payload: &str) -> Result<Event, InvalidEvent> {
        Event::decode(&subjects(), "mirror.media.uploads.2026.cat%2Ejpg", payload.as_bytes())
    }

    #[test]
    fn the_recorded_payload_is_read_and_written_alike() {
        let event = decode(RECORDED).expect("a recorded payload");
        assert_eq!(event.replaces, Version::new(41));
        assert_eq!(String::from_utf8(event.encode()).expect("UTF-8"), RECORDED);
    }

    #[test]
    fn poison_is_named() {
        for (from, to, why) in [
            ("\"v\":1", "\"v\":2", "payload version 2; this build knows 1"),
            ("uploads/2026/cat.jpg", "../cat.jpg", "bad path: the path has a `.` or `..` component"),
            ("uploads/2026/cat.jpg", "cat.jpg", "the path cat.jpg does not belong to the subject it came on"),
            ("34812", "9223372036854775808", "bad size"),
            ("\"0644\"", "\"rw\"", "bad mode"),
            ("\"size\":34812,", "", "an addition without size"),
        ] {
            let error = decode(&RECORDED.replace(from, to)).expect_err("poison");
            assert_eq!(error.to_string(), why);
        }
        for (from, to) in [("34812", "-1"), ("9f86d0", "9F86D0"), ("added", "moved"), ("{", "[")] {
            assert!(decode(&RECORDED.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn setuid_does_not_travel() {
        let event = decode(&RECORDED.replace("0644", "6755")).expect("read, with the bits dropped");
        assert_eq!(event.added.map(|a| a.mode), Some(0o755));
    }

    #[test]
    fn adding_the_same_bytes_over_another_event_is_another_event() {
        let hash = ContentHash::of_nothing();
        let id = |kind, replaces| EventId::of("mirror.media.a", kind, hash, Version::new(replaces));
        assert_ne!(id(Kind::Added, 0), id(Kind::Added, 2));
        assert_ne!(id(Kind::Added, 1), id(Kind::Removed, 1));
        assert_eq!(id(Kind::Added, 1), id(Kind::Added, 1));
    }
}
