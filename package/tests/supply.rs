//! What we are made of, by `deny.toml`: only licences that it allows, and only from where it allows. Advisories are for `cargo deny check` (`deploy/test.sh --full`),
//! which needs their database from the network.

use serde_json::Value;
use std::{collections::BTreeSet, path::Path, process::Command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace")
}

fn deny() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml").parse().expect("TOML")
}

fn texts(table: &toml::Table, section: &str, key: &str) -> Vec<String> {
    let list = table[section][key].as_array().expect("a list");
    list.iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

/// The packages that are linked for a target.
fn packages(target: &str) -> Vec<Value> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target]);
    let done = cargo.current_dir(root()).output().expect("run cargo");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let all: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let used: BTreeSet<&str> = all["resolve"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let packages = all["packages"].as_array().expect("packages").iter();
    packages.filter(|package| used.contains(package["id"].as_str().expect("an id"))).cloned().collect()
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed_and_comes_from_the_registry() {
    let deny = deny();
    let allowed = texts(&deny, "licenses", "allow");
    let mut looked = 0;
    for target in texts(&deny, "graph", "targets") {
        for package in packages(&target) {
            let name = format!("{} {}", package["name"], package["version"]);
            let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
            let terms = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX)
                .unwrap_or_else(|error| panic!("{name}: {licence:?}: {error}"));
            let fits = terms.evaluate(|term| {
                let id = term.license.id().map(|id| id.name);
                term.addition.is_none() && id.is_some_and(|id| allowed.iter().any(|allowed| allowed == id))
            });
            assert!(fits, "{name} is under {licence}, which deny.toml does not allow");
            match package["source"].as_str() {
                None => assert!(name.contains("mediamirror"), "{name} comes from a path"),
                Some(source) => {
                    assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
                }
            }
            looked += 1;
        }
    }
    assert!(looked > 300, "{looked}");
}

#[test]
fn everything_is_locked_by_its_checksum_and_no_code_of_ours_is_unsafe() {
    let lock: toml::Table =
        std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock").parse().expect("TOML");
    for package in lock["package"].as_array().expect("packages") {
        let ours = package.get("source").is_none();
        assert!(ours || package.get("checksum").is_some(), "{package:?}");
    }
    let workspace: toml::Table =
        std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml").parse().expect("TOML");
    assert_eq!(workspace["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for member in texts(&workspace, "workspace", "members") {
        let manifest = std::fs::read_to_string(root().join(&member).join("Cargo.toml")).expect("a manifest");
        let manifest: toml::Table = manifest.parse().expect("TOML");
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{member} has lints of its own");
    }
}
