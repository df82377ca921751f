//! What is asked of content, and what an answer says of it: ranges, conditions, type and name. Pure.
//!
//! Content is whatever somebody has uploaded. A browser is told to take it for what we say it is, to run nothing of it, and to show only what it can show without that.

use crate::{hash::ContentHash, path::MediaPath};
use axum::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
        IF_NONE_MATCH, IF_RANGE, RANGE,
    },
};
use std::ops::Range;

/// Types by the ending of a name, and whether a browser may show it by itself; all others are bytes to be saved. HTML is not among them.
const TYPES: [(&str, &str, bool); 37] = [
    ("aac", "audio/aac", true),
    ("avif", "image/avif", true),
    ("bmp", "image/bmp", true),
    ("css", "text/css", false),
    ("csv", "text/csv", false),
    ("flac", "audio/flac", true),
    ("gif", "image/gif", true),
    ("gz", "application/gzip", false),
    ("ico", "image/x-icon", true),
    ("jpeg", "image/jpeg", true),
    ("jpg", "image/jpeg", true),
    ("js", "text/javascript", false),
    ("json", "application/json", false),
    ("m4a", "audio/mp4", true),
    ("m4v", "video/mp4", true),
    ("md", "text/markdown", false),
    ("mkv", "video/x-matroska", true),
    ("mov", "video/quicktime", true),
    ("mp3", "audio/mpeg", true),
    ("mp4", "video/mp4", true),
    ("oga", "audio/ogg", true),
    ("ogg", "audio/ogg", true),
    ("ogv", "video/ogg", true),
    ("opus", "audio/ogg", true),
    ("pdf", "application/pdf", true),
    ("png", "image/png", true),
    ("svg", "image/svg+xml", false),
    ("tif", "image/tiff", true),
    ("tiff", "image/tiff", true),
    ("txt", "text/plain; charset=utf-8", true),
    ("wav", "audio/wav", true),
    ("webm", "video/webm", true),
    ("webp", "image/webp", true),
    ("woff", "font/woff", false),
    ("woff2", "font/woff2", false),
    ("xml", "application/xml", false),
    ("zip", "application/zip", false),
];
const BYTES: &str = "application/octet-stream";

/// On every answer with content. Nothing of it runs, loads anything, or belongs to the site that it comes from.
const SANDBOX: &str =
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox";
/// What has its hash as name never changes. A proxy that many share must not keep what a token was needed for.
const FOR_EVER: &str = "private, max-age=31536000, immutable";
/// What a path has may change: a copy is used after asking.
const ASK_FIRST: &str = "private, no-cache";

/// What of the content is to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Nothing: the client has it.
    NotModified,
    /// All of it.
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// Bytes that it does not have.
    Unsatisfiable,
}

/// Decides by the header fields of a GET, or of a HEAD, which knows no ranges. Several ranges, and what is no range, are answered with all of it.
pub fn wanted(headers: &HeaderMap, is_get: bool, content: ContentHash, size: u64) -> Wanted {
    let tag = tag(content);
    let known = |given: &HeaderValue| {
        let mut tags = given.to_str().unwrap_or_default().split(',').map(str::trim);
        tags.any(|given| given == "*" || given.trim_start_matches("W/") == tag)
    };
    if headers.get_all(IF_NONE_MATCH).iter().any(known) {
        return Wanted::NotModified;
    }
    // A part is of use only to who has the rest of just this content. A date tells less than a hash, and never matches.
    let of_this = headers.get(IF_RANGE).is_none_or(|given| given.as_bytes() == tag.as_bytes());
    match headers.get(RANGE).filter(|_| is_get && of_this) {
        Some(range) => range.to_str().ok().and_then(|text| part(text, size)).unwrap_or(Wanted::Whole),
        None => Wanted::Whole,
    }
}

/// `None`: not one range of bytes.
fn part(text: &str, size: u64) -> Option<Wanted> {
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More than can be counted is beyond any end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let range = match (first, last) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(if range.start < range.end { Wanted::Part(range) } else { Wanted::Unsatisfiable })
}

/// The hash, as an entity tag.
pub fn tag(content: ContentHash) -> String {
    format!("\"{content}\"")
}

/// What every answer about content says. `path`: where it was asked for by a path.
pub fn head(content: ContentHash, path: Option<&MediaPath>) -> HeaderMap {
    let (kind, shown) = path.map_or((BYTES, false), kind_of);
    let name = match path {
        Some(path) => disposition(path.name().as_encoded_bytes(), shown),
        None => disposition(content.to_string().as_bytes(), false),
    };
    let fixed = HeaderValue::from_static;
    let own = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| fixed("attachment"));
    let fields: [(HeaderName, HeaderValue); 6] = [
        (ETAG, own(&tag(content))),
        (ACCEPT_RANGES, fixed("bytes")),
        (CONTENT_TYPE, fixed(kind)),
        (CONTENT_DISPOSITION, own(&name)),
        (CONTENT_SECURITY_POLICY, fixed(SANDBOX)),
        (CACHE_CONTROL, fixed(if path.is_some() { ASK_FIRST } else { FOR_EVER })),
    ];
    fields.into_iter().collect()
}

fn kind_of(path: &MediaPath) -> (&'static str, bool) {
    let ending = path.as_path().extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    let known = ending.and_then(|ending| TYPES.iter().find(|(known, ..)| *known == ending));
    known.map_or((BYTES, false), |&(_, kind, shown)| (kind, shown))
}

/// Letters, digits and a few signs of a name stand as they are; for clients that know RFC 8187 all of it does, byte by byte.
fn disposition(name: &[u8], shown: bool) -> String {
    let how = if shown { "inline" } else { "attachment" };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let simple: String = name.iter().map(|&byte| if plain(byte) { char::from(byte) } else { '_' }).collect();
    if simple.as_bytes() == name {
        return format!("{how}; filename=\"{simple}\"");
    }
    let whole = String::from_utf8_lossy(name).bytes().fold(String::new(), |whole, byte| match byte {
        byte if plain(byte) => whole + &char::from(byte).to_string(),
        byte => whole + &format!("%{byte:02X}"),
    });
    format!("{how}; filename=\"{simple}\"; filename*=UTF-8''{whole}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect()
    }

    #[test]
    fn ranges_are_of_bytes_that_there_are() {
        use Wanted::*;
        for (range, size, expected) in [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=2-5", 10, Part(2..6)),
            ("bytes=2-", 10, Part(2..10)),
            ("bytes=2-99", 10, Part(2..10)),
            ("bytes=2-99999999999999999999999", 10, Part(2..10)),
            ("bytes=-3", 10, Part(7..10)),
            ("bytes=-30", 10, Part(0..10)),
            ("Bytes = 2-5", 10, Part(2..6)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-1", 0, Unsatisfiable),
            ("bytes=5-2", 10, Whole),
            ("bytes=0-1,3-4", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("lines=0-1", 10, Whole),
            ("bytes", 10, Whole),
        ] {
            let content = ContentHash::of_nothing();
            let given = headers(&[(RANGE, range)]);
            assert_eq!(wanted(&given, true, content, size), expected, "{range} of {size}");
            assert_eq!(wanted(&given, false, content, size), Whole, "a HEAD knows no ranges");
        }
    }

    #[test]
    fn conditions_are_on_the_hash() {
        let content = ContentHash::of_nothing();
        let (tag, other) = (tag(content), tag(ContentHash::of(b"other")));
        let part = Wanted::Part(0..1);
        for (fields, expected) in [
            (vec![(IF_NONE_MATCH, tag.clone())], Wanted::NotModified),
            (vec![(IF_NONE_MATCH, format!("{other}, W/{tag}"))], Wanted::NotModified),
            (vec![(IF_NONE_MATCH, "*".into())], Wanted::NotModified),
            (vec![(IF_NONE_MATCH, other.clone())], part.clone()),
            (vec![(IF_NONE_MATCH, tag.replace('"', ""))], part.clone()),
            (vec![(IF_RANGE, tag.clone())], part.clone()),
            (vec![(IF_RANGE, other.clone())], Wanted::Whole),
            (vec![(IF_RANGE, format!("W/{tag}"))], Wanted::Whole),
            (vec![(IF_RANGE, "Wed, 21 Oct 2015 07:28:00 GMT".into())], Wanted::Whole),
        ] {
            let mut given = headers(&[(RANGE, "bytes=0-0")]);
            fields.iter().for_each(|(name, value)| _ = given.insert(name, value.parse().expect("a value")));
            assert_eq!(wanted(&given, true, content, 10), expected, "{fields:?}");
        }
    }

    #[test]
    fn names_neither_break_out_of_their_field_nor_choose_what_is_run() {
        let says = |path: &[u8]| {
            let path = MediaPath::new(path).expect("a path");
            let head = head(ContentHash::of_nothing(), Some(&path));
            let text = |name: HeaderName| head[name].to_str().expect("text").to_owned();
            (text(CONTENT_TYPE), text(CONTENT_DISPOSITION))
        };
        for (path, kind, disposition) in [
            (&b"a/cat.JPG"[..], "image/jpeg", "inline; filename=\"cat.JPG\""),
            (b"x.svg", "image/svg+xml", "attachment; filename=\"x.svg\""),
            (b"x.html", BYTES, "attachment; filename=\"x.html\""),
            (b"none", BYTES, "attachment; filename=\"none\""),
            (b".jpg", BYTES, "attachment; filename=\".jpg\""),
            (
                b"a\"b\r\nX: y.txt",
                "text/plain; charset=utf-8",
                "inline; filename=\"a_b__X__y.txt\"; filename*=UTF-8''a%22b%0D%0AX%3A%20y.txt",
            ),
            (
                "b\u{fc}rger %.png".as_bytes(),
                "image/png",
                "inline; filename=\"b__rger__.png\"; filename*=UTF-8''b%C3%BCrger%20%25.png",
            ),
            (b"\xff.gif", "image/gif", "inline; filename=\"_.gif\"; filename*=UTF-8''%EF%BF%BD.gif"),
        ] {
            assert_eq!(says(path), (kind.to_owned(), disposition.to_owned()), "{path:?}");
        }
        assert!(TYPES.is_sorted_by(|a, b| a.0 < b.0));
        let by_hash = head(ContentHash::of_nothing(), None);
        assert!(
            by_hash[CONTENT_DISPOSITION].to_str().expect("text").starts_with("attachment; filename=\"e3b0")
        );
    }
}
