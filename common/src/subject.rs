//! Paths as subjects of the log: one token for each path component, so that NATS wildcards follow folders.

use crate::{hash::ContentHash, names::MirrorName, path::MediaPath};
use std::fmt::Write;

/// The longest subject that is written in full, in bytes. nats-server drops the connection on one over about 4,040.
pub const MAX_SUBJECT: usize = 1024;
/// The token that stands before the hash of a path whose subject would be longer. `%` never begins an escaped
/// component this way, so it cannot collide with one.
const LONG: &str = "%long";

/// The subjects of one mirror.
#[derive(Clone, Debug)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// The subjects of this mirror.
    pub fn new(mirror: &MirrorName) -> Self {
        Self { prefix: mirror.subject_prefix() }
    }

    /// The filter that matches all of them: `mirror.media.>`.
    pub fn all(&self) -> String {
        format!("{}>", self.prefix)
    }

    /// The subject of a path. The same path always has the same subject, and no two paths share one.
    ///
    /// In each component `%`, `.`, `*`, `>`, space, control bytes, 0x7F and bytes that are not part of valid UTF-8 are written
    /// `%XX`. Over 1,024 bytes it becomes `<prefix>%long.<hex SHA-256 of the path>`.
    pub fn of(&self, path: &MediaPath) -> String {
        let mut subject = self.prefix.clone();
        for (at, component) in path.components().enumerate() {
            if at > 0 {
                subject.push('.');
            }
            escape(component, &mut subject);
        }
        if subject.len() > MAX_SUBJECT {
            return format!("{}{LONG}.{}", self.prefix, ContentHash::of(path.as_bytes()));
        }
        subject
    }

    /// The path that a subject names; `None` when it names none, or only the hash of one.
    pub fn path(&self, subject: &str) -> Option<MediaPath> {
        let rest = subject.strip_prefix(&self.prefix)?;
        let components: Option<Vec<Vec<u8>>> = rest.split('.').map(unescape).collect();
        let path = MediaPath::new(&components?.join(&b'/')).ok()?;
        (self.of(&path) == subject).then_some(path)
    }
}

fn escape(component: &[u8], subject: &mut String) {
    for chunk in component.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '%' | '.' | '*' | '>' | ' ' | '\0'..='\x1f' | '\x7f' => {
                    write!(subject, "%{:02X}", c as u32).expect("writing to a String does not fail");
                }
                c => subject.push(c),
            }
        }
        for byte in chunk.invalid() {
            write!(subject, "%{byte:02X}").expect("writing to a String does not fail");
        }
    }
}

fn unescape(token: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subjects() -> Subjects {
        Subjects::new(&"media".parse().expect("a good name"))
    }

    fn any_path() -> impl Strategy<Value = MediaPath> {
        let component = prop_oneof![
            prop::collection::vec(any::<u8>(), 1..40),
            prop::collection::vec(prop::sample::select(b"%.*> \n\x7f\xff\xc3\xa9a".to_vec()), 1..20),
            "\\PC{1,20}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(component, 1..6)
            .prop_filter_map("not a path", |c| MediaPath::new(&c.join(&b'/')).ok())
    }

    proptest! {
        #[test]
        fn a_path_comes_back_from_its_subject(path in any_path()) {
            let subject = subjects().of(&path);
            prop_assert!(subject.len() <= MAX_SUBJECT);
            if !subject.contains(LONG) {
                prop_assert_eq!(subjects().path(&subject), Some(path));
            }
        }

        #[test]
        fn a_subject_has_no_wildcards_spaces_or_empty_tokens(path in any_path()) {
            let subject = subjects().of(&path);
            prop_assert!(subject.split('.').all(|token| !token.is_empty()), "{}", subject);
            prop_assert!(!subject.bytes().any(|b| b"*> \t\r\n\0\x7f".contains(&b)), "{}", subject);
        }

        #[test]
        fn two_paths_never_share_a_subject(a in any_path(), b in any_path()) {
            prop_assert_eq!(a == b, subjects().of(&a) == subjects().of(&b));
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,60}") {
            subjects().path(&format!("mirror.media.{text}"));
        }
    }

    #[test]
    fn the_examples_of_the_design_hold() {
        let of = |path: &[u8]| subjects().of(&MediaPath::new(path).expect("a good path"));
        assert_eq!(of(b"uploads/2026/cat.jpg"), "mirror.media.uploads.2026.cat%2Ejpg");
        assert_eq!(of(b"a b/%*>\n"), "mirror.media.a%20b.%25%2A%3E%0A");
        assert_eq!(of(b"x\xff\xc3\xa9"), "mirror.media.x%FF\u{e9}");
        let long = vec![b"d".repeat(200); 6].join(&b'/');
        assert_eq!(of(&long), format!("mirror.media.%long.{}", ContentHash::of(&long)));
    }

    #[test]
    fn another_spelling_of_a_subject_names_no_path() {
        for odd in [
            "mirror.media.%61",
            "mirror.media.%2e",
            "mirror.media.a..b",
            "mirror.media.%long.00",
            "other.media.a",
        ] {
            assert_eq!(subjects().path(odd), None, "{odd}");
        }
    }
}
