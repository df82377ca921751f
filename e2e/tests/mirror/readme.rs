//! What README and manuals tell people to type exists, and so does what they say that the programs say.

use e2e::{Role, SOON};
use std::{collections::BTreeSet, fs, path::Path, process::Command};

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

fn readme() -> String {
    text("README.md")
}

fn help(role: Role, subcommand: &str) -> String {
    let mut command = Command::new(role.program());
    command.args([subcommand, "--help"]);
    e2e::run(SOON, command).succeeded().stdout
}

#[test]
fn every_command_of_readme_and_manuals_takes_its_flags() {
    let texts = ["README.md", "docs/OPERATIONS.md", "docs/MIGRATION.md"].map(text);
    let blocks = texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("    "));
    // Between backticks, too.
    let inline = texts.iter().flat_map(|text| text.split('`').skip(1).step_by(2));
    let mut checked = 0;
    for command in blocks.chain(inline) {
        let mut words = command.split_whitespace();
        let Some(role) = Role::ALL.into_iter().find(|role| words.clone().next() == Some(role.name())) else {
            continue;
        };
        let Some(subcommand) = words.nth(1).filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        else {
            continue;
        };
        let help = help(role, subcommand);
        for flag in words.filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "`{command}`: {subcommand} has no {flag}");
        }
        checked += 1;
    }
    assert!(checked >= 40, "only {checked} commands found");
}

#[test]
fn every_alert_has_its_line_in_the_manual_and_no_other_has() {
    let named = |text: &str, before: &str| -> BTreeSet<String> {
        let rest = text.lines().filter_map(|line| line.trim_start().strip_prefix(before));
        rest.map(|rest| rest.trim_matches([' ', '`', '|']).split('`').next().unwrap().to_owned()).collect()
    };
    let alerts = named(&text("deploy/prometheus/alerts.yaml"), "- alert:");
    assert!(alerts.len() > 10, "{alerts:?}");
    let of_manual = named(&text("docs/OPERATIONS.md"), "| `Mediamirror");
    let of_manual: BTreeSet<String> = of_manual.iter().map(|name| format!("Mediamirror{name}")).collect();
    assert_eq!(alerts, of_manual);
}

#[test]
fn every_error_of_the_manual_is_one_that_the_programs_have() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut find = Command::new("find");
    find.args(["common/src", "watcher/src", "replicator/src", "-name", "*.rs", "-exec", "cat", "{}", "+"]);
    find.current_dir(root);
    let source = e2e::run(SOON, find).succeeded().stdout;
    let manual = text("docs/OPERATIONS.md");
    let (_, errors) = manual.split_once("| it says |").unwrap();
    let (errors, _) = errors.split_once("\n\n").unwrap();
    let rows = errors.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut checked = 0;
    for row in rows {
        let cell = row.split(" | ").next().unwrap();
        for words in format!("`{cell}").split('`').skip(1).step_by(2) {
            assert!(source.contains(words), "no program says `{words}`");
            checked += 1;
        }
    }
    assert!(checked >= 20, "only {checked}");
}

#[test]
fn every_flag_of_the_readme_exists() {
    let helps = Role::ALL.map(|role| help(role, "run"));
    let readme = readme();
    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `--")).collect();
    assert!(rows.len() >= 8, "only {} rows found", rows.len());
    for row in rows {
        let cell = row.split('|').nth(1).unwrap();
        for flag in cell.split(|c: char| !c.is_ascii_lowercase() && c != '-').filter(|w| w.starts_with("--"))
        {
            assert!(helps.iter().any(|help| help.contains(flag)), "{flag} is in no help");
        }
    }
}
