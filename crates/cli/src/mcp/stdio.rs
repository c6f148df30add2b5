//! Standard input and output of a server. Clients give it pipes or sockets, which the runtime can wait for itself; tokio's own
//! streams have a thread read and write for it, and each message then wakes two threads for one. They are left non-blocking for
//! whoever shares them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use rustix::fs::{FileType, fstat};
use rustix::net::{AddressFamily, getsockname};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// Stream of the client's messages.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Stream of the server's messages.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Descriptor that can be waited for.
enum StdioDescriptor {
    Pipe(OwnedFd),
    Socket(OwnedFd),
}

/// Standard input. What is no pipe or socket, such as a terminal or a file, is read by a thread.
pub fn input() -> Input {
    let direct = || -> io::Result<Input> {
        Ok(match kind(io::stdin().as_fd())? {
            StdioDescriptor::Pipe(fd) => Box::new(pipe::Receiver::from_owned_fd(fd)?),
            StdioDescriptor::Socket(fd) => Box::new(socket(fd)?),
        })
    };
    direct().unwrap_or_else(|_| Box::new(tokio::io::stdin()))
}

/// Standard output, likewise.
pub fn output() -> Output {
    let direct = || -> io::Result<Output> {
        Ok(match kind(io::stdout().as_fd())? {
            StdioDescriptor::Pipe(fd) => Box::new(pipe::Sender::from_owned_fd(fd)?),
            StdioDescriptor::Socket(fd) => Box::new(socket(fd)?),
        })
    };
    direct().unwrap_or_else(|_| Box::new(tokio::io::stdout()))
}

fn kind(fd: BorrowedFd<'_>) -> io::Result<StdioDescriptor> {
    // Waiting for it makes it non-blocking, which is not for those who print errors to the same place.
    if same(fd, io::stderr().as_fd())? {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let own = fd.try_clone_to_owned()?;
    match FileType::from_raw_mode(fstat(fd)?.st_mode) {
        FileType::Fifo => Ok(StdioDescriptor::Pipe(own)),
        FileType::Socket if getsockname(fd)?.address_family() == AddressFamily::UNIX => {
            Ok(StdioDescriptor::Socket(own))
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn socket(fd: OwnedFd) -> io::Result<UnixStream> {
    let socket = StdUnixStream::from(fd);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

fn same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<bool> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}
