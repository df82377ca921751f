//! What the user typed: flags, unchecked. Each group is flattened into the commands that have it, and resolved against the
//! environment and the configuration file.

use std::{ffi::OsString, path::PathBuf};

/// The flags of every command.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct CommonArgs {
    /// The folder that is mirrored
    #[arg(long, value_name = "DIR", global = true)]
    pub root: Option<PathBuf>,
    /// The mirror: one media tree, equal on many nodes [default: media]
    #[arg(long, value_name = "NAME", global = true)]
    pub mirror: Option<String>,
    /// The name of this node [default: made of the host name]
    #[arg(long, value_name = "NAME", global = true)]
    pub node: Option<String>,
    /// The folder of this node's own records [default: below $STATE_DIRECTORY, $XDG_STATE_HOME/mediamirror or ~/.local/state/mediamirror]
    #[arg(long, value_name = "DIR", global = true)]
    pub state: Option<PathBuf>,
    /// The NATS server, or several separated by commas; without one, a server of our own is started on this machine
    #[arg(long, value_name = "URL", global = true)]
    pub nats_url: Option<String>,
    /// A TOML file with the names of flags as keys; the environment beats it, and flags beat both
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// How log lines look: text or json [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<String>,
    /// Where a service answers HTTP, or off [default: 127.0.0.1:7420 (watcher), 127.0.0.1:7421 (replicator)]
    #[arg(long, value_name = "ADDR|off", global = true)]
    pub http: Option<String>,
    /// A file with tokens, one a line, of which HTTP requests must bear one; needed for other addresses than loopback
    #[arg(long, value_name = "FILE", global = true)]
    pub http_token_file: Option<PathBuf>,
    /// A NATS credentials file
    #[arg(long, value_name = "FILE", global = true)]
    pub creds: Option<PathBuf>,
    /// A file with a NATS NKey seed
    #[arg(long, value_name = "FILE", global = true)]
    pub nkey: Option<PathBuf>,
    /// The certificates to trust instead of the system's
    #[arg(long, value_name = "FILE", global = true)]
    pub tls_ca: Option<PathBuf>,
    /// Our certificate, where the server asks for one
    #[arg(long, value_name = "FILE", global = true)]
    pub tls_cert: Option<PathBuf>,
    /// The key of our certificate
    #[arg(long, value_name = "FILE", global = true)]
    pub tls_key: Option<PathBuf>,
    /// A context of the nats CLI to take server and credentials from
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// Copies of log, blobs and node records that the broker keeps, when they are made: 1 to 5 [default: 1]
    #[arg(long, value_name = "N", global = true)]
    pub replicas: Option<String>,
    /// Events of each path that the log keeps, when it is made [default: all]
    #[arg(long, value_name = "N", global = true)]
    pub history: Option<String>,
    /// Make the bucket of blobs as durable as the log (slower; without it a lost blob is uploaded again by a node that holds it)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", global = true)]
    pub durable_blobs: Option<String>,
    /// Where blobs are kept, when the mirror is made: nats, s3://bucket/prefix, file:///folder (a folder that all nodes share) or another store [default: nats]
    #[arg(long, value_name = "nats|URL", global = true)]
    pub blobs: Option<String>,
}

/// The flags of commands that upload.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct UploadArgs {
    /// Upload at most this much a second, for example 10MiB [default: no limit]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub upload_limit: Option<String>,
    /// Files that are moved at once, 1 to 512 [default: 256]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub transfers: Option<String>,
}

/// The flags of commands that download.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct DownloadArgs {
    /// Download at most this much a second, for example 10MiB [default: no limit]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub download_limit: Option<String>,
    /// Files that are moved at once, 1 to 512 [default: 256]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub transfers: Option<String>,
}

/// The flags of services that take files over HTTP.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct ReceiveArgs {
    /// The largest file that is taken over HTTP [default: 16GiB]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub max_upload: Option<String>,
    /// Who owns files that were uploaded over HTTP, names or numbers [default: as their folder, where permitted]
    #[arg(long, value_name = "USER:GROUP")]
    pub owner: Option<String>,
    /// What uploads over HTTP leave free of the root's disk, a size or a share of it such as 5% [default: 1GiB or 5%, whichever is less]
    #[arg(long, value_name = "SIZE|PERCENT", allow_negative_numbers = true)]
    pub min_free: Option<String>,
}

/// The flags of commands that look for files.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct WatchArgs {
    /// Leave out what this pattern matches, gitignore style (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    pub ignore: Vec<String>,
}

/// The flags of commands that place files.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct PlaceArgs {
    /// What becomes of files that were removed elsewhere: trash, delete or ignore [default: trash]
    #[arg(long, value_name = "WHAT")]
    pub removals: Option<String>,
    /// Who owns placed files, names or numbers [default: as their folder, where permitted]
    #[arg(long, value_name = "USER:GROUP")]
    pub owner: Option<String>,
    /// Days that removed and replaced files stay in the trash [default: 7]
    #[arg(long, value_name = "DAYS")]
    pub trash_days: Option<String>,
    /// What stays free of the root's disk, a size or a share of it such as 5% [default: 1GiB or 5%, whichever is less]
    #[arg(long, value_name = "SIZE|PERCENT", allow_negative_numbers = true)]
    pub min_free: Option<String>,
}

/// The flags of how long the blob store keeps what it has.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct RetentionArgs {
    /// What the blob store keeps of what the log names: all; applied: what not every node has yet; or the latter for at least so long, as 30d [default: all]
    #[arg(long, value_name = "all|applied|DURATION")]
    pub blob_retention: Option<String>,
}

/// The flags of the timer that collects blobs.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct CollectArgs {
    /// Collect blobs that nothing needs this often, one node for all; off: only `replicator gc` does [default: 1d]
    #[arg(long, value_name = "DURATION|off")]
    pub gc_every: Option<String>,
    /// What is kept
    #[command(flatten)]
    pub retention: RetentionArgs,
}

/// The flags of who is told of changes.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct HookArgs {
    /// Run this shell command after files were placed, written or removed here, with one JSON object a change on its standard input; until it ends with 0 it is run again
    #[arg(long, value_name = "CMD")]
    pub on_change: Option<OsString>,
    /// How long it may take before it is killed [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub on_change_timeout: Option<String>,
}

/// The flags of the background check of cold files.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct ScrubArgs {
    /// Read at most this much a second when looking for files that rotted; off: do not look [default: 8MiB]
    #[arg(long, value_name = "SIZE")]
    pub scrub_rate: Option<String>,
    /// Begin a pass over all files at most this often [default: 7d]
    #[arg(long, value_name = "DURATION")]
    pub scrub_every: Option<String>,
}
