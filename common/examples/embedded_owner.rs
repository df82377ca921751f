//! A process that uses the embedded broker as both programs do, for tests that kill it.
//!
//! Settings come from the environment. It says `ready` when it is connected, and ends on SIGTERM.

use common::{
    broker::{Broker, Caller, ConnectError, Patience, guard},
    exit::{Exit, Failure, finish},
    logging,
    settings::{CommonArgs, Environment},
};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    if let Some(code) = guard::maybe_run() {
        return code;
    }
    finish(run())
}

fn run() -> Result<Exit, Failure> {
    let args = CommonArgs::default();
    let settings = args.resolve(&args.layers(Environment::of_process())?)?;
    logging::init(&settings.log)?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::new(Exit::Failed, error))?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        let mut terminated = signal(SignalKind::terminate()).map_err(|e| Failure::new(Exit::Failed, e))?;
        let on_signal = cancel.clone();
        tokio::spawn(async move {
            terminated.recv().await;
            on_signal.cancel();
        });
        let caller = Caller { role: "example", node: &settings.node };
        let patience = Patience::KeepTrying(cancel.clone());
        let broker = match Broker::connect(&settings.nats, caller, patience).await {
            Err(ConnectError::Cancelled) => return Ok(Exit::Done),
            other => other?,
        };
        println!("ready durable={:?}", broker.durable());
        cancel.cancelled().await;
        broker.shutdown().await;
        Ok(Exit::Done)
    })
}
