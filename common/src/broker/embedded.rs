//! The broker of one's own: a `nats-server` on this machine, for all mirrors and nodes of this user, without any setting.
//!
//! Whoever holds `<base>/nats/lock` starts it (through the [guard](super::guard)); everybody else connects to it, and takes
//! lock and server over when the owner dies. Every acknowledged write is synced to disk, where the server can do that.

use super::{
    guard,
    server::{config, find, open_log, server_name},
    version::ServerVersion,
};
use crate::{
    exit::{Exit, Fault},
    local_lock::{LocalLock, LockError},
};
use serde::Deserialize;
use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStdin, Command},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// The configuration of the server, in its folder.
pub(super) const CONFIG: &str = "nats.conf";
/// Held by whatever works on the server's data.
pub(super) const SERVER_LOCK: &str = "server.lock";
/// Held by the owner.
const OWNER_LOCK: &str = "lock";
/// How often the lock is tried by those who do not hold it: a dead owner is replaced well within 5 s.
const TAKEOVER: Duration = Duration::from_millis(250);
/// How long a server that we started may take to be ready; 5 s were measured with 10 GiB.
const STARTS: Duration = Duration::from_secs(60);
/// How long a stopped server may take, with the guard's own 8 s and a little more.
const ENDS: Duration = Duration::from_secs(9);
/// What a line of a NATS server's greeting may be long at most.
const GREETING: u64 = 64 << 10;
/// Why there is no embedded broker.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No `nats-server` to start.
    #[error("no broker is configured, and there is no nats-server to start one{}", .looked.as_ref().map(|at| format!(" ({} does not run)", at.display())).unwrap_or_default())]
    NoServer {
        /// The one that was named.
        looked: Option<PathBuf>,
    },
    /// A `nats-server` that is too old.
    #[error("{} is version {version}; {} or newer is needed", .program.display(), ServerVersion::OLDEST)]
    TooOld {
        /// Where it is.
        program: PathBuf,
        /// Its version.
        version: ServerVersion,
    },
    /// Something else listens on the port.
    #[error("port {port} on 127.0.0.1 is taken by {who}, which is not this user's embedded broker")]
    Foreign {
        /// The port.
        port: u16,
        /// What it says it is.
        who: String,
    },
    /// The server did not get ready.
    #[error("the embedded broker did not start: {reason} (its log is {})", .log.display())]
    NotStarted {
        /// What happened.
        reason: String,
        /// Where its own words are.
        log: PathBuf,
    },
    /// The owner of the lock has no server ready.
    #[error("the embedded broker of this machine did not answer within {} s", .waited.as_secs())]
    NotReady {
        /// How long was waited.
        waited: Duration,
    },
    /// A file of ours could not be written, read or locked.
    #[error("preparing the embedded broker in {}", .dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Stopped while waiting.
    #[error("stopped while waiting for the embedded broker")]
    Cancelled,
}

impl Fault for EmbeddedError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoServer { .. } | Self::TooOld { .. } | Self::Foreign { .. } => Exit::Usage,
            Self::NotStarted { .. } | Self::NotReady { .. } => Exit::BrokerAway,
            Self::Folder { .. } => Exit::Failed,
            Self::Cancelled => Exit::Done,
        }
    }

    fn hint(&self) -> Option<String> {
        const GET: &str = "get one by `apt-get install nats-server` or `go install github.com/nats-io/nats-server/v2@v2.15.2`";
        match self {
            Self::NoServer { .. } => Some(format!(
                "{GET}, name one by MEDIAMIRROR_NATS_SERVER, or give --nats-url for a broker that runs already"
            )),
            Self::TooOld { .. } => Some(GET.into()),
            Self::Foreign { .. } => Some(
                "give --nats-url (or NATS_URL) to use that broker, or MEDIAMIRROR_EMBEDDED_PORT for another port".into(),
            ),
            Self::NotStarted { .. } | Self::NotReady { .. } | Self::Folder { .. } | Self::Cancelled => None,
        }
    }
}

/// What an embedded broker is made of.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The state of this user on this machine; the broker's data is in `nats` below it.
    pub base: PathBuf,
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The `nats-server` to start, else the first on `search`.
    pub program: Option<PathBuf>,
    /// Folders to look for it.
    pub search: Vec<PathBuf>,
}

/// The broker of this machine, and our share in keeping it: as its owner, or as one who waits to take over.
#[derive(Debug)]
pub struct Embedded {
    name: String,
    port: u16,
    stop: CancellationToken,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Connects to the broker of this machine, or starts it. Given up after `patience`, but a server that we started ourselves
    /// gets a minute. Works only in programs that ask [`guard::maybe_run`] first thing.
    pub async fn ensure(
        options: EmbeddedOptions,
        patience: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Result<Self, EmbeddedError> {
        let mut keeper = Keeper::new(options)?;
        tokio::select! {
            ready = keeper.get_ready(patience) => ready?,
            () = cancel.cancelled() => {
                keeper.end().await;
                return Err(EmbeddedError::Cancelled);
            }
        }
        let (name, port, stop) = (keeper.name.clone(), keeper.options.port, CancellationToken::new());
        let task = tokio::spawn(keeper.keep(stop.clone()));
        Ok(Self { name, port, stop, keeper: Mutex::new(Some(task)) })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The name by which its server is known from any other.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ended by [`shutdown`](Self::shutdown).
    pub(super) fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Ends our share: the owner ends the server, and returns when it is gone (at most 9 s). Others take over within a second.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let task = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the keeper of the embedded broker failed");
        }
    }
}

impl Drop for Embedded {
    /// The server ends all the same: by end-of-file, when the keeper lets go of the pipe.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Who answers on a port.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody, or nothing in time.
    Nobody,
    /// A NATS server of this name.
    Server(String),
    /// Something that is no NATS server.
    Other,
}

/// Reads the greeting that a NATS server sends before anything is asked. Takes at most 2 s.
pub(super) async fn who_answers(port: u16) -> Answer {
    #[derive(Deserialize)]
    struct Info {
        server_name: String,
    }
    let greeting = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut line = String::new();
        BufReader::new(stream).take(GREETING).read_line(&mut line).await?;
        io::Result::Ok(line)
    };
    match timeout(Duration::from_secs(2), greeting).await {
        // A server that is just being ended accepts and says nothing.
        Ok(Ok(line)) if line.is_empty() => Answer::Nobody,
        Ok(Ok(line)) => match line.strip_prefix("INFO ").map(serde_json::from_str) {
            Some(Ok(Info { server_name })) => Answer::Server(server_name),
            _ => Answer::Other,
        },
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Answer::Other,
        Ok(Err(_)) => Answer::Nobody,
        // Somebody holds the port, and waits for us to speak first.
        Err(_) => Answer::Other,
    }
}

struct Guard {
    child: Child,
    /// Dropped, it ends the server.
    _pipe: Option<ChildStdin>,
}

/// The state behind [`Embedded`]: no lock, the lock, the lock and a guard.
struct Keeper {
    options: EmbeddedOptions,
    dir: PathBuf,
    name: String,
    lock: Option<LocalLock>,
    guard: Option<Guard>,
}

impl Keeper {
    fn new(options: EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let dir = options.base.join("nats");
        let name = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .and_then(|()| server_name(&dir))
            .map_err(|source| EmbeddedError::Folder { dir: dir.clone(), source })?;
        Ok(Self { options, dir, name, lock: None, guard: None })
    }

    fn folder(&self, source: io::Error) -> EmbeddedError {
        EmbeddedError::Folder { dir: self.dir.clone(), source }
    }

    fn not_started(&self, reason: impl Into<String>) -> EmbeddedError {
        EmbeddedError::NotStarted { reason: reason.into(), log: self.dir.join("nats.log") }
    }

    /// Until the server of this machine answers.
    async fn get_ready(&mut self, patience: Option<Duration>) -> Result<(), EmbeddedError> {
        let since = Instant::now();
        let mut said = false;
        loop {
            let answer = who_answers(self.options.port).await;
            match &answer {
                Answer::Server(name)
                    if *name == self.name && (self.guard.is_some() || !self.take_lock()?) =>
                {
                    return Ok(());
                }
                Answer::Server(name) if *name != self.name => {
                    return Err(self.foreign(format!("the NATS server {name:?}")));
                }
                Answer::Other => return Err(self.foreign("a program that is no NATS server".into())),
                Answer::Server(_) | Answer::Nobody => {}
            }
            if self.guard.is_none() && self.take_lock()? {
                self.start().await?;
            }
            if let Some(guard) = &mut self.guard {
                if let Some(status) = guard
                    .child
                    .try_wait()
                    .map_err(|e| EmbeddedError::Folder { dir: self.dir.clone(), source: e })?
                {
                    self.guard = None;
                    // Had somebody else taken the port meanwhile, that is the better message.
                    return match who_answers(self.options.port).await {
                        Answer::Nobody => Err(self.not_started(format!("its guard ended with {status}"))),
                        Answer::Server(name) => Err(self.foreign(format!("the NATS server {name:?}"))),
                        Answer::Other => Err(self.foreign("a program that is no NATS server".into())),
                    };
                }
                if since.elapsed() > STARTS {
                    return Err(self.not_started(format!("not ready after {} s", STARTS.as_secs())));
                }
            } else if let Some(waited) = patience.filter(|patience| since.elapsed() > *patience) {
                return Err(EmbeddedError::NotReady { waited });
            } else if !said && since.elapsed() > TAKEOVER * 4 {
                said = true;
                let lock = self.dir.join(OWNER_LOCK);
                tracing::warn!(lock = %lock.display(), "waiting for the embedded broker that another process owns");
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn foreign(&self, who: String) -> EmbeddedError {
        EmbeddedError::Foreign { port: self.options.port, who }
    }

    /// Whether we are the owner, now or since before.
    fn take_lock(&mut self) -> Result<bool, EmbeddedError> {
        if self.lock.is_none() {
            match LocalLock::take(&self.dir.join(OWNER_LOCK)) {
                Ok(lock) => self.lock = Some(lock),
                Err(LockError::Held { .. }) => {}
                Err(LockError::Io { source, .. }) => return Err(self.folder(source)),
            }
        }
        Ok(self.lock.is_some())
    }

    async fn start(&mut self) -> Result<(), EmbeddedError> {
        let (program, version) = find(&self.options).await?;
        let durable = version >= ServerVersion::SYNCS;
        if !durable {
            tracing::warn!(%version, "this nats-server cannot sync each write: a power cut may cost its last minutes, which the nodes then heal");
        }
        let config = config(&self.name, &self.dir, self.options.port, durable);
        let log =
            fs::write(self.dir.join(CONFIG), config).and_then(|()| open_log(&self.dir.join("nats.log")));
        let log = log.map_err(|error| self.folder(error))?;
        let again = log.try_clone().map_err(|error| self.folder(error))?;
        let mut command = Command::from(guard::command(&program, &self.dir));
        command.stdin(Stdio::piped()).stdout(log).stderr(again);
        let mut child = command.spawn().map_err(|error| self.not_started(error.to_string()))?;
        let pipe = child.stdin.take();
        self.guard = Some(Guard { child, _pipe: pipe });
        tracing::info!(program = %program.display(), %version, port = self.options.port, "starting the embedded broker");
        Ok(())
    }

    /// Keeps a server running, by us or by somebody else, until told to stop.
    async fn keep(mut self, stop: CancellationToken) {
        let mut complaint = String::new();
        while !stop.is_cancelled() {
            if let Some(guard) = &mut self.guard {
                tokio::select! {
                    status = guard.child.wait() => tracing::warn!(?status, "the embedded broker ended; starting it again"),
                    () = stop.cancelled() => break,
                }
                self.guard = None;
            }
            tokio::select! {
                () = sleep(TAKEOVER) => {}
                () = stop.cancelled() => break,
            }
            let started = match self.take_lock() {
                Ok(true) => self.start().await,
                other => other.map(|_| ()),
            };
            if let Err(error) = started
                && complaint != error.to_string()
            {
                complaint = error.to_string();
                tracing::error!(%error, hint = error.hint(), "the embedded broker cannot be started; still trying");
            }
        }
        self.end().await;
    }

    /// Ends our server, where we have one, before the lock is given up.
    async fn end(&mut self) {
        let Some(mut guard) = self.guard.take() else { return };
        guard._pipe = None;
        match timeout(ENDS, guard.child.wait()).await {
            Ok(_) => tracing::debug!("the embedded broker ended"),
            Err(_) => tracing::warn!(waited_s = ENDS.as_secs(), "the embedded broker has not ended yet"),
        }
    }
}
