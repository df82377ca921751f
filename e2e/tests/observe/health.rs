//! What a process tells of itself: health, metrics, the service manager. Numbers agree with what happened, and each trouble is named.

use e2e::{Http, Mirror, Role, SOON, free_port, not_run, wait_for, wait_until, write};
use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    time::{Duration, Instant},
};

/// A watcher with HTTP on the first node, a replicator with HTTP on the second.
fn observed(arguments: &[&str]) -> (Mirror, Http, Http) {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let watcher = Http::start(&mut mirror.nodes[0], Role::Watcher, arguments);
    let replicator = Http::start(&mut mirror.nodes[1], Role::Replicator, arguments);
    mirror.wait_ready();
    (mirror, watcher, replicator)
}

#[test]
fn the_metrics_say_what_happened_and_name_no_file() {
    let (mut mirror, watcher, replicator) = observed(&[]);
    for name in ["confidential-1", "confidential-2", "confidential-3"] {
        write(&mirror.nodes[0].path(name), &[b'x'; 1000]);
        mirror.wait_everywhere(name, &[b'x'; 1000]);
    }
    fs::remove_file(mirror.nodes[0].path("confidential-3")).unwrap();
    mirror.wait_nowhere("confidential-3");
    let head = mirror.nats().log_state().unwrap().last_sequence as f64;
    let samples = wait_for(SOON, "the replicator's numbers to be up to date", || {
        let samples = replicator.metrics();
        let same = samples.of("mediamirror_head") == head && samples.of("mediamirror_tree_files") == 2.0;
        if same { Ok(samples) } else { Err(format!("{samples:?}")) }
    });
    for (name, expected) in [
        ("mediamirror_version", 4.0),
        ("mediamirror_lag_events", 0.0),
        ("mediamirror_lag_seconds", 0.0),
        ("mediamirror_oldest_unapplied_age_seconds", 0.0),
        ("mediamirror_files_total{direction=\"in\"}", 3.0),
        ("mediamirror_removals_total{direction=\"in\"}", 1.0),
        // The same content is fetched once.
        ("mediamirror_bytes_total{direction=\"in\"}", 1000.0),
        ("mediamirror_tree_bytes", 2000.0),
        ("sync_latency_seconds_count", 3.0),
        ("mediamirror_parked", 0.0),
        ("mediamirror_ready", 1.0),
        ("mediamirror_broker_connected", 1.0),
        ("mediamirror_state{state=\"ready\"}", 1.0),
        ("mediamirror_state{state=\"starting\"}", 0.0),
    ] {
        assert_eq!(samples.of(name), expected, "{name} of {samples:?}");
    }
    assert!(samples.of("sync_latency_seconds_sum") > 0.0 && samples.of("mediamirror_disk_free_bytes") > 0.0);
    assert_eq!(samples.of("mediamirror_verify_last_success_timestamp_seconds"), 0.0);
    mirror.nodes[1].run(Role::Replicator, &["verify"]).succeeded();
    wait_until(SOON, "the check to be noted", || {
        let samples = replicator.metrics();
        let verified = samples.of("mediamirror_verify_last_success_timestamp_seconds");
        verified >= samples.of("mediamirror_start_time_seconds")
    });
    let samples = watcher.metrics();
    assert_eq!(samples.of("mediamirror_files_total{direction=\"out\"}"), 3.0);
    assert_eq!(samples.of("mediamirror_removals_total{direction=\"out\"}"), 1.0);
    assert_eq!(samples.of("mediamirror_folders_unwatched"), 0.0);
    for http in [watcher, replicator] {
        for path in ["/metrics", "/readyz", "/healthz"] {
            assert!(!http.get(path).body.contains("confidential"), "{path}");
        }
        assert_eq!(http.wait_reasons(SOON, 200, &[]).json()["status"], "ready");
    }
}

#[test]
fn errors_are_problem_details_and_the_record_says_where_http_is() {
    let (mut mirror, watcher, replicator) = observed(&[]);
    for (request, status) in [
        ("GET /healthz", 200),
        ("GET /livez", 200),
        ("HEAD /readyz", 200),
        ("GET /no/such/place", 404),
        ("POST /metrics", 405),
    ] {
        let answer = replicator.ask(request, &[]);
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        if status >= 400 {
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            assert_eq!(answer.json()["status"], status);
            assert!(answer.json()["detail"].is_string() && answer.json()["title"].is_string(), "{answer:?}");
        }
    }
    let large = format!("X-Large: {}", "x".repeat(64 << 10));
    assert_eq!(replicator.ask("GET /healthz", &[&large]).status, 431);
    for (node, role, http) in [("a", Role::Watcher, watcher), ("b", Role::Replicator, replicator)] {
        let record = mirror.nats().record(node, role).unwrap();
        assert_eq!(record["http"], format!("http://{}", http.0));
    }
    // A connection on which nothing is asked holds nobody up.
    let _idle = TcpStream::connect(replicator.0).unwrap();
    let began = Instant::now();
    assert_eq!(mirror.nodes[1].stop(Role::Replicator).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_broker_that_is_away_shows_at_once_and_so_does_its_return() {
    let (mut mirror, watcher, replicator) = observed(&[]);
    mirror.broker.kill();
    for http in [watcher, replicator] {
        // Well below the limit of lag: it is the connection that tells.
        let answer = http.wait_reasons(Duration::from_secs(5), 503, &["broker_away"]);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        let samples = http.metrics();
        assert_eq!(samples.of("mediamirror_broker_connected") + samples.of("mediamirror_ready"), 0.0);
        // Starting it anew would not bring the broker back.
        assert_eq!(http.get("/healthz").status, 200);
    }
    mirror.broker.start();
    for http in [watcher, replicator] {
        http.wait_reasons(SOON, 200, &[]);
    }
}

#[test]
fn before_the_broker_is_there_a_process_is_alive_and_not_ready() {
    let mut mirror = Mirror::prepared(&["a"]);
    for role in Role::ALL {
        let http = Http::start(&mut mirror.nodes[0], role, &[]);
        http.wait_reasons(SOON, 503, &["broker_away"]);
        assert_eq!(http.get("/healthz").status, 200);
        http.metrics();
    }
}

#[test]
fn a_broker_that_does_not_answer_is_a_stall() {
    let (mirror, watcher, replicator) = observed(&["--max-lag", "1s"]);
    mirror.broker.pause();
    for http in [watcher, replicator] {
        wait_for(SOON, "the stall to be named", || {
            let answer = http.get("/readyz");
            let named = answer.status == 503 && answer.reasons().iter().any(|why| why == "broker_stalled");
            if named { Ok(()) } else { Err(format!("{answer:?}")) }
        });
        assert!(http.metrics().of("mediamirror_stalled_seconds{what=\"broker\"}") > 1.0);
    }
    mirror.broker.resume();
    for http in [watcher, replicator] {
        http.wait_reasons(SOON, 200, &[]);
    }
}

#[test]
fn a_consumer_that_delivers_nothing_is_a_stall_and_not_a_quiet_log() {
    let (mut mirror, _, replicator) = observed(&["--max-lag", "1s"]);
    if mirror.broker.version() < (2, 11) {
        not_run("a_consumer_that_delivers_nothing", "this server cannot pause a consumer");
        return;
    }
    mirror.nats().pause_consumer("b");
    write(&mirror.nodes[0].path("late"), b"late");
    wait_for(SOON, "the stall to be named", || {
        let answer = replicator.get("/readyz");
        let reasons = answer.reasons();
        let all = ["work_stalled", "behind"].iter().all(|why| reasons.iter().any(|reason| reason == why));
        if answer.status == 503 && all { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let samples = replicator.metrics();
    assert_eq!((samples.of("mediamirror_head"), samples.of("mediamirror_version")), (1.0, 0.0));
    assert!(samples.of("mediamirror_lag_seconds") > 1.0, "{samples:?}");
    wait_for(SOON, "the record to name it", || {
        let record = mirror.nats().record("b", Role::Replicator).unwrap();
        let text = record["last_error"].as_str().unwrap_or_default();
        let named =
            record["state"] == "degraded" && record["head"] == 1 && text.contains("none of it got done");
        if named { Ok(()) } else { Err(record.to_string()) }
    });
    mirror.nats().resume_consumer("b");
    mirror.wait_everywhere("late", b"late");
    replicator.wait_reasons(SOON, 200, &[]);
    assert_eq!(replicator.metrics().of("mediamirror_lag_seconds"), 0.0);
    wait_until(SOON, "the record to be well", || {
        mirror.nats().record("b", Role::Replicator).unwrap()["state"] == "ready"
    });
}

#[test]
fn a_consumer_that_was_deleted_is_no_stall_for_long() {
    let (mut mirror, _, replicator) = observed(&[]);
    mirror.nats().delete_consumer("b");
    write(&mirror.nodes[0].path("after"), b"after");
    mirror.wait_everywhere("after", b"after");
    replicator.wait_reasons(SOON, 200, &[]);
}

#[test]
fn a_replicator_that_stands_still_is_down_within_20_s() {
    let mut mirror = Mirror::running(&["a", "b"]);
    mirror.nodes[1].process(Role::Replicator).freeze();
    wait_for(Duration::from_secs(20), "the frozen replicator to be called down", || {
        let status = mirror.nodes[0].run(Role::Replicator, &["status", "--json"]).json_lines().remove(0);
        let first = &status["nodes"][0];
        let down = first["node"] == "b" && first["role"] == "replicator" && first["down"] == true;
        if down { Ok(()) } else { Err(status.to_string()) }
    });
    mirror.nodes[1].process(Role::Replicator).resume();
    wait_until(SOON, "all to be well again", || {
        mirror.nodes[0].run(Role::Replicator, &["status"]).code == Some(0)
    });
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_ends_with_2_and_a_default_one_is_done_without() {
    let mut mirror = Mirror::idle(&["a"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for role in Role::ALL {
        let refused = mirror.nodes[0].run(role, &["run", "--http", &address]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(&address) && refused.stderr.contains("--http"), "{refused:?}");
    }
    // Whoever has them, they are taken.
    let _defaults = [7420, 7421].map(|port| TcpListener::bind(("127.0.0.1", port)));
    for role in Role::ALL {
        let mut command = mirror.nodes[0].command(role, ["run"]);
        command.env_remove("MEDIAMIRROR_HTTP");
        mirror.nodes[0].start_as(role, command);
    }
    mirror.wait_ready();
    for role in Role::ALL {
        assert!(mirror.nats().record("a", role).unwrap()["http"].is_null());
        assert!(mirror.nodes[0].process(role).log().contains("default port"), "{}", role.name());
    }
}

#[test]
fn another_address_than_loopback_needs_a_token() {
    let mut mirror = Mirror::idle(&["a"]);
    let http = Http(SocketAddr::from(([127, 0, 0, 1], free_port())));
    let everywhere = format!("0.0.0.0:{}", http.0.port());
    let refused = mirror.nodes[0].run(Role::Replicator, &["run", "--http", &everywhere]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--http-token-file"), "{refused:?}");
    let tokens = mirror.nodes[0].home.join("tokens");
    fs::write(&tokens, "correct-horse-battery\n").unwrap();
    let arguments = ["--http", &everywhere, "--http-token-file", tokens.to_str().unwrap()];
    let exposed = mirror.nodes[0].run(Role::Replicator, &[&["run"], &arguments[..]].concat());
    assert_eq!(exposed.code, Some(2), "{exposed:?}");
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    mirror.nodes[0].start_with(Role::Replicator, &arguments);
    http.wait_listening();
    for (headers, status) in [
        (&[][..], 401),
        (&["Authorization: Bearer wrong"], 401),
        (&["Authorization: Bearer correct-horse-battery"], 200),
    ] {
        assert_eq!(http.ask("GET /metrics", headers).status, status, "{headers:?}");
    }
    assert_eq!(http.get("/metrics").headers["www-authenticate"], "Bearer");
    http.wait_reasons(SOON, 200, &[]);
    assert!(
        !mirror.nodes[0].process(Role::Replicator).log().contains("correct-horse"),
        "a secret in the log"
    );
}

#[test]
fn the_service_manager_hears_of_start_work_and_end() {
    let mut mirror = Mirror::prepared(&["a"]);
    for role in Role::ALL {
        let path = mirror.nodes[0].home.join(format!("{}.notify", role.name()));
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut heard = Vec::new();
        let mut hear = |word: &str, times: usize| {
            wait_for(SOON, &format!("{word} from the {}", role.name()), || {
                let mut buffer = [0; 64];
                while let Ok(length) = manager.recv(&mut buffer) {
                    heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
                }
                let found = heard.iter().filter(|&said| said == word).count();
                if found >= times { Ok(()) } else { Err(format!("{heard:?}")) }
            });
        };
        let mut command = mirror.nodes[0].command(role, ["run"]);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "3000000");
        mirror.nodes[0].start_as(role, command);
        // Without the broker as well.
        hear("READY=1", 1);
        hear("WATCHDOG=1", 2);
        mirror.nodes[0].process(role).signal(rustix::process::Signal::TERM);
        hear("STOPPING=1", 1);
        assert_eq!(mirror.nodes[0].ended(role, SOON).code(), Some(0));
    }
}
