//! What is said: the first message of a stream is a [`Request`], and what follows depends on it.
//!
//! ```text
//!   Identify, Clock, Assemble, Ping, Detach, Shutdown:  one Reply, then the stream ends
//!   Exec:  host -> guest  Stdin chunks and ExecInput messages
//!          guest -> host  Stdout and Stderr chunks and ExecEvent messages; Exited or Failed is the last
//!   all others: what each says beside it; from the guest Reply messages and chunks, Failed at any time the last
//! ```
//!
//! The host abandons a call by dropping its stream, or by ending its half of it: the guest then kills everything the
//! call started. Where input has an end, that is said with [`ExecInput::Eof`].
//! Enum variants are encoded by position: add at the end, and raise [`crate::GENERATION`].

use serde::{Deserialize, Serialize};

pub use crate::files::*;
pub use crate::jobs::*;

/// Most bytes of standard input that may be on their way and not consumed by the command yet: above it the host
/// waits for [`ExecEvent::StdinConsumed`], so that signals never queue behind input nobody reads.
pub const STDIN_WINDOW: usize = 256 * 1024;

/// How a stream begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who the guest is from now on; always the first call of a session.
    Identify(GuestIdentity),
    /// Run a command.
    Exec(ExecRequest),
    /// Are you there?
    Ping,
    /// End this session and listen for a new one: sent before the guest's state is saved.
    Detach,
    /// Stop all processes, unmount, power off.
    Shutdown,
    /// Move the wall clock by so many nanoseconds, which may be none, and say what it is then. The host asks as often as it
    /// takes to know how far off the clock is, whatever a message takes on its way.
    Clock(i64),
    /// Mount the writable disk and assemble the root, in a guest that was told at its boot to wait for this.
    Assemble,
    /// Start a job: a command that belongs to no stream and no session.
    JobStart(JobStart),
    /// Follow what a job writes: one [`Reply::Attached`], Stdout and Stderr chunks, [`Reply::Ended`] as the last.
    ///
    /// Who follows and does not read holds the job up once a megabyte waits: what is followed is not lost.
    JobAttach {
        /// Which.
        id: JobId,
        /// From which byte on, counted from the job's start over both of its streams.
        cursor: u64,
    },
    /// Bytes for a terminal job; answered by [`Reply::Taken`].
    JobInput {
        /// Which.
        id: JobId,
        /// At most [`JOB_INPUT`] of them.
        bytes: Bytes,
    },
    /// A job's terminal has a new size.
    JobResize {
        /// Which.
        id: JobId,
        /// Its size.
        size: TerminalSize,
    },
    /// Sends a signal to what is in the foreground of a job's terminal, as if the person had typed it; to the process group
    /// of the job's first process where there is no terminal.
    JobSignal {
        /// The job.
        id: JobId,
        /// A Linux signal number.
        signal: i32,
    },
    /// End a job and all that it started: TERM, and KILL for what is left after `grace_ms`. Answered when all of it is
    /// gone, by [`Reply::Ended`]; goes on when nobody waits for that.
    JobStop {
        /// Which.
        id: JobId,
        /// Milliseconds between TERM and KILL.
        grace_ms: u64,
    },
    /// Which jobs there are: [`Reply::Jobs`].
    JobList,
    /// Drop a job that has ended, and what is kept of it. What it left behind lives on.
    JobForget {
        /// Which.
        id: JobId,
    },
    /// Is a service ready? Answered by [`Reply::Probed`], within [`PROBE_MS`].
    Probe(ServiceProbe),
    /// What is in a directory: [`Reply::Entries`] as often as needed, then [`Reply::Listed`].
    FileList {
        /// The directory, or one file.
        path: Bytes,
        /// Whether also what is below its directories.
        recursive: bool,
    },
    /// One file's content: [`Reply::Stat`], Stdout chunks, [`Reply::Done`].
    FileRead {
        /// Which; links are followed as far as they stay inside.
        path: Bytes,
        /// From which byte on.
        offset: u64,
        /// At most so many bytes.
        limit: u64,
    },
    /// Replaces one file's content at once, or makes the file: Stdin chunks and [`ExecInput::Eof`] follow, and
    /// [`Reply::Stat`] comes back.
    FileWrite {
        /// Which; links are followed as far as they stay inside.
        path: Bytes,
        /// Its permissions; absent to keep those of the file that is there, or 0644.
        mode: Option<u32>,
        /// Whether to make the directories above it.
        parents: bool,
    },
    /// What a path is, links not followed: [`Reply::Stat`].
    FileStat {
        /// Which.
        path: Bytes,
    },
    /// Several changes, all or none: the contents follow one after the other as Stdin chunks, then
    /// [`ExecInput::Eof`].
    FileBatch(FileBatch),
    /// A tar archive to be unpacked, all of it or nothing: Stdin chunks and [`ExecInput::Eof`] follow; back come
    /// [`Reply::Progress`] now and then and at last [`Reply::Put`].
    TreePut(TreePut),
    /// A file or directory as a tar archive: Stdout chunks, [`Reply::Got`].
    TreeGet {
        /// Which; a link is not followed.
        path: Bytes,
    },
    /// Notes the present state of every file as a baseline: [`Reply::Baseline`]. All others but one are forgotten.
    BaselineTake {
        /// What it is called: at most 64 letters, digits and hyphens. Absent for the one without a name.
        name: Option<String>,
        /// Which other one is kept, in the same way.
        keep: Option<String>,
    },
    /// What differs from a baseline: [`Reply::Changes`] as often as needed, then [`Reply::Scanned`].
    DiffScan {
        /// Which one.
        baseline: Option<String>,
    },
    /// Writes everything to the disk.
    Sync,
    /// Writes everything to the disk and holds up whoever wants to write: [`Reply::Done`] when it is so. It ends with
    /// [`ExecInput::Eof`], with the stream, or after `max_ms`; then comes [`Reply::Thawed`].
    Freeze {
        /// Milliseconds, at most [`FREEZE_MS`].
        max_ms: u64,
    },
    /// Keeps a secret in memory, as `/run/pyro-secrets/NAME`.
    SecretPut {
        /// At most 64 bytes of letters, digits, `_`, `-` and `.`, the first of them no `.`.
        name: String,
        /// At most 64 KiB.
        bytes: Bytes,
    },
}

/// The identity that makes a guest itself and nobody's twin.
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
    /// A number that no other start or restore has, for programs that must notice that they were copied: the guest
    /// finds it in `/run/pyro/generation`.
    pub generation: [u8; 16],
    /// A boot id to show instead of the kernel's, in a guest whose kernel may have made one before it was saved.
    /// Absent where nobody can have asked for it yet: the kernel makes a fresh one then.
    pub boot_id: Option<[u8; 16]>,
    /// Whether the guest is for this session alone: it powers off when the host closes the stream without having
    /// detached.
    pub oneshot: bool,
}

/// A command to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments, no shell in between; the program is looked up in the command's `PATH`.
    pub argv: Vec<Bytes>,
    /// Added to the guest's default environment, replacing what has the same name.
    pub env: Vec<(Bytes, Bytes)>,
    /// Working directory; the guest's default (`/workspace`, else `/`) when absent.
    pub cwd: Option<Bytes>,
    /// User name or number, optionally `:group`; root when absent.
    pub user: Option<String>,
    /// Where standard streams go.
    pub stdio: ExecStdio,
    /// Kill everything the command started after so many milliseconds.
    pub timeout_ms: Option<u64>,
    /// Once the main process has ended, how many milliseconds to go on reading what others still write.
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

/// How a command's standard streams are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecStdio {
    /// Separate stdout and stderr; stdin is empty.
    Output,
    /// Separate stdout and stderr; stdin is fed by the host.
    Piped,
    /// A terminal of this size; its output comes on the stdout channel.
    Terminal(TerminalSize),
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub cols: u16,
}

/// What the host may say while a command runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecInput {
    /// No more standard input.
    Eof,
    /// Send this signal (a Linux signal number) to the command's process group.
    Signal(i32),
    /// The person's terminal has a new size.
    Resize(TerminalSize),
}

/// What the guest says while a command runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecEvent {
    /// The command runs, under this process id in the guest.
    Started {
        /// The guest's process id.
        pid: u32,
    },
    /// The command took so many more bytes of standard input (or closed it, and they were dropped).
    StdinConsumed {
        /// How many, since the last such event.
        bytes: u32,
    },
    /// The command ended, and its output was read to the end or for `drain_ms` more.
    Exited(CommandExit),
    /// The command could not be started, or the guest lost hold of it.
    Failed(Failure),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandExit {
    /// Its exit code, or the signal that ended it.
    pub status: ExitStatus,
    /// Whether it was killed because its time was up.
    pub timed_out: bool,
    /// From its start to its end, microseconds.
    pub duration_us: u64,
    /// Whether processes that it started still run.
    pub left_running: bool,
}

/// An exit code or a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// It was killed by this Linux signal number.
    Signal(u8),
}

/// The answer to a request that is not `Exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// To `Identify`: what answers here.
    Identified(AgentInfo),
    /// It could not be done.
    Failed(Failure),
    /// A job runs.
    Started {
        /// The guest's process id.
        pid: u32,
    },
    /// Output of a job follows.
    Attached {
        /// The first byte that follows, counted from the job's start. Above what was asked for where older bytes are
        /// lost, below it where the job has not written so many.
        from: u64,
    },
    /// A job has ended, and its output is read.
    Ended(CommandExit),
    /// So many bytes of input were taken, the first ones.
    Taken {
        /// None at all where the program does not read.
        bytes: u32,
    },
    /// All jobs.
    Jobs(Vec<JobInfo>),
    /// Whether a service is ready.
    Probed(ProbeResult),
    /// Some of a directory's entries.
    Entries(Vec<FileEntry>),
    /// All entries were told, or as many as may be.
    Listed {
        /// Whether there are more.
        truncated: bool,
    },
    /// What a file is.
    Stat(FileEntry),
    /// So much has come.
    Progress(TreeTotals),
    /// A tree is in place.
    Put(TreeTotals),
    /// A tree was sent.
    Got {
        /// What was sent.
        sent: TreeTotals,
        /// Sockets, pipes and devices, which were not.
        skipped: u64,
    },
    /// A baseline is noted.
    Baseline {
        /// Files, directories and links in it.
        entries: u64,
    },
    /// Some differences, in order.
    Changes(Vec<FileChange>),
    /// All differences were told.
    Scanned {
        /// Files, directories and links that were looked at.
        entries: u64,
    },
    /// Writing goes on.
    Thawed {
        /// Whether the time was up before the host said so.
        timed_out: bool,
    },
    /// To `Clock`: the wall clock, nanoseconds since 1970 UTC.
    Clock(u64),
}

/// What a guest says of itself. Informative only: nothing on the host may depend on its truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// The agent's version.
    pub version: String,
    /// The guest kernel's release.
    pub kernel: String,
    /// Whether the agent is PID 1 of a guest whose root filesystem and disk are mounted.
    pub root_ready: bool,
    /// What happened when the root was set up, where it is not ready.
    pub root_problem: Option<Failure>,
}

/// A failure as data: it crosses the wall and is worded at the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// The step that failed, such as `exec` or `mount`; a single word.
    pub stage: String,
    /// The Linux error number, where there is one.
    pub errno: Option<i32>,
    /// What failed, on what, in one line.
    pub message: String,
}

/// The closed set of ways in which the guest fails a call.
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
    /// Anything else; `errno` and `message` say more.
    Internal,
    /// The path is a directory.
    IsDirectory,
    /// The path, or something on the way to it, is not a directory.
    NotDirectory,
    /// The path leads out of the workspace.
    OutsideWorkspace,
    /// More than may be.
    TooLarge,
    /// It exists already.
    Exists,
    /// The disk is full.
    NoSpace,
    /// The directory is not empty.
    NotEmpty,
    /// The file is none that this can be done with: a socket, a pipe, a device.
    NotRegular,
    /// The archive is broken, or holds what is refused.
    BadArchive,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{decode, encode};
    use std::fmt::Write;

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
        use FailureKind::*;
        for (name, kind) in [
            ("NotFound", NotFound),
            ("NotExecutable", NotExecutable),
            ("BadDirectory", BadDirectory),
            ("NoSuchUser", NoSuchUser),
            ("BadRequest", BadRequest),
            ("TooLong", TooLong),
            ("Exhausted", Exhausted),
            ("Unsupported", Unsupported),
            ("Internal", Internal),
            ("IsDirectory", IsDirectory),
            ("NotDirectory", NotDirectory),
            ("OutsideWorkspace", OutsideWorkspace),
            ("TooLarge", TooLarge),
            ("Exists", Exists),
            ("NoSpace", NoSpace),
            ("NotEmpty", NotEmpty),
            ("NotRegular", NotRegular),
            ("BadArchive", BadArchive),
        ] {
            all.push((name, encode(&Reply::Failed(failure(kind))).unwrap()));
            all.push((name, encode(&ExecEvent::Failed(failure(kind))).unwrap()));
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
