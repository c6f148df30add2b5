//! Messages between a front end and a keeper over the workspace's socket. Data only.
//!
//! ```text
//!   keeper:    Greeting
//!   front end: Request of one call          a call may be sent before the greeting was heard
//!   keeper:    chunks of output, if the call has any, then one Outcome
//! ```
//!
//! A front end that closes the connection cancels its call. A connection is one call, but after a command another call may
//! follow for a while.
//!
//! A front end that wants a command's end soon sends its call before it has heard the greeting. So each request carries its
//! generation, and a keeper that does not speak that generation does nothing but greet.
//!
//! Each call is a type of its own that names the type of its answer ([`Call`]), so that no other answer can be read for it.

pub mod jobs;
mod legacy;
pub mod start;
mod words;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::workspace::fault::Fault;
use crate::workspace::life::Phase;
use crate::workspace::store::record::Record;
use crate::workspace::store::secrets::SecretEnv;
use crate::workspace::store::view::SnapshotInfo;

pub use legacy::{LegacyAnswer, LegacyCall};
pub use words::Words;

/// The generation that this pyro speaks, as a keeper and as a front end.
pub const GENERATION: u32 = 4;
/// The oldest keeper that this front end can do everything with.
pub const OLDEST: u32 = 4;
/// The oldest keeper whose workspace this front end can list, stop and delete.
pub const OLDEST_TO_STOP: u32 = 3;

/// The first message of a keeper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Greeting {
    /// Generation of the protocol that the keeper speaks.
    pub generation: u32,
    /// The keeper's version, for people.
    pub version: String,
    /// The keeper's process id.
    pub pid: u32,
    /// Where the workspace is in its life.
    pub phase: Phase,
    /// Last activity, Unix seconds.
    pub last_activity_at: f64,
    /// Commands that run.
    #[serde(default)]
    pub running_commands: u32,
    /// Whether the keeper hears another call when a command is answered.
    #[serde(default)]
    pub goes_on: bool,
    /// Generation of the wall's protocol that the guest speaks, for calls whose stream the keeper splices to the guest's; 0
    /// from a keeper that does not say.
    #[serde(default)]
    pub guest_generation: u32,
    /// Why the guest that runs answers nothing, if so.
    #[serde(default)]
    pub guest_trouble: Option<String>,
}

/// A question to a keeper, and the type of its answer.
pub trait Call: Serialize + DeserializeOwned + Send + 'static {
    /// Name of the call on the wire.
    const NAME: &'static str;
    /// Answer to the call.
    type Answer: Serialize + DeserializeOwned + Send + 'static;
}

/// A call on its way: the words of `T`, under their name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request<T> {
    /// Generation of the front end.
    pub generation: u32,
    /// Name of the call, [`Call::NAME`].
    pub call: String,
    /// The call's own fields.
    pub ask: T,
}

impl<'a, C: Call> Request<&'a C> {
    /// A request of this generation.
    pub fn new(ask: &'a C) -> Self {
        Self { generation: GENERATION, call: C::NAME.to_owned(), ask }
    }
}

/// The last message of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<A> {
    /// Answer to the call.
    Done(A),
    /// Why there is none.
    Failed(Fault),
}

/// Run a command; its output comes as chunks before the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// Command to run.
    pub command: Words,
    /// Milliseconds after which it is killed.
    pub timeout_ms: Option<u64>,
    /// Secrets in its environment.
    #[serde(default)]
    pub secret_env: Vec<SecretEnv>,
}

impl Call for Exec {
    const NAME: &'static str = "exec";
    type Answer = Exited;
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exited {
    /// Number in the history.
    pub sequence: u64,
    /// Exit code; 128 and more when a signal ended the command.
    pub exit_code: i32,
    /// From start to end, milliseconds.
    pub duration_ms: u64,
    /// From start to end, microseconds, where it is known so exactly.
    #[serde(default)]
    pub duration_us: Option<u64>,
    /// Whether the command was killed because its time was up.
    pub timed_out: bool,
    /// The command as it may be shown.
    pub command: String,
    /// Where it ran.
    pub place: Place,
    /// Why the history lacks the command or its output.
    #[serde(default)]
    pub unrecorded: Option<String>,
}

/// Where a command ran, for front ends that would otherwise have to read the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The workspace's id.
    pub workspace_id: String,
    /// The environment's name.
    pub environment: String,
    /// The environment's version.
    pub environment_version: String,
    /// The VMM: `qemu` or `firecracker`.
    pub backend: String,
    /// Accelerator of the guest: `kvm` or `tcg`.
    pub accelerator: String,
}

impl Place {
    /// Where the commands of the workspace of `record` run.
    pub fn of(record: &Record) -> Self {
        Self {
            workspace_id: record.id.clone(),
            environment: record.environment.clone(),
            environment_version: record.environment_version.clone(),
            backend: record.backend.clone(),
            accelerator: record.accelerator.clone(),
        }
    }
}

/// Open a stream to the guest. After the answer the connection carries the wall's own frames, of one call that the keeper's
/// list of calls allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStream {}

impl Call for GuestStream {
    const NAME: &'static str = "guest_stream";
    type Answer = ();
}

/// A copy that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotMade {
    /// Snapshot that was made.
    pub snapshot: SnapshotInfo,
    /// How long the guest stood still for its memory, ms; absent where only the disk was kept.
    #[serde(default)]
    pub paused_ms: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_keeper_adds_is_ignored() {
        let text =
            r#"{"generation":1,"version":"9","pid":1,"phase":"started","last_activity_at":1.5,"new":{}}"#;
        assert_eq!(serde_json::from_str::<Greeting>(text).unwrap().phase, Phase::Running);
    }

    #[test]
    fn a_request_carries_its_name_and_generation() {
        let text = serde_json::to_string(&Request::new(&GuestStream {})).unwrap();
        assert_eq!(text, format!(r#"{{"generation":{GENERATION},"call":"guest_stream","ask":{{}}}}"#));
        assert_eq!(serde_json::to_string(&Outcome::Done(())).unwrap(), r#"{"done":null}"#);
    }
}
