//! What the processes say of their HTTP, and whether it is so.

use crate::put_when_ready;
use common::hash::ContentHash;
use e2e::{Http, LONG, Mirror, Role, SOON, content, not_run, wait_until, write};
use std::{env, ffi::OsString, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

const TOKEN: &str = "all-0123456789abcdef";

/// Both processes with HTTP, behind a token or not, and two files on the node.
fn described(tokens: bool) -> (Mirror, [Http; 2]) {
    let mut mirror = Mirror::idle(&["a"]);
    let file = mirror.dir().join("tokens");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let flags: &[&str] = if tokens { &["--http-token-file", file.to_str().unwrap()] } else { &[] };
    let https = Role::ALL.map(|role| Http::start(&mut mirror.nodes[0], role, flags));
    mirror.wait_ready();
    for (name, size) in [("there.txt", 10), ("large.bin", 700_000)] {
        write(&mirror.nodes[0].path(name), &content(name, size));
    }
    wait_until(SOON, "their events", || mirror.log().len() == 2);
    (mirror, https)
}

#[test]
fn each_process_describes_what_it_answers() {
    for tokens in [false, true] {
        let (_mirror, https) = described(tokens);
        for (http, own) in https.into_iter().zip([
            ["delete /api/v1/paths/{path}", "put /api/v1/files/{sha256}"],
            ["get /api/v1/events", "post /api/v1/parked/retry"],
        ]) {
            let answer = http.ask("GET /api/v1/openapi.json", &[]);
            assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/json"));
            let paths = answer.json()["paths"].as_object().unwrap().clone();
            let described: Vec<String> = paths
                .iter()
                .flat_map(|(path, methods)| {
                    methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
                })
                .collect();
            for operation in
                own.into_iter().chain(["get /healthz", "get /metrics", "head /api/v1/files/{sha256}"])
            {
                assert!(described.iter().any(|known| known == operation), "{operation} in {described:?}");
            }
            // What is described is there, with or without a token. None of it takes a parameter that it does not know.
            for operation in described {
                let (method, path) = operation.split_once(' ').unwrap();
                let request = format!("{} {path}?unknown=1", method.to_uppercase()).replace('{', "%7B");
                let status = http.begin(&request, &["Content-Length: 0"]).answer().status;
                assert!(!matches!(status, 404 | 405 | 500..), "{request}: {status}");
                let guarded = path == "/metrics" || path.contains("/v1/");
                assert_eq!(status == 401, tokens && guarded, "{request}");
            }
            assert_eq!(http.ask("POST /api/v1/openapi.json", &[]).status, 405);
        }
    }
}

/// What the fuzzer is told: names that exist here, and what a description cannot say.
fn instructions(known: &[ContentHash]) -> String {
    let known: Vec<String> = known.iter().map(|hash| format!("\"{hash}\"")).collect();
    let hashes = known.join(", ");
    format!(
        r#"
max-stream-events = 1
[dictionaries]
hashes = {{ values = [{hashes}] }}
paths = {{ values = ["there.txt", "large.bin"] }}

[[operations]]
include-path = "/api/v1/events"
parameters = {{ from = 1 }}

# Of path and version one is needed, and time may be up.
[[operations]]
include-path = "/api/v1/wait"
parameters = {{ timeout = "50ms", path = {{ dictionary = "paths", probability = 0.5 }} }}
[operations.checks]
positive_data_acceptance = {{ enabled = false }}
not_a_server_error = {{ expected-statuses = ["2xx", "4xx", 504] }}

# Content that is made up has another hash than the one made up beside it.
[[operations]]
include-operation-id = "upload"
parameters = {{ timeout = "50ms", sha256 = {{ dictionary = "hashes", probability = 0.5 }} }}
[operations.checks]
positive_data_acceptance = {{ enabled = false }}
not_a_server_error = {{ expected-statuses = ["2xx", "4xx", 504] }}

# A range may be one that the file does not have.
[[operations]]
include-operation-id-regex = "read_file.*"
parameters = {{ sha256 = {{ dictionary = "hashes", probability = 0.5 }} }}
[operations.checks]
positive_data_acceptance = {{ expected-statuses = ["2xx", 304, 404, 416] }}

[[operations]]
include-operation-id-regex = "read_path.*"
parameters = {{ path = {{ dictionary = "paths", probability = 0.5 }} }}
[operations.checks]
positive_data_acceptance = {{ expected-statuses = ["2xx", 304, 404, 416] }}
"#
    )
}

fn fuzz(program: &OsString, http: Http, tokens: bool, dir: &Path) {
    // A body that the fuzzer likes to send, so that some uploads are right.
    let known = [content("there.txt", 10), content("large.bin", 700_000), b"null".to_vec()];
    let config = dir.join("schemathesis.toml");
    fs::write(&config, instructions(&known.map(|bytes| ContentHash::of(&bytes)))).unwrap();
    let mut command = Command::new(program);
    command.current_dir(dir).arg("--config-file").arg(config).args([
        "run",
        "--no-color",
        "--request-timeout",
        "20",
    ]);
    command.args(["--max-examples", "150", "--seed", "1", "--warnings", "off"]);
    if tokens {
        command.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
    }
    command.arg(format!("http://{}/api/v1/openapi.json", http.0));
    let ended = e2e::run(LONG, command);
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    let tried =
        ended.stdout.lines().find(|line| line.contains(" generated, ")).unwrap_or("nothing was tried");
    println!("tokens: {tokens}, {}:{tried}", http.0);
    assert!(tried.contains("passed"), "{}", ended.stdout);
}

#[test]
#[ignore = "needs schemathesis; run by deploy/test.sh --full"]
fn full_no_made_up_request_gets_an_answer_that_is_not_described() {
    let Some(program) = env::var_os("MEDIAMIRROR_SCHEMATHESIS") else {
        return not_run("made up requests", "MEDIAMIRROR_SCHEMATHESIS does not say where schemathesis is");
    };
    for tokens in [false, true] {
        let (mut mirror, https) = described(tokens);
        let dir = mirror.outside("fuzz");
        https.into_iter().for_each(|http| fuzz(&program, http, tokens, &dir));
        // Both do their work after it.
        for role in Role::ALL {
            assert!(mirror.nodes[0].process(role).is_running());
            let log = mirror.nodes[0].process(role).log();
            assert!(!log.contains("panicked"), "{log}");
        }
        if !tokens {
            assert_eq!(put_when_ready(https[0], b"after it", "?path=after").status, 200);
        }
        mirror.wait_agreed(SOON);
    }
}
