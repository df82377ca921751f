//! What an embedded server is made of: its name, its program, its configuration, its log.

use super::{
    embedded::{EmbeddedError, EmbeddedOptions},
    version::ServerVersion,
};
use rand::Rng;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, time::timeout};

/// A log of the server longer than this is set aside, once, at the next start.
const LOG_LIMIT: u64 = 8 << 20;

/// The name that the first process gave to this user's server; it stays.
pub(super) fn server_name(dir: &Path) -> io::Result<String> {
    let path = dir.join("name");
    match fs::read_to_string(&path) {
        Ok(name) => return Ok(name.trim().into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let random: u64 = rand::rng().random();
    let temp = dir.join(format!("name.{random:016x}"));
    let mut file = File::create_new(&temp)?;
    writeln!(file, "mediamirror-{random:016x}")?;
    file.sync_all()?;
    // A link is made by one of several at once, and is whole from the beginning.
    let linked = fs::hard_link(&temp, &path);
    fs::remove_file(&temp)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(fs::read_to_string(&path)?.trim().into()),
    }
}

/// A `nats-server` that runs, and is new enough.
pub(super) async fn find(options: &EmbeddedOptions) -> Result<(PathBuf, ServerVersion), EmbeddedError> {
    let on_path = || options.search.iter().map(|dir| dir.join("nats-server")).find(|path| path.is_file());
    let absent = || EmbeddedError::NoServer { looked: options.program.clone() };
    let program = options.program.clone().or_else(on_path).ok_or_else(absent)?;
    let mut command = Command::new(&program);
    let output = command.arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output =
        timeout(Duration::from_secs(5), output).await.ok().and_then(Result::ok).ok_or_else(absent)?;
    // "nats-server: v2.15.2"
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().filter_map(|word| word.parse::<ServerVersion>().ok()).next();
    match version.ok_or_else(absent)? {
        version if version < ServerVersion::OLDEST => Err(EmbeddedError::TooOld { program, version }),
        version => Ok((program, version)),
    }
}

pub(super) fn config(name: &str, dir: &Path, port: u16, durable: bool) -> String {
    // JSON's escapes are those of the server's own quoted strings.
    let store = serde_json::Value::from(dir.join("jetstream").to_string_lossy()).to_string();
    let sync = if durable { "\n  # Acknowledged means on disk.\n  sync_interval: always" } else { "" };
    format!(
        "# Written by mediamirror at each start of its embedded broker; changes are lost.\n\
         server_name: {name}\nlisten: \"127.0.0.1:{port}\"\njetstream {{\n  store_dir: {store}{sync}\n}}\n"
    )
}

pub(super) fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Exit, Fault};

    #[test]
    fn the_name_is_made_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let names: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| server_name(dir.path()).expect("a name"))).collect();
            makers.into_iter().map(|maker| maker.join().expect("no panic")).collect()
        });
        assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
        assert_eq!(names[0].len(), "mediamirror-".len() + 16);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn a_missing_server_says_how_to_get_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = EmbeddedOptions {
            base: dir.path().into(),
            port: 1,
            program: None,
            search: vec![dir.path().into()],
        };
        let error = find(&options).await.expect_err("there is none");
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().contains("no nats-server"), "{error}");
        let hint = error.hint().expect("a hint");
        assert!(hint.contains("apt-get install nats-server") && hint.contains("go install"), "{hint}");
    }
}
