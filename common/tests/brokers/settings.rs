//! What users type becomes what the programs need, or one clear error.

use clap::Parser;
use common::{
    exit::{Exit, Fault},
    settings::{
        Auth, CommonArgs, Environment, HealthArgs, Listen, LogFormat, PlaceArgs, Removals, Server, Settings,
        SettingsError, Size, UploadArgs, WatchArgs,
    },
};
use std::{fs, path::Path};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    transfer: UploadArgs,
    #[command(flatten)]
    watch: WatchArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    health: HealthArgs,
}

fn cli(args: &[&str]) -> Cli {
    Cli::try_parse_from(std::iter::once("test").chain(args.iter().copied())).unwrap()
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    std::iter::once(("HOME", "/home/u")).chain(variables.iter().copied()).collect()
}

fn resolve(args: &[&str], variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let common = cli(args).common;
    common.resolve(&common.layers(environment(variables))?)
}

fn refused(args: &[&str], variables: &[(&str, &str)]) -> String {
    let error = resolve(args, variables).unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    error.to_string()
}

#[test]
fn without_any_setting_everything_has_its_default() {
    let settings = resolve(&[], &[]).unwrap();
    assert_eq!(settings.mirror.as_str(), "media");
    assert_eq!(settings.base, Path::new("/home/u/.local/state/mediamirror"));
    assert_eq!((settings.root, settings.state_dir), (None, None));
    assert_eq!((settings.store.replicas, settings.store.history), (1, None));
    assert!(!settings.store.durable_blobs);
    assert!(matches!(settings.nats.server, Server::Embedded { port: 4222, .. }));
    assert_eq!(settings.nats.auth, Auth::None);

    let all = cli(&[]);
    let layers = all.common.layers(environment(&[])).unwrap();
    let transfer = all.transfer.resolve(&layers).unwrap();
    assert_eq!((transfer.limit, transfer.transfers), (None, 256));
    let place = all.place.resolve(&layers).unwrap();
    assert_eq!((place.removals, place.owner, place.trash_days), (Removals::Trash, None, 7));
    assert_eq!(place.min_free.to_string(), "5%, at most 1GiB");
}

#[test]
fn the_state_belongs_to_mirror_and_root_whatever_way_the_root_is_spelled() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap().join("real");
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
    let state = |root: &Path, mirror: &str| {
        resolve(&["--root", root.to_str().unwrap(), "--mirror", mirror], &[]).unwrap().folders().unwrap()
    };
    let one = state(&real, "media");
    assert_eq!(one.root, real);
    assert_eq!(state(&dir.path().join("link"), "media"), one);
    assert_ne!(state(&real, "other").state, one.state);
    let name = one.state.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("media-") && name.len() == "media-".len() + 16, "{name}");

    let missing = resolve(&["--root", "/no/such"], &[]).unwrap();
    assert_eq!(missing.root.as_deref(), Some(Path::new("/no/such")), "checked by who opens it");
    let error = resolve(&[], &[]).unwrap().folders().unwrap_err();
    assert_eq!(error.to_string(), "--root is required");
    assert!(error.hint().unwrap().contains("MEDIAMIRROR_ROOT"));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    let lines =
        ["node = 'file'", "mirror = 'file'", "replicas = 3", "durable-blobs = true", "log-format = 'json'"];
    fs::write(&file, lines.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    let env = [("MEDIAMIRROR_CONFIG", file), ("MEDIAMIRROR_NODE", "env"), ("MEDIAMIRROR_MIRROR", "env")];
    let settings = resolve(&["--node", "flag"], &env).unwrap();
    assert_eq!((settings.node.as_str(), settings.mirror.as_str()), ("flag", "env"));
    assert_eq!((settings.store.replicas, settings.store.durable_blobs), (3, true));
    assert_eq!(settings.log.format, Some(LogFormat::Json));
    let settings = resolve(&["--durable-blobs=false", "--config", file], &[]).unwrap();
    assert!(!settings.store.durable_blobs);
    assert!(resolve(&["--durable-blobs"], &[]).unwrap().store.durable_blobs);
}

#[test]
fn lists_and_limits_come_from_every_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    let lines = [
        "ignore = ['*.bak', '/cache/']",
        "upload-limit = '64MiB'",
        "transfers = 4",
        "owner = 'www-data:33'",
        "min-free = '7%'",
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let resolved = |args: &[&str], variables: &[(&str, &str)]| {
        let all = cli(&[&config, args].concat());
        let layers = all.common.layers(environment(variables)).unwrap();
        let watch = all.watch.resolve(&layers).unwrap();
        (watch.ignore, all.transfer.resolve(&layers).unwrap(), all.place.resolve(&layers).unwrap())
    };
    let (ignore, transfer, place) = resolved(&[], &[("MEDIAMIRROR_TRASH_DAYS", "3")]);
    assert_eq!(ignore, ["*.bak", "/cache/"]);
    assert_eq!(transfer.limit, Some(Size::new(64 << 20)));
    assert_eq!(transfer.transfers, 4);
    assert!(place.owner.is_some());
    assert_eq!(place.min_free.to_string(), "7%", "from the file");
    let min_free = |args: &[&str]| resolved(args, &[("MEDIAMIRROR_MIN_FREE", "2GiB")]).2.min_free.to_string();
    assert_eq!((min_free(&[]), min_free(&["--min-free", "300MiB"])), ("2GiB".into(), "300MiB".into()));
    assert_eq!(resolved(&["--ignore", "a", "--ignore", "b"], &[]).0, ["a", "b"]);
    assert_eq!(resolved(&[], &[("MEDIAMIRROR_IGNORE", "x\ny z")]).0, ["x", "y z"]);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    let error = |text: &str| {
        fs::write(&file, text).unwrap();
        resolve(&["--config", file.to_str().unwrap()], &[]).unwrap_err()
    };
    let unknown = error("uplaod-limit = '1MiB'");
    assert!(unknown.to_string().contains("unknown key \"uplaod-limit\""), "{unknown}");
    assert_eq!(unknown.hint().unwrap(), "did you mean `upload-limit`?");
    assert!(error("zzzzzzzzzzzz = 1").hint().unwrap().contains("names of the flags"));
    assert!(error("config = 'x'").to_string().contains("unknown key"));
    assert!(error("root = [1]").to_string().contains("root in"));
    assert!(error("root = ").to_string().contains("is not TOML"));
    let gone = refused(&["--config", "/no/such.toml"], &[]);
    assert!(gone.contains("/no/such.toml"), "{gone}");
}

#[test]
fn bad_values_say_where_they_were_given() {
    for (args, variables, expected) in [
        (&["--mirror", "Media"][..], &[][..], "--mirror: \"Media\" is not a mirror name"),
        (&[], &[("MEDIAMIRROR_NODE", "a.b")], "MEDIAMIRROR_NODE: \"a.b\" is not a node name"),
        (&["--replicas", "6"], &[], "--replicas: \"6\" is not a whole number from 1 to 5"),
        (&["--history", "0"], &[], "--history: \"0\" is not a whole number"),
        (&["--log-format", "xml"], &[], "--log-format: \"xml\" is none of text, json"),
        (&["--nats-url", "http://h"], &[], "--nats-url: \"the URL\" is not one of a NATS server"),
        (&["--nats-url", "nats://u:secret@"], &[], "--nats-url: \"the URL\""),
        (&[], &[("NATS_URL", "ws://h")], "NATS_URL: \"the URL\" is of the scheme ws"),
        (&["--nats-url", "nats://h/path"], &[], "--nats-url: \"the URL\" is with a path"),
        (&["--tls-cert", "c"], &[], "--tls-key is required"),
        (&["--creds", "c", "--nkey", "n"], &[], "--creds and --nkey exclude each other"),
        (&["--context", "../x"], &[], "--context: \"../x\" is not the name of a context"),
        (
            &[],
            &[("MEDIAMIRROR_EMBEDDED_PORT", "0")],
            "MEDIAMIRROR_EMBEDDED_PORT: \"0\" is not a whole number",
        ),
    ] {
        let error = refused(args, variables);
        assert!(error.contains(expected), "{error} does not contain {expected}");
        assert!(!error.contains("secret"), "{error}");
    }
    let all = cli(&["--transfers", "513", "--upload-limit", "1", "--removals", "maybe", "--owner", "x"]);
    let layers = all.common.layers(environment(&[])).unwrap();
    assert!(all.transfer.resolve(&layers).unwrap_err().to_string().contains("below 64KiB/s"));
    assert!(all.place.resolve(&layers).unwrap_err().to_string().contains("none of trash, delete, ignore"));
    let place = cli(&["--min-free", "100%"]).place.resolve(&layers).unwrap_err().to_string();
    assert!(place.contains("--min-free: \"100%\" is neither a size such as 1GiB nor a share"), "{place}");
}

#[test]
fn a_context_of_the_nats_cli_stands_where_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let contexts = dir.path().join("nats/context");
    fs::create_dir_all(&contexts).unwrap();
    let prod = r#"{"description":"x","url":"nats://prod:4222,nats://prod2:4222","creds":"~/prod.creds","ca":"/ca.pem"}"#;
    fs::write(contexts.join("prod.json"), prod).unwrap();
    let user = r#"{"url":"nats://u:4222","user":"u","password":"hidden"}"#;
    fs::write(contexts.join("user.json"), user).unwrap();
    let xdg = ("XDG_CONFIG_HOME", dir.path().to_str().unwrap());
    let nats = |args: &[&str], more: &[(&str, &str)]| resolve(args, &[&[xdg], more].concat()).unwrap().nats;
    let hosts = |server: &Server| match server {
        Server::At(addrs) => addrs.iter().map(|addr| addr.host().to_owned()).collect::<Vec<_>>(),
        Server::Embedded { .. } => vec![],
    };
    let by_flag = nats(&["--context", "prod"], &[("NATS_URL", "nats://env")]);
    assert_eq!(hosts(&by_flag.server), ["prod", "prod2"]);
    assert_eq!(by_flag.auth, Auth::Creds("/home/u/prod.creds".into()));
    assert_eq!(by_flag.tls.ca.as_deref(), Some(Path::new("/ca.pem")));
    let by_env = nats(&[], &[("NATS_URL", "nats://env"), ("NATS_CONTEXT", "prod")]);
    assert_eq!(hosts(&by_env.server), ["env"]);
    let beaten = nats(&["--nats-url", "nats://flag", "--nkey", "n"], &[("NATS_CONTEXT", "prod")]);
    assert_eq!((hosts(&beaten.server), beaten.auth), (vec!["flag".into()], Auth::Nkey("n".into())));

    let with_password = nats(&["--context", "user"], &[]);
    assert!(
        matches!(&with_password.auth, Auth::Password(user, word) if user == "u" && word.reveal() == "hidden")
    );
    assert!(!format!("{with_password:?}").contains("hidden"));
    let absent = refused(&["--context", "absent"], &[xdg]);
    assert!(absent.contains("absent.json"), "{absent}");
}

#[test]
fn a_password_in_the_url_is_used_and_never_shown() {
    let nats = resolve(&["--nats-url", "tls://bob:s%40crt@h1:1,h2"], &[]).unwrap().nats;
    assert!(matches!(&nats.auth, Auth::Password(user, word) if user == "bob" && word.reveal() == "s@crt"));
    let shown = format!("{nats:?}");
    assert!(shown.contains("h1:1") && shown.contains("h2:4222") && !shown.contains("crt"), "{shown}");
    let nats = resolve(&["--nats-url", "nats://t0ken@h"], &[]).unwrap().nats;
    assert!(matches!(&nats.auth, Auth::Token(token) if token.reveal() == "t0ken"));
}

#[test]
fn http_is_on_loopback_or_behind_tokens() {
    let http = |args: &[&str], variables: &[(&str, &str)]| resolve(args, variables).unwrap().http;
    assert_eq!((http(&[], &[]).listen, http(&[], &[]).tokens), (Listen::Default, None));
    assert_eq!(http(&["--http", "127.0.0.1:1"], &[("MEDIAMIRROR_HTTP", "off")]).listen, at("127.0.0.1:1"));
    assert_eq!(http(&[], &[("MEDIAMIRROR_HTTP", "off")]).listen, Listen::Off);
    assert_eq!(http(&["--http", "[::1]:80"], &[]).listen, at("[::1]:80"));
    let tokens = http(&["--http", "0.0.0.0:80", "--http-token-file", "/t"], &[]);
    assert_eq!((tokens.listen, tokens.tokens), (at("0.0.0.0:80"), Some("/t".into())));
    for wrong in ["7421", "localhost", "127.0.0.1"] {
        assert!(refused(&["--http", wrong], &[]).starts_with("--http: "), "{wrong}");
    }
    for everywhere in ["0.0.0.0:80", "[::]:80", "192.0.2.1:80"] {
        assert!(refused(&["--http", everywhere], &[]).contains("--http-token-file"), "{everywhere}");
    }
}

fn at(address: &str) -> Listen {
    Listen::At(address.parse().unwrap())
}

#[test]
fn a_lag_is_a_time_and_never_none_at_all() {
    let lag = |args: &[&str]| {
        let all = cli(args);
        all.health.resolve(&all.common.layers(environment(&[])).unwrap())
    };
    assert_eq!(lag(&[]).unwrap().as_secs(), 15);
    assert_eq!(lag(&["--max-lag", "1m"]).unwrap().as_secs(), 60);
    for wrong in ["0s", "soon"] {
        assert!(lag(&["--max-lag", wrong]).is_err(), "{wrong}");
    }
}
