//! What `--public-url` finds on the web.

use super::{doctor, not_run};
use e2e::{Mirror, Process, SOON, free_port, run, wait_for};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    thread,
};

/// A web server for a folder, as careless as they come; `.mirror` is hidden where it is asked to. It ends with the test's process.
fn serve(folder: PathBuf, hides: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut bytes) = (stream.unwrap(), [0; 4096]);
            let length = stream.read(&mut bytes).unwrap();
            let request = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
            let path = path.strip_prefix("media/").unwrap_or("none");
            let body = match folder.join(path) {
                _ if hides && path.starts_with(".mirror") => None,
                found if found.is_dir() => Some(b"<h1>Index</h1>".to_vec()),
                found => fs::read(found).ok(),
            };
            let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
            stream.write_all(&[head.into_bytes(), body.unwrap_or_default()].concat()).unwrap();
        }
    });
    address
}

#[test]
fn what_is_ours_must_not_be_served_to_the_web() {
    let mut mirror = Mirror::running(&["a"]);
    let (root, free) = (mirror.nodes[0].root.clone(), format!("http://127.0.0.1:{}/", free_port()));
    let open = format!("http://{}/media", serve(root.clone(), false));
    let closed = format!("http://{}/media/", serve(root, true));
    let node = &mut mirror.nodes[0];
    for (url, wrong) in [(&open, true), (&closed, false), (&free, true)] {
        let said = doctor(node, &["--public-url", url]);
        let expected: &[&str] = if wrong { &["public_url"] } else { &[] };
        assert_eq!(said.wrong(), expected, "{url}: {:?}", said.finished);
    }
    let said = doctor(node, &["--public-url", &open]);
    assert!(said.text("public_url").contains("the marker with it"), "{:?}", said.finished);
    assert!(said.text("public_url").contains("location ^~ /media/.mirror { return 404; }"));
}

#[test]
fn the_web_is_asked_over_tls_by_the_systems_certificates() {
    if Command::new("openssl").arg("version").output().is_err() {
        return not_run("the_web_is_asked_over_tls_by_the_systems_certificates", "openssl is missing");
    }
    let mut mirror = Mirror::running(&["a"]);
    let dir = mirror.dir().to_owned();
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key);
    run(SOON, openssl).succeeded();
    let port = free_port();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-WWW", "-quiet", "-accept", &format!("127.0.0.1:{port}")]);
    server.arg("-cert").arg(&certificate).arg("-key").arg(&key).current_dir(&mirror.nodes[0].root);
    let _server = Process::spawn("openssl", &dir, server);
    let url = format!("https://127.0.0.1:{port}/");
    let mut node = mirror.nodes.remove(0);
    wait_for(SOON, "a certificate that nobody trusts", || {
        let said = doctor(&node, &["--public-url", &url]);
        assert_eq!(said.wrong(), ["public_url"], "{:?}", said.finished);
        let text = said.text("public_url");
        if text.contains("ertificate") { Ok(()) } else { Err(text.to_owned()) }
    });
    node.environment.push(("SSL_CERT_FILE".into(), certificate));
    let said = doctor(&node, &["--public-url", &url]);
    assert_eq!(said.wrong(), ["public_url"], "{:?}", said.finished);
    assert!(said.text("public_url").contains("the marker with it"), "{:?}", said.finished);
    node.stop_both();
}
