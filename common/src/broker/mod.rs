//! The NATS server: reaching it, asking it with bounded waits, and running an embedded one.

mod connect;
mod embedded;
mod error;
mod events;
pub mod guard;
mod look;
mod server;
mod version;
pub mod wire;

pub use connect::{Broker, Caller, ConnectError, Patience};
pub use embedded::{Embedded, EmbeddedError, EmbeddedOptions};
pub use error::BrokerError;
pub use events::{Connection, Denials};
pub use look::EmbeddedLook;
pub use version::{InvalidVersion, ServerVersion};
