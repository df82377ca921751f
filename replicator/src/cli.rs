//! What the user typed, and which command it is.

use crate::{
    commands, config, doctor, export, gc, history, history::Which, log_command, migrate, nodes, parked,
    provision, replay, restore, verify, wait,
};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use common::{
    event::Version,
    exit::{Exit, Failure},
    hash::ContentHash,
    logging,
    names::NodeName,
    path::MediaPath,
    settings::{
        CollectArgs, CommonArgs, DownloadArgs, Environment, HealthArgs, HookArgs, Layers, PlaceArgs,
        ReadArgs, RetentionArgs, ScrubArgs, Settings, SettingsError, UploadArgs, WatchArgs, location_of,
        parse_duration,
    },
    startup::runtime,
    status,
    time::Timestamp,
    wait::{Enough, Wanted, What},
};
use std::time::Duration;
use url::Url;

#[derive(Parser)]
#[command(name = "replicator", version, about = "Brings a media folder up to the mirror's log")]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

/// A window of the log.
#[derive(Args, Clone, Debug)]
pub struct Window {
    /// The first version
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub from_seq: u64,
    /// The last version [default: the newest]
    #[arg(long, value_name = "M")]
    pub to_seq: Option<u64>,
}

/// The flags of `run`, for it and for the commands that look at them.
#[derive(Args, Clone, Debug)]
struct RunArgs {
    #[command(flatten)]
    transfer: DownloadArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    scrub: ScrubArgs,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    hook: HookArgs,
    #[command(flatten)]
    collect: CollectArgs,
}

impl RunArgs {
    fn resolve(&self, layers: &Layers) -> Result<commands::Run, SettingsError> {
        Ok(commands::Run {
            transfer: self.transfer.resolve(layers)?,
            place: self.place.resolve(layers)?,
            scrub: self.scrub.resolve(layers)?,
            max_lag: self.health.resolve(layers)?,
            miss_wait: self.read.resolve(layers)?,
            hook: self.hook.resolve(layers)?,
            collect: self.collect.resolve(layers)?,
        })
    }
}

#[derive(Subcommand)]
enum Command {
    /// Follow the log and place what this node lacks, until told to stop
    Run {
        #[command(flatten)]
        run: RunArgs,
    },
    /// Say how all nodes are
    Status {
        /// Print JSON, one object a look
        #[arg(long)]
        json: bool,
        /// Look again every 2 s, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Print the log
    Log {
        #[command(flatten)]
        window: Window,
        /// Only events of this path
        #[arg(long, value_name = "P")]
        path: Option<MediaPath>,
        /// Go on with new events until interrupted
        #[arg(long)]
        follow: bool,
        /// One JSON object a line: the payload, with `version` and `time` added
        #[arg(long)]
        json: bool,
    },
    /// Name all versions of a path that the log has, and whether their content is still in the blob store
    History {
        /// The path, relative to the root
        path: MediaPath,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Bring content of a path back as a new version [default: what it had before the present one]
    Restore {
        /// The path, relative to the root
        path: MediaPath,
        /// The content of this version
        #[arg(long, value_name = "N", conflicts_with = "sha256")]
        version: Option<u64>,
        /// This content, from the log or from the trash (a lost conflict)
        #[arg(long, value_name = "H")]
        sha256: Option<ContentHash>,
        /// How long to wait until the new version is in the log [default: 60s]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "60s", hide_default_value = true)]
        timeout: Duration,
    },
    /// Compare log, index, disk and blob store; 0: equal, 1: something differs
    Verify {
        /// Have the running processes repair what differs, wait for them, and look again
        #[arg(long)]
        repair: bool,
        /// Say whether all nodes have the same files, by their digests, and on which node what differs; no file is read
        #[arg(long, conflicts_with_all = ["repair", "read_blobs"])]
        cluster: bool,
        /// How long to wait for a repair, or until the nodes can be compared [default: 60s]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "60s", hide_default_value = true)]
        timeout: Duration,
        /// Read every blob, rather than ask whether it is there: as many bytes as the mirror has
        #[arg(long)]
        read_blobs: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Wait until a file is on the nodes that live; 0: it is, 1: it cannot be applied on one that is needed, 4: time is up
    Wait {
        /// Its path, relative to the root: what the log says of it last
        #[arg(required_unless_present = "version")]
        path: Option<MediaPath>,
        /// The event of this version instead
        #[arg(long, value_name = "N", conflicts_with = "path", value_parser = clap::value_parser!(u64).range(1..))]
        version: Option<u64>,
        /// On how many nodes: a number, or all
        #[arg(long, value_name = "all|N", default_value = "all")]
        nodes: Enough,
        /// How long to wait [default: 10s]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s", hide_default_value = true)]
        timeout: Duration,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Events that cannot be applied here
    Parked {
        #[command(subcommand)]
        action: Option<ParkedAction>,
        /// Print JSON
        #[arg(long, global = true)]
        json: bool,
    },
    /// The nodes of the mirror
    Node {
        #[command(subcommand)]
        action: NodeAction,
    },
    /// Take blobs away that nothing needs: 0 also when there are none, 5 when an operator has to agree
    Gc {
        /// Say what would be taken away
        #[arg(long)]
        dry_run: bool,
        /// Also when it is over a tenth of all blobs, or when no node follows this log
        #[arg(long)]
        yes: bool,
        /// Leave what no event names alone for so long after it was stored or used; shorter than uploads without a path are told that they are kept [default: 24h]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "24h", hide_default_value = true)]
        grace: Duration,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        retention: RetentionArgs,
    },
    /// Move the blobs to another store while the mirror works: 0: they are there, 4: a node has not followed yet. It may be ended at any time, and goes on when it is run again
    Migrate {
        /// The store to move to: nats, s3://bucket/prefix, file:///folder or another
        #[arg(long, value_name = "nats|URL")]
        to: String,
        /// Say what would be copied
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for the nodes to follow [default: 60s]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "60s", hide_default_value = true)]
        timeout: Duration,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        transfer: UploadArgs,
    },
    /// Print each setting of both programs, and where it came from. Takes the flags of `run`
    Config {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Print a configuration file with every key, commented out, instead
        #[arg(long, conflicts_with = "json")]
        example: bool,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Make log, blobs and node records, and the consumers of nodes, so that the nodes need no right to. What is there stays as it is
    Provision {
        /// The nodes, by name, separated by commas
        #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
        nodes: Vec<NodeName>,
    },
    /// Check this machine and the broker, and say what to change; 0: nothing is wrong, 1: something is. Takes the flags of `run`, and changes nothing
    Doctor {
        /// Where the web shows the root: nothing of .mirror may be served below it
        #[arg(long, value_name = "URL", value_parser = doctor::parse_url)]
        public_url: Option<Url>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        watch: WatchArgs,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Build the tree of a window of the log in --root, or in a bucket, touching nothing else there
    Replay {
        /// A bucket instead of --root: each file under its path, with its content type, and its hash in the metadata
        #[arg(long, value_name = "URL", conflicts_with_all = ["at", "to_seq", "from_seq"])]
        to: Option<String>,
        /// Go on with new events until interrupted
        #[arg(long, requires = "to")]
        follow: bool,
        #[command(flatten)]
        window: Window,
        /// The tree as it was at this moment, by the broker's clock, as 2026-02-16T16:44:02Z
        #[arg(long, value_name = "TIME", conflicts_with = "to_seq")]
        at: Option<Timestamp>,
        /// How long the nodes are waited for to bring back content that the blob store has no more [default: 30s]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s", hide_default_value = true)]
        timeout: Duration,
        #[command(flatten)]
        transfer: DownloadArgs,
    },
}

/// What to do about parked events.
#[derive(Subcommand, Clone, Debug)]
pub enum ParkedAction {
    /// Name them, with the reason, since when, and how often they were tried (the default)
    List,
    /// Have the running replicator try them now, also those that it has given up
    Retry {
        /// Only those of these paths
        #[arg(value_name = "PATH")]
        paths: Vec<MediaPath>,
    },
}

/// What to do about a node.
#[derive(Subcommand, Clone, Debug)]
pub enum NodeAction {
    /// Forget a node that is gone for good: its records, what it asked for, and its consumer. One that comes back is a node again
    Remove {
        /// Its name
        #[arg(value_name = "NAME")]
        name: NodeName,
    },
}

/// What can be typed, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program.
pub fn run() -> Result<Exit, Failure> {
    let typed = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&typed).unwrap_or_else(|error| error.exit());
    let layers = cli.common.layers(Environment::of_process())?;
    let settings = cli.common.resolve(&layers)?;
    logging::init(&settings.log)?;
    let runtime = runtime().map_err(|error| Failure::new(Exit::Failed, error))?;
    let typed = typed.subcommand().map(|(_, typed)| typed.clone()).unwrap_or_default();
    runtime.block_on(dispatch(cli.command, settings, layers, typed))
}

async fn dispatch(
    command: Command,
    settings: Settings,
    layers: Layers,
    typed: ArgMatches,
) -> Result<Exit, Failure> {
    match command {
        Command::Run { run } => commands::run(settings, run.resolve(&layers)?).await,
        Command::Status { json, watch } => {
            status::command(&settings, status::Wanted { only: None, json, watch }).await
        }
        Command::Log { window, path, follow, json } => {
            log_command::run(settings, log_command::Wanted { window, path, follow, json }).await
        }
        Command::History { path, json } => history::run(&settings, path, json).await,
        Command::Restore { path, version, sha256, timeout } => {
            let which = match (version, sha256) {
                (Some(version), _) => Which::Version(Version::new(version)),
                (None, Some(content)) => Which::Content(content),
                (None, None) => Which::Before,
            };
            restore::run(&settings, path, which, timeout).await
        }
        Command::Verify { cluster: true, timeout, json, .. } => {
            verify::cluster::run(&settings, timeout, json).await
        }
        Command::Verify { repair, timeout, read_blobs: blobs, json, watch, .. } => {
            let wanted = verify::Wanted { repair, timeout, blobs, json };
            verify::run(settings, watch.resolve(&layers)?, wanted).await
        }
        Command::Wait { path, version, nodes, timeout, json } => {
            let what = match (path, version) {
                (Some(path), _) => What::Path(path),
                (None, version) => What::Version(Version::new(version.unwrap_or_default())),
            };
            wait::run(&settings, &Wanted { what, enough: nodes, timeout }, json).await
        }
        Command::Provision { nodes } => provision::run(&settings, &nodes).await,
        Command::Parked { action, json } => parked::run(&settings, action, json).await,
        Command::Node { action: NodeAction::Remove { name } } => nodes::remove(&settings, &name).await,
        Command::Doctor { public_url, json, watch, run } => {
            // Not all of it is needed, but what `run` would refuse is refused here.
            let commands::Run { transfer, place, .. } = run.resolve(&layers)?;
            let watch = watch.resolve(&layers)?;
            doctor::run(&settings, doctor::Wanted { transfer, place, watch, public_url, json }).await
        }
        Command::Config { example: true, .. } => {
            print!("{}", common::settings::example());
            Ok(Exit::Done)
        }
        Command::Config { example: false, json, run } => {
            // What `run` would refuse is refused here.
            run.resolve(&layers)?;
            Ok(config::run(&layers, &typed, json))
        }
        Command::Gc { dry_run, yes, grace, json, retention } => {
            let retention = retention.resolve(&layers)?;
            gc::run(settings, gc::Asked { retention, grace, dry_run, yes, json }).await
        }
        Command::Migrate { to, dry_run, timeout, json, transfer } => {
            let asked = migrate::Asked { to: location_of("to", &to)?, dry_run, timeout, json };
            migrate::run(settings, asked, transfer.resolve(&layers)?).await
        }
        Command::Replay { to: Some(to), follow, timeout, transfer, .. } => {
            let asked = export::Asked { to: location_of("to", &to)?, follow, timeout };
            export::run(settings, asked, transfer.resolve(&layers)?).await
        }
        Command::Replay { window, at, timeout, transfer, .. } => {
            let asked = replay::Asked { window, at, timeout };
            replay::run(settings, asked, transfer.resolve(&layers)?).await
        }
    }
}
