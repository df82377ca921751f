//! Who may ask: tokens from a file, one a line. Only their hashes are kept, and they are compared in constant time.

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
            Self::Unreadable(..) => None,
        }
    }
}

/// The hashes of the tokens.
#[derive(Clone)]
pub struct Tokens(Vec<[u8; 32]>);

impl Tokens {
    /// Reads the file. Empty lines, and those that begin with `#`, are none.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |error| TokenError::Unreadable(path.into(), error);
        let mode = fs::metadata(path).map_err(unreadable)?.mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(TokenError::Exposed { path: path.into(), mode });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let tokens: Vec<&str> = lines.collect();
        if tokens.iter().any(|token| token.len() < LEAST) {
            return Err(TokenError::Short(path.into()));
        }
        match tokens.is_empty() {
            true => Err(TokenError::Empty(path.into())),
            false => Ok(Self(tokens.into_iter().map(hash).collect())),
        }
    }

    /// Whether a request bears one of them.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(given) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let Some((scheme, token)) = given.split_once(' ') else { return false };
        let given = hash(token.trim());
        // All are compared, and each to its end: how long it takes says nothing.
        let same =
            |known: &[u8; 32]| known.iter().zip(&given).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0;
        let found = self.0.iter().fold(false, |found, known| found | same(known));
        found && scheme.eq_ignore_ascii_case("bearer")
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

    #[test]
    fn who_bears_a_token_of_the_file_may_ask_and_nobody_else() {
        let tokens = read("# tokens\n\n0123456789abcdef\n fedcba9876543210 \n", 0o600).expect("tokens");
        let admits = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a value"));
            tokens.admit(&headers)
        };
        assert!(admits("Bearer 0123456789abcdef") && admits("bearer fedcba9876543210"));
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer 0123456789abcde", "Basic 0123456789abcdef", "0123456789abcdef"]
        {
            assert!(!admits(wrong), "{wrong}");
        }
        assert!(!tokens.admit(&HeaderMap::new()));
    }

    #[test]
    fn a_file_that_protects_nothing_is_refused() {
        assert!(matches!(read("0123456789abcdef", 0o644), Err(TokenError::Exposed { .. })));
        assert!(matches!(read("short", 0o600), Err(TokenError::Short(_))));
        assert!(matches!(read("# nothing\n", 0o600), Err(TokenError::Empty(_))));
        assert!(matches!(Tokens::read(Path::new("/nowhere")), Err(TokenError::Unreadable(..))));
    }
}
