//! Where a service answers HTTP, what it takes over it, what it calls being behind, and what a service manager wants to hear.

use super::{
    Environment, Layers, MinFree, Owner, ReceiveArgs, SettingsError, Size, layers::Given, parse_duration,
};
use std::{
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// How far a node may be behind and still count as ready, where nothing is said.
const MAX_LAG: Duration = Duration::from_secs(15);
/// The largest upload, where nothing is said: an hour of film. What the disk cannot hold is refused anyway.
const MAX_UPLOAD: Size = Size::new(16 << 30);
/// A visitor of a web page does not wait longer for a picture that is not there.
const LONGEST_MISS_WAIT: Duration = Duration::from_secs(5);

/// The flags of services.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct HealthArgs {
    /// How old an event may become that is not applied here, or a standstill, before /readyz fails [default: 15s]
    #[arg(long, value_name = "DURATION")]
    pub max_lag: Option<String>,
}

impl HealthArgs {
    /// Checks what was typed.
    pub fn resolve(&self, layers: &Layers) -> Result<Duration, SettingsError> {
        let given = layers.pick("max-lag", self.max_lag.as_deref().map(OsStr::new));
        let positive = |given: Given| {
            let lag = parse_duration(given.text()?).map_err(|error| given.refuse(error))?;
            if lag.is_zero() { Err(given.refuse("no time at all")) } else { Ok(lag) }
        };
        given.map_or(Ok(MAX_LAG), positive)
    }
}

/// The flags of who reads files over HTTP.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct ReadArgs {
    /// How long a request for a path that the log does not have yet is held, at most 5s [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub miss_wait: Option<String>,
}

impl ReadArgs {
    /// Checks what was typed.
    pub fn resolve(&self, layers: &Layers) -> Result<Duration, SettingsError> {
        let given = layers.pick("miss-wait", self.miss_wait.as_deref().map(OsStr::new));
        let short = |given: Given| {
            let wait = parse_duration(given.text()?).map_err(|error| given.refuse(error))?;
            if wait > LONGEST_MISS_WAIT { Err(given.refuse("longer than 5s")) } else { Ok(wait) }
        };
        given.map_or(Ok(Duration::ZERO), short)
    }
}

/// Where to listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listen {
    /// On the program's own port of this machine; when that is taken, nowhere.
    Default,
    /// Here or not at all.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

/// HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpSettings {
    /// Where to listen.
    pub listen: Listen,
    /// A file with tokens, one a line; `None`: whoever can connect may ask.
    pub tokens: Option<PathBuf>,
}

impl HttpSettings {
    /// Whoever can reach another address than loopback needs a token.
    pub(super) fn resolve(
        layers: &Layers,
        http: Option<&str>,
        tokens: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let tokens =
            layers.pick("http-token-file", tokens.map(Path::as_os_str)).map(|given| given.value.into());
        let listen = match layers.pick("http", http.map(OsStr::new)) {
            None => Listen::Default,
            Some(given) if given.text()?.trim() == "off" => Listen::Off,
            Some(given) => {
                let wrong =
                    |_| given.refuse("neither off nor an address with a port, such as 127.0.0.1:7421");
                let address: SocketAddr = given.text()?.trim().parse().map_err(wrong)?;
                if !address.ip().is_loopback() && tokens.is_none() {
                    return Err(given.refuse("not a loopback address: it needs --http-token-file"));
                }
                Listen::At(address)
            }
        };
        Ok(Self { listen, tokens })
    }
}

/// What is taken over HTTP, and how it is placed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceiveSettings {
    /// The largest file.
    pub max_upload: Size,
    /// Who owns it; `None`: as its folder.
    pub owner: Option<Owner>,
    /// What stays free of the root's disk.
    pub min_free: MinFree,
}

impl ReceiveArgs {
    /// Checks what was typed.
    pub fn resolve(&self, layers: &Layers) -> Result<ReceiveSettings, SettingsError> {
        let pick = |key, flag: &Option<String>| layers.pick(key, flag.as_deref().map(OsStr::new));
        Ok(ReceiveSettings {
            max_upload: pick("max-upload", &self.max_upload).map_or(Ok(MAX_UPLOAD), |given| given.parse())?,
            owner: pick("owner", &self.owner).map(|given| given.parse()).transpose()?,
            min_free: pick("min-free", &self.min_free)
                .map_or(Ok(MinFree::default()), |given| given.parse())?,
        })
    }
}

/// The service manager, where one started us and wants to hear how we are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotifySettings {
    /// Its socket: a path, or `@` and an abstract name.
    pub socket: PathBuf,
    /// It takes us for hung when it hears nothing for this long.
    pub watchdog: Option<Duration>,
}

impl NotifySettings {
    /// `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, as systemd sets them.
    pub(super) fn of(environment: &Environment) -> Option<Self> {
        let number = |name| environment.get(name).and_then(OsStr::to_str).and_then(|text| text.parse().ok());
        let for_us = number("WATCHDOG_PID").is_none_or(|pid: u64| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&usec| for_us && usec > 0).map(Duration::from_micros);
        Some(Self { socket: environment.get("NOTIFY_SOCKET")?.into(), watchdog })
    }
}
