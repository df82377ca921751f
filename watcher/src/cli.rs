//! What the user typed, and which command it is.

use crate::{commands, dry_run};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use common::{
    exit::{Exit, Failure},
    logging,
    nodes::Role,
    settings::{CommonArgs, Environment, HealthArgs, Layers, ReceiveArgs, Settings, UploadArgs, WatchArgs},
    startup::runtime,
    status,
};

#[derive(Parser)]
#[command(name = "watcher", version, about = "Publishes the files of a media folder to the mirror's log")]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch the root and publish what changes, until told to stop
    Run {
        #[command(flatten)]
        transfer: UploadArgs,
        #[command(flatten)]
        watch: WatchArgs,
        #[command(flatten)]
        receive: ReceiveArgs,
        #[command(flatten)]
        health: HealthArgs,
    },
    /// Publish what changed since the last time, once
    Scan {
        /// Say what differs from the log, and do nothing about it; 0: nothing, 1: something
        #[arg(long)]
        dry_run: bool,
        /// Of a file that the log has with other content, and that this node does not know yet, publish ours where its mtime is later [default: the log wins]
        #[arg(long, value_name = "WHICH", conflicts_with = "dry_run")]
        prefer: Option<Prefer>,
        #[command(flatten)]
        transfer: UploadArgs,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Say how the watchers are
    Status {
        /// Print JSON, one object a look
        #[arg(long)]
        json: bool,
        /// Look again every 2 s, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Go on with what is held: publish the removals, make the replacements
    Approve {
        /// Take it back instead: fetch the removed files again, publish what stands here over what would replace it
        #[arg(long)]
        revert: bool,
    },
}

/// Which of two contents is to win.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Prefer {
    /// The one with the later mtime, if that is not ahead of the broker's clock
    Newest,
}

/// What can be typed, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program.
pub fn run() -> Result<Exit, Failure> {
    let cli = Cli::parse();
    let layers = cli.common.layers(Environment::of_process())?;
    let settings = cli.common.resolve(&layers)?;
    logging::init(&settings.log)?;
    let runtime = runtime().map_err(|error| Failure::new(Exit::Failed, error))?;
    runtime.block_on(dispatch(cli.command, settings, layers))
}

async fn dispatch(command: Command, settings: Settings, layers: Layers) -> Result<Exit, Failure> {
    match command {
        Command::Run { transfer, watch, receive, health } => {
            let (transfer, watch) = (transfer.resolve(&layers)?, watch.resolve(&layers)?);
            let receive = receive.resolve(&layers)?;
            commands::run(settings, transfer, watch, receive, health.resolve(&layers)?).await
        }
        Command::Scan { dry_run: true, watch, .. } => dry_run::run(settings, watch.resolve(&layers)?).await,
        Command::Scan { dry_run: false, prefer, transfer, watch } => {
            let (transfer, watch) = (transfer.resolve(&layers)?, watch.resolve(&layers)?);
            commands::scan(settings, transfer, watch, prefer.is_some()).await
        }
        Command::Status { json, watch } => {
            status::command(&settings, status::Wanted { only: Some(Role::Watcher), json, watch }).await
        }
        Command::Approve { revert } => commands::approve(settings, revert).await,
    }
}
