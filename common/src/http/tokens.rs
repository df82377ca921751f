//! Who may ask, and for what: tokens from a file, one a line. Only their hashes are kept, and they are compared in constant time.

use crate::exit::{Exit, Fault};
use axum::http::{HeaderMap, header::AUTHORIZATION};
use ring::digest::{SHA256, digest};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A shorter token could be guessed.
const LEAST: usize = 16;

/// A file of tokens that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("the token file {} cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// Everybody on this machine can read it.
    #[error("the token file {} can be read by everybody on this machine (mode {mode:04o})", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A line of it is too short.
    #[error("the token file {} has a token of fewer than {LEAST} characters", .0.display())]
    Short(PathBuf),
    /// A line of it names scopes that there are not.
    #[error("the token file {} has something else after the token of line {} than scopes", .0.display(), .1)]
    Scopes(PathBuf, u64),
    /// It has no token.
    #[error("the token file {} has no token", .0.display())]
    Empty(PathBuf),
}

impl Fault for TokenError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Self::Short(_) | Self::Empty(_) => Some("openssl rand -hex 32 makes a token".into()),
            Self::Scopes(..) => Some("a line is TOKEN, or TOKEN and some of read,write,admin".into()),
            Self::Unreadable(..) => None,
        }
    }
}

/// What a token allows. Each is asked for by itself: none holds another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// To see what the log and the nodes say, file names among it, and contents.
    Read,
    /// To upload and to remove.
    Write,
    /// To do what an operator does.
    Admin,
}

impl Scope {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some scopes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scopes(u8);

impl Scopes {
    const NONE: Self = Self(0);
    /// Those of a token of which nothing else is said, and of everybody where no token is asked for.
    pub const ALL: Self = Self(0b111);

    /// Whether this one is among them.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    fn parse(text: &str) -> Option<Self> {
        let named = |name| Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
        text.split(',').try_fold(Self::NONE, |all, name| Some(Self(all.0 | named(name)?.bit())))
    }
}

/// The hashes of the tokens, and what each allows.
#[derive(Clone)]
pub struct Tokens(Vec<([u8; 32], Scopes)>);

impl Tokens {
    /// Reads the file: a token a line, and after a space its scopes, `read,write` for example; without them it has all. Empty lines, and those that begin
    /// with `#`, are none.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |error| TokenError::Unreadable(path.into(), error);
        let mode = fs::metadata(path).map_err(unreadable)?.mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(TokenError::Exposed { path: path.into(), mode });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let mut tokens = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (token, scopes) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            if token.len() < LEAST {
                return Err(TokenError::Short(path.into()));
            }
            let scopes = match scopes.trim() {
                "" => Scopes::ALL,
                scopes => Scopes::parse(scopes).ok_or(TokenError::Scopes(path.into(), number))?,
            };
            tokens.push((hash(token), scopes));
        }
        if tokens.is_empty() { Err(TokenError::Empty(path.into())) } else { Ok(Self(tokens)) }
    }

    /// What a request may do that bears one of them; `None`: it bears none.
    pub fn admit(&self, headers: &HeaderMap) -> Option<Scopes> {
        let given = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = given.split_once(' ')?;
        let given = hash(token.trim());
        // All are compared, and each to its end: how long it takes says nothing.
        let differ = |known: &[u8; 32]| known.iter().zip(&given).fold(0, |differ, (a, b)| differ | (a ^ b));
        let found = self.0.iter().fold(Scopes::NONE, |found, (known, scopes)| {
            let same = u8::from(differ(known) == 0);
            Scopes(found.0 | (scopes.0 * same))
        });
        (found != Scopes::NONE && scheme.eq_ignore_ascii_case("bearer")).then_some(found)
    }
}

fn hash(token: &str) -> [u8; 32] {
    let hash = digest(&SHA256, token.as_bytes());
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn read(text: &str, mode: u32) -> Result<Tokens, TokenError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("written");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("set");
        Tokens::read(file.path())
    }

    const FILE: &str =
        "# tokens\n\n0123456789abcdef\n fedcba9876543210 read \nwrite-and-admin-0\twrite,admin\n";

    #[test]
    fn who_bears_a_token_of_the_file_may_do_what_it_is_for_and_nobody_else_anything() {
        let tokens = read(FILE, 0o600).expect("tokens");
        let admits = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a value"));
            let scopes = tokens.admit(&headers)?;
            Some(Scope::ALL.map(|scope| scopes.has(scope)))
        };
        for (value, expected) in [
            ("Bearer 0123456789abcdef", Some([true, true, true])),
            ("bearer fedcba9876543210", Some([true, false, false])),
            ("Bearer write-and-admin-0", Some([false, true, true])),
            ("", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("Bearer 0123456789abcde", None),
            ("Basic 0123456789abcdef", None),
            ("0123456789abcdef", None),
            ("Bearer fedcba9876543210 read", None),
        ] {
            assert_eq!(admits(value), expected, "{value}");
        }
        assert_eq!(tokens.admit(&HeaderMap::new()), None);
    }

    #[test]
    fn a_file_that_protects_nothing_is_refused() {
        assert!(matches!(read("0123456789abcdef", 0o644), Err(TokenError::Exposed { .. })));
        assert!(matches!(read("short", 0o600), Err(TokenError::Short(_))));
        assert!(matches!(read("# nothing\n", 0o600), Err(TokenError::Empty(_))));
        for scopes in ["reed", "read,", "read write", "Read"] {
            let read = read(&format!("0123456789abcdef\nfedcba9876543210 {scopes}\n"), 0o600);
            assert!(matches!(read, Err(TokenError::Scopes(_, 2))), "{scopes}");
        }
        assert!(matches!(Tokens::read(Path::new("/nowhere")), Err(TokenError::Unreadable(..))));
    }
}
