//! The nginx of the distribution with the snippet that is shipped.

use e2e::{Http, Mirror, Process, Role, SOON, content, free_port, not_run, wait_for, wait_until, write};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

/// Names that are something else in a URL, in nginx, or in a header.
const NAMES: [&str; 10] = [
    "plain.jpg",
    "with space.jpg",
    "b\u{fc}rger/\u{65e5}\u{672c}.png",
    "100%.jpg",
    "100%25.jpg",
    "a?b=c&d.jpg",
    "a+b.jpg",
    "hash#mark;semi.jpg",
    "quote\"'\\back$uri.jpg",
    "line\nbreak\r.jpg",
];

fn may_run(test: &str) -> bool {
    let mut command = Command::new("nginx");
    command.arg("-v").stdout(Stdio::null()).stderr(Stdio::null());
    let there = command.status().is_ok_and(|status| status.success());
    if !there {
        not_run(test, "nginx is not installed");
    }
    there
}

/// nginx over a node's root, asking its replicator.
fn nginx(mirror: &Mirror, node: usize, replicator: Http) -> (Process, Http) {
    let dir = mirror.outside("nginx");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nginx/mediamirror.conf");
    let snippet = fs::read_to_string(shipped).unwrap();
    let asked = snippet.replace("127.0.0.1:7421", &replicator.0.to_string());
    assert_ne!(asked, snippet);
    fs::write(dir.join("mediamirror.conf"), asked).unwrap();
    let (port, at) = (free_port(), dir.display());
    let root = mirror.nodes[node].root.display();
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log stderr; events {{}}
         http {{
             access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
             uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
             server {{ listen 127.0.0.1:{port}; merge_slashes off; root {root}; include {at}/mediamirror.conf; }}
         }}"
    );
    fs::write(dir.join("nginx.conf"), config).unwrap();
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-c"]).arg(dir.join("nginx.conf")).arg("-p").arg(&dir);
    let process = Process::spawn("nginx", &mirror.dir().join("nginx"), command);
    let http = Http(SocketAddr::from(([127, 0, 0, 1], port)));
    http.wait_listening();
    (process, http)
}

fn url(path: &str) -> String {
    let escaped = path.bytes().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() || b"/.-".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    format!("/{}", escaped.collect::<String>())
}

#[test]
#[ignore = "needs nginx; run by deploy/test.sh --full"]
fn full_nginx_serves_an_upload_of_another_node_as_soon_as_its_event_is_in_the_log() {
    if !may_run("full_nginx") {
        return;
    }
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start(Role::Watcher);
    let replicator = Http::start(&mut mirror.nodes[1], Role::Replicator, &[]);
    mirror.wait_ready();
    let (_nginx, http) = nginx(&mirror, 1, replicator);
    // What is in the log is not heard of on b until it is asked for.
    mirror.nats().pause_consumer("b");
    for (i, name) in NAMES.into_iter().enumerate() {
        write(&mirror.nodes[0].path(name), &content(name, 1000 + i * 200_000));
    }
    wait_until(SOON, "the events", || mirror.log().len() == NAMES.len());
    for (i, name) in NAMES.into_iter().enumerate() {
        let bytes = content(name, 1000 + i * 200_000);
        assert!(!mirror.nodes[1].path(name).exists());
        let part = http.read(&format!("GET {}", url(name)), &["Range: bytes=10-19", "Cookie: secret"]);
        assert!(part.status == 206 && part.bytes == bytes[10..20], "{name}: {}", part.status);
        let first = http.read(&format!("GET {}", url(name)), &[]);
        assert!(first.status == 200 && first.complete && first.bytes == bytes, "{name}: {}", first.status);
        wait_until(SOON, name, || mirror.nodes[1].path(name).exists());
        // Now nginx has it itself, however the replicator is.
        mirror.nodes[1].process(Role::Replicator).freeze();
        let second = http.read(&format!("GET {}", url(name)), &[]);
        assert!(second.status == 200 && second.bytes == bytes, "{name}: {}", second.status);
        mirror.nodes[1].process(Role::Replicator).resume();
    }
    assert_eq!(http.read("GET /absent.jpg", &[]).status, 404);
    assert_eq!(http.read("HEAD /absent.jpg", &[]).status, 404);
    assert_eq!(http.read("POST /absent.jpg", &["Content-Length: 0"]).status, 405);
    let marker = fs::read(mirror.nodes[1].path(".mirror/id")).unwrap();
    for path in [
        "/.mirror/id",
        "//.mirror/id",
        "/%2emirror/id",
        "/%2Fx/../.mirror/id",
        "/x/../.mirror/id",
        "/.mirror",
        "/.mirror/",
        "/.mirror//id",
    ] {
        let answer = http.read(&format!("GET {path}"), &[]);
        assert!([400, 404].contains(&answer.status) && answer.bytes != marker, "{path}: {}", answer.status);
    }
    mirror.nats().resume_consumer("b");
    wait_for(SOON, "b to have heard of all", || {
        let record = mirror.nats().record("b", Role::Replicator).unwrap();
        let all = record["version"] == NAMES.len() && record["beyond"] == serde_json::json!([]);
        if all { Ok(()) } else { Err(record.to_string()) }
    });
}
