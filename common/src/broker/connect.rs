//! The connection to the broker: made once, kept for ever, and watched, so that everybody hears when it was away.
//!
//! The client reconnects by itself; what was lost on the way is for each caller to ask for again, which is why every request
//! is bounded. [`Connection::epoch`] tells those who must look at the log again.

use super::{
    BrokerError,
    embedded::{Answer, Embedded, EmbeddedError, EmbeddedOptions, who_answers},
    events::{Connection, Denials, Listener},
    version::ServerVersion,
};
use crate::{
    exit::{Exit, Fault},
    names::NodeName,
    settings::{Auth, NatsSettings, Server},
};
use async_nats::{ConnectErrorKind, ConnectOptions, ServerAddr};
use backon::{BackoffBuilder, ExponentialBuilder};
use rand::Rng;
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// A link is taken for dead after three of these without an answer: 6 s.
const PING: Duration = Duration::from_secs(2);
/// One attempt to connect, name lookup and TLS included.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Between two attempts, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between two attempts, in the long run: the broker's return is noticed within about a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for a broker that is not there.
#[derive(Clone, Debug)]
pub enum Patience {
    /// For ever, until the token is cancelled: for services.
    KeepTrying(CancellationToken),
    /// So long: for commands, whose user waits.
    GiveUpAfter(Duration),
}

/// Who connects: it names the connection and the only subjects it listens to.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// `watcher` or `replicator`, and for a command its name behind a dash: `replicator-log`.
    pub role: &'a str,
    /// This node.
    pub node: &'a NodeName,
}

impl Caller<'_> {
    /// As `nats server report connections` shows it.
    fn connection_name(&self) -> String {
        format!("mediamirror-{}-{}", self.role, self.node)
    }

    /// One token, so that rights can be given to exactly these inboxes: `_INBOX_<node>_<role>.>`, the same for a program's commands.
    pub fn inbox_prefix(&self) -> String {
        let program = self.role.split('-').next().unwrap_or_default();
        format!("_INBOX_{}_{program}", self.node)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The broker cannot be reached.
    #[error("the broker at {servers} cannot be reached")]
    Away {
        /// Host and port of each.
        servers: String,
        /// What the last attempt ended with.
        source: async_nats::ConnectError,
    },
    /// The broker is there, but did not answer.
    #[error("the broker at {servers} does not answer")]
    Silent {
        /// Host and port of each.
        servers: String,
    },
    /// The broker knows us not.
    #[error("the broker at {servers} refuses our credentials")]
    Denied {
        /// Host and port of each.
        servers: String,
    },
    /// A secret that everybody on this machine can read.
    #[error("{} can be read by everybody on this machine (mode {mode:04o})", .path.display())]
    Exposed {
        /// Its file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file with credentials or certificates cannot be used.
    #[error("{} cannot be used", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The broker of our own.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// Stopped while waiting.
    #[error("stopped while waiting for the broker")]
    Cancelled,
}

impl Fault for ConnectError {
    fn exit(&self) -> Exit {
        match self {
            Self::Away { .. } | Self::Silent { .. } => Exit::BrokerAway,
            Self::Denied { .. } | Self::Exposed { .. } | Self::File { .. } => Exit::Usage,
            Self::Embedded(error) => error.exit(),
            Self::Cancelled => Exit::Done,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Away { .. } | Self::Silent { .. } => {
                Some("is nats-server running there? --nats-url (or NATS_URL) says where".into())
            }
            Self::Denied { .. } => Some("--creds, --nkey, --context or the URL say who we are".into()),
            Self::Exposed { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Self::Embedded(error) => error.hint(),
            Self::File { .. } | Self::Cancelled => None,
        }
    }
}

impl Fault for BrokerError {
    fn exit(&self) -> Exit {
        if self.is_away() { Exit::BrokerAway } else { Exit::Failed }
    }
}

/// The broker, connected. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Broker {
    client: async_nats::Client,
    connection: watch::Receiver<Connection>,
    denials: Denials,
    embedded: Option<Arc<Embedded>>,
    leaving: CancellationToken,
}

impl Broker {
    /// Connects, starting the embedded broker where no other is configured. Says so once when it has to wait.
    pub async fn connect(
        settings: &NatsSettings,
        caller: Caller<'_>,
        patience: Patience,
    ) -> Result<Self, ConnectError> {
        let options = secured(ConnectOptions::new(), settings)?;
        let (cancel, limit) = match &patience {
            Patience::KeepTrying(cancel) => (cancel.clone(), None),
            Patience::GiveUpAfter(limit) => (CancellationToken::new(), Some(*limit)),
        };
        let (addrs, embedded) = match &settings.server {
            Server::At(addrs) => (addrs.clone(), None),
            Server::Embedded { base, port, program, search } => {
                let options = EmbeddedOptions {
                    base: base.clone(),
                    port: *port,
                    program: program.clone(),
                    search: search.clone(),
                };
                let embedded = Embedded::ensure(options, limit, &cancel).await?;
                let addr = embedded.url().parse().expect("a URL of this form");
                (vec![addr], Some(Arc::new(embedded)))
            }
        };
        let servers = names(&addrs);
        let (changes, connection) = watch::channel(Connection::default());
        let leaving = CancellationToken::new();
        let denials = Denials::default();
        let listener = Arc::new(Listener::new(changes, servers.clone(), leaving.clone(), denials.clone()));
        let mut options = options
            .name(caller.connection_name())
            .custom_inbox_prefix(caller.inbox_prefix())
            .ping_interval(PING)
            .connection_timeout(ATTEMPT)
            .reconnect_delay_callback(pause)
            .event_callback(move |event| {
                let listener = listener.clone();
                async move { listener.hear(event) }
            });
        if let Some(embedded) = &embedded {
            options = only_ours(options, embedded);
        }
        let waiting = keep_trying(options, &addrs, &servers, limit);
        let client = tokio::select! {
            client = waiting => client,
            () = cancel.cancelled() => Err(ConnectError::Cancelled),
        };
        let broker = match client {
            Ok(client) => Self { client, connection, denials, embedded, leaving },
            Err(error) => {
                if let Some(embedded) = embedded {
                    embedded.shutdown().await;
                }
                return Err(error);
            }
        };
        let greeted = tokio::select! {
            greeted = broker.greeted(&servers) => greeted,
            () = cancel.cancelled() => Err(ConnectError::Cancelled),
        };
        match greeted {
            Ok(()) => Ok(broker),
            Err(error) => {
                broker.shutdown().await;
                Err(error)
            }
        }
    }

    /// The connection is known to our own watch too, and JetStream of an embedded broker answers.
    async fn greeted(&self, servers: &str) -> Result<(), ConnectError> {
        let silent = || ConnectError::Silent { servers: servers.into() };
        let mut connection = self.connection();
        let known = timeout(ATTEMPT, connection.wait_for(|connection| connection.connected)).await;
        known.map_err(|_| silent())?.map_err(|_| silent())?;
        let deadline = Instant::now() + 2 * ATTEMPT;
        while self.embedded.is_some() {
            let asked = self.client.request("$JS.API.INFO", "".into());
            if let Ok(Ok(_)) = timeout(Duration::from_secs(1), asked).await {
                break;
            }
            if Instant::now() > deadline {
                return Err(silent());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The client.
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// Whether the broker is there; changes are heard.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// What the broker denies us.
    pub fn denials(&self) -> Denials {
        self.denials.clone()
    }

    /// The version of the server that we are, or were last, connected to.
    pub fn server_version(&self) -> Option<ServerVersion> {
        self.client.server_info().version.parse().ok()
    }

    /// Whether what the broker acknowledges is on its disk. Known only of an embedded one, whose configuration is ours.
    pub fn durable(&self) -> Option<bool> {
        self.embedded.as_ref()?;
        self.server_version().map(|version| version >= ServerVersion::SYNCS)
    }

    /// Sends what is still to be sent (2 s at most), and ends the embedded broker where it is ours (9 s at most).
    pub async fn shutdown(&self) {
        // Without an answer in time the broker is away, and whoever cares has seen that from their own requests.
        let _ = timeout(Duration::from_secs(2), self.client.flush()).await;
        self.leaving.cancel();
        if let Some(embedded) = &self.embedded {
            embedded.shutdown().await;
        }
    }
}

/// One attempt after another.
async fn keep_trying(
    options: ConnectOptions,
    addrs: &[ServerAddr],
    servers: &str,
    limit: Option<Duration>,
) -> Result<async_nats::Client, ConnectError> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let pauses = ExponentialBuilder::new().with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE);
    let mut pauses = pauses.with_jitter().without_max_times().build();
    let mut waited = false;
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let attempt = options.clone().connect(addrs);
        let error = match timeout(left.map_or(ATTEMPT, |left| left.min(ATTEMPT)), attempt).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        use ConnectErrorKind::{Authentication, AuthorizationViolation};
        if error.as_ref().is_some_and(|e| matches!(e.kind(), AuthorizationViolation | Authentication)) {
            return Err(ConnectError::Denied { servers: servers.into() });
        }
        let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
        if deadline.is_some_and(|at| Instant::now() + pause >= at) {
            let servers = servers.into();
            return Err(match error {
                Some(source) => ConnectError::Away { servers, source },
                None => ConnectError::Silent { servers },
            });
        }
        if deadline.is_none() && !waited {
            waited = true;
            let error = error.map_or("no answer".into(), |error| error.to_string());
            tracing::warn!(servers, error, "the broker cannot be reached; still trying");
        }
        sleep(pause).await;
    }
}

/// An embedded broker may end while a stranger takes its port: nothing is sent before the server there has said our server's name.
fn only_ours(options: ConnectOptions, embedded: &Embedded) -> ConnectOptions {
    let (name, stop) = (embedded.name().to_owned(), embedded.stopped());
    options.reconnect_to_server_callback(move |servers, _| {
        let (name, stop) = (name.clone(), stop.clone());
        async move {
            let server = servers.into_iter().next()?;
            let mut warned = false;
            while !stop.is_cancelled() {
                match who_answers(server.addr.port()).await {
                    Answer::Server(other) if other == name => break,
                    Answer::Nobody => {}
                    Answer::Server(_) | Answer::Other if warned => {}
                    Answer::Server(_) | Answer::Other => {
                        warned = true;
                        tracing::error!(
                            port = server.addr.port(),
                            "another program took the embedded broker's port"
                        );
                    }
                }
                sleep(FIRST_PAUSE).await;
            }
            Some(async_nats::ReconnectToServer { addr: server.addr, delay: Some(Duration::ZERO) })
        }
    })
}

/// The client asks before every attempt, the first included, which has number 1.
fn pause(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let doubled = FIRST_PAUSE.saturating_mul(1 << (attempts - 2).min(10));
    doubled.min(LONGEST_PAUSE).mul_f64(rand::rng().random_range(0.75..1.0))
}

fn names(addrs: &[ServerAddr]) -> String {
    addrs.iter().map(|addr| format!("{}:{}", addr.host(), addr.port())).collect::<Vec<_>>().join(", ")
}

/// Adds credentials and certificates.
fn secured(options: ConnectOptions, settings: &NatsSettings) -> Result<ConnectOptions, ConnectError> {
    let mut options = match &settings.auth {
        Auth::None => options,
        Auth::Creds(path) => {
            let invalid = |source| ConnectError::File { path: path.clone(), source };
            options.credentials(&secret(path)?).map_err(invalid)?
        }
        Auth::Nkey(path) => options.nkey(secret(path)?.trim().to_owned()),
        Auth::Password(user, password) => options.user_and_password(user.clone(), password.reveal().into()),
        Auth::Token(token) => options.token(token.reveal().into()),
    };
    if let Some(ca) = &settings.tls.ca {
        readable(ca)?;
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &settings.tls.identity {
        readable(certificate)?;
        secret(key)?;
        options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    Ok(options)
}

/// Reads a secret, unless others can.
fn secret(path: &Path) -> Result<String, ConnectError> {
    let failed = |source| ConnectError::File { path: path.into(), source };
    let mode = fs::metadata(path).map_err(failed)?.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(ConnectError::Exposed { path: path.into(), mode });
    }
    fs::read_to_string(path).map_err(failed)
}

fn readable(path: &Path) -> Result<(), ConnectError> {
    fs::File::open(path).map(drop).map_err(|source| ConnectError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second() {
        assert_eq!(pause(1), Duration::ZERO);
        for attempt in 2..100 {
            let pause = pause(attempt);
            assert!(pause >= FIRST_PAUSE.mul_f64(0.75) && pause <= LONGEST_PAUSE, "{attempt}: {pause:?}");
        }
    }

    #[test]
    fn a_secret_that_everybody_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("creds");
        fs::write(&path, "s").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
        let error = secret(&path).expect_err("exposed");
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.hint().is_some_and(|hint| hint.starts_with("chmod 600 ")), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        assert_eq!(secret(&path).expect("readable"), "s");
    }
}
