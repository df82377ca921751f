//! What parsers of foreign bytes promise, for any bytes: each function panics when its promise is broken. `tests/properties.rs` calls them with made up
//! bytes for every commit, `deploy/fuzz.sh` for as long as one likes, led by what the code does with them.

use axum::http::{HeaderMap, HeaderValue, header::RANGE};
use common::{
    event::Event,
    hash::ContentHash,
    http::content::{Wanted, wanted},
    path::MediaPath,
    subject::Subjects,
};

fn subjects() -> Subjects {
    Subjects::new(&"media".parse().expect("a good name"))
}

/// A path that is taken stays below the root, is what it was made of, and comes back from its subject.
pub fn path(bytes: &[u8]) {
    let Ok(path) = MediaPath::new(bytes) else { return };
    assert_eq!(path.as_bytes(), bytes);
    assert!(bytes.len() <= 4095 && !bytes.contains(&0));
    let components: Vec<&[u8]> = path.components().collect();
    assert_eq!(components.join(&b'/'), bytes);
    for component in &components {
        assert!(!component.is_empty() && component.len() <= 255);
        assert!(*component != b"." && *component != b"..");
    }
    assert_ne!(components[0], b".mirror");
    let subject = subjects().of(&path);
    assert!(subject.len() <= 1024);
    assert!(subject.split('.').all(|token| !token.is_empty()));
    assert!(!subject.bytes().any(|byte| b"*> \t\r\n\0\x7f".contains(&byte)));
    if !subject.starts_with("mirror.media.%long.") {
        assert_eq!(subjects().path(&subject), Some(path));
    }
}

/// A subject that names a path is the only one that does.
pub fn subject(bytes: &[u8]) {
    let Ok(rest) = std::str::from_utf8(bytes) else { return };
    for subject in [rest.to_owned(), format!("mirror.media.{rest}")] {
        if let Some(path) = subjects().path(&subject) {
            assert_eq!(subjects().of(&path), subject);
        }
    }
}

/// A payload that is an event says the same when it is written again, and belongs to the subject it came on. The first line of the bytes is a subject.
pub fn payload(bytes: &[u8]) {
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let given = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let payload = bytes.get(end + 1..).unwrap_or_default();
    // A payload of made up bytes names another path: let it come on the subject of that one, too.
    let own = path_within(payload).map(|path| subjects().of(&path));
    for subject in [Some(given), own].into_iter().flatten() {
        let Ok(event) = Event::decode(&subjects(), &subject, payload) else { continue };
        assert_eq!(subjects().of(&event.path), subject);
        let again = Event::decode(&subjects(), &subject, &event.encode()).expect("our own payload");
        assert_eq!(again, event);
        assert_eq!(again.identity(&subjects()), event.identity(&subjects()));
    }
}

/// What stands behind `"path":"` in bytes that look like JSON.
fn path_within(payload: &[u8]) -> Option<MediaPath> {
    let text = std::str::from_utf8(payload).ok()?;
    let (_, rest) = text.split_once("\"path\":\"")?;
    MediaPath::new(rest.split('"').next()?.as_bytes()).ok()
}

/// A part is of bytes that there are. The first eight bytes are the size.
pub fn range(bytes: &[u8]) {
    let Some((size, text)) = bytes.split_first_chunk::<8>() else { return };
    let size = u64::from_le_bytes(*size) >> (text.len() % 64);
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    let headers = HeaderMap::from_iter([(RANGE, value)]);
    let content = ContentHash::of(b"");
    match wanted(&headers, true, content, size) {
        Wanted::Part(range) => assert!(range.start < range.end && range.end <= size, "{range:?} of {size}"),
        Wanted::Whole | Wanted::Unsatisfiable => {}
        Wanted::NotModified => panic!("nothing was said of what the client has"),
    }
    assert_eq!(wanted(&headers, false, content, size), Wanted::Whole, "a HEAD knows no ranges");
}
