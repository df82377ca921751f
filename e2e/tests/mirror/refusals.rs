//! Bad input: a clear error, the right exit code, and nothing changed.

use e2e::{Finished, Mirror, Role, SOON, Tree, write};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Runs one program with exactly these arguments, its state in `home`.
fn run(role: Role, home: &Path, arguments: &[&str]) -> Finished {
    let mut command = Command::new(role.program());
    command.args(arguments).env("XDG_STATE_HOME", home.join("state"));
    ["NATS_URL", "NATS_CONTEXT", "STATE_DIRECTORY"].iter().for_each(|name| _ = command.env_remove(name));
    e2e::run(SOON, command)
}

fn expect(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is missing in {finished:?}");
    }
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
}

/// Everything below a folder, folders included.
fn everything(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(everything(&entry.path()));
        }
        found.push(entry.path());
    }
    found.sort();
    found
}

#[test]
fn bad_settings_are_refused_and_change_nothing() {
    let mirror = Mirror::prepared(&["a"]);
    let home = mirror.outside("home");
    let root = home.join("media");
    write(&root.join("file"), b"file");
    let config = home.join("bad.toml");
    write(&config, b"mirror = \"media\"\ncolour = \"red\"\n");
    let (root, config) = (root.to_str().unwrap(), config.to_str().unwrap());
    let url = "nats://127.0.0.1:1";
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--root", root, "--nats-url", url, "--mirror", "Media"], &["Media", "mirror"]),
        (&["--root", root, "--nats-url", url, "--mirror", "a.b"], &["a.b"]),
        (&["--root", root, "--nats-url", url, "--node", "a.b"], &["a.b", "node"]),
        (&["--root", root, "--nats-url", url, "--node", ""], &["node"]),
        // A URL may hold a password: it is not repeated.
        (&["--root", root, "--nats-url", "no url at all"], &["--nats-url", "nats://"]),
        (&["--root", root, "--nats-url", url, "--config", config], &["colour"]),
        (&["--root", root, "--nats-url", url, "--config", "/nowhere/x.toml"], &["/nowhere/x.toml"]),
        (&["--root", root, "--nats-url", url, "--no-such-flag"], &["--no-such-flag"]),
        (&["--nats-url", url], &["--root"]),
    ];
    let before = everything(&home);
    for role in Role::ALL {
        for (arguments, words) in &cases {
            expect(&run(role, &home, &[&["run"], *arguments].concat()), 2, words);
            assert_eq!(everything(&home), before, "{arguments:?}");
        }
        for (flag, value) in [("--download-limit", "fast"), ("--transfers", "0"), ("--upload-limit", "-1")] {
            let mine = if role == Role::Watcher { "--download-limit" } else { "--upload-limit" };
            if flag == mine {
                continue; // Of the other program.
            }
            let finished = run(role, &home, &["run", "--root", root, "--nats-url", url, flag, value]);
            expect(&finished, 2, &[flag]);
            assert_eq!(everything(&home), before, "{flag}");
        }
    }
}

#[test]
fn a_root_that_cannot_be_one_is_refused_before_the_broker_is_asked() {
    let mirror = Mirror::prepared(&["a"]);
    let home = mirror.outside("home");
    write(&home.join("a-file"), b"not a folder");
    let before = everything(&home);
    for role in Role::ALL {
        for (root, word) in [("missing", "missing"), ("a-file", "a-file")] {
            let path = home.join(root);
            let arguments = ["run", "--root", path.to_str().unwrap(), "--nats-url", "nats://127.0.0.1:1"];
            expect(&run(role, &home, &arguments), 1, &[word]);
            assert_eq!(everything(&home), before, "{root}");
        }
    }
}

#[test]
fn a_root_that_is_not_writable_is_refused() {
    let mirror = Mirror::prepared(&["a"]);
    let home = mirror.outside("home");
    let root = home.join("media");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o555)).unwrap();
    let bin = mirror.outside("bin");
    let is_root = rustix::process::geteuid().is_root();
    for role in Role::ALL {
        // A copy: the build's own folder may be closed to other users.
        let program = bin.join(role.name());
        fs::copy(role.program(), &program).unwrap();
        let mut command = if is_root { e2e::as_user(65534, &program) } else { Command::new(&program) };
        command.args(["run", "--nats-url", "nats://127.0.0.1:1", "--root"]).arg(&root);
        command.arg("--state").arg(home.join("state"));
        expect(&e2e::run(SOON, command), 1, &["media"]);
        assert!(everything(&root).is_empty());
        assert!(!home.join("state").exists());
    }
}

#[test]
fn a_second_process_of_a_kind_on_one_root_is_refused() {
    let mut mirror = Mirror::running(&["a"]);
    write(&mirror.nodes[0].path("file"), b"file");
    mirror.wait_equal(SOON);
    for role in Role::ALL {
        let first = mirror.nodes[0].process(role).id();
        expect(&mirror.nodes[0].run(role, &["run"]), 1, &["media"]);
        // Nor under another name with a state of its own: the root is what is in use.
        let mut command = Command::new(role.program());
        command.args(["run", "--node", "other", "--nats-url", &mirror.broker.url()]);
        command.arg("--root").arg(&mirror.nodes[0].root).arg("--state").arg(mirror.outside("other-state"));
        expect(&e2e::run(SOON, command), 1, &["media"]);
        assert!(mirror.nodes[0].process(role).is_running());
        assert_eq!(mirror.nodes[0].process(role).id(), first);
    }
    assert_eq!(Tree::of(&mirror.nodes[0].root).0.len(), 1);
    write(&mirror.nodes[0].path("later"), b"later");
    mirror.wait_equal(SOON);
    assert_eq!(mirror.log().len(), 2);
}
