//! The secrets of a workspace: what may be one, where they are kept, and what they are used for.
//!
//! ```text
//!   front end -- standard input of the keeper --> ID/secrets/NAME   0600 in 0700: the only place at rest
//!                                                     |
//!          guest's /run/pyro-secrets/NAME <-- keeper -+-> redactor of all that is captured, streamed or shown
//! ```
//!
//! Invariant: a value is in no argument, environment, database, log or message of ours. What prints one of these types
//! prints no value.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use pyro_formats::hostfs::HostPath;
use pyro_formats::redact::{Redactor, SHORTEST};
use serde::{Deserialize, Serialize};

use crate::workspace::error::WorkspaceError;
use crate::workspace::secret_error::{MOST, SecretError};
use crate::workspace::store::layout::{self, Home};
use crate::workspace::store::record::{Record, SecretInfo};

/// Most bytes of one value.
const LONGEST: usize = 64 << 10;
/// Most bytes of all values together.
const TOGETHER: usize = 256 << 10;

/// Secret with its value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    name: String,
    source_kind: String,
    value: String,
}

/// Not its value.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Secret {
    /// Secret whose value is given.
    ///
    /// # Errors
    /// When the name or the value is not allowed.
    pub fn literal(name: impl Into<String>, value: impl Into<String>) -> Result<Self, SecretError> {
        Self { name: name.into(), source_kind: "literal".into(), value: value.into() }.checked()
    }

    /// Secret whose value is in a file, byte for byte. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read, or what is in it cannot be a value.
    pub fn from_file(name: impl Into<String>, path: impl Into<HostPath>) -> Result<Self, SecretError> {
        let (name, path) = (name.into(), path.into());
        check_name(&name)?;
        match File::open(path.path()) {
            Ok(file) => Self::from_reader(name, path.shown(), file),
            Err(source) => Err(SecretError::File { name, path: path.shown().to_owned(), source }),
        }
    }

    /// Secret whose value is all of `reader`, byte for byte; errors call the source `path`. Blocks.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn from_reader(
        name: impl Into<String>,
        path: &Path,
        reader: impl io::Read,
    ) -> Result<Self, SecretError> {
        let name = name.into();
        check_name(&name)?;
        let mut bytes = Vec::new();
        if let Err(source) = reader.take(LONGEST as u64 + 1).read_to_end(&mut bytes) {
            return Err(SecretError::File { name, path: path.to_owned(), source });
        }
        if bytes.len() > LONGEST {
            return Err(SecretError::Long(name));
        }
        let Ok(value) = String::from_utf8(bytes) else { return Err(SecretError::Text(name)) };
        Self { name, source_kind: "file".into(), value }.checked()
    }

    fn checked(self) -> Result<Self, SecretError> {
        check_name(&self.name)?;
        if self.value.trim_matches(|c: char| c.is_ascii_whitespace()).len() < SHORTEST {
            return Err(SecretError::Short(self.name));
        }
        if self.value.len() > LONGEST {
            return Err(SecretError::Long(self.name));
        }
        Ok(self)
    }

    /// Public part of the secret.
    pub(crate) fn info(&self) -> SecretInfo {
        SecretInfo { name: self.name.clone(), source_kind: self.source_kind.clone() }
    }
}

/// A name is a file's in the guest and here.
fn check_name(name: &str) -> Result<(), SecretError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.') {
        return Ok(());
    }
    Err(SecretError::Name(name.to_owned()))
}

/// Whether a workspace can have all of these.
pub(crate) fn check(secrets: &[Secret]) -> Result<(), SecretError> {
    let mut names = BTreeSet::new();
    for secret in secrets {
        secret.clone().checked()?;
        if !names.insert(&secret.name) {
            return Err(SecretError::Twice(secret.name.clone()));
        }
    }
    let bytes: usize = secrets.iter().map(|secret| secret.value.len()).sum();
    if secrets.len() > MOST || bytes > TOGETHER { Err(SecretError::Many) } else { Ok(()) }
}

/// Writes secrets beside a draft. Blocks.
pub(crate) fn keep(home: &Home, secrets: &[Secret]) -> Result<(), WorkspaceError> {
    if secrets.is_empty() {
        return Ok(());
    }
    let dir = home.secrets();
    let made = DirBuilder::new().mode(0o700).create(&dir);
    made.map_err(|e| WorkspaceError::file(&dir, "created", e))?;
    for secret in secrets {
        let path = dir.join(&secret.name);
        let mut file = layout::new_file(&path)?;
        let written = file.write_all(secret.value.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|e| WorkspaceError::file(&path, "written", e))?;
    }
    File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|e| WorkspaceError::file(&dir, "written", e))
}

/// Reads those that `record` names. Blocks.
pub(crate) fn read(home: &Home, record: &Record) -> Result<Vec<Secret>, WorkspaceError> {
    let mut all = Vec::new();
    for SecretInfo { name, source_kind } in &record.secrets {
        check_name(name)?;
        let path = home.secrets().join(name);
        let secret = Secret::from_file(name, path)?;
        all.push(Secret { source_kind: source_kind.clone(), ..secret });
    }
    Ok(all)
}

/// Redactor of a workspace's secrets, for all that a front end shows: the guest may have written them anywhere.
/// Blocks for a moment.
pub(crate) fn redactor(home: &Home) -> Result<Redactor, WorkspaceError> {
    let record = home.read()?.record()?;
    Ok(Secrets::new(read(home, &record)?)?.redactor)
}

/// Secret and the environment variable that a command gets it as: `NAME` or `NAME=ENV`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEnv {
    /// Name of the secret.
    pub name: String,
    /// Name of the variable.
    pub env: String,
}

impl std::str::FromStr for SecretEnv {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let (name, env) = text.split_once('=').unwrap_or((text, text));
        check_name(name)?;
        let mut bytes = env.bytes();
        let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !bytes.next().is_some_and(first) || !bytes.all(fits) {
            return Err(SecretError::Variable(env.to_owned()));
        }
        Ok(Self { name: name.to_owned(), env: env.to_owned() })
    }
}

/// The secrets of a workspace in its keeper's hands.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    all: Vec<Secret>,
    redactor: Redactor,
}

impl Secrets {
    /// Secrets `all`, which were checked.
    pub(crate) fn new(all: Vec<Secret>) -> Result<Self, SecretError> {
        let redactor = Redactor::new(all.iter().map(|secret| secret.value.as_str()));
        Ok(Self { redactor: redactor.map_err(|_| SecretError::Many)?, all })
    }

    /// Takes secrets out of output.
    pub(crate) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Each with its name and its bytes, for the guest.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.all.iter().map(|secret| (secret.name.as_str(), secret.value.as_bytes()))
    }

    /// Variables for a command, a shell or a service: the values as `$(cat FILE)` gives them, without newlines at the
    /// end.
    pub(crate) fn env(&self, wanted: &[SecretEnv]) -> Result<Vec<(OsString, OsString)>, SecretError> {
        let find = |SecretEnv { name, env }: &SecretEnv| {
            let Some(secret) = self.all.iter().find(|secret| secret.name == *name) else {
                let there = self.all.iter().map(|secret| secret.name.clone()).collect();
                return Err(SecretError::Unknown { name: name.clone(), there });
            };
            if secret.value.contains('\0') {
                return Err(SecretError::Nul(name.clone()));
            }
            Ok((env.into(), secret.value.trim_end_matches('\n').into()))
        };
        wanted.iter().map(find).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_secret_is_refused() {
        for (name, value) in
            [("", "value"), (".x", "value"), ("a/b", "value"), ("a", "xyz"), ("a", "xyz \n\n")]
        {
            assert!(Secret::literal(name, value).is_err(), "{name} {value}");
        }
        assert!(Secret::literal("a", "x".repeat(LONGEST)).is_ok());
        assert!(Secret::literal("a", "x".repeat(LONGEST + 1)).is_err());
        let secret = |name: &str, size| Secret::literal(name, "x".repeat(size)).unwrap();
        assert!(matches!(check(&[secret("a", 4), secret("a", 5)]), Err(SecretError::Twice(_))));
        let many: Vec<_> = (0..5).map(|n| secret(&format!("s{n}"), LONGEST)).collect();
        assert!(matches!(check(&many), Err(SecretError::Many)));
        assert!(check(&many[..4]).is_ok());
    }

    #[test]
    fn files_are_read_byte_for_byte_and_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "hunter2\n").unwrap();
        let secret = Secret::from_file("T", &path).unwrap();
        assert_eq!((secret.value.as_str(), secret.source_kind.as_str()), ("hunter2\n", "file"));
        assert!(!format!("{secret:?}").contains("hunter2"));
        let secrets = Secrets::new(vec![secret]).unwrap();
        let env = secrets.env(&["T=TOKEN".parse().unwrap()]).unwrap();
        assert_eq!(env, [("TOKEN".into(), "hunter2".into())]);
        assert!(matches!(secrets.env(&["U".parse().unwrap()]), Err(SecretError::Unknown { .. })));
        std::fs::write(&path, vec![b'x'; LONGEST + 1]).unwrap();
        assert!(matches!(Secret::from_file("T", &path), Err(SecretError::Long(_))));
        std::fs::write(&path, b"\xff\xfe\xff\xfe").unwrap();
        assert!(matches!(Secret::from_file("T", &path), Err(SecretError::Text(_))));
        assert!(matches!(Secret::from_file("T", dir.path().join("none")), Err(SecretError::File { .. })));
    }

    #[test]
    fn variables_have_names() {
        let parsed: SecretEnv = "my-token=TOKEN_1".parse().unwrap();
        assert_eq!((parsed.name.as_str(), parsed.env.as_str()), ("my-token", "TOKEN_1"));
        assert!("TOKEN".parse::<SecretEnv>().is_ok());
        for bad in ["my-token", "T=", "T=1A", "T=A B", "=A", "T=A=B"] {
            assert!(bad.parse::<SecretEnv>().is_err(), "{bad}");
        }
    }
}
