//! The connection to a real broker: one that is away, one that comes back, one that refuses.

use crate::server::Server;
use common::{
    broker::{Broker, Caller, ConnectError, Patience},
    exit::{Exit, Fault},
    names::NodeName,
    settings::{CommonArgs, Environment, NatsSettings},
};
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const TEST: Duration = Duration::from_secs(20);

fn settings(url: &str, more: &[(&str, &str)]) -> NatsSettings {
    let environment: Environment =
        [("HOME", "/nonexistent"), ("NATS_URL", url)].into_iter().chain(more.iter().copied()).collect();
    let args = CommonArgs::default();
    args.resolve(&args.layers(environment).unwrap()).unwrap().nats
}

async fn connect(settings: &NatsSettings, patience: Patience) -> Result<Broker, ConnectError> {
    let node: NodeName = "n1".parse().unwrap();
    timeout(TEST, Broker::connect(settings, Caller { role: "test", node: &node }, patience)).await.unwrap()
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server with this configuration, gone with the value.
struct Configured {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Configured {
    fn start(port: u16, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nats.conf");
        fs::write(&file, format!("listen: \"127.0.0.1:{port}\"\n{config}\n")).unwrap();
        let mut command = Command::new(crate::server::binaries().pop().unwrap());
        let child = command.arg("-c").arg(file).stderr(Stdio::null()).spawn().unwrap();
        Self { child, _folder: folder }
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_command_gives_up_on_a_broker_that_is_away() {
    let settings = settings(&format!("nats://127.0.0.1:{}", free_port()), &[]);
    let since = Instant::now();
    let error = connect(&settings, Patience::GiveUpAfter(Duration::from_secs(1))).await.unwrap_err();
    assert!(matches!(error, ConnectError::Away { .. }), "{error}");
    assert_eq!(error.exit(), Exit::BrokerAway);
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_port_that_accepts_and_says_nothing_is_given_up_on_as_well() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = settings(&format!("nats://{}", silent.local_addr().unwrap()), &[]);
    let error = connect(&settings, Patience::GiveUpAfter(Duration::from_secs(1))).await.unwrap_err();
    assert_eq!(error.exit(), Exit::BrokerAway, "{error}");
}

#[tokio::test]
async fn a_service_waits_for_its_broker_until_it_is_told_to_end() {
    let port = free_port();
    let settings = settings(&format!("nats://127.0.0.1:{port}"), &[]);
    let cancel = CancellationToken::new();
    let ended = connect(&settings, Patience::KeepTrying(cancel.clone()));
    let (ended, ()) = tokio::join!(ended, async { cancel.cancel() });
    assert!(matches!(ended, Err(ConnectError::Cancelled)));

    let waiting = connect(&settings, Patience::KeepTrying(CancellationToken::new()));
    let (broker, _server) = tokio::join!(waiting, async { Configured::start(port, "") });
    let broker = broker.unwrap();
    assert_eq!(broker.durable(), None, "not ours to know");
    assert!(broker.server_version().is_some());
}

#[tokio::test]
async fn every_connection_is_counted() {
    let server = Server::start(&crate::server::binaries().pop().unwrap());
    let settings = settings(server.url(), &[]);
    let broker = connect(&settings, Patience::GiveUpAfter(TEST)).await.unwrap();
    let mut connection = broker.connection();
    assert_eq!((connection.borrow().connected, connection.borrow().epoch), (true, 1));
    server.stop();
    timeout(TEST, connection.wait_for(|now| !now.connected)).await.unwrap().unwrap();
    server.start_again();
    let now = *timeout(TEST, connection.wait_for(|now| now.connected)).await.unwrap().unwrap();
    assert_eq!(now.epoch, 2);
    assert!(broker.client().new_inbox().starts_with("_INBOX_n1_test."));
}

#[tokio::test]
async fn credentials_that_are_refused_end_even_the_most_patient() {
    let port = free_port();
    let _server = Configured::start(port, "authorization { user: a, password: right }");
    let wrong = settings(&format!("nats://a:wrong@127.0.0.1:{port}"), &[]);
    let error = connect(&wrong, Patience::KeepTrying(CancellationToken::new())).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    assert!(error.to_string().contains("refuses our credentials") && !error.to_string().contains("wrong"));
    let right = settings(&format!("nats://a:right@127.0.0.1:{port}"), &[]);
    connect(&right, Patience::GiveUpAfter(TEST)).await.unwrap();
}

#[tokio::test]
async fn files_with_secrets_are_checked_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let creds = dir.path().join("creds");
    let path = creds.to_str().unwrap();
    let settings = settings("nats://127.0.0.1:1", &[("NATS_CREDS", path)]);
    let patience = || Patience::GiveUpAfter(TEST);
    assert!(matches!(connect(&settings, patience()).await, Err(ConnectError::File { .. })));
    fs::write(&creds, "nonsense").unwrap();
    fs::set_permissions(&creds, fs::Permissions::from_mode(0o604)).unwrap();
    assert!(matches!(connect(&settings, patience()).await, Err(ConnectError::Exposed { mode: 0o604, .. })));
    fs::set_permissions(&creds, fs::Permissions::from_mode(0o600)).unwrap();
    let error = connect(&settings, patience()).await.unwrap_err();
    assert!(matches!(error, ConnectError::File { .. }) && error.exit() == Exit::Usage, "{error}");
}
