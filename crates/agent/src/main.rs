//! The agent's arguments: as PID 1 none, as a plain process where to listen.
//!
//! There is no `fn main`: the standard library's start-up aborts when descriptors 0 to 2 are not open and `/dev/null`
//! does not exist, which is how the kernel starts the first process of a guest without a console.

#![no_main]

use std::ffi::{OsString, c_char, c_int};
use std::io::Write;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use pyro_agent::boot;

const USAGE: &str = "usage: pyro-agent --socket PATH [--disk DIRECTORY] | --fd N | --version";

// SAFETY: the C runtime calls the symbol `main` once, with these arguments; nothing else in the program defines it.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    if std::process::id() == 1 {
        boot::run();
    }
    match plain() {
        Ok(()) => 0,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "pyro-agent: {message}");
            2
        }
    }
}

fn plain() -> Result<(), String> {
    let mut arguments = std::env::args_os().skip(1);
    let (flag, value) = (arguments.next(), arguments.next());
    let flag = flag.as_ref().and_then(|flag| flag.to_str());
    let disk = match arguments.next() {
        Some(word) if word == "--disk" => Some(arguments.next().ok_or(USAGE)?.into()),
        Some(_) => return Err(USAGE.to_owned()),
        None => None,
    };
    if arguments.next().is_some() {
        return Err(USAGE.to_owned());
    }
    match (flag, value) {
        (Some("--version"), None) if disk.is_none() => {
            writeln!(std::io::stdout(), "pyro-agent {}", env!("CARGO_PKG_VERSION"))
                .map_err(|error| error.to_string())
        }
        (Some("--socket"), Some(path)) => {
            boot::plain(boot::ListenOn::Socket(path.into()), disk).map_err(|error| format!("{error}"))
        }
        (Some("--fd"), Some(number)) => {
            boot::plain(boot::ListenOn::Stream(inherited(number)?), disk).map_err(|error| format!("{error}"))
        }
        _ => Err(USAGE.to_owned()),
    }
}

/// The open descriptor that `number` names, which this process then owns.
fn inherited(number: OsString) -> Result<OwnedFd, String> {
    let fd = number.to_str().and_then(|text| text.parse::<c_int>().ok()).filter(|fd| *fd > 2);
    let fd =
        fd.ok_or_else(|| format!("--fd takes the number of an open descriptor above 2, not {number:?}"))?;
    // SAFETY: only asked whether it is open.
    let open = rustix::io::fcntl_setfd(unsafe { BorrowedFd::borrow_raw(fd) }, rustix::io::FdFlags::CLOEXEC);
    open.map_err(|_| format!("descriptor {fd} is not open"))?;
    // SAFETY: it is open, was inherited, and nothing in this process has opened it or uses it: this is the start.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
