//! Specification of a service: its name, directory and readiness probe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record;
use super::secrets::SecretEnv;
use crate::workspace::error::{WorkspaceError, check_bound};

/// Seconds until a service must be ready, milliseconds between two looks.
const TIMEOUT_SECONDS: std::ops::RangeInclusive<u64> = 1..=3600;
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=60_000;
/// Longest path, address or line of a readiness, bytes.
const LONGEST: usize = 4096;

/// Service to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Name, unique in its workspace.
    pub name: String,
    /// Directory that the service begins in.
    pub cwd: String,
    /// How to tell whether it is ready; `None` for not at all.
    pub readiness: Option<ReadinessProbe>,
    /// Time to wait until the service is ready.
    pub wait: ReadyWait,
    /// Secrets that it gets as variables.
    #[serde(default)]
    pub secret_env: Vec<SecretEnv>,
}

/// How long to wait until a service is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyWait {
    /// Time to wait, 1 to 3600 seconds.
    pub timeout_seconds: u64,
    /// Pause between two probes, 10 to 60,000 milliseconds.
    pub interval_ms: u64,
}

impl ServiceSpec {
    /// Checks all that can be checked without starting it.
    pub(crate) fn check(&self) -> Result<(), WorkspaceError> {
        record::check_name("a service", &self.name)?;
        check_bound("ready_timeout_seconds", self.wait.timeout_seconds, &TIMEOUT_SECONDS)?;
        check_bound("ready_interval_ms", self.wait.interval_ms, &INTERVAL_MS)?;
        self.readiness.as_ref().map_or(Ok(()), ReadinessProbe::check)
    }
}

impl ReadinessProbe {
    fn check(&self) -> Result<(), WorkspaceError> {
        let (what, text) = match self {
            Self::File { path } => ("a path", path),
            Self::Tcp { address } => {
                self.port()?;
                ("an address", address)
            }
            Self::Http { url } if !url.starts_with("http://") => {
                return Err(WorkspaceError::Readiness { text: url.clone(), wanted: "an http:// address" });
            }
            Self::Http { url } => ("an address", url),
            Self::Command { command } => ("a shell line", command),
        };
        if text.trim().is_empty() || text.len() > LONGEST || text.contains('\0') {
            return Err(WorkspaceError::Readiness { text: text.chars().take(80).collect(), wanted: what });
        }
        Ok(())
    }

    /// The port of an address on the guest's loopback.
    pub(crate) fn port(&self) -> Result<u16, WorkspaceError> {
        let Self::Tcp { address } = self else { return Ok(0) };
        let (host, port) = address.rsplit_once(':').unwrap_or(("localhost", address));
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]" | "0.0.0.0" | "[::]" | "");
        match port.parse() {
            Ok(port @ 1..) if here => Ok(port),
            _ => Err(WorkspaceError::Readiness {
                text: address.chars().take(80).collect(),
                wanted: "a port of the guest's loopback, as 8080 or 127.0.0.1:8080",
            }),
        }
    }
}

/// How to tell whether a service is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ReadinessProbe {
    /// File exists: below `/workspace`, or anywhere in the guest if it begins with `/`.
    File {
        /// Path of the file.
        path: String,
    },
    /// Something listens there.
    Tcp {
        /// A port of the guest's loopback, `127.0.0.1:` before it or not.
        address: String,
    },
    /// Answers with a status from 200 to 399.
    Http {
        /// An `http://` address on the guest's loopback.
        url: String,
    },
    /// Shell line exits with 0, in the service's directory.
    Command {
        /// Shell line to run.
        command: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_guests_own() {
        let port = |address: &str| ReadinessProbe::Tcp { address: address.into() }.port().ok();
        for good in ["8080", "127.0.0.1:8080", "localhost:8080", "[::1]:8080", "0.0.0.0:8080", ":8080"] {
            assert_eq!(port(good), Some(8080), "{good}");
        }
        for bad in ["", "0", "65536", "x", "example.org:80", "10.0.0.1:80", "127.0.0.1:"] {
            assert_eq!(port(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_runs() {
        let wait = ReadyWait { timeout_seconds: 30, interval_ms: 500 };
        let wish = |name: &str, readiness| ServiceSpec {
            name: name.into(),
            cwd: "/workspace".into(),
            readiness,
            wait,
            secret_env: Vec::new(),
        };
        assert!(wish("web", None).check().is_ok());
        assert!(wish("../web", None).check().is_err());
        assert!(wish("web", Some(ReadinessProbe::Http { url: "https://localhost".into() })).check().is_err());
        assert!(wish("web", Some(ReadinessProbe::File { path: String::new() })).check().is_err());
        let hasty = ServiceSpec { wait: ReadyWait { interval_ms: 1, ..wait }, ..wish("web", None) };
        assert!(hasty.check().unwrap_err().to_string().contains("ready_interval_ms is 1"));
    }

    #[test]
    fn readiness_is_as_the_contract_has_it() {
        let text = serde_json::to_string(&ReadinessProbe::File { path: ".ready".into() }).unwrap();
        assert_eq!(text, r#"{"type":"file","path":".ready"}"#);
    }
}
