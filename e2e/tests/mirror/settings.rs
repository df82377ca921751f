//! What is set, and where: as an operator asks for it.

use e2e::{Mirror, Role};
use std::{fs, path::Path};

#[test]
fn each_setting_says_where_it_came_from() {
    let mut mirror = Mirror::prepared(&["a"]);
    let file = mirror.dir().join("config.toml");
    fs::write(
        &file,
        "transfers = 7\nscrub-every = \"3d\"\nignore = [\"*.bak\", \"cache/\"]\nmax-lag = \"20s\"\n",
    )
    .unwrap();
    mirror.nodes[0].environment.push(("MEDIAMIRROR_CONFIG".into(), file.clone()));
    mirror.nodes[0].environment.push(("MEDIAMIRROR_MAX_LAG".into(), "30s".into()));
    let told =
        mirror.nodes[0].run(Role::Replicator, &["config", "--json", "--scrub-every", "2d"]).succeeded();
    let find = |key: &str| told.json_lines().into_iter().find(|line| line["key"] == key).unwrap();
    let of = |key: &str| (find(key)["value"].clone(), find(key)["origin"].as_str().unwrap_or("-").to_owned());
    assert_eq!(of("transfers"), ("7".into(), format!("transfers in {}", file.display())));
    assert_eq!(of("scrub-every"), ("2d".into(), "--scrub-every".into()));
    assert_eq!(of("max-lag"), ("30s".into(), "MEDIAMIRROR_MAX_LAG".into()));
    assert_eq!(of("ignore").0, serde_json::json!(["*.bak", "cache/"]));
    assert_eq!(of("node"), ("a".into(), "--node".into()));
    assert_eq!(
        (of("trash-days").0, find("trash-days")["default"].as_str()),
        (serde_json::Value::Null, Some("7"))
    );
    let text = mirror.nodes[0].run(Role::Replicator, &["config"]).succeeded().stdout;
    assert!(text.lines().any(|line| line.starts_with("trash-days ") && line.ends_with(" default")), "{text}");
    // What `run` would refuse is refused here.
    let refused = mirror.nodes[0].run(Role::Replicator, &["config", "--trash-days", "many"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    fs::write(&file, "scrub-evry = \"3d\"\n").unwrap();
    let refused = mirror.nodes[0].run(Role::Replicator, &["config"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("scrub-every"), "{refused:?}");
}

#[test]
fn the_shipped_file_has_every_key_and_each_of_its_lines_can_be_used() {
    let mirror = Mirror::prepared(&["a"]);
    let example = mirror.nodes[0].run(Role::Replicator, &["config", "--example"]).succeeded().stdout;
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config.toml");
    if std::env::var_os("MEDIAMIRROR_WRITE_DOCS").is_some() {
        fs::write(&shipped, &example).unwrap();
    }
    assert_eq!(fs::read_to_string(shipped).unwrap(), example, "MEDIAMIRROR_WRITE_DOCS=1 writes it anew");
    // All those that have a default, without the mark.
    let file = mirror.dir().join("config.toml");
    let lines =
        example.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' '));
    let (unset, set): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.ends_with(" = \"\""));
    assert!(unset.len() > 10 && set.len() > 12, "{unset:?} {set:?}");
    fs::write(&file, set.join("\n")).unwrap();
    let mut command = mirror.nodes[0].command(Role::Replicator, ["config", "--json"]);
    command.arg("--config").arg(&file);
    let told = e2e::run(e2e::SOON, command).succeeded().json_lines();
    let from_file =
        told.iter().filter(|line| line["origin"].as_str().is_some_and(|origin| origin.contains(" in /")));
    // The flags of the test beat two of them.
    assert!(from_file.count() >= set.len() - 3, "{told:?}");
}
