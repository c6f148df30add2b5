//! Services from a front end's side.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::Workspaces;
use super::jobs::{Job as _, Readiness, STREAMS, Service, ServiceList, ServiceLogs};
use super::layout::Home;
use super::shells::{bound, directory};
use super::{WorkspaceError, nearest, spool};
use crate::command::CommandLine;
use crate::identity::unix_now;
use crate::keeper::{Answer, Call, Phase, ServiceAsk, Words};

/// How much longer than a service may take to become ready its keeper may take to say so.
const GRACE: Duration = Duration::from_secs(60);
/// How long it may take to stop one.
const STOP: Duration = Duration::from_secs(60);
/// Seconds until a service must be ready, milliseconds between two looks.
const TIMEOUT_SECONDS: std::ops::RangeInclusive<u64> = 1..=3600;
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=60_000;
/// Longest path, address or line of a readiness, bytes.
const LONGEST: usize = 4096;
/// All that is kept of a stream.
const ALL: usize = 32 << 20;

/// What is to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceWish {
    /// What it is called.
    pub name: String,
    /// Where it begins.
    pub cwd: String,
    /// How to tell whether it is ready; `None` for not at all.
    pub readiness: Option<Readiness>,
    /// How long to wait for that.
    pub wait: ReadyWait,
    /// Secrets that it gets as variables.
    #[serde(default)]
    pub secret_env: Vec<super::SecretEnv>,
}

/// How long to wait until a service is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyWait {
    /// 1 to 3600.
    pub timeout_seconds: u64,
    /// Between two looks, 10 to 60,000.
    pub interval_ms: u64,
}

impl ServiceWish {
    /// Checks all that can be checked without starting it.
    pub(crate) fn check(&self) -> Result<(), WorkspaceError> {
        super::record::check_name("a service", &self.name)?;
        bound("ready_timeout_seconds", self.wait.timeout_seconds, &TIMEOUT_SECONDS)?;
        bound("ready_interval_ms", self.wait.interval_ms, &INTERVAL_MS)?;
        self.readiness.as_ref().map_or(Ok(()), Readiness::check)
    }
}

impl Readiness {
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

/// The one of this name.
pub(crate) fn find_service(mut services: Vec<Service>, name: &str) -> Result<Service, WorkspaceError> {
    match services.iter().position(|service| service.service_name == name) {
        Some(at) => Ok(services.swap_remove(at)),
        None => {
            let near = nearest(name, services.into_iter().map(|service| service.service_name), 3);
            Err(WorkspaceError::ServiceUnknown { name: name.to_owned(), near })
        }
    }
}

impl Workspaces {
    /// Starts a service and waits until it is ready. Dropping the future ends it while it is not.
    ///
    /// # Errors
    /// When one of its name runs, it cannot be started, or does not become ready: with the end of its log.
    pub async fn start_service(
        &self,
        given: &str,
        wish: ServiceWish,
        command: &CommandLine,
    ) -> Result<Service, WorkspaceError> {
        wish.check()?;
        let wish = ServiceWish { cwd: directory(&wish.cwd), ..wish };
        let home = self.find(given).await?;
        let within = Duration::from_secs(wish.wait.timeout_seconds) + GRACE;
        let ask = ServiceAsk::Start { wish: Box::new(wish), command: Words::new(command) };
        self.ask_service(&home, ask, within).await
    }

    async fn ask_service(
        &self,
        home: &Home,
        ask: ServiceAsk,
        within: Duration,
    ) -> Result<Service, WorkspaceError> {
        match self.ask(home, &Call::Service { ask }, within).await? {
            Some(Answer::Service { service }) => Ok(*service),
            Some(_) => Err(super::client::odd()),
            None => Err(WorkspaceError::Stopped),
        }
    }

    /// What is known of the services now, the oldest first.
    async fn services_now(&self, home: &Home) -> Result<Vec<Service>, WorkspaceError> {
        let runs = self.phase(home).await?.is_some_and(|phase| phase != Phase::Stopped);
        let services: Vec<Service> = home.read()?.jobs()?;
        let derive = |service: Service| if runs { service } else { service.without_guest(unix_now()) };
        Ok(services.into_iter().map(derive).collect())
    }

    /// The services, the oldest first.
    ///
    /// # Errors
    /// When there is no such workspace.
    pub async fn services(&self, given: &str) -> Result<ServiceList, WorkspaceError> {
        let home = self.find(given).await?;
        let services = self.services_now(&home).await?;
        Ok(ServiceList {
            workspace_id: home.read()?.record()?.id,
            count: services.len(),
            running_count: services.iter().filter(|service| service.is_running()).count(),
            services,
        })
    }

    /// One service.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn service(&self, given: &str, name: &str) -> Result<Service, WorkspaceError> {
        let home = self.find(given).await?;
        find_service(self.services_now(&home).await?, name)
    }

    /// What a service wrote: the last `tail_lines` of each stream, or all that is kept.
    ///
    /// # Errors
    /// When there is none of this name, or its log cannot be read.
    pub async fn service_logs(
        &self,
        given: &str,
        name: &str,
        tail_lines: Option<u64>,
    ) -> Result<ServiceLogs, WorkspaceError> {
        let home = self.find(given).await?;
        let service = find_service(self.services_now(&home).await?, name)?;
        let dir = home.service(name);
        let mut truncated = false;
        let mut read = |stream| {
            let kept = spool::read(&dir, stream, 0, ALL)
                .map_err(|error| WorkspaceError::file(&dir, "read", error))?;
            let most = tail_lines.map_or(usize::MAX, |lines| usize::try_from(lines).unwrap_or(usize::MAX));
            let (text, cut) = last_lines(&kept.bytes, most, kept.from > 0);
            truncated |= cut || kept.from > 0;
            Ok::<_, WorkspaceError>(text)
        };
        let [out, err] = STREAMS;
        let (stdout, stderr) = (read(out)?, read(err)?);
        Ok(ServiceLogs { service, stdout, stderr, tail_lines, truncated })
    }

    /// Ends a service: TERM to all of it, KILL after five seconds. One that does not run stays as it is.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be ended.
    pub async fn stop_service(&self, given: &str, name: &str) -> Result<Service, WorkspaceError> {
        let home = self.find(given).await?;
        if self.phase(&home).await?.is_none_or(|phase| phase == Phase::Stopped) {
            return find_service(self.services_now(&home).await?, name);
        }
        self.ask_service(&home, ServiceAsk::Stop { name: name.to_owned() }, STOP).await
    }
}

/// The last `most` lines, and whether there are more. Where something `before` them is gone, a line that lacks its
/// beginning is left out.
pub(crate) fn last_lines(bytes: &[u8], most: usize, before: bool) -> (String, bool) {
    let whole = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if before => &bytes[end + 1..],
        _ => bytes,
    };
    let body = whole.strip_suffix(b"\n").unwrap_or(whole);
    if most == 0 {
        return (String::new(), !whole.is_empty());
    }
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let from = ends.map(|(at, _)| at + 1).nth(most - 1).unwrap_or(0);
    (String::from_utf8_lossy(&whole[from..]).into_owned(), from > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last_lines() {
        let lines = |bytes: &str, most| last_lines(bytes.as_bytes(), most, false);
        assert_eq!(lines("a\nb\nc\n", 2), ("b\nc\n".into(), true));
        assert_eq!(lines("a\nb\nc", 2), ("b\nc".into(), true));
        assert_eq!(lines("a\nb\n", 2), ("a\nb\n".into(), false));
        assert_eq!(lines("a\n\n\n", 2), ("\n\n".into(), true));
        assert_eq!(lines("", 2), (String::new(), false));
        assert_eq!(lines("a\n", 0), (String::new(), true));
        assert_eq!(lines("a\nb\n", usize::MAX), ("a\nb\n".into(), false));
        assert_eq!(last_lines(b"half\nwhole\n", 9, true), ("whole\n".into(), false));
    }

    #[test]
    fn ports_are_the_guests_own() {
        let port = |address: &str| Readiness::Tcp { address: address.into() }.port().ok();
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
        let wish = |name: &str, readiness| ServiceWish {
            name: name.into(),
            cwd: "/workspace".into(),
            readiness,
            wait,
            secret_env: Vec::new(),
        };
        assert!(wish("web", None).check().is_ok());
        assert!(wish("../web", None).check().is_err());
        assert!(wish("web", Some(Readiness::Http { url: "https://localhost".into() })).check().is_err());
        assert!(wish("web", Some(Readiness::File { path: String::new() })).check().is_err());
        let hasty = ServiceWish { wait: ReadyWait { interval_ms: 1, ..wait }, ..wish("web", None) };
        assert!(hasty.check().unwrap_err().to_string().contains("ready_interval_ms is 1"));
    }
}
