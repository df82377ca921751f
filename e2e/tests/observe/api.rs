//! What programs ask over HTTP: the record, the nodes, the log by pages and live, and whether a file is everywhere.

use e2e::{Http, Mirror, Role, SOON, free_port, wait_for, wait_until, write};
use serde_json::{Value, json};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, symlink},
    thread,
    time::{Duration, Instant},
};

/// Both processes on both nodes, the replicator of the first with HTTP.
fn asked() -> (Mirror, Http) {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start(Role::Watcher);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.nodes[1].start_both();
    mirror.wait_ready();
    (mirror, http)
}

#[test]
fn the_record_the_nodes_and_the_log_are_as_the_commands_say() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let watcher = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.nodes[1].start_both();
    mirror.wait_ready();
    for name in ["one", "two", "three"] {
        write(&mirror.nodes[0].path(name), name.as_bytes());
        mirror.wait_everywhere(name, name.as_bytes());
    }
    for (http, role) in [(watcher, "watcher"), (http, "replicator")] {
        wait_for(SOON, &format!("the record of the {role}"), || {
            let answer = http.get("/api/v1/status");
            assert_eq!((answer.status, &*answer.headers["cache-control"]), (200, "no-store"), "{answer:?}");
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
            let record = answer.json();
            assert_eq!((&record["node"], &record["role"]), (&json!("a"), &json!(role)));
            if record["version"] == 3 && record["files"] == 3 { Ok(()) } else { Err(record.to_string()) }
        });
    }
    wait_for(SOON, "all nodes to be well", || {
        let answer = http.get("/api/v1/nodes").json();
        let nodes = answer["nodes"].as_array().unwrap().clone();
        let well = |node: &Value| {
            let young = node["down"] == false && node["age"].as_f64().unwrap() < 15.0;
            young && node["version"] == 3 && node["lag"] == 0
        };
        let all = answer["head"] == 3 && nodes.len() == 4 && nodes.iter().all(well);
        if all { Ok(()) } else { Err(answer.to_string()) }
    });
    assert_eq!(watcher.get("/api/v1/nodes").status, 404);

    let lines = mirror.nodes[0].run(Role::Replicator, &["log", "--json"]).succeeded().json_lines();
    let page = http.get("/api/v1/log").json();
    assert_eq!((&page["events"], &page["next"], &page["head"]), (&json!(lines), &json!(4), &json!(3)));
    let page = http.get("/api/v1/log?from=2&limit=1").json();
    assert_eq!((&page["events"], &page["next"], &page["head"]), (&json!([lines[1]]), &json!(3), &json!(3)));
    let page = http.get("/api/v1/log?from=4").json();
    assert_eq!((&page["events"], &page["next"]), (&json!([]), &json!(4)));
    let page = http.get("/api/v1/log?from=18446744073709551615").json();
    assert_eq!(page["events"], json!([]));
}

#[test]
fn a_parameter_that_cannot_be_is_named() {
    let mut mirror = Mirror::idle(&["a"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    for (request, parameter) in [
        ("/api/v1/log?from=x", "from"),
        ("/api/v1/log?from=-1", "from"),
        ("/api/v1/log?limit=0", "limit"),
        ("/api/v1/log?limit=501", "limit"),
        ("/api/v1/log?limit=1&limit=2", "limit"),
        ("/api/v1/log?Form=1", "Form"),
        ("/api/v1/events?from=1.5", "from"),
        ("/api/v1/nodes?x=1", "x"),
        ("/api/v1/status?x=1", "x"),
        ("/api/v1/wait", "path"),
        ("/api/v1/wait?path=a/../b", "path"),
        ("/api/v1/wait?version=1&nodes=none", "nodes"),
        ("/api/v1/wait?version=1&timeout=1h", "timeout"),
    ] {
        let answer = http.get(request);
        assert_eq!(answer.status, 400, "{request}: {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.json()["parameter"], parameter, "{answer:?}");
    }
    let wrong = http.ask("GET /api/v1/events", &["Last-Event-ID: x"]);
    assert_eq!((wrong.status, &wrong.json()["parameter"]), (400, &json!("Last-Event-ID")));
}

#[test]
fn the_live_log_tells_each_event_once_and_goes_on_where_a_client_left_it() {
    let (mut mirror, http) = asked();
    write(&mirror.nodes[0].path("before"), b"before");
    mirror.wait_everywhere("before", b"before");
    let mut new = http.follow("/api/v1/events", &[]);
    let mut all = http.follow("/api/v1/events?from=1", &[]);
    for name in ["with \"quotes\"", "line\nbreak\r\ndata: x", "<script>"] {
        write(&mirror.nodes[1].path(name), name.as_bytes());
        let event = new.take().unwrap();
        assert_eq!(event.data["path"], name, "{event:?}");
        assert_eq!(event.data["version"], event.id.unwrap());
    }
    let seen: Vec<_> = (0..4).map(|_| all.take().unwrap()).collect();
    assert_eq!(seen.iter().map(|event| event.id.unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let page = http.get("/api/v1/log").json();
    assert_eq!(page["events"], json!(seen.iter().map(|event| &event.data).collect::<Vec<_>>()));
    let mut resumed = http.follow("/api/v1/events?from=1", &["Last-Event-ID: 2"]);
    assert_eq!(resumed.take().unwrap().id, Some(3));
    // It knows events that this log does not have: it is told so, and gets what there is.
    let mut other = http.follow("/api/v1/events", &["Last-Event-ID: 1000"]);
    let reset = other.take().unwrap();
    assert_eq!((reset.event.as_deref(), reset.id, &reset.data["head"]), (Some("reset"), None, &json!(4)));
    assert_eq!(other.take().unwrap().id, Some(1));

    // The broker is gone for a while, and no stream ends.
    mirror.broker.kill();
    mirror.broker.start();
    write(&mirror.nodes[0].path("after"), b"after");
    mirror.wait_everywhere("after", b"after");
    assert_eq!(new.take().unwrap().data["path"], "after");

    let began = Instant::now();
    assert_eq!(mirror.nodes[0].stop(Role::Replicator).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(new.take().is_none());
}

#[test]
fn clients_that_take_nothing_hold_up_nobody_cost_a_page_each_and_are_a_bounded_number() {
    const EVENTS: u64 = 400;
    let mut mirror = Mirror::idle(&["a"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    let payload = json!({ "v": 99, "large": "x".repeat(50_000) }).to_string();
    for number in 0..EVENTS {
        mirror.nats().publish(&format!("mirror.media.large-{number}"), payload.as_bytes());
    }
    let slow: Vec<_> = (0..15).map(|_| http.follow("/api/v1/events?from=1", &[])).collect();
    let mut quick = http.follow("/api/v1/events?from=1", &[]);
    for version in 1..=EVENTS {
        assert_eq!(quick.take().unwrap().id, Some(version));
    }
    let refused = http.get("/api/v1/events");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after") && refused.json()["detail"].is_string());
    assert_eq!(http.get("/healthz").status, 200);
    // 15 copies of the log would be 300 MB.
    let peak = mirror.nodes[0].process(Role::Replicator).peak_memory();
    assert!(peak < 200 << 20, "{} MiB", peak >> 20);
    drop(quick);
    wait_until(SOON, "the place of a client that has gone", || {
        http.ask("HEAD /api/v1/events", &[]).status == 200
    });
    let began = Instant::now();
    assert_eq!(mirror.nodes[0].stop(Role::Replicator).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(slow);
}

#[test]
fn waiting_ends_when_the_file_is_on_the_nodes_that_live_and_names_the_others() {
    let (mut mirror, http) = asked();
    let wait = |request: &str| http.ask_within(2 * SOON, &format!("GET /api/v1/wait?{request}"));
    // Asked before it is written, by a name that has to be escaped.
    let waiting = thread::spawn(move || {
        http.ask_within(2 * SOON, "GET /api/v1/wait?timeout=30s&path=new+%26%20b%C3%BCrger%2F%2B.jpg")
    });
    write(&mirror.nodes[0].path("new & bürger/+.jpg"), b"content");
    let answer = waiting.join().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json(), json!({ "version": 1, "have": ["a", "b"], "missing": [] }));
    for node in &mirror.nodes {
        assert_eq!(fs::read(node.path("new & bürger/+.jpg")).unwrap(), b"content");
    }
    assert_eq!(wait("version=1&nodes=2&timeout=0s").status, 200);

    let absent = wait("path=absent&timeout=300ms");
    assert_eq!((absent.status, &*absent.headers["content-type"]), (504, "application/problem+json"));
    assert_eq!(absent.json()["version"], Value::Null);
    assert_eq!(absent.json()["missing"][0]["reason"], "unpublished");
    let third = wait("version=1&nodes=3&timeout=300ms");
    assert_eq!((third.status, &third.json()["have"]), (504, &json!(["a", "b"])));

    // A node that was stopped is not waited for; one that stands still is, until it counts as down.
    mirror.nodes[1].stop(Role::Replicator);
    write(&mirror.nodes[0].path("second"), b"second");
    let answer = wait("path=second&timeout=20s");
    assert_eq!((answer.status, &answer.json()["have"]), (200, &json!(["a"])), "{answer:?}");
    assert_eq!(answer.json()["missing"][0]["node"], "b");
    assert_eq!(answer.json()["missing"][0]["reason"], "stopped");
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_ready();
    assert_eq!(wait("path=second&nodes=2&timeout=20s").status, 200);
    mirror.nodes[1].process(Role::Replicator).freeze();
    write(&mirror.nodes[0].path("third"), b"third");
    wait_until(SOON, "the event", || mirror.log_of("third").len() == 1);
    let answer = wait("path=third&timeout=2s");
    assert_eq!(
        (answer.status, &answer.json()["missing"][0]["reason"]),
        (504, &json!("behind")),
        "{answer:?}"
    );
    let answer = wait("path=third&timeout=40s");
    assert_eq!((answer.status, &answer.json()["missing"][0]["reason"]), (200, &json!("down")), "{answer:?}");
    mirror.nodes[1].process(Role::Replicator).resume();
    assert_eq!(wait("path=third&nodes=2&timeout=30s").status, 200);

    fs::remove_file(mirror.nodes[0].path("third")).unwrap();
    mirror.wait_nowhere("third");
    let removed = wait("path=third&timeout=300ms");
    assert_eq!((removed.status, &removed.json()["missing"][0]["reason"]), (504, &json!("removed")));
}

#[test]
fn a_backlog_delays_no_answer_for_a_file_that_is_there_and_what_is_parked_is_said_at_once() {
    let (mut mirror, http) = asked();
    let wait = |request: &str| http.ask_within(3 * SOON, &format!("GET /api/v1/wait?{request}"));
    // Nothing is ever placed over a link: the event is tried for 30 s.
    symlink("nowhere", mirror.nodes[1].path("taken")).unwrap();
    write(&mirror.nodes[0].path("taken"), b"taken");
    wait_until(SOON, "the event that cannot be applied", || mirror.log_of("taken").len() == 1);
    write(&mirror.nodes[0].path("fresh"), b"fresh");
    let answer = wait("path=fresh&timeout=10s");
    assert_eq!((answer.status, &answer.json()["have"]), (200, &json!(["a", "b"])), "{answer:?}");
    let version = mirror.nats().record("b", Role::Replicator).unwrap()["version"].as_u64().unwrap();
    assert!(version < answer.json()["version"].as_u64().unwrap(), "there is no backlog");
    let answer = wait("path=taken&timeout=60s");
    assert_eq!((answer.status, &answer.json()["have"]), (504, &json!(["a"])), "{answer:?}");
    assert_eq!(answer.json()["missing"][0]["reason"], "parked");
    let began = Instant::now();
    assert_eq!(wait("path=taken&timeout=60s").status, 504);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(wait("path=taken&nodes=1&timeout=10s").status, 200);

    // The command says the same.
    let run = |arguments: &[&str]| mirror.nodes[0].run(Role::Replicator, &[&["wait"], arguments].concat());
    let there = run(&["fresh", "--json"]);
    assert_eq!(there.code, Some(0), "{there:?}");
    assert_eq!(there.json_lines()[0]["have"], json!(["a", "b"]));
    assert_eq!(run(&["--version", "1", "--nodes", "1"]).code, Some(0));
    let parked = run(&["taken"]);
    assert_eq!(parked.code, Some(1), "{parked:?}");
    assert!(parked.stdout.contains("b: the event cannot be applied"), "{parked:?}");
    let never = run(&["absent", "--timeout", "300ms"]);
    assert_eq!(never.code, Some(4), "{never:?}");
    for wrong in [&[][..], &["fresh", "--version", "1"], &["fresh", "--nodes", "0"], &["--version", "0"]] {
        assert_eq!(run(wrong).code, Some(2), "{wrong:?}");
    }
    mirror.broker.kill();
    let away = mirror.nodes[0].run(Role::Replicator, &["wait", "fresh"]);
    assert_eq!(away.code, Some(3), "{away:?}");
}

#[test]
fn who_waits_is_a_bounded_number_holds_up_nobody_else_and_is_told_when_the_process_ends() {
    let mut mirror = Mirror::idle(&["a"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    let wait = move || {
        wait_for(2 * SOON, "a place", || {
            let answer = http.ask_within(2 * SOON, "GET /api/v1/wait?path=absent&timeout=60s");
            // The look below takes a place, too, for a moment.
            if answer.body.contains("already") { Err(answer.body) } else { Ok(answer) }
        })
    };
    let waiting: Vec<_> = (0..64).map(|_| thread::spawn(wait)).collect();
    let refused = wait_for(SOON, "all places to be taken", || {
        let answer = http.get("/api/v1/wait?path=absent&timeout=0s");
        if answer.status == 503 { Ok(answer) } else { Err(format!("{answer:?}")) }
    });
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    assert_eq!(http.get("/api/v1/nodes").status, 200);
    let began = Instant::now();
    assert_eq!(mirror.nodes[0].stop(Role::Replicator).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    for answer in waiting.into_iter().map(|waiting| waiting.join().unwrap()) {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    }
}

#[test]
fn what_a_token_is_not_for_is_refused_and_without_one_nothing_is_told() {
    let mut mirror = Mirror::idle(&["a"]);
    let tokens = mirror.nodes[0].home.join("tokens");
    let lines = "all-of-it-0123456789\nonly-read-0123456789 read\nnot-read-0123456789 write,admin\n";
    fs::write(&tokens, lines).unwrap();
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    let arguments = ["--http-token-file", tokens.to_str().unwrap()];
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &arguments);
    mirror.wait_ready();
    for (path, allowed) in [
        ("/api/v1/status", 200),
        ("/api/v1/nodes", 200),
        ("/api/v1/log", 200),
        ("/api/v1/events", 200),
        ("/api/v1/wait?version=1&timeout=0s", 504),
    ] {
        // HEAD, for the live log has no end.
        let status = |headers: &[&str]| http.ask(&format!("HEAD {path}"), headers).status;
        assert_eq!(status(&[]), 401, "{path}");
        assert_eq!(status(&["Authorization: Bearer nobody-0123456789"]), 401, "{path}");
        assert_eq!(status(&["Authorization: Bearer not-read-0123456789"]), 403, "{path}");
        assert_eq!(status(&["Authorization: Bearer only-read-0123456789"]), allowed, "{path}");
        assert_eq!(status(&["Authorization: Bearer all-of-it-0123456789"]), allowed, "{path}");
    }
    let refused = http.ask("GET /api/v1/log?from=x", &["Authorization: Bearer not-read-0123456789"]);
    assert_eq!((refused.status, &refused.json()["scope"]), (403, &json!("read")));
    // What is open stays open, and metrics ask for any token.
    assert_eq!(http.get("/healthz").status, 200);
    assert_eq!(http.ask("GET /metrics", &["Authorization: Bearer not-read-0123456789"]).status, 200);

    fs::write(&tokens, "all-of-it-0123456789 everything\n").unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let arguments = [&["run", "--http", &address], &arguments[..]].concat();
    let run = mirror.nodes[0].run(Role::Watcher, &arguments);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("line 1") && !run.stderr.contains("all-of-it"), "{run:?}");
}

#[test]
fn without_the_broker_the_api_says_so_and_the_record_is_told_all_the_same() {
    let mut mirror = Mirror::prepared(&["a"]);
    let http = Http(SocketAddr::from(([127, 0, 0, 1], free_port())));
    mirror.nodes[0].start_with(Role::Replicator, &["--http", &http.0.to_string()]);
    http.wait_listening();
    let paths = ["/api/v1/nodes", "/api/v1/log", "/api/v1/events", "/api/v1/wait?version=1"];
    let unavailable = |path: &str| {
        let answer = http.ask_within(SOON, &format!("GET {path}"));
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(answer.headers["retry-after"].parse::<u64>().unwrap() > 0, "{answer:?}");
    };
    paths.into_iter().for_each(unavailable);
    unavailable("/api/v1/status");
    mirror.broker.start();
    mirror.wait_ready();
    wait_until(SOON, "the record", || http.get("/api/v1/status").status == 200);
    mirror.broker.kill();
    http.wait_reasons(SOON, 503, &["broker_away"]);
    paths.into_iter().for_each(unavailable);
    wait_for(SOON, "the record without the broker", || {
        let record = http.get("/api/v1/status").json();
        if record["node"] == "a" && record["state"] != "ready" { Ok(()) } else { Err(record.to_string()) }
    });
}
