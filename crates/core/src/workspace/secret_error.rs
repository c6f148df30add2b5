//! Reasons why something is no secret, or cannot be given.

use std::io;
use std::path::PathBuf;

use pyro_formats::redact::SHORTEST;

use crate::hint::Hint;

/// Most secrets of one workspace.
pub(crate) const MOST: usize = 64;

/// Why something is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Name that no secret may have.
    #[error("{0:?} cannot be the name of a secret")]
    Name(String),
    /// Two secrets have one name.
    #[error("there are two secrets {0:?}")]
    Twice(String),
    /// Value so short that much else looks like it.
    #[error("the value of secret {0:?} has less than {SHORTEST} bytes, white space around it aside")]
    Short(String),
    /// Value over 64 KiB.
    #[error("the value of secret {0:?} has more than 64 KiB")]
    Long(String),
    /// Value that is not UTF-8.
    #[error("the value of secret {0:?} is not UTF-8")]
    Text(String),
    /// Too many secrets, or too many bytes of them together.
    #[error("a workspace has at most {MOST} secrets, with 256 KiB together")]
    Many,
    /// File of the secret cannot be read.
    #[error("secret {name:?}: {} cannot be read", .path.display())]
    File {
        /// Name of the secret.
        name: String,
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        source: io::Error,
    },
    /// The workspace has none of this name.
    #[error("the workspace has no secret {name:?}")]
    Unknown {
        /// Name that was asked for.
        name: String,
        /// Names of the workspace's secrets.
        there: Vec<String>,
    },
    /// An environment has no such variable.
    #[error("{0:?} cannot be the name of an environment variable")]
    Variable(String),
    /// Value that no environment variable can hold.
    #[error("the value of secret {0:?} has a NUL byte, which no environment variable can hold")]
    Nul(String),
}

impl SecretError {
    /// Action that may help, where there is one.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Name(_) => Some(Hint::SecretNameRule),
            Self::Short(_) => Some(Hint::LongerSecret),
            Self::Unknown { there, .. } if there.is_empty() => Some(Hint::GiveSecrets),
            Self::Unknown { there, .. } => Some(Hint::UseExisting { names: there.clone() }),
            Self::Variable(_) => Some(Hint::SecretVariable),
            Self::Twice(_)
            | Self::Long(_)
            | Self::Text(_)
            | Self::Many
            | Self::File { .. }
            | Self::Nul(_) => None,
        }
    }
}
