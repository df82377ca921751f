//! The fuzz targets with made up bytes: arbitrary ones, and such as look like what is parsed.

use proptest::prelude::*;

fn like(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
        1 => "[0-9a-zA-Z]{0,6}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

proptest! {
    #[test]
    fn paths(bytes in prop_oneof![any::<Vec<u8>>(), like(&["/", ".", "..", ".mirror", "%", "*", ">", "é", "long", " "])]) {
        fuzz::path(&bytes);
    }

    #[test]
    fn subjects(bytes in prop_oneof![any::<Vec<u8>>(), like(&[".", "%", "%2E", "%2e", "%long", "mirror.media", "%FF", "%C3%A9", HASH])]) {
        fuzz::subject(&bytes);
    }

    #[test]
    fn payloads(bytes in prop_oneof![any::<Vec<u8>>(), like(&[
        "mirror.media.a\n", "{", "}", "[", "]", ",", ":", "\"path\":\"a\"", "\"path_b64\":\"YQ==\"", "\"v\":1", "\"type\":\"added\"", "\"type\":\"removed\"",
        "\"size\":1", "\"mtime\":\"2026-01-01T00:00:00Z\"", "\"mode\":\"0644\"", "\"node\":\"a\"", "\"replaces\":0", "\"detected\":\"2026-01-01T00:00:00Z\"",
    ])]) {
        fuzz::payload(&bytes);
    }

    /// Nearly an event: fields of a whole one, some of them with other values.
    #[test]
    fn events(fields in prop::sample::subsequence(FIELDS, 0..=FIELDS.len()), value in "[ -~]{0,8}", at in 0..16usize) {
        let mut texts: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        if at < texts.len() {
            texts[at] = format!("\"{}\":{value}", fields[at].0);
        }
        fuzz::payload(format!("mirror.media.a\n{{{}}}", texts.join(",")).as_bytes());
    }

    #[test]
    fn ranges(size: u64, text in prop_oneof![any::<Vec<u8>>(), like(&["bytes", "=", "-", "0", "1", "18446744073709551615", ",", " "])]) {
        fuzz::range(&[&size.to_le_bytes(), text.as_slice()].concat());
    }
}

const FIELDS: &[(&str, &str)] = &[
    ("v", "1"),
    ("type", "\"added\""),
    ("path", "\"a\""),
    ("sha256", "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\""),
    ("size", "0"),
    ("mtime", "\"2026-01-01T00:00:00Z\""),
    ("mode", "\"0644\""),
    ("node", "\"cms-1\""),
    ("replaces", "0"),
    ("detected", "\"2026-01-01T00:00:00Z\""),
    ("was", "[\"2026-01-01T00:00:00Z\",3]"),
];

#[test]
fn a_whole_event_is_one() {
    let fields: Vec<String> = FIELDS.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    let whole = format!("{{{}}}", fields.join(","));
    let subjects = common::subject::Subjects::new(&"media".parse().expect("a good name"));
    common::event::Event::decode(&subjects, "mirror.media.a", whole.as_bytes()).expect("an event");
}
