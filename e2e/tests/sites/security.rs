//! The mirror under the users that `deploy/nats` ships: what they need works, and whatever they do not need is refused.

use e2e::{Http, Intruder, LONG, Mirror, Node, Role, SOON, Secured, Tree, content, look_at, wait_for, write};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

/// The broker of `deploy/nats/server.conf`, and two nodes under their own users.
struct Site {
    nodes: Vec<Node>,
    broker: Secured,
    dir: tempfile::TempDir,
}

impl Site {
    fn running(flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("mirror-secured-").tempdir().unwrap();
        let mut broker = Secured::prepared(dir.path(), "a,b", flags);
        broker.start();
        let nodes = ["a", "b"].map(|name| broker.node(dir.path(), name)).into();
        Self { nodes, broker, dir }
    }

    fn start(&mut self, node: usize, role: Role) {
        let user = format!("{}-{}", self.nodes[node].name, role.name());
        let mut arguments = self.broker.login(&user);
        if role == Role::Replicator {
            // To collect blobs is an operator's.
            arguments.extend(["--gc-every".into(), "off".into()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.nodes[node].start_with(role, &arguments);
    }

    /// A command of a user that is no node.
    fn command(&self, user: &str, role: Role, arguments: &[&str]) -> Command {
        let mut command = Command::new(role.program());
        command.args(arguments).args(["--node", user, "--nats-url", &self.broker.url()]);
        command.arg("--state").arg(self.dir.path().join(user)).args(self.broker.login(user));
        command
    }

    /// Runs it. Returns what it printed.
    fn run(&self, user: &str, role: Role, arguments: &[&str]) -> String {
        e2e::run(SOON, self.command(user, role, arguments)).succeeded().stdout
    }

    fn wait_equal(&self, files: usize) {
        wait_for(LONG, "equal trees", || {
            let trees: Vec<Tree> = self.nodes.iter().map(|node| Tree::of(&node.root)).collect();
            trees[0].equal(&trees[1])?;
            if trees[0].0.len() == files { Ok(()) } else { Err(format!("{} files", trees[0].0.len())) }
        });
    }
}

/// How long the log is.
fn length(operator: &Intruder) -> u64 {
    operator.ask("$JS.API.STREAM.INFO.MIRROR_MEDIA", "")["state"]["last_seq"].as_u64().expect("a length")
}

#[test]
fn the_mirror_runs_under_the_shipped_users_and_what_they_must_not_do_is_refused() {
    let mut site = Site::running(&[]);
    site.run("operator", Role::Replicator, &["provision", "--nodes", "a,b"]);
    (0..2).for_each(|node| Role::ALL.into_iter().for_each(|role| site.start(node, role)));
    // Enough at once for atomic batches; one of many chunks; both directions; a removal.
    (0..400).for_each(|n| write(&site.nodes[0].path(format!("many/{n}")), n.to_string().as_bytes()));
    write(&site.nodes[0].path("large"), &content("large", 3_000_000));
    write(&site.nodes[1].path("back"), b"back");
    site.wait_equal(402);
    fs::remove_file(site.nodes[0].path("back")).unwrap();
    site.wait_equal(401);

    // What an observer sees, with no right to change anything.
    let status = site.run("observer", Role::Replicator, &["status"]);
    assert!(status.contains("ready"), "{status}");
    assert_eq!(site.run("observer", Role::Replicator, &["log", "--json"]).lines().count(), 403);
    assert!(site.run("operator", Role::Replicator, &["gc", "--dry-run"]).contains("blob"));

    let operator = site.broker.client("operator", "_INBOX");
    forbidden_acts(&site, &operator);
    injections(&mut site, &operator);
    shut_out(&mut site);

    let seeds: Vec<String> = ["a-watcher", "a-replicator", "b-watcher", "b-replicator"]
        .map(|user| fs::read_to_string(site.broker.seed(user)).unwrap().trim().to_owned())
        .into();
    for node in &mut site.nodes {
        for role in Role::ALL.into_iter().filter(|&role| node.has(role)).collect::<Vec<_>>() {
            let process = node.process(role);
            let log = process.log();
            assert!(!log.contains("denies"), "{log}");
            let told = log + &fs::read_to_string(format!("/proc/{}/cmdline", process.id())).unwrap();
            assert!(seeds.iter().all(|seed| !told.contains(seed)), "a seed in {told}");
        }
    }
}

/// Each is refused by name, and the log is what it was.
fn forbidden_acts(site: &Site, operator: &Intruder) {
    let before = length(operator);
    let delete = "$JS.API.STREAM.DELETE.MIRROR_MEDIA";
    let purge = "$JS.API.STREAM.PURGE.OBJ_MIRROR_MEDIA_BLOBS";
    let acts: [(&str, &str, &[&str]); 4] = [
        (
            "a-replicator",
            "_INBOX_a_replicator",
            &[
                "mirror.media.evil",
                "$O.MIRROR_MEDIA_BLOBS.M.evil",
                "$KV.MIRROR_MEDIA_NODES.b.replicator",
                "$KV.MIRROR_MEDIA_NODES.a.watcher",
                "$KV.MIRROR_MEDIA_NODES._mirror",
                "$JS.API.CONSUMER.CREATE.MIRROR_MEDIA.evil.mirror.media.>",
                "$JS.API.CONSUMER.CREATE.OBJ_MIRROR_MEDIA_BLOBS",
                "$JS.API.CONSUMER.DURABLE.CREATE.MIRROR_MEDIA.evil",
                "$JS.API.CONSUMER.MSG.NEXT.MIRROR_MEDIA.replicator-b",
                "$JS.API.CONSUMER.DELETE.MIRROR_MEDIA.replicator-b",
                "$JS.ACK.MIRROR_MEDIA.replicator-b.1.1.1.1.1",
                "$JS.API.STREAM.UPDATE.MIRROR_MEDIA",
                delete,
                purge,
            ],
        ),
        (
            "a-watcher",
            "_INBOX_a_watcher",
            &[
                "$KV.MIRROR_MEDIA_NODES.b.watcher",
                "$KV.MIRROR_MEDIA_NODES.a.replicator",
                "$KV.MIRROR_MEDIA_NODES._mirror",
                "$JS.API.CONSUMER.CREATE.MIRROR_MEDIA.evil",
                "$JS.API.CONSUMER.MSG.NEXT.MIRROR_MEDIA.replicator-a",
                "$JS.API.STREAM.CREATE.EVIL",
                delete,
                purge,
            ],
        ),
        (
            "observer",
            "_INBOX_observer_replicator",
            &[
                "mirror.media.evil",
                "$O.MIRROR_MEDIA_BLOBS.M.evil",
                "$KV.MIRROR_MEDIA_NODES.a.watcher",
                "$JS.API.CONSUMER.CREATE.MIRROR_MEDIA.evil",
                "$JS.API.CONSUMER.MSG.NEXT.MIRROR_MEDIA.replicator-a",
                delete,
                purge,
            ],
        ),
        // Who looks after the streams does not write history.
        ("operator", "_INBOX", &["mirror.media.evil"]),
    ];
    for (user, inboxes, subjects) in acts {
        let intruder = site.broker.client(user, inboxes);
        for subject in subjects {
            intruder.publish(subject, None, "{}");
            intruder.wait_refused(subject);
        }
        if user != "operator" {
            let others = "_INBOX_b_replicator.>";
            drop(intruder.listen(others));
            intruder.wait_refused(others);
        }
    }
    assert_eq!(length(operator), before);
}

/// A request may name any subject for its answer. That the answer comes there can be seen; that it becomes no event, too.
fn injections(site: &mut Site, operator: &Intruder) {
    site.nodes[0].stop(Role::Replicator);
    write(&site.nodes[1].path("waits"), b"for a");
    wait_for(SOON, "an event for a", || {
        let info = operator.ask("$JS.API.CONSUMER.INFO.MIRROR_MEDIA.replicator-a", "");
        if info["num_pending"] == 1 { Ok(()) } else { Err(info.to_string()) }
    });
    let before = length(operator);
    let intruder = site.broker.client("a-replicator", "_INBOX_a_replicator");
    let heard = intruder.listen("mirror.media.>");
    let wait_heard = |count: usize, what: &str| {
        wait_for(SOON, what, || if heard() >= count { Ok(()) } else { Err(heard().to_string()) });
    };
    let target = Some("mirror.media.evil");
    intruder.publish("$JS.API.DIRECT.GET.OBJ_MIRROR_MEDIA_BLOBS", target, r#"{"seq":1}"#);
    wait_heard(1, "the answer of a direct get");
    intruder.publish(
        "$JS.API.CONSUMER.MSG.NEXT.MIRROR_MEDIA.replicator-a",
        target,
        r#"{"batch":1,"no_wait":true}"#,
    );
    wait_heard(2, "a delivery");
    intruder.publish("$JS.API.STREAM.INFO.MIRROR_MEDIA", target, "");
    wait_heard(3, "an answer of the API");
    assert_eq!(length(operator), before);
    // A watcher may publish events, and nothing else by such a detour.
    let watcher = site.broker.client("a-watcher", "_INBOX_a_watcher");
    let of_b = "$KV.MIRROR_MEDIA_NODES.b.replicator";
    for target in ["$JS.API.STREAM.PURGE.OBJ_MIRROR_MEDIA_BLOBS", of_b] {
        watcher.publish("$JS.API.DIRECT.GET.OBJ_MIRROR_MEDIA_BLOBS", Some(target), r#"{"seq":1}"#);
    }
    site.nodes[1].stop(Role::Replicator);
    let record = |operator: &Intruder| {
        operator.ask("$JS.API.DIRECT.GET.KV_MIRROR_MEDIA_NODES", &format!(r#"{{"last_by_subj":"{of_b}"}}"#))
    };
    assert_eq!(record(operator)["node"], "b");
    site.start(0, Role::Replicator);
    site.start(1, Role::Replicator);
    site.wait_equal(402);
}

/// A node whose name is left out is shut out at once, and let in again with the keys that it has. One whose key is deleted gets another.
fn shut_out(site: &mut Site) {
    site.broker.make_keys("a", &[]).succeeded();
    site.broker.reload();
    wait_for(SOON, "b to be told", || {
        let log = site.nodes[1].process(Role::Watcher).log().to_lowercase();
        if log.contains("authorization") || log.contains("credentials") { Ok(()) } else { Err(log) }
    });
    write(&site.nodes[1].path("while shut out"), b"kept");
    write(&site.nodes[0].path("for nobody yet"), b"kept, too");
    site.broker.make_keys("a,b", &[]).succeeded();
    site.broker.reload();
    for role in Role::ALL {
        // Who is told that its credentials are no good may end, and is started again.
        if !site.nodes[1].process(role).is_running() {
            assert_ne!(site.nodes[1].ended(role, SOON).code(), Some(0));
            site.start(1, role);
        }
    }
    site.wait_equal(404);
    let key = |site: &Site| fs::read_to_string(site.broker.seed("b-watcher")).unwrap();
    let before = key(site);
    for end in ["nk", "pub"] {
        fs::remove_file(site.broker.seed("b-watcher").with_extension(end)).unwrap();
    }
    site.broker.make_keys("a,b", &[]).succeeded();
    assert_ne!(key(site), before);
}

/// Rights on subjects alone do not do it: this is what the accounts are for.
#[test]
fn in_one_account_a_reader_has_the_broker_write_the_log() {
    let mut mirror = Mirror::prepared(&["a"]);
    mirror
        .broker
        .let_in(r#"{user: r, password: p, permissions: {publish: {allow: ["$JS.API.DIRECT.GET.>"]}}}"#);
    mirror.broker.start();
    let all = mirror.broker.url();
    mirror.nodes[0].find_broker_at(all);
    mirror.nodes[0].start_both();
    write(&mirror.nodes[0].path("f"), b"f");
    wait_for(SOON, "an event", || if mirror.log().is_empty() { Err("none".into()) } else { Ok(()) });
    let intruder = Intruder::connect(&mirror.broker.url_of("r"), None, "_INBOX", |options| {
        options.user_and_password("r".into(), "p".into())
    });
    intruder.publish("$JS.API.DIRECT.GET.OBJ_MIRROR_MEDIA_BLOBS", Some("mirror.media.evil"), r#"{"seq":1}"#);
    wait_for(SOON, "the injected event", || match mirror.nats().messages("MIRROR_MEDIA") {
        2.. => Ok(()),
        few => Err(few.to_string()),
    });
}

#[test]
fn every_shipped_configuration_is_one_the_server_takes_and_keys_are_added_beside_those_there() {
    let dir = tempfile::tempdir().unwrap();
    let broker =
        Secured::prepared(dir.path(), "a", &["--brokers", "one.example.org,two.example.org,10.0.0.3"]);
    let before = fs::read(broker.seed("a-watcher")).unwrap();
    broker.make_keys("a,b", &["--client-certificates"]).succeeded();
    assert_eq!(fs::read(broker.seed("a-watcher")).unwrap(), before);
    for entry in walk(&broker.config().join("secrets")) {
        let mode = fs::metadata(&entry).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} may be read by others", entry.display());
    }
    let mut looked = 0;
    for entry in fs::read_dir(broker.config()).unwrap() {
        let path = entry.unwrap().path();
        // Includes are looked at as parts of the others.
        if path.extension().is_some_and(|end| end == "conf")
            && fs::read_to_string(&path).unwrap().contains("server_name")
        {
            look_at(&path).succeeded();
            looked += 1;
        }
    }
    assert_eq!(looked, 4, "one server, and three of a cluster");
    for wrong in
        [&["--nodes", "A b"][..], &["--nodes", "operator"], &["--nodes", "a", "--mirror", "Media"], &[]]
    {
        let mut command = Command::new(broker.config().join("make-keys.sh"));
        command.args(wrong);
        assert_eq!(e2e::run(SOON, command).code, Some(2), "{wrong:?}");
    }
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn client_certificates_and_a_context_of_the_nats_cli_are_enough() {
    let site = Site::running(&["--client-certificates"]);
    let secrets = site.broker.config().join("secrets");
    let user = |end: &str| secrets.join(format!("users/operator{end}"));
    let without = site.command("operator", Role::Replicator, &["provision", "--nodes", "a"]);
    let refused = e2e::run(SOON, without);
    assert_ne!(refused.code, Some(0), "{refused:?}");

    let contexts = site.dir.path().join("nats/context");
    fs::create_dir_all(&contexts).unwrap();
    let context = serde_json::json!({
        "url": site.broker.url(), "nkey": user(".nk"), "ca": site.broker.authority(), "cert": user(".pem"), "key": user(".key"),
    });
    fs::write(contexts.join("media.json"), context.to_string()).unwrap();
    let with = || {
        let mut command = Command::new(Role::Replicator.program());
        command.args(["provision", "--nodes", "a", "--node", "operator", "--context", "media"]);
        command.arg("--state").arg(site.dir.path().join("s")).env("XDG_CONFIG_HOME", site.dir.path());
        command.env_remove("NATS_URL");
        e2e::run(SOON, command)
    };
    assert!(with().succeeded().stdout.contains("node a: its consumer is made"));

    fs::set_permissions(user(".nk"), fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = with();
    assert_eq!(exposed.code, Some(2));
    assert!(exposed.stderr.contains("chmod 600"), "{exposed:?}");
    fs::set_permissions(user(".nk"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(user(".key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(with().code, Some(2), "a key that all can read");
}

#[test]
fn a_credentials_file_is_enough_for_a_broker_of_accounts() {
    let dir = tempfile::tempdir().unwrap();
    let (config, creds) = accounts_by_token(dir.path());
    let mut mirror = Mirror::prepared(&["a", "b"]);
    mirror.broker.trust(&config);
    mirror.broker.start();
    let creds = creds.to_str().unwrap();
    for node in &mut mirror.nodes {
        Role::ALL.into_iter().for_each(|role| node.start_with(role, &["--creds", creds]));
    }
    write(&mirror.nodes[0].path("f"), b"f");
    mirror.wait_everywhere("f", b"f");
    fs::set_permissions(creds, fs::Permissions::from_mode(0o604)).unwrap();
    let exposed = mirror.nodes[0].run(Role::Replicator, &["status", "--creds", creds]);
    assert_eq!(exposed.code, Some(2), "{exposed:?}");
}

/// An operator, an account with JetStream, and a user in it, as `nsc` makes them: the server's configuration, and the user's credentials file.
fn accounts_by_token(dir: &Path) -> (String, std::path::PathBuf) {
    use nkeys::KeyPair;
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let system = KeyPair::new_account();
    let all = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_operator =
        token(&operator, &operator.public_key(), serde_json::json!({ "type": "operator", "version": 2 }));
    let account_of = |account: &KeyPair, limits: &serde_json::Value| {
        let claims = serde_json::json!({ "type": "account", "version": 2, "limits": limits });
        token(&operator, &account.public_key(), claims)
    };
    let mut bare = all.clone();
    (bare["mem_storage"], bare["disk_storage"]) = (0.into(), 0.into());
    let (of_account, of_system) = (account_of(&account, &all), account_of(&system, &bare));
    let rights = serde_json::json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 });
    let of_user = token(&account, &user.public_key(), rights);
    let creds = dir.join("user.creds");
    let seed = user.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    fs::write(&creds, text).unwrap();
    fs::set_permissions(&creds, fs::Permissions::from_mode(0o600)).unwrap();
    let (account, system) = (account.public_key(), system.public_key());
    let preload = format!("resolver_preload: {{ {account}: {of_account}\n {system}: {of_system} }}");
    (format!("operator: {of_operator}\nsystem_account: {system}\nresolver: MEMORY\n{preload}"), creds)
}

/// A JSON web token as NATS servers take it.
fn token(issuer: &nkeys::KeyPair, subject: &str, nats: serde_json::Value) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = serde_json::json!({
        "jti": subject, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "e2e", "sub": subject, "nats": nats,
    });
    let signed =
        format!("{}.{}", part(serde_json::json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_denied_right_is_named_where_an_operator_looks() {
    let mut mirror = Mirror::prepared(&["a", "b"]);
    let denied = "$JS.API.DIRECT.GET.OBJ_MIRROR_MEDIA_BLOBS";
    mirror.broker.let_in(&format!(
        r#"{{user: b, password: p, permissions: {{publish: {{deny: ["{denied}", "{denied}.>"]}}}}}}"#
    ));
    mirror.broker.start();
    let (all, b) = (mirror.broker.url(), mirror.broker.url_of("b"));
    mirror.nodes[0].find_broker_at(all);
    mirror.nodes[1].find_broker_at(b);
    mirror.nodes[0].start_both();
    let http = Http::start(&mut mirror.nodes[1], Role::Replicator, &[]);
    write(&mirror.nodes[0].path("f"), b"f");
    let logged = wait_for(LONG, "a log line", || {
        let log = mirror.nodes[1].process(Role::Replicator).log();
        let line = log.lines().find(|line| line.contains("denies us")).map(str::to_owned);
        line.ok_or(log)
    });
    assert!(logged.contains(denied), "{logged}");
    wait_for(LONG, "the reason", || {
        let reasons = http.try_ask("GET /readyz", &[])?.reasons();
        if reasons.iter().any(|reason| reason == "denied") { Ok(()) } else { Err(format!("{reasons:?}")) }
    });
    let status = wait_for(LONG, "the record", || {
        let status = mirror.nodes[0].run(Role::Replicator, &["status"]).stdout;
        if status.contains("denies") { Ok(status) } else { Err(status) }
    });
    assert!(status.contains(denied), "{status}");
}
