//! Standard output, where results go, and standard error, where pyro talks.
//!
//! Invariant: a result that cannot be written is a failure, whoever prints it. The first one is kept, nothing is written
//! after it, and `main` tells of it through [`crate::error::printed`]. What pyro says beside may be lost: nobody is to be told
//! where standard error is gone, and a command goes on without it.

use std::io::{self, Write as _};
use std::sync::OnceLock;

/// Why standard output took no more.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Writes a part of a result.
pub fn print(bytes: &[u8]) {
    if FAILED.get().is_none() {
        keep(io::stdout().lock().write_all(bytes));
    }
}

/// Writes what pyro says beside its result.
pub fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Failure to write the result, once all of it has left this process.
pub fn failure() -> Option<&'static io::Error> {
    if FAILED.get().is_none() {
        keep(io::stdout().lock().flush());
    }
    FAILED.get()
}

fn keep(written: io::Result<()>) {
    if let Err(error) = written {
        // An earlier one is the cause of this.
        let _ = FAILED.set(error);
    }
}

/// Prints a line of a result.
macro_rules! outln {
    ($($words:tt)*) => { $crate::output::print(format!("{}\n", format_args!($($words)*)).as_bytes()) };
}

/// Says a line beside the result.
macro_rules! errln {
    ($($words:tt)*) => { $crate::output::say(&format!("{}\n", format_args!($($words)*))) };
}

pub(crate) use {errln, outln};
