//! The parameters of a request, strictly: a name that is not known, comes twice or has a value that cannot be is refused by name, for a typing error that is
//! ignored answers another question than was asked.

use super::Problem;
use crate::path::MediaPath;
use axum::http::{StatusCode, Uri};
use serde_json::json;
use std::{fmt::Display, str::FromStr};

/// What stands behind the `?`, decoded: values are bytes, as paths are.
#[derive(Debug)]
pub struct Query(Vec<(&'static str, Vec<u8>)>);

impl Query {
    /// Takes the parameters of a request that knows these.
    pub fn of(uri: &Uri, known: &[&'static str]) -> Result<Self, Problem> {
        let mut taken: Vec<(&'static str, Vec<u8>)> = Vec::new();
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name).map(|name| String::from_utf8_lossy(&name).into_owned());
            let name = name.ok_or_else(|| refused("?", "what stands behind a % is no byte"))?;
            let Some(&name) = known.iter().find(|known| **known == name) else {
                return Err(refused(&name, "not known here"));
            };
            if taken.iter().any(|(before, _)| *before == name) {
                return Err(refused(name, "given twice"));
            }
            taken.push((
                name,
                decoded(value).ok_or_else(|| refused(name, "what stands behind a % is no byte"))?,
            ));
        }
        Ok(Self(taken))
    }

    /// The exact bytes of one.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_slice())
    }

    /// One of them, by the text form of what it is.
    pub fn get<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.get_by(name, str::parse)
    }

    /// One of them, by a form of its own.
    pub fn get_by<T, E: Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        let Some(bytes) = self.bytes(name) else { return Ok(None) };
        let text = std::str::from_utf8(bytes).map_err(|_| refused(name, "not UTF-8"))?;
        parse(text).map(Some).map_err(|error| refused(name, &error.to_string()))
    }
}

/// The path of a file, written behind `prefix` in the path of a request: its bytes, those that need it as `%XX`. A `/` within a component there cannot be, so an encoded one
/// is refused rather than guessed at.
pub fn path_below(uri: &Uri, prefix: &str) -> Result<MediaPath, Problem> {
    let written = uri.path().strip_prefix(prefix).ok_or_else(|| refused("path", "missing"))?;
    if written.to_ascii_lowercase().contains("%2f") {
        return Err(refused("path", "an encoded / in it"));
    }
    let bytes =
        percent_decoded(written).ok_or_else(|| refused("path", "what stands behind a % is no byte"))?;
    MediaPath::new(&bytes).map_err(|error| refused("path", &error.to_string()))
}

/// 400: this parameter cannot be so.
pub fn refused(parameter: &str, why: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("the parameter {parameter}: {why}"))
        .with("parameter", json!(parameter))
}

/// As forms write it: `+` is a space, `%XX` a byte. `None`: what follows a `%` is none.
fn decoded(text: &str) -> Option<Vec<u8>> {
    if text.contains('+') { percent_decoded(&text.replace('+', " ")) } else { percent_decoded(text) }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.as_bytes().split_at_checked(2)?;
        let digit = |digit: u8| char::from(digit).to_digit(16);
        bytes.push(u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?);
        bytes.extend_from_slice(rest);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, Problem> {
        Query::of(&format!("/x?{text}").parse().expect("a URI"), &["path", "from"])
    }

    #[test]
    fn values_are_bytes_in_the_form_of_forms() {
        for (text, expected) in [
            ("path=a/b.jpg", &b"a/b.jpg"[..]),
            ("from=1&path=a+b%2Bc%20d", b"a b+c d"),
            ("path=%ff%C3%A9&", b"\xff\xc3\xa9"),
            ("path=a=b", b"a=b"),
            ("path", b""),
            ("p%61th=x", b"x"),
        ] {
            assert_eq!(query(text).expect("a query").bytes("path"), Some(expected), "{text}");
        }
        assert_eq!(query("").expect("a query").bytes("path"), None);
        assert_eq!(query("from=12").expect("a query").get::<u64>("from").expect("a number"), Some(12));
    }

    #[test]
    fn a_path_in_the_path_is_the_bytes_of_a_file_that_may_be() {
        let path = |text: &str| path_below(&format!("/p/{text}").parse().expect("a URI"), "/p/");
        for (text, expected) in [("a/b.jpg", &b"a/b.jpg"[..]), ("a+b%20c", b"a+b c"), ("%ff%25", b"\xff%")] {
            assert_eq!(path(text).expect("a path").as_bytes(), expected, "{text}");
        }
        for text in
            ["", "..", "a/../b", "..%2fa", "a%2Fb", "a%00b", "%2e%2e/a", "/a", "a//b", ".mirror/id", "a%4"]
        {
            assert_eq!(path(text).expect_err("a problem").field("parameter"), "path", "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, name) in [
            ("path=a&path=b", "path"),
            ("form=1", "form"),
            ("path=%", "path"),
            ("path=%4", "path"),
            ("path=%4g", "path"),
            ("path=%+1", "path"),
            ("path=%é", "path"),
            ("%=1", "?"),
        ] {
            let problem = query(text).expect_err("a problem");
            assert_eq!(problem.field("parameter"), name, "{text}");
        }
        for (text, value) in [("from=", "from"), ("from=-1", "from"), ("from=%ff", "from")] {
            let problem = query(text).expect("a query").get::<u64>("from").expect_err("a problem");
            assert_eq!(problem.field("parameter"), value, "{text}");
        }
    }
}
