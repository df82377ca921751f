//! From what the user typed to what the programs need, in one fallible step that changes nothing.
//!
//! [`CommonArgs`] and its siblings are the flags as text; [`Layers`] adds the environment and the configuration file;
//! [`Settings`] and its siblings are checked. A flag beats the environment, which beats the file, which beats the default.

mod args;
mod error;
mod hook;
mod http;
mod layers;
mod min_free;
mod nats;
mod retention;
mod told;
mod units;

pub use args::{
    CollectArgs, CommonArgs, DownloadArgs, HookArgs, PlaceArgs, ReceiveArgs, RetentionArgs, ScrubArgs,
    UploadArgs, WatchArgs,
};
pub use error::SettingsError;
pub use hook::HookSettings;
pub use http::{HealthArgs, HttpSettings, Listen, NotifySettings, ReadArgs, ReceiveSettings};
pub use layers::{Environment, Layers, Level, Origin};
pub use min_free::{InvalidMinFree, MinFree};
pub use nats::{Auth, NatsSettings, Secret, Server, Tls};
pub use retention::{CollectSettings, Retention};
pub use told::{Told, example};
pub use units::{InvalidDuration, InvalidSize, Size, parse_duration};

use crate::{
    blobs::{InvalidLocation, Location},
    hash::ContentHash,
    names::{MirrorName, NodeName},
};
use layers::Given;
use std::{
    ffi::OsStr,
    fs,
    num::NonZeroU64,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// Files moved at once, where nothing is said: enough to hide the round trips of small files on a slow link.
const DEFAULT_TRANSFERS: u64 = 256;
/// The most files moved at once: each takes a file descriptor or two and up to two chunks of memory.
const MAX_TRANSFERS: u64 = 512;
/// The least limit of a rate: below it a single chunk of 256 KiB would outlast every time limit.
const MIN_RATE: Size = Size::new(64 << 10);

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What [`logging`](crate::logging) needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// `None`: text on a terminal, else JSON.
    pub format: Option<LogFormat>,
    /// `RUST_LOG`.
    pub filter: Option<String>,
}

/// How log, bucket and node records are made, when they are not there yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreSettings {
    /// Copies the broker keeps, 1 to 5.
    pub replicas: usize,
    /// Events of each path to keep; `None`: all.
    pub history: Option<NonZeroU64>,
    /// Whether the bucket of blobs is as durable as the log.
    pub durable_blobs: bool,
}

/// What every command needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The mirror.
    pub mirror: MirrorName,
    /// This node.
    pub node: NodeName,
    /// The mirrored folder: absolute, and without symbolic links where it exists. `None`: not given.
    pub root: Option<PathBuf>,
    /// What all mirrors and nodes of this user on this machine share.
    pub base: PathBuf,
    /// The folder of this node's own records; `None` when neither it nor the root was given.
    pub state_dir: Option<PathBuf>,
    /// The broker.
    pub nats: NatsSettings,
    /// How stores are made.
    pub store: StoreSettings,
    /// Where blobs are kept, if that was said.
    pub blobs: Option<Location>,
    /// Every variable of the environment: a blob store takes its credentials from there.
    pub environment: Environment,
    /// Logging.
    pub log: LogSettings,
    /// Where services answer HTTP.
    pub http: HttpSettings,
    /// Who wants to hear how a service is.
    pub notify: Option<NotifySettings>,
}

/// The folders of a node, for commands that need them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folders {
    /// The mirrored folder.
    pub root: PathBuf,
    /// The node's own records.
    pub state: PathBuf,
}

impl Settings {
    /// Root and state, for a command that needs them.
    pub fn folders(&self) -> Result<Folders, SettingsError> {
        match (&self.root, &self.state_dir) {
            (Some(root), Some(state)) => Ok(Folders { root: root.clone(), state: state.clone() }),
            _ => Err(SettingsError::Missing("root")),
        }
    }
}

impl CommonArgs {
    /// The environment and the file that `--config` names.
    pub fn layers(&self, environment: Environment) -> Result<Layers, SettingsError> {
        Layers::new(self.config.as_deref(), environment)
    }

    /// Checks what was typed. Looks at the disk only to follow symbolic links in the root's path, and to read the files named by `--context`.
    pub fn resolve(&self, layers: &Layers) -> Result<Settings, SettingsError> {
        let text = |key, flag: &Option<String>| layers.pick(key, flag.as_deref().map(OsStr::new));
        let path = |key, flag: &Option<PathBuf>| layers.pick(key, flag.as_deref().map(Path::as_os_str));

        let mirror = name(text("mirror", &self.mirror))?.unwrap_or_else(default_mirror);
        let node = match name(text("node", &self.node))? {
            Some(node) => node,
            None => host_node()?,
        };
        let root = path("root", &self.root).map(real).transpose()?;
        let base = base(layers.environment())?;
        let state_dir = match path("state", &self.state) {
            Some(given) => Some(absolute(&given)?),
            None => root.as_ref().map(|root| base.join(state_name(&mirror, root))),
        };
        let history = text("history", &self.history).map(|given| given.within(1, u64::MAX)).transpose()?;
        let store = StoreSettings {
            replicas: text("replicas", &self.replicas).map_or(Ok(1), |given| given.within(1, 5))? as usize,
            history: history.and_then(NonZeroU64::new),
            durable_blobs: text("durable-blobs", &self.durable_blobs)
                .map_or(Ok(false), |given| one_of(&given, &[("true", true), ("false", false)]))?,
        };
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let format = text("log-format", &self.log_format).map(|g| one_of(&g, &formats)).transpose()?;
        let filter = layers.environment().get("RUST_LOG").map(|text| text.to_string_lossy().into_owned());
        Ok(Settings {
            nats: NatsSettings::resolve(self, layers, &base)?,
            http: HttpSettings::resolve(layers, self.http.as_deref(), self.http_token_file.as_deref())?,
            notify: NotifySettings::of(layers.environment()),
            mirror,
            node,
            root,
            base,
            state_dir,
            store,
            blobs: text("blobs", &self.blobs).map(location).transpose()?,
            environment: layers.environment().clone(),
            log: LogSettings { format, filter },
        })
    }
}

/// How fast, and how many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransferSettings {
    /// Bytes per second in the command's direction; `None`: no limit.
    pub limit: Option<Size>,
    /// Files at once, 1 to 512.
    pub transfers: usize,
}

impl UploadArgs {
    /// Checks what was typed.
    pub fn resolve(&self, layers: &Layers) -> Result<TransferSettings, SettingsError> {
        transfer(layers, ("upload-limit", &self.upload_limit), &self.transfers)
    }
}

impl DownloadArgs {
    /// Checks what was typed.
    pub fn resolve(&self, layers: &Layers) -> Result<TransferSettings, SettingsError> {
        transfer(layers, ("download-limit", &self.download_limit), &self.transfers)
    }
}

fn transfer(
    layers: &Layers,
    (key, limit): (&'static str, &Option<String>),
    transfers: &Option<String>,
) -> Result<TransferSettings, SettingsError> {
    let pick = |key, flag: &Option<String>| layers.pick(key, flag.as_deref().map(OsStr::new));
    let rate = |given: Given| {
        let size: Size = given.parse()?;
        let enough = size >= MIN_RATE;
        enough.then_some(size).ok_or_else(|| given.refuse(format!("a rate below {MIN_RATE}/s")))
    };
    Ok(TransferSettings {
        limit: pick(key, limit).map(rate).transpose()?,
        transfers: pick("transfers", transfers)
            .map_or(Ok(DEFAULT_TRANSFERS), |given| given.within(1, MAX_TRANSFERS))?
            as usize,
    })
}

/// What the watcher leaves out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchSettings {
    /// Patterns as in a `.gitignore`, besides those of the root's `.mirrorignore`. Unchecked: who compiles them reports bad ones.
    pub ignore: Vec<String>,
}

impl WatchArgs {
    /// Checks what was typed.
    pub fn resolve(&self, layers: &Layers) -> Result<WatchSettings, SettingsError> {
        let given = layers.list("ignore", self.ignore.iter().map(OsStr::new));
        let ignore = given.iter().map(|given| given.text().map(str::to_owned)).collect::<Result<_, _>>()?;
        Ok(WatchSettings { ignore })
    }
}

/// What becomes of a file whose path was removed elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removals {
    /// It goes to the trash.
    Trash,
    /// It is deleted.
    Delete,
    /// It stays.
    Ignore,
}

/// A user or group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Id {
    /// By its number.
    Number(u32),
    /// By its name, to be looked up on this machine.
    Name(String),
}

/// Who owns placed files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The user.
    pub user: Id,
    /// The group.
    pub group: Id,
}

impl FromStr for Owner {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = |text: &str| text.parse().map_or_else(|_| Id::Name(text.into()), Id::Number);
        match text.split_once(':') {
            Some((user, group)) if !user.is_empty() && !group.is_empty() && !group.contains(':') => {
                Ok(Self { user: id(user), group: id(group) })
            }
            _ => Err("not USER:GROUP"),
        }
    }
}

impl Owner {
    /// The numbers of user and group, by this machine's `/etc/passwd` and `/etc/group`. Names that only a directory service knows
    /// must be given as numbers.
    pub fn look_up(&self) -> Result<(u32, u32), SettingsError> {
        let find = |id: &Id, file: &str| match id {
            Id::Number(number) => Ok(*number),
            Id::Name(name) => fs::read_to_string(file)
                .ok()
                .and_then(|text| number_of(&text, name))
                .ok_or_else(|| SettingsError::BadValue {
                    origin: Origin::new(Level::Flag, "owner"),
                    value: name.clone(),
                    reason: format!("not in {file}; give its number"),
                }),
        };
        Ok((find(&self.user, "/etc/passwd")?, find(&self.group, "/etc/group")?))
    }
}

/// The third field of the line that begins with this name: the number, in both files.
fn number_of(text: &str, name: &str) -> Option<u32> {
    let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.filter(|fields| fields[0] == name).find_map(|fields| fields.get(2)?.parse().ok())
}

/// How files are placed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlaceSettings {
    /// What becomes of removed files.
    pub removals: Removals,
    /// Who owns placed files; `None`: as their folder.
    pub owner: Option<Owner>,
    /// Days that files stay in the trash.
    pub trash_days: u32,
    /// What stays free of the root's disk.
    pub min_free: MinFree,
}

impl PlaceArgs {
    /// Checks what was typed.
    pub fn resolve(&self, layers: &Layers) -> Result<PlaceSettings, SettingsError> {
        let pick = |key, flag: &Option<String>| layers.pick(key, flag.as_deref().map(OsStr::new));
        let all = [("trash", Removals::Trash), ("delete", Removals::Delete), ("ignore", Removals::Ignore)];
        Ok(PlaceSettings {
            removals: pick("removals", &self.removals)
                .map_or(Ok(Removals::Trash), |given| one_of(&given, &all))?,
            owner: pick("owner", &self.owner).map(|given| given.parse()).transpose()?,
            trash_days: pick("trash-days", &self.trash_days).map_or(Ok(7), |given| given.within(0, 36_500))?
                as u32,
            min_free: pick("min-free", &self.min_free)
                .map_or(Ok(MinFree::default()), |given| given.parse())?,
        })
    }
}

/// The background check of cold files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubSettings {
    /// Bytes a second; `None`: it is off.
    pub rate: Option<Size>,
    /// From the end of one pass to the beginning of the next.
    pub every: Duration,
}

/// As slow as a disk does not feel: some 670 GB a day.
const SCRUB_RATE: Size = Size::new(8 << 20);
const SCRUB_EVERY: Duration = Duration::from_secs(7 * 86_400);

impl ScrubArgs {
    /// Checks what was typed.
    pub fn resolve(&self, layers: &Layers) -> Result<ScrubSettings, SettingsError> {
        let pick = |key, flag: &Option<String>| layers.pick(key, flag.as_deref().map(OsStr::new));
        let rate = |given: Given| match given.text()?.trim() {
            "off" | "0" => Ok(None),
            _ => {
                let size: Size = given.parse()?;
                let enough = size >= MIN_RATE;
                enough.then_some(Some(size)).ok_or_else(|| given.refuse(format!("a rate below {MIN_RATE}/s")))
            }
        };
        let every = |given: Given| parse_duration(given.text()?).map_err(|error| given.refuse(error));
        Ok(ScrubSettings {
            rate: pick("scrub-rate", &self.scrub_rate).map_or(Ok(Some(SCRUB_RATE)), rate)?,
            every: pick("scrub-every", &self.scrub_every).map_or(Ok(SCRUB_EVERY), every)?,
        })
    }
}

/// A store that was named by a flag that is no setting.
pub fn location_of(flag: &str, text: &str) -> Result<Location, SettingsError> {
    location(Given { value: text.into(), origin: Origin::new(Level::Flag, format!("--{flag}")) })
}

fn location(given: Given) -> Result<Location, SettingsError> {
    // What is refused for the secret in it is not shown.
    let value = match given.text()?.contains('@') {
        true => Given { value: "…".into(), origin: given.origin.clone() },
        false => given.clone(),
    };
    given.text()?.trim().parse().map_err(|error: InvalidLocation| value.refuse(error))
}

fn one_of<T: Copy>(given: &Given, all: &[(&str, T)]) -> Result<T, SettingsError> {
    let text = given.text()?.trim();
    let found = all.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    let names = || all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| given.refuse(format!("none of {}", names())))
}

fn name<N: FromStr<Err = crate::names::InvalidName>>(
    given: Option<Given>,
) -> Result<Option<N>, SettingsError> {
    let Some(given) = given else { return Ok(None) };
    let origin = given.origin.clone();
    given.text()?.parse().map(Some).map_err(|source| SettingsError::BadName { origin, source })
}

fn default_mirror() -> MirrorName {
    "media".parse().expect("the default keeps to its own pattern")
}

fn host_node() -> Result<NodeName, SettingsError> {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    NodeName::from_host(&host).map_err(|_| SettingsError::HostName(host.into_owned()))
}

fn absolute(given: &Given) -> Result<PathBuf, SettingsError> {
    std::path::absolute(&given.value).map_err(|error| given.refuse(error))
}

/// The root as the kernel names it, so that one folder has one state whatever way it is spelled.
fn real(given: Given) -> Result<PathBuf, SettingsError> {
    fs::canonicalize(&given.value).or_else(|_| absolute(&given))
}

fn base(environment: &Environment) -> Result<PathBuf, SettingsError> {
    // systemd gives several folders separated by colons when a unit names several; the first is ours.
    let systemd = environment.get("STATE_DIRECTORY").map(|dirs| {
        let first = dirs.as_bytes().split(|&b| b == b':').next().unwrap_or_default();
        PathBuf::from(OsStr::from_bytes(first))
    });
    let xdg = || environment.get("XDG_STATE_HOME").map(|dir| Path::new(dir).join("mediamirror"));
    let home = || environment.get("HOME").map(|dir| Path::new(dir).join(".local/state/mediamirror"));
    systemd.or_else(xdg).or_else(home).ok_or(SettingsError::NoHome)
}

/// Two roots never share a state, nor do two mirrors on one root.
fn state_name(mirror: &MirrorName, root: &Path) -> String {
    let hash = ContentHash::of(root.as_os_str().as_bytes()).to_string();
    format!("{mirror}-{}", &hash[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        let owner = |text: &str| text.parse::<Owner>();
        assert_eq!(owner("33:33").map(|o| o.look_up().ok()), Ok(Some((33, 33))));
        assert_eq!(owner("root:root").map(|o| o.look_up().ok()), Ok(Some((0, 0))));
        assert!(owner("no such user:root").is_ok_and(|o| o.look_up().is_err()));
        for bad in ["", "root", ":", "root:", ":root", "a:b:c"] {
            assert!(owner(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_base_is_the_first_that_the_environment_names() {
        let base = |vars: &[(&str, &str)]| super::base(&vars.iter().copied().collect()).ok();
        let home = ("HOME", "/h");
        assert_eq!(base(&[home, ("XDG_STATE_HOME", "/x")]), Some("/x/mediamirror".into()));
        assert_eq!(base(&[home, ("STATE_DIRECTORY", "/s:/t")]), Some("/s".into()));
        assert_eq!(base(&[home]), Some("/h/.local/state/mediamirror".into()));
        assert_eq!(base(&[]), None);
    }
}
