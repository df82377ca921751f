//! Dashboard and alerts fit the programs: they name metrics that exist and commands that exist, and Prometheus takes them.

use crate::prometheus::{may_run, promtool, text_of};
use common::vitals::table::{Kind, TABLE};
use e2e::{Role, SOON};
use serde_json::Value;
use std::{collections::BTreeSet, process::Command};

/// The metrics that a text names: all of ours begin in one of two ways.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mediamirror_") || word.starts_with("sync_")).collect()
}

/// Whether a process exposes it.
fn exists(metric: &str) -> bool {
    TABLE.iter().any(|row| match row.kind {
        Kind::Histogram => {
            ["_bucket", "_sum", "_count"].iter().any(|end| metric.strip_suffix(end) == Some(row.name))
        }
        Kind::Counter | Kind::Gauge | Kind::Info => metric == row.name,
    })
}

/// The parts of alerts.yaml, one for each alert.
fn alerts() -> Vec<String> {
    let text = text_of("prometheus/alerts.yaml");
    text.split("- alert: ").skip(1).map(str::to_owned).collect()
}

/// The expressions of the dashboard, by panel.
pub fn panels() -> Vec<(String, Vec<String>)> {
    let board: Value = serde_json::from_str(&text_of("grafana/dashboard.json")).expect("a dashboard");
    let panels = board["panels"].as_array().expect("panels").iter().filter(|panel| panel["type"] != "row");
    let of = |panel: &Value| {
        let targets = panel["targets"].as_array().expect("targets").iter();
        targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()).collect()
    };
    panels.map(|panel| (panel["title"].to_string(), of(panel))).collect()
}

#[test]
fn every_metric_of_a_panel_or_a_rule_exists() {
    for (title, expressions) in panels() {
        assert!(!expressions.is_empty(), "{title} shows nothing");
        for expression in &expressions {
            let metrics = metrics_in(expression);
            assert!(!metrics.is_empty() || expression.contains("ALERTS"), "{title}: {expression}");
            metrics.iter().for_each(|metric| assert!(exists(metric), "{title}: there is no {metric}"));
        }
    }
    for file in ["prometheus/alerts.yaml", "prometheus/alerts_test.yaml", "prometheus/scrub_test.yaml"] {
        for metric in metrics_in(&text_of(file)) {
            assert!(exists(metric), "{file}: there is no {metric}");
        }
    }
}

#[test]
fn the_dashboard_can_be_imported_for_any_prometheus_and_any_node() {
    let board: Value = serde_json::from_str(&text_of("grafana/dashboard.json")).expect("a dashboard");
    let variables = board["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "node"]);
    let panels = board["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "an id twice");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let of = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in of("x")..of("x") + of("w") {
            (of("y")..of("y") + of("h"))
                .for_each(|y| assert!(taken.insert((x, y)), "{panel} is over another"));
            assert!(x < 24, "{panel} is too far right");
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
}

#[test]
fn each_alert_says_what_is_wrong_and_what_to_do_by_commands_that_exist() {
    let alerts = alerts();
    assert!(alerts.len() >= 9);
    let mut commands = 0;
    for alert in &alerts {
        let name = alert.lines().next().unwrap();
        for key in ["expr: ", "severity: ", "summary: ", "description: >-"] {
            assert_eq!(alert.matches(key).count(), 1, "{name}: {key}");
        }
        assert!(
            ["critical", "warning"].iter().any(|how| alert.contains(&format!("severity: {how}"))),
            "{name}"
        );
        let (_, description) = alert.split_once("description: >-").unwrap();
        assert!(description.contains('`'), "{name} names nothing to do");
        let description = description.split_whitespace().collect::<Vec<_>>().join(" ");
        for command in description.split('`').skip(1).step_by(2) {
            let mut words = command.split(' ');
            let role = words.next().and_then(|word| Role::ALL.into_iter().find(|role| role.name() == word));
            let Some(role) = role else { continue };
            let (subcommands, flags): (Vec<&str>, Vec<&str>) = words
                .filter(|word| !word.chars().all(|c| c.is_ascii_uppercase()))
                .partition(|word| !word.starts_with("--"));
            let mut help = Command::new(role.program());
            help.args(&subcommands).arg("--help");
            let help = e2e::run(SOON, help).succeeded();
            flags.iter().for_each(|flag| assert!(help.stdout.contains(flag), "{name}: `{command}`"));
            commands += 1;
        }
    }
    assert!(commands > 10, "only {commands} commands found");
}

#[test]
fn each_alert_has_a_unit_test_and_is_raised_by_a_fault() {
    let units = text_of("prometheus/alerts_test.yaml") + &text_of("prometheus/scrub_test.yaml");
    let faults = include_str!("alerts.rs");
    for alert in alerts() {
        let name = alert.lines().next().unwrap();
        assert!(units.contains(&format!("alertname=\"{name}\"")), "{name} has no unit test");
        let short = name.strip_prefix("Mediamirror").expect("a common beginning");
        assert!(faults.contains(&format!("(\"{short}\"")), "{name} is raised by no fault");
    }
}

#[test]
fn promtool_takes_rules_configuration_and_unit_tests() {
    if !may_run("promtool_takes_rules_configuration_and_unit_tests") {
        return;
    }
    for arguments in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "alerts.yaml"],
        &["test", "rules", "alerts_test.yaml", "scrub_test.yaml"],
    ] {
        let said = promtool(arguments).succeeded();
        assert!(said.stdout.contains("SUCCESS"), "{said:?}");
    }
}
