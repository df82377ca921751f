//! What the README tells people to type exists.

use e2e::{Role, SOON};
use std::{fs, path::Path, process::Command};

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

fn help(role: Role, subcommand: &str) -> String {
    let mut command = Command::new(role.program());
    command.args([subcommand, "--help"]);
    e2e::run(SOON, command).succeeded().stdout
}

#[test]
fn every_command_of_the_readme_takes_its_flags() {
    let readme = readme();
    let commands = readme.lines().filter_map(|line| line.strip_prefix("    "));
    let mut checked = 0;
    for command in commands {
        let mut words = command.split_whitespace();
        let Some(role) = Role::ALL.into_iter().find(|role| words.clone().next() == Some(role.name())) else {
            continue;
        };
        let subcommand = words.nth(1).unwrap();
        let help = help(role, subcommand);
        for flag in words.filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "`{command}`: {subcommand} has no {flag}");
        }
        checked += 1;
    }
    assert!(checked >= 5, "only {checked} commands found");
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
