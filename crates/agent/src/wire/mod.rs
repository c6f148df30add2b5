//! The raw byte stream to the host: one nonblocking descriptor as `AsyncRead` + `AsyncWrite`.
//!
//! A [`Wire`] is shared, not owned, by the session on it: on a virtio-serial port or an inherited socket the
//! descriptor outlives the session, and the next one begins on the same bytes.

pub mod port;
pub mod vsock;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use pyro_proto::frame;
use pyro_proto::mux::Stream;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;

/// Watches `fd`, which should be nonblocking, in the current runtime.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd owns its open descriptor, and an AsyncFd gives out only shared references to it, so it is
    // neither closed nor replaced while it is registered.
    Ok(unsafe { AsyncFd::register(fd)? })
}

/// A shared handle to the byte stream.
#[derive(Clone)]
pub struct Wire(Rc<AsyncFd<OwnedFd>>);

impl Wire {
    /// Makes `fd` nonblocking and watches it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Self(Rc::new(watch(fd)?)))
    }

    /// Whether the host's end is closed now.
    pub fn hung_up(&self) -> bool {
        hung_up(self.0.get_ref().as_fd())
    }

    /// Gives the descriptor back; `None` while another handle lives.
    pub fn into_fd(self) -> Option<OwnedFd> {
        Rc::into_inner(self.0).map(AsyncFd::into_inner)
    }
}

/// Whether the other end of `fd` is closed now.
pub fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut poll = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now)).is_ok()
        && poll[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR)
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            match rustix::io::read(self.0.get_ref(), &mut *out) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                done => return Poll::Ready(done.map_err(Into::into)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match rustix::io::write(self.0.get_ref(), bytes) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                done => return Poll::Ready(done.map_err(Into::into)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing: the descriptor may carry another session, and closing it is its owner's business.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Sends the last message of a call and closes the stream. A host that is gone is no error: its session ends by itself.
pub async fn last_word(write: &mut WriteHalf<Stream>, message: &impl serde::Serialize) {
    if frame::send(write, message).await.is_ok() {
        let _ = write.close().await;
    }
}
