//! Writes manual pages and shell completions of both programs, as they are called when they are installed, into a folder.

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// By these names the package installs them.
fn programs() -> [(&'static str, Command); 2] {
    [("mediamirror-watcher", watcher::cli::command()), ("mediamirror-replicator", replicator::cli::command())]
}

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: mediamirror-package FOLDER");
        return ExitCode::from(2);
    };
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot write below {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> io::Result<()> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    for (name, command) in programs() {
        // Pages first: completions add a command for each help of a help.
        let mut command = command.name(name).bin_name(name).disable_help_subcommand(true);
        pages(command.clone(), name, &man)?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            generate_to(shell, &mut command, name, &completions)?;
        }
    }
    Ok(())
}

/// A page for the program, and one for each of its commands.
fn pages(command: Command, name: &str, folder: &Path) -> io::Result<()> {
    let mut command = command.display_name(name.to_owned());
    command.build();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let (typed, name) = (format!("{name} {}", sub.get_name()), format!("{name}-{}", sub.get_name()));
        // The library wants names that live for ever; there are a few dozen.
        let own: &'static str = name.clone().leak();
        let page = sub.clone().name(own).bin_name(typed).display_name(own);
        let mut text = Vec::new();
        Man::new(page).render(&mut text)?;
        fs::write(folder.join(format!("{name}.1")), text)?;
    }
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    fs::write(folder.join(format!("{name}.1")), text)
}
