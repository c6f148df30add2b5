//! Sessions, one at a time, on one of four transports.
//!
//! ```text
//!   socket   connections come and go; a new one replaces the old
//!   fd       one inherited stream without boundaries; ends when the other side closes it
//!   port     a virtio-serial port: like fd, but a host that closed it may come back
//!   vsock    like socket, but a host that closed it without saying so may have meant the guest to end
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;

use futures::future::{Either, select};
use pyro_proto::handshake::Nonce;
use pyro_proto::link::{Link, LinkError};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::net::UnixListener;

use crate::session::{Agent, SessionEnd, SessionOrder, serve};
use crate::wire::Wire;
use crate::wire::vsock::VsockListener;

/// Makes a number that no session had before. Never waits for the kernel's pool: the number tells sessions apart and is
/// no key.
fn nonce() -> Nonce {
    let mut nonce = Nonce::default();
    let _ = getrandom(&mut nonce, GetRandomFlags::INSECURE);
    nonce
}

/// Serves sessions on a Unix socket at `path`, which is replaced if nobody listens there. Ends on an order to
/// shut down.
pub async fn on_socket(agent: &Agent, path: &Path) -> io::Result<()> {
    let listener = match UnixListener::bind(path) {
        Err(error)
            if error.kind() == io::ErrorKind::AddrInUse
                && std::os::unix::net::UnixStream::connect(path).is_err() =>
        {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    let accept = async || Ok(OwnedFd::from(listener.accept().await?.0.into_std()?));
    on_connections(agent, accept).await?;
    std::fs::remove_file(path)
}

/// Serves sessions on `listener`; a new connection replaces the old. Ends on an order to shut down and, in a
/// guest that is for one session, when the host closes a connection after a session without having detached.
pub async fn on_vsock(agent: &Agent, listener: &VsockListener) -> io::Result<()> {
    on_connections(agent, async || listener.accept().await).await
}

/// Serves each connection that `accept` gives until that gives the next.
async fn on_connections(agent: &Agent, accept: impl AsyncFn() -> io::Result<OwnedFd>) -> io::Result<()> {
    let mut next = None;
    loop {
        let connection = match next.take() {
            Some(connection) => connection,
            None => accept().await?,
        };
        let wire = Wire::new(connection)?;
        match select(pin!(one(agent, wire)), pin!(accept())).await {
            Either::Left(((SessionOutcome::Shutdown, _), _)) => return Ok(()),
            Either::Left(((SessionOutcome::Closed, true), _)) if agent.is_oneshot() => return Ok(()),
            Either::Left(_) => {}
            Either::Right((accepted, _)) => next = Some(accepted?),
        }
    }
}

/// Next step of the server after a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionOutcome {
    /// Another session, on the same stream if it has no boundaries.
    Next,
    /// The other side closed the stream.
    Closed,
    /// The host wants the agent, or the guest, to end.
    Shutdown,
}

/// Serves one session on `wire`. Returns the next step, and whether there was a session at all.
async fn one(agent: &Agent, wire: Wire) -> (SessionOutcome, bool) {
    match Link::accept(wire.clone(), nonce).await {
        Ok((link, _)) => {
            let outcome = match serve(agent, link).await {
                SessionEnd::Ordered(SessionOrder::Shutdown) => SessionOutcome::Shutdown,
                SessionEnd::Ordered(SessionOrder::Detach) => SessionOutcome::Next,
                _ if wire.hung_up() => SessionOutcome::Closed,
                _ => SessionOutcome::Next,
            };
            (outcome, true)
        }
        // A host of another age: it may come back as another.
        Err(LinkError::Handshake(_)) => (SessionOutcome::Next, false),
        Err(LinkError::Closed | LinkError::Io(_)) => (SessionOutcome::Closed, false),
    }
}

/// Serves session after session on `wire`, which has no boundaries, until it is closed or an order to shut down comes.
/// Returns which of these, and whether there was a session at all.
pub async fn on_wire(agent: &Agent, wire: &Wire) -> (SessionOutcome, bool) {
    let mut established = false;
    loop {
        match Link::accept(wire.clone(), nonce).await {
            Ok((link, _)) => {
                established = true;
                if let SessionEnd::Ordered(SessionOrder::Shutdown) = serve(agent, link).await {
                    return (SessionOutcome::Shutdown, established);
                }
            }
            Err(LinkError::Handshake(_)) => {}
            Err(LinkError::Closed | LinkError::Io(_)) => return (SessionOutcome::Closed, established),
        }
    }
}
