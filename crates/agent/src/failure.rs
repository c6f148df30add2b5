//! Failures as data: each names the failed step, its object, and the kernel's error number.

use pyro_proto::message::{Failure, FailureKind};
use rustix::io::Errno;

/// Makes a failure of `stage` with the kernel's `errno`; the message begins with `what`.
pub fn failure(kind: FailureKind, stage: &str, errno: Errno, what: impl std::fmt::Display) -> Failure {
    let errno_text = std::io::Error::from(errno).to_string();
    let reason = errno_text.split(" (os error").next().unwrap_or_default();
    Failure {
        kind,
        stage: stage.to_owned(),
        errno: Some(errno.raw_os_error()),
        message: format!("{what}: {reason}"),
    }
}

/// Makes a failure that is not the kernel's.
pub fn refusal(kind: FailureKind, stage: &str, message: impl Into<String>) -> Failure {
    Failure { kind, stage: stage.to_owned(), errno: None, message: message.into() }
}

/// Kind of a failure to get a resource from the kernel.
pub fn resource_kind(errno: Errno) -> FailureKind {
    match errno {
        Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::DQUOT => {
            FailureKind::Exhausted
        }
        _ => FailureKind::Internal,
    }
}
