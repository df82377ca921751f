//! How to reach the broker, and who we are to it: flags, the nats CLI's own variables, its context files.

use super::{
    CommonArgs, SettingsError,
    layers::{Environment, Given, Layers, Origin},
};
use async_nats::ServerAddr;
use serde::Deserialize;
use std::{
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
};

/// The port of an embedded broker: that of NATS, so that the nats CLI finds it.
const EMBEDDED_PORT: u16 = 4222;

/// Text that no log line shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one who needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Which server.
#[derive(Clone)]
pub enum Server {
    /// Those of a cluster, in any order; at least one.
    At(Vec<ServerAddr>),
    /// The one of this user on this machine, which we start where nobody has.
    Embedded {
        /// Where the state of this user is.
        base: PathBuf,
        /// Its port on 127.0.0.1.
        port: u16,
        /// The `nats-server` to start; `None`: the one on the `PATH`.
        program: Option<PathBuf>,
        /// The `PATH` to look on.
        search: Vec<PathBuf>,
    },
}

impl fmt::Debug for Server {
    /// Without the password that a URL may have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(addrs) => {
                let shown = addrs.iter().map(|addr| format!("{}:{}", addr.host(), addr.port()));
                f.debug_list().entries(shown).finish()
            }
            Self::Embedded { base, port, .. } => write!(f, "embedded(127.0.0.1:{port}, {})", base.display()),
        }
    }
}

/// Who we are to the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Auth {
    /// Nobody in particular.
    None,
    /// The user and key of a credentials file.
    Creds(PathBuf),
    /// The key of a seed file.
    Nkey(PathBuf),
    /// A user with a password.
    Password(String, Secret),
    /// A token.
    Token(Secret),
}

/// What secures the connection, besides what the server's URL says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What a connection to the broker needs.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// Which server.
    pub server: Server,
    /// Who we are.
    pub auth: Auth,
    /// TLS.
    pub tls: Tls,
}

/// A context file of the nats CLI: the part that is ours.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
}

/// The flags, then the context. A context stands at the level that names it: what stands nearer to the command line beats it,
/// what stands farther is beaten by it.
struct Sources<'a> {
    layers: &'a Layers,
    context: Option<(Origin, Context)>,
}

impl Sources<'_> {
    fn pick(&self, key: &'static str, flag: Option<&OsStr>, field: fn(&Context) -> &str) -> Option<Given> {
        let direct = self.layers.pick(key, flag);
        let context = self.context.as_ref().filter(|(_, context)| !field(context).is_empty());
        let (origin, context) = match context {
            Some((origin, context)) if direct.as_ref().is_none_or(|g| g.origin.level < origin.level) => {
                (origin, context)
            }
            _ => return direct,
        };
        let home = self.layers.environment().get("HOME").map(Path::new);
        let value = match (field(context).strip_prefix("~/"), home) {
            (Some(below), Some(home)) => home.join(below).into_os_string(),
            _ => field(context).into(),
        };
        Some(Given { value, origin: origin.clone() })
    }
}

impl NatsSettings {
    pub(super) fn resolve(args: &CommonArgs, layers: &Layers, base: &Path) -> Result<Self, SettingsError> {
        let named = layers.pick("context", args.context.as_deref().map(OsStr::new));
        let context = match named {
            Some(given) => Some((given.origin.clone(), read_context(&given, layers.environment())?)),
            None => None,
        };
        let sources = Sources { layers, context };
        let path = |key, flag: &Option<PathBuf>, field| {
            sources.pick(key, flag.as_deref().map(Path::as_os_str), field)
        };
        let url = sources.pick("nats-url", args.nats_url.as_deref().map(OsStr::new), |c| &c.url);
        let server = match &url {
            Some(given) => Server::At(addresses(given)?),
            None => embedded(base, layers.environment())?,
        };
        let creds = path("creds", &args.creds, |c| &c.creds);
        let nkey = path("nkey", &args.nkey, |c| &c.nkey);
        let auth = auth(creds, nkey, &server, sources.context.as_ref().map(|(_, context)| context))?;
        let cert = path("tls-cert", &args.tls_cert, |c| &c.cert);
        let key = path("tls-key", &args.tls_key, |c| &c.key);
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert.value.into(), key.value.into())),
            (None, None) => None,
            (Some(_), None) => return Err(SettingsError::Missing("tls-key")),
            (None, Some(_)) => return Err(SettingsError::Missing("tls-cert")),
        };
        let ca = path("tls-ca", &args.tls_ca, |c| &c.ca).map(|given| given.value.into());
        Ok(Self { server, auth, tls: Tls { ca, identity } })
    }
}

fn embedded(base: &Path, environment: &Environment) -> Result<Server, SettingsError> {
    let port = environment.get("MEDIAMIRROR_EMBEDDED_PORT").map(|value| {
        let origin = Origin::new(super::Level::Environment, "MEDIAMIRROR_EMBEDDED_PORT");
        Given { value: value.into(), origin }.within(1, u16::MAX.into())
    });
    Ok(Server::Embedded {
        base: base.into(),
        port: port.transpose()?.map_or(EMBEDDED_PORT, |port| port as u16),
        program: environment.get("MEDIAMIRROR_NATS_SERVER").map(PathBuf::from),
        search: environment.get("PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default(),
    })
}

fn addresses(given: &Given) -> Result<Vec<ServerAddr>, SettingsError> {
    // The URL may hold a password: what is wrong with it is said without quoting it.
    let refuse = |reason: String| SettingsError::BadValue {
        origin: given.origin.clone(),
        value: "the URL".into(),
        reason: format!("{reason}; it looks like nats://host:4222 or tls://host:4222"),
    };
    let parse = |url: &str| {
        let addr: ServerAddr =
            url.parse().map_err(|error| refuse(format!("not one of a NATS server ({error})")))?;
        let (host, scheme) = (addr.host().to_owned(), addr.scheme().to_owned());
        let path = addr.clone().into_inner().path().trim_matches('/').to_owned();
        match (scheme.as_str(), host.as_str(), path.as_str()) {
            (_, "", _) => Err(refuse("without a host".into())),
            ("nats" | "tls", _, "") => Ok(addr),
            ("nats" | "tls", ..) => Err(refuse("with a path".into())),
            _ => Err(refuse(format!("of the scheme {scheme}, which is not spoken here"))),
        }
    };
    let urls: Vec<&str> = given.text()?.split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
    if urls.is_empty() { Err(refuse("empty".into())) } else { urls.into_iter().map(parse).collect() }
}

fn auth(
    creds: Option<Given>,
    nkey: Option<Given>,
    server: &Server,
    context: Option<&Context>,
) -> Result<Auth, SettingsError> {
    match (creds, nkey) {
        (Some(creds), Some(nkey)) if creds.origin.level == nkey.origin.level => {
            return Err(SettingsError::Both(creds.origin, nkey.origin));
        }
        (Some(creds), Some(nkey)) if creds.origin.level < nkey.origin.level => {
            return Ok(Auth::Nkey(nkey.value.into()));
        }
        (Some(creds), _) => return Ok(Auth::Creds(creds.value.into())),
        (None, Some(nkey)) => return Ok(Auth::Nkey(nkey.value.into())),
        (None, None) => {}
    }
    if let Server::At(addrs) = server
        && let Some(addr) = addrs.iter().find(|addr| addr.username().is_some())
    {
        let user = decoded(addr.username().unwrap_or_default());
        return Ok(match addr.password() {
            Some(password) => Auth::Password(user, Secret(decoded(password))),
            None => Auth::Token(Secret(user)), // As the nats CLI reads nats://token@host.
        });
    }
    Ok(match context {
        Some(Context { user, password, .. }) if !user.is_empty() => {
            Auth::Password(user.clone(), Secret(password.clone()))
        }
        Some(Context { token, .. }) if !token.is_empty() => Auth::Token(Secret(token.clone())),
        _ => Auth::None,
    })
}

/// Undoes the `%XX` of a URL's user part; what is no such escape stays.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let escape = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (out.push(byte), at += 3),
            None => (out.push(bytes[at]), at += 1),
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn read_context(given: &Given, environment: &Environment) -> Result<Context, SettingsError> {
    let name = given.text()?;
    if name.contains('/') || name.starts_with('.') {
        return Err(given.refuse("not the name of a context"));
    }
    let config = environment.get("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| environment.get("HOME").map(|home| Path::new(home).join(".config")));
    let path = config.ok_or(SettingsError::NoHome)?.join("nats/context").join(format!("{name}.json"));
    let refuse = |reason: String| SettingsError::Context { name: name.into(), path: path.clone(), reason };
    let text = fs::read_to_string(&path).map_err(|error| refuse(error.to_string()))?;
    // Only line and column: the message may quote a password.
    serde_json::from_str(&text).map_err(|e| refuse(format!("not a context at {}:{}", e.line(), e.column())))
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn user_and_password_of_a_url_are_decoded() {
        for (text, plain) in [("a%40b", "a@b"), ("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("%C3%A9é", "éé")]
        {
            assert_eq!(decoded(text), plain);
        }
    }
}
