//! Messages of the wall: a stream begins with a [`Request`], and the request decides which messages follow.
//!
//! ```text
//!   Identify, Clock, Assemble, Ping, Detach, Shutdown:  one Reply, then the stream ends
//!   Exec:  host -> guest  Stdin chunks and ExecInput messages
//!          guest -> host  Stdout and Stderr chunks and ExecEvent messages; Exited or Failed is the last
//!   all others: as documented at each; from the guest Reply messages and chunks, a Failed at any time is the last
//! ```
//!
//! The host abandons a call by dropping its stream, or by ending its half of it: the guest then kills everything the
//! call started. [`ExecInput::Eof`] marks the end of a call's input.
//! Enum variants are encoded by position: add at the end, and raise [`crate::GENERATION`].

use serde::{Deserialize, Serialize};

pub use crate::files::*;
pub use crate::jobs::*;

/// Most bytes of standard input that may be on their way and not consumed by the command yet: above it the host
/// waits for [`ExecEvent::StdinConsumed`], so that signals never queue behind input nobody reads.
pub const STDIN_WINDOW: usize = 256 * 1024;

/// First message of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Gives the guest its identity; always the first call of a session.
    Identify(GuestIdentity),
    /// Runs a command.
    Exec(ExecRequest),
    /// Asks for a sign of life.
    Ping,
    /// Ends this session; the guest then listens for a new one. Sent before the guest's state is saved.
    Detach,
    /// Stops all processes, unmounts, powers off.
    Shutdown,
    /// Moves the wall clock by so many nanoseconds, zero included, and answers with the new time. The host repeats the
    /// call until the time that a message takes on its way no longer matters.
    Clock(i64),
    /// Mounts the writable disk and assembles the root, in a guest whose kernel command line told it to wait for this
    /// call.
    Assemble,
    /// Starts a job: a command that belongs to no stream and no session.
    JobStart(JobStart),
    /// Follows a job's output: one [`Reply::Attached`], Stdout and Stderr chunks, [`Reply::Ended`] as the last.
    ///
    /// A follower that does not read holds the job up once a megabyte waits: followed output is not lost.
    JobAttach {
        /// Id of the job.
        id: JobId,
        /// First byte wanted, counted from the job's start over both of its streams.
        cursor: u64,
    },
    /// Bytes for a terminal job; answered by [`Reply::Taken`].
    JobInput {
        /// Id of the job.
        id: JobId,
        /// At most [`JOB_INPUT`] bytes.
        bytes: Bytes,
    },
    /// Sets the size of a job's terminal.
    JobResize {
        /// Id of the job.
        id: JobId,
        /// New size of the terminal.
        size: TerminalSize,
    },
    /// Sends a signal to the foreground process group of a job's terminal, as if the person had typed it; to the
    /// process group of the job's first process where there is no terminal.
    JobSignal {
        /// Id of the job.
        id: JobId,
        /// A Linux signal number.
        signal: i32,
    },
    /// Ends a job and all that it started: TERM, and KILL for the processes left after `grace_ms`. Answered by
    /// [`Reply::Ended`] when all of them are gone; goes on when nobody waits for the answer.
    JobStop {
        /// Id of the job.
        id: JobId,
        /// Milliseconds between TERM and KILL.
        grace_ms: u64,
    },
    /// Lists all jobs: [`Reply::Jobs`].
    JobList,
    /// Drops a job that has ended, and its kept output. Processes that it left behind live on.
    JobForget {
        /// Id of the job.
        id: JobId,
    },
    /// Asks whether a service is ready. Answered by [`Reply::Probed`], within [`PROBE_MS`].
    Probe(ServiceProbe),
    /// Lists a directory: [`Reply::Entries`] as often as needed, then [`Reply::Listed`].
    FileList {
        /// The directory, or a single file.
        path: Bytes,
        /// Whether to list subdirectories too.
        recursive: bool,
    },
    /// Reads a file's content: [`Reply::Stat`], Stdout chunks, [`Reply::Done`].
    FileRead {
        /// The file; links are followed as far as they stay inside the workspace.
        path: Bytes,
        /// First byte wanted.
        offset: u64,
        /// Most bytes wanted.
        limit: u64,
    },
    /// Replaces a file's content in one step, or makes the file: Stdin chunks and [`ExecInput::Eof`] follow, and
    /// [`Reply::Stat`] comes back.
    FileWrite {
        /// The file; links are followed as far as they stay inside the workspace.
        path: Bytes,
        /// Permission bits; absent to keep those of the file that is replaced, or 0644.
        mode: Option<u32>,
        /// Whether to make the directories above it.
        parents: bool,
    },
    /// Describes a path, links not followed: [`Reply::Stat`].
    FileStat {
        /// Path to describe.
        path: Bytes,
    },
    /// Makes several changes, all or none: the contents follow one after the other as Stdin chunks, then
    /// [`ExecInput::Eof`].
    FileBatch(FileBatch),
    /// Unpacks a tar archive, all of it or nothing: Stdin chunks and [`ExecInput::Eof`] follow; [`Reply::Progress`]
    /// comes back about every megabyte, and [`Reply::Put`] as the last.
    TreePut(TreePut),
    /// Packs a file or directory as a tar archive: Stdout chunks, [`Reply::Got`].
    TreeGet {
        /// The file or directory; a link is not followed.
        path: Bytes,
    },
    /// Notes the present state of every file as a baseline: [`Reply::Baseline`]. All others but one are forgotten.
    BaselineTake {
        /// Name of the new baseline: at most 64 letters, digits and hyphens. Absent for the unnamed baseline.
        name: Option<String>,
        /// Name of the one other baseline that is kept; absent for the unnamed one.
        keep: Option<String>,
    },
    /// Lists the differences from a baseline: [`Reply::Changes`] as often as needed, then [`Reply::Scanned`].
    DiffScan {
        /// Name of the baseline; absent for the unnamed one.
        baseline: Option<String>,
    },
    /// Writes everything to the disk.
    Sync,
    /// Writes everything to the disk and holds up all writers: [`Reply::Done`] once the disk is frozen. The freeze ends
    /// with [`ExecInput::Eof`], with the stream, or after `max_ms`; then comes [`Reply::Thawed`].
    Freeze {
        /// Longest freeze, milliseconds; at most [`FREEZE_MS`].
        max_ms: u64,
    },
    /// Keeps a secret in memory, as `/run/pyro-secrets/NAME`.
    SecretPut {
        /// File name: at most 64 bytes of letters, digits, `_`, `-` and `.`, the first of them no `.`.
        name: String,
        /// The secret; at most 64 KiB.
        bytes: Bytes,
    },
}

/// Identity of a guest: all that tells it from its template and from other guests restored from that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestIdentity {
    /// The wall clock: nanoseconds since 1970 UTC, taken by the host just before sending.
    pub unix_time_ns: u64,
    /// Fresh randomness from the host, credited to the guest kernel.
    pub entropy: [u8; 32],
    /// The host name to take; at most 63 bytes of letters, digits and hyphens.
    pub hostname: String,
    /// `/etc/machine-id`, as 16 bytes.
    pub machine_id: [u8; 16],
    /// Number that no other start or restore has, for programs that must notice that they were copied: the guest
    /// finds it in `/run/pyro/generation`.
    pub generation: [u8; 16],
    /// Boot id to show instead of the kernel's, in a guest whose kernel may have made one before it was saved.
    /// Absent where nobody can have asked for it yet: the kernel makes a fresh one then.
    pub boot_id: Option<[u8; 16]>,
    /// Whether the guest is for this session alone: it powers off when the host closes the stream without having
    /// detached.
    pub oneshot: bool,
}

/// Request to run a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments, no shell in between; the program is looked up in the command's `PATH`.
    pub argv: Vec<Bytes>,
    /// Variables added to the guest's default environment; they replace variables of the same name.
    pub env: Vec<(Bytes, Bytes)>,
    /// Working directory; the guest's default (`/workspace`, else `/`) when absent.
    pub cwd: Option<Bytes>,
    /// User name or number, optionally `:group`; root when absent.
    pub user: Option<String>,
    /// Connection of the standard streams.
    pub stdio: ExecStdio,
    /// Milliseconds after which everything that the command started is killed; absent for no limit.
    pub timeout_ms: Option<u64>,
    /// Milliseconds to go on reading other processes' output once the main process has ended.
    pub drain_ms: u64,
}

/// Bytes that need not be text: Linux arguments and paths are not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

impl<T: AsRef<[u8]> + ?Sized> From<&T> for Bytes {
    fn from(bytes: &T) -> Self {
        Self(bytes.as_ref().to_vec())
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

/// Connection of a command's standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecStdio {
    /// Pipes for stdout and stderr; stdin is empty.
    Output,
    /// Pipes for stdout and stderr; stdin is fed by the host.
    Piped,
    /// Terminal of this size; its output comes on the stdout channel.
    Terminal(TerminalSize),
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Number of lines.
    pub rows: u16,
    /// Characters per line.
    pub cols: u16,
}

/// Messages from the host while a command runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecInput {
    /// Ends standard input.
    Eof,
    /// Sends this signal (a Linux signal number) to the command's process group.
    Signal(i32),
    /// Sets the size of the command's terminal.
    Resize(TerminalSize),
}

/// Messages from the guest while a command runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecEvent {
    /// The command runs, under this process id in the guest.
    Started {
        /// The guest's process id.
        pid: u32,
    },
    /// The command took so many more bytes of standard input (or closed it, and they were dropped).
    StdinConsumed {
        /// Bytes taken since the last such event.
        bytes: u32,
    },
    /// The command ended, and its output was read to the end or for `drain_ms` more.
    Exited(CommandExit),
    /// The command could not be started, or the guest lost hold of it.
    Failed(Failure),
}

/// End of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandExit {
    /// Exit code, or the signal that ended the command.
    pub status: ExitStatus,
    /// Whether the command was killed because its time was up.
    pub timed_out: bool,
    /// Time from start to end, microseconds.
    pub duration_us: u64,
    /// Whether processes that the command started still run.
    pub left_running: bool,
}

/// An exit code or a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// Exited with this code.
    Code(u8),
    /// Killed by this Linux signal number.
    Signal(u8),
}

/// Answer to any request but [`Request::Exec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The request was carried out.
    Done,
    /// To `Identify`: description of the agent that answers.
    Identified(AgentInfo),
    /// The request failed.
    Failed(Failure),
    /// A job runs.
    Started {
        /// The guest's process id.
        pid: u32,
    },
    /// Output of a job follows.
    Attached {
        /// First byte that follows, counted from the job's start. Above the requested one where older bytes are
        /// lost, below it where the job has not written so many.
        from: u64,
    },
    /// A job has ended, and all its output was read.
    Ended(CommandExit),
    /// Part of the input was taken, from its beginning.
    Taken {
        /// Number of bytes taken; zero where the program does not read.
        bytes: u32,
    },
    /// All jobs of the guest.
    Jobs(Vec<JobInfo>),
    /// Whether a service is ready.
    Probed(ProbeResult),
    /// Some of a directory's entries.
    Entries(Vec<FileEntry>),
    /// The listing is complete, or as long as it may be.
    Listed {
        /// Whether there are more entries.
        truncated: bool,
    },
    /// Description of a path.
    Stat(FileEntry),
    /// Entries and bytes unpacked so far.
    Progress(TreeTotals),
    /// A tree is in place; its totals.
    Put(TreeTotals),
    /// A tree was sent.
    Got {
        /// Entries and bytes sent.
        sent: TreeTotals,
        /// Sockets, pipes and devices that were left out.
        skipped: u64,
    },
    /// A baseline is stored.
    Baseline {
        /// Files, directories and links in the baseline.
        entries: u64,
    },
    /// Some differences, in order.
    Changes(Vec<FileChange>),
    /// The list of differences is complete.
    Scanned {
        /// Files, directories and links that were compared.
        entries: u64,
    },
    /// The freeze is over, and writing goes on.
    Thawed {
        /// Whether the time was up before the host ended the freeze.
        timed_out: bool,
    },
    /// To `Clock`: the wall clock, nanoseconds since 1970 UTC.
    Clock(u64),
}

/// Description that a guest gives of itself. Informative only: nothing on the host may depend on its truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// The agent's version.
    pub version: String,
    /// The guest kernel's release.
    pub kernel: String,
    /// Whether the agent is PID 1 of a guest whose root filesystem and disk are mounted.
    pub root_ready: bool,
    /// Failure that kept the root from being set up; absent where there was none.
    pub root_problem: Option<Failure>,
}

/// Failure of a call, as data: it crosses the wall and is worded at the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Kind of the failure.
    pub kind: FailureKind,
    /// Step that failed, such as `exec` or `mount`; a single word.
    pub stage: String,
    /// Linux error number, where there is one.
    pub errno: Option<i32>,
    /// Description of the failed step and its object, in one line.
    pub message: String,
}

/// Closed set of ways in which the guest fails a call; matched without `_`, so that a new kind is met everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The program does not exist (a shell would say 127).
    NotFound,
    /// The program exists but cannot be executed (126).
    NotExecutable,
    /// The working directory cannot be entered.
    BadDirectory,
    /// No such user or group in the guest.
    NoSuchUser,
    /// The request makes no sense: no argument vector, a NUL inside an argument, a bad host name.
    BadRequest,
    /// The argument list is longer than Linux allows.
    TooLong,
    /// The guest is out of processes, memory, files or disk.
    Exhausted,
    /// The guest cannot do this.
    Unsupported,
    /// Any other failure; `errno` and `message` say more.
    Internal,
    /// The path is a directory.
    IsDirectory,
    /// The path, or something on the way to it, is not a directory.
    NotDirectory,
    /// The path leads out of the workspace.
    OutsideWorkspace,
    /// A limit on entries or bytes was exceeded.
    TooLarge,
    /// The path, job or name exists already.
    Exists,
    /// The disk is full.
    NoSpace,
    /// The directory is not empty.
    NotEmpty,
    /// The operation is not possible on a socket, a pipe or a device.
    NotRegular,
    /// The archive is broken, or has an entry that is refused.
    BadArchive,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{decode, encode};
    use std::fmt::Write;

    /// Every kind, found by decoding one number after the other: a new kind has its samples without being listed.
    fn failure_kinds() -> Vec<FailureKind> {
        (0..u8::MAX).map_while(|number| postcard::from_bytes(&[number]).ok()).collect()
    }

    /// Name of a kind in the frozen schema.
    fn name(kind: FailureKind) -> &'static str {
        match kind {
            FailureKind::NotFound => "NotFound",
            FailureKind::NotExecutable => "NotExecutable",
            FailureKind::BadDirectory => "BadDirectory",
            FailureKind::NoSuchUser => "NoSuchUser",
            FailureKind::BadRequest => "BadRequest",
            FailureKind::TooLong => "TooLong",
            FailureKind::Exhausted => "Exhausted",
            FailureKind::Unsupported => "Unsupported",
            FailureKind::Internal => "Internal",
            FailureKind::IsDirectory => "IsDirectory",
            FailureKind::NotDirectory => "NotDirectory",
            FailureKind::OutsideWorkspace => "OutsideWorkspace",
            FailureKind::TooLarge => "TooLarge",
            FailureKind::Exists => "Exists",
            FailureKind::NoSpace => "NoSpace",
            FailureKind::NotEmpty => "NotEmpty",
            FailureKind::NotRegular => "NotRegular",
            FailureKind::BadArchive => "BadArchive",
        }
    }

    fn samples() -> Vec<(&'static str, Vec<u8>)> {
        let failure = |kind| Failure { kind, stage: "exec".into(), errno: Some(2), message: "no".into() };
        let exec = |stdio| {
            Request::Exec(ExecRequest {
                argv: vec!["a b".into(), b"\xff\n".into()],
                env: vec![("K".into(), "V".into())],
                cwd: Some("/w".into()),
                user: Some("root".into()),
                stdio,
                timeout_ms: Some(30_000),
                drain_ms: 100,
            })
        };
        let size = TerminalSize { rows: 30, cols: 120 };
        let exit = |status| {
            ExecEvent::Exited(CommandExit {
                status,
                timed_out: true,
                duration_us: 70_000,
                left_running: true,
            })
        };
        let identity = GuestIdentity {
            unix_time_ns: 1_700_000_000_000_000_000,
            entropy: [7; 32],
            hostname: "pyro".into(),
            machine_id: [8; 16],
            generation: [9; 16],
            boot_id: Some([10; 16]),
            oneshot: true,
        };
        let info = AgentInfo {
            version: "1".into(),
            kernel: "6.1".into(),
            root_ready: false,
            root_problem: Some(failure(FailureKind::Internal)),
        };
        macro_rules! sample {
            ($($value:expr),* $(,)?) => { vec![$((stringify!($value), encode(&$value).unwrap())),*] };
        }
        let mut all = sample![
            Request::Identify(identity),
            exec(ExecStdio::Output),
            exec(ExecStdio::Piped),
            exec(ExecStdio::Terminal(size)),
            Request::Ping,
            Request::Detach,
            Request::Shutdown,
            Request::Clock(-1_700_000_000),
            Request::Assemble,
            ExecInput::Eof,
            ExecInput::Signal(15),
            ExecInput::Resize(size),
            ExecEvent::Started { pid: 300 },
            ExecEvent::StdinConsumed { bytes: 65_536 },
            exit(ExitStatus::Code(3)),
            exit(ExitStatus::Signal(9)),
            Reply::Done,
            Reply::Identified(info),
            Reply::Clock(1_700_000_000_000_000_000),
        ];
        all.extend(crate::samples::workspace());
        for kind in failure_kinds() {
            all.push((name(kind), encode(&Reply::Failed(failure(kind))).unwrap()));
            all.push((name(kind), encode(&ExecEvent::Failed(failure(kind))).unwrap()));
        }
        all
    }

    /// The frozen schema: a change of any byte on the wire needs a new generation and a new file.
    #[test]
    fn encodings_are_frozen() {
        let mut text =
            format!("# Generation {}: one sample of every message, as framed bytes.\n", crate::GENERATION);
        for (name, bytes) in samples() {
            let hex: String = bytes.iter().fold(String::new(), |mut out, byte| {
                let _ = write!(out, "{byte:02x}");
                out
            });
            let _ = writeln!(text, "{name}\n  {hex}");
        }
        let path = format!("{}/schema/generation-{}.txt", env!("CARGO_MANIFEST_DIR"), crate::GENERATION);
        if std::env::var_os("PYRO_FREEZE_SCHEMA").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let frozen = std::fs::read_to_string(&path).unwrap();
        assert!(
            text == frozen,
            "the wire changed: raise GENERATION, then PYRO_FREEZE_SCHEMA=1 writes {path}"
        );
    }

    #[test]
    fn samples_decode() {
        for (name, bytes) in samples() {
            let body = &bytes[crate::frame::HEADER..];
            assert!(
                decode::<Request>(body).is_ok()
                    || decode::<ExecInput>(body).is_ok()
                    || decode::<ExecEvent>(body).is_ok()
                    || decode::<Reply>(body).is_ok(),
                "{name}"
            );
        }
    }
}
