//! A nats-server under the configuration that `deploy/nats` ships, with keys of a test's own.

use crate::{
    broker::{free_port, nats_server},
    node::Node,
    process::{Finished, Process, run},
    tree::copy_folder,
    wait::{SOON, wait_for, wait_until},
};
use async_nats::{Client, ConnectOptions, Event, ServerError};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::runtime::Runtime;

/// A broker that lets in only the users of `make-keys.sh`.
pub struct Secured {
    config: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl Secured {
    /// The shipped files, copied below `dir`, with keys for these nodes. Nothing runs.
    pub fn prepared(dir: &Path, nodes: &str, flags: &[&str]) -> Self {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nats");
        let config = dir.join("broker");
        copy_folder(&shipped, &config);
        // What a developer has made there is not shipped.
        if config.join("secrets").exists() {
            fs::remove_dir_all(config.join("secrets")).expect("remove keys");
        }
        let settings = config.join("jetstream.conf");
        let shipped = fs::read_to_string(&settings).expect("a configuration");
        let store = config.join("store");
        let ours = shipped.replace("/var/lib/nats", store.to_str().expect("UTF-8"));
        assert_ne!(ours, shipped, "the store is elsewhere");
        fs::write(&settings, ours).expect("write a configuration");
        let secured = Self { config, port: free_port(), process: None };
        secured.make_keys(nodes, flags).succeeded();
        secured
    }

    /// Runs `make-keys.sh`, again or for the first time.
    pub fn make_keys(&self, nodes: &str, flags: &[&str]) -> Finished {
        let mut command = Command::new(self.config.join("make-keys.sh"));
        command.args(["--nodes", nodes]).args(flags);
        run(SOON, command)
    }

    /// The folder with the configurations; keys are in `secrets`.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Starts it on `server.conf`, and waits until it serves. Only addresses and the store are not the shipped ones.
    pub fn start(&mut self) {
        let monitor = free_port();
        let mut command = Command::new(nats_server());
        command.arg("-c").arg(self.config.join("server.conf"));
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-m", &monitor.to_string()]);
        self.process = Some(Process::spawn("nats", &self.config, command));
        wait_until(SOON, "a secured broker", || crate::http::fetch(monitor, "/healthz").is_some());
    }

    /// Reads its configuration again.
    pub fn reload(&self) {
        self.process.as_ref().expect("a running broker").reload();
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("tls://127.0.0.1:{}", self.port)
    }

    /// The seed of a user.
    pub fn seed(&self, user: &str) -> PathBuf {
        self.config.join(format!("secrets/users/{user}.nk"))
    }

    /// Whose signature clients trust.
    pub fn authority(&self) -> PathBuf {
        self.config.join("secrets/ca.pem")
    }

    /// Further arguments of a command of this user.
    pub fn login(&self, user: &str) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        vec!["--tls-ca".into(), text(self.authority()), "--nkey".into(), text(self.seed(user))]
    }

    /// A node of its own whose processes find this broker.
    pub fn node(&self, dir: &Path, name: &str) -> Node {
        Node::new(dir, name, Some(self.url()))
    }

    /// A client of this user. `inboxes`: what their subjects begin with.
    pub fn client(&self, user: &str, inboxes: &str) -> Intruder {
        Intruder::connect(&self.url(), Some(&self.authority()), inboxes, |options| {
            options.nkey(fs::read_to_string(self.seed(user)).expect("a seed").trim().to_owned())
        })
    }
}

/// Has a server only look at a configuration.
pub fn look_at(config: &Path) -> Finished {
    let mut command = Command::new(nats_server());
    command.arg("-t").arg("-c").arg(config);
    run(SOON, command)
}

/// A client that does what it must not, and hears what the broker says to it.
pub struct Intruder {
    runtime: Runtime,
    client: Client,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Intruder {
    /// Connects; `who` adds what it shows.
    pub fn connect(
        url: &str,
        authority: Option<&Path>,
        inboxes: &str,
        who: impl FnOnce(ConnectOptions) -> ConnectOptions,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("start a runtime");
        let complaints = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&complaints);
        let mut options =
            who(ConnectOptions::new()).custom_inbox_prefix(inboxes).event_callback(move |event| {
                if let Event::ServerError(ServerError::Other(text)) = event {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                }
                std::future::ready(())
            });
        if let Some(authority) = authority {
            options = options.add_root_certificates(authority.to_owned()).require_tls(true);
        }
        let client = runtime.block_on(options.connect(url)).expect("connect");
        Self { runtime, client, complaints }
    }

    /// Publishes, with a subject for the answer if there is one; what the broker did with it is known when this returns.
    pub fn publish(&self, subject: &str, reply: Option<&str>, payload: &str) {
        let (subject, payload) = (subject.to_owned(), payload.to_owned().into());
        self.runtime.block_on(async {
            match reply {
                Some(reply) => self.client.publish_with_reply(subject, reply.to_owned(), payload).await,
                None => self.client.publish(subject, payload).await,
            }
            .expect("publish");
            self.client.flush().await.expect("flush");
        });
    }

    /// One request.
    pub fn ask(&self, subject: &str, payload: &str) -> serde_json::Value {
        let asked = self.client.request(subject.to_owned(), payload.to_owned().into());
        let answer = self.runtime.block_on(asked).expect("an answer");
        serde_json::from_slice(&answer.payload).expect("JSON")
    }

    /// Listens from now on. Returns what tells how many messages came.
    pub fn listen(&self, subject: &str) -> impl Fn() -> usize + use<> {
        use futures_util::StreamExt;
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let seen = Arc::clone(&count);
        let mut messages = self.runtime.block_on(async {
            let messages = self.client.subscribe(subject.to_owned()).await.expect("subscribe");
            self.client.flush().await.expect("flush");
            messages
        });
        self.runtime.spawn(async move {
            while messages.next().await.is_some() {
                seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        move || count.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Waits until the broker has refused this subject.
    pub fn wait_refused(&self, subject: &str) {
        wait_for(SOON, &format!("the refusal of {subject}"), || {
            let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
            let quoted = format!("\"{subject}\"");
            let refused = complaints.iter().any(|text| text.contains("ermissions") && text.contains(&quoted));
            if refused { Ok(()) } else { Err(format!("{complaints:?}")) }
        });
    }
}
