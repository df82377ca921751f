//! Prometheus itself, from the distribution, with the rules and the configuration that are shipped.

use e2e::{Finished, LONG, Process, SOON, fetch, free_port, not_run, wait_for, wait_until};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A file of the folder `deploy`.
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// Its text.
pub fn text_of(name: &str) -> String {
    fs::read_to_string(shipped(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Whether this machine has Prometheus.
pub fn may_run(test: &str) -> bool {
    let there = ["prometheus", "promtool"].iter().all(|program| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    });
    if !there {
        not_run(test, "Debian's prometheus is not installed");
    }
    there
}

/// Runs promtool where the shipped files and a token are.
pub fn promtool(arguments: &[&str]) -> Finished {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(shipped("prometheus")).unwrap().flatten() {
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    fs::write(dir.path().join("mediamirror.token"), "token").unwrap();
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(dir.path());
    e2e::run(LONG, command)
}

/// One process that is scraped.
pub struct Target {
    pub node: String,
    pub role: &'static str,
    pub port: u16,
}

/// An alert that fires: its name, and the node it is about where it is about one.
pub type Firing = BTreeSet<(String, String)>;

/// How fast it goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As shipped.
    Shipped,
    /// It scrapes and evaluates each second, what has to last does so for a second, and what is counted over minutes is counted over 10 s.
    Quick,
}

impl Pace {
    /// A file at this pace.
    fn of(self, file: &str) -> String {
        if self == Self::Shipped {
            return file.to_owned();
        }
        let keys = ["for:", "scrape_interval:", "scrape_timeout:", "evaluation_interval:"];
        let quick = |line: &str| {
            let line = keys.iter().fold(line.to_owned(), |line, key| with_value(&line, key, "1s"));
            line.replace("[1m]", "[10s]").replace("[2m]", "[10s]")
        };
        file.lines().map(quick).collect::<Vec<_>>().join("\n")
    }
}

/// A running Prometheus.
pub struct Prometheus {
    port: u16,
    process: Process,
}

impl Prometheus {
    /// Starts it in a folder of its own, with the shipped rules and the shipped configuration, but for its targets.
    pub fn start(dir: &Path, pace: Pace, targets: &[Target], token: &str) -> Self {
        let rules = pace.of(&text_of("prometheus/alerts.yaml"));
        let config = pace.of(&text_of("prometheus/prometheus.yml"));
        let (config, _) = config.split_once("    static_configs:").expect("targets");
        let mut config = vec![config.trim_end().to_owned()];
        config.push("    static_configs:".into());
        for Target { node, role, port } in targets {
            config.push(format!(
                "      - {{ targets: [\"127.0.0.1:{port}\"], labels: {{ node: {node}, role: {role} }} }}"
            ));
        }
        for (name, text) in [
            ("alerts.yaml", rules),
            ("prometheus.yml", config.join("\n")),
            ("mediamirror.token", token.into()),
        ] {
            fs::write(dir.join(name), text).unwrap();
        }
        let port = free_port();
        let mut command = Command::new("prometheus");
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--log.level=warn");
        command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        let mut this = Self { port, process: Process::spawn("prometheus", dir, command) };
        wait_until(SOON, "Prometheus to be ready", || {
            assert!(this.process.is_running(), "{}", this.process.log());
            fetch(port, "/-/ready").is_some_and(|body| body.contains("Ready"))
        });
        this
    }

    fn ask(&self, path: &str) -> Result<Value, String> {
        let body = fetch(self.port, path).ok_or("no answer")?;
        let answer: Value = serde_json::from_str(&body).map_err(|e| format!("{e} in {body}"))?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(body) }
    }

    /// What an expression gives now.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.ask(&format!("/api/v1/query?query={encoded}"))?;
        data["result"].as_array().cloned().ok_or_else(|| data.to_string())
    }

    /// The alerts that are pending or fire.
    fn alerts(&self) -> Result<Vec<Value>, String> {
        let data = self.ask("/api/v1/alerts")?;
        data["alerts"].as_array().cloned().ok_or_else(|| data.to_string())
    }

    /// The alerts that fire: whole, and what they are about.
    pub fn firing(&self) -> Result<(Vec<Value>, Firing), String> {
        let mut alerts = self.alerts()?;
        alerts.retain(|alert| alert["state"] == "firing");
        let label = |alert: &Value, key: &str| alert["labels"][key].as_str().unwrap_or_default().to_owned();
        let firing = alerts.iter().map(|alert| (label(alert, "alertname"), label(alert, "node"))).collect();
        Ok((alerts, firing))
    }

    /// Waits until just these fire: the name without its beginning, and the node. Those in `perhaps` may.
    pub fn wait_firing(&self, why: &str, expected: &[(&str, &str)], perhaps: &[(&str, &str)]) -> Vec<Value> {
        let own = |list: &[(&str, &str)]| -> Firing {
            list.iter().map(|(name, node)| (format!("Mediamirror{name}"), (*node).to_owned())).collect()
        };
        let (expected, perhaps) = (own(expected), own(perhaps));
        wait_for(LONG, &format!("the alerts {expected:?}: {why}"), || {
            let (alerts, firing) = self.firing()?;
            let told = expected.is_subset(&firing);
            let only = firing.iter().all(|alert| expected.contains(alert) || perhaps.contains(alert));
            if told && only { Ok(alerts) } else { Err(format!("{firing:?}")) }
        })
    }

    /// Waits until nothing is amiss, not even for the time that an alert waits.
    pub fn wait_quiet(&self, why: &str) {
        wait_for(LONG, &format!("all alerts to clear: {why}"), || {
            let alerts = self.alerts()?;
            if alerts.is_empty() { Ok(()) } else { Err(format!("{alerts:?}")) }
        });
    }
}

/// The line with another value, if it is one of this key.
fn with_value(line: &str, key: &str, value: &str) -> String {
    match line.find(key) {
        Some(at) if line[..at].trim().is_empty() => format!("{}{key} {value}", &line[..at]),
        _ => line.to_owned(),
    }
}
